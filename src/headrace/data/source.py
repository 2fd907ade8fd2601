"""Sources of events: rows in memory, and files replayed in event time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from headrace.config import require
from headrace.data.files import sha256
from headrace.data.layout import Layout
from headrace.data.replay import BadRows, EventPiece, event_pieces
from headrace.errors import DataError, HeadraceError, SchemaError, SourceEnded, nearest
from headrace.types import Events, Position

logger = logging.getLogger(__name__)

SORTED = "(sorted)"
"""What a position calls files that were sorted together."""


class TableSource:
    """A source that makes events from the rows of a columnar table when they are read.

    Keeps a large data set as compact columns; request keys and other wide columns exist for one read at a time.
    `read` returns exactly `limit` rows until the last.

    Args:
        table: Rows in the order of the stream.
        make: Turns a slice of the table into events, row by row.
        name: What the position calls the table.
    """

    def __init__(self, table: pa.Table, make: Callable[[pa.Table], Events], *, name: str = "table") -> None:
        self._table, self._make, self._name, self._at = table, make, name, 0

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` next rows; SourceEnded after the last."""
        _check_limit(limit)
        if self._at >= len(self):
            raise SourceEnded(f"Source '{self._name}'", got=f"the end after {len(self)} rows")
        part = self._make(self._table.slice(self._at, limit))
        self._at += len(part)
        return part

    def position(self) -> Position:
        """Return how many rows were read."""
        return {self._name: self._at}

    def seek(self, position: Position) -> None:
        """Go to a position; `{}` is the beginning."""
        _check_position(position, [self._name])
        at = position.get(self._name, 0)
        if at > len(self):
            raise DataError(f"Position of '{self._name}'", got=f"row {at}", expected=f"at most {len(self)}",
                            do="The rows have changed since the position was taken.")  # fmt: skip
        self._at = at


class MemorySource(TableSource):
    """A source over events in memory.

    Args:
        events: One or more batches; columns absent in some are null there.
        name: What the position calls them.

    Raises:
        SchemaError: If the batches disagree about the type of a column.
    """

    def __init__(self, events: Events | Sequence[Events], *, name: str = "memory") -> None:
        parts = [events] if isinstance(events, Events) else list(events)
        try:
            table = pa.Table.from_batches([Events.concat(parts).batch]) if parts else pa.table({})
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SchemaError("MemorySource", got=str(error), expected="batches with the same column types") from error
        super().__init__(table, _events, name=name)


def _events(table: pa.Table) -> Events:
    return Events(table.combine_chunks().to_batches()[0])


