"""Items and users as vectors whose inner product says how well they fit: two towers, or the items' own rows.

The item side is computed one version ahead: it has tables and dense weights of its own (the items' only), so that the
vectors of a new version are ready before requests move to it, and no request waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from headrace.config import require
from headrace.data.collate import collate
from headrace.data.features import CrossFeature, IdFeature, Schema
from headrace.errors import ConfigError
from headrace.nn import TwoTower
from headrace.publish.replica import Replica, ServingTable
from headrace.serve.predictor import RankPredictor
from headrace.serve.shelf import Ints, Mask, Shelf
from headrace.types import NO_VERSION, Batch, Change, Events, RowChange

BLOCK_ITEMS = 4096
MANY = 0.5
"""From this share of all items on, all of them are read at once."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a change means for the vectors of items: all are others now, or those that have one of these ids."""

    everything: bool
    ids: Mapping[str, Tensor]


@runtime_checkable
class ListedTable(Protocol):
    """A table that can say what it holds."""

    def rows(self) -> RowChange:
        """Return all rows."""
        ...


class ItemVectors(Protocol):
    """Makes vectors of items one version ahead, and those of users at the version that answers."""

    def move(self, change: Change) -> Moved:
        """Take a change; tells whose vectors it touches."""
        ...

    def copy(self, replica: Replica) -> None:
        """Become what the replica is."""
        ...

    def touched(self, shelf: Shelf, moved: Moved) -> Mask:
        """Return which rows of the shelf (N,) a change touches."""
        ...

    def items(self, shelf: Shelf, rows: Ints) -> Tensor:
        """Return vectors (R, K) of the items in rows (R,) of the shelf."""
        ...

    def user(self, request: Events, recent: Tensor) -> Tensor | None:
        """Return the vector (K,) of the user who asks (one row), or None where nothing is known to go by.

        Args:
            request: What the request says of the user.
            recent: Vectors (R, K) of the items that the user took to last, newest first.
        """
        ...


class ItemSide:
    """Tables and dense tensors of the item side alone, moved by the same changes as the replica's.

    Args:
        tables: Serving tables of the features that items have; nobody else writes to them.
        dense: Tensors by the names that they have in changes.
    """

    def __init__(self, tables: Mapping[str, ServingTable], dense: Mapping[str, Tensor]) -> None:
        self.tables, self.dense = dict(tables), dict(dense)

    def move(self, change: Change) -> Moved:
        """Take a change."""
        whole = change.full or change.version.parent == NO_VERSION
        ids: dict[str, Tensor] = {}
        for name, table in self.tables.items():
            if whole:
                table.clear()
            rows = change.tables.get(name)
            if rows is None:
                continue
            table.remove(rows.removed)
            if len(rows.ids):
                table.assign(rows.ids, rows.rows)
            ids[name] = torch.cat([rows.ids, rows.removed])
        return Moved(self._set(change.dense) or whole, ids)

    def copy(self, replica: Replica) -> None:
        """Become what the replica is."""
        for name, table in self.tables.items():
            live = replica.tables[name]
            if not isinstance(live, ListedTable):
                raise ConfigError(f"Table '{name}'", got=type(live).__name__, expected="one that lists its rows")
            rows = live.rows()
            table.clear()
            if len(rows.ids):
                table.assign(rows.ids, rows.rows)
        self._set(replica.dense)

    def _set(self, tensors: Mapping[str, Tensor]) -> bool:
        """Take dense tensors; returns whether any of them differs."""
        changed = False
        with torch.no_grad():
            for name, own in self.dense.items():
                new = tensors.get(name)
                if new is not None and not torch.equal(own, new):
                    own.copy_(new)
                    changed = True
        return changed


