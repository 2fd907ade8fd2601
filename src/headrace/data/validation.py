"""Checks of columns and values against features, with messages that name the column, the row and the next step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.feature_kinds import (
    CrossFeature,
    DenseFeature,
    Feature,
    IdFeature,
    Scenario,
    SequenceFeature,
    TextFeature,
)
from headrace.data.hashing import is_text
from headrace.errors import SchemaError, nearest
from headrace.types import Events


def check_columns(features: Sequence[Feature], scenario: Scenario | None, events: Events, *, training: bool) -> None:
    """Check presence, type and finiteness of the columns that features and scenario read.

    Raises:
        SchemaError: At the first column that is missing, of a wrong type, or holds NaN or infinity.
    """
    names = set(events.names)
    for feature in features:
        replaced = not training and getattr(feature, "serve_as", None) is not None
        for column in feature.columns:
            if column in names:
                _check_kind(feature, column, events)
            elif not feature.optional and not replaced:
                raise missing(column, events, f"Feature '{feature.name}'")
    if scenario is not None:
        _check_scenario(scenario, events)


def missing(column: str, events: Events, reader: str) -> SchemaError:
    """Return the error for a column that is not there."""
    return SchemaError(
        f"Column '{column}'", got="no such column", expected=f"{nearest(column, events.names)} (read by {reader})",
        do="Add the column, or map another one to this name; `optional=True` makes a feature do without.",
    )  # fmt: skip


def check_labels(events: Events, name: str, *, unknown: bool = False) -> None:
    """Check that a label or weight column exists, is numeric, and has a finite value in every row.

    Args:
        events: The rows.
        name: The column.
        unknown: Null is allowed, for a label that is not known.

    Raises:
        SchemaError: With the number of the first bad row.
    """
    if name not in events.names:
        raise missing(name, events, "the label, to learn from these rows")
    column = events.column(name)
    if not _is_number(column.type) and not pa.types.is_null(column.type):
        raise wrong_type(name, column.type, "numbers")
    if column.null_count and not unknown:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise SchemaError(f"Column '{name}', row {row}", got="null", expected="a finite number",
                          do="Rows without a label cannot be learned from; drop them.")  # fmt: skip
    check_finite(name, column, "Rows without a label cannot be learned from; drop them.")


def check_finite(name: str, column: pa.Array, do: str) -> None:
    """Check that no value of a float column is NaN or infinite; nulls are allowed."""
    if not pa.types.is_floating(column.type):
        return
    bad = pc.fill_null(pc.invert(pc.is_finite(column)), False)
    if pc.any(bad).as_py():
        row = int(np.flatnonzero(bad.to_numpy(zero_copy_only=False))[0])
        raise SchemaError(f"Column '{name}', row {row}", got=column[row].as_py(), expected="a finite number", do=do)


def wrong_type(name: str, got: pa.DataType, expected: str) -> SchemaError:
    """Return the error for a column of another type."""
    return SchemaError(
        f"Column '{name}'", got=f"type {got}", expected=expected, do="Cast the column, or change the schema."
    )


def _check_kind(feature: Feature, column: str, events: Events) -> None:
    values = events.column(column)
    kind: pa.DataType = values.type
    if pa.types.is_null(kind) or isinstance(feature, CrossFeature):
        return
    if isinstance(feature, DenseFeature):
        if not _is_number(kind):
            raise wrong_type(column, kind, "numbers")
        check_finite(column, values, "Write null for an unknown value; the feature's default stands in for it.")
    elif isinstance(feature, TextFeature):
        if not is_text(_plain_type(kind)):
            raise wrong_type(column, kind, "text")
    elif isinstance(feature, IdFeature):
        _check_ids(column, kind, kind, feature.accepts)
    else:
        _check_lists(feature.separator, feature.accepts, column, kind, isinstance(feature, SequenceFeature))


def _check_lists(separator: str | None, accepts: str, column: str, kind: pa.DataType, ordered: bool) -> None:
    if separator is not None and is_text(_plain_type(kind)):
        if accepts == "integer":
            raise wrong_type(column, kind, "lists of integers, because accepts='integer'")
        return
    if not is_list(kind):
        what = "lists of ids, oldest first" if ordered else "lists of ids"
        raise wrong_type(column, kind, what if separator is None else f"{what}, or text separated by {separator!r}")
    _check_ids(column, kind, kind.value_type, accepts)


def _check_ids(column: str, whole: pa.DataType, kind: pa.DataType, accepts: str) -> None:
    if pa.types.is_null(kind):
        return
    kind = _plain_type(kind)
    text, integer = is_text(kind), pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if not text and not integer:
        raise wrong_type(column, whole, "strings or integers")
    if (accepts == "string" and not text) or (accepts == "integer" and not integer):
        raise wrong_type(column, whole, f"{accepts}s, because accepts='{accepts}'")


def _check_scenario(scenario: Scenario, events: Events) -> None:
    if scenario.column not in events.names:
        raise missing(scenario.column, events, "the scenario")
    column = events.column(scenario.column)
    if not is_text(_plain_type(column.type)):
        raise wrong_type(scenario.column, column.type, "strings")
    if scenario.default is not None:
        return
    known = pc.is_in(column.cast(pa.string()), value_set=pa.array(scenario.values))
    if not pc.all(known).as_py() and len(column):
        row = int(np.flatnonzero(~known.to_numpy(zero_copy_only=False))[0])
        value = column[row].as_py()
        raise SchemaError(f"Column '{scenario.column}', row {row}", got=repr(value),
                          expected=nearest(str(value), scenario.values),
                          do="Add it to the scenario's values, or set a default.")  # fmt: skip


def is_list(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a list of any kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
