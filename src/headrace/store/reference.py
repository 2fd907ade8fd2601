"""ReferenceTable: a dict. It is the specification of every table, and what runs where the native one cannot.

It is written to be read: one dict per kind of thing, one lock around every operation, arithmetic by the row rule's
own NumPy step. A property test drives it and the native table side by side through every operation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.store.admission import AdmitCount, AdmitProbability
from headrace.store.arguments import check_assign, check_update
from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray
from headrace.store.parts import TableParts, slot_count
from headrace.store.row_rules import FloatArray
from headrace.store.table_config import TableConfig, TableStats

_ROW_OVERHEAD_BYTES = 400
"""About what CPython needs for a row beside its floats."""


@dataclass(slots=True)
class _Row:
    """A row: embedding (D,), slots (S,), event time of the last touch, mark of the last change."""

    embedding: FloatArray
    slots: FloatArray
    time: int
    mark: int


class ReferenceTable(CheckedTable):
    """The table as a dict; see `CheckedTable` for what every method does.

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

    def __init__(self, config: TableConfig, *, serving: bool = False) -> None:
        super().__init__(config, serving=serving)
        self._lock = threading.RLock()
        self._table: dict[int, _Row] = {}
        self._pending: dict[int, tuple[int, int]] = {}  # id -> occurrences so far, event time of the last
        self._removed: dict[int, int] = {}  # id -> mark of its removal
        self._mark = self._floor = self._admitted = self._filtered = self._evicted = 0

    def _next_mark(self) -> int:
        self._mark += 1
        if self._serving:
            self._floor = self._mark  # a serving table keeps no history
        return self._mark

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
            mark = self._next_mark()
            learns = self._admit(ids, counts, times, mark)
            self._filtered += len(ids) - int(learns.sum())
            ids, grads, times = ids[learns], grads[learns], times[learns]
            if not len(ids):
                return
            touched = [self._table[one] for one in ids.tolist()]
            embeddings = np.stack([row.embedding for row in touched])
            slots = np.stack([row.slots for row in touched])
            with np.errstate(all="ignore"):
                self._config.rule.step(embeddings, slots, grads)
            for place, (row, time) in enumerate(zip(touched, times.tolist(), strict=True)):
                row.embedding, row.slots = embeddings[place].copy(), slots[place].copy()
                row.time, row.mark = max(row.time, time), mark

    def _admit(self, ids: IdArray, counts: IdArray, times: IdArray, mark: int) -> npt.NDArray[np.bool_]:
        """Insert the ids that are admitted now, count the others, and return which ids (N,) have a row now."""
        present = self._contains(ids)
        admitted = ~present
        if isinstance(self._admission, AdmitProbability):
            key = self._config.admission_key
            admitted &= self._admission.admits(key, ids, counts, mark)
        elif isinstance(self._admission, AdmitCount):
            for place in np.flatnonzero(admitted).tolist():
                one, time = int(ids[place]), int(times[place])
                seen, last = self._pending.get(one, (0, time))
                seen += int(counts[place])
                admitted[place] = seen >= self._admission.occurrences
                if not admitted[place]:
                    self._pending[one] = (seen, max(last, time))
        self._insert(ids[admitted], self._initial(ids[admitted]), times[admitted], mark)
        self._admitted += int(admitted.sum())
        return np.asarray(present | admitted, dtype=np.bool_)

    def _insert(self, ids: IdArray, embeddings: FloatArray, times: IdArray, mark: int) -> None:
        fresh = np.zeros(0, np.float32) if self._serving else self._config.rule.fresh_slots(self._config.dim)
        for one, embedding, time in zip(ids.tolist(), embeddings, times.tolist(), strict=True):
            _, last = self._pending.pop(one, (0, time))
            self._table[one] = _Row(embedding.copy(), fresh.copy(), max(time, last), mark)
            self._removed.pop(one, None)

    def _assign(self, ids: IdArray, rows: FloatArray, times: IdArray | None) -> None:
        check_assign(self._arguments, ids, rows)
        with self._lock:
            mark = self._next_mark()
            present = self._contains(ids)
            moments = np.zeros(len(ids), np.int64) if times is None else times
            for one, embedding, time in zip(ids[present].tolist(), rows[present], moments[present], strict=True):
                row = self._table[one]
                row.embedding, row.mark = embedding.copy(), mark
                row.time = row.time if times is None else max(row.time, int(time))
            for one in ids[~present].tolist():
                self._pending.pop(one, None)
            self._insert(ids[~present], rows[~present], moments[~present], mark)

    def _drop(self, ids: list[int], mark: int) -> None:
        for one in ids:
            del self._table[one]
            if not self._serving:
                self._removed[one] = mark

    def _remove(self, ids: IdArray) -> int:
        with self._lock:
            mark = self._next_mark()
            present = [one for one in dict.fromkeys(ids.tolist()) if one in self._table]
            self._drop(present, mark)
            for one in ids.tolist():
                self._pending.pop(one, None)
            return len(present)

    def _evict(self, before: int) -> int:
        with self._lock:
            mark = self._next_mark()
            expired = [one for one, row in self._table.items() if row.time < before]
            self._drop(expired, mark)
            self._pending = {one: seen for one, seen in self._pending.items() if seen[1] >= before}
            self._evicted += len(expired)
            return len(expired)

    def _clear(self) -> None:
        with self._lock:
            self._drop(list(self._table), self._next_mark())
            self._pending.clear()

    def mark(self) -> int:
        """Return the number of operations so far."""
        with self._lock:
            return self._mark

    def _changes(self, since: int) -> tuple[IdArray, FloatArray, IdArray]:
        with self._lock:
            everything = self._serving and since == 0
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
            return TableStats(
                rows=len(self._table), bytes=size + len(self._removed) * 100, admitted=self._admitted,
                filtered=self._filtered, evicted=self._evicted, load=float(bool(self._table)),
                pending=len(self._pending),
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
                pending_ids=np.array(waiting, np.int64),
                pending_counts=np.array([self._pending[one][0] for one in waiting], np.int64),
                pending_times=np.array([self._pending[one][1] for one in waiting], np.int64),
                removed_ids=np.array(removed, np.int64),
                removed_marks=np.array([self._removed[one] for one in removed], np.int64),
                mark=self._mark, floor=self._floor, admitted=self._admitted, filtered=self._filtered,
                evicted=self._evicted,
            )  # fmt: skip

    def _import(self, parts: TableParts) -> None:
        rows = zip(parts.ids.tolist(), parts.rows, parts.slots, parts.times.tolist(), parts.marks.tolist(), strict=True)
        table = {one: _Row(row.copy(), slots.copy(), time, mark) for one, row, slots, time, mark in rows}
        counts = zip(parts.pending_counts.tolist(), parts.pending_times.tolist(), strict=True)
        pending = dict(zip(parts.pending_ids.tolist(), counts, strict=True))
        removed = dict(zip(parts.removed_ids.tolist(), parts.removed_marks.tolist(), strict=True))
        with self._lock:
            self._table, self._pending, self._removed = table, pending, removed
            self._mark, self._floor, self._admitted = parts.mark, parts.floor, parts.admitted
            self._filtered, self._evicted = parts.filtered, parts.evicted


def _stack(rows: list[FloatArray], width: int) -> FloatArray:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
