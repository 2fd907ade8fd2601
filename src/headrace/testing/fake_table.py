"""A table small enough to read in a minute, for tests of what stands on tables."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.errors import RowRuleMismatch, StaleError, StoreError
from headrace.testing.plain import copied_state
from headrace.types import RowChange, State


class DictTable:
    """The smallest right table: a dict, Adagrad, admission by count, and a history that can be forgotten.

    Args:
        dim: Floats per row.
        admit_at: Occurrences at which an id gets its row.
        seed: Of the initial rows.
    """

    def __init__(self, dim: int = 4, admit_at: int = 1, *, seed: int = 0) -> None:
        self.dim, self.admit_at, self.seed = dim, admit_at, seed
        self.rows: dict[int, Tensor] = {}
        self.slots: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}
        self.times: dict[int, int] = {}
        self.put: dict[int, int] = {}
        self.gone: dict[int, int] = {}
        self.now, self.floor = 0, 0

    def initial(self, number: int) -> Tensor:
        """Return the initial row of an id, (D,)."""
        generator = torch.Generator().manual_seed((number * 1_000_003 + self.seed) % 2**63)
        return torch.rand(self.dim, generator=generator) * 0.1

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D)."""
        rows = [self.rows[i] if i in self.rows else self.initial(i) for i in ids.tolist()]
        return torch.stack(rows) if rows else torch.zeros(0, self.dim)

    def update(self, ids: Tensor, grads: Tensor, counts: Tensor, times: Tensor) -> None:
        """Learn one step."""
        if grads.shape != (len(ids), self.dim):
            raise StoreError("DictTable", got=f"gradient {tuple(grads.shape)}", expected=f"({len(ids)}, {self.dim})")
        self.now += 1
        for i, grad, count, time in zip(ids.tolist(), grads, counts.tolist(), times.tolist(), strict=True):
            self.touch(i, grad, count, time)

    def touch(self, i: int, grad: Tensor, count: int, time: int) -> None:
        """Count one id, insert it when it is admitted, and let it learn."""
        self.times[i] = max(self.times.get(i, time), time)
        self.counts[i] = self.counts.get(i, 0) + count
        if i not in self.rows:
            if self.counts[i] < self.admit_at:
                return
            self.rows[i], self.slots[i] = self.initial(i), torch.full((self.dim,), 0.1)
            self.gone.pop(i, None)
        self.slots[i] = self.slots[i] + grad**2
        self.rows[i] = self.rows[i] - 0.1 * grad / self.slots[i].sqrt()
        self.put[i] = self.now

    def changes(self, since: int) -> RowChange:
        """Return rows put and ids removed after a mark."""
        if since < self.floor:
            raise StaleError("DictTable: changes", got=f"since {since}", expected=f"since {self.floor} or later")
        put, gone = ([i for i, at in kept.items() if at > since] for kept in (self.put, self.gone))
        ids = torch.tensor(sorted(put), dtype=torch.int64)
        return RowChange(ids, self.lookup(ids), torch.tensor(sorted(gone), dtype=torch.int64))

    def mark(self) -> int:
        """Return the number of updates and evictions so far."""
        return self.now

    def evict(self, before: int) -> int:
        """Remove what was last touched before a time."""
        self.now += 1
        old = [i for i, time in self.times.items() if time < before]
        removed = [i for i in old if i in self.rows]
        for i in old:
            for kept in (self.rows, self.slots, self.counts, self.times, self.put):
                kept.pop(i, None)
        self.gone.update(dict.fromkeys(removed, self.now))
        return len(removed)

    def forget(self, mark: int) -> None:
        """Drop the history up to a mark."""
        self.floor, self.gone = mark, {i: at for i, at in self.gone.items() if at > mark}

    def state(self) -> State:
        """Return everything."""
        kept = ("rows", "slots", "counts", "times", "put", "gone")
        dicts: State = {name: {str(i): value for i, value in getattr(self, name).items()} for name in kept}
        return copied_state({**dicts, "now": self.now, "floor": self.floor, "dim": self.dim, "seed": self.seed})

    def restore(self, state: State) -> None:
        """Continue; refuses rows of another dimension or seed."""
        if (state["dim"], state["seed"]) != (self.dim, self.seed):
            expected = f"dim {self.dim}, seed {self.seed}"
            raise RowRuleMismatch("DictTable", got="the state of another table", expected=expected)
        for name, values in copied_state(state).items():
            whole = {int(i): value for i, value in values.items()} if isinstance(values, dict) else values
            setattr(self, name, whole)
