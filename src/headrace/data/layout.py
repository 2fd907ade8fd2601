"""How the rows of a file become events: names, types, time, key and kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import require
from headrace.data.files import Format
from headrace.data.hashing import is_text
from headrace.errors import DataError, SchemaError, nearest
from headrace.types import Events

Rows = npt.NDArray[np.int64]
TIME_UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
Derive: TypeAlias = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a file's rows look like and which events they become.

    Attributes:
        format: Format of the file; None: as its name says.
        names: Column names of a text file without a header.
        delimiter: Between two values of a text file, one or more characters; empty: comma or tab, as the format says.
        quote: Whether values of a text file may stand in double quotes; None: in CSV only.
        encoding: Of a text file.
        types: File column to Arrow type name (`int64`, `float32`, `bool`, ...). Other columns of CSV and TSV are
            strings, those of JSON lines what their first values are.
        derive: Makes, changes or removes columns of the typed rows before the rest happens; must keep every row.
        rename: File column to event column.
        keep: File columns to keep besides those that make key, kind and time; None: all.
        time: File column with the event time; None: row n happened at n times `time_step_us`.
        time_unit: `s`, `ms`, `us` or `ns` since the epoch, `iso` for ISO 8601 text (UTC where it names no zone), or a
            `strptime` pattern such as `%y%m%d%H`. Arrow timestamps need none.
        time_step_us: Made-up distance of rows without a time.
        key: File columns that together name the request (joined by `/`); empty: every row is a request of its own.
        kind: Kind of all rows; None: the file has a column `kind`.

    Raises:
        ConfigError: If a setting cannot work.
    """

    format: Format | None = None
    names: tuple[str, ...] = ()
    delimiter: str = ""
    quote: bool | None = None
    encoding: str = "utf-8"
    types: Mapping[str, str] = field(default_factory=dict)
    derive: Derive | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] | None = None
    time: str | None = "event_time"
    time_unit: Literal["s", "ms", "us", "ns", "iso"] | str = "us"  # noqa: PYI051 (the usual ones, for the reader)
    time_step_us: int = 1_000_000
    key: tuple[str, ...] = ("key",)
    kind: str | None = None

    def __post_init__(self) -> None:
        known = self.time_unit in TIME_UNITS or self.time_unit == "iso" or "%" in self.time_unit
        require(known, "Layout, time_unit", got=self.time_unit, expected="s, ms, us, ns, iso or a strptime pattern")
        require(self.time_step_us > 0, "Layout, time_step_us", got=self.time_step_us, expected="a positive integer")
        require(len(set(self.names)) == len(self.names), "Layout, names", got=self.names, expected="unique names")
        targets = list(self.rename.values())
        require(len(set(targets)) == len(targets), "Layout, rename", got=targets, expected="unique event columns")
        for name, alias in self.types.items():
            require(_is_type(alias), f"Layout, types[{name!r}]", got=alias,
                    expected="an Arrow type name such as 'int64' or 'float32'")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flaw:
    """A value that a row should not have: row within the piece, what is there, what should be."""

    row: int
    got: str
    expected: str


def typed(batch: pa.RecordBatch, types: Mapping[str, str]) -> tuple[pa.RecordBatch, list[Flaw]]:
    """Cast columns; values that cannot be cast become null and are reported.

    Raises:
        SchemaError: If a column to be cast is missing.
    """
    columns, flaws = list(batch.columns), []
    for name, alias in types.items():
        at = _index(batch, name, "Layout, types")
        columns[at], found = _cast(columns[at], pa.type_for_alias(alias), name)
        flaws.extend(found)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names), flaws


def event_times(batch: pa.RecordBatch, layout: Layout, rows: Rows) -> tuple[pa.Array, list[Flaw]]:
    """Return the event times (int64 µs) of rows with the given numbers within their file."""
    if layout.time is None:
        return pa.array(rows * layout.time_step_us), []
    column = batch.column(_index(batch, layout.time, "Layout, time"))
    name, kind = layout.time, column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), _nulls(column, name, "a time")
    if layout.time_unit not in TIME_UNITS:
        return _parsed_times(column.cast(pa.string()), layout.time_unit, name)
    factor = TIME_UNITS[layout.time_unit]
    try:
        whole = column.cast(pa.int64())  # exact where the times are whole numbers
    except pa.ArrowInvalid:
        return _fractional_times(column, layout.time_unit, name)
    except pa.ArrowNotImplementedError as error:
        raise wrong_column(name, kind, f"times in {layout.time_unit}") from error
    flaws = _nulls(whole, name, "a time")
    return (_scaled(whole, int(factor), name) if factor >= 1 else pc.divide(whole, round(1 / factor))), flaws


def to_events(batch: pa.RecordBatch, times: pa.Array, layout: Layout, file: str, rows: Rows) -> Events:
    """Return typed rows as events.

    Args:
        batch: Typed rows, without flaws.
        times: Their event times.
        layout: What they become.
        file: Name of the file, for made-up keys.
        rows: Numbers of the rows within the file, for made-up keys.

    Raises:
        SchemaError: If a column that the layout names is missing, or two columns get the same name.
    """
    count = batch.num_rows
    columns: dict[str, pa.Array] = {"key": _keys(batch, layout, file, rows), "kind": _kinds(batch, layout, count)}
    columns["event_time"] = times
    consumed = {"key", "kind", "event_time"}
    if layout.keep is not None:
        for name in layout.keep:
            _index(batch, name, "Layout, keep")
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        target = layout.rename.get(name, name)
        if (layout.keep is not None and name not in layout.keep) or target in consumed:
            continue
        if target in columns:
            raise SchemaError(f"Event column '{target}'", got=f"several columns of {file}", expected="one",
                              do="Rename or drop one of them in the layout.")  # fmt: skip
        columns[target] = column.cast(pa.string()) if target == "item" and pa.types.is_integer(column.type) else column
    for name in layout.rename:
        _index(batch, name, "Layout, rename")
    return Events.from_columns(columns)


