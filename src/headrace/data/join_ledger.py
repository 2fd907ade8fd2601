"""What a join knows about impressions: which ids it has seen, what became of them, and the rows still pending.

Impressions are numbered as they arrive and kept in chunks of some thousand rows: NumPy columns for id, time and fate,
and one Arrow batch with everything else, in memory or on disk. The only thing kept per impression in Python is one
entry, id to number, in a dict.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.data.join_columns import Columns
from headrace.data.spill import DiskTier
from headrace.errors import StoreError

Integers = npt.NDArray[np.int64]
PENDING, POSITIVE, CLOSED = 0, 1, 2
CHUNK_ROWS = 1 << 14
NEVER = 1 << 62

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Chunk:
    """Impressions number `start`, `start + 1`, ...; `rows` is None once they are on disk or no longer needed."""

    start: int
    ids: Integers
    times: Integers
    fates: npt.NDArray[np.int8]
    rows: pa.RecordBatch | None
    open_rows: int
    first_open: int
    newest: int
    on_disk: bool = False

    def __len__(self) -> int:
        return len(self.ids)


class Ledger:
    """Ids, times and fates of the impressions a join remembers, and the rows of the pending ones.

    Args:
        columns: The union of the impressions' columns.
        memory_rows: How many rows the memory tier may hold.
        disk: Where older rows go beyond that; None keeps them in memory, with one warning.

    Cost: `add`, `find` and `mark` are O(rows) with one dict access per row; `close_until` looks only at chunks that
        have something to close.
    """

    def __init__(self, columns: Columns, memory_rows: int, disk: DiskTier | None) -> None:
        self.columns, self.memory_rows, self.disk = columns, memory_rows, disk
        self.chunk_rows = max(min(CHUNK_ROWS, memory_rows // 4), 1)
        self.chunks: list[Chunk] = []
        self._starts: Integers = np.zeros(0, dtype=np.int64)
        self._numbers: dict[int, int] = {}
        self._next = 0
        self.in_memory = 0
        self.spilled = 0
        self.pending = 0
        self._warned = False

    def find(self, ids: Integers) -> Integers:
        """Return the number of each id's impression, -1 where there is none."""
        return np.fromiter(map(self._numbers.get, ids.tolist(), repeat(-1)), dtype=np.int64, count=len(ids))

    def times_and_fates(self, numbers: Integers) -> tuple[Integers, npt.NDArray[np.int8]]:
        """Return impression times and fates, (N,) each."""
        times, fates = np.empty(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int8)
        for chunk, where, local in self._split(numbers):
            times[where], fates[where] = chunk.times[local], chunk.fates[local]
        return times, fates

    def ids(self, numbers: Integers) -> Integers:
        """Return the example ids of impressions, (N,)."""
        ids = np.empty(len(numbers), dtype=np.int64)
        for chunk, where, local in self._split(numbers):
            ids[where] = chunk.ids[local]
        return ids

    def add(self, ids: Integers, rows: pa.RecordBatch) -> None:
        """Remember impressions (distinct ids, none of them pending) as pending."""
        times = np.asarray(rows.column("event_time").to_numpy(zero_copy_only=False), dtype=np.int64)
        self._numbers.update(zip(ids.tolist(), range(self._next, self._next + len(ids)), strict=True))
        for start in range(0, len(ids), self.chunk_rows):
            cut = slice(start, start + self.chunk_rows)
            piece = rows
            if len(ids) > self.chunk_rows:  # a slice would keep the whole batch alive
                piece = rows.take(pa.array(np.arange(start, min(start + self.chunk_rows, len(ids)))))
            self._append(ids[cut], times[cut], np.zeros(len(ids[cut]), dtype=np.int8), piece)
        self.pending += len(ids)

    def remember(self, ids: Integers, times: Integers, fates: npt.NDArray[np.int8]) -> None:
        """Remember impressions that were emitted already, without their rows."""
        self._numbers.update(zip(ids.tolist(), range(self._next, self._next + len(ids)), strict=True))
        if len(ids):
            self._append(ids, times, fates, None)

    def mark(self, numbers: Integers, fate: int) -> None:
        """Record what became of pending impressions; their rows stay readable until `settle`."""
        for chunk, _, local in self._split(numbers):
            chunk.fates[local] = fate
            chunk.open_rows -= len(local)
        self.pending -= len(numbers)

    def close_until(self, time: int) -> Integers:
        """Mark the pending impressions of `time` or earlier as closed and return their numbers."""
        closed = []
        for chunk in self.chunks:
            if chunk.first_open > time or not chunk.open_rows:
                continue
            is_open = chunk.fates == PENDING
            due = is_open & (chunk.times <= time)
            local = np.flatnonzero(due)
            chunk.fates[local] = CLOSED
            chunk.open_rows -= len(local)
            left = chunk.times[is_open & ~due]
            chunk.first_open = int(left.min()) if len(left) else NEVER
            closed.append(chunk.start + local)
        numbers = np.concatenate(closed) if closed else np.zeros(0, dtype=np.int64)
        self.pending -= len(numbers)
        return numbers

    def rows(self, numbers: Integers) -> pa.RecordBatch:
        """Return the rows of impressions, in the order asked for, with all columns of the union."""
        parts, places = [], []
        for chunk, where, local in self._split(numbers):
            if chunk.on_disk:
                assert self.disk is not None
                part = self.disk.take(chunk.start, local)
            else:
                assert chunk.rows is not None
                part = chunk.rows
                if len(local) < len(chunk) or not np.array_equal(local, np.arange(len(chunk))):
                    part = part.take(pa.array(local))
            parts.append(self.columns.conform(part))
            places.append(where)
        if not parts:
            return pa.RecordBatch.from_pylist([], schema=self.columns.schema)
        together = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        order = np.concatenate(places)
        if np.all(order[:-1] < order[1:]):
            return together
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return together.take(pa.array(back))

    def settle(self, forget_until: int) -> None:
        """Free what is no longer needed: rows without a pending impression, ids older than `forget_until`; spill."""
        kept = []
        for chunk in self.chunks:
            if not chunk.open_rows:
                self._release(chunk)
                if chunk.newest <= forget_until:
                    self._forget(chunk)
                    continue
            kept.append(chunk)
        if len(kept) < len(self.chunks):
            self.chunks = kept
            self._starts = np.array([chunk.start for chunk in kept], dtype=np.int64)
        if self.in_memory > self.memory_rows:
            self._spill()

    def remembered(self, forget_until: int) -> tuple[Integers, Integers, npt.NDArray[np.int8]]:
        """Return ids, times and fates of emitted impressions newer than `forget_until`, by id."""
        ids, times, fates = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int8)]
        for chunk in self.chunks:
            done = np.flatnonzero((chunk.fates != PENDING) & (chunk.times > forget_until))
            current = done[self.find(chunk.ids[done]) == chunk.start + done]
            ids.append(chunk.ids[current])
            times.append(chunk.times[current])
            fates.append(chunk.fates[current])
        joined = np.concatenate(ids)
        order = np.argsort(joined, kind="stable")
        return joined[order], np.concatenate(times)[order], np.concatenate(fates)[order]

    def pending_numbers(self) -> Integers:
        """Return the numbers of all pending impressions, in order of arrival."""
        parts = [chunk.start + np.flatnonzero(chunk.fates == PENDING) for chunk in self.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def close(self) -> None:
        """Drop the disk tier's files."""
        if self.disk is not None:
            self.disk.close()

    def _split(self, numbers: Integers) -> Iterator[tuple[Chunk, Integers, Integers]]:
        """Yield (chunk, places in `numbers`, places in the chunk) for every chunk concerned."""
        if not len(numbers):
            return
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        if which[0] == which[-1] and np.all(which == which[0]):
            chunk = self.chunks[int(which[0])]
            yield chunk, np.arange(len(numbers)), numbers - chunk.start
            return
        order = np.argsort(which, kind="stable")
        found, begins = np.unique(which[order], return_index=True)
        ends = [*begins.tolist()[1:], len(order)]
        for index, begin, end in zip(found.tolist(), begins.tolist(), ends, strict=True):
            chunk, where = self.chunks[index], order[begin:end]
            yield chunk, where, numbers[where] - chunk.start

    def _append(self, ids: Integers, times: Integers, fates: npt.NDArray[np.int8], rows: pa.RecordBatch | None) -> None:
        is_open, newest = rows is not None, int(times.max())
        first_open = int(times.min()) if is_open else NEVER
        chunk = Chunk(self._next, ids, times, fates, rows, len(ids) if is_open else 0, first_open, newest)
        self._next += len(ids)
        if rows is not None:
            self.in_memory += len(chunk)
        while self.chunks and self._fit(self.chunks[-1], chunk):
            chunk = self._merged(self.chunks.pop(), chunk)
        self.chunks.append(chunk)
        self._starts = np.array([chunk.start for chunk in self.chunks], dtype=np.int64)

    def _fit(self, older: Chunk, newer: Chunk) -> bool:
        # Like sizes only, so that a row is copied a logarithmic number of times on its way into a whole chunk.
        if older.rows is None or newer.rows is None or older.start + len(older) != newer.start:
            return False
        return len(older) <= 2 * len(newer) and len(older) + len(newer) <= self.chunk_rows

    def _merged(self, older: Chunk, newer: Chunk) -> Chunk:
        assert older.rows is not None
        assert newer.rows is not None
        rows = pa.concat_batches([self.columns.conform(older.rows), self.columns.conform(newer.rows)])
        return Chunk(
            older.start, np.concatenate([older.ids, newer.ids]), np.concatenate([older.times, newer.times]),
            np.concatenate([older.fates, newer.fates]), rows, older.open_rows + newer.open_rows,
            min(older.first_open, newer.first_open), max(older.newest, newer.newest),
        )  # fmt: skip

    def _release(self, chunk: Chunk) -> None:
        if chunk.rows is not None:
            chunk.rows = None
            self.in_memory -= len(chunk)
        elif chunk.on_disk:
            assert self.disk is not None
            self.disk.drop(chunk.start, len(chunk))
            chunk.on_disk = False
            self.spilled -= len(chunk)

    def _forget(self, chunk: Chunk) -> None:
        for place, identity in enumerate(chunk.ids.tolist()):
            if self._numbers.get(identity) == chunk.start + place:
                del self._numbers[identity]

    def _spill(self) -> None:
        if self.disk is None:
            self._warn("no spill folder is set")
            return
        for chunk in self.chunks:
            if self.in_memory <= self.memory_rows:
                return
            if chunk.rows is None:
                continue
            try:
                self.disk.put(chunk.start, chunk.rows)
            except StoreError as error:
                self._warn(str(error))
                return
            chunk.rows, chunk.on_disk = None, True
            self.in_memory -= len(chunk)
            self.spilled += len(chunk)

    def _warn(self, why: str) -> None:
        if not self._warned:
            _log.warning("The join holds %d rows in memory, more than memory_rows=%d: %s", self.in_memory,
                         self.memory_rows, why)  # fmt: skip
            self._warned = True
