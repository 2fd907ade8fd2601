"""EmbeddingCollection: the tables of a model as one `nn.Module`, and the way gradients go back into them.

A forward pass under gradient finds every distinct id of every table once and pools its rows per feature. In the
backward pass gradients are summed per distinct id, over all its occurrences and all features that share the table;
`apply_gradients` then updates each table once. Native tables do all of that in one call for all features together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from headrace.config import known_name, require
from headrace.errors import NonFiniteLoss, StoreError
from headrace.protocols import Table
from headrace.store.embedded import Embedded
from headrace.store.hashing import IdArray
from headrace.store.passes import (
    POOLINGS,
    Lookup,
    NativePass,
    NativeTables,
    Pass,
    PlainPass,
    ids_of,
    newest,
    not_finite,
)
from headrace.store.ranks import Ranks
from headrace.store.row_rules import FloatArray
from headrace.store.sharded import JointTable
from headrace.store.table import NativeTable
from headrace.types import Batch

_Step: TypeAlias = tuple[IdArray, FloatArray, IdArray, IdArray]  # ids, grads, counts, times

MAX_KEPT = 1024
"""Forward passes that may wait for `apply_gradients`; more means that somebody forgot `torch.no_grad()`."""


@dataclass(frozen=True, kw_only=True)
class FeatureLookup:
    """Which table a feature's ids are looked up in, and how the rows of one example are pooled.

    Attributes:
        feature: Name in `Batch.ids`.
        table: Name of the table.
        pooling: `sum` or `mean` of the rows of an example (zeros where it has none), or `none`: rows as they come.
    """

    feature: str
    table: str
    pooling: str = "sum"

    def __post_init__(self) -> None:
        known_name(f"FeatureLookup.pooling of feature '{self.feature}'", self.pooling, POOLINGS)


@dataclass(slots=True)
class _Kept:
    """A forward pass that waits for `apply_gradients`: its batch, and a pass over each group of tables."""

    batch: Batch
    passes: list[Pass]

    def pass_of(self, table: str) -> Pass | None:
        """Return the pass that brought a gradient to this table, if any."""
        for one in self.passes:
            if one.has(table):
                return one if one.flowed(table) else None
        return None


class _Rows(torch.autograd.Function):
    """Gives the outputs of a pass to autograd, and their gradients back to the pass."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, one: Pass, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Return outputs that ask for gradients, because the anchor does."""
        ctx.one = one
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(*outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, ...]:
        """Add gradients to the pass."""
        ctx.one.accumulate(grads)
        return (None, None, *(None for _ in grads))


