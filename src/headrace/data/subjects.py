"""Whose rows are whose: which columns name a user, and how a user is told apart once the name itself is forgotten.

A user has one name, a text. A column of integers names the same user by the integer that the text spells: erasing `7`
erases the integer 7 and the text "7".
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import known_name, require
from headrace.data.feature_kinds import CrossFeature, IdFeature
from headrace.data.features import Schema
from headrace.data.hashing import hash_text, is_text
from headrace.errors import ConfigError
from headrace.types import Events

Mask = npt.NDArray[np.bool_]
USER_COLUMNS = ("user", "user_id")
"""Columns that name a user where nobody says which do."""
ERASED = "erased"
"""Kind of a row of which nothing is left but its place and its event time."""


@dataclass(frozen=True, kw_only=True)
class ErasureConfig:
    """How users are erased.

    Attributes:
        columns: Columns of the events that hold a user's id; empty: those of `user` and `user_id` that the schema
            reads.
        within_s: The stated time in which logs, checkpoints and snapshots are rewritten. What takes longer is
            reported as overdue.
        pause_s: Least time between two stops of the learner for erasures; those asked for meanwhile are done together.
    """

    columns: tuple[str, ...] = ()
    within_s: float = 86_400.0
    pause_s: float = 60.0

    def __post_init__(self) -> None:
        columns: object = self.columns
        fits = isinstance(columns, tuple) and all(isinstance(name, str) and name for name in columns)
        require(fits, "erase.columns", got=self.columns, expected="a tuple of column names")
        require(self.within_s > 0, "erase.within_s", got=self.within_s, expected="a positive number of seconds")
        require(self.pause_s >= 0, "erase.pause_s", got=self.pause_s, expected="seconds, at least 0")


@dataclass(frozen=True, slots=True)
class UserColumns:
    """The columns that name a user, and the tables that hold a row for one.

    Attributes:
        names: The columns.
        tables: Table name to the width of its rows.
        texts, integers: Whether the columns may hold texts, and integers.
    """

    names: tuple[str, ...]
    tables: dict[str, int]
    texts: bool = True
    integers: bool = True

    @staticmethod
    def of(schema: Schema, columns: Collection[str] = ()) -> UserColumns:
        """Return the user columns of a schema.

        Args:
            schema: What the model reads.
            columns: Their names; empty: the ones of `USER_COLUMNS` that the schema reads.

        Raises:
            ConfigError: If there is none, or rows that belong to a user could not be found again: a column that is no
                single id, a cross of it, a table that other kinds of features share, or prepared columns.
        """
        wanted = tuple(columns) or tuple(name for name in USER_COLUMNS if name in schema.columns)
        require(bool(wanted), "erase.columns", got=f"none, and a schema that reads {list(schema.columns)}",
                expected=f"a column that names a user, {' or '.join(USER_COLUMNS)}",
                do="Say in OnlineConfig(erase=ErasureConfig(columns=...)) which columns hold a user's id.")  # fmt: skip
        require(not schema.preparation, "erase", got="a schema of prepared columns", expected="columns as they come",
                do="A preparation's vocabulary holds ids that no erasure can take out.")  # fmt: skip
        for name in wanted:
            known_name("erase.columns", name, schema.columns)
        return UserColumns(wanted, _tables(schema, wanted), *_kinds(schema, wanted))

    def ids(self, name: str) -> list[int]:
        """Return the ids under which tables hold a user, ascending.

        Example:
            >>> UserColumns(("user",), {"user": 4}).ids("7")
            [-9038873097560174361, 7]
        """
        number = integer_of(name) if self.integers else None
        return sorted(([hash_text(name)] if self.texts else []) + ([] if number is None else [number]))

    def rows(self, batch: pa.RecordBatch, names: Collection[str]) -> Mask:
        """Return which rows (N,) name one of these users in any of the columns."""
        found: Mask = np.zeros(batch.num_rows, dtype=np.bool_)
        for column in self._present(batch):
            found |= _is_in(column, names)
        return found

    def named(self, batch: pa.RecordBatch, subjects: Collection[bytes], veil: Veil) -> Mask:
        """Return which rows (N,) name a user whose keyed hash is among `subjects`.

        Cost: one keyed hash per distinct user of the rows.
        """
        found: Mask = np.zeros(batch.num_rows, dtype=np.bool_)
        for column in self._present(batch) if subjects else ():
            values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            distinct = [value for value in pc.unique(values).to_pylist() if value is not None]
            hits = [str(value) for value in distinct if veil.hash(str(value)) in subjects]
            if hits:
                found |= _is_in(column, hits)
        return found

    def _present(self, batch: pa.RecordBatch) -> Iterable[pa.Array]:
        return (batch.column(name) for name in self.names if name in batch.schema.names)


@dataclass(frozen=True, slots=True)
class Veil:
    """Names to keyed hashes: without the key nobody can tell which name a hash is of, not even by trying all names."""

    key: bytes

    def hash(self, name: str) -> bytes:
        """Return HMAC-SHA256 of a name, 32 bytes."""
        return hmac.digest(self.key, name.encode(), "sha256")


def integer_of(name: str) -> int | None:
    """Return the int64 that a text spells in its only canonical way, or None.

    Example:
        >>> [integer_of(text) for text in ("7", "-7", "07", "seven", "99999999999999999999")]
        [7, -7, None, None, None]
    """
    digits = name.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or str(int(name)) != name or not -(2**63) <= int(name) < 2**63:
        return None
    return int(name)


def without_rows(events: Events, gone: Mask) -> Events:
    """Return the events with nothing left of some rows but a row of kind `erased` at the same event time.

    Rows keep their number, so that positions in a log stay true. No value of such a row survives in any buffer.

    Args:
        events: The rows.
        gone: Which ones (N,) are to be erased.
    """
    places = pa.array(np.arange(len(events)), pa.int64(), mask=gone)
    columns: dict[str, pa.Array] = {}
    for name in events.names:
        column = events.column(name)
        if name == "event_time":
            columns[name] = column
        elif name in ("key", "kind"):
            columns[name] = pc.fill_null(column.take(places), "" if name == "key" else ERASED)
        elif pa.types.is_dictionary(column.type):  # its dictionary would still hold the values
            columns[name] = column.dictionary_decode().take(places).dictionary_encode().cast(column.type)
        else:
            columns[name] = column.take(places)
    return Events.from_columns(columns)


def without_erased(events: Events) -> Events:
    """Return the events without the rows of kind `erased`."""
    kinds = events.column("kind")
    erased = pc.equal(kinds, ERASED)
    return Events(events.batch.filter(pc.invert(erased))) if pc.any(erased, min_count=0).as_py() else events


def _tables(schema: Schema, columns: Collection[str]) -> dict[str, int]:
    singles = {f.name: f for f in schema.features if isinstance(f, IdFeature) and f.column in columns}
    tables = {feature.table: feature.dim for feature in singles.values()}
    for feature in schema.features:
        if isinstance(feature, CrossFeature) and set(feature.of) & set(singles):
            raise ConfigError(f"erase, feature '{feature.name}'", got=f"a cross with {sorted(set(feature.of))}",
                              expected="no cross of a column that names a user",
                              do="The ids of such a cross cannot be found from a user's id alone.")  # fmt: skip
        reads = set(feature.columns) & set(columns)
        if reads and not isinstance(feature, IdFeature):
            raise ConfigError(f"erase, feature '{feature.name}'", got=f"a {type(feature).__name__} of {sorted(reads)}",
                              expected="a column with one id per row")  # fmt: skip
    for embedded in schema.id_features:
        if embedded.table in tables and embedded.name not in singles:
            raise ConfigError(f"erase, feature '{embedded.name}'", got=f"table '{embedded.table}', which it shares",
                              expected="a table of user columns alone",
                              do="Name its column in erase.columns too, or give it a table of its own.")  # fmt: skip
    return tables


def _kinds(schema: Schema, columns: Collection[str]) -> tuple[bool, bool]:
    accepts = {f.accepts for f in schema.features if isinstance(f, IdFeature) and f.column in columns}
    if not accepts:  # named by the scenario alone: nothing says what it may be
        return True, True
    return bool(accepts & {"any", "string"}), bool(accepts & {"any", "integer"})


def _is_in(column: pa.Array, names: Collection[str]) -> Mask:
    """Return which values (N,) are one of the names, as texts or as the integers that they spell."""
    values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    kind = values.type
    if pa.types.is_integer(kind):
        numbers = [number for name in names if (number := integer_of(name)) is not None]
        if pa.types.is_uint64(kind):  # tables take such a number as the int64 of the same bits
            numbers = [number % 2**64 for number in numbers]
            wanted = pa.array(numbers, pa.uint64())
        else:
            values, wanted = values.cast(pa.int64()), pa.array(numbers, pa.int64())
    elif is_text(kind):
        values, wanted = values.cast(pa.string()), pa.array(list(names), pa.string())
    else:
        return np.zeros(len(column), dtype=np.bool_)
    return np.asarray(pc.is_in(values, value_set=wanted).to_numpy(zero_copy_only=False), dtype=np.bool_)
