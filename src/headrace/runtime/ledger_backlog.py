"""The free parts as an ordered heap: which part comes next, which one rests after a failure, how new shards are cut."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from headrace.runtime.ledger import Ledger
from headrace.runtime.ledger_parts import Part, SourceEntry
from headrace.runtime.ledger_ranges import RangeSet
from headrace.runtime.shuffle import shard_ranks

Key: TypeAlias = tuple[bool, int, bool, int, int, int]


class Backlog:
    """The free parts of a ledger, in the order in which they are handed out.

    Files come before streams, an epoch before the next one, parts that failed after the others of their epoch, shards
    by their shuffled number, and what was lost where it stood before: the order does not depend on who lost what.
    Stream partitions are served in the order in which their rows arrived.

    Args:
        ledger: Everything in it that is not settled, held or marked is cut into shards anew.

    Cost: O(log n) per part put in or taken out; cutting an epoch is O(shards).
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self.rows = ledger, 0
        self._free: list[tuple[Key, Part]] = []
        self._resting: list[tuple[float, Key, Part]] = []
        self._ranks: dict[tuple[str, int], list[int]] = {}
        self._tails: dict[str, Part] = {}
        for part in ledger.marks.values():
            self._put(replace(part, ranges=part.ranges.copy()))
        taken = self._taken()
        for source, epoch in ledger.books:
            entry = ledger.sources[source]
            self._cut(entry, epoch, taken.get((source, epoch), RangeSet()), entry.start, entry.stop)
        heapify(self._free)

    def _taken(self) -> dict[tuple[str, int], RangeSet]:
        """Return the places that are not to be cut: settled, held or marked."""
        taken = {key: book.settled.copy() for key, book in self._ledger.books.items()}
        for part in self._ledger.marks.values():
            taken[part.source, part.epoch].update(part.ranges)
        for held in self._ledger.held.values():
            taken[held.part.source, held.part.epoch].update(held.part.ranges)
            taken[held.part.source, held.part.epoch].update(held.progress)
        return taken

    def _cut(self, entry: SourceEntry, epoch: int, taken: RangeSet, start: int, stop: int) -> None:
        """Cut the places of `start` .. `stop` that are not taken into parts; the heap is put in order by the caller."""
        rows = self._ledger.config.shard_rows
        last: Part | None = None
        for lo, hi in taken.gaps(start, stop):
            while lo < hi:
                first, end = (lo, min(lo + rows, hi)) if entry.stream else self._ledger.shard_at(entry.name, lo)
                if last is not None and not entry.stream and last.first == first:
                    last.ranges.add(lo, min(end, hi))
                    self.rows += min(end, hi) - lo
                else:
                    last = Part(entry.name, epoch, first, end, RangeSet([(lo, min(end, hi))]))
                    self._put(last)
                lo = min(end, hi)
        if entry.stream and last is not None and last.last == stop:
            self._tails[entry.name] = last

    def key(self, part: Part) -> Key:
        """Return what a part is ordered by."""
        entry = self._ledger.sources[part.source]
        place = part.ranges.pairs()[0][0]
        if entry.stream:
            cut = bisect_right(entry.cuts, place, key=lambda one: one[0])
            rank = entry.cuts[min(cut, len(entry.cuts) - 1)][1] if entry.cuts else 0
        elif self._ledger.config.shuffle:
            ranks = self._ranks.get((part.source, part.epoch))
            if ranks is None:
                shards = -(-entry.stop // self._ledger.config.shard_rows)
                ranks = shard_ranks(self._ledger.config.seed, part.source, part.epoch, shards)
                self._ranks[part.source, part.epoch] = ranks
            rank = ranks[part.first // self._ledger.config.shard_rows]
        else:
            rank = entry.ordinal
        return entry.stream, part.epoch, part.failures > 0, rank, place, entry.ordinal

    def _put(self, part: Part) -> None:
        self._free.append((self.key(part), part))
        self.rows += part.ranges.rows

    def put(self, part: Part, rest_until: float | None = None) -> None:
        """Put a part in; with `rest_until` it is not handed out before that time."""
        self.rows += part.ranges.rows
        if rest_until is None:
            heappush(self._free, (self.key(part), part))
        else:
            heappush(self._resting, (rest_until, self.key(part), part))

    def wake(self, now: float) -> None:
        """Free the parts that have rested."""
        while self._resting and self._resting[0][0] <= now:
            _, key, part = heappop(self._resting)
            heappush(self._free, (key, part))

    def pop(self) -> Part | None:
        """Take out the part that comes first."""
        if not self._free:
            return None
        part = heappop(self._free)[1]
        self.rows -= part.ranges.rows
        if self._tails.get(part.source) is part:
            del self._tails[part.source]
        return part

    @property
    def ready(self) -> bool:
        """Whether a part can be taken now."""
        return bool(self._free)

    def open(self, epoch: int) -> None:
        """Cut an epoch of all files that was just opened."""
        for entry in self._ledger.sources.values():
            if not entry.stream:
                self._ranks.pop((entry.name, epoch - 1), None)
                self.grow(entry, epoch, 0)

    def grow(self, entry: SourceEntry, epoch: int, start: int) -> None:
        """Cut what a source has from `start` on; a stream's last shard is filled up first, while nobody holds it."""
        tail = self._tails.get(entry.name) if entry.stream else None
        rows = self._ledger.config.shard_rows
        if tail is not None and tail.last == start and tail.last - tail.first < rows:
            filled = min(entry.stop, tail.first + rows)
            tail.ranges.add(start, filled)
            self.rows += filled - start
            tail.last = start = filled
        before = len(self._free)
        self._cut(entry, epoch, self._ledger.books[entry.name, epoch].settled, start, entry.stop)
        added = self._free[before:]
        if len(added) * 8 > before:
            heapify(self._free)
        else:
            del self._free[before:]
            for item in added:
                heappush(self._free, item)

    def parts(self) -> list[Part]:
        """Return all free parts, resting ones included, in no order."""
        return [part for _, part in self._free] + [part for _, _, part in self._resting]