def _by_feature(lookups: Sequence[Lookup], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the rows of lookups; those of groups, which come after them, are left out."""
    return {lookup.feature: row for lookup, row in zip(lookups, rows, strict=False)}


def _joints(tables: NativeTables, rows: Sequence[Tensor]) -> dict[tuple[str, ...], Tensor]:
    """Return the tensors of groups, which come after those of lookups."""
    groups = zip(tables.groups, rows[len(tables.lookups) :], strict=True)
    return {group.features: joint for group, joint in groups}


class EmbeddingCollection(nn.Module):
    """Looks up all embedded features of a batch and brings the gradients back.

    Under `torch.no_grad()` a forward pass keeps nothing and may run in many threads at once, beside a thread that
    learns. With gradients it keeps what it found until `apply_gradients` or `discard`; one thread at a time. Work on
    native tables is spread over `torch.get_num_threads()` threads; results do not depend on their number.

    Of a `ShardedTable` every rank holds a part: then forward passes and `apply_gradients` are collective. Any tables
    with a `joint_pass` are looked up together, by the pass that it returns.

    The tables are no part of `state_dict`: they have their own `state`.

    Args:
        tables: Tables by name.
        lookups: One per feature.
        packed: Whether all native tables share every call. Without it each table has calls of its own, and the results
            are the same to the bit: that is there to be measured (`calls`). An error then does not always leave all
            tables as they were.

    Raises:
        ConfigError: If a lookup names an unknown table, or two lookups are for one feature.
    """

    def __init__(self, tables: Mapping[str, Table], lookups: Sequence[FeatureLookup], *, packed: bool = True) -> None:
        super().__init__()
        for lookup in lookups:
            known_name(f"FeatureLookup.table of feature '{lookup.feature}'", lookup.table, list(tables))
        names = [lookup.feature for lookup in lookups]
        require(len(set(names)) == len(names), "EmbeddingCollection.lookups", got=names, expected="one per feature")
        self._tables, self._lookups = dict(tables), tuple(lookups)
        native = {name: table for name, table in tables.items() if _is_native(table)}
        fast = [lookup for lookup in lookups if lookup.table in native]
        self._sharded = {name: table for name, table in tables.items() if isinstance(table, JointTable)}
        sharded, kinds = len(self._sharded), {type(table) for table in self._sharded.values()}
        require(sharded in (0, len(tables)) and len(kinds) < 2, "EmbeddingCollection.tables", got=f"{sharded} sharded",
                expected=f"all {len(tables)} or none", do="Wrap every table in ShardedTable.")  # fmt: skip
        self._shared = [lookup for lookup in lookups if lookup.table in self._sharded]
        self._plain = [lookup for lookup in lookups if lookup.table not in native | self._sharded]
        alike = [fast] if packed else [[item for item in fast if item.table == name] for name in native]
        self._native = [NativeTables(native, group) for group in alike if group]  # type: ignore[arg-type]
        self._anchor = torch.zeros(0, requires_grad=True)
        self._kept: list[_Kept] = []

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""
        return self._tables

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that the tables are spread over; None where they are whole."""
        return next((getattr(table, "ranks", None) for table in self._sharded.values()), None)

    @property
    def lookups(self) -> tuple[FeatureLookup, ...]:
        """The lookups, in order."""
        return self._lookups

    @property
    def calls(self) -> int:
        """Calls of native code so far: with packed tables three a step, look up, take gradients and update."""
        return sum(group.calls for group in self._native)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return ", ".join(f"{item.feature}: {item.table} ({item.pooling})" for item in self._lookups)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding of every feature.

        Shapes:
            Features pooled by sum or mean: (B, D) float32. Pooling none: (L, D), in the order of the feature's values.
            Where tables are native, `joint(features)` of the answer has all pooled features of one width, in the order
            of the lookups, as one tensor (B, N, D); it shares their memory, so change none in place.

        Raises:
            SchemaError: If the batch lacks a feature, or its offsets do not fit its ids.
            StoreError: If more than 1024 forward passes wait for `apply_gradients`.
        """
        if not torch.is_grad_enabled():
            return self._read(batch)
        if len(self._kept) >= MAX_KEPT:
            raise StoreError(
                "EmbeddingCollection.forward", got=f"{MAX_KEPT} forward passes that wait for apply_gradients",
                expected="apply_gradients or discard after backward", do="Evaluate under torch.no_grad().",
            )  # fmt: skip
        kept, found = _Kept(batch, []), dict[str, Tensor]()
        joints: dict[tuple[str, ...], Tensor] = {}
        for group in self._native:
            fast, outputs = NativePass.begin(group, batch)
            rows = self._tracked(kept, fast, outputs)
            found |= _by_feature(group.lookups, rows)
            joints |= _joints(group, rows)
        if self._plain:
            plain, outputs = PlainPass.begin(self._tables, self._plain, batch)
            found |= _by_feature(self._plain, self._tracked(kept, plain, outputs))
        if self._shared:
            shared = self._joint_pass(batch, keep=True)
            found |= _by_feature(self._shared, self._tracked(kept, shared, shared.rows()))
        self._kept.append(kept)
        return Embedded({item.feature: found[item.feature] for item in self._lookups}, joints)

    def fetch_ahead(self, batch: Batch) -> None:
        """Ask the disk for the cold rows of a batch that will be looked up soon, and wait for none of them.

        Does something only for tables with `Storage(disk=...)` that have waited for their disk lately: then reading
        goes on while an earlier batch is learned. Nothing depends on it but time.

        Thread-safety: any thread, beside one that learns.
        """
        for group in self._native:
            group.fetch(batch)

    def _joint_pass(self, batch: Batch, keep: bool) -> PlainPass:
        return next(iter(self._sharded.values())).joint_pass(self._sharded, self._shared, batch, keep)

    def _tracked(self, kept: _Kept, one: Pass, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        kept.passes.append(one)
        rows: tuple[Tensor, ...] = _Rows.apply(self._anchor, one, *outputs)  # type: ignore[no-untyped-call]
        return rows

    def _read(self, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        joints: dict[tuple[str, ...], Tensor] = {}
        for group in self._native:
            rows = group.read(batch)
            found |= _by_feature(group.lookups, rows)
            joints |= _joints(group, rows)
        if self._plain:
            outputs = PlainPass(self._tables, self._plain, batch, keep=False).rows()
            found |= {lookup.feature: out for lookup, out in zip(self._plain, outputs, strict=True)}
        if self._shared:
            outputs = self._joint_pass(batch, keep=False).rows()
            found |= {lookup.feature: out for lookup, out in zip(self._shared, outputs, strict=True)}
        return Embedded({item.feature: found[item.feature] for item in self._lookups}, joints)

    @torch.no_grad()
    def apply_gradients(self, batch: Batch) -> None:
        """Update every table that received gradients, once, and forget the forward passes.

        An id's gradient is summed over all forward passes since the last call, its occurrences and the newest event
        time are those of `batch`, whichever of them saw it. Tables whose rows got no gradient are left alone.

        Args:
            batch: The batch learned from; it has to hold every id that was looked up.

        Raises:
            NonFiniteLoss: If a gradient is not finite; then no table was changed.
            StoreError: If nothing waits, or an id was looked up that the batch does not hold.
        """
        if not self._tables:
            return  # a model without tables, which only its dense part learns
        if not self._kept:
            raise StoreError(
                "EmbeddingCollection.apply_gradients", got="no forward pass with gradients",
                expected="forward, backward, then apply_gradients", do="Call the model outside torch.no_grad().",
            )  # fmt: skip
        kept, self._kept = self._kept, []
        flowed = [one for one in kept if any(one.pass_of(name) for name in self._tables)]
        if len(flowed) == 1 and _same_lookups(flowed[0].batch, batch):
            for one in flowed[0].passes:
                one.check()
            _apply(flowed[0].passes)
            return
        steps = {name: step for name in self._tables if (step := self._merged(name, flowed, batch)) is not None}
        for name, step in steps.items():
            if not np.isfinite(step[1]).all():
                raise not_finite(name)
        for name, step in steps.items():
            self._tables[name].update(*(torch.from_numpy(array) for array in step))

    def _merged(self, name: str, kept: Sequence[_Kept], batch: Batch) -> _Step | None:
        """Return the update of one table from several passes, or None where nothing flowed."""
        sums = [one.sums(name) for item in kept if (one := item.pass_of(name)) is not None]
        if not sums:
            return None
        jagged = [ids_of(batch, item) for item in self._lookups if item.table == name]
        values = np.concatenate([item.values.numpy() for item in jagged])
        known, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        times = newest(places.reshape(-1), len(known), jagged, batch.event_times)
        ids = np.unique(np.concatenate([part.ids for part in sums]))
        at = np.searchsorted(known, ids).clip(max=max(len(known) - 1, 0))
        if not len(known) or not bool((known[at] == ids).all()):
            raise StoreError(
                f"EmbeddingCollection.apply_gradients, table '{name}'", got="ids that the batch does not hold",
                expected="the batch that was looked up", do="Pass the whole batch, not a part of it.",
            )  # fmt: skip
        grads = np.zeros((len(ids), sums[0].grads.shape[1]), np.float32)
        for part in sums:
            grads[np.searchsorted(ids, part.ids)] += part.grads
        return ids, grads, counts[at], times[at]

    def discard(self) -> None:
        """Forget every forward pass since the last `apply_gradients`: after a loss that was refused."""
        self._kept.clear()


def _apply(passes: Sequence[Pass]) -> None:
    """Update the tables of every pass; one native pass refuses as a whole, several only up to the one that does."""
    for place, one in enumerate(passes):
        try:
            one.apply()
        except NonFiniteLoss as error:
            if not place:
                raise
            raise StoreError(
                "EmbeddingCollection.apply_gradients", got=str(error), expected="finite gradients",
                do="Tables before this one have taken the step: restore a checkpoint.",
            ) from error  # fmt: skip


def _same_lookups(one: Batch, other: Batch) -> bool:
    """Return whether batches are the same for tables: a model may have replaced dense columns or labels."""
    return one is other or (one.ids is other.ids and one.event_times is other.event_times)


def _is_native(table: Table) -> bool:
    return isinstance(table, NativeTable) and table.native is not None
