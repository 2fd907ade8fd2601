"""EmbeddingCollection: the tables of a model as one `nn.Module`, and the way gradients go back into them.

A forward pass under gradient looks every distinct id up once per table, makes the rows a leaf of the autograd graph
and pools them per feature. After `backward`, `apply_gradients` takes the gradients of these leaves, one per distinct
id and already summed over all its occurrences and all features that share the table, and updates each table once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.config import known_name, require
from headrace.errors import NonFiniteLoss, SchemaError, StoreError
from headrace.protocols import Table
from headrace.types import Batch, Jagged

POOLINGS = ("sum", "mean", "none")
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
class _Occurrences:
    """What a batch holds for one table: U distinct ids, ascending, the place of each of L values, and counts (U,)."""

    ids: Tensor
    places: Tensor
    counts: Tensor


@dataclass(slots=True)
class _Kept:
    """A forward pass that waits for `apply_gradients`."""

    batch: Batch
    found: dict[str, _Occurrences]
    leaves: dict[str, Tensor]


class EmbeddingCollection(nn.Module):
    """Looks up all embedded features of a batch and brings the gradients back.

    Under `torch.no_grad()` a forward pass keeps nothing and may run in many threads at once, beside a thread that
    learns. With gradients it keeps its rows until `apply_gradients` or `discard`; one thread at a time.

    The tables are no part of `state_dict`: they have their own `state`.

    Args:
        tables: Tables by name.
        lookups: One per feature.

    Raises:
        ConfigError: If a lookup names an unknown table, or two lookups are for one feature.
    """

    def __init__(self, tables: Mapping[str, Table], lookups: Sequence[FeatureLookup]) -> None:
        super().__init__()
        for lookup in lookups:
            known_name(f"FeatureLookup.table of feature '{lookup.feature}'", lookup.table, list(tables))
        names = [lookup.feature for lookup in lookups]
        require(len(set(names)) == len(names), "EmbeddingCollection.lookups", got=names, expected="one per feature")
        self._tables, self._lookups = dict(tables), tuple(lookups)
        self._by_table: dict[str, list[FeatureLookup]] = {}
        for lookup in lookups:
            self._by_table.setdefault(lookup.table, []).append(lookup)
        self._kept: list[_Kept] = []

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""
        return self._tables

    @property
    def lookups(self) -> tuple[FeatureLookup, ...]:
        """The lookups, in order."""
        return self._lookups

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return ", ".join(f"{item.feature}: {item.table} ({item.pooling})" for item in self._lookups)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding of every feature.

        Shapes:
            Features pooled by sum or mean: (B, D) float32. Pooling none: (L, D), in the order of the feature's values.

        Raises:
            SchemaError: If the batch lacks a feature.
            StoreError: If more than 1024 forward passes wait for `apply_gradients`.
        """
        if not torch.is_grad_enabled():
            return {item.feature: self._read(item, self._ids(batch, item)) for item in self._lookups}
        if len(self._kept) >= MAX_KEPT:
            raise StoreError(
                "EmbeddingCollection.forward", got=f"{MAX_KEPT} forward passes that wait for apply_gradients",
                expected="apply_gradients or discard after backward", do="Evaluate under torch.no_grad().",
            )  # fmt: skip
        kept, pooled = _Kept(batch, {}, {}), {}
        for name, lookups in self._by_table.items():
            jagged = [self._ids(batch, item) for item in lookups]
            found = _occurrences(jagged)
            leaf = self._tables[name].lookup(found.ids).requires_grad_()
            kept.found[name], kept.leaves[name] = found, leaf
            places = torch.split(found.places, [len(item.values) for item in jagged])
            for item, ids, place in zip(lookups, jagged, places, strict=True):
                pooled[item.feature] = _pool(leaf, place, ids.offsets, item.pooling)
        self._kept.append(kept)
        return {item.feature: pooled[item.feature] for item in self._lookups}

    def _ids(self, batch: Batch, item: FeatureLookup) -> Jagged:
        if item.feature not in batch.ids:
            raise SchemaError(
                f"Batch feature '{item.feature}'", got=f"features {sorted(batch.ids)}", expected="ids for every lookup",
                do="Collate with the schema that the model was built from.",
            )  # fmt: skip
        return batch.ids[item.feature]

    def _read(self, item: FeatureLookup, ids: Jagged) -> Tensor:
        rows = self._tables[item.table].lookup(ids.values)
        return _pool(rows, torch.arange(len(ids.values)), ids.offsets, item.pooling)

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
        if not self._kept:
            raise StoreError(
                "EmbeddingCollection.apply_gradients", got="no forward pass with gradients",
                expected="forward, backward, then apply_gradients", do="Call the model outside torch.no_grad().",
            )  # fmt: skip
        try:
            steps = [step for name in self._by_table for step in self._step(name, batch)]
            for name, _, grads, _, _ in steps:
                if not bool(torch.isfinite(grads).all()):
                    raise NonFiniteLoss(
                        f"Gradient for table '{name}'", got="NaN or infinity", expected="finite gradients",
                        do="No table was changed. Lower the learning rate, or look at this batch.",
                    )  # fmt: skip
        finally:
            self.discard()
        for name, ids, grads, counts, times in steps:
            self._tables[name].update(ids, grads, counts, times)

    def _step(self, name: str, batch: Batch) -> list[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
        """Return the update of one table as (name, ids, grads, counts, times), or nothing where nothing flowed."""
        flowed = [kept for kept in self._kept if kept.leaves[name].grad is not None and len(kept.leaves[name])]
        if not flowed:
            return []
        only = flowed[0] if len(flowed) == 1 and flowed[0].batch is batch else None
        jagged = [self._ids(batch, item) for item in self._by_table[name]]
        found = only.found[name] if only else _occurrences(jagged)
        times = _newest(found, jagged, batch.event_times)
        if only is not None:
            grad = only.leaves[name].grad
            assert grad is not None
            return [(name, found.ids, grad, found.counts, times)]
        ids = torch.unique(torch.cat([kept.found[name].ids for kept in flowed]))
        at = torch.searchsorted(found.ids, ids).clamp(max=max(len(found.ids) - 1, 0))
        if not len(found.ids) or not bool((found.ids[at] == ids).all()):
            raise StoreError(
                f"EmbeddingCollection.apply_gradients, table '{name}'", got="ids that the batch does not hold",
                expected="the batch that was looked up", do="Pass the whole batch, not a part of it.",
            )  # fmt: skip
        grads = torch.zeros(len(ids), flowed[0].leaves[name].shape[1])
        for kept in flowed:
            grad = kept.leaves[name].grad
            assert grad is not None
            grads[torch.searchsorted(ids, kept.found[name].ids)] += grad
        return [(name, ids, grads, found.counts[at], times[at])]

    def discard(self) -> None:
        """Forget every forward pass since the last `apply_gradients`: after a loss that was refused."""
        self._kept.clear()


def _occurrences(jagged: Sequence[Jagged]) -> _Occurrences:
    values = torch.cat([item.values for item in jagged])
    ids, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return _Occurrences(ids, places, counts)


def _newest(found: _Occurrences, jagged: Sequence[Jagged], event_times: Tensor) -> Tensor:
    """Return the newest event time (U,) among the examples that each id occurs in."""
    spread = torch.cat([torch.repeat_interleave(event_times, item.offsets.diff()) for item in jagged])
    newest = torch.full_like(found.ids, torch.iinfo(torch.int64).min)
    return newest.scatter_reduce(0, found.places, spread, "amax")


def _pool(rows: Tensor, places: Tensor, offsets: Tensor, pooling: str) -> Tensor:
    """Return rows[places] (L, D), or pooled per example (B, D). The same operations with and without gradients."""
    if pooling == "none":
        return functional.embedding(places, rows)
    if len(offsets) == 1:
        return rows.new_zeros(0, rows.shape[1])
    if not len(places):
        return rows.new_zeros(len(offsets) - 1, rows.shape[1])
    return functional.embedding_bag(places, rows, offsets, mode=pooling, include_last_offset=True)
