"""Checks of what callers hand to a table: in one place, so that every table refuses the same in the same words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.errors import CapacityError, HeadraceError, NumericError, RowRuleMismatch, StaleError, StoreError
from headrace.store.hashing import IdArray
from headrace.store.row_rules import FloatArray


@dataclass(frozen=True, slots=True)
class Arguments:
    """Checks arguments for one table and builds its errors.

    Attributes:
        name: The table's name, for messages.
        dim: The table's embedding dimension.
    """

    name: str
    dim: int

    @property
    def table(self) -> str:
        """How messages call the table."""
        return f"Table '{self.name}'"

    def int64(self, what: str, values: object, rows: int | None = None) -> IdArray:
        """Return a tensor (N,) int64 as an array; `rows` is the N it must have, if any."""
        shape = "(N,)" if rows is None else f"({rows},)"
        if not isinstance(values, Tensor) or values.dtype != torch.int64 or values.dim() != 1:
            raise self._shape(what, values, f"an int64 tensor of shape {shape}", "")
        if rows is not None and values.shape[0] != rows:
            raise self._shape(what, values, f"shape {shape}", " Give one entry per id.")
        return np.asarray(self._here(what, values).numpy(), dtype=np.int64)

    def float32(self, what: str, values: object, rows: int) -> FloatArray:
        """Return a tensor (rows, D) float32 as an array."""
        if not isinstance(values, Tensor) or values.dtype != torch.float32:
            raise self._shape(what, values, f"a float32 tensor of shape ({rows}, {self.dim})", "")
        if tuple(values.shape) != (rows, self.dim):
            expected = f"shape ({rows}, {self.dim}) because dim={self.dim}"
            raise self._shape(what, values, expected, " Check that lookup and update use the same ids.")
        return np.asarray(self._here(what, values).numpy(), dtype=np.float32)

    def _here(self, what: str, values: Tensor) -> Tensor:
        if values.device.type != "cpu":
            raise self._shape(what, values, "a tensor on the CPU", " Move it with .cpu() first.")
        return values.detach().contiguous()

    def _shape(self, what: str, values: object, expected: str, do: str) -> StoreError:
        got = f"{type(values).__name__}"
        if isinstance(values, Tensor):
            got = (
                f"a {str(values.dtype).removeprefix('torch.')} tensor of shape {tuple(values.shape)} on {values.device}"
            )
        return StoreError(f"{self.table}, {what}", got=got, expected=expected, do=do.strip())

    def duplicate(self, one: int) -> StoreError:
        """Return the error for an id that occurs twice in one call."""
        return StoreError(
            f"{self.table}, ids", got=f"id {one} more than once", expected="unique ids",
            do="Sum the gradients of an id first (torch.unique and index_add_).",
        )  # fmt: skip

    def count(self, row: int) -> StoreError:
        """Return the error for a count below 1."""
        return StoreError(
            f"{self.table}, counts", got=f"a count below 1 in row {row}", expected="occurrences of at least 1",
            do="Leave ids that did not occur out of the call.",
        )  # fmt: skip

    def not_finite(self, what: str, row: int) -> NumericError:
        """Return the error for a NaN or an infinity."""
        return NumericError(
            f"{self.table}, {what}", got=f"NaN or infinity in row {row}", expected="finite values",
            do="Nothing was changed. Look at the loss of this batch, or lower the learning rate.",
        )  # fmt: skip

    def stale(self, since: int, kept: int, mark: int) -> StaleError:
        """Return the error for a mark whose changes are not kept."""
        return StaleError(
            f"{self.table}, changes since mark {since}", got=f"mark {since}", expected=f"a mark from {kept} to {mark}",
            do="Start again from a snapshot (`rows()`).",
        )  # fmt: skip

    def future(self, mark: int, present: int) -> StoreError:
        """Return the error for forgetting what has not happened yet."""
        return StoreError(
            f"{self.table}, forget", got=f"mark {mark}", expected=f"a mark from 0 to {present}",
            do="Pass a mark that `mark()` has returned.",
        )  # fmt: skip

    def serving(self, what: str) -> StoreError:
        """Return the error for learning on a table that only serves."""
        return StoreError(
            f"{self.table}, {what}", got="a table opened with serving=True", expected="a training table",
            do="Serving tables take rows with `assign` and `remove`; they have no optimiser slots.",
        )  # fmt: skip

    def no_memory(self, what: str) -> CapacityError:
        """Return the error for memory that could not be had."""
        return CapacityError(
            f"{self.table}, {what}", got="no memory", expected="room for the rows of this call",
            do="Nothing was changed. Shorten ttl_s, or admit fewer ids.",
        )  # fmt: skip

    def over_capacity(self, what: str, capacity: int) -> CapacityError:
        """Return the error for more rows in one call than the table may hold."""
        return CapacityError(
            f"{self.table}, {what}", got="more than max_bytes holds", expected=f"at most {capacity}",
            do="Nothing was changed. Raise max_bytes, or give fewer.",
        )  # fmt: skip

    def no_event_times(self, what: str) -> StoreError:
        """Return the error for expiry on a table that keeps no event times."""
        return StoreError(
            f"{self.table}, {what}", got="a table without event times", expected="Storage(event_times=True)",
            do="Only rows that know when they were touched can expire; `remove` takes ids.",
        )  # fmt: skip

    def sketch(self, got: int, expected: int) -> StoreError:
        """Return the error for the filter of a table with another admission."""
        return RowRuleMismatch(
            f"State for {self.table.lower()}, sketch", got=f"{got} bytes", expected=f"{expected} bytes",
            do="Open the table with the admission that the state was saved with.",
        )  # fmt: skip


def first_duplicate(ids: IdArray) -> int | None:
    """Return the smallest id that occurs twice, or None. Cost: O(N) when ids ascend, else a sort."""
    if len(ids) < 2 or bool(np.all(ids[1:] > ids[:-1])):
        return None
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    return int(ordered[twice[0]]) if len(twice) else None


def first_row_not_finite(values: FloatArray) -> int | None:
    """Return the first row that holds NaN or infinity, or None."""
    finite: npt.NDArray[np.bool_] = np.isfinite(values)
    return None if finite.all() else int(np.flatnonzero(~finite.all(axis=1))[0])


def own_native_form(part: object) -> tuple[int, tuple[float, ...]] | None:
    """Return kind and parameters of a rule or transform for the native table, or None where it has no native form.

    Only what the class itself defines counts: a subclass may do something else than its parent.
    """
    if "native_form" not in type(part).__dict__:
        return None
    form: tuple[int, tuple[float, ...]] = part.native_form()  # type: ignore[attr-defined]
    return form


def check_update(arguments: Arguments, ids: IdArray, grads: FloatArray, counts: IdArray) -> None:
    """Raise what is wrong with an update: first a duplicate id, then a count, then a gradient."""
    problem: HeadraceError | None = None
    twice = first_duplicate(ids)
    low = np.flatnonzero(counts < 1)
    bad = first_row_not_finite(grads)
    if twice is not None:
        problem = arguments.duplicate(twice)
    elif len(low):
        problem = arguments.count(int(low[0]))
    elif bad is not None:
        problem = arguments.not_finite("gradients", bad)
    if problem is not None:
        raise problem


def check_assign(arguments: Arguments, ids: IdArray, rows: FloatArray) -> None:
    """Raise what is wrong with rows to assign: first a duplicate id, then a value."""
    twice = first_duplicate(ids)
    if twice is not None:
        raise arguments.duplicate(twice)
    bad = first_row_not_finite(rows)
    if bad is not None:
        raise arguments.not_finite("rows", bad)