def key_flaws(batch: pa.RecordBatch, layout: Layout) -> list[Flaw]:
    """Return a flaw for every row in which a part of the key, or the kind, is null."""
    names = [*layout.key, *(() if layout.kind is not None else ("kind",))]
    columns = [(name, batch.column(_index(batch, name, "Layout"))) for name in names]
    return [flaw for name, column in columns for flaw in _nulls(column, name, "a value")]


def _keys(batch: pa.RecordBatch, layout: Layout, file: str, rows: Rows) -> pa.Array:
    if not layout.key:
        numbers = pa.array(rows).cast(pa.string())
        return pc.binary_join_element_wise(pa.scalar(file), numbers, ":")
    parts = [batch.column(_index(batch, name, "Layout, key")).cast(pa.string()) for name in layout.key]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "/")


def _kinds(batch: pa.RecordBatch, layout: Layout, count: int) -> pa.Array:
    if layout.kind is not None:
        return pa.array([layout.kind], pa.string()).take(pa.array(np.zeros(count, dtype=np.int64)))
    return batch.column(_index(batch, "kind", "Layout, kind")).cast(pa.string())


def _index(batch: pa.RecordBatch, name: str, reader: str) -> int:
    at = int(batch.schema.get_field_index(name))
    if at < 0:
        raise SchemaError(f"File column '{name}'", got="no such column",
                          expected=f"{nearest(name, batch.schema.names)} (named by {reader})",
                          do="Check the layout against the file's header.")  # fmt: skip
    return at


def _cast(column: pa.Array, kind: pa.DataType, name: str) -> tuple[pa.Array, list[Flaw]]:
    """Cast; when that fails, find which values it is and make them null."""
    try:
        return column.cast(kind), []
    except pa.ArrowNotImplementedError as error:
        raise wrong_column(name, column.type, str(kind)) from error
    except pa.ArrowInvalid:
        encoded = (pc.utf8_trim_whitespace(column) if is_text(column.type) else column).dictionary_encode()
    found = [_one(value, kind) for value in encoded.dictionary]
    good = pa.array([value is not None for value in found], pa.bool_())
    bad = pc.fill_null(pc.invert(good.take(encoded.indices)), False)
    result = pa.array([None if value is None else value.as_py() for value in found], kind).take(encoded.indices)
    return result, _flaws_where(bad, column, f"{kind} in column '{name}'")


def wrong_column(name: str, got: pa.DataType, expected: str) -> SchemaError:
    """Return the error for a file column that can never be what the layout says."""
    return SchemaError(f"File column '{name}'", got=f"type {got}", expected=expected, do="Correct the layout.")


def _one(value: pa.Scalar, kind: pa.DataType) -> pa.Scalar | None:
    try:
        return value.cast(kind)
    except pa.ArrowInvalid:
        return None


def _parsed_times(column: pa.Array, unit: str, name: str) -> tuple[pa.Array, list[Flaw]]:
    if unit == "iso":
        encoded = column.dictionary_encode()
        zoned = pc.match_substring_regex(encoded.dictionary, r"(Z|[+-]\d{2}:?\d{2})$")
        parsed = []
        for value, zone in zip(encoded.dictionary, zoned.to_pylist(), strict=True):
            time = _one(value, pa.timestamp("us", "UTC") if zone else pa.timestamp("us"))
            parsed.append(None if time is None else int(time.value))
        times = pa.array(parsed, pa.int64()).take(encoded.indices)
    else:
        times = pc.strptime(column, format=unit, unit="us", error_is_null=True).cast(pa.int64())
    expected = "an ISO 8601 time" if unit == "iso" else f"a time like {unit}"
    return times, _flaws_where(times.is_null(), column, f"{expected} in column '{name}'")


def _fractional_times(column: pa.Array, unit: str, name: str) -> tuple[pa.Array, list[Flaw]]:
    numbers, _ = _cast(column, pa.float64(), name)
    factor = TIME_UNITS[unit]
    usable = pc.fill_null(pc.less(pc.abs(numbers), 9e18 / max(factor, 1.0)), False)
    scaled = pc.round(pc.multiply(pc.if_else(usable, numbers, None), factor)).cast(pa.int64())
    return scaled, _flaws_where(pc.invert(usable), column, f"a time in {unit} in column '{name}'")


def _scaled(whole: pa.Array, factor: int, name: str) -> pa.Array:
    try:
        return pc.multiply_checked(whole, factor)
    except pa.ArrowInvalid as error:
        raise DataError(f"File column '{name}'", got="a time beyond the year 294247", expected="another time_unit",
                        do="Is the column in ms, us or ns?") from error  # fmt: skip


def _nulls(column: pa.Array, name: str, expected: str) -> list[Flaw]:
    return _flaws_where(column.is_null(), column, f"{expected} in column '{name}'") if column.null_count else []


def _flaws_where(bad: pa.Array, column: pa.Array, expected: str) -> list[Flaw]:
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False)).tolist()
    return [Flaw(row, repr(column[row].as_py()) if column[row].is_valid else "null", expected) for row in rows]


def _is_type(alias: str) -> bool:
    try:
        pa.type_for_alias(alias)
    except ValueError:
        return False
    return True
