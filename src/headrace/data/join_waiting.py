"""Actions in columns, and those that came before their impression."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from headrace.data.hashing import cross_ids

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NEVER = 1 << 62


@dataclass(slots=True)
class Actions:
    """Actions in columns.

    Shapes: ids, times, accepted (N,) int64 µs; kinds (N,) int64, places in `positive`; values (N,) float64, labels;
    left out, they are 1.
    """

    ids: Integers
    times: Integers
    accepted: Integers
    kinds: Integers
    values: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if len(self.values) != len(self.ids):
            self.values = np.ones(len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Actions:
        """Return the given rows."""
        return Actions(self.ids[rows], self.times[rows], self.accepted[rows], self.kinds[rows], self.values[rows])

    @staticmethod
    def none() -> Actions:
        """Return no actions."""
        none = np.zeros(0, dtype=np.int64)
        return Actions(none, none, none, none)

    @staticmethod
    def concat(first: Actions, second: Actions) -> Actions:
        """Put actions one behind the other."""
        if not len(first) or not len(second):
            return second if not len(first) else first
        pairs = ((getattr(first, item.name), getattr(second, item.name)) for item in fields(Actions))
        return Actions(*(np.concatenate(pair) for pair in pairs))


@dataclass(slots=True)
class WaitingActions:
    """Actions whose impression has not come yet, in order of arrival.

    They wait until no impression that would still be accepted can be theirs: while the watermark is below their time
    plus the window.
    """

    actions: Actions = field(default_factory=Actions.none)
    earliest: int = NEVER
    _ids: dict[int, int] = field(default_factory=dict)
    _marks: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.actions)

    def add(self, actions: Actions) -> int:
        """Keep actions; return how many were repeats of waiting ones (same example, kind and time) and left out."""
        if not len(actions):
            return 0
        fresh = []
        for place, mark in enumerate(_marks(actions)):
            if mark not in self._marks:
                self._marks.add(mark)
                fresh.append(place)
        kept = actions.take(np.array(fresh, dtype=np.int64))
        for identity in kept.ids.tolist():
            self._ids[identity] = self._ids.get(identity, 0) + 1
        self.actions = Actions.concat(self.actions, kept)
        self.earliest = min(self.earliest, int(kept.times.min()) if len(kept) else NEVER)
        return len(actions) - len(kept)

    def claim(self, ids: Integers) -> Actions:
        """Remove and return the actions on these examples, in order of arrival."""
        if not self._ids:
            return Actions.none()
        hits = [identity for identity in ids.tolist() if identity in self._ids]
        if not hits:
            return Actions.none()
        return self._remove(np.isin(self.actions.ids, np.array(hits, dtype=np.int64)))

    def expire(self, until: int) -> int:
        """Remove the actions of time `until` or earlier and return how many there were."""
        if self.earliest > until:
            return 0
        return len(self._remove(self.actions.times <= until))

    def _remove(self, chosen: npt.NDArray[np.bool_]) -> Actions:
        removed, self.actions = self.actions.take(chosen), self.actions.take(~chosen)
        for identity, mark in zip(removed.ids.tolist(), _marks(removed), strict=True):
            self._marks.discard(mark)
            left = self._ids[identity] - 1
            if left:
                self._ids[identity] = left
            else:
                del self._ids[identity]
        self.earliest = int(self.actions.times.min()) if len(self.actions) else NEVER
        return removed


def _marks(actions: Actions) -> list[int]:
    marks: list[int] = cross_ids([actions.ids, actions.times, actions.kinds]).tolist()
    return marks