class RowReading:
    """Reads rows as some features of the schema, whatever else is missing in them.

    Args:
        predictor: Knows the schema, and how raw rows are prepared.
        features: Names of features with a table.
    """

    def __init__(self, predictor: RankPredictor, features: Sequence[str]) -> None:
        schema = predictor.schema
        crosses = [f for f in schema.features if isinstance(f, CrossFeature) and f.name in features]
        wanted = {*features, *(name for cross in crosses for name in cross.of), *schema.dense_names}
        self.predictor = predictor
        self.schema = Schema(features=tuple(f for f in schema.features if f.name in wanted), item=schema.item)
        self.tables = {f.name: f.table for f in schema.id_features if f.name in features}
        self._kept: tuple[int, Batch] | None = None

    def shelf(self, shelf: Shelf) -> Batch:
        """Return all rows of a shelf; kept until there is another shelf."""
        if self._kept is None or self._kept[0] != shelf.generation:
            columns = dict(zip(shelf.columns.schema.names, shelf.columns.columns, strict=True))
            self._kept = (shelf.generation, self.batch(as_rows(columns, shelf.places)))
        return self._kept[1]

    def some(self, shelf: Shelf, rows: Ints) -> Batch:
        """Return rows of a shelf."""
        columns = shelf.columns.take(pa.array(rows))
        return self.batch(as_rows(dict(zip(columns.schema.names, columns.columns, strict=True)), len(rows)))

    def batch(self, rows: Events) -> Batch:
        """Return rows that may lack any column."""
        wanted = self.predictor.request_schema.columns
        missing = [name for name in wanted if name not in rows.names]
        # Absent is null: a tower's batch lacks what only the other one reads.
        rows = rows.with_columns({name: _nulls(self.predictor, name, len(rows)) for name in missing})
        rows = rows.with_columns({"example_id": pa.array(np.zeros(len(rows), np.int64))})
        return collate(self.predictor.prepared(rows), self.schema, serving=True)


class TowerVectors:
    """The vectors of a `TwoTower`, alone or inside another model.

    An item's vector changes with the rows of its ids, and all of them with the item tower's dense weights; these change
    with nearly every version, so each version encodes the whole catalogue (about 0.06 s of one core for 100,000 items
    with small towers, beside requests). `RowVectors` moves with the rows alone.

    Args:
        predictor: Who serves; its model has the towers that see users.
        ahead: The same model over tables of its own for the features of the item tower.
        tables: These tables by name.

    Raises:
        ConfigError: If a model has no towers.
    """

    def __init__(self, predictor: RankPredictor, ahead: nn.Module, tables: Mapping[str, ServingTable]) -> None:
        live, towers = towers_in(predictor.model), towers_in(ahead)
        if live is None or towers is None:
            raise ConfigError("TowerVectors, model", got=type(ahead).__name__, expected="a TwoTower inside it",
                              do="Use headrace.nn.TwoStage, or vectors='rows'.")  # fmt: skip
        self._live, self._towers = live, towers.eval()
        own = {id(tensor) for tensor in [*towers.item_tower.parameters(), *towers.item_tower.buffers()]}
        held = ahead.state_dict(keep_vars=True)
        self._side = ItemSide(tables, {name: value for name, value in held.items() if id(value) in own})
        self._items = RowReading(predictor, towers.item_tower.reads.features)
        self._users = RowReading(predictor, towers.user_tower.reads.features)

    def move(self, change: Change) -> Moved:
        """Take a change."""
        return self._side.move(change)

    def copy(self, replica: Replica) -> None:
        """Become what the replica is."""
        self._side.copy(replica)

    def touched(self, shelf: Shelf, moved: Moved) -> Mask:
        """Return which rows of the shelf (N,) have an id whose row changed."""
        batch, mask = self._items.shelf(shelf), np.zeros(shelf.places, dtype=np.bool_)
        for feature, table in self._items.tables.items():
            ids, jagged = moved.ids.get(table), batch.ids[feature]
            if ids is None or not len(ids):
                continue
            hit = torch.isin(jagged.values, ids).numpy()
            owners = np.repeat(np.arange(shelf.places), np.diff(jagged.offsets.numpy()))
            mask[owners[hit]] = True
        return mask

    def items(self, shelf: Shelf, rows: Ints) -> Tensor:
        """Return vectors (R, K) of items."""
        most = len(rows) > MANY * shelf.places
        batch = self._items.shelf(shelf) if most else self._items.some(shelf, rows)
        with torch.no_grad():
            vectors = torch.cat([self._towers.item(part) for part in batch.split(BLOCK_ITEMS)])
        return vectors[torch.from_numpy(rows)] if most else vectors

    def user(self, request: Events, recent: Tensor) -> Tensor | None:
        """Return the vector (K,) of the user who asks."""
        with torch.no_grad():
            return self._live.user(self._users.batch(request))[0]


