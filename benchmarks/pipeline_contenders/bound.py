"""The bound: our network fed with ready embeddings; forward, backward (their gradients too) and the dense update."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headrace.data.example_files import ExampleFiles
from headrace.objectives import LogLoss
from headrace.types import Batch
from pipeline_contenders.networks import network, schema, weights, width
from pipeline_contenders.protocol import serve, timed
from pipeline_contenders.work import EPS, PARQUET, PAST, Case

READY = 4
"""Batches in memory, used in turn."""


class Ready(nn.Module):
    """Rows that are there already, and ask for gradients."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._case, self.rows = case, dict[str, Tensor]()
        self._draw = torch.Generator().manual_seed(1)

    def prepare(self, batch: Batch) -> dict[str, Tensor]:
        """Return rows for a batch."""
        case, found = self._case, dict[str, Tensor]()
        for name in case.lookups:
            rows = len(batch.ids[name].values) if name == PAST else len(batch)
            found[name] = torch.empty(rows, width(case)).uniform_(-0.01, 0.01, generator=self._draw).requires_grad_()
        return found

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rows; those of the right widths for a batch without examples."""
        return self.rows if len(batch) else dict.fromkeys(self._case.lookups, torch.zeros(0, width(self._case)))


class Bound:
    """The network, and a few batches with their rows."""

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        self._embed = Ready(case)
        self._model = network(case, self._embed)
        self._optimizer = torch.optim.Adagrad(self._model.parameters(), lr=case.lr, eps=EPS)
        self._loss, self.weights = LogLoss(), weights(self._model)
        batches = ExampleFiles(folder / PARQUET, schema(case)).batches(case.batch)
        ready = [(batch, self._embed.prepare(batch)) for batch in itertools.islice(batches, READY)]
        self._turns = itertools.cycle(ready)

    def _step(self) -> None:
        batch, rows = next(self._turns)
        self._embed.rows = rows
        self._optimizer.zero_grad(set_to_none=True)
        for row in rows.values():
            row.grad = None
        self._loss(self._model, batch).total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def train(self, steps: int) -> float:
        """Make steps."""
        return timed(self._step, steps)


if __name__ == "__main__":
    serve(Bound)
