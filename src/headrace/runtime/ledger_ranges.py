"""Sets of whole numbers kept as disjoint half-open ranges: what is consumed, leased, dropped."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]


class RangeSet:
    """A set of whole numbers as sorted, disjoint ranges `[start, stop)` that do not touch; `rows` is its size.

    `add` and `remove` are exact: adding what is there, or removing what is not, is an error of the caller (assert),
    because a row counted twice is what the ledger is there to prevent.

    Cost: O(log n) to look, O(n) moved pointers to change, n ranges.

    Example:
        >>> some = RangeSet([(0, 4), (6, 8)])
        >>> some.add(4, 6); some.pairs(), some.rows
        ([(0, 8)], 8)
        >>> some.remove(2, 3); some.pairs()
        [(0, 2), (3, 8)]
    """

    __slots__ = ("_starts", "_stops", "rows")

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.rows = 0
        for start, stop in ranges:
            self.add(start, stop)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._stops, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({self.pairs()})"

    def pairs(self) -> list[Range]:
        """Return the ranges, ascending."""
        return list(self)

    def copy(self) -> RangeSet:
        """Return an independent copy."""
        made = RangeSet()
        made._starts, made._stops, made.rows = self._starts[:], self._stops[:], self.rows
        return made

    def covers(self, start: int, stop: int) -> bool:
        """Return whether all of `[start, stop)` is in the set; True for an empty range."""
        if start >= stop:
            return True
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and stop <= self._stops[place]

    def meets(self, start: int, stop: int) -> bool:
        """Return whether any of `[start, stop)` is in the set."""
        place = bisect_left(self._starts, stop) - 1
        return start < stop and place >= 0 and self._stops[place] > start

    def add(self, start: int, stop: int) -> None:
        """Put `[start, stop)` in; none of it may be in yet."""
        if start >= stop:
            return
        place = bisect_left(self._starts, start)
        assert not self.meets(start, stop), f"[{start}, {stop}) is in the set already"
        before = place > 0 and self._stops[place - 1] == start
        after = place < len(self._starts) and self._starts[place] == stop
        if before and after:
            self._stops[place - 1] = self._stops.pop(place)
            del self._starts[place]
        elif before:
            self._stops[place - 1] = stop
        elif after:
            self._starts[place] = start
        else:
            self._starts.insert(place, start)
            self._stops.insert(place, stop)
        self.rows += stop - start

    def remove(self, start: int, stop: int) -> None:
        """Take `[start, stop)` out; all of it must be in."""
        if start >= stop:
            return
        assert self.covers(start, stop), f"[{start}, {stop}) is not all in the set"
        place = bisect_right(self._starts, start) - 1
        left, right = self._starts[place], self._stops[place]
        if left == start and right == stop:
            del self._starts[place], self._stops[place]
        elif left == start:
            self._starts[place] = stop
        elif right == stop:
            self._stops[place] = start
        else:
            self._stops[place] = start
            self._starts.insert(place + 1, stop)
            self._stops.insert(place + 1, right)
        self.rows -= stop - start

    def update(self, ranges: Iterable[Range]) -> None:
        """Add several ranges."""
        for start, stop in ranges:
            self.add(start, stop)

    def gaps(self, start: int, stop: int) -> Iterator[Range]:
        """Yield the ranges of `[start, stop)` that are not in the set, ascending."""
        place = max(bisect_right(self._starts, start) - 1, 0)
        for left, right in zip(self._starts[place:], self._stops[place:], strict=True):
            if left >= stop:
                break
            if left > start:
                yield start, left
            start = max(start, right)
        if start < stop:
            yield start, stop

    def reach(self, start: int) -> int:
        """Return the end of the unbroken run that begins at `start`; `start` itself when it is not in the set."""
        place = bisect_right(self._starts, start) - 1
        return max(start, self._stops[place]) if place >= 0 else start

    def first(self, rows: int) -> list[Range]:
        """Return the ranges that hold the `rows` smallest numbers (all, if there are fewer)."""
        found = []
        for start, stop in self:
            if rows <= 0:
                break
            found.append((start, min(stop, start + rows)))
            rows -= stop - start
        return found
