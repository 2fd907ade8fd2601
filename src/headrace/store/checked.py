"""The public face that every table shares: torch in and out, arguments checked, one set of words for errors.

A table is written by giving the operations on NumPy arrays that `CheckedTable` lists as abstract. `ReferenceTable`
and `NativeTable` are the two; they differ in nothing that a caller can see but speed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.errors import StoreError
from headrace.store.admission import AdmitAll
from headrace.store.arguments import Arguments, check_update, own_native_form
from headrace.store.hashing import IdArray
from headrace.store.notices import note_once
from headrace.store.parts import TableParts, from_state, to_state
from headrace.store.precision import rounded
from headrace.store.row_rules import FloatArray
from headrace.store.table_config import Clipping, TableConfig, TableStats
from headrace.types import RowChange, State


class CheckedTable(ABC):
    """One collisionless embedding table of dimension D; any int64 is an id.

    An id without a row (unseen, waiting for admission, removed, expired) reads its initial row. Lookup changes
    nothing; only `update` counts occurrences. Every accepted call of `update`, `assign`, `remove`, `evict` or `clear`
    moves the mark by one, also when it happens to touch nothing. A refused call changes nothing at all.

    Thread safety: every method may be called from any thread; lookups run while nothing else writes, and see each
    write whole or not at all. With a `schedule`, or `transforms` without a native form, one thread may call `update`.

    Args:
        config: What the table is made of.
        serving: A table that only serves: no optimiser slots, no admission, no change history, no `update`.
    """

    def __init__(self, config: TableConfig, *, serving: bool = False) -> None:
        self._config, self._serving = config, serving
        self._arguments = Arguments(config.name, config.dim)
        self._admission = AdmitAll() if serving else config.admission
        self._python_transforms = () if serving else config.transforms
        self._learned = self._clipped = 0
        for transform in self._python_transforms:
            if own_native_form(transform) is not None:
                continue
            name = f"{type(transform).__module__}.{type(transform).__qualname__}"
            note_once(
                f"transform {name}",
                f"Table '{config.name}': row transform {name} has no native form; it runs in Python.",
            )

    @property
    def config(self) -> TableConfig:
        """What the table is made of."""
        return self._config

    @property
    def serving(self) -> bool:
        """Whether the table only serves."""
        return self._serving

    def __repr__(self) -> str:
        kind = "serving" if self._serving else "training"
        return f"{type(self).__name__}('{self._config.name}', dim={self._config.dim}, {kind}, {len(self)} rows)"

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.stats().rows

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D) float32 for ids (N,) int64, in their order; ids may repeat. No side effect.

        Raises:
            StoreError: If ids have another dtype or shape, or are not on the CPU.
        """
        wanted = self._arguments.int64("ids", ids)
        out = torch.empty((len(wanted), self._config.dim), dtype=torch.float32)
        self._lookup(wanted, out.numpy())
        return out

    def initial(self, ids: Tensor) -> Tensor:
        """Return the initial rows (N, D) of ids (N,), whether or not they have a row."""
        return torch.from_numpy(self._initial(self._arguments.int64("ids", ids)))

    def contains(self, ids: Tensor) -> Tensor:
        """Return (N,) bool: which ids have a row."""
        return torch.from_numpy(self._contains(self._arguments.int64("ids", ids)))

    def update(self, ids: Tensor, grads: Tensor, counts: Tensor, times: Tensor) -> None:
        """Learn one step: unique ids (N,), summed gradients (N, D), occurrences (N,) int64, event times (N,) µs.

        Ids without a row are counted towards admission; those that reach it are inserted and learn, the gradients
        of the others are dropped and counted as filtered. A row's time becomes the later of its own and the given.

        Raises:
            StoreError: If ids repeat, a count is below 1, shapes or dtypes differ, or the table only serves.
            NumericError: If a gradient is NaN or infinite.
        """
        if self._serving:
            raise self._arguments.serving("update")
        wanted = self._arguments.int64("ids", ids)
        gradients = self._arguments.float32("gradients", grads, len(wanted))
        occurrences = self._arguments.int64("counts", counts, len(wanted))
        moments = self._arguments.int64("times", times, len(wanted))
        if not self._python_transforms:
            self._update(wanted, gradients, occurrences, moments)
            return
        check_update(self._arguments, wanted, gradients, occurrences)  # a transform may hide what is wrong
        gradients, over = self._transformed(wanted, grads.detach(), counts)
        self._update(wanted, gradients, occurrences, moments)
        learned = self._contains(wanted)
        self._learned += int(learned.sum())
        self._clipped += int((learned & over).sum())

    def _transformed(self, ids: IdArray, grads: Tensor, counts: Tensor) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return gradients (N, D) after all transforms, and (N,) bool: which of them were clipped."""
        rows, over, after = torch.from_numpy(self._found(ids)), np.zeros(len(ids), np.bool_), grads.numpy()
        for transform in self._python_transforms:
            before, grads = grads, transform(rows, grads, counts)
            what = f"gradients from {type(transform).__name__}"
            after = self._arguments.float32(what, grads, len(ids))
            judge = getattr(transform, "over", None)
            changed = (after != before.numpy()).any(axis=1)
            over |= changed if judge is None else judge(rows, before, counts).numpy()
        return after, over

    def _found(self, ids: IdArray) -> FloatArray:
        """Return rows (N, D) as the rule will find them: those born in this update as their precision holds them."""
        out = np.empty((len(ids), self._config.dim), np.float32)
        self._lookup(ids, out)
        return rounded(out, self._config.storage.precision)

    def clipping(self) -> Clipping:
        """Return how many rows have learned, and been clipped, since this table was opened; (0, 0) without transforms.

        A row counts once in every update in which it learns. It is no part of the table's state.
        """
        return Clipping(self._learned, self._clipped)

    def assign(self, ids: Tensor, rows: Tensor, times: Tensor | None = None) -> None:
        """Put embeddings (N, D) under unique ids (N,), without admission.

        A row that existed keeps its slots; a row that did not gets fresh ones, and its count is forgotten. Without
        `times` (N,) µs, existing rows keep their time and others get time 0, that is, they are the first to expire.

        Raises:
            StoreError: If ids repeat, or shapes or dtypes differ.
            NumericError: If a value is NaN or infinite.
        """
        wanted = self._arguments.int64("ids", ids)
        values = self._arguments.float32("rows", rows, len(wanted))
        moments = None if times is None else self._arguments.int64("times", times, len(wanted))
        self._assign(wanted, values, moments)

    def remove(self, ids: Tensor) -> int:
        """Remove the rows and forget the counts of ids (N,); ids without either are passed over.

        Returns:
            Rows removed.
        """
        return self._remove(self._arguments.int64("ids", ids))

    def evict(self, before: int) -> int:
        """Remove every row, and forget every count, last touched before event time `before` (µs).

        Returns:
            Rows removed. An id that returns later starts with its initial row, fresh slots and a count of zero.
        """
        return self._evict(self._time("evict", before))

    def clear(self) -> None:
        """Remove every row and forget every count; the removals are changes like others."""
        self._clear()

    def changes(self, since: int) -> RowChange:
        """Return rows put and ids removed after mark `since`; 0 is the beginning.

        Each id stands in one of both at most: what counts is whether it has a row now. A serving table keeps no
        history: there `since` is 0 (all rows) or the present mark (nothing).

        Raises:
            StaleError: If changes that old are no longer kept, or `since` lies after the present mark.

        Cost:
            Native: O(changes since) plus a sort. Reference: O(rows).
        """
        ids, rows, removed = self._changes(int(since))
        return RowChange(torch.from_numpy(ids), torch.from_numpy(rows), torch.from_numpy(removed))

    def rows(self) -> RowChange:
        """Return every row, ids ascending, and nothing removed: a full snapshot for a replica."""
        ids, rows = self._rows()
        return RowChange(torch.from_numpy(ids), torch.from_numpy(rows), torch.zeros(0, dtype=torch.int64))

    @abstractmethod
    def mark(self) -> int:
        """Return the number of operations so far: the position to pass to `changes` later."""

    def forget(self, mark: int) -> None:
        """Drop the change history up to `mark`, for all consumers; later `changes` from before it raise StaleError.

        Removals are kept until they are forgotten here, eight bytes and a journal entry each, so a table that
        expires rows needs this call after each publication.

        Raises:
            StoreError: If `mark` lies after the present mark.
        """
        self._forget(int(mark))

    @abstractmethod
    def stats(self) -> TableStats:
        """Return numbers about the table."""

    def state(self) -> State:
        """Return all of the table bit by bit: rows, slots, times, counts, change history, statistics."""
        return to_state(self._config, self._serving, self._export())

    def restore(self, state: State) -> None:
        """Become exactly the table whose `state` this is; checks all of it before changing anything.

        Raises:
            RowRuleMismatch: If it was saved with another dim, rule, init, seed or name.
            CorruptSnapshot: If it is not a state of a table.
        """
        self._import(from_state(self._config, self._serving, state))

    def _time(self, what: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not -(2**63) <= value < 2**63:
            raise StoreError(f"{self._arguments.table}, {what}", got=repr(value), expected="int64 microseconds")
        return int(value)

    def _initial(self, ids: IdArray) -> FloatArray:
        return self._config.init(self._config.row_key, ids, self._config.dim)

    @abstractmethod
    def _lookup(self, ids: IdArray, out: FloatArray) -> None: ...

    @abstractmethod
    def _contains(self, ids: IdArray) -> npt.NDArray[np.bool_]: ...

    @abstractmethod
    def _update(self, ids: IdArray, grads: FloatArray, counts: IdArray, times: IdArray) -> None: ...

    @abstractmethod
    def _assign(self, ids: IdArray, rows: FloatArray, times: IdArray | None) -> None: ...

    @abstractmethod
    def _remove(self, ids: IdArray) -> int: ...

    @abstractmethod
    def _evict(self, before: int) -> int: ...

    @abstractmethod
    def _clear(self) -> None: ...

    @abstractmethod
    def _changes(self, since: int) -> tuple[IdArray, FloatArray, IdArray]: ...

    @abstractmethod
    def _rows(self) -> tuple[IdArray, FloatArray]: ...

    @abstractmethod
    def _forget(self, mark: int) -> None: ...

    @abstractmethod
    def _export(self) -> TableParts: ...

    @abstractmethod
    def _import(self, parts: TableParts) -> None: ...
