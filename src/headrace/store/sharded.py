"""Tables spread over ranks: every rank keeps the rows of its shard, and all rows of a batch come in one exchange.

A rank finds its distinct ids, asks their owners once, pools the rows that come back and sends one summed gradient per
distinct id home. The owner adds what the ranks sent, in their order, and updates its shard once. So an id that comes
a thousand times in the batch of a rank crosses the wire once, and one that comes to several ranks is learned once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import HeadraceError, StoreError
from headrace.protocols import Table
from headrace.store.arguments import Arguments, check_update
from headrace.store.hashing import IdArray
from headrace.store.passes import Lookup, PlainPass, Sums, not_finite
from headrace.store.ranks import Array, Ranks
from headrace.store.row_rules import FloatArray
from headrace.store.shards import shard_of
from headrace.store.table_config import Clipping, TableConfig, TableStats
from headrace.types import Batch, RowChange, State

Step: TypeAlias = tuple[IdArray, FloatArray, IdArray, IdArray]
"""Distinct ids (U,), summed gradients (U, D), occurrences (U,), newest event times (U,)."""


@runtime_checkable
class JointTable(Protocol):
    """A table that an `EmbeddingCollection` looks up together with others of its kind, elsewhere."""

    def joint_pass(self, tables: Mapping[str, Any], lookups: Sequence[Lookup], batch: Batch, keep: bool) -> PlainPass:
        """Return a pass over all of these tables."""
        ...


class ShardedTable:
    """One rank's shard of a table, with the way to the others; fills the role `Table`.

    `lookup` and `update` are collective: every rank calls them, in the same order, with ids of its own. All else is
    about the shard here: `changes`, `state`, `evict`, `stats`. The ids of a shard are those of `shard_of`.

    Args:
        shard: The table that holds the rows here; empty, or holding ids of this shard only.
        ranks: Where this process stands.

    Example:
        >>> from headrace.store import TableConfig, open_table
        >>> table = ShardedTable(open_table(TableConfig(name="user", dim=2)), Ranks.alone())
        >>> table.lookup(torch.tensor([7, 7])).shape
        torch.Size([2, 2])
    """

    def __init__(self, shard: Table, ranks: Ranks) -> None:
        self.shard, self.ranks = shard, ranks
        self._arguments = Arguments(self.config.name, self.config.dim)

    @property
    def config(self) -> TableConfig:
        """What the table is made of; the same on every rank."""
        return cast(TableConfig, self.shard.config)  # type: ignore[attr-defined]

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D) for this rank's ids (N,); collective.

        Raises:
            StoreError: If ids are not int64 (N,), on this rank.
        """
        known, places = np.unique(self._arguments.int64("ids", ids), return_inverse=True)
        rows = fetch({"": self}, {"": known}, self.ranks)[""]
        return torch.from_numpy(rows[places.reshape(-1)])

    def update(self, ids: Tensor, grads: Tensor, counts: Tensor, times: Tensor) -> None:
        """Learn one step from what all ranks give; collective. An id may come from several of them.

        Raises:
            StoreError: On every rank, if one of them repeats an id or gives wrong shapes, dtypes or counts.
            NumericError: If a gradient is NaN or infinite. No shard is changed in either case.
        """
        step, problem = None, None
        try:
            step = self._checked(ids, grads, counts, times)
        except HeadraceError as error:
            problem = error
        if self.ranks.any([problem is not None])[0]:
            raise problem or StoreError(f"Table '{self.config.name}', update", got="a refusal on another rank",
                                        expected="an update that every rank accepts")  # fmt: skip
        assert step is not None
        push({"": self}, {"": step}, self.ranks)

    def _checked(self, ids: Tensor, grads: Tensor, counts: Tensor, times: Tensor) -> Step:
        known = self._arguments.int64("ids", ids)
        gradients = self._arguments.float32("gradients", grads, len(known))
        occurrences = self._arguments.int64("counts", counts, len(known))
        check_update(self._arguments, known, gradients, occurrences)
        return known, gradients, occurrences, self._arguments.int64("times", times, len(known))

    def joint_pass(self, tables: Mapping[str, Any], lookups: Sequence[Lookup], batch: Batch, keep: bool) -> PlainPass:
        """Return a pass over several sharded tables."""
        return ShardedPass(tables, lookups, batch, keep)

    def changes(self, since: int) -> RowChange:
        """Return what changed in the shard here."""
        return self.shard.changes(since)

    def rows(self) -> RowChange:
        """Return all rows of the shard here."""
        return cast(RowChange, self.shard.rows())  # type: ignore[attr-defined]

    def mark(self) -> int:
        """Return the shard's mark."""
        return self.shard.mark()

    def forget(self, mark: int) -> None:
        """Let the shard forget its history up to a mark."""
        self.shard.forget(mark)  # type: ignore[attr-defined]

    def evict(self, before: int) -> int:
        """Remove old rows of the shard here; return how many."""
        return self.shard.evict(before)

    def clipping(self) -> Clipping:
        """Return how many rows of the shard learned, and how many were clipped."""
        return cast(Clipping, self.shard.clipping())  # type: ignore[attr-defined]

    def stats(self) -> TableStats:
        """Return the shard's statistics."""
        return cast(TableStats, self.shard.stats())  # type: ignore[attr-defined]

    def state(self) -> State:
        """Return the shard's state, with its place."""
        return {"rank": self.ranks.rank, "ranks": self.ranks.size, "shard": self.shard.state()}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned on this rank.

        Raises:
            ConfigError: If it is the state of another shard.
        """
        there, here = (state.get("rank"), state.get("ranks")), (self.ranks.rank, self.ranks.size)
        require(there == here, f"Table '{self.config.name}', state of rank and ranks", got=there, expected=str(here),
                do="Start as many ranks as before, or move the rows with `reshard`.")  # fmt: skip
        self.shard.restore(cast(State, state["shard"]))


class ShardedPass(PlainPass):
    """A pass over sharded tables: one exchange of ids and rows for all of them, and one of gradients.

    Every rank makes it, also one whose examples have no id in some table.
    """

    def __init__(self, tables: Mapping[str, ShardedTable], lookups: Sequence[Lookup], batch: Batch, keep: bool) -> None:
        super().__init__(tables, lookups, batch, keep=True)  # ids are made distinct before they travel, always
        self._sharded, self._ranks = tables, next(iter(tables.values())).ranks

    def found(self) -> dict[str, FloatArray]:
        """Return the rows of every table's distinct ids."""
        return fetch(self._sharded, self._ids, self._ranks)

    def flowed(self, table: str) -> bool:
        """Return True: whether a gradient flowed on some rank is told by `apply`."""
        return self.has(table)

    def sums(self, table: str) -> Sums:
        """Return the summed gradients of a table; zeros where none flowed here."""
        return Sums(self._ids[table], self._gradients(table))

    def check(self) -> None:
        """Raise NonFiniteLoss, on every rank, if a sum is not finite on one of them."""
        names = sorted(self._ids)
        bad = [name in self._grads and not bool(np.isfinite(self._grads[name]).all()) for name in names]
        for name, found in zip(names, self._ranks.any(bad), strict=True):
            if found:
                raise not_finite(name)

    def apply(self) -> None:
        """Update every table that gradients flowed to on some rank."""
        self.check()
        names = sorted(self._ids)
        flowed = self._ranks.any([name in self._grads for name in names])
        steps = {name: self.step(name, self._gradients(name)) for name, some in zip(names, flowed, strict=True) if some}
        push({name: self._sharded[name] for name in steps}, steps, self._ranks)

    def _gradients(self, name: str) -> FloatArray:
        empty = (len(self._ids[name]), self._sharded[name].config.dim)
        return self._grads.get(name, np.zeros(empty, np.float32))