class RowVectors:
    """Items as their own rows, of length 1; a user is the mean of the items that they took to last.

    So users are sent items that are near to what they liked, and a user of whom nothing is remembered has no vector.
    An item's vector changes when its row does, and with nothing else.

    Args:
        predictor: Who serves.
        feature: The feature that names the item.
        table: A serving table of its own for that feature.
        first: First column that is read; rows of most rankers begin with a first-order weight, which is no direction.
    """

    def __init__(self, predictor: RankPredictor, feature: str, table: ServingTable, *, first: int = 1) -> None:
        self._items = RowReading(predictor, [feature])
        name = self._items.tables[feature]
        width = int(table.lookup(torch.empty(0, dtype=torch.int64)).shape[1])
        require(0 <= first < width, "RowVectors, first", got=first, expected=f"0 to {width - 1}")
        self._feature, self._table, self._name, self._first = feature, table, name, first
        self._side = ItemSide({name: table}, {})

    def move(self, change: Change) -> Moved:
        """Take a change."""
        return self._side.move(change)

    def copy(self, replica: Replica) -> None:
        """Become what the replica is."""
        self._side.copy(replica)

    def touched(self, shelf: Shelf, moved: Moved) -> Mask:
        """Return which rows of the shelf (N,) have a row in the table that changed."""
        ids = moved.ids.get(self._name)
        if ids is None:
            return np.zeros(shelf.places, dtype=np.bool_)
        return np.asarray(torch.isin(self._ids(self._items.shelf(shelf)), ids).numpy(), dtype=np.bool_)

    def items(self, shelf: Shelf, rows: Ints) -> Tensor:
        """Return vectors (R, K) of items."""
        return normalize(self._table.lookup(self._ids(self._items.some(shelf, rows)))[:, self._first :], dim=1)

    def user(self, request: Events, recent: Tensor) -> Tensor | None:
        """Return the direction (K,) between the items that the user took to last."""
        return normalize(recent.mean(0), dim=0) if len(recent) else None

    def _ids(self, batch: Batch) -> Tensor:
        jagged = batch.ids[self._feature]
        if len(jagged.values) == len(batch):
            return jagged.values
        ids = torch.zeros(len(batch), dtype=torch.int64)  # rows without an item
        ids[jagged.offsets[1:] > jagged.offsets[:-1]] = jagged.values
        return ids


def towers_in(model: nn.Module) -> TwoTower | None:
    """Return the first two towers inside a model, if there are any."""
    return next((part for part in model.modules() if isinstance(part, TwoTower)), None)


def feature_of(predictor: RankPredictor, column: str) -> str | None:
    """Return the single-id feature that is made of a column of requests, by hash or by vocabulary; None: there is none.

    Of several the first one, as the schema has them.
    """
    raw = (lambda name: name) if predictor.preparation is None else predictor.preparation.raw_column
    for feature in predictor.schema.id_features:
        if isinstance(feature, IdFeature) and [raw(name) for name in feature.columns] == [column]:
            return feature.name
    return None


def as_rows(columns: Mapping[str, pa.Array], rows: int) -> Events:
    """Return columns as rows that a schema can read."""
    fixed = {"key": pa.array([""] * rows), "kind": pa.array(["impression"] * rows),
             "event_time": pa.array(np.zeros(rows, np.int64))}  # fmt: skip
    return Events.from_columns(fixed | dict(columns))


def _nulls(predictor: RankPredictor, name: str, rows: int) -> pa.Array:
    """Return a column in which nothing is known, of the type that features of this column have."""
    for feature in predictor.request_schema.features:
        if name in feature.columns:
            dense = feature in predictor.request_schema.dense_features
            return pa.nulls(rows, pa.float64() if dense else pa.null())
    return pa.nulls(rows, pa.string())
