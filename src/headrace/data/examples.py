"""Labelled rows of files in pieces, for training without an event log: columns in Arrow, no Python object per row.

A piece is a unit of work: the process that walks through a file only cuts it, whoever gets the piece parses it. So
several processes parse one file, compressed or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from headrace.config import require
from headrace.data.files import format_of
from headrace.data.formats import Piece, TextParser, pieces
from headrace.data.layout import Flaw, Layout, typed
from headrace.data.replay import BadRows
from headrace.data.text_blocks import Block, blocks
from headrace.errors import DataError, SchemaError, SourceEnded, nearest
from headrace.protocols import Source

PIECE_BYTES = 16 << 20
"""How much text is parsed at a time."""

PARSED_BYTES = 2 << 20
"""How much of it Arrow takes on at once: what stays in the cache is parsed twice as fast."""

TEXT_FORMATS = ("csv", "tsv", "libfm")


class RowPiece(Protocol):
    """Consecutive rows that are read when asked for."""

    def read(self, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Return the rows; of text only the named columns, if the layout makes none of its own."""
        ...


@dataclass(frozen=True, slots=True)
class ReadyPiece:
    """Rows that are in memory already."""

    batch: pa.RecordBatch

    def read(self, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Return them."""
        return self.batch


@dataclass(frozen=True, slots=True)
class GroupPiece:
    """Row groups of a Parquet file."""

    path: Path
    layout: Layout
    groups: tuple[int, ...]
    rows: int | None = None

    def read(self, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Read them."""
        table = pq.ParquetFile(self.path).read_row_groups(list(self.groups), use_threads=False)
        batch, flaws = typed(one_batch(table.slice(0, self.rows)), self.layout.types)
        refuse(flaws, Piece(batch, np.arange(batch.num_rows), flaws, batch.num_rows, lambda row: f"row {row}"),
                self.path)  # fmt: skip
        return finished(batch, self.layout, self.path)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Whole rows of a text file, not parsed yet; the layout has the column names."""

    path: Path
    kind: str
    layout: Layout
    block: Block

    def read(self, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Parse the rows, each column as the type that it has in the layout, others as text.

        Raises:
            DataError: For a malformed row, with file, line, got and expected.
        """
        plain = self.layout.derive is None and not self.layout.rename and self.layout.keep is None
        wanted = columns if plain else None
        batch = self._fast(wanted) if self.kind != "libfm" and len(self._delimiter) == 1 else None
        return finished(self._careful() if batch is None else batch, self.layout, self.path)

    @property
    def _delimiter(self) -> str:
        return self.layout.delimiter or ("\t" if self.kind == "tsv" else ",")

    def _fast(self, columns: Sequence[str] | None) -> pa.RecordBatch | None:
        """Let Arrow convert all columns at once; None when it finds anything wrong, which `_careful` then names."""
        names, kinds = self.layout.names, self.layout.types
        for name in (*kinds, *(columns or ())):
            if name not in names:
                raise SchemaError(f"File {self.path}, column '{name}'", got="no such column",
                                  expected=nearest(name, names))  # fmt: skip
        convert = pa_csv.ConvertOptions(
            column_types={name: pa.type_for_alias(kinds.get(name, "string")) for name in names},
            include_columns=list(columns) if columns else None, strings_can_be_null=True, null_values=[""],
            quoted_strings_can_be_null=False, check_utf8=not self.block.data.isascii(),
        )  # fmt: skip
        parse = pa_csv.ParseOptions(
            delimiter=self._delimiter, quote_char='"' if self.block.quoted else False,
            newlines_in_values=self.block.quoted,
        )  # fmt: skip
        size = min(len(self.block.data) + 1, PARSED_BYTES)
        read = pa_csv.ReadOptions(use_threads=False, column_names=list(names), block_size=size)
        try:
            return one_batch(pa_csv.read_csv(pa.BufferReader(self.block.data), read, parse, convert))
        except (pa.ArrowInvalid, pa.ArrowKeyError):
            return None

    def _careful(self) -> pa.RecordBatch:
        """Parse row by row where needed, to say which row is wrong."""
        parsed = TextParser(self.path, self.kind, self.layout).parse(self.block)
        batch, wrong = typed(parsed.batch, self.layout.types)
        flaws = [*parsed.flaws, *(Flaw(int(parsed.records[flaw.row]), flaw.got, flaw.expected) for flaw in wrong)]
        piece = Piece(batch, parsed.records, flaws, parsed.count, lambda row: f"line {self.block.line_of(row)}")
        refuse(flaws, piece, self.path)
        return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    r"""Labelled rows of one or several files, to be prepared or trained from.

    Attributes:
        name: Of the data set.
        paths: Files, read one after another.
        layout: Names, types, delimiter, derived and renamed columns; key, kind and times are not made. With several
            processes `derive` has to be a function of a module (or an object with a `__call__`), not a lambda.
        rows: Only the first so many rows of all files together; None: all.
        notes: What a report must say about the data.

    Raises:
        ConfigError: If there is no file.
        DataError: If a file does not exist.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "clicks.csv")
        ...     _ = path.write_text("label,user\n1,ann\n0,\n")
        ...     rows = Examples(name="clicks", paths=(path,), layout=Layout(types={"label": "float32"}))
        ...     [batch.to_pydict() for batch in rows]
        [{'label': [1.0, 0.0], 'user': ['ann', None]}]
    """

    name: str
    paths: tuple[Path, ...]
    layout: Layout = field(default_factory=Layout)
    rows: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.paths), "Examples, paths", got=self.paths, expected="at least one file")
        require(self.rows is None or self.rows >= 1, "Examples, rows", got=self.rows, expected="a positive number")
        for path in self.paths:
            if not Path(path).is_file():
                raise DataError(f"File {path}", got="no such file", expected="an existing file")

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, piece by piece."""
        for piece in self.pieces():
            batch = piece.read()
            if batch.num_rows:
                yield batch

    def pieces(self, piece_bytes: int = PIECE_BYTES) -> Iterator[RowPiece]:
        """Yield the rows in order, in pieces of about so much text (1 MiB or more), unparsed where possible."""
        left = self.rows
        for path in self.paths:
            for piece, count in self._of(Path(path), piece_bytes, left):
                yield piece
                left = None if left is None else left - count
                if left is not None and left <= 0:
                    return

    def _of(self, path: Path, piece_bytes: int, left: int | None) -> Iterator[tuple[RowPiece, int]]:
        """Yield pieces of a file and, where `left` limits them, their rows."""
        kind = self.layout.format or format_of(path)
        if kind in TEXT_FORMATS:
            yield from self._text(path, kind, piece_bytes, left)
        elif kind == "parquet":
            yield from self._parquet(path, left)
        else:
            for piece in pieces(path, self.layout):
                refuse(piece.flaws, piece, path)
                batch = piece.batch if left is None else piece.batch.slice(0, left)
                left = None if left is None else left - batch.num_rows
                if batch.num_rows:
                    yield ReadyPiece(finished(batch, self.layout, path)), batch.num_rows

    def _text(self, path: Path, kind: str, size: int, left: int | None) -> Iterator[tuple[RowPiece, int]]:
        parser = TextParser(path, kind, self.layout)
        parts: list[Block] = []
        layout = self.layout
        for block in blocks(path, quoted=parser.quoted, encoding=self.layout.encoding):
            if not layout.names and kind != "libfm":
                layout, rest = _with_names(parser, block, self.layout)
                if rest is None:
                    continue
                block = rest
            count = 0
            if left is not None:
                block, count = _first(block, left)
                left -= count
            parts.append(block)
            if left is not None or sum(len(part.data) for part in parts) >= size:
                yield TextPiece(path, kind, layout, _joined(parts)), count
                parts = []
                if left is not None and left <= 0:
                    return
        if parts:
            yield TextPiece(path, kind, layout, _joined(parts)), 0

    def _parquet(self, path: Path, left: int | None) -> Iterator[tuple[RowPiece, int]]:
        try:
            meta = pq.ParquetFile(path).metadata
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"File {path}", got=str(error), expected="a whole Parquet file") from error
        for group in range(meta.num_row_groups):
            rows = meta.row_group(group).num_rows
            rows = rows if left is None else min(rows, left)
            left = None if left is None else left - rows
            yield GroupPiece(path, self.layout, (group,), rows), rows


def batches_of(source: Source, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a source of events, so many at a time: a recorded log's `examples()`, to be prepared."""
    while True:
        try:
            events = source.read(rows)
        except SourceEnded:
            return
        if events is not None and len(events):
            yield events.batch


