"""Blocks of text parsed by Arrow: CSV and TSV, JSON lines, libFM.

A row that cannot be parsed is reported; the others of its block are parsed all the same.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from headrace.data.layout import Flaw
from headrace.data.text_blocks import Block
from headrace.errors import DataError

INNER_DELIMITER = "\x1f"
"""Stands in for delimiters of several characters, which Arrow does not know."""

FACTOR = r"^(?P<id>\d{1,18})(?::(?P<value>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?$"
NUMBER = r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$"
ONE_OBJECT = "one JSON object a line"


@dataclass(frozen=True, slots=True)
class Parsed:
    """The rows of a block that could be parsed, where each stood, and what was wrong with the others.

    Shapes: batch N rows; records (N,) record number within the block, ascending.
    """

    batch: pa.RecordBatch
    records: npt.NDArray[np.int64]
    flaws: list[Flaw]

    @property
    def count(self) -> int:
        """Records of the block, good and bad."""
        return len(self.records) + len(self.flaws)


def header_names(block: Block, delimiter: str, file: str) -> tuple[tuple[str, ...], Block | None]:
    """Return the column names in a file's first row, and the block without that row (None when nothing is left).

    A first column without a name is called `row`.

    Raises:
        DataError: If a name is empty or stands there twice.
    """
    line, record = next(block.records())
    text = record.decode(errors="replace")
    single = block.quoted and len(delimiter) == 1
    names = next(csv.reader([text], delimiter=delimiter)) if single else text.split(delimiter)
    if names and not names[0].strip() and "row" not in names:
        names = ["row", *names[1:]]  # the unnamed column of row numbers that many tools write
    if not all(name.strip() for name in names) or len(set(names)) != len(names):
        raise DataError(f"{file}, line {line}", got=f"column names {names}", expected="unique names",
                        do="Give the names in the layout if the file has none.")  # fmt: skip
    lines = block.data.split(b"\n", line - block.first_line + 1)
    rest = lines[-1] if len(lines) > line - block.first_line + 1 else b""
    return tuple(names), Block(rest, line + 1, block.quoted) if rest.strip() else None


def parse_delimited(block: Block, names: Sequence[str], delimiter: str) -> Parsed:
    """Parse CSV or TSV rows; all columns come as strings, an empty value as null (a quoted empty one as "")."""
    return _parse(block, lambda part: _delimited(part, names, delimiter))


def parse_json(block: Block, schema: pa.Schema | None) -> Parsed:
    """Parse JSON objects, one a line.

    Args:
        block: The text.
        schema: Names and types; columns that it does not name are left out. None: all columns of the block, with the
            types that Arrow infers, except that text stays text when it looks like a time.
    """
    return _parse(block, lambda part: _json(part, schema))


def parse_libfm(block: Block) -> Parsed:
    """Parse `label id:value id:value ...`: columns label (float32), ids (list of int64), values (list of float32).

    An id without a value has the value 1; what follows a `#` is a comment.
    """
    return _parse(block, _libfm)


def _parse(block: Block, parse: Callable[[Block], Parsed]) -> Parsed:
    """Parse a block; records that are not UTF-8 are flaws."""
    try:
        block.data.decode()
    except UnicodeDecodeError:
        wrong = {}
        for number, (_, record) in enumerate(block.records()):
            try:
                record.decode()
            except UnicodeDecodeError as error:
                wrong[number] = Flaw(number, f"bytes that are not UTF-8 ({error.reason})", "text in UTF-8")
        return _parse_rest(block, wrong, parse)
    return parse(block)


def _parse_rest(block: Block, wrong: dict[int, Flaw], parse: Callable[[Block], Parsed]) -> Parsed:
    """Parse a block without the records known to be wrong."""
    records = [record for _, record in block.records()]
    places = np.array([number for number in range(len(records)) if number not in wrong], dtype=np.int64)
    rest = parse(block.only([records[number] for number in places]))
    flaws = [Flaw(int(places[flaw.row]), flaw.got, flaw.expected) for flaw in rest.flaws]
    return Parsed(rest.batch, places[rest.records], sorted([*wrong.values(), *flaws], key=lambda flaw: flaw.row))


def _delimited(block: Block, names: Sequence[str], delimiter: str) -> Parsed:
    flaws: list[Flaw] = []

    def note(row: pa_csv.InvalidRow) -> str:
        flaws.append(Flaw(row.number - 1, f"{row.actual_columns} values", f"{row.expected_columns} values"))
        return "skip"

    if not block.data.strip():
        return Parsed(pa.RecordBatch.from_pylist([], _strings(names)), np.zeros(0, np.int64), [])
    data = block.data
    if len(delimiter) > 1:
        data, delimiter = data.replace(delimiter.encode(), INNER_DELIMITER.encode()), INNER_DELIMITER
    reading = pa_csv.ReadOptions(use_threads=False, column_names=list(names), block_size=len(data) + 1)
    parsing = pa_csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if block.quoted else False, newlines_in_values=block.quoted,
        invalid_row_handler=note,
    )  # fmt: skip
    converting = pa_csv.ConvertOptions(
        column_types=_strings(names), strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False
    )
    try:
        table = pa_csv.read_csv(pa.BufferReader(data), reading, parsing, converting)
    except pa.ArrowInvalid as error:
        last = block.first_line + data.count(b"\n")
        raise DataError(f"Lines {block.first_line} to {last}", got=str(error), expected="rows of values",
                        do="Is a quote open? Set quote=False if quotes are plain characters.") from error  # fmt: skip
    records = np.setdiff1d(np.arange(table.num_rows + len(flaws)), [flaw.row for flaw in flaws])
    return Parsed(_one_batch(table), records.astype(np.int64), flaws)


def _strings(names: Sequence[str]) -> pa.Schema:
    return pa.schema([pa.field(name, pa.string()) for name in names])


def _json(block: Block, schema: pa.Schema | None) -> Parsed:
    parsing = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer")
    reading = pa_json.ReadOptions(use_threads=False, block_size=len(block.data) + 1)
    if not block.data.strip():
        return Parsed(pa.RecordBatch.from_pylist([], schema or pa.schema([])), np.zeros(0, np.int64), [])
    try:
        table = pa_json.read_json(pa.BufferReader(block.data), reading, parsing)
    except pa.ArrowInvalid as error:
        wrong = {flaw.row: flaw for flaw in _json_flaws(block, schema)}
        if wrong:
            return _parse_rest(block, wrong, lambda part: _json(part, schema))
        raise DataError(f"Lines {block.first_line} ff.", got=str(error), expected="one type per column throughout",
                        do="Name the columns' types in the layout.") from error  # fmt: skip
    if schema is None:
        plain = pa.schema([pa.field(item.name, _without_times(item.type)) for item in table.schema])
        if plain != table.schema:
            return _json(block, plain)
    return Parsed(_one_batch(table), np.arange(table.num_rows), [])


def _json_flaws(block: Block, schema: pa.Schema | None) -> list[Flaw]:
    """Go through a block line by line to find those that are no objects or do not fit the schema."""
    flaws = []
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    expected = ", ".join(f"{item.name} {item.type}" for item in schema) if schema else ONE_OBJECT
    for number, (_, line) in enumerate(block.records()):
        try:
            content = json.loads(line)
            if not isinstance(content, dict):
                flaws.append(Flaw(number, f"a JSON {type(content).__name__}", ONE_OBJECT))
            elif schema is not None:
                pa_json.read_json(pa.BufferReader(line), parse_options=options)
        except pa.ArrowInvalid as error:
            flaws.append(Flaw(number, str(error).removesuffix(" in row 0"), expected))
        except ValueError as error:
            flaws.append(Flaw(number, str(error), ONE_OBJECT))
    return flaws


def _without_times(kind: pa.DataType) -> pa.DataType:
    """Undo Arrow's guess that text which looks like a time is one; it would differ from block to block."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    return pa.list_(_without_times(kind.value_type)) if pa.types.is_list(kind) else kind


