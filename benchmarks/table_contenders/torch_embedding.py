"""The peer every PyTorch user has: `nn.Embedding(sparse=True)` with `torch.optim.Adagrad`, or `SparseAdam`.

Options: `layout` is `tables` (26 of them) or `one` (a single table, ids shifted by the feature's first row); `rule` is
`adagrad` or `adam`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from table_contenders.protocol import serve
from table_contenders.workload import INITIAL_ACCUMULATOR, LR, Floats, Ids, Material


class TorchEmbedding:
    """Tables, optimiser, and ids as tensors."""

    def __init__(self, material: Material, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        work = material.work
        self._one, self._rows_each = options["layout"] == "one", work.rows_each
        ids, grads = torch.from_numpy(material.ids), torch.from_numpy(material.grads)
        sizes = [work.rows_each] * work.features
        if self._one:  # the shift is part of preparing data, so it is not timed
            first = torch.arange(work.features)[:, None] * work.rows_each
            self._ids: list[list[Tensor]] = [[batch + first] for batch in ids]
            self._grads, sizes = [grads], [sum(sizes)]
        else:
            self._ids = [list(batch) for batch in ids]
            self._grads = list(grads)
        self._tables = [
            nn.Embedding(size, work.dim, sparse=True, _weight=torch.empty(size, work.dim)) for size in sizes
        ]
        with torch.no_grad():
            pattern = torch.from_numpy(material.rows(0, work.rows_each))
            for table in self._tables:
                table.weight.view(-1, *pattern.shape)[:] = pattern
        parameters = [table.weight for table in self._tables]
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SparseAdam(parameters, lr=LR) if options["rule"] == "adam"
            else torch.optim.Adagrad(parameters, lr=LR, initial_accumulator_value=INITIAL_ACCUMULATOR)
        )  # fmt: skip

    def train(self, batch: int) -> None:
        """Make one ordinary step."""
        self._optimizer.zero_grad(set_to_none=True)
        outputs = [table(ids) for table, ids in zip(self._tables, self._ids[batch], strict=True)]
        torch.autograd.backward(outputs, self._grads)
        self._optimizer.step()

    @torch.no_grad()
    def lookup(self, batch: int) -> None:
        """Look up one batch."""
        for table, ids in zip(self._tables, self._ids[batch], strict=True):
            table(ids)

    def rows(self, feature: int, ids: Ids) -> Floats:
        """Return rows of one feature."""
        table = self._tables[0 if self._one else feature]
        first = feature * self._rows_each if self._one else 0
        found: Floats = table.weight.detach()[torch.from_numpy(ids) + first].numpy()
        return found

    def use_threads(self, count: int) -> None:
        """Set torch's threads."""
        torch.set_num_threads(count)


if __name__ == "__main__":
    serve(TorchEmbedding)
