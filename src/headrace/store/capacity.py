"""How many rows fit into `max_bytes`, and which go when there are more.

Everything that a table holds is counted before a row is given room: heads and rows with the chunks they lie in, the
map at its emptiest, the filter at its fullest, a sixteenth of the budget for removals that are not forgotten yet and
a sixteenth for the copies that a snapshot takes while learning goes on. The number of rows is therefore a pure
function of the configuration, known before the first row, and the same for every implementation.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.store.admission import Admission, AdmitCount, AdmitSketch
from headrace.store.hashing import IdArray
from headrace.store.precision import encoded_bytes
from headrace.store.sketch import sketch_bytes
from headrace.store.storage import LFU, Storage

MIN_ROWS = 64
"""A budget has to hold at least so many rows."""

MAX_ROWS = 2**32 - 2
"""Rows are numbered in 32 bits."""

_FIXED = 64 << 10
_CHUNK = 2 << 20
_CHUNK_CELLS = 65_536
_COUNTERS = 3
_REMOVAL = 100  # 24 bytes where each has a mark of its own, twice before compaction, twice while vectors grow
SHARES = 16
"""Removals and snapshot copies get one part each of so many."""


class Planned(Protocol):
    """What the size of a table follows from: a TableConfig."""

    @property
    def name(self) -> str:
        """Name, for messages."""
        ...

    @property
    def dim(self) -> int:
        """Floats per embedding."""
        ...

    def slot_count(self) -> int:
        """Return the floats kept beside an embedding."""
        ...

    @property
    def admission(self) -> Admission:
        """Which ids get a row."""
        ...

    @property
    def storage(self) -> Storage:
        """How rows are kept."""
        ...


def head_bytes(config: Planned, serving: bool = False) -> int:
    """Return the bytes of a row's head: id, and event time, mark and frequency where they are kept."""
    storage = config.storage
    kept = 8 * storage.event_times + 4 * storage.keeps_history(serving) + storage.keeps_frequencies(serving)
    return 8 + int(kept)


def row_bytes(config: Planned, serving: bool = False) -> int:
    """Return the bytes of a row's embedding and slots."""
    embedding = encoded_bytes(config.storage.row_precision(serving), config.dim)
    return (embedding + 3) // 4 * 4 + (0 if serving else 4 * config.slot_count())


def _held(rows: int, head: int, body: int) -> int:
    """Return the most bytes that heads, rows and map of up to `rows` rows take.

    Chunks: up to 2 MiB of heads and of rows are spare, or twice what is used while the first chunk doubles.
    """
    chunks = sum(rows * cell + min(max(_CHUNK, cell), 2 * rows * cell) for cell in (head, body))
    return chunks + map_bytes(rows)


def map_bytes(rows: int) -> int:
    """Return the most bytes that the map and the bitmaps of up to `rows` rows take.

    Map: 8 bytes a place; a stripe grows by an eighth at a load of 0.83 and one of 256 is copied at a time, 11.2 bytes
    a row; and each stripe stays as long as its fullest moment needed, six standard deviations above the mean.
    Bitmaps: 3 bytes per 16 rows of room, twice when their vectors double.
    """
    return rows * 112 // 10 + 1024 * math.isqrt(rows) + (rows + min(rows, _CHUNK_CELLS)) * 3 // 8


def content_bytes(config: Planned, rows: int, serving: bool = False) -> int:
    """Return the most bytes that a bounded table of up to `rows` rows holds, without removals and snapshot copies."""
    storage = config.storage
    ages = isinstance(storage.when_full, LFU) and not serving
    head = head_bytes(config, serving) + (ages and not storage.keeps_frequencies(serving))
    total = _FIXED + _held(rows, head, row_bytes(config, serving))
    if storage.disk is not None:  # chunks in the file are whole, and rows in memory have counters
        total += 2 * _CHUNK * min(rows, 1) + _COUNTERS * rows
    if not serving and isinstance(config.admission, AdmitCount):
        total += _held(pending_limit(rows), 8 + 8 * storage.event_times + 4 * storage.history, 8)
    if not serving and isinstance(config.admission, AdmitSketch):
        total += sketch_bytes(config.admission.cells_per_bucket)
    return total


