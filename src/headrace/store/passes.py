"""One forward pass of an `EmbeddingCollection`: rows out, gradients back, in Python or in one native call.

`PlainPass` is the specification: any table, one lookup and one update per table and step, sums in NumPy in the order
of occurrence. `NativePass` does the same for all native tables at once, bit by bit, on `torch.get_num_threads()`
threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.errors import NonFiniteLoss, SchemaError, StoreError
from headrace.protocols import Table
from headrace.store.embedded import in_rows, side_by_side
from headrace.store.hashing import IdArray
from headrace.store.output_memory import OutputMemory
from headrace.store.pooling import add_rows, pool, unpool
from headrace.store.row_rules import FloatArray
from headrace.store.table import NativeTable
from headrace.types import Batch, Jagged

POOLINGS = ("none", "sum", "mean")
"""In the order of csrc/table/packed.h."""

_OK, _NOT_FINITE, _NO_MEMORY, _INVALID = 0, 3, 7, 8


class Lookup(Protocol):
    """Which table a feature's ids are looked up in, and how an example's rows are pooled."""

    @property
    def feature(self) -> str:
        """Name in `Batch.ids`."""
        ...

    @property
    def table(self) -> str:
        """Name of the table."""
        ...

    @property
    def pooling(self) -> str:
        """One of `POOLINGS`."""
        ...


@dataclass(frozen=True, slots=True)
class Sums:
    """Gradients of one table summed per distinct id. Shapes: ids (U,) ascending, grads (U, D)."""

    ids: IdArray
    grads: FloatArray


class Pass(Protocol):
    """A forward pass that waits for its gradients."""

    def accumulate(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients of the outputs, in the order of the lookups; None where none flowed."""
        ...

    def has(self, table: str) -> bool:
        """Return whether this pass is over this table."""
        ...

    def flowed(self, table: str) -> bool:
        """Return whether a gradient flowed to this table."""
        ...

    def sums(self, table: str) -> Sums:
        """Return the summed gradients of a table that some flowed to."""
        ...

    def check(self) -> None:
        """Raise NonFiniteLoss if a sum is not finite, where that can be told before `apply`."""
        ...

    def apply(self) -> None:
        """Update every table that gradients flowed to.

        Raises:
            NonFiniteLoss: If a sum is not finite; no table of this pass was changed.
        """
        ...


def ids_of(batch: Batch, lookup: Lookup) -> Jagged:
    """Return the ids of a lookup.

    Raises:
        SchemaError: If the batch lacks the feature.
    """
    if lookup.feature not in batch.ids:
        raise SchemaError(
            f"Batch feature '{lookup.feature}'", got=f"features {sorted(batch.ids)}", expected="ids for every lookup",
            do="Collate with the schema that the model was built from.",
        )  # fmt: skip
    return batch.ids[lookup.feature]


def not_finite(table: str) -> NonFiniteLoss:
    """Return the error for a gradient that is NaN or infinite."""
    return NonFiniteLoss(
        f"Gradient for table '{table}'", got="NaN or infinity", expected="finite gradients",
        do="No table was changed. Lower the learning rate, or look at this batch.",
    )  # fmt: skip


def newest(places: IdArray, count: int, jagged: Sequence[Jagged], event_times: Tensor) -> IdArray:
    """Return the newest event time (count,) among the examples that each distinct id occurs in."""
    moments = event_times.numpy()
    spread = np.concatenate([np.repeat(moments, np.diff(item.offsets.numpy())) for item in jagged])
    times = np.full(count, np.iinfo(np.int64).min)
    np.maximum.at(times, places, spread)
    return times


