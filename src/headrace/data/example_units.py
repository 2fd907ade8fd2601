"""Files of labelled rows cut into units that can be read on their own, in any order, by any thread or process.

One pass at the beginning finds where the units are and how many rows they have: of Parquet and Arrow files it reads
what they say of themselves, of text it counts line breaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.data.examples import TEXT_FORMATS, Examples, ReadyPiece, TextPiece, finished, one_batch, refuse
from headrace.data.files import codec_of, format_of
from headrace.data.formats import Piece, TextParser
from headrace.data.layout import Layout, typed
from headrace.data.text_blocks import BYTE_ORDER_MARK, Block, blocks
from headrace.errors import DataError, SchemaError, nearest

UNIT_BYTES = 4 << 20
"""Text of a unit."""

UNIT_ROWS = 1 << 16
"""Rows of a unit of an Arrow file, at least; a Parquet file's row group is a unit whatever its size."""


class Unit(Protocol):
    """Consecutive rows of a file; can be sent to another process."""

    @property
    def rows(self) -> int:
        """How many."""
        ...

    def read(self, columns: Sequence[str] | None) -> pa.RecordBatch:
        """Return the rows: the named columns (those that are there), or all."""
        ...


@dataclass(frozen=True, slots=True)
class GroupUnit:
    """A row group of a Parquet file."""

    path: Path
    layout: Layout
    group: int
    rows: int

    def read(self, columns: Sequence[str] | None) -> pa.RecordBatch:
        """Read the row group."""
        file = pq.ParquetFile(self.path, metadata=_metadata(self.path, self.path.stat().st_mtime_ns))
        table = file.read_row_group(self.group, columns=None if columns is None else list(columns), use_threads=False)
        return _typed(one_batch(table), self.layout, self.path)


@dataclass(frozen=True, slots=True)
class ArrowUnit:
    """Record batches of an Arrow IPC file that is not compressed as a whole."""

    path: Path
    layout: Layout
    first: int
    stop: int
    rows: int

    def read(self, columns: Sequence[str] | None) -> pa.RecordBatch:
        """Map the file and take the batches."""
        with pa.memory_map(str(self.path)) as file:
            reader = pa.ipc.open_file(file)
            parts = [reader.get_batch(number) for number in range(self.first, self.stop)]
        if columns is not None:
            parts = [part.select([name for name in part.schema.names if name in columns]) for part in parts]
        return _typed(one_batch(pa.Table.from_batches(parts)), self.layout, self.path)


@dataclass(frozen=True, slots=True)
class TextUnit:
    """Whole lines of a plain text file: bytes from `start` to `stop`; the layout has the column names."""

    path: Path
    kind: str
    layout: Layout
    start: int
    stop: int
    first_line: int
    quoted: bool
    rows: int

    def read(self, columns: Sequence[str] | None) -> pa.RecordBatch:
        """Read the bytes and parse them."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            data = file.read(self.stop - self.start)
        names = self.layout.names
        wanted = columns if columns is None or not names else [name for name in columns if name in names]
        batch = TextPiece(self.path, self.kind, self.layout, Block(data, self.first_line, self.quoted)).read(wanted)
        if batch.num_rows != self.rows:
            raise DataError(f"File {self.path}", got=f"{batch.num_rows} rows from line {self.first_line} on",
                            expected=f"the {self.rows} rows that were counted", do="Has it changed?")  # fmt: skip
        return batch


@dataclass(frozen=True, slots=True)
class StreamUnit:
    """Rows of a file that can only be read from its beginning: compressed text, JSON lines, an Arrow stream.

    `number` counts the units of the file. Read one after the other each is parsed once; another order is refused
    where it would be asked for (`ExampleFiles.batches`).
    """

    path: Path
    layout: Layout
    number: int
    rows: int

    def read(self, columns: Sequence[str] | None) -> pa.RecordBatch:
        """Walk to the unit from its beginning. For several in a row, `streamed` is what walks once."""
        return next(streamed([self], columns))


def streamed(units: Sequence[StreamUnit], columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of consecutive units of one file in one walk."""
    first = units[0]
    pieces = Examples(name=first.path.name, paths=(first.path,), layout=first.layout).pieces(UNIT_BYTES)
    for number, piece in enumerate(pieces):
        if number >= first.number + len(units):
            return
        if number >= first.number:
            wanted = columns
            if columns is not None and isinstance(piece, TextPiece) and piece.layout.names:
                wanted = [name for name in columns if name in piece.layout.names]
            yield piece.read(wanted)


