"""The Arrow type of every column that a server logs: one per column, so that everything logged can be read together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pyarrow as pa

from headrace.data.features import (
    CrossFeature,
    DenseFeature,
    Feature,
    IdFeature,
    Schema,
    TextFeature,
)
from headrace.errors import ConfigError, SchemaError
from headrace.types import Events

TEXT, INTEGER, NUMBER = pa.string(), pa.int64(), pa.float64()
TEXTS, INTEGERS = pa.list_(pa.string()), pa.list_(pa.int64())


class Columns:
    """Casts the columns of requests to the types that they are logged with.

    Mostly the schema says which type that is. A feature that accepts strings and integers leaves it open; there the
    first rows that are logged decide, and what differs later is refused, because a log with both cannot be joined.

    Args:
        schema: What the model reads.

    Raises:
        ConfigError: If two features read one column as things that have no type in common.

    Thread-safety: may be used from any thread.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._choices: dict[str, list[pa.DataType]] = {}
        for feature in schema.features:
            for column in feature.columns:
                self._narrow(column, _types(feature))
        if schema.scenario is not None:
            self._narrow(schema.scenario.column, [TEXT])
        self._choices.setdefault(schema.item, [TEXT])
        self._pinned: dict[str, pa.DataType] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The columns that a request may have."""
        return list(self._choices)

    def choices(self, name: str) -> Sequence[pa.DataType]:
        """Return the types that a column may have, preferred first."""
        return [self._pinned[name]] if name in self._pinned else self._choices[name]

    def cast(self, name: str, values: pa.Array) -> pa.Array:
        """Return a column in the type that it is logged with.

        Raises:
            SchemaError: If its values are of another kind, or do not fit.
        """
        choices = self.choices(name)
        if pa.types.is_null(values.type):
            return values.cast(choices[0])
        wanted = [choice for choice in choices if _same_kind(values.type, choice)]
        try:
            if wanted:
                return values.cast(wanted[0])
        except pa.ArrowInvalid as error:
            raise self._error(name, str(error), choices) from error
        raise self._error(name, f"type {values.type}", choices)

    def pin(self, events: Events) -> None:
        """Hold open types to those of rows that are about to be logged.

        Raises:
            SchemaError: If other rows of another type were logged before.
        """
        with self._lock:
            fresh = {}
            for name, choices in self._choices.items():
                if len(choices) < 2 or name not in events.names:
                    continue
                column = events.column(name)
                held = self._pinned.get(name, column.type)
                if held != column.type:
                    raise self._error(name, f"type {column.type}", [held])
                if column.null_count < len(column):
                    fresh[name] = held
            self._pinned.update(fresh)

    def adopt(self, events: Events) -> None:
        """Hold open types to those of rows that were logged in an earlier run; later calls go before earlier ones."""
        with self._lock:
            for name, choices in self._choices.items():
                column = events.column(name) if len(choices) > 1 and name in events.names else None
                if column is not None and column.type in choices and column.null_count < len(column):
                    self._pinned[name] = column.type

    def _narrow(self, column: str, types: list[pa.DataType]) -> None:
        before = self._choices.get(column, types)
        self._choices[column] = [kind for kind in before if kind in types]
        if not self._choices[column]:
            raise ConfigError(f"Schema, column '{column}'", got=f"read as {before[0]} and as {types[0]}",
                              expected="one type", do="Let the features read different columns.")  # fmt: skip

    def _error(self, name: str, got: str, choices: Sequence[pa.DataType]) -> SchemaError:
        advice = "Send one type always; `accepts` of the feature says which." if name in self._pinned else ""
        return SchemaError(f"Column '{name}'", got=got, expected=" or ".join(str(kind) for kind in choices), do=advice)


def _types(feature: Feature) -> list[pa.DataType]:
    if isinstance(feature, DenseFeature):
        return [NUMBER, INTEGER]
    if isinstance(feature, TextFeature):
        return [TEXT]
    if isinstance(feature, CrossFeature):
        return []
    single = isinstance(feature, IdFeature)
    texts, integers = (TEXT, INTEGER) if single else (TEXTS, INTEGERS)
    open_types = {"string": [texts], "integer": [integers], "any": [texts, integers]}[feature.accepts]
    separated = not isinstance(feature, IdFeature) and feature.separator is not None and feature.accepts != "integer"
    return [*open_types, TEXT] if separated else open_types


def _same_kind(got: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(got) or pa.types.is_large_list(got)
        return is_list and (pa.types.is_null(got.value_type) or _same_kind(got.value_type, wanted.value_type))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(got) or pa.types.is_large_string(got))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(got))
    return bool(pa.types.is_integer(got) or pa.types.is_floating(got))
