"""The work of preparing, cut into tasks that any process can do: encode a piece, count it, give it ids.

Tasks hand files to each other, never rows: an encoded piece and its prepared successor are Arrow files in one folder.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa

from headrace.config import require
from headrace.data.examples import RowPiece
from headrace.data.prepare_columns import Preparation
from headrace.data.prepare_encode import CARRIED, encode_all
from headrace.data.prepare_fit import Counts, count
from headrace.data.prepare_split import Split, part_names
from headrace.data.prepare_statistics import PreparedStatistics
from headrace.data.statistics_file import load_statistics
from headrace.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
IN_FLIGHT = 2
"""Tasks per process that were handed out and not fetched yet: bounds the memory of the process that hands them out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every task has to know."""

    preparation: Preparation
    split: Split | None
    folder: Path

    @property
    def carried(self) -> tuple[str, ...]:
        """Raw columns that the split reads."""
        return self.split.columns if self.split is not None else ()

    @property
    def read(self) -> list[str]:
        """Raw columns that are read from files; optional ones are only read where all columns are."""
        own = self.preparation
        return list(dict.fromkeys((*own.raw_columns, own.label, *own.extra_labels, *own.keep, *self.carried)))

    @property
    def has_optional(self) -> bool:
        """Whether a file may lack one of them."""
        return any(column.optional for column in self.preparation.columns)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A piece that was encoded: its file and its rows."""

    path: Path
    rows: int


@dataclass(frozen=True, slots=True)
class Placed:
    """An encoded piece of which it is known where in the data it stands."""

    piece: Encoded
    first: int
    total: int


def encode_piece(plan: Plan, numbered: tuple[int, RowPiece]) -> Encoded:
    """Parse and encode a piece into a file of its own."""
    number, piece = numbered
    batch = piece.read(None if plan.has_optional else plan.read)
    encoded = encode_all(batch, plan.preparation, plan.carried)
    path = plan.folder / f"{number:08d}.arrow"
    _write(encoded, path)
    return Encoded(path, encoded.num_rows)


def count_piece(plan: Plan, placed: Placed) -> Counts:
    """Count the training rows of an encoded piece."""
    batch = _read(placed.piece.path)
    parts = _parts(plan, placed, batch)
    if parts is not None and not (parts == 0).all():
        batch = batch.filter(pa.array(parts == 0)) if (parts == 0).any() else batch.slice(0, 0)
    return count(batch, plan.preparation)


def count_rows(preparation: Preparation, piece: RowPiece) -> Counts:
    """Parse, encode and count a piece, all rows of which are training rows."""
    return count(encode_all(piece.read(None), preparation, ()), preparation)


def place_piece(plan: Plan, statistics: Path, placed: Placed) -> list[tuple[int, Path]]:
    """Write the prepared rows of an encoded piece, one file per part that it has rows of; ids as int32."""
    batch = _read(placed.piece.path)
    parts = _parts(plan, placed, batch)
    prepared = prepared_rows(batch, _statistics(statistics))
    written = []
    for part in range(len(part_names(plan.split))):
        rows = prepared
        if parts is not None and not (parts == part).all():
            if not (parts == part).any():
                continue
            rows = prepared.filter(pa.array(parts == part))
        path = placed.piece.path.with_suffix(f".{part}")
        _write(rows, path)
        written.append((part, path))
    return written


def prepared_rows(encoded: pa.RecordBatch, statistics: PreparedStatistics) -> pa.RecordBatch:
    """Return encoded rows as they are stored: ids int32, lists list<int32>, numbers and labels float32."""
    preparation = statistics.preparation
    columns: dict[str, pa.Array] = {}
    for at, column in enumerate(preparation.columns):
        for name, array in statistics.prepared(encoded.column(at), column).items():
            columns[name] = _narrow(array)
    for name in (preparation.label, *preparation.extra_labels, *preparation.keep):
        columns[name] = encoded.column(encoded.schema.get_field_index(f"{CARRIED}{name}"))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


class Workers:
    """Processes that do tasks; used as a context.

    Args:
        count: 1: everything happens here. More: that many processes, started anew at the first task, from a server
            that has imported what they need (where the system has such a thing).

    Raises (both methods):
        DataError: If a process died (most likely for lack of memory).
    """

    def __init__(self, count: int) -> None:
        require(count >= 1, "processes", got=count, expected="a positive integer")
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of a task for all items, in their order.

        Args:
            task: A function of a module, or a `functools.partial` of one.
            items: May be made while tasks run; few are held at a time.
        """
        if self._count == 1:
            yield from map(task, items)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._count, mp_context=_context(), initializer=_settle)
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(task, item))
                if len(waiting) >= IN_FLIGHT * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "Preparing", got="a process that died", expected="processes that end by themselves",
                do="Was there too little memory? Take fewer processes or smaller pieces.",
            ) from error  # fmt: skip
        finally:
            for future in waiting:
                future.cancel()


def _context() -> BaseContext:
    """Return how processes are started: never as a copy of this one, which has threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _settle() -> None:
    """Keep a worker to one core."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def _parts(plan: Plan, placed: Placed, batch: pa.RecordBatch) -> np.ndarray | None:
    if plan.split is None:
        return None
    carried = [batch.schema.get_field_index(f"{CARRIED}{name}") for name in plan.carried]
    raw = pa.RecordBatch.from_arrays([batch.column(at) for at in carried], names=list(plan.carried))
    if not carried:
        raw = batch.select([0])
    return plan.split.parts(raw, placed.first, placed.total)


@lru_cache(maxsize=1)
def _statistics(path: Path) -> PreparedStatistics:
    return load_statistics(path)


def _narrow(array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(array.offsets, array.flatten().cast(pa.int32()))
    return array.cast(pa.int32()) if pa.types.is_int64(array.type) else array


def _write(batch: pa.RecordBatch, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _read(path: Path) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).get_batch(0)