def units_of(path: Path, layout: Layout) -> list[Unit]:
    """Return the units of a file, in order; the one pass over it.

    Raises:
        DataError: If the file cannot be read as what it is said to be.
        SchemaError: If a column that the layout gives a type is missing.
    """
    kind = layout.format or format_of(path)
    plain_text = kind in TEXT_FORMATS and codec_of(path) is None and layout.encoding.lower() in ("utf-8", "utf8")
    if plain_text:
        return list(_text_units(path, kind, layout))
    if kind == "parquet":
        return list(_group_units(path, layout))
    if kind == "arrow" and codec_of(path) is None and _is_arrow_file(path):
        return list(_arrow_units(path, layout))
    pieces = Examples(name=path.name, paths=(path,), layout=layout).pieces(UNIT_BYTES)
    return [StreamUnit(path, layout, number, _rows_of(piece)) for number, piece in enumerate(pieces)]


def _rows_of(piece: object) -> int:
    if isinstance(piece, TextPiece):
        count = piece.block.count()
        return TextParser(piece.path, piece.kind, piece.layout).parse(piece.block).count if count is None else count
    assert isinstance(piece, ReadyPiece)
    return int(piece.batch.num_rows)


def _group_units(path: Path, layout: Layout) -> Iterator[GroupUnit]:
    meta = _metadata(path, path.stat().st_mtime_ns)
    _check_types(meta.schema.to_arrow_schema().names, layout, path)
    for group in range(meta.num_row_groups):
        rows = meta.row_group(group).num_rows
        if rows:
            yield GroupUnit(path, layout, group, rows)


@lru_cache(maxsize=8)
def _metadata(path: Path, changed_ns: int) -> pq.FileMetaData:
    """Return what a Parquet file says of itself; parsing it costs more than reading a small group."""
    try:
        return pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"File {path}", got=str(error), expected="a whole Parquet file") from error


def _is_arrow_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"ARROW1"


def _arrow_units(path: Path, layout: Layout) -> Iterator[ArrowUnit]:
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            sizes = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
            names = reader.schema.names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"File {path}", got=str(error), expected="a whole Arrow file") from error
    _check_types(names, layout, path)
    first, rows = 0, 0
    for number, size in enumerate(sizes):
        rows += size
        if rows >= UNIT_ROWS or (number == len(sizes) - 1 and rows):
            yield ArrowUnit(path, layout, first, number + 1, rows)
            first, rows = number + 1, 0


def _text_units(path: Path, kind: str, layout: Layout) -> Iterator[TextUnit]:
    parser = TextParser(path, kind, layout)
    with path.open("rb") as file:
        at = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
    start, line, rows = at, 1, 0
    for block in blocks(path, quoted=parser.quoted, encoding=layout.encoding):
        rest: Block | None = block
        end = at + len(block.data)
        if not layout.names and kind != "libfm":
            rest = parser.after_header(block)
            layout = replace(layout, names=parser.names)
            start = end - (len(rest.data) if rest is not None else 0)
            line = rest.first_line if rest is not None else 1 + block.data.count(b"\n")
        at = end
        if rest is None:
            continue
        count = rest.count()
        rows += parser.parse(rest).count if count is None else count
        if at - start >= UNIT_BYTES:
            yield TextUnit(path, kind, layout, start, at, line, parser.quoted, rows)
            start, line, rows = at, rest.first_line + rest.data.count(b"\n"), 0
    if rows:
        yield TextUnit(path, kind, layout, start, at, line, parser.quoted, rows)


def _check_types(names: Sequence[str], layout: Layout, path: Path) -> None:
    for name in layout.types:
        if name not in names:
            raise SchemaError(f"File {path}, column '{name}'", got="no such column", expected=nearest(name, names))


def _typed(batch: pa.RecordBatch, layout: Layout, path: Path) -> pa.RecordBatch:
    types = {name: kind for name, kind in layout.types.items() if name in batch.schema.names}
    batch, flaws = typed(batch, types)
    refuse(flaws, Piece(batch, np.arange(batch.num_rows), flaws, batch.num_rows, lambda row: f"row {row}"), path)
    return finished(batch, layout, path)