def _libfm(block: Block) -> Parsed:
    texts = pa.array([record.decode() for _, record in block.records()], pa.string())
    texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"#.*$", ""))
    words = pc.split_pattern_regex(texts, r"[ \t]+")
    lengths = _array(pc.list_value_length(words)).astype(np.int64)
    labels = pc.list_element(words, 0)
    owners = np.repeat(np.arange(len(texts)), lengths)
    is_factor = np.ones(len(owners), dtype=np.bool_)
    is_factor[np.cumsum(lengths) - lengths] = False  # the first word of a row is its label
    factors, owners = words.flatten().filter(pa.array(is_factor)), owners[is_factor]
    flaws: dict[int, Flaw] = {}
    for row in np.flatnonzero(_array(pc.match_substring_regex(labels, NUMBER)) == 0).tolist():
        flaws[row] = Flaw(row, repr(labels[row].as_py()), "a number as label")
    for at in np.flatnonzero(_array(pc.match_substring_regex(factors, FACTOR)) == 0).tolist():
        flaws.setdefault(int(owners[at]), Flaw(int(owners[at]), repr(factors[at].as_py()), "id:value"))
    if flaws:
        return _parse_rest(block, flaws, _libfm)
    parts = pc.extract_regex(factors, FACTOR)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths - 1)]).astype(np.int32))
    values = parts.field("value")
    values = pc.if_else(pc.equal(values, ""), "1", values).cast(pa.float32())
    columns = [labels.cast(pa.float32()), pa.ListArray.from_arrays(offsets, parts.field("id").cast(pa.int64())),
               pa.ListArray.from_arrays(offsets, values)]  # fmt: skip
    batch = pa.RecordBatch.from_arrays(columns, names=["label", "ids", "values"])
    return Parsed(batch, np.arange(len(texts)), [])


def _array(column: pa.Array) -> npt.NDArray[np.generic]:
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