def fetch(tables: Mapping[str, ShardedTable], ids: Mapping[str, IdArray], ranks: Ranks) -> dict[str, FloatArray]:
    """Return rows (U, D) of every table for this rank's distinct ids (U,); collective, three calls for all tables."""
    names = sorted(tables)
    owners = {name: shard_of(ids[name], ranks.size) for name in names}
    asked = _travel(names, {name: ids[name] for name in names}, owners, ranks)
    rows = {name: _read(tables[name], [part[name] for part in asked]) for name in names}
    back = [np.concatenate([rows[name][rank].reshape(-1) for name in names]) for rank in range(ranks.size)]
    answers = ranks.exchange_floats(back)
    found: dict[str, FloatArray] = {}
    taken = [0] * ranks.size
    for name in names:
        dim, whole = tables[name].config.dim, np.empty((len(ids[name]), tables[name].config.dim), np.float32)
        for rank in range(ranks.size):
            mine = np.flatnonzero(owners[name] == rank)
            size = len(mine) * dim
            whole[mine] = answers[rank][taken[rank] : taken[rank] + size].reshape(-1, dim)
            taken[rank] += size
        found[name] = whole
    return found


def _read(table: ShardedTable, asked: Sequence[IdArray]) -> list[FloatArray]:
    """Return the rows that every rank asked for; an id that several ask for is read once."""
    known, places = np.unique(np.concatenate(asked), return_inverse=True)
    rows = table.shard.lookup(torch.from_numpy(known)).numpy()[places.reshape(-1)]
    return np.split(rows, np.cumsum([len(part) for part in asked])[:-1])


