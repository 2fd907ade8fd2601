"""What clients send, as events: bodies in JSON or Arrow are read, checked and typed here, without any framework."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.features import Schema, example_ids
from headrace.errors import SchemaError, nearest
from headrace.serve.arrow_body import read_table
from headrace.serve.columns import Columns
from headrace.serve.json_values import (
    array_of,
    check_names,
    fields_of,
    json_of,
    number_of,
    part_of,
    repeated,
    short,
    text_of,
    whole_column,
)
from headrace.serve.settings import ServeConfig
from headrace.types import Events

ROW_KINDS = ("impression", "prediction", "example")
_RANK_FIELDS = ("key", "user", "context", "candidates", "event_time", "log_impressions", "min_version")
_ACTION_FIELDS = ("key", "kind", "item", "event_time", "value")


@dataclass(frozen=True, slots=True)
class RankRequest:
    """Impression rows to be scored, whether to log them (None: as the server is set), and the oldest version wanted."""

    events: Events
    log_impressions: bool | None = None
    min_version: int | None = None


class RequestReader:
    """Turns bodies into events.

    Args:
        schema: What the model reads; fields of requests carry the names of its columns.
        config: Limits.
        now: The wall clock in µs.

    Raises (all methods):
        SchemaError: If the body is not what the method reads; says what was got, expected, and to be done.
    """

    def __init__(self, schema: Schema, config: ServeConfig, *, now: Callable[[], int] | None = None) -> None:
        self.schema, self.config = schema, config
        self.columns = Columns(schema)
        self._now = now or (lambda: time.time_ns() // 1000)

    def rank_json(self, body: bytes) -> RankRequest:
        """Read `{"key"?, "user"?, "context"?, "candidates": [{"item", ...}], "event_time"?, "log_impressions"?}`."""
        content = fields_of(json_of(body), "Body", _RANK_FIELDS)
        shared = {**part_of(content, "user"), **part_of(content, "context")}
        candidates = content.get("candidates")
        if not isinstance(candidates, list) or not candidates:
            raise SchemaError("Body, candidates", got=short(candidates), expected="a list of objects, not empty",
                              do='Send {"user": {...}, "candidates": [{"item": "a"}]}.')  # fmt: skip
        self._check_rows(len(candidates))
        for row, candidate in enumerate(candidates):
            if not isinstance(candidate, dict):
                raise SchemaError(f"Body, candidates[{row}]", got=short(candidate), expected="an object")
        log = content.get("log_impressions")
        if log is not None and not isinstance(log, bool):
            raise SchemaError("Body, log_impressions", got=short(log), expected="true or false")
        oldest = wanted_version(content["min_version"]) if "min_version" in content else None
        key = content.get("key")
        if key is None:
            key = uuid.uuid4().hex
        rows = len(candidates)
        columns: dict[str, pa.Array] = {
            "key": repeated(text_of("key", key), rows), "kind": repeated("impression", rows),
            "event_time": repeated(self.time_of("event_time", content.get("event_time")), rows),
        }  # fmt: skip
        for name, values in self._values(shared, candidates).items():
            columns[name] = self.columns.cast(name, values)
        return RankRequest(self._checked(Events.from_columns(columns)), log, oldest)

    def rank_arrow(self, body: bytes) -> RankRequest:
        """Read impression rows, possibly of several requests; columns that the schema does not name are left out."""
        table = read_table(body, max_rows=self.config.max_rows)
        columns = self._named(table, "impression")
        for name in self.columns.names:
            if name in table.column_names:
                columns[name] = self.columns.cast(name, whole_column(table, name))
        return RankRequest(self._checked(Events.from_columns(columns)))

    def feedback_json(self, body: bytes) -> Events:
        """Read one action, a list of them, or `{"events": [...]}`; an action is `{"key", "kind", "item", ...}`."""
        content = json_of(body)
        if isinstance(content, dict) and "events" in content:
            content = fields_of(content, "Body", ("events",))["events"]
        actions = content if isinstance(content, list) else [content]
        if not actions:
            raise SchemaError("Body", got="no actions", expected="one or more")
        self._check_rows(len(actions))
        rows = [fields_of(action, f"Action {row}", _ACTION_FIELDS) for row, action in enumerate(actions)]
        times = [self.time_of("event_time", row.get("event_time")) for row in rows]
        items = [row.get("item") for row in rows]
        columns: dict[str, pa.Array] = {
            "key": pa.array([text_of("key", row.get("key")) for row in rows], pa.string()),
            "kind": pa.array([text_of("kind", row.get("kind")) for row in rows], pa.string()),
            "event_time": pa.array(times, pa.int64()),
            self.schema.item: self.columns.cast(self.schema.item, array_of(self.schema.item, items)),
        }  # fmt: skip
        values = [number_of("value", row.get("value")) for row in rows]
        if any(value is not None for value in values):
            columns["value"] = pa.array(values, pa.float32())
        return self._actions(Events.from_columns(columns))

    def feedback_arrow(self, body: bytes) -> Events:
        """Read actions as rows of `key`, `kind`, `item`, `event_time`, `value`; other columns are left out."""
        table = read_table(body, max_rows=self.config.max_rows)
        columns = self._named(table, None)
        item = self.schema.item
        if item not in table.column_names:
            raise SchemaError(f"Column '{item}'", got="no such column", expected=nearest(item, table.column_names))
        columns[item] = self.columns.cast(item, whole_column(table, item))
        if "value" in table.column_names:
            values = whole_column(table, "value")
            if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
                raise SchemaError("Column 'value'", got=f"type {values.type}", expected="numbers")
            if pc.any(pc.invert(pc.is_finite(values.cast(pa.float64())))).as_py():
                raise SchemaError("Column 'value'", got="NaN or infinity", expected="finite numbers")
            columns["value"] = values.cast(pa.float32())
        return self._actions(Events.from_columns(columns))

    def _named(self, table: pa.Table, kind: str | None) -> dict[str, pa.Array]:
        """Return key, kind and event_time of an Arrow body; `kind` None reads it from the body."""
        rows = table.num_rows
        if not rows:
            raise SchemaError("Arrow body", got="no rows", expected="one or more")
        columns: dict[str, pa.Array] = {}
        for name in ("key",) if kind is not None else ("key", "kind"):
            if name not in table.column_names:
                raise SchemaError(f"Column '{name}'", got="no such column", expected=nearest(name, table.column_names))
            column = whole_column(table, name)
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise SchemaError(f"Column '{name}'", got=f"type {column.type}", expected="strings")
            columns[name] = column.cast(pa.string())
        columns["kind"] = columns.get("kind", repeated(kind or "", rows))
        if "event_time" in table.column_names:
            times = whole_column(table, "event_time")
            if not pa.types.is_integer(times.type) or times.null_count:
                raise SchemaError("Column 'event_time'", got=f"{times.null_count} nulls in type {times.type}",
                                  expected="int64 microseconds since the epoch")  # fmt: skip
            columns["event_time"] = times.cast(pa.int64())
            for value in (pc.min(times).as_py(), pc.max(times).as_py()):
                self.time_of("event_time", value)
        else:
            columns["event_time"] = repeated(self._now(), rows)
        return columns

    def _values(self, shared: Mapping[str, object], candidates: Sequence[Mapping[str, object]]) -> dict[str, pa.Array]:
        """Return one column per field; a candidate's own value goes before the context's, that before the user's."""
        if "item" not in self.columns.names:  # the schema calls the column otherwise
            candidates = [
                {self.schema.item if name == "item" else name: value for name, value in candidate.items()}
                for candidate in candidates
            ]
        own = dict.fromkeys(name for candidate in candidates for name in candidate)
        for name in {**dict.fromkeys(shared), **own}:
            if name not in self.columns.names:
                raise SchemaError(f"Field '{name}'", got="a field that the schema does not name",
                                  expected=nearest(name, self.columns.names), do="Check the spelling.")  # fmt: skip
        columns = {}
        for name in self.columns.names:
            if name in own:
                columns[name] = array_of(name, [candidate.get(name, shared.get(name)) for candidate in candidates])
            elif name in shared:
                columns[name] = array_of(name, [shared[name]]).take(pa.array(np.zeros(len(candidates), np.int64)))
        return columns

    def _checked(self, events: Events) -> Events:
        """Check what makes rows into examples: keys, items, and each pair of them once."""
        check_names("key", events.column("key"))
        item = self.schema.item
        if item not in events.names:
            raise SchemaError(f"Field '{item}'", got="none", expected="the name of every candidate")
        check_names(item, events.column(item))
        pairs = example_ids(events.column("key"), events.column(item))
        distinct, first = np.unique(pairs, return_index=True)
        if len(distinct) != len(pairs):
            row = int(np.setdiff1d(np.arange(len(pairs)), first)[0])
            raise SchemaError(
                f"Row {row}, {item}", got=f"{events.column(item)[row].as_py()!r} again in one request",
                expected="every candidate once per key",
                do="Feedback names its row by key and item; two such rows cannot be told apart.",
            )  # fmt: skip
        return events

    def _actions(self, events: Events) -> Events:
        for name in ("key", "kind", self.schema.item):
            check_names(name, events.column(name))
        for kind in events.column("kind").unique().to_pylist():
            if kind in ROW_KINDS:
                raise SchemaError("Action, kind", got=repr(kind), do="Impressions are logged by /v1/rank itself.",
                                  expected=f"what a user did, as {self.schema.label.positive}")  # fmt: skip
        return events

    def _check_rows(self, rows: int) -> None:
        if rows > self.config.max_rows:
            raise SchemaError("Body", got=f"{rows} rows", expected=f"at most {self.config.max_rows} in one request",
                              do="Send them in several requests.")  # fmt: skip

    def time_of(self, name: str, value: object) -> int:
        """Return an event time; now where there is none."""
        now = self._now()
        if value is None:
            return now
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise SchemaError(name, got=short(value), expected="integer microseconds since the epoch (UTC)")
        ahead_s = (value - now) / 1e6
        if self.config.max_future_s is not None and ahead_s > self.config.max_future_s:
            raise SchemaError(
                name, got=f"{value}, {ahead_s:.0f} s ahead of this machine's clock",
                expected=f"at most {self.config.max_future_s:.0f} s ahead", do="Send microseconds since the epoch.",
            )  # fmt: skip
        return value


def wanted_version(value: object) -> int:
    """Return the `min_version` of a request.

    Raises:
        SchemaError: If it is no version.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SchemaError("min_version", got=short(value), expected="a version, 0 or above")
    return value
