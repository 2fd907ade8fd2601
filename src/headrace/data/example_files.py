"""Labelled rows of raw files as batches, again and again, in another order each time: no preparing, no log.

Parquet, CSV, TSV, libFM, JSON lines and Arrow, with any schema. Rows become tensors column by column; no Python object
is made per row. Units of files (row groups, blocks of lines) are decoded by several threads or processes, and what
comes out does not depend on how many.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headrace.config import require
from headrace.data.collate import collate
from headrace.data.example_units import UNIT_ROWS, StreamUnit, Unit, streamed, units_of
from headrace.data.features import RESERVED, Schema
from headrace.data.formats import Piece
from headrace.data.layout import Layout, event_times
from headrace.data.prepare_statistics import PreparedStatistics, check_preparation
from headrace.data.prepare_work import Workers
from headrace.data.replay import BadRows
from headrace.data.windows import SHUFFLE_ROWS, BatchWindow, WindowedBatches
from headrace.errors import DataError
from headrace.types import Batch, Events, Jagged

Item = TypeVar("Item")
Result = TypeVar("Result")

ABSENT_TIME = "event_time"
"""The time column of a plain layout; without it all rows have the time 0."""

MAX_WORKERS = 64

KEEP_BYTES = 256 << 20
"""Decoded rows that are kept for the next epoch, unless somebody says otherwise."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """What is done with the rows of a unit; can be sent to another process."""

    schema: Schema
    layout: Layout
    preparation: PreparedStatistics | None
    columns: tuple[str, ...] | None

    @staticmethod
    def of(schema: Schema, layout: Layout, preparation: PreparedStatistics | None) -> Decoding:
        """Find out which columns have to be read; None: all of them, because the layout makes columns of its own."""
        if layout.derive is not None or layout.rename or layout.keep is not None:
            return Decoding(schema, layout, preparation, None)
        contract = [name for name in RESERVED if name not in ("key", "kind", "item", "value")]
        labels = [label.name for label in (schema.label, *schema.extra_labels)]
        read = list(schema.columns) if preparation is None else list(preparation.preparation.raw_columns)
        times = [] if layout.time is None else [layout.time]
        names = [*read, *labels, *([schema.weight] if schema.weight else []), *times, *contract, *layout.types]
        return Decoding(schema, layout, preparation, tuple(dict.fromkeys(names)))

    def batch(self, rows: pa.RecordBatch, first: int, path: Path) -> Batch:
        """Return rows as a batch; `first` is the number of the first of them among all rows."""
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        count = rows.num_rows
        columns["event_time"] = self._times(rows, path)
        for name in ("key", "kind"):
            if name not in columns or columns[name].type != pa.string():
                columns[name] = pa.repeat(pa.scalar(""), count)
        columns.setdefault("example_id", pa.array(np.arange(first, first + count)))
        events = Events.from_columns(columns)
        if self.preparation is not None:
            events = self.preparation.transform(events)
        return collate(events, self.schema)

    def _times(self, rows: pa.RecordBatch, path: Path) -> pa.Array:
        layout = self.layout
        if layout.time is None:
            return pa.array(np.zeros(rows.num_rows, np.int64))
        name = layout.rename.get(layout.time, layout.time)
        if name == ABSENT_TIME and name not in rows.schema.names:
            return pa.array(np.zeros(rows.num_rows, np.int64))
        numbers = np.arange(rows.num_rows)
        times, flaws = event_times(rows, replace(layout, time=name), numbers)
        if flaws:
            BadRows("raise").report(flaws, Piece(rows, numbers, flaws, rows.num_rows, lambda row: f"row {row}"), path)
        return times


@dataclass(frozen=True, slots=True)
class Placed:
    """A unit, and the number of its first row among all."""

    unit: Unit
    first: int


class ExampleFiles:
    r"""Labelled rows of files as an `ExampleSet`: a split to learn from, or to judge on.

    Args:
        paths: One file or several; their rows follow each other.
        schema: What is read from the rows.
        layout: Names, types, delimiter, derived and renamed columns, time; keys and kinds are not made.
        preparation: What raw rows are prepared with before they are read; None: rows come as the schema has them.
        workers: Threads that decode beside the one that asks for batches; 0: that one decodes. It can be changed on
            the batches (`workers`) while they are read.
        processes: Whether they are processes. For text with many distinct strings, where threads wait for each other.
        shuffle_rows: Least number of rows among which is shuffled, memory for about three times as many.
        keep_bytes: Memory in which decoded units stay, so that later epochs need not read and decode them again; what
            does not fit is read every time. Files that change meanwhile are not noticed. 0: everything is read.

    Raises:
        ConfigError: If there is no file, or a setting cannot work.
        DataError: If a file does not exist, is damaged, or has no rows.

    Cost: opening reads every text file once to count rows and find units (at the speed of a search for line breaks),
        of Parquet and Arrow files only what they say of themselves.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from headrace.data import IdFeature
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "clicks.csv")
        ...     _ = path.write_text("label,user\n1,ann\n0,bob\n1,ann\n")
        ...     rows = ExampleFiles(path, Schema(features=(IdFeature("user", 4),)), Layout(types={"label": "float32"}))
        ...     [batch.labels.tolist() for batch in rows.batches(2)]
        [[1.0, 0.0], [1.0]]
    """

    def __init__(
        self, paths: Path | str | Sequence[Path | str], schema: Schema, layout: Layout | None = None, *,
        preparation: PreparedStatistics | None = None, workers: int = 0, processes: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS, keep_bytes: int = KEEP_BYTES,
    ) -> None:  # fmt: skip
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        require(bool(given), "ExampleFiles, paths", got=given, expected="at least one file")
        require(0 <= workers <= MAX_WORKERS, "ExampleFiles, workers", got=workers, expected=f"0 to {MAX_WORKERS}")
        require(shuffle_rows >= 1, "ExampleFiles, shuffle_rows", got=shuffle_rows, expected="a positive integer")
        require(keep_bytes >= 0, "ExampleFiles, keep_bytes", got=keep_bytes, expected="0 or more")
        check_preparation(schema, preparation)
        self.paths, self.schema, self.layout = tuple(Path(path) for path in given), schema, layout or Layout()
        self.workers, self.processes, self.shuffle_rows = workers, processes, shuffle_rows
        for path in self.paths:
            if not path.is_file():
                raise DataError(f"File {path}", got="no such file", expected="an existing file")
        self.units = [unit for path in self.paths for unit in units_of(path, self.layout)]
        self._rows = sum(unit.rows for unit in self.units)
        if not self._rows:
            raise DataError(f"Files {[path.name for path in self.paths]}", got="no rows", expected="at least one")
        self.decoding = Decoding.of(schema, self.layout, preparation)
        self.kept = KeptUnits(keep_bytes)

    def __len__(self) -> int:
        return self._rows

    def batches(self, rows: int, order: int | None = None, *, epochs: int = 1) -> FileBatches:
        """Return an iterator over the examples: every one once per epoch, in batches of `rows` (the last one smaller).

        Args:
            rows: Examples per batch.
            order: Seed of a random order, a function of nothing else: units of files come in another order, and rows
                are shuffled within windows of them. None: as they stand.
            epochs: How often all of them are given.

        Raises:
            ConfigError: If a random order is asked for of a file that can only be read from its beginning.
        """
        for path, units in groupby(self.units, lambda unit: unit.path if isinstance(unit, StreamUnit) else None):
            require(path is None or order is None or len(list(units)) == 1, f"Order of {path}", got="a random one",
                    expected="the order of the file, because it can only be read from its beginning",
                    do="Decompress it, write it as Parquet, or prepare it (headrace.data.prepare).")  # fmt: skip
        return FileBatches(self, rows, seed=order, epochs=epochs)

    def counts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return how often every id occurs, in one pass: to warm a table up, or to size it.

        Shapes:
            Table name -> distinct ids (N,) int64 ascending, counts (N,) int64; of all features that share the table.

        Cost: one pass, and memory for the distinct ids.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for batch in self.batches(UNIT_ROWS):
            for feature in self.schema.id_features:
                found[feature.table] = _added(found.get(feature.table), batch.ids[feature.name].values)
        return found


def _added(known: tuple[Tensor, Tensor] | None, values: Tensor) -> tuple[Tensor, Tensor]:
    ids, counts = torch.unique(values, return_counts=True)
    if known is None:
        return ids, counts
    merged, places = torch.unique(torch.cat([known[0], ids]), return_inverse=True)
    return merged, torch.zeros(len(merged), dtype=torch.int64).index_add_(0, places, torch.cat([known[1], counts]))


class FileBatches(WindowedBatches[BatchWindow]):
    """An iterator over batches of raw files, epoch after epoch; resumable to the row.

    Args:
        files: What is read.
        batch_rows: Examples per batch; the last one of an epoch may have fewer.
        seed: Of the shuffling; None: rows as they stand.
        epochs: How often all rows are given.

    Attributes:
        workers: How many units are decoded at once beside the thread that asks; may be changed at any time.
    """

    def __init__(self, files: ExampleFiles, batch_rows: int, *, seed: int | None = None, epochs: int = 1) -> None:
        window_rows = 1 if seed is None else files.shuffle_rows  # without shuffling each unit is a window of its own
        super().__init__([unit.rows for unit in files.units], batch_rows, seed=seed, epochs=epochs,
                         shuffle_rows=window_rows)  # fmt: skip
        self.workers = files.workers
        self._files = files

    def _windows_from(self, epoch: int, first: int, windows: Sequence[Sequence[int]]) -> Iterator[BatchWindow]:
        decoded = self._decoded([group for groups in windows[first:] for group in groups])
        for number, groups in enumerate(windows[first:], first):
            parts = [next(decoded) for _ in groups]
            yield BatchWindow.of(parts, self.order(epoch, number, sum(len(part) for part in parts)))

    def _decoded(self, groups: Sequence[int]) -> Iterator[Batch]:
        """Yield units as batches, in order; those that were kept are not read."""
        kept, streams = self._files.kept, any(isinstance(self._files.units[group], StreamUnit) for group in groups)
        found = [kept.get(group) for group in groups]
        if streams and any(unit is None for unit in found):
            found = [None] * len(groups)  # it is read from its beginning anyhow
        fresh = self._read([group for group, unit in zip(groups, found, strict=True) if unit is None])
        for group, unit in zip(groups, found, strict=True):
            if unit is None:
                unit = next(fresh)
                kept.offer(group, unit)
            yield unit

    def _read(self, groups: Sequence[int]) -> Iterator[Batch]:
        """Yield units as batches, in order, from their files."""
        files, decoding = self._files, self._files.decoding
        placed = [Placed(files.units[group], int(self._starts[group])) for group in groups]
        if any(isinstance(one.unit, StreamUnit) for one in placed):
            yield from _streamed(decoding, placed)
        elif files.processes and files.workers:
            with Workers(files.workers) as workers:
                yield from map(_unpacked, workers.in_order(partial(_packed, decoding), placed))
        else:
            yield from in_threads(partial(_decode, decoding), placed, lambda: self.workers)

    def _batch(self, window: BatchWindow) -> Batch:
        return window.batch


class KeptUnits:
    """Units that were decoded, by their number, as many as fit.

    Args:
        limit: Bytes of their tensors.

    Thread-safety: any thread may get and offer.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._units: dict[int, Batch] = {}
        self._lock = threading.Lock()

    def get(self, group: int) -> Batch | None:
        """Return a unit that was kept."""
        return self._units.get(group)

    def offer(self, group: int, unit: Batch) -> None:
        """Keep a unit if there is room."""
        size = _bytes_of(unit) if self.bytes < self.limit else 0
        with self._lock:
            if 0 < size <= self.limit - self.bytes and group not in self._units:
                self._units[group] = unit
                self.bytes += size


