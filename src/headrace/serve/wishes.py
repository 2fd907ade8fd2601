"""What clients ask for when they let the server choose: bodies of `POST /v1/recommend`, read and checked."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from headrace.config import known_name
from headrace.data.validation import is_list
from headrace.errors import ConfigError, SchemaError
from headrace.serve.arrow_body import read_table
from headrace.serve.json_values import (
    array_of,
    check_names,
    fields_of,
    json_of,
    part_of,
    repeated,
    short,
    text_of,
    whole_column,
)
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.requests import RequestReader, wanted_version
from headrace.serve.seen import SEEN_RULES, SeenRule
from headrace.serve.shelf import Ints, item_ids

FIELDS = ("key", "user", "context", "n", "filters", "exclude", "seen", "explore", "event_time", "log_impressions",
          "min_version")  # fmt: skip
DEFAULT_N = 10
MAX_EXCLUDED = 10_000
_FLAGS = ("explore", "log_impressions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One request for recommendations.

    Attributes:
        key: Names the request; feedback repeats it.
        event_time: µs since the epoch.
        about: Columns of one row: what is known of the user and of the situation.
        n: How many items are wanted.
        filters: What items have to fit; see `ItemFilters`.
        exclude: Ids of items that are not wanted.
        seen: What is left out of what the user knows; None: as the server is set.
        explore: Whether anything is left to chance; None: as the server is set.
        log_impressions: Whether what is shown is logged; None: as the server is set.
        min_version: The oldest version that may answer.
    """

    key: str
    event_time: int
    about: Mapping[str, pa.Array]
    n: int = DEFAULT_N
    filters: Mapping[str, object] = field(default_factory=dict)
    exclude: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    seen: SeenRule | None = None
    explore: bool | None = None
    log_impressions: bool | None = None
    min_version: int | None = None


class WishReader:
    """Turns bodies into wishes.

    Args:
        reader: Knows the schema, the columns' types and the limits of requests.
        config: Settings of recommending.

    Raises (all methods):
        SchemaError: If the body is not what the method reads; says what was got, expected, and to be done.
    """

    def __init__(self, reader: RequestReader, config: RecommendConfig) -> None:
        self.reader, self.config = reader, config

    def json(self, body: bytes) -> Wish:
        """Read `{"user"?, "context"?, "n"?, "filters"?, "exclude"?, "seen"?, "explore"?, "key"?, ...}`."""
        content = fields_of(json_of(body), "Body", FIELDS)
        shared = {**part_of(content, "user"), **part_of(content, "context")}
        for name in shared:
            if name not in self.reader.columns.names or name == self.reader.schema.item:
                known = [column for column in self.reader.columns.names if column != self.reader.schema.item]
                fields_of({name: 0}, "Body, user or context", known)
        columns = self.reader.columns
        about = {name: columns.cast(name, array_of(name, [value])) for name, value in shared.items()}
        flags = {name: _flag(name, content.get(name)) for name in _FLAGS}
        key = content.get("key")
        text = text_of("key", uuid.uuid4().hex if key is None else key)
        check_names("key", pa.array([text]))
        least = content.get("min_version")
        return Wish(
            key=text, event_time=self.reader.time_of("event_time", content.get("event_time")), about=about,
            n=self._count(content.get("n")), filters=part_of(content, "filters"),
            exclude=self._excluded(content.get("exclude")), seen=_rule(content.get("seen")), explore=flags["explore"],
            log_impressions=flags["log_impressions"], min_version=None if least is None else wanted_version(least),
        )  # fmt: skip

    def arrow(self, body: bytes) -> list[Wish]:
        """Read one wish per row: `key`, user and context columns, and `event_time`, `n`, `seen`, `exclude` if given."""
        table = read_table(body, max_rows=self.reader.config.max_rows)
        if not table.num_rows:
            raise SchemaError("Arrow body", got="no rows", expected="one or more")
        names, item = set(table.column_names), self.reader.schema.item
        own = {name: whole_column(table, name) for name in ("key", "event_time", "n", "seen", "exclude")
               if name in names and name not in self.reader.columns.names}  # fmt: skip
        if "key" in own and not (pa.types.is_string(own["key"].type) or pa.types.is_large_string(own["key"].type)):
            raise SchemaError("Column 'key'", got=f"type {own['key'].type}", expected="strings")
        about = {name: self.reader.columns.cast(name, whole_column(table, name))
                 for name in self.reader.columns.names if name in names and name != item}  # fmt: skip
        if "key" in own:
            check_names("key", own["key"])
        if "exclude" in own and not is_list(own["exclude"].type):
            raise SchemaError("Column 'exclude'", got=f"type {own['exclude'].type}", expected="lists of items")
        plain = {name: column.to_pylist() for name, column in own.items()}
        return [self._row(row, plain, about) for row in range(table.num_rows)]

    def _row(self, row: int, plain: Mapping[str, list[object]], about: Mapping[str, pa.Array]) -> Wish:
        own = {name: values[row] for name, values in plain.items()}
        return Wish(
            key=text_of("key", own.get("key") or uuid.uuid4().hex),
            event_time=self.reader.time_of("event_time", own.get("event_time")),
            about={name: column.slice(row, 1) for name, column in about.items()}, n=self._count(own.get("n")),
            exclude=self._excluded(own.get("exclude")), seen=_rule(own.get("seen")),
        )  # fmt: skip

    def _count(self, value: object) -> int:
        if value is None:
            return min(DEFAULT_N, self.config.most)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= self.config.most:
            raise SchemaError("Body, n", got=short(value), expected=f"an integer from 1 to {self.config.most}")
        return value

    def _excluded(self, value: object) -> Ints:
        if value is None:
            return np.zeros(0, dtype=np.int64)
        if not isinstance(value, list) or len(value) > MAX_EXCLUDED:
            got = f"{len(value)} items" if isinstance(value, list) else short(value)
            raise SchemaError("Body, exclude", got=got, expected=f"a list of at most {MAX_EXCLUDED} items")
        item = self.reader.schema.item
        if not value:
            return np.zeros(0, dtype=np.int64)
        column = self.reader.columns.cast(item, array_of("exclude", value))
        check_names("exclude", column)
        return item_ids(column)


def noted(wish: Wish, column: str, rows: int) -> pa.Array | None:
    """Return what a wish knows of a column, for every one of its rows; None if nothing."""
    value = wish.about.get(column)
    return None if value is None else value.take(pa.array(np.zeros(rows, dtype=np.int64)))


def with_version(wish: Wish, least: int | None) -> Wish:
    """Return the wish with the oldest version that a query parameter asks for."""
    return wish if least is None else replace(wish, min_version=least)


def fixed_columns(wish: Wish, rows: int) -> dict[str, pa.Array]:
    """Return the columns that every row of an answer to a wish has."""
    return {"key": repeated(wish.key, rows), "kind": repeated("impression", rows),
            "event_time": repeated(wish.event_time, rows)}  # fmt: skip


def _flag(name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise SchemaError(f"Body, {name}", got=short(value), expected="true or false")
    return value


def _rule(value: object) -> SeenRule | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise SchemaError("Body, seen", got=short(value), expected=f"one of {', '.join(SEEN_RULES)}")
    try:
        known_name("seen", value[:100], SEEN_RULES)
    except ConfigError as error:
        raise SchemaError("Body, seen", got=error.got, expected=error.expected) from error
    return next(rule for rule in SEEN_RULES if rule == value)
