"""Arrow rows to batches of tensors: jagged ids, dense columns, labels, times, and the predictions as they were made.

Everything is done on whole columns; no Python object is made per row.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from headrace.config import require
from headrace.data.feature_kinds import (
    CrossFeature,
    DenseFeature,
    EmbeddedFeature,
    IdFeature,
    Scenario,
    SequenceFeature,
    TextFeature,
)
from headrace.data.features import Schema
from headrace.data.hashing import Ids, cross_ids, example_ids, hash_strings, hash_text, is_text
from headrace.data.prepare_statistics import PreparedStatistics, check_preparation
from headrace.data.validation import check_columns
from headrace.errors import ConfigError, DataError, JoinError, SchemaError
from headrace.types import NO_VERSION, Batch, Events, Jagged, State

WORDS = r"[^\pL\pN]+"
"""What stands between two words of a text: everything that is neither letter nor digit."""

Mask = npt.NDArray[np.bool_]


def collate(events: Events, schema: Schema, *, serving: bool = False, reference: bool | None = None) -> Batch:
    """Turn rows into a batch.

    Args:
        events: Examples to learn from, or requests to score; B rows.
        schema: What to read.
        serving: Labels are not needed; they are NaN where the rows have none.
        reference: Replace features that have `serve_as` by that value. None: exactly when serving. False with
            `serving` scores a log as it was, with the positions that were shown.

    Returns:
        A batch of B examples. `extra` has `score_logged` (NaN where absent), `action_time`, `scenario` and
        `label/<name>` as far as rows and schema have them.

    Raises:
        SchemaError: See `Schema.validate`.

    Cost: O(rows + ids); one hash per distinct new string.

    Example:
        >>> from headrace.data.features import IdFeature
        >>> columns = {"key": ["a", "b"], "kind": ["example"] * 2, "event_time": [1, 2]}
        >>> rows = Events.from_columns({**columns, "user": [7, None], "label": [1.0, 0.0]})
        >>> batch = collate(rows, Schema(features=(IdFeature("user", 4),)))
        >>> batch.ids["user"].values.tolist(), batch.ids["user"].offsets.tolist()
        ([7], [0, 1, 1])
    """
    reference = serving if reference is None else reference
    if serving and not reference:  # a log scored as it was: no labels, but every real value
        check_columns(schema.features, schema.scenario, events, training=True)
    else:
        schema.validate(events, training=not serving)
    rows = len(events)
    singles: dict[str, tuple[Ids, Mask]] = {}
    ids = {feature.name: _jagged(events, feature, singles, reference, schema) for feature in schema.id_features}
    columns = [_dense(events, feature, reference) for feature in schema.dense_features]
    dense = np.stack(columns, axis=1) if columns else np.zeros((rows, 0), dtype=np.float32)
    return Batch(
        ids=ids, dense=torch.from_numpy(dense), labels=_floats(events, schema.label.name, np.nan),
        weights=_floats(events, schema.weight or "", 1.0), event_times=torch.from_numpy(events.times.copy()),
        accepted_times=_integers(events, "accepted_time", 0), example_ids=_example_ids(events, schema.item),
        predictions=_floats(events, "score", np.nan), versions=_integers(events, "version", NO_VERSION),
        sample_rates=_floats(events, "sample_rate", 1.0), extra=_extra(events, schema),
    )  # fmt: skip


def _jagged(
    events: Events, feature: EmbeddedFeature, singles: dict[str, tuple[Ids, Mask]], reference: bool, schema: Schema
) -> Jagged:
    if isinstance(feature, IdFeature):
        return _one_per_row(*_single(events, feature, singles, reference))
    if isinstance(feature, CrossFeature):
        parts = []
        for name in feature.of:
            part = schema.feature(name)
            assert isinstance(part, IdFeature)  # the schema checked it
            parts.append(_single(events, part, singles, reference))
        return _one_per_row(cross_ids([values for values, _ in parts]), np.logical_and.reduce([on for _, on in parts]))
    if feature.column not in events.names:
        return _one_per_row(np.zeros(len(events), np.int64), np.zeros(len(events), np.bool_))
    column = events.column(feature.column)
    if isinstance(feature, TextFeature):
        return _lists(pc.split_pattern_regex(pc.utf8_lower(_decoded(column)), WORDS), feature.max_tokens, None)
    if feature.separator is not None and is_text(_decoded(column).type):
        column = pc.split_pattern(_decoded(column), feature.separator)
    return _lists(column, None, feature.max_length if isinstance(feature, SequenceFeature) else None)


def _single(events: Events, feature: IdFeature, done: dict[str, tuple[Ids, Mask]], reference: bool) -> tuple[Ids, Mask]:
    """Return ids (B,) and whether a row has one (B,); kept in `done`, because crosses ask again."""
    if feature.name in done:
        return done[feature.name]
    rows = len(events)
    if reference and feature.serve_as is not None:
        result = np.full(rows, _constant(feature.serve_as), np.int64), np.ones(rows, np.bool_)
    elif feature.column not in events.names:
        result = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    else:
        column = events.column(feature.column)
        result = _ids(column), column.is_valid().to_numpy(zero_copy_only=False)
    if feature.default is not None and not result[1].all():
        result = np.where(result[1], result[0], _constant(feature.default)), np.ones(rows, np.bool_)
    done[feature.name] = result
    return result


def _constant(value: str | int) -> int:
    return hash_text(value) if isinstance(value, str) else value


def _ids(column: pa.Array) -> Ids:
    """Return the ids of strings or integers; nulls read 0 and are masked by the caller."""
    kind = column.type
    if pa.types.is_dictionary(kind) and not is_text(kind.value_type):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        if pa.types.is_uint64(kind):
            values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
            return np.asarray(values, dtype=np.uint64).view(np.int64)
        return np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
    return hash_strings(column)


def _decoded(column: pa.Array) -> pa.Array:
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _one_per_row(values: Ids, present: Mask) -> Jagged:
    if present.all():
        return Jagged(torch.from_numpy(np.array(values)), _ends(len(values)))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(present, dtype=np.int64)])
    return Jagged(torch.from_numpy(values[present]), torch.from_numpy(offsets))


@lru_cache(maxsize=4)
def _ends(rows: int) -> Tensor:
    """Return offsets 0 to `rows`; features with one id a row share them, which the tables can tell."""
    return torch.arange(rows + 1)


def _lists(column: pa.Array, first: int | None, last: int | None) -> Jagged:
    """Return the ids of list rows; null rows and null or empty elements are left out, then rows are cut to size."""
    if pa.types.is_null(column.type):
        return _one_per_row(np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), np.int64)
    flat = column.flatten()  # leaves out what lies under null rows, and respects slices
    keep = np.asarray(flat.is_valid().to_numpy(zero_copy_only=False))
    if is_text(flat.type):
        keep = keep & np.asarray(pc.fill_null(pc.not_equal(flat, ""), False).to_numpy(zero_copy_only=False))
    values = _ids(flat)
    if not keep.all():
        owners = np.repeat(np.arange(len(lengths)), lengths)[keep]
        values, lengths = values[keep], np.bincount(owners, minlength=len(lengths)).astype(np.int64)
    limit = first if first is not None else last
    if limit is not None and len(lengths) and lengths.max(initial=0) > limit:
        starts = np.cumsum(lengths) - lengths
        place = np.arange(len(values)) - np.repeat(starts, lengths)
        fits = place < limit if first is not None else place >= np.repeat(lengths - limit, lengths)
        values, lengths = values[fits], np.minimum(lengths, limit)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return Jagged(torch.from_numpy(np.array(values)), torch.from_numpy(offsets))


def _dense(events: Events, feature: DenseFeature, reference: bool) -> npt.NDArray[np.float32]:
    if reference and feature.serve_as is not None:
        values = np.full(len(events), feature.serve_as, dtype=np.float64)
    elif feature.column not in events.names:
        values = np.full(len(events), feature.default, dtype=np.float64)
    else:
        column = pc.fill_null(events.column(feature.column).cast(pa.float64()), feature.default)
        values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    if feature.transform == "log1p":
        values = np.sign(values) * np.log1p(np.abs(values))
    elif feature.transform == "standard":
        values = (values - feature.mean) / feature.std
    return values.astype(np.float32)


def _floats(events: Events, name: str, default: float) -> Tensor:
    return torch.from_numpy(_column(events, name, default, pa.float32(), np.float32))


def _integers(events: Events, name: str, default: int) -> Tensor:
    return torch.from_numpy(_column(events, name, default, pa.int64(), np.int64))


def _column(
    events: Events, name: str, default: float, kind: pa.DataType, dtype: type[np.generic]
) -> npt.NDArray[np.generic]:
    """Return a column as a writable array of its own, nulls and an absent column as the default."""
    if name not in events.names:
        return np.full(len(events), default, dtype=dtype)
    try:
        column = events.column(name).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"Column '{name}'", got=f"type {events.column(name).type}", expected=str(kind),
                          do="Cast the column.") from error  # fmt: skip
    return np.array(pc.fill_null(column, pa.scalar(default, kind)).to_numpy(zero_copy_only=False), dtype=dtype)


def _example_ids(events: Events, item: str) -> Tensor:
    if "example_id" in events.names and events.column("example_id").null_count == 0:
        return _integers(events, "example_id", 0)
    keys = events.column("key")
    items = events.column(item) if item in events.names else pa.nulls(len(events), pa.string())
    return torch.from_numpy(example_ids(keys, _decoded(items)))


def _extra(events: Events, schema: Schema) -> dict[str, Tensor]:
    extra: dict[str, Tensor] = {}
    if "score_logged" in events.names:
        extra["score_logged"] = _floats(events, "score_logged", np.nan)
    if "action_time" in events.names:
        extra["action_time"] = _integers(events, "action_time", 0)
    for label in schema.extra_labels:
        extra[f"label/{label.name}"] = _floats(events, label.name, np.nan)
    if schema.scenario is not None:
        extra["scenario"] = _scenario(events, schema.scenario)
    return extra


def _scenario(events: Events, scenario: Scenario) -> Tensor:
    known = pa.array(scenario.values, pa.string())
    index = pc.index_in(events.column(scenario.column).cast(pa.string()), value_set=known)
    default = scenario.values.index(scenario.default) if scenario.default is not None else 0
    return torch.from_numpy(np.array(pc.fill_null(index, default).cast(pa.int64()).to_numpy(zero_copy_only=False)))


class Collator:
    """A `Joiner` for rows that are examples already: it cuts them into batches of a fixed number of rows.

    `add` returns a multiple of `batch_rows` rows and keeps the rest, so the cuts depend on the rows alone, not on how
    they arrived. Give it rows once: the driver's checkpoint holds source position and remainder together.

    Args:
        schema: What to read from the rows.
        batch_rows: Rows per learning step.
        preparation: What raw rows are prepared with before they are read; None: rows come as the schema has them.

    Raises:
        ConfigError: If `batch_rows` is not positive, or the schema was made for another preparation.
    """

    def __init__(self, schema: Schema, batch_rows: int, preparation: PreparedStatistics | None = None) -> None:
        require(batch_rows >= 1, "Collator, batch_rows", got=batch_rows, expected="a positive integer")
        check_preparation(schema, preparation)
        self.schema, self.batch_rows, self.preparation = schema, batch_rows, preparation
        self._rest: Events | None = None

    def add(self, requests: Events, predictions: Events | None = None, answers: Events | None = None) -> Batch | None:
        """Take examples and return those that fill whole batches, or None.

        Args:
            requests: Rows with labels.
            predictions: Scores of these rows, row by row, or None.
            answers: Must be None or empty: labels are in the rows already.

        Raises:
            JoinError: If there are answers, or predictions that are not row by row.
            SchemaError: If the rows do not fit the schema; nothing was taken.
        """
        if answers is not None and len(answers):
            raise JoinError("Collator", got=f"{len(answers)} answers", expected="rows that have labels already",
                            do="Use EventJoiner to join answers to requests.")  # fmt: skip
        if predictions is not None:
            requests = with_predictions(requests, predictions)
        if self.preparation is not None:
            requests = self.preparation.transform(requests)
        self.schema.validate(requests)
        rows = _joined([self._rest, requests])
        whole = len(rows) - len(rows) % self.batch_rows if rows is not None else 0
        if rows is None or not whole:
            self._rest = rows
            return None
        batch = collate(rows.slice(0, whole), self.schema)
        self._rest = rows.slice(whole) if whole < len(rows) else None
        return batch

    def flush(self) -> Batch | None:
        """Return the rows that filled no batch, or None."""
        rows, self._rest = self._rest, None
        return None if rows is None else collate(rows, self.schema)

    def state(self) -> State:
        """Return the remainder as Arrow bytes."""
        return {"batch_rows": self.batch_rows, "rest": b"" if self._rest is None else self._rest.to_bytes()}

    def restore(self, state: State) -> None:
        """Continue with a remainder.

        Raises:
            ConfigError: If it was cut for another `batch_rows`.
            SchemaError: If its rows do not fit this schema.
        """
        require(bool(state.get("batch_rows") == self.batch_rows), "Collator, batch_rows", got=state.get("batch_rows"),
                expected=str(self.batch_rows), do="Restore with the batch_rows of the saved run.")  # fmt: skip
        content = state.get("rest")
        if not isinstance(content, bytes):
            raise ConfigError("Collator state, rest", got=type(content).__name__, expected="Arrow bytes")
        rest = Events.from_bytes(content) if content else None
        if rest is not None:
            self.schema.validate(rest)
        self._rest = rest


def with_predictions(requests: Events, predictions: Events) -> Events:
    """Return the requests with the score columns of predictions that answer them row by row.

    Raises:
        JoinError: If the two have different keys, in content or order.
    """
    if not requests.column("key").equals(predictions.column("key")):
        raise JoinError("Predictions", got=f"{len(predictions)} rows with other keys than the {len(requests)} requests",
                        expected="one row per request, in the same order")  # fmt: skip
    names = [name for name in ("score", "version", "score_logged") if name in predictions.names]
    return requests.with_columns({name: predictions.column(name) for name in names})


def _joined(parts: Iterable[Events | None]) -> Events | None:
    present = [part for part in parts if part is not None and len(part)]
    try:
        return Events.concat(present) if present else None
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError("Examples", got=str(error), expected="rows with the same column types throughout",
                        do="Cast the columns where the rows are made.") from error  # fmt: skip