def _with_names(parser: TextParser, block: Block, layout: Layout) -> tuple[Layout, Block | None]:
    """Take the header from a file's first block, and return the layout with the names that stand there."""
    rest = parser.after_header(block)
    return replace(layout, names=parser.names), rest


def _first(block: Block, rows: int) -> tuple[Block, int]:
    """Return at most so many rows of a block, and how many they are."""
    count = block.count()
    if count is None:
        records = [record for _, record in block.records()]
        return (block if len(records) <= rows else block.only(records[:rows])), min(len(records), rows)
    if count <= rows:
        return block, count
    return Block(b"\n".join(block.data.split(b"\n", rows)[:rows]), block.first_line, block.quoted), rows


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    return Block(b"".join(part.data for part in parts), parts[0].first_line, parts[0].quoted)


def finished(batch: pa.RecordBatch, layout: Layout, path: Path) -> pa.RecordBatch:
    """Derive, rename and keep columns as the layout says."""
    if layout.derive is not None:
        rows = batch.num_rows
        batch = layout.derive(batch)
        if batch.num_rows != rows:
            raise SchemaError(f"{path.name}, derive", got=f"{batch.num_rows} rows", expected=f"the {rows} rows given")
    names = batch.schema.names
    for name in (*layout.rename, *(layout.keep or ())):
        if name not in names:
            raise SchemaError(f"File {path}, column '{name}'", got="no such column", expected=nearest(name, names))
    kept = [name for name in names if layout.keep is None or name in layout.keep]
    arrays = [batch.column(name) for name in kept]
    return pa.RecordBatch.from_arrays(arrays, names=[layout.rename.get(name, name) for name in kept])


def refuse(flaws: list[Flaw], piece: Piece, path: Path) -> None:
    """Raise for the first flaw, if there is one, with file, place, got and expected."""
    if flaws:
        BadRows("raise").report(flaws, piece, path)


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """Return a table as one record batch."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
