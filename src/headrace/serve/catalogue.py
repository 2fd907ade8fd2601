"""The item catalogue: a shelf that is kept in a log, so that it survives restarts and is the same in every server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.data import Layout, Schema
from headrace.data.files import sha256
from headrace.data.formats import pieces
from headrace.data.log import EmbeddedLog
from headrace.data.validation import is_list
from headrace.errors import DataError, SchemaError, StaleError, nearest
from headrace.serve.columns import Columns
from headrace.serve.json_values import check_names
from headrace.serve.shelf import Shelf, item_ids
from headrace.types import REQUIRED, Events

TOPIC = "items"
PUT, REMOVE, REPLACE = "put", "remove", "replace"
KEPT_ROWS = 4
"""The log is written anew when it has this many times as many rows as there are items."""

SPARE_ROWS = 10_000
MAX_ATTRIBUTES = 500
READ_ENTRIES = 64
_PLAIN = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


class Catalogue:
    """Items and their attributes, durable.

    Every put and removal is an entry of the log before it counts; every server of the log applies the same entries in
    the same order. An item is put whole: attributes that are not given are null from then on. Columns that the schema
    reads are held to the types that it wants; any other column is an attribute for filters and keeps its first type.

    Args:
        log: Where the items are kept; several servers on one machine may share it.
        schema: What the model reads from rows as they come (not prepared).
        apart: Columns of the schema that no item can have, such as the one that names the user.

    Thread-safety: any number of threads.
    """

    def __init__(self, log: EmbeddedLog, schema: Schema, *, apart: Sequence[str] = ()) -> None:
        self.log, self.schema, self.columns, self.apart = log, schema, Columns(schema), tuple(apart)
        self.shelf = Shelf.empty(schema.item)
        self._offset = 0
        self._watchers: list[Callable[[Shelf], None]] = []
        self._lock = threading.RLock()

    def watch(self, watcher: Callable[[Shelf], None]) -> None:
        """Have every new shelf shown to `watcher`, the present one first."""
        with self._lock:
            self._watchers.append(watcher)
            watcher(self.shelf)

    def put(self, items: pa.RecordBatch, *, replace: bool = False, remember: str = "") -> int:
        """Add items, or put them in place of those of the same name; returns how many there are then.

        Args:
            items: One row per item, with the item column and any attributes.
            replace: Remove every other item in the same step.
            remember: A name that is kept in the log in the same step; see `load`.

        Raises:
            SchemaError: If a column cannot be what the schema or the catalogue has it as; nothing was changed.
            StoreError: If they cannot be made durable.
        """
        with self._lock:
            self.follow()
            events = self._events(items, REPLACE if replace else PUT)
            (Shelf.empty(self.schema.item) if replace else self.shelf).put(_attributes(events))  # refuses what is wrong
            with self.log.transaction() as write:
                write.append(TOPIC, events)
                if remember:
                    write.put_state(remember, b"")
            self.follow()
            self._tidy()
            return len(self.shelf)

    def remove(self, items: pa.Array) -> int:
        """Remove items by name; returns how many of them were there."""
        with self._lock:
            self.follow()
            column = self.columns.cast(self.schema.item, items)
            before = len(self.shelf)
            batch = pa.RecordBatch.from_arrays([column], names=[self.schema.item])
            if batch.num_rows:
                self.log.append(TOPIC, self._events(batch, REMOVE))
                self.follow()
            return before - len(self.shelf)

    def load(self, path: Path) -> int:
        """Put the items of a file (any format that `headrace run` reads), once per content; returns how many are there.

        The file is the whole catalogue: items that it does not name are removed. A file that was loaded before is not
        loaded again, so what was put since stays.

        Raises:
            DataError: If the file cannot be read.
        """
        name = f"file {sha256(path)}"
        if self.log.state(name) is None:
            layout = Layout(time=None, kind=PUT, types=_types_of(path, self.schema), key=())
            parts = [pa.Table.from_batches([piece.batch]) for piece in pieces(path, layout)]
            if not parts:
                raise DataError(f"File {path}", got="no rows", expected="one row for each item")
            table = pa.concat_tables(parts, promote_options="default").combine_chunks()
            kept = [column for column in table.column_names if column not in REQUIRED]
            self.put(_with_numbers(table.select(kept), self.columns.names), replace=True, remember=name)
        self.follow()
        return len(self.shelf)

    def follow(self) -> bool:
        """Apply what the log has; returns whether anything was new."""
        with self._lock:
            shelf = self.shelf
            while True:
                try:
                    entries = self.log.read(TOPIC, self._offset, limit=READ_ENTRIES)
                except StaleError:  # written anew meanwhile; it begins with everything
                    self._offset = self.log.topic(TOPIC).first_offset
                    continue
                if not entries:
                    break
                for entry in entries:
                    shelf = _applied(shelf, entry.events, self.schema.item)
                    self._offset = entry.offset + 1
            if shelf is self.shelf:
                return False
            self.columns.adopt(Events.from_columns(_adoptable(shelf)))
            self.shelf = shelf
            for watcher in self._watchers:
                watcher(shelf)
            return True

    def _tidy(self) -> None:
        """Write the log anew when most of what it holds is past."""
        info = self.log.topic(TOPIC)
        if info.next_row - info.first_row <= KEPT_ROWS * len(self.shelf) + SPARE_ROWS:
            return
        alive = self.shelf.columns.filter(pa.array(self.shelf.alive))
        if not alive.num_rows:
            return
        offset = self.log.append(TOPIC, self._events(alive, REPLACE))
        self.log.trim(TOPIC, offset)
        self.follow()

    def _events(self, items: pa.RecordBatch, kind: str) -> Events:
        """Return items as rows of the log, every column in its type."""
        names = items.schema.names
        item = self.schema.item
        if item not in names:
            raise SchemaError(f"Items, column '{item}'", got="no such column", expected=nearest(item, names),
                              do="Every item needs its name.")  # fmt: skip
        taken = sorted(set(names) & {*REQUIRED, *self.apart})
        if taken or len(names) > MAX_ATTRIBUTES:
            raise SchemaError("Items", got=f"columns {taken}" if taken else f"{len(names)} attributes",
                              expected=f"at most {MAX_ATTRIBUTES} attributes of items",
                              do="Users, requests and places are no attributes of items.")  # fmt: skip
        rows, now = items.num_rows, time.time_ns() // 1000
        columns = {name: self._cast(name, items.column(name)) for name in names}
        check_names(item, columns[item])
        fixed = {"key": columns[item].cast(pa.string()), "kind": pa.array([kind] * rows, pa.string()),
                 "event_time": pa.array(np.full(rows, now, dtype=np.int64))}  # fmt: skip
        return Events.from_columns(fixed | columns)

    def _cast(self, name: str, values: pa.Array) -> pa.Array:
        if name in self.columns.names:
            return self.columns.cast(name, values)
        kind = values.type.value_type if is_list(values.type) else values.type
        if not (any(test(kind) for test in _PLAIN) or pa.types.is_null(kind)):
            raise SchemaError(f"Items, column '{name}'", got=f"type {values.type}",
                              expected="texts, numbers, truth values, or lists of one of them")  # fmt: skip
        held = self.shelf.columns.schema
        wanted = held.field(name).type if name in held.names else values.type
        if is_list(values.type) and pa.types.is_null(kind):  # empty lists: of what is not known before a full one comes
            known = is_list(wanted) and not pa.types.is_null(wanted.value_type)
            return pa.array(values.to_pylist(), wanted) if known else pa.nulls(len(values))
        numbers = pa.types.is_floating(wanted) and pa.types.is_integer(values.type)
        try:
            return values.cast(wanted) if numbers or pa.types.is_null(values.type) else values
        except pa.ArrowInvalid as error:
            raise SchemaError(f"Items, column '{name}'", got=str(error)[:200], expected=str(wanted)) from error


def _applied(shelf: Shelf, events: Events, item: str) -> Shelf:
    kind = events.column("kind")[0].as_py() if len(events) else PUT
    if kind == REMOVE:
        return shelf.remove(item_ids(events.column(item)))
    batch = _attributes(events)
    if kind == REPLACE:
        others = np.setdiff1d(shelf.hashes[shelf.alive], item_ids(batch.column(item)))
        return shelf.remove(others).put(batch)
    return shelf.put(batch)


def _attributes(events: Events) -> pa.RecordBatch:
    return events.batch.select([name for name in events.names if name not in REQUIRED])


def _adoptable(shelf: Shelf) -> dict[str, object]:
    rows = shelf.places
    required = {"key": [""] * rows, "kind": [PUT] * rows, "event_time": [0] * rows}
    return required | {name: shelf.columns.column(name) for name in shelf.columns.schema.names}


def _types_of(path: Path, schema: Schema) -> dict[str, str]:
    """Return the types that the schema gives to columns of a file, of those that the file has."""
    for piece in pieces(path, Layout(time=None, kind=PUT, key=())):
        return {name: kind for name, kind in schema.text_types.items() if name in piece.batch.schema.names}
    return {}


def _with_numbers(table: pa.Table, known: list[str]) -> pa.RecordBatch:
    """Return the rows with attributes that are numbers in a text file as numbers."""
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        if name in known or not pa.types.is_string(column.type) or column.null_count == len(column):
            continue
        for kind in (pa.int64(), pa.float64()):
            try:
                table = table.set_column(place, name, column.cast(kind))
                break
            except pa.ArrowInvalid:
                continue
    return table.combine_chunks().to_batches()[0]
