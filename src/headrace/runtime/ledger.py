"""The ledger of a work queue: a pure state machine that is fed records, live and when a log is replayed.

It has no clock, no disk and no choice: `apply(record)` does the same every time, so that a head that died is rebuilt
by applying its log. What it keeps is only what cannot be worked out: places that are consumed, dropped, quarantined,
held, or marked with a history. What is free is what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headrace.errors import DataError
from headrace.runtime.ledger_parts import Book, Held, Part, Quarantined, QueueConfig, SourceEntry
from headrace.runtime.ledger_ranges import Range, RangeSet
from headrace.runtime.shuffle import row_numbers, shard_order

Record = list[Any]


class Ledger:
    """Which place is in which state, and who holds what.

    Args:
        config: Its pinned settings decide what records mean.

    Thread-safety: none; `ShardQueue` locks.
    """

    def __init__(self, config: QueueConfig) -> None:
        self.config = config
        self.sources: dict[str, SourceEntry] = {}
        self.books: dict[tuple[str, int], Book] = {}
        self.held: dict[int, Held] = {}
        self.by_worker: dict[str, dict[int, Held]] = {}
        self.marks: dict[int, Part] = {}
        self.bad_rows: set[tuple[str, int]] = set()  # quarantined in whichever epoch
        self.epochs = self.fence = self.last_mark = self.arrivals = 0
        self.last_step = -1
        self.consumed_rows = self.done_rows = self.dropped_rows = self.repeated_rows = self.quarantined_rows = 0
        self._kinds: dict[str, Callable[..., list[Part]]] = {
            "source": self._source, "epoch": self._epoch, "lease": self._lease, "steal": self._steal,
            "commit": self._commit, "back": self._back, "fail": self._fail, "saved": self._saved,
        }  # fmt: skip

    def apply(self, record: Record) -> list[Part]:
        """Carry out one record; return the parts that became free by it.

        Raises:
            DataError: If the record's kind is not known: the log was written by another version.
        """
        kind = self._kinds.get(record[0])
        if kind is None:
            raise DataError("Record of the queue's log", got=f"kind {record[0]!r}", expected="a known kind")
        return kind(*record[1:])

    # ------------------------------------------------------------------------------------------------------- sources

    def _source(self, name: str, stream: bool, start: int, stop: int, closed: bool) -> list[Part]:
        """Make a source known, let a stream grow, or close it; the parts of it are cut by the backlog."""
        entry = self.sources.get(name)
        if entry is None:
            entry = SourceEntry(name, len(self.sources), stream, start, start if stream else stop, closed)
            self.sources[name] = entry
            for epoch in range(1 if stream else max(self.epochs, 1)):
                self.books[name, epoch] = Book()
            if not stream and not self.epochs:
                self.epochs = 1
        if stop > entry.stop:
            self.arrivals += 1
            reached = self.books[name, 0].settled.reach(entry.start)
            entry.cuts = [cut for cut in entry.cuts if cut[0] > reached] + [(stop, self.arrivals)]
            entry.stop = stop
        entry.closed = closed
        return []

    def _epoch(self, epoch: int) -> list[Part]:
        """Open the next epoch; rows quarantined before stay so, without being tried again."""
        self.epochs = epoch + 1
        for entry in [entry for entry in self.sources.values() if not entry.stream]:
            book = self.books[entry.name, epoch] = Book()
            for row in self.books[entry.name, epoch - 1].quarantined.values():
                place = self.place_of(entry.name, epoch, row.row)
                book.quarantine(place, Quarantined(row.source, epoch, row.row, row.failures, row.error))
                self.quarantined_rows += 1
        return []

    def shard_at(self, source: str, place: int) -> Range:
        """Return the borders of the shard of a file in which a place lies."""
        rows = self.config.shard_rows
        first = place // rows * rows
        return first, min(first + rows, self.sources[source].stop)

    def place_of(self, source: str, epoch: int, row: int) -> int:
        """Return the place of a row in an epoch."""
        if not self.config.shuffle or self.sources[source].stream:
            return row
        first, last = self.shard_at(source, row)
        order = shard_order(self.config.seed, source, epoch, first, last - first)
        return first + int(np.flatnonzero(order == row - first)[0])

    def row_at(self, part: Part, place: int) -> int:
        """Return the row number at a place of a part's shard."""
        shuffled = self.config.shuffle and not self.sources[part.source].stream
        found = row_numbers(
            self.config.seed, part.source, part.epoch, part.first, part.last - part.first, shuffled,
            place - part.first, place - part.first + 1,
        )  # fmt: skip
        return int(found[0])

    # -------------------------------------------------------------------------------------------------------- leases

    def _lease(
        self, fence: int, worker: str, source: str, epoch: int, borders: Sequence[int], ranges: list[list[int]],
        history: Sequence[int],
    ) -> list[Part]:  # fmt: skip
        part = Part(source, epoch, borders[0], borders[1], RangeSet(ranges), history[0], history[1])
        self._unmark(history[2], ranges)
        self._hold(fence, worker, part)
        return []

    def _unmark(self, mark: int, ranges: Sequence[Sequence[int]]) -> None:
        """Take places away from a marked part that was free."""
        if mark:
            rest = self.marks[mark].ranges
            for start, stop in ranges:
                rest.remove(start, stop)
            if not rest:
                del self.marks[mark]

    def _hold(self, fence: int, worker: str, part: Part) -> Held:
        assert fence > self.fence, "fences only grow"
        self.fence = fence
        held = self.held[fence] = Held(fence, worker, part)
        self.by_worker.setdefault(worker, {})[fence] = held
        return held

    def _let_go(self, fence: int) -> Held:
        held = self.held.pop(fence)
        theirs = self.by_worker[held.worker]
        del theirs[fence]
        if not theirs:
            del self.by_worker[held.worker]
        return held

    def _steal(self, victim: int, fence: int, worker: str, start: int) -> list[Part]:
        """Move the places from `start` on of one lease into a new lease."""
        held = self.held[victim]
        held.split, left = True, held.part
        moved = [(max(lo, start), hi) for lo, hi in left.ranges if hi > start]
        for lo, hi in moved:
            left.ranges.remove(lo, hi)
        part = Part(left.source, left.epoch, left.first, left.last, RangeSet(moved), left.failures, left.losses)
        self._hold(fence, worker, part)
        return []

    def _commit(self, contributions: list[tuple[str, int, int, int]], note: str, step: int) -> list[Part]:
        """Record places, given by position in their shards, as consumed by a step."""
        for _, fence, start, stop in contributions:
            held = self.held[fence]
            part = held.part
            place, end = part.first + start, part.first + stop
            part.ranges.remove(place, end)
            held.moved = True
            if self.config.mode == "at_least_once":
                held.progress.add(place, end)
            else:
                self._consume(part, place, end)
            if not part.ranges:
                for lo, hi in self._let_go(fence).progress:
                    self._consume(part, lo, hi)
        self.last_step = max(self.last_step, step)
        return []

    def _consume(self, part: Part, start: int, stop: int) -> None:
        self.books[part.source, part.epoch].consume(start, stop)
        self.consumed_rows += stop - start

    # -------------------------------------------------------------------------------------------- what went otherwise

    def _back(self, fence: int, lost: bool, reason: str = "") -> list[Part]:
        """End a lease before its work was done; `lost` counts against the part unless it had got on."""
        held = self._let_go(fence)
        part = self._unfinished(held)
        if lost and self.config.mode == "at_most_once":
            book = self.books[part.source, part.epoch]
            for start, stop in part.ranges:
                book.drop(start, stop)
            self.dropped_rows += part.ranges.rows
            return []
        part.losses = 0 if held.moved or not lost else part.losses + 1
        if part.losses >= self.config.retries:
            return self._give_up(part, f"lost {part.losses} times in a row without progress: {reason}")
        return [self._marked(part)]

    def _unfinished(self, held: Held) -> Part:
        """Return the part of a lease that ended, with what at-least-once does again."""
        self.repeated_rows += held.progress.rows
        held.part.ranges.update(held.progress)
        return held.part

    def _marked(self, part: Part) -> Part:
        """Note the history of a part that is free again, if it has one."""
        part.mark = 0
        if part.failures or part.losses:
            self.last_mark += 1
            part.mark = self.last_mark
            self.marks[part.mark] = replace(part, ranges=part.ranges.copy())
        return part

    def _fail(self, fence: int, place: int | None, error: str) -> list[Part]:
        """Count a failure: a row that is known to fail is given up and the lease goes on; else the lease ends."""
        if place is not None:
            held = self.held[fence]
            part = held.part
            part.ranges.remove(place, place + 1)
            self._quarantine(part, place, part.failures + 1, error)
            if not part.ranges:
                for lo, hi in self._let_go(fence).progress:
                    self._consume(part, lo, hi)
            return []
        part = self._unfinished(self._let_go(fence))
        part.losses = 0
        part.failures += 1
        return self._give_up(part, error) if part.failures >= self.config.retries else [self._marked(part)]

    def _quarantine(self, part: Part, place: int, failures: int, error: str) -> None:
        found = Quarantined(part.source, part.epoch, self.row_at(part, place), failures, error)
        self.books[part.source, part.epoch].quarantine(place, found)
        self.quarantined_rows += 1
        self.bad_rows.add((found.source, found.row))

    def _give_up(self, part: Part, error: str) -> list[Part]:
        """Halve a part that failed too often; quarantine it when it is a single row."""
        rows = part.ranges.rows
        if rows == 1:
            self._quarantine(part, part.ranges.pairs()[0][0], max(part.failures, part.losses), error)
            return []
        front = RangeSet(part.ranges.first(rows // 2))
        back = part.ranges.copy()
        for start, stop in front:
            back.remove(start, stop)
        failed, halves = part.failures >= self.config.retries, []
        for ranges in (front, back):  # one more failure halves a half again; a single row is tried on its own
            failures = self.config.retries - 1 if failed and ranges.rows > 1 else 0
            half = Part(part.source, part.epoch, part.first, part.last, ranges, failures)
            halves.append(self._marked(half))
        return halves

    def _saved(self, consumed: int) -> list[Part]:
        """Note that a manifest holds the first `consumed` rows: they cannot be taken back."""
        self.done_rows = max(self.done_rows, consumed)
        return []
