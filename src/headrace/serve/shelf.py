"""The items that may be recommended, as columns: a value that is never changed, only replaced by the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.hashing import hash_strings
from headrace.errors import SchemaError

Ints: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Items in rows. A row keeps its number as long as its item is there; rows of removed items are used again.

    Attributes:
        item: Column that names the item.
        columns: One row per place, whether an item is in it or not.
        hashes: The items as 64-bit ids (N,).
        alive: Which rows hold an item (N,).
        stamps: Generation in which each row was written last (N,).
        rows: Id to row, of the items that are there.
        generation: Grows with every change.

    Thread-safety: immutable; any number of threads may read.
    """

    item: str
    columns: pa.RecordBatch
    hashes: Ints
    alive: Mask
    stamps: Ints
    rows: dict[int, int]
    generation: int = 0

    @staticmethod
    def empty(item: str) -> Shelf:
        """Return a shelf without items."""
        none = np.zeros(0, dtype=np.int64)
        columns = pa.RecordBatch.from_arrays([pa.array([], pa.string())], names=[item])
        return Shelf(item=item, columns=columns, hashes=none, alive=none.astype(np.bool_), stamps=none, rows={})

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.rows)

    @property
    def places(self) -> int:
        """Rows, empty ones included."""
        return int(self.columns.num_rows)

    def names(self, rows: Ints) -> pa.Array:
        """Return the items in rows."""
        return self.columns.column(self.item).take(pa.array(rows))

    def find(self, hashes: Ints) -> Ints:
        """Return the rows of those items that are there."""
        found = [row for row in map(self.rows.get, hashes.tolist()) if row is not None]
        return np.array(found, dtype=np.int64)

    def put(self, batch: pa.RecordBatch) -> Shelf:
        """Return a shelf with items added or replaced whole; the last one counts where an item stands twice.

        Raises:
            SchemaError: If a column has another type than before.
        """
        batch = _last_of_each(batch, self.item)
        hashes, rows = item_ids(batch.column(self.item)), dict(self.rows)
        free = np.flatnonzero(~self.alive)[::-1].tolist()
        total, places = self.places, np.empty(len(hashes), dtype=np.int64)
        for number, name in enumerate(hashes.tolist()):
            row = rows.get(name)
            if row is None:
                row = free.pop() if free else total
                total += row == total
                rows[name] = row
            places[number] = row
        source = np.concatenate([np.arange(self.places), np.full(total - self.places, -1)])
        source[places] = self.places + np.arange(len(hashes))
        columns = _stacked(self.columns, batch, self.item).take(pa.array(source))
        grown = total - self.places
        return replace(
            self, columns=columns, rows=rows, generation=self.generation + 1,
            hashes=_written(self.hashes, grown, places, hashes), alive=_written(self.alive, grown, places, True),
            stamps=_written(self.stamps, grown, places, self.generation + 1),
        )  # fmt: skip

    def remove(self, hashes: Ints) -> Shelf:
        """Return a shelf without these items; those that are not there are no error."""
        gone = self.find(hashes)
        rows, alive, stamps = dict(self.rows), self.alive.copy(), self.stamps.copy()
        for name in self.hashes[gone].tolist():
            rows.pop(name, None)
        alive[gone], stamps[gone] = False, self.generation + 1
        return replace(self, rows=rows, alive=alive, stamps=stamps, generation=self.generation + 1)


def item_ids(column: pa.Array) -> Ints:
    """Return the ids of items, (N,): hashes of text, integers as they are, as a table has them."""
    if pa.types.is_integer(column.type):
        return np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
    return hash_strings(column)


def _last_of_each(batch: pa.RecordBatch, item: str) -> pa.RecordBatch:
    names = item_ids(batch.column(item))
    _, back = np.unique(names[::-1], return_index=True)
    if len(back) == len(names):
        return batch
    return batch.take(pa.array(np.sort(len(names) - 1 - back)))


def _stacked(held: pa.RecordBatch, more: pa.RecordBatch, item: str) -> pa.RecordBatch:
    """Return the rows of both, one behind the other; a column that one of them lacks is null there."""
    arrays = {}
    for name in dict.fromkeys([*held.schema.names, *more.schema.names]):
        old = held.column(name) if name in held.schema.names else None
        new = more.column(name) if name in more.schema.names else None
        known = [part.type for part in (old, new) if part is not None and not pa.types.is_null(part.type)]
        kind = known[0] if known else pa.null()
        if name == item and new is not None and not held.num_rows:
            kind = new.type
        if len(known) > 1 and held.num_rows and known[0] != known[1]:
            raise SchemaError(f"Items, column '{name}'", got=f"type {known[1]}", expected=str(known[0]),
                              do="A column keeps the type that it came with first.")  # fmt: skip
        sizes = (held.num_rows, more.num_rows)
        parts = [pa.nulls(size, kind) if part is None or not len(part) else part.cast(kind)
                 for part, size in zip((old, new), sizes, strict=True)]  # fmt: skip
        arrays[name] = pa.concat_arrays(parts)
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def _written(values: npt.NDArray[Scalar], grown: int, places: Ints, new: object) -> npt.NDArray[Scalar]:
    longer = np.concatenate([values, np.zeros(grown, dtype=values.dtype)])
    longer[places] = new
    return longer


def null_free(column: pa.Array) -> Mask:
    """Return a mask in which null is False, (N,)."""
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
