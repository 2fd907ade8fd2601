"""ReferenceTable: a dict. It is the specification of every table, and what runs where the native one cannot.

It is written to be read: one dict per kind of thing, one lock around every operation, arithmetic by the row rule's
own NumPy step. A property test drives it and the native table side by side through every operation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.store.admission import AdmitCount, AdmitProbability, AdmitSketch
from headrace.store.arguments import check_assign, check_update
from headrace.store.capacity import capacity_rows, going, most_frequent, pending_limit, removal_limit, victims
from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray
from headrace.store.pace import decayed, missed, step_rows
from headrace.store.parts import NEVER, TableParts, slot_count
from headrace.store.precision import rounded, rounding_streams
from headrace.store.row_rules import FloatArray
from headrace.store.sketch import Sketch
from headrace.store.table_config import TableConfig, TableStats

_ROW_OVERHEAD_BYTES = 400
"""About what CPython needs for a row beside its floats."""

HISTORY = 2**31
"""Operations whose changes can be told at most."""

MOST_FREQUENT = 255
"""Frequencies are kept in one byte."""


@dataclass(slots=True)
class _Row:
    """A row: embedding (D,), slots (S,), event time of the last touch, mark of the last change, frequency."""

    embedding: FloatArray
    slots: FloatArray
    time: int
    mark: int
    frequency: int = 0


class ReferenceTable(CheckedTable):
    """The table as a dict; see `CheckedTable` for what every method does.

    With `max_bytes` it holds as many rows as the native table would, and takes more memory for them.

    Args:
        config: What the table is made of.
        serving: A table that only serves.

    Example:
        >>> import torch
        >>> from headrace.store import ReferenceTable, SGD, TableConfig, Zeros
        >>> table = ReferenceTable(TableConfig(name="user", dim=2, rule=SGD(lr=0.5), init=Zeros()))
        >>> one = torch.ones(1, dtype=torch.int64)
        >>> table.update(one * 7, torch.ones(1, 2), counts=one, times=one)
        >>> table.lookup(torch.tensor([7, 8])).tolist()
        [[-0.5, -0.5], [0.0, 0.0]]
    """

    def __init__(self, config: TableConfig, *, serving: bool = False, _capacity: int | None = None) -> None:
        super().__init__(config, serving=serving)
        self._lock = threading.RLock()
        self._timed, self._kept = config.storage.event_times, config.storage.keeps_history(serving)
        self._aged, self._precision = config.storage.keeps_frequencies(serving), config.storage.row_precision(serving)
        self._capacity = capacity_rows(config, serving)
        if self._capacity is not None and _capacity is not None:
            self._capacity = _capacity  # for tests: the budgets there are too large to be filled quickly
        self._table: dict[int, _Row] = {}
        self._pending: dict[int, tuple[int, int]] = {}  # id -> occurrences so far, event time of the last
        self._removed: dict[int, int] = {}  # id -> mark of its removal
        self._sketch = self._admission.sketch() if isinstance(self._admission, AdmitSketch) else None
        self._mark = self._floor = self._admitted = self._filtered = self._evicted = self._halvings = 0
        self._newest = NEVER

    def _next_mark(self) -> int:
        self._mark += 1
        if not self._kept:
            self._floor = self._mark
        elif self._mark - self._floor > HISTORY:
            self._forget(self._mark - HISTORY)
        return self._mark

    def _moments(self, times: IdArray | None, rows: int) -> IdArray:
        """Return the event times (N,) to work with, and take notice of the newest."""
        if times is None or not self._timed:
            return np.zeros(rows, np.int64)
        self._newest = max(self._newest, *times.tolist()) if rows else self._newest
        return times

    def _lookup(self, ids: IdArray, out: FloatArray) -> None:
        with self._lock:
            absent = []
            for place, one in enumerate(ids.tolist()):
                row = self._table.get(one)
                if row is None:
                    absent.append(place)
                else:
                    out[place] = row.embedding
        if absent:
            out[absent] = self._initial(ids[absent])

    def _contains(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        with self._lock:
            return np.fromiter((one in self._table for one in ids.tolist()), np.bool_, len(ids))

    def _update(self, ids: IdArray, grads: FloatArray, counts: IdArray, times: IdArray) -> None:
        check_update(self._arguments, ids, grads, counts)
        with self._lock:
            rate = self._config.rate(self._mark + 1)
            mark = self._next_mark()
            times = self._moments(times, len(ids))
            learns = self._admit(ids, counts, times, mark)
            self._filtered += len(ids) - int(learns.sum())
            if learns.any():
                self._learn(ids[learns], grads[learns], counts[learns], times[learns], rate, mark)
            self._bound_removals()

    def _found(self, ids: IdArray) -> FloatArray:
        rows, lost = super()._found(ids), self._config.lost_when_missed
        if not lost:
            return rows
        with self._lock:
            update = self._mark + 1
            slots = {place: self._table[one].slots[-1] for place, one in enumerate(ids.tolist()) if one in self._table}
        last = np.zeros(len(ids), np.float32)
        last[list(slots)] = list(slots.values())
        return decayed(rows, missed(last, update), self._config.rate(update), lost)

    def _learn(
        self, ids: IdArray, grads: FloatArray, counts: IdArray, times: IdArray, rate: np.float32, mark: int
    ) -> None:
        touched = [self._table[one] for one in ids.tolist()]
        embeddings = np.stack([row.embedding for row in touched])
        slots = np.stack([row.slots for row in touched])
        with np.errstate(all="ignore"):
            step_rows(self._config, embeddings, slots, grads, rate, mark)
        starts = rounding_streams(self._config.row_key, ids, mark)
        embeddings = rounded(embeddings, self._precision, starts)
        for place, (row, count, time) in enumerate(zip(touched, counts.tolist(), times.tolist(), strict=True)):
            row.embedding, row.slots = embeddings[place].copy(), slots[place].copy()
            row.time, row.mark = max(row.time, time), mark
            if self._aged:
                row.frequency = min(row.frequency + count, MOST_FREQUENT)

    def _admit(self, ids: IdArray, counts: IdArray, times: IdArray, mark: int) -> npt.NDArray[np.bool_]:
        """Insert the ids that are admitted now, count the others, and return which ids (N,) have a row now."""
        present = self._contains(ids)
        wanted = self._wanted(ids, counts, mark, ~present)
        admitted = self._make_room(ids, counts, wanted, mark)
        self._insert(ids[admitted], self._initial(ids[admitted]), times[admitted], mark)
        self._admitted += int(admitted.sum())
        for one in ids[wanted & ~admitted].tolist():
            self._pending.pop(one, None)  # what found no room starts to count again
        if isinstance(self._admission, AdmitCount):
            self._wait(*(values[~present & ~wanted] for values in (ids, counts, times)))
        return np.asarray(present | admitted, dtype=np.bool_)

    def _wanted(self, ids: IdArray, counts: IdArray, mark: int, absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the absent ids (N,) may have a row from now on; only a sketch counts them here."""
        wanted = absent.copy()
        if isinstance(self._admission, AdmitProbability):
            wanted &= self._admission.admits(self._config.admission_key, ids, counts, mark)
        elif isinstance(self._admission, AdmitCount):
            for place in np.flatnonzero(absent).tolist():
                seen, _ = self._pending.get(int(ids[place]), (0, 0))
                wanted[place] = seen + int(counts[place]) >= self._admission.occurrences
        elif isinstance(self._admission, AdmitSketch):
            assert self._sketch is not None
            places = np.flatnonzero(absent)
            places = places[np.argsort(ids[places])]
            wanted[places] = self._sketch.add(ids[places], counts[places]) >= self._admission.occurrences
        return wanted

    def _wait(self, ids: IdArray, counts: IdArray, times: IdArray) -> None:
        """Count ids that wait for admission; the oldest of the others make room."""
        for one, count, time in zip(ids.tolist(), counts.tolist(), times.tolist(), strict=True):
            seen, last = self._pending.get(one, (0, time))
            self._pending[one] = (seen + count, max(last, time))
        if self._capacity is None:
            return
        limit, call = pending_limit(self._capacity), set(ids.tolist())
        others = [one for one in self._pending if one not in call]
        others.sort(key=lambda one: (self._pending[one][1], one))
        for one in others[: going(len(self._pending) - limit, limit, len(others))]:
            del self._pending[one]
        for one in ids[~most_frequent(ids, counts, limit)].tolist():
            del self._pending[one]

    def _make_room(
        self, ids: IdArray, counts: IdArray, wanted: npt.NDArray[np.bool_], mark: int
    ) -> npt.NDArray[np.bool_]:
        """Evict rows of ids that are not in this call (N,), and return which of the wanted ones find room then."""
        if self._capacity is None:
            return wanted
        call = set(ids.tolist())
        others = [one for one in self._table if one not in call]
        count = going(len(self._table) + int(wanted.sum()) - self._capacity, self._capacity, len(others))
        if count:
            rows = [self._table[one] for one in others]
            frequencies = np.array([row.frequency for row in rows], np.int64)
            times, ttl = np.array([row.time for row in rows], np.int64), self._config.ttl_us
            oldest = None if ttl is None else self._newest - ttl
            self._drop(victims(np.array(others, np.int64), times, frequencies, oldest, count).tolist(), mark)
            self._evicted += count
            for row in self._table.values():
                row.frequency >>= 1
            self._halvings += int(self._aged)
        found = wanted.copy()
        found[wanted] = most_frequent(ids[wanted], counts[wanted], self._capacity - len(self._table))
        return found

    def _insert(self, ids: IdArray, embeddings: FloatArray, times: IdArray, mark: int) -> None:
        fresh = np.zeros(0, np.float32) if self._serving else self._config.fresh_slots()
        embeddings = self._nearest(embeddings)
        for one, embedding, time in zip(ids.tolist(), embeddings, times.tolist(), strict=True):
            _, last = self._pending.pop(one, (0, time))
            self._table[one] = _Row(embedding.copy(), fresh.copy(), max(time, last), mark)
            self._removed.pop(one, None)

    def _nearest(self, rows: FloatArray) -> FloatArray:
        return rounded(rows, self._precision) if len(rows) else rows

    def _assign(self, ids: IdArray, rows: FloatArray, times: IdArray | None) -> None:
        check_assign(self._arguments, ids, rows)
        if self._capacity is not None and len(ids) > self._capacity:
            raise self._arguments.over_capacity("rows", self._capacity)
        with self._lock:
            mark = self._next_mark()
            present = self._contains(ids)
            moments = self._moments(times, len(ids))
            self._make_room(ids, np.ones_like(ids), ~present, mark)
            nearest = self._nearest(rows[present])
            for one, embedding, time in zip(ids[present].tolist(), nearest, moments[present].tolist(), strict=True):
                row = self._table[one]
                row.embedding, row.mark = embedding.copy(), mark
                row.time = row.time if times is None else max(row.time, time)
            for one in ids[~present].tolist():
                self._pending.pop(one, None)
            self._insert(ids[~present], rows[~present], moments[~present], mark)
            self._bound_removals()

    def _drop(self, ids: list[int], mark: int) -> None:
        for one in ids:
            del self._table[one]
            if self._kept:
                self._removed[one] = mark

    def _bound_removals(self) -> None:
        """Forget the oldest removals beyond the limit: who has not seen them by now starts from all rows."""
        limit = removal_limit(self._config)
        if limit is not None and len(self._removed) > limit:
            self._forget(sorted(self._removed.values())[-(limit // 2) - 1])

    def _remove(self, ids: IdArray) -> int:
        with self._lock:
            mark = self._next_mark()
            present = [one for one in dict.fromkeys(ids.tolist()) if one in self._table]
            self._drop(present, mark)
            for one in ids.tolist():
                self._pending.pop(one, None)
            self._bound_removals()
            return len(present)

    def _evict(self, before: int) -> int:
        if not self._timed:
            raise self._arguments.no_event_times("evict")
        with self._lock:
            mark = self._next_mark()
            expired = [one for one, row in self._table.items() if row.time < before]
            self._drop(expired, mark)
            self._pending = {one: seen for one, seen in self._pending.items() if seen[1] >= before}
            self._evicted += len(expired)
            self._bound_removals()
            return len(expired)

    def _clear(self) -> None:
        with self._lock:
            self._drop(list(self._table), self._next_mark())
            self._pending.clear()
            self._bound_removals()

    def mark(self) -> int:
        """Return the number of operations so far."""
        with self._lock:
            return self._mark

    def _changes(self, since: int) -> tuple[IdArray, FloatArray, IdArray]:
        with self._lock:
            everything = not self._kept and since == 0
            if not everything and not self._floor <= since <= self._mark:
                raise self._arguments.stale(since, self._floor, self._mark)
            put = sorted(one for one, row in self._table.items() if row.mark > since)
            removed = sorted(one for one, mark in self._removed.items() if mark > since)
            return np.array(put, np.int64), self._embeddings(put), np.array(removed, np.int64)

    def _rows(self) -> tuple[IdArray, FloatArray]:
        with self._lock:
            ids = sorted(self._table)
            return np.array(ids, np.int64), self._embeddings(ids)

    def _embeddings(self, ids: list[int]) -> FloatArray:
        return _stack([self._table[one].embedding for one in ids], self._config.dim)

    def _forget(self, mark: int) -> None:
        with self._lock:
            if not 0 <= mark <= self._mark:
                raise self._arguments.future(mark, self._mark)
            self._floor = max(self._floor, mark)
            self._removed = {one: at for one, at in self._removed.items() if at > self._floor}

    def stats(self) -> TableStats:
        """Return numbers about the table; bytes are an estimate here, and a dict's load is not known (1 if any)."""
        with self._lock:
            floats = self._config.dim + slot_count(self._config, self._serving)
            size = len(self._table) * (4 * floats + _ROW_OVERHEAD_BYTES) + len(self._pending) * 200
            sketch = 0 if self._sketch is None else self._sketch.nbytes
            return TableStats(
                rows=len(self._table), bytes=size + len(self._removed) * 100 + sketch, admitted=self._admitted,
                filtered=self._filtered, evicted=self._evicted, load=float(bool(self._table)),
                pending=len(self._pending), capacity=self._capacity, max_bytes=self._config.storage.max_bytes,
            )  # fmt: skip

    def _export(self) -> TableParts:
        with self._lock:
            ids, waiting, removed = sorted(self._table), sorted(self._pending), sorted(self._removed)
            rows = [self._table[one] for one in ids]
            return TableParts(
                ids=np.array(ids, np.int64), rows=self._embeddings(ids),
                slots=_stack([row.slots for row in rows], slot_count(self._config, self._serving)),
                times=np.array([row.time for row in rows], np.int64),
                marks=np.array([row.mark for row in rows], np.int64),
                frequencies=np.array([row.frequency for row in rows], np.uint8),
                pending_ids=np.array(waiting, np.int64),
                pending_counts=np.array([self._pending[one][0] for one in waiting], np.int64),
                pending_times=np.array([self._pending[one][1] for one in waiting], np.int64),
                removed_ids=np.array(removed, np.int64),
                removed_marks=np.array([self._removed[one] for one in removed], np.int64),
                mark=self._mark, floor=self._floor, admitted=self._admitted, filtered=self._filtered,
                evicted=self._evicted, halvings=self._halvings, newest=self._newest,
                sketch=np.zeros(0, np.uint8) if self._sketch is None else self._sketch.data(),
            )  # fmt: skip

    def _import(self, parts: TableParts) -> None:
        sketch = self._imported(parts)
        embeddings = self._nearest(parts.rows)
        times = parts.times if self._timed else np.zeros_like(parts.times)
        frequencies = parts.frequencies if self._aged else np.zeros_like(parts.frequencies)
        rows = zip(embeddings, parts.slots, times.tolist(), parts.marks.tolist(), frequencies.tolist(), strict=True)
        table = {
            one: _Row(row.copy(), slots.copy(), time, mark, frequency)
            for one, (row, slots, time, mark, frequency) in zip(parts.ids.tolist(), rows, strict=True)
        }
        waited = parts.pending_times if self._timed else np.zeros_like(parts.pending_times)
        counts = zip(parts.pending_counts.tolist(), waited.tolist(), strict=True)
        pending = dict(zip(parts.pending_ids.tolist(), counts, strict=True))
        removed = dict(zip(parts.removed_ids.tolist(), parts.removed_marks.tolist(), strict=True))
        with self._lock:
            self._table, self._pending, self._removed = table, pending, removed if self._kept else {}
            self._mark = parts.mark
            self._floor = max(parts.floor, parts.mark - HISTORY) if self._kept else parts.mark
            self._admitted, self._filtered, self._evicted = parts.admitted, parts.filtered, parts.evicted
            self._halvings = parts.halvings
            self._newest, self._sketch = parts.newest if self._timed else NEVER, sketch
            self._forget(self._floor)
            self._bound_removals()

    def _imported(self, parts: TableParts) -> Sketch | None:
        """Check that parts have room here, and return their sketch."""
        if self._capacity is not None:
            waiting = pending_limit(self._capacity)
            for ids, limit in ((parts.ids, self._capacity), (parts.pending_ids, waiting)):
                if len(ids) > limit:
                    raise self._arguments.over_capacity("restore", limit)
        if not isinstance(self._admission, AdmitSketch):
            return None
        sketch = self._admission.sketch()
        if len(parts.sketch) not in (0, sketch.nbytes):
            raise self._arguments.sketch(len(parts.sketch), sketch.nbytes)
        if len(parts.sketch):
            sketch.load(parts.sketch)
        return sketch


def _stack(rows: list[FloatArray], width: int) -> FloatArray:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