def _bytes_of(unit: Batch) -> int:
    columns = [getattr(unit, item.name) for item in fields(Batch) if item.name not in _NESTED]
    lists = [part for jagged in unit.ids.values() for part in (jagged.values, jagged.offsets)]
    tensors = {id(part): part for part in (*columns, *lists, *unit.extra.values())}  # features may share offsets
    return sum(part.numel() * part.element_size() for part in tensors.values())


def in_threads(task: Callable[[Item], Result], items: Iterable[Item], limit: Callable[[], int]) -> Iterator[Result]:
    """Yield the results of a task for all items, in their order; up to `limit()` of them are worked on at once.

    With a limit of 0 the caller works itself. An error comes in the place of its result; what was begun is dropped.

    Example:
        >>> list(in_threads(lambda n: n * n, range(5), lambda: 2))
        [0, 1, 4, 9, 16]
    """
    pool: ThreadPoolExecutor | None = None
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            most = limit()
            while waiting and len(waiting) >= max(most, 1):
                yield waiting.popleft().result()
            if not most:
                yield task(item)  # nothing waits: the loop above has emptied the queue
                continue
            if pool is None:
                threads = min(MAX_WORKERS, max(os.cpu_count() or 1, most))
                pool = ThreadPoolExecutor(threads, thread_name_prefix="headrace-decode")
            waiting.append(pool.submit(task, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(decoding: Decoding, placed: Placed) -> Batch:
    unit = placed.unit
    return decoding.batch(unit.read(decoding.columns), placed.first, _path(unit))


def _streamed(decoding: Decoding, placed: Sequence[Placed]) -> Iterator[Batch]:
    """Yield units in order, those of a file that can only be read from its beginning in one walk."""
    for path, group in groupby(placed, lambda one: one.unit.path if isinstance(one.unit, StreamUnit) else None):
        run = list(group)
        if path is None:
            yield from (_decode(decoding, one) for one in run)
            continue
        stream = [one.unit for one in run if isinstance(one.unit, StreamUnit)]
        for one, rows in zip(run, streamed(stream, decoding.columns), strict=True):
            yield decoding.batch(rows, one.first, path)


def _path(unit: Unit) -> Path:
    return Path(getattr(unit, "path", ""))


Packed = dict[str, object]


def _packed(decoding: Decoding, placed: Placed) -> Packed:
    """Decode a unit in another process; arrays travel as they are, offsets of single ids not at all."""
    window = BatchWindow.of([_decode(decoding, placed)])
    batch = window.batch
    arrays = {item.name: getattr(batch, item.name).numpy() for item in fields(Batch) if item.name not in _NESTED}
    ids = {
        name: (jagged.values.numpy(), None if name in window.single else jagged.offsets.numpy())
        for name, jagged in batch.ids.items()
    }
    return arrays | {"ids": ids, "extra": {name: column.numpy() for name, column in batch.extra.items()}}


_NESTED = ("ids", "extra")


def _unpacked(packed: Packed) -> Batch:
    columns = {name: torch.from_numpy(array) for name, array in packed.items() if name not in _NESTED}
    ends = torch.arange(len(columns["labels"]) + 1)
    ids, extra = packed["ids"], packed["extra"]
    assert isinstance(ids, dict)
    assert isinstance(extra, dict)
    return Batch(
        ids={name: Jagged(torch.from_numpy(values), ends if offsets is None else torch.from_numpy(offsets))
             for name, (values, offsets) in ids.items()},
        extra={name: torch.from_numpy(column) for name, column in extra.items()}, **columns,
    )  # fmt: skip