def _shares(config: Planned, serving: bool) -> int:
    return 1 + config.storage.keeps_history(serving)  # snapshot copies, and removals where they are kept


def bytes_for(config: Planned, rows: int, serving: bool = False) -> int:
    """Return the smallest `max_bytes` with which a table holds `rows` rows.

    Example:
        >>> from headrace.store import TableConfig
        >>> round(bytes_for(TableConfig(name="user", dim=16), 1_000_000) / 1e6)
        190
    """
    need, shares = content_bytes(config, rows, serving), _shares(config, serving)
    total = need * SHARES // (SHARES - shares)
    while total - total * shares // SHARES < need:
        total += 1
    while total - 1 - (total - 1) * shares // SHARES >= need:
        total -= 1
    return total


def capacity_rows(config: Planned, serving: bool = False) -> int | None:
    """Return how many rows a table holds at most, or None without `max_bytes`. Never falls when `max_bytes` rises."""
    budget = config.storage.max_bytes
    if budget is None:
        return None
    usable = budget - budget * _shares(config, serving) // SHARES
    low, high = 0, min(budget // 8, MAX_ROWS)
    while low < high:
        middle = (low + high + 1) // 2
        if content_bytes(config, middle, serving) <= usable:
            low = middle
        else:
            high = middle - 1
    return low


def require_room(config: Planned) -> None:
    """Refuse a budget that is too small for `MIN_ROWS` rows, in training or in serving."""
    budget = config.storage.max_bytes
    if budget is None:
        return
    need = max(bytes_for(config, MIN_ROWS, serving) for serving in (False, True))
    require(budget >= need, f"Storage.max_bytes of table '{config.name}'", got=budget,
            expected=f"at least {need}, room for {MIN_ROWS} rows",
            do="headrace.store.bytes_for tells what a number of rows needs.")  # fmt: skip


def pending_limit(capacity: int) -> int:
    """Return how many ids may wait for admission beside `capacity` rows."""
    return capacity // 4 + 64


def removal_limit(config: Planned) -> int | None:
    """Return how many removals the change history holds, or None without `max_bytes`.

    When there are more after an operation, the oldest are forgotten until at most half as many remain, those of one
    operation together.
    """
    budget = config.storage.max_bytes
    return None if budget is None else budget // SHARES // _REMOVAL


def capture_limit(config: Planned) -> int | None:
    """Return the bytes that a snapshot may copy while learning goes on, or None without `max_bytes`."""
    budget = config.storage.max_bytes
    return None if budget is None else budget // SHARES


def going(excess: int, limit: int, others: int) -> int:
    """Return how many of `others` go when there are `excess` too many for `limit`: a few more, to be quiet for long."""
    return 0 if excess <= 0 else min(max(excess, limit // 64), others)


def victims(
    ids: IdArray, times: IdArray, frequencies: IdArray, oldest: int | None, count: int
) -> npt.NDArray[np.int64]:
    """Return the `count` ids that go first: expired ones, then by frequency, event time and id.

    Args:
        ids: Ids (N,) that may go.
        times: Event time (N,) of the last touch.
        frequencies: Frequency (N,), all the same where none is kept.
        oldest: Rows last touched before this time have expired; None: none has.
        count: How many, at most N.
    """
    alive = np.ones(len(ids), np.bool_) if oldest is None else np.array([time >= oldest for time in times.tolist()])
    return np.asarray(ids[np.lexsort((ids, times, frequencies, alive))[:count]], dtype=np.int64)


def most_frequent(ids: IdArray, counts: IdArray, room: int) -> npt.NDArray[np.bool_]:
    """Return which of ids (N,) are kept (N,) when only `room` may be: most occurrences first, then smaller ids."""
    kept = np.zeros(len(ids), np.bool_)
    kept[np.lexsort((ids, ~counts))[:room]] = True  # ~ turns the order round and, unlike -, never overflows
    return kept
