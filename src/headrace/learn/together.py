"""What a learner shares with the other ranks of sharded tables: numbers of examples, losses, dense gradients, changes.

Every rank learns from its own part of a batch, and all take one step together: the one that a learner alone would have
taken from the whole batch, up to the rounding of sums. Alone, everything here is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from headrace.errors import DataError, VersionError
from headrace.store.ranks import Array, Ranks
from headrace.types import Batch, Change, RowChange


class Together:
    """One rank among those that learn together.

    Args:
        ranks: The ranks of the collection's sharded tables; None: a learner alone.
    """

    knows_loss = True
    """Whether `mean` is the loss of all ranks already; else `add_gradients` returns it."""

    def __init__(self, ranks: Ranks | None) -> None:
        self._ranks = ranks or Ranks.alone()

    def any(self, flag: bool) -> bool:
        """Return whether a rank has set the flag."""
        return self._ranks.any([flag])[0]

    @property
    def several(self) -> bool:
        """Whether there are other ranks."""
        return self._ranks.size > 1

    def seed(self, seed: int) -> int:
        """Return the seed of this rank's own random numbers, so that ranks drop different units."""
        return seed + 1_000_003 * self._ranks.rank

    def random(self, state: Tensor) -> Tensor:
        """Return the state that random numbers of the next step are drawn from, given that after the last one."""
        return state

    def examples(self, batch: Batch) -> int:
        """Return the number of examples on all ranks.

        Raises:
            DataError: On every rank, if one has none.
        """
        if not self.several:
            least = total = len(batch)
        else:
            found = self._ranks.sum(torch.tensor([len(batch), int(not len(batch))]))
            total, least = int(found[0]), int(found[1] == 0)
        if not least:
            raise DataError("Learner, batch", got="no examples", expected="at least one, on every rank",
                            do="Skip empty batches.")  # fmt: skip
        return total

    def mean(self, loss: Tensor, rows: int, examples: int) -> Tensor:
        """Return the mean loss over the examples of all ranks, given the mean over this rank's rows."""
        return self._ranks.sum(loss * rows) / examples if self.several else loss

    def add_gradients(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Replace the dense gradients by their sums over ranks, None where no rank has one; return the loss of all."""
        if not self.several:
            return loss
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        flowed = self._ranks.any([parameter.grad is not None for parameter in learned])
        moved = [parameter for parameter, some in zip(learned, flowed, strict=True) if some]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._ranks.sum_into([parameter.grad for parameter in moved if parameter.grad is not None])
        return loss

    @contextmanager
    def agreed(self, batch: Batch | None) -> Iterator[None]:
        """Let tables take their update inside; at the end it is sure that all ranks take the step, or it raises."""
        yield

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Replace running statistics by their means over ranks."""
        if not self.several:
            return
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._ranks.sum_into(buffers)
        for buffer in buffers:
            buffer.div_(self._ranks.size)

    def newest(self, times: Tensor) -> int:
        """Return the newest event time on any rank."""
        newest = times.max().reshape(1)
        return int(self._ranks.max(newest) if self.several else newest)


def gathered(change: Change, ranks: Ranks) -> Change | None:
    """Put the changes of all ranks together, on rank 0, to be published there; None on the others. Collective.

    Rows are those of all shards, dense tensors and `loss` the same everywhere, times of all ranks; `example_offset` is
    the number of examples learned on all ranks.

    Args:
        change: What `RankLearner.changes` returned here, on every rank for the same version.
        ranks: The ranks.

    Raises:
        VersionError: If the ranks bring different versions.
    """
    if not ranks.agree(change.version.number):
        raise VersionError("Ranks, changes", got=f"version {change.version.number} here and another elsewhere",
                           expected="one version", do="Ask for changes after the same step on every rank.")  # fmt: skip
    tables = {name: _rows(rows, ranks) for name, rows in sorted(change.tables.items())}
    notes = dict(change.notes)
    for name in sorted(notes.keys() - {"loss"}):
        found = _to_first(notes[name].numpy(), ranks)
        notes[name] = torch.from_numpy(np.concatenate(found))
    notes["example_offset"] = notes["example_offset"].sum().reshape(1)
    return replace(change, tables=tables, notes=notes) if ranks.rank == 0 else None


def _to_first(array: Array, ranks: Ranks) -> list[Array]:
    """Send an array (N,) to rank 0 and return what came here, by rank."""
    return ranks.exchange([array if rank == 0 else array[:0] for rank in range(ranks.size)])


def _rows(rows: RowChange, ranks: Ranks) -> RowChange:
    ids, removed = (np.concatenate(_to_first(part.numpy(), ranks)) for part in (rows.ids, rows.removed))
    flat = np.concatenate(_to_first(rows.rows.numpy().reshape(-1), ranks))
    order = np.argsort(ids)
    found = flat.reshape(len(ids), rows.rows.shape[1])[order]
    return RowChange(torch.from_numpy(ids[order]), torch.from_numpy(found), torch.from_numpy(np.sort(removed)))
