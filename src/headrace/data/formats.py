"""Rows of a file in pieces, whatever its format: CSV, TSV, JSON lines, libFM, Parquet, Arrow IPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.data.files import CODECS, codec_of, format_of, opened, unreadable
from headrace.data.layout import Flaw, Layout, typed
from headrace.data.text_blocks import Block, blocks
from headrace.data.text_rows import Parsed, header_names, parse_delimited, parse_json, parse_libfm
from headrace.errors import DataError

PIECE_ROWS = 8192
"""Rows that are read at a time from Parquet."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a file.

    Shapes: batch N good rows; rows (N,) their numbers within the file (0 = first), ascending.

    Attributes:
        batch: The rows that could be parsed, with the types of the layout.
        rows: Where they stand.
        flaws: What is wrong with the others; `Flaw.row` is the number within the file.
        stop: Number of the row after the last one, good or bad.
        place: Tells a row's place for messages: `line 7` or `row 7`.
    """

    batch: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    flaws: list[Flaw]
    stop: int
    place: Callable[[int], str]

    def since(self, start: int) -> Piece:
        """Return the part from row `start` on."""
        skip = int(np.searchsorted(self.rows, start))
        flaws = [flaw for flaw in self.flaws if flaw.row >= start]
        return Piece(self.batch.slice(skip), self.rows[skip:], flaws, self.stop, self.place)


def pieces(path: Path, layout: Layout, start: int = 0) -> Iterator[Piece]:
    """Yield a file's rows from row `start` on, piece by piece; never the whole file at once.

    Raises:
        DataError: If the file cannot be read as what it is said to be, or has fewer than `start` rows.
        SchemaError: If a column that the layout gives a type is missing, or can never have that type.
    """
    kind = layout.format or format_of(path)
    if kind == "parquet":
        found = _parquet(path, layout, start)
    elif kind == "arrow":
        found = _arrow(path, layout)
    else:
        found = _text(path, TextParser(path, kind, layout), layout, start)
    seen = 0
    for piece in found:
        seen = piece.stop
        if seen > start:
            yield piece.since(start)
    if seen < start:
        raise DataError(f"File {path}", got=f"{seen} rows", expected=f"at least the {start} rows read earlier",
                        do="The file has changed since the position was taken.")  # fmt: skip


class TextParser:
    """Parses the blocks of one text file in turn; the first block settles names and types for the others.

    Args:
        path: The file, for messages.
        kind: Its format.
        layout: Names, delimiter, quotes and types.
    """

    def __init__(self, path: Path, kind: str, layout: Layout) -> None:
        self._path, self._kind, self._names, self._types = path, kind, layout.names, layout.types
        self._delimiter = layout.delimiter or ("\t" if kind == "tsv" else ",")
        self._schema: pa.Schema | None = None
        self.quoted = kind == "csv" if layout.quote is None else layout.quote and kind in ("csv", "tsv")

    @property
    def names(self) -> tuple[str, ...]:
        """Column names: the layout's, or those of the header once it was seen."""
        return tuple(self._names)

    def after_header(self, block: Block) -> Block | None:
        """Take the header from the first block of a file that has one; None when nothing is left."""
        if self._kind not in ("csv", "tsv") or self._names:
            return block
        self._names, rest = header_names(block, self._delimiter, f"File {self._path}")
        return rest

    def parse(self, block: Block) -> Parsed:
        """Parse a block without a header."""
        if self._kind == "libfm":
            return parse_libfm(block)
        if self._kind != "jsonl":
            return parse_delimited(block, self._names, self._delimiter)
        parsed = parse_json(block, self._schema)
        if self._schema is None and len(parsed.records):
            self._schema = self._settled(parsed.batch.schema)
            if self._schema != parsed.batch.schema:
                parsed = parse_json(block, self._schema)
        return parsed

    def _settled(self, found: pa.Schema) -> pa.Schema:
        """Settle the types of JSON columns: as first seen, text where only nulls were; add those the layout names."""
        kinds = {item.name: pa.string() if pa.types.is_null(item.type) else item.type for item in found}
        for name, alias in self._types.items():
            if name not in kinds or pa.types.is_null(found.field(name).type):
                kinds[name] = pa.type_for_alias(alias)
        return pa.schema(list(kinds.items()))


