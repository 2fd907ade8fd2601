"""What stands in bodies of requests, one value at a time: read, checked, and refused with the field's name.

Raises (all functions):
    SchemaError: If a value is not what the function reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import SchemaError, nearest

MAX_NAME_BYTES = 1024


def json_of(body: bytes) -> object:
    """Return what a JSON body holds; NaN and infinity are no JSON."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        got = str(error)[:200]
        raise SchemaError("Body", got=got, expected="JSON", do="Check quotes, commas and encoding.") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def fields_of(content: object, what: str, known: Sequence[str]) -> dict[str, object]:
    """Return an object that has none but the known fields."""
    if not isinstance(content, dict):
        raise SchemaError(what, got=short(content), expected=f"an object with the fields {', '.join(known)}")
    for name in content:
        if name not in known:
            raise SchemaError(f"{what}, field '{name[:100]}'", got="unknown", expected=nearest(name, known))
    return content


def part_of(content: Mapping[str, object], name: str) -> dict[str, object]:
    """Return a field that is an object; an empty one where it is absent."""
    part = content.get(name)
    if part is not None and not isinstance(part, dict):
        raise SchemaError(f"Body, {name}", got=short(part), expected="an object of features")
    return part or {}


def text_of(name: str, value: object) -> str:
    """Return a text that is not empty and can be written as UTF-8."""
    if not isinstance(value, str) or not value:
        raise SchemaError(f"Field '{name}'", got=short(value), expected="a string, not empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SchemaError(f"Field '{name}'", got="half of a surrogate pair", expected="Unicode text") from error
    return value


def number_of(name: str, value: object) -> float | None:
    """Return a finite number, or None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"Field '{name}'", got=short(value), expected="a number")
    if abs(value) > 3e38 or not math.isfinite(value):  # in this order: an integer may be too long for a float
        raise SchemaError(f"Field '{name}'", got=short(value), expected="a finite number")
    return float(value)


def array_of(name: str, values: Sequence[object]) -> pa.Array:
    """Build a column of what JSON has: strings, numbers, or lists of one of them; null anywhere."""
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    lists = {isinstance(value, list) for value in values if value is not None}
    kinds = {type(item) for item in flat if item is not None}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1 or len(lists) > 1 or not kinds <= {str, int, float}:
        names = sorted({type(item).__name__ for item in (*flat, *values) if item is not None})
        raise SchemaError(f"Field '{name}'", got=f"values of {names}",
                          expected="strings, numbers, or lists of one of them, the same everywhere")  # fmt: skip
    kind = {str: pa.string(), int: pa.int64(), float: pa.float64()}[kinds.pop()] if kinds else pa.null()
    try:
        return pa.array(values, pa.list_(kind) if lists == {True} else kind)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise SchemaError(f"Field '{name}'", got=str(error)[:200], expected=f"values that fit {kind}") from error


def check_names(name: str, column: pa.Array) -> None:
    """Refuse null, empty and overlong names; integers are fine."""
    if column.null_count:
        raise SchemaError(f"Field '{name}'", got="null", expected="a value in every row")
    if not pa.types.is_string(column.type) or not len(column):
        return
    lengths = pc.binary_length(column)
    if not pc.min(lengths).as_py():
        raise SchemaError(f"Field '{name}'", got="an empty string", expected="a name")
    longest = pc.max(lengths).as_py()
    if longest > MAX_NAME_BYTES:
        raise SchemaError(f"Field '{name}'", got=f"{longest} bytes", expected=f"at most {MAX_NAME_BYTES}")


def whole_column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of a table in one piece, as `read_table` makes them."""
    chunks = table.column(name).chunks
    return chunks[0] if chunks else pa.array([], table.schema.field(name).type)


def repeated(value: str | int, rows: int) -> pa.Array:
    """Return a column with one value in every row."""
    return pa.repeat(pa.scalar(value, pa.string() if isinstance(value, str) else pa.int64()), rows)


def short(value: object) -> str:
    """Return a value for a message, not too long."""
    text = json.dumps(value, default=str) if value is not None else "nothing"
    return text if len(text) <= 100 else f"{text[:100]}…"