class FileSource:
    r"""Files replayed as events: CSV, TSV, JSON lines, libFM, Parquet or Arrow; plain, gzip or zstd; streamed.

    The files are read one after another. With `order="time"` they are first scanned for event times; rows that are not
    in order are then sorted in memory, if they fit. `read` returns exactly `limit` rows until the last, so what is read
    depends on the position alone.

    Args:
        paths: One file or several.
        layout: How their rows become events.
        order: `"time"`: event-time order, whatever the files' order; `"file"`: as the rows stand there.
        on_bad_row: `"raise"`, or `"skip"` malformed rows: `bad_rows` counts them and the first is logged.
        sort_bytes: Largest size in memory that may be sorted.

    Raises:
        ConfigError: If there is no file, or two have the same name (positions go by name).
        DataError: If a file does not exist.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "clicks.csv")
        ...     _ = path.write_text("user,item,at\nu1,i1,11\nu2,i2,10\n")
        ...     source = FileSource(path, Layout(time="at", time_unit="s", key=("user",), kind="click"))
        ...     source.read(10).column("item").to_pylist()
        ['i2', 'i1']
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        layout: Layout | None = None,
        *,
        order: Literal["time", "file"] = "time",
        on_bad_row: Literal["raise", "skip"] = "raise",
        sort_bytes: int = 1 << 30,
    ) -> None:
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        self.paths = tuple(Path(path) for path in given)
        self.layout = layout or Layout()
        names = [path.name for path in self.paths]
        require(bool(names), "FileSource, paths", got=given, expected="at least one file")
        require(len(set(names)) == len(names), "FileSource, paths", got=names, expected="different file names")
        require(order in ("time", "file"), "FileSource, order", got=order, expected="'time' or 'file'")
        require(on_bad_row in ("raise", "skip"), "FileSource, on_bad_row", got=on_bad_row, expected="'raise' or 'skip'")
        timed = self.layout.time is not None
        require(timed or len(names) == 1, "Layout, time", got="None for several files",
                expected="a time column, which says how the files' rows follow each other")  # fmt: skip
        for path in self.paths:
            if not path.is_file():
                raise DataError(f"File {path}", got="no such file", expected="an existing file")
        self.bad_rows = BadRows(on_bad_row)
        self._sort_bytes = sort_bytes
        self._in_file_order: bool | None = True if order == "file" or not timed else None  # None: unknown yet
        self._sorted: MemorySource | None = None
        self._at: Position = {}
        self._pieces: Iterator[EventPiece] | None = None
        self._rest: EventPiece | None = None

    def hashes(self) -> dict[str, str]:
        """Return file name to SHA-256, for the run record."""
        return {path.name: sha256(path) for path in self.paths}

    def read(self, limit: int) -> Events | None:
        """Return the next `limit` rows, fewer only at the end; SourceEnded after the last.

        Raises:
            DataError: For a malformed row (file, line, got, expected), a damaged file, or files that are out of order
                and too large to sort.
            SchemaError: If a column that the layout names is missing.
        """
        _check_limit(limit)
        if self._in_file_order is None:
            self._in_file_order = self._check_order()
        if not self._in_file_order:
            return self._sorted_source().read(limit)
        before = dict(self._at)
        try:
            parts = self._take_all(limit)
        except HeadraceError:
            self._at, self._pieces, self._rest = before, None, None  # nothing was read; asking again says the same
            raise
        if not parts:
            raise SourceEnded(f"Files {[path.name for path in self.paths]}", got="the end")
        return Events.concat(parts)

    def position(self) -> Position:
        """Return how many rows of each file were read, bad ones included; of sorted files, how many in all."""
        return self._sorted.position() if self._sorted is not None else dict(self._at)

    def seek(self, position: Position) -> None:
        """Go to a position; `{}` is the beginning. Rows before it are passed over without being parsed, if possible."""
        _check_position(position, [*(path.name for path in self.paths), SORTED])
        self._at, self._pieces, self._rest = dict(position), None, None
        self.bad_rows = BadRows(self.bad_rows.action)
        if self._sorted is not None:
            self._sorted.seek(self._known(sorted_files=True))

    def _known(self, *, sorted_files: bool) -> Position:
        """Return the position, unless it was taken when the files were in another state."""
        if self._at and (SORTED in self._at) != sorted_files:
            raise DataError("Position", got=str(self._at),
                            expected=f"one of these files {'sorted' if sorted_files else 'as they stand'}",
                            do="The files, or `order`, have changed since it was taken.")  # fmt: skip
        return self._at

    def _take_all(self, wanted: int) -> list[Events]:
        parts: list[Events] = []
        while wanted and (part := self._take(wanted)) is not None:
            parts.append(part)
            wanted -= len(part)
        return parts

    def _take(self, wanted: int) -> Events | None:
        """Return at most `wanted` rows from the piece at hand or the next one, and move the position."""
        if self._rest is None:
            if self._pieces is None:
                self._pieces = self._all(BadRows(self.bad_rows.action), self._known(sorted_files=False))
            self._rest = next(self._pieces, None)
            if self._rest is None:
                return None
        piece, self._rest = self._rest, None
        if len(piece.rows) <= wanted:
            self._at[piece.file] = piece.stop
            return piece.events
        self._at[piece.file] = int(piece.rows[wanted])
        self._rest = EventPiece(piece.events.slice(wanted), piece.rows[wanted:], piece.stop, piece.file)
        return piece.events.slice(0, wanted)

    def _all(self, bad: BadRows, start: Position) -> Iterator[EventPiece]:
        self.bad_rows = bad if bad.action != "ignore" else self.bad_rows
        for path in self.paths:
            yield from event_pieces(path, self.layout, bad, start.get(path.name, 0))

    def _check_order(self) -> bool:
        """Scan the event times of all files up to the first that goes back."""
        last = np.iinfo(np.int64).min
        for piece in self._all(BadRows("ignore"), {}):
            times = piece.events.times
            if times[0] < last or bool((times[1:] < times[:-1]).any()):
                return False
            last = times[-1]
        return True

    def _sorted_source(self) -> MemorySource:
        if self._sorted is None:
            parts, size = [], 0
            for piece in self._all(BadRows(self.bad_rows.action), {}):
                size += piece.events.batch.nbytes
                if size > self._sort_bytes:
                    raise DataError(f"Files {[path.name for path in self.paths]}",
                                    got=f"rows out of time order that take more than {self._sort_bytes} bytes",
                                    expected="files in event-time order, or smaller ones",
                                    do="Sort the files by time, raise sort_bytes, or set order='file'.")  # fmt: skip
                parts.append(piece.events)
            events = Events.concat(parts)
            logger.info("sorted %d rows of %d file(s) by event time", len(events), len(self.paths))
            source = MemorySource(events.take(np.argsort(events.times, kind="stable")), name=SORTED)
            source.seek(self._known(sorted_files=True))
            self._sorted = source
        return self._sorted


def _check_limit(limit: int) -> None:
    require(limit >= 1, "Source, limit", got=limit, expected="a positive number of rows")


def _check_position(position: Position, names: Sequence[str]) -> None:
    for name, row in position.items():
        if name not in names:
            raise DataError("Position", got=repr(name), expected=nearest(name, names),
                            do="It belongs to another source.")  # fmt: skip
        require(row >= 0, f"Position of '{name}'", got=row, expected="0 or more")