class PlainPass:
    """A pass over any tables, one after the other.

    Args:
        tables: Tables by name.
        lookups: What is looked up, in order.
        batch: The batch.
        keep: Whether gradients will come; if not, ids are looked up as they are.
    """

    def __init__(self, tables: Mapping[str, Table], lookups: Sequence[Lookup], batch: Batch, keep: bool) -> None:
        self._tables, self._lookups, self._times = tables, lookups, batch.event_times
        self._jagged = [ids_of(batch, lookup) for lookup in lookups]
        self._ids: dict[str, IdArray] = {}
        self._places: dict[int, IdArray] = {}
        self._counts: dict[str, IdArray] = {}
        self._grads: dict[str, FloatArray] = {}
        if keep:
            for name in dict.fromkeys(lookup.table for lookup in lookups):
                self._find(name)

    @classmethod
    def begin(cls, tables: Mapping[str, Table], lookups: Sequence[Lookup],
              batch: Batch) -> tuple[PlainPass, list[Tensor]]:  # fmt: skip
        """Return a pass that will get gradients, and its outputs (it must not hold them: they will hold it)."""
        one = cls(tables, lookups, batch, keep=True)
        return one, one.rows()

    def _own(self, name: str) -> list[int]:
        return [place for place, lookup in enumerate(self._lookups) if lookup.table == name]

    def _find(self, name: str) -> None:
        own = self._own(name)
        values = np.concatenate([self._jagged[place].values.numpy() for place in own])
        self._ids[name], places, self._counts[name] = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum([len(self._jagged[place].values) for place in own])
        for place, part in zip(own, np.split(places.reshape(-1), ends[:-1]), strict=True):
            self._places[place] = part

    def found(self) -> dict[str, FloatArray]:
        """Return the rows of every table's distinct ids, as far as those were found."""
        return {name: self._tables[name].lookup(torch.from_numpy(ids)).numpy() for name, ids in self._ids.items()}

    def rows(self) -> list[Tensor]:
        """Return the output of every lookup."""
        found = self.found()
        outputs = []
        for place, (lookup, jagged) in enumerate(zip(self._lookups, self._jagged, strict=True)):
            if place in self._places:
                rows = found[lookup.table][self._places[place]]
            else:
                rows = self._tables[lookup.table].lookup(jagged.values).numpy()
            outputs.append(torch.from_numpy(pool(rows, jagged.offsets.numpy(), lookup.pooling)))
        return outputs

    def accumulate(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients of the outputs, in the order of the lookups."""
        for place, (lookup, grad) in enumerate(zip(self._lookups, grads, strict=True)):
            name = lookup.table
            if grad is None or not len(self._ids[name]):
                continue
            if name not in self._grads:
                self._grads[name] = np.zeros((len(self._ids[name]), grad.shape[1]), np.float32)
            spread = unpool(grad.numpy(), self._jagged[place].offsets.numpy(), lookup.pooling)
            add_rows(self._grads[name], self._places[place], spread)

    def has(self, table: str) -> bool:
        """Return whether this pass is over this table."""
        return table in self._ids

    def flowed(self, table: str) -> bool:
        """Return whether a gradient flowed to this table."""
        return table in self._grads

    def sums(self, table: str) -> Sums:
        """Return the summed gradients of a table that some flowed to."""
        return Sums(self._ids[table], self._grads[table])

    def check(self) -> None:
        """Raise NonFiniteLoss if a sum is not finite."""
        for name in self._grads:
            if not np.isfinite(self._grads[name]).all():
                raise not_finite(name)

    def apply(self) -> None:
        """Update every table that gradients flowed to."""
        self.check()
        for name, grads in self._grads.items():
            self._tables[name].update(*(torch.from_numpy(array) for array in self.step(name, grads)))

    def step(self, name: str, grads: FloatArray) -> tuple[IdArray, FloatArray, IdArray, IdArray]:
        """Return the update of a table: ids (U,), the given gradients, occurrences, newest event times."""
        own = self._own(name)
        places = np.concatenate([self._places[place] for place in own])
        times = newest(places, len(self._ids[name]), [self._jagged[place] for place in own], self._times)
        return self._ids[name], grads, self._counts[name], times


def _array(values: Tensor) -> IdArray:
    return np.asarray((values if values.is_contiguous() else values.contiguous()).numpy())


class NativeTables:
    """All native tables of a collection, in one native object.

    Args:
        tables: Tables by name; every one has a native form.
        lookups: What is looked up, in order.
    """

    def __init__(self, tables: Mapping[str, NativeTable], lookups: Sequence[Lookup]) -> None:
        self.names = list(dict.fromkeys(lookup.table for lookup in lookups))
        self.tables, self.lookups = tables, lookups
        own = [tables[name].native for name in self.names]
        scheduled = any(tables[name].config.schedule is not None for name in self.names)
        self._rates = None if scheduled else [tables[name].rate() for name in self.names]
        features = [(self.names.index(lookup.table), POOLINGS.index(lookup.pooling)) for lookup in lookups]
        self.dims = [tables[lookup.table].config.dim for lookup in lookups]
        self.packed: Any = tables[self.names[0]].module.Packed(own, features) if own else None
        self.groups = side_by_side([(lookup.feature, lookup.pooling) for lookup in lookups], self.dims)
        self._apart = sorted({*range(len(lookups))}.difference(*(group.places for group in self.groups)))
        self._memory = OutputMemory()
        self.calls = 0

    def rates(self) -> list[float]:
        """Return the learning rate of every table's next update."""
        if self._rates is None:
            return [self.tables[name].rate() for name in self.names]
        return self._rates

    def prepared(self, batch: Batch) -> tuple[list[IdArray], list[IdArray], list[FloatArray], list[FloatArray]]:
        """Return values and offsets of every lookup, an output (rows, D) for each, and one (B, N, D) for each group."""
        values, offsets, shapes, bags = [], [], [], len(batch.event_times)
        last, array = torch.empty(0), np.empty(0, np.int64)
        for lookup, dim in zip(self.lookups, self.dims, strict=True):
            jagged = ids_of(batch, lookup)
            values.append(_array(jagged.values))
            if jagged.offsets is not last:  # a batch of one id a feature often has one tensor of offsets for all
                last, array = jagged.offsets, _array(jagged.offsets)
            offsets.append(array)
            shapes.append((len(values[-1]) if lookup.pooling == "none" else bags, dim))
        outputs, joints = self._outputs(shapes, bags)
        return values, offsets, outputs, joints

    def _outputs(self, shapes: Sequence[tuple[int, int]], bags: int) -> tuple[list[FloatArray], list[FloatArray]]:
        """Return an array for every lookup, those of a group as parts of one, and the groups' own."""
        wanted = [(bags, group.dim * len(group.places)) for group in self.groups] + [shapes[at] for at in self._apart]
        taken = self._memory.take(wanted)
        outputs = dict(zip(self._apart, taken[len(self.groups) :], strict=True))
        joints = []
        for group, block in zip(self.groups, taken, strict=False):
            joints.append(block.reshape(bags, len(group.places), group.dim))
            outputs |= {place: joints[-1][:, number] for number, place in enumerate(group.places)}
        return [outputs[place] for place in range(len(shapes))], joints

    def read(self, batch: Batch) -> list[Tensor]:
        """Return the output of every lookup, then of every group; nothing is kept."""
        values, offsets, outputs, joints = self.prepared(batch)
        bags = len(batch.event_times)
        self.accept(self.packed.read(values, offsets, outputs, bags, torch.get_num_threads()))
        return [torch.from_numpy(output) for output in (*outputs, *joints)]

    def grads(self, grads: Sequence[Tensor | None]) -> list[FloatArray | None]:
        """Return a gradient for every lookup, given those of its own output and of its group's."""
        count = len(self.lookups)
        found = list(grads[:count])
        for group, joint in zip(self.groups, grads[count:], strict=True):
            if joint is None:
                continue
            for number, place in enumerate(group.places):
                own = found[place]
                found[place] = joint[:, number] if own is None else joint[:, number] + own
        return [None if grad is None else in_rows(grad).numpy() for grad in found]

    def fetch(self, batch: Batch) -> None:
        """Ask for the cold rows of a batch that will be looked up soon; a wish, which may come to nothing."""
        if any(self.tables[name].config.storage.disk is not None for name in self.names):
            self.packed.fetch([_array(ids_of(batch, lookup).values) for lookup in self.lookups])

    def accept(self, answer: tuple[int, int], table: int = -1) -> None:
        """Count a call, and raise its error if it did not go well."""
        self.calls += 1
        code, detail = answer
        if code == _OK:
            return
        if code == _NOT_FINITE:
            raise not_finite(self.names[table])
        if code == _INVALID and 0 <= detail < len(self.lookups):
            raise SchemaError(
                f"Batch feature '{self.lookups[detail].feature}'", got="offsets or gradients of another shape",
                expected="offsets (B + 1,) that rise from 0 to the number of ids", do="Build ids with the collator.",
            )  # fmt: skip
        if code == _NO_MEMORY:
            raise self.tables[self.names[0]].no_memory("EmbeddingCollection")
        failed = self.tables[self.names[table]].tier_error(code, "EmbeddingCollection", detail)
        raise failed or StoreError("EmbeddingCollection", got=f"native code {code} ({detail})",
                         expected="one entry per example for every feature")  # fmt: skip


class NativePass:
    """A pass over native tables.

    Args:
        native: The tables.
        step: The native pass.
    """

    def __init__(self, native: NativeTables, step: Any) -> None:
        self._native, self._step = native, step

    @classmethod
    def begin(cls, native: NativeTables, batch: Batch) -> tuple[NativePass, list[Tensor]]:
        """Return a pass, and its outputs (it must not hold them: they will hold it)."""
        values, offsets, outputs, joints = native.prepared(batch)
        times = _array(batch.event_times)
        answer, step = native.packed.forward(values, offsets, outputs, times, torch.get_num_threads())
        native.accept(answer)
        return cls(native, step), [torch.from_numpy(output) for output in (*outputs, *joints)]

    def accumulate(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients of the outputs, in the order of the lookups, then of the groups."""
        self._native.accept(self._step.accumulate(self._native.grads(grads), torch.get_num_threads()))

    def has(self, table: str) -> bool:
        """Return whether this pass is over this table."""
        return table in self._native.names

    def flowed(self, table: str) -> bool:
        """Return whether a gradient flowed to this table."""
        return bool(self._step.flowed(self._native.names.index(table)))

    def sums(self, table: str) -> Sums:
        """Return the summed gradients of a table that some flowed to."""
        answer, ids, grads = self._step.take(self._native.names.index(table))
        self._native.accept(answer)
        return Sums(ids, grads)

    def check(self) -> None:
        """Do nothing: `apply` checks all tables before it changes one."""

    def apply(self) -> None:
        """Update every table that gradients flowed to, or none."""
        answer, table = self._step.apply(self._native.rates(), torch.get_num_threads())
        self._native.accept(answer, table)