def _text(path: Path, parser: TextParser, layout: Layout, start: int) -> Iterator[Piece]:
    first = 0
    for block in blocks(path, quoted=parser.quoted, encoding=layout.encoding):
        rest = parser.after_header(block)
        if rest is None:
            continue
        count = rest.count()
        if count is not None and first + count <= start:
            first += count  # cheap: nothing is parsed
            yield _nothing(first)
            continue
        try:
            parsed = parser.parse(rest)
            piece = _piece(parsed, first, layout, partial(_line, rest, first))
        except DataError as error:
            what = f"File {path}: {error.what}"
            raise type(error)(what, got=error.got, expected=error.expected, do=error.do) from error
        yield piece
        first = piece.stop


def _line(block: Block, first: int, row: int) -> str:
    return f"line {block.line_of(row - first)}"


def _nothing(stop: int) -> Piece:
    """Return a piece that says only that the rows before `stop` were passed over."""
    return Piece(pa.RecordBatch.from_pylist([]), np.zeros(0, np.int64), [], stop, str)


def _piece(parsed: Parsed, first: int, layout: Layout, place: Callable[[int], str]) -> Piece:
    batch, wrong = typed(parsed.batch, layout.types)
    flaws = [Flaw(first + flaw.row, flaw.got, flaw.expected) for flaw in parsed.flaws]
    rows = first + parsed.records
    if wrong:
        flaws += [Flaw(int(rows[flaw.row]), flaw.got, flaw.expected) for flaw in wrong]
        good = np.setdiff1d(np.arange(batch.num_rows), [flaw.row for flaw in wrong])
        batch, rows = batch.take(pa.array(good)), rows[good]
    return Piece(batch, rows, flaws, first + parsed.count, place)


def _binary_piece(batch: pa.RecordBatch, first: int, layout: Layout) -> Piece:
    rows = np.arange(batch.num_rows, dtype=np.int64)
    return _piece(Parsed(batch, rows, []), first, layout, lambda row: f"row {row}")


def _parquet(path: Path, layout: Layout, start: int) -> Iterator[Piece]:
    """Yield rows; whole row groups before `start` are not read."""
    if codec_of(path):
        raise DataError(f"File {path}", got="a compressed Parquet file", expected=f"no {path.suffix} around it",
                        do="Parquet is compressed inside; decompress the file.")  # fmt: skip
    try:
        file = pq.ParquetFile(path)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        skipped = min(int(np.searchsorted(ends, start, side="right")) - 1, len(sizes))
        first = int(ends[skipped])
        yield _nothing(first)
        for batch in file.iter_batches(PIECE_ROWS, row_groups=range(skipped, len(sizes))):
            yield _binary_piece(batch, first, layout)
            first += batch.num_rows
    except pa.ArrowInvalid as error:
        raise _not_whole(path, "Parquet", error) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _arrow(path: Path, layout: Layout) -> Iterator[Piece]:
    first = 0
    try:
        with opened(path) as stream:
            for batch in _arrow_batches(stream, path):
                yield _binary_piece(batch, first, layout)
                first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_whole(path, "Arrow IPC", error) from error


def _arrow_batches(stream: pa.NativeFile, path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow IPC file, or stream (which may be compressed)."""
    if codec_of(path) is None:
        magic = stream.read(6)
        stream.seek(0)
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(stream)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            return
    yield from pa.ipc.open_stream(stream)


def _not_whole(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"File {path}", got=str(error), expected=f"a whole {kind} file",
                     do=f"Is it damaged or cut short? {', '.join(CODECS)} mark compressed files.")  # fmt: skip
