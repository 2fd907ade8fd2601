"""GAUC and ranking metrics of a stream whose groups come in any order: exact while few, sampled by group beyond."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from headrace.config import require
from headrace.errors import ConfigError
from headrace.evaluate.metrics import Floats
from headrace.evaluate.order import Integers, areas, encode, ties
from headrace.evaluate.ranking import RANKING, GroupValues, values_of_lists
from headrace.types import State

Keys = npt.NDArray[np.uint64]
FULL = 1 << 64


class StreamingGroups:
    """Rows of groups, kept until they are too many; then whole groups are dropped, half of them at a time.

    Whether a group is kept depends only on its key, so a group is kept whole or not at all, also across streams that
    are merged. What is kept is a random sample of the groups, and the mean over it an unbiased one.

    Args:
        k: Places of a list that count.
        max_rows: Rows kept at most (33 bytes each); one group larger than that is kept whole.
    """

    def __init__(self, *, k: int = 10, max_rows: int = 1_000_000) -> None:
        require(k >= 1, "k", got=k, expected="a positive number of places")
        require(max_rows >= 1, "max_rows", got=max_rows, expected="a positive number of rows")
        self.k, self.max_rows = k, max_rows
        self._below = FULL  # keys below this are kept
        self._parts: list[tuple[Keys, Floats]] = []  # keys (n,) and label, probability, weight (3, n)
        self._rows = 0

    @property
    def share(self) -> float:
        """The share of groups that is kept."""
        return self._below / FULL

    @property
    def seen(self) -> int:
        """How many groups there were; an estimate once some were dropped."""
        keys, _ = self._all()
        return round(len(np.unique(keys)) / self.share)

    def update(self, labels: Floats, probabilities: Floats, weights: Floats, keys: Keys) -> None:
        """Count checked rows; `keys` from `group_keys`."""
        kept = keys < self._below if self._below < FULL else np.ones(len(keys), bool)
        self._parts.append((keys[kept], np.stack([labels, probabilities, weights])[:, kept]))
        self._rows += int(np.count_nonzero(kept))
        self._thin()

    def _thin(self) -> None:
        while self._rows > self.max_rows:
            keys, rows = self._all()
            if len(np.unique(keys)) <= 1:
                return
            self._below //= 2
            kept = keys < self._below
            self._parts, self._rows = [(keys[kept], rows[:, kept])], int(np.count_nonzero(kept))

    def _all(self) -> tuple[Keys, Floats]:
        if len(self._parts) != 1:
            keys = [part[0] for part in self._parts] or [np.zeros(0, np.uint64)]
            rows = [part[1] for part in self._parts] or [np.zeros((3, 0))]
            self._parts = [(np.concatenate(keys), np.concatenate(rows, axis=1))]
        return self._parts[0]

    def merge(self, other: StreamingGroups) -> None:
        """Count everything that another one has counted.

        Raises:
            ConfigError: If it counts other places.
        """
        if other.k != self.k:
            raise ConfigError("StreamingGroups, k", got=other.k, expected=f"{self.k}, to merge")
        self._below = min(self._below, other._below)
        self._parts += other._parts
        keys, rows = self._all()
        kept = keys < self._below if self._below < FULL else np.ones(len(keys), bool)
        self._parts, self._rows = [(keys[kept], rows[:, kept])], int(np.count_nonzero(kept))
        self._thin()

    def values(self) -> dict[str, GroupValues]:
        """Return GAUC and ranking metrics of every kept group."""
        keys, (label, probability, weight) = self._all()
        found = encode(keys, len(keys))
        codes: Integers = found.codes
        weighted = bool((weight != 1).any())
        blocks = ties(label, probability, weight if weighted else None, codes)
        value, mass = areas(blocks)
        usable = ~np.isnan(value)
        out = {"gauc": GroupValues(value[usable], mass[usable], blocks.groups[usable], int((~usable).sum()))}
        masses = None
        if weighted:
            counts = np.maximum(np.bincount(codes, minlength=found.distinct), 1)
            masses = np.bincount(codes, weight, minlength=found.distinct) / counts
        lists = values_of_lists(ties(label, -probability, None, codes), RANKING, self.k, masses)
        return out | {f"{name}@{self.k}": values for name, values in lists.items()}

    def notes(self) -> list[str]:
        """Return what was left out."""
        found = self.values()
        one_class, no_positive = found["gauc"].without, found[f"ndcg@{self.k}"].without
        notes = [f"GAUC: {one_class:,} of the kept groups have one class only and are left out",
                 f"ranking: {no_positive:,} of the kept groups have no positive and are left out"]  # fmt: skip
        if self._below < FULL:
            notes.append(f"metrics of groups: of 1 in {round(1 / self.share):,} groups, drawn by their names")
        return notes

    def state(self) -> State:
        """Return the kept rows."""
        keys, rows = self._all()
        return {
            "k": self.k, "max_rows": self.max_rows, "below": str(self._below),
            "keys": torch.from_numpy(keys.view(np.int64).copy()), "rows": torch.from_numpy(rows.copy()),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly; ConfigError if the state has another k or size."""
        found, own = (state["k"], state["max_rows"]), (self.k, self.max_rows)
        if found != own:
            raise ConfigError("StreamingGroups state, k and max_rows", got=str(found), expected=str(own))
        keys, rows = state["keys"], state["rows"]
        assert isinstance(keys, torch.Tensor)
        assert isinstance(rows, torch.Tensor)
        self._below = int(state["below"])  # type: ignore[arg-type]
        self._parts, self._rows = [(keys.numpy().copy().view(np.uint64), rows.numpy().copy())], len(keys)
