"""Clicks on their way: those that will happen, or happened and have not arrived yet, in order of arrival."""

from __future__ import annotations

import numpy as np
import torch

from headrace.errors import DataError
from headrace.feedback.randomness import Ints
from headrace.types import State

COLUMNS = ("arrivals", "times", "requests", "items")


class PendingClicks:
    """An ordered store of clicks; ties of arrival are broken by request and item, so the order is always the same.

    Cost: O(waiting + added) per push, O(taken) per pop.
    """

    def __init__(self) -> None:
        self._rows = np.zeros((len(COLUMNS), 0), dtype=np.int64)

    def __len__(self) -> int:
        return int(self._rows.shape[1])

    def push(self, arrivals: Ints, times: Ints, requests: Ints, items: Ints) -> None:
        """Add clicks: when they arrive and happen (µs), on which request and item. Shapes: each (N,)."""
        rows = np.concatenate([self._rows, np.stack([arrivals, times, requests, items]).astype(np.int64)], axis=1)
        self._rows = rows[:, np.lexsort((rows[3], rows[2], rows[0]))]

    def pop(self, until: int | None) -> dict[str, Ints]:
        """Take out the clicks that arrive at or before `until` (None: all), in order, as columns."""
        count = len(self) if until is None else int(np.searchsorted(self._rows[0], until, side="right"))
        taken, self._rows = self._rows[:, :count], self._rows[:, count:]
        return dict(zip(COLUMNS, taken, strict=True))

    def state(self) -> State:
        """Return the waiting clicks."""
        return {"rows": torch.from_numpy(np.ascontiguousarray(self._rows).copy())}

    def restore(self, state: State) -> None:
        """Continue with these clicks."""
        rows = state.get("rows")
        if not isinstance(rows, torch.Tensor) or rows.dim() != 2 or rows.shape[0] != len(COLUMNS):
            raise DataError("Pending clicks", got=type(rows).__name__, expected=f"a ({len(COLUMNS)}, N) int64 tensor")
        self._rows = rows.to(torch.int64).numpy().copy()