def push(tables: Mapping[str, ShardedTable], steps: Mapping[str, Step], ranks: Ranks) -> None:
    """Bring every rank's gradients to their owners, which update their shards once; collective.

    Raises:
        NonFiniteLoss: If sums over ranks are not finite on one of them; no shard was changed on any rank.
    """
    names = sorted(steps)
    if not names:
        return
    owners = {name: shard_of(steps[name][0], ranks.size) for name in names}
    ids = _travel(names, {name: steps[name][0] for name in names}, owners, ranks)
    counts = _travel(names, {name: steps[name][2] for name in names}, owners, ranks)
    times = _travel(names, {name: steps[name][3] for name in names}, owners, ranks)
    grads = _travel_rows(names, steps, owners, ranks, [[len(part[name]) for name in names] for part in ids])
    totals = {}
    for name in names:
        came = [(ids[rank][name], grads[rank][name], counts[rank][name], times[rank][name])
                for rank in range(ranks.size)]  # fmt: skip
        totals[name] = merged(came, tables[name].config.dim)
    bad = ranks.any([not bool(np.isfinite(step[1]).all()) for step in totals.values()])
    for name, found in zip(names, bad, strict=True):
        if found:
            raise not_finite(name)
    for name in names:
        # also where nothing came here: rules count the table's updates
        tables[name].shard.update(*(torch.from_numpy(array) for array in totals[name]))


def merged(came: Sequence[Step], dim: int) -> Step:
    """Add what several sent, in their order; ids of each are distinct."""
    known, places = np.unique(np.concatenate([step[0] for step in came]), return_inverse=True)
    total = np.zeros((len(known), dim), np.float32)
    number, moments = np.zeros(len(known), np.int64), np.full(len(known), np.iinfo(np.int64).min)
    begin = 0
    for ids, gradient, count, time in came:
        at = places.reshape(-1)[begin : begin + len(ids)]  # ids of one rank are distinct
        total[at] += gradient
        number[at] += count
        moments[at] = np.maximum(moments[at], time)
        begin += len(ids)
    return known, total, number, moments


def _travel(
    names: Sequence[str], values: Mapping[str, IdArray], owners: Mapping[str, IdArray], ranks: Ranks
) -> list[dict[str, IdArray]]:
    """Send every table's numbers to the owners of their ids; return by rank and table what came here."""
    parts: list[Array] = []
    for rank in range(ranks.size):
        chosen = [values[name][owners[name] == rank] for name in names]
        lengths = np.array([len(part) for part in chosen], np.int64)
        parts.append(np.concatenate([lengths, *chosen]))
    found = []
    for part in ranks.exchange(parts):
        ends = len(names) + np.cumsum(part[: len(names)])
        found.append(dict(zip(names, np.split(part, [len(names), *ends])[1:-1], strict=True)))
    return found


def _travel_rows(
    names: Sequence[str], steps: Mapping[str, Step], owners: Mapping[str, IdArray], ranks: Ranks,
    lengths: Sequence[Sequence[int]],
) -> list[dict[str, FloatArray]]:  # fmt: skip
    """Send gradients to the owners of their ids; `lengths` says by rank and table how many rows come here."""
    parts = [np.concatenate([steps[name][1][owners[name] == rank].reshape(-1) for name in names])
             for rank in range(ranks.size)]  # fmt: skip
    found = []
    for part, sizes in zip(ranks.exchange_floats(parts), lengths, strict=True):
        dims = [steps[name][1].shape[1] for name in names]
        ends = np.cumsum([size * dim for size, dim in zip(sizes, dims, strict=True)])
        pieces = np.split(part, ends[:-1])
        found.append({name: piece.reshape(-1, dim) for name, piece, dim in zip(names, pieces, dims, strict=True)})
    return found
