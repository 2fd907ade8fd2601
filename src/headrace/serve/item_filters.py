"""Filters over attributes of items: read from JSON, turned into a mask over the rows of a shelf."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.validation import is_list
from headrace.errors import SchemaError, nearest
from headrace.serve.json_values import short
from headrace.serve.shelf import Mask, Shelf, null_free

BOUNDS = ("min", "max", "above", "below", "not", "any")
MAX_VALUES = 1000
LARGEST = 1e300
KEPT = 64


class ItemFilters:
    """Turns filters into masks, and keeps those used last.

    A filter names attributes; an item has to fit all of them:

    - `{"category": "shoes"}`: equal; of a list (tags), one of its values is equal;
    - `{"category": ["shoes", "bags"]}`: one of these;
    - `{"price": {"min": 10, "below": 50}}`: within bounds; `min`, `max` include the bound, `above`, `below` do not;
    - `{"category": {"not": ["toys"]}}`: none of these; `{"tags": {"any": ["new"]}}` is the same as a list.

    An item whose attribute is null fits nothing, `not` included: what is not known is not shown under a filter.

    Thread-safety: any number of threads.

    Cost: O(items) per new filter and generation of the shelf; nothing for one of the last 64.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, str], Mask] = OrderedDict()
        self._lock = threading.Lock()

    def mask(self, shelf: Shelf, filters: Mapping[str, object]) -> Mask:
        """Return which rows hold an item that fits, (N,); must not be written to.

        Raises:
            SchemaError: If an attribute is unknown (names the nearest), or compared with what it cannot be.
        """
        if not filters:
            return shelf.alive
        for name, wanted in filters.items():
            _check_shape(name, wanted)
        place = (shelf.generation, json.dumps(filters, sort_keys=True))
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        mask = shelf.alive.copy()
        for name, wanted in filters.items():
            mask &= _fits(shelf, name, wanted)
        with self._lock:
            self._kept[place] = mask
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return mask


def _check_shape(name: str, wanted: object) -> None:
    """Refuse what is nested deeper than a filter can be, and numbers that are none."""
    bounds = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    for value in bounds:
        for one in value if isinstance(value, list) else [value]:
            plain = isinstance(one, (str, bool)) or (isinstance(one, (int, float)) and abs(one) <= LARGEST)
            if not plain:
                raise SchemaError(f"Filter '{name[:100]}'", got=short(one),
                                  expected="a text, a finite number or a truth value")  # fmt: skip


def _fits(shelf: Shelf, name: str, wanted: object) -> Mask:
    names = shelf.columns.schema.names
    if name not in names:
        raise SchemaError(f"Filter '{name[:100]}'", got="no such attribute", expected=nearest(name, names),
                          do="Items have the attributes that they were put with.")  # fmt: skip
    column = shelf.columns.column(name)
    if not isinstance(wanted, dict):
        return _among(name, column, wanted)
    mask = null_free(column.is_valid())
    for bound, value in wanted.items():
        if bound not in BOUNDS:
            raise SchemaError(f"Filter '{name}', {bound[:100]}", got="unknown", expected=nearest(bound, BOUNDS))
        if bound in ("any", "not"):
            found = _among(name, column, value)
            mask &= found if bound == "any" else ~found
        else:
            mask &= _within(name, column, bound, value)
    return mask


def _among(name: str, column: pa.Array, wanted: object) -> Mask:
    """Return which rows have one of the wanted values."""
    values = wanted if isinstance(wanted, list) else [wanted]
    if not values or len(values) > MAX_VALUES:
        raise SchemaError(f"Filter '{name}'", got=f"{len(values)} values", expected=f"1 to {MAX_VALUES}")
    inside = column.type.value_type if is_list(column.type) else column.type
    found = pc.is_in(column.flatten() if is_list(column.type) else column, value_set=_typed(name, values, inside))
    if not is_list(column.type):
        return null_free(found)
    owners = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    mask = np.zeros(len(column), dtype=np.bool_)
    mask[owners[null_free(found)]] = True
    return mask


def _within(name: str, column: pa.Array, bound: str, value: object) -> Mask:
    compare = {"min": pc.greater_equal, "max": pc.less_equal, "above": pc.greater, "below": pc.less}[bound]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise SchemaError(f"Filter '{name}', {bound}", got=f"an attribute of type {column.type}", expected="numbers")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"Filter '{name}', {bound}", got=repr(value)[:100], expected="a number")
    return null_free(compare(column.cast(pa.float64(), safe=False), pa.scalar(float(value), pa.float64())))


def _typed(name: str, values: list[object], kind: pa.DataType) -> pa.Array:
    """Return wanted values in the type of the attribute."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    truth = pa.types.is_boolean(kind)
    for value in values:
        fits = isinstance(value, str) if text else isinstance(value, bool) if truth else (
            isinstance(value, (int, float)) and not isinstance(value, bool)
        )  # fmt: skip
        if not fits:
            raise SchemaError(f"Filter '{name}'", got=repr(value)[:100], expected=f"a value of type {kind}",
                              do='Bounds are written {"min": 1, "below": 5}.')  # fmt: skip
    if pa.types.is_integer(kind):  # 3.5 equals no integer
        values = [value for value in values if isinstance(value, int) or float(value).is_integer()]  # type: ignore[arg-type]
        values = [int(value) for value in values if abs(value) < 2**63]  # type: ignore[arg-type, call-overload]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise SchemaError(f"Filter '{name}'", got=str(error)[:100], expected=f"values of type {kind}") from error
