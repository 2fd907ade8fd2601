"""The state of a table in one canonical form, the same for every implementation, and its checks.

Everything is sorted by id, so that equal tables have equal states whatever order things happened to lie in, and a
state saved by the native table restores into the reference and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.config import tree
from headrace.errors import CorruptSnapshot, RowRuleMismatch
from headrace.store.admission import AdmitSketch
from headrace.store.hashing import IdArray
from headrace.store.precision import ByteArray
from headrace.store.row_rules import FloatArray
from headrace.store.table_config import TableConfig
from headrace.types import State, StateValue

FORMAT = 2
NEVER = -(2**63)
_NO_SKETCH = json.dumps(None)
_NUMBERS = ("mark", "floor", "admitted", "filtered", "evicted", "halvings")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableParts:
    """All that a table holds.

    Shapes:
        R rows: ids (R,) int64 ascending, rows (R, D), slots (R, S) float32, times (R,) event time of the last touch,
        marks (R,) mark of the last change. P ids waiting for admission: pending_ids (P,) ascending, pending_counts
        (P,) at least 1, pending_times (P,). T removals still in the change history: removed_ids (T,) ascending,
        removed_marks (T,).

    Attributes:
        mark: Operations so far.
        floor: Changes up to this mark are forgotten.
        halvings: How often all frequencies were halved.
        newest: Newest event time that a write has given; `NEVER` before the first.
        frequencies: (R,) uint8, zeros where none are kept.
        sketch: (K,) uint8, the count-min filter; empty where there is none.
    """

    ids: IdArray
    rows: FloatArray
    slots: FloatArray
    times: IdArray
    marks: IdArray
    frequencies: ByteArray
    pending_ids: IdArray
    pending_counts: IdArray
    pending_times: IdArray
    removed_ids: IdArray
    removed_marks: IdArray
    sketch: ByteArray
    mark: int
    floor: int
    admitted: int
    filtered: int
    evicted: int
    halvings: int
    newest: int


def spec_of(config: TableConfig, serving: bool) -> dict[str, str]:
    """Return what a state must agree on with the table that takes it, as field name to JSON text."""
    names = ("name", "dim", "rule", "init", "seed")
    spec = {name: json.dumps(tree(getattr(config, name)), sort_keys=True) for name in names}
    admission = config.admission
    sketched = isinstance(admission, AdmitSketch) and not serving
    sketch = [admission.cells_per_bucket, admission.depth] if sketched else None  # type: ignore[union-attr]
    pace = {"pace": "true"} if config.paced and not serving else {}
    return spec | pace | {"serving": json.dumps(serving), "sketch": json.dumps(sketch)}


def unlike(spec: Mapping[str, str], saved: object) -> tuple[str, object, str] | None:
    """Return the first field in which a saved spec differs, with both values; None where it fits.

    Admission may change between runs: only a sketch of another shape cannot be read as one's own.
    """
    there = saved if isinstance(saved, dict) else {}
    for name, here in spec.items():
        other = there.get(name)
        if other != here and not (name == "sketch" and _NO_SKETCH in (other, here)):
            return name, other, here
    return None


def slot_count(config: TableConfig, serving: bool) -> int:
    """Return the floats kept beside an embedding; none where nothing is learned."""
    return 0 if serving else config.slot_count()


def to_state(config: TableConfig, serving: bool, parts: TableParts) -> State:
    """Return parts as plain values and tensors."""
    state: State = {"format": FORMAT, "spec": dict(spec_of(config, serving))}
    marks = np.maximum(parts.marks, max(parts.floor, 1))  # how old a forgotten change is, nobody can ask any more
    for item in fields(TableParts):
        value = marks if item.name == "marks" else getattr(parts, item.name)
        state[item.name] = value if isinstance(value, int) else torch.from_numpy(value)
    return state


def from_state(config: TableConfig, serving: bool, state: State) -> TableParts:
    """Return the parts in a state, after checking all of it.

    Raises:
        RowRuleMismatch: If the state is of another table: dim, rule, init, seed, name, serving.
        CorruptSnapshot: If the state cannot have come from `to_state`.
    """
    what = f"State for table '{config.name}'"
    if state.get("format") != FORMAT:
        raise CorruptSnapshot(what, got=f"format {state.get('format')!r}", expected=f"format {FORMAT}")
    difference = unlike(spec_of(config, serving), state.get("spec"))
    if difference is not None:
        name, there, here = difference
        raise RowRuleMismatch(
            f"{what}, {name}", got=there, expected=here,
            do="Open the table with the configuration that the state was saved with.",
        )  # fmt: skip
    reader = _Reader(what, state)
    arrays = _read_arrays(reader, config.dim, slot_count(config, serving))
    numbers = {name: reader.number(name) for name in _NUMBERS} | {"newest": reader.moment("newest")}
    parts = TableParts(**arrays, **numbers)  # type: ignore[arg-type]
    _check(reader, parts)
    return parts


def _read_arrays(reader: _Reader, dim: int, slots: int) -> dict[str, npt.NDArray[np.generic]]:
    ids, pending = reader.int64("ids"), reader.int64("pending_ids")
    removed = reader.int64("removed_ids")
    return {
        "ids": ids, "times": reader.int64("times", len(ids)), "marks": reader.int64("marks", len(ids)),
        "rows": reader.float32("rows", (len(ids), dim)), "slots": reader.float32("slots", (len(ids), slots)),
        "pending_ids": pending, "pending_counts": reader.int64("pending_counts", len(pending)),
        "pending_times": reader.int64("pending_times", len(pending)),
        "removed_ids": removed, "removed_marks": reader.int64("removed_marks", len(removed)),
        "frequencies": reader.uint8("frequencies", len(ids)), "sketch": reader.uint8("sketch"),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Reader:
    """Takes typed values out of a state."""

    what: str
    state: State

    def refuse(self, name: str, got: object, expected: str) -> CorruptSnapshot:
        """Return the error; nothing of the state was used."""
        return CorruptSnapshot(f"{self.what}, '{name}'", got=got, expected=expected, do="Use an older snapshot.")

    def number(self, name: str) -> int:
        """Return a count."""
        value = self.state.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.refuse(name, repr(value), "an integer of at least 0")
        return value

    def moment(self, name: str) -> int:
        """Return an event time in µs."""
        value = self.state.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not NEVER <= value < 2**63:
            raise self.refuse(name, repr(value), "int64 microseconds")
        return value

    def _tensor(self, name: str, dtype: torch.dtype, shape: tuple[int, ...] | None) -> Tensor:
        value: StateValue = self.state.get(name)
        if not isinstance(value, Tensor) or value.dtype != dtype:
            raise self.refuse(name, getattr(value, "dtype", type(value).__name__), f"a tensor of {dtype}")
        if value.dim() != 1 if shape is None else tuple(value.shape) != shape:
            raise self.refuse(name, f"shape {tuple(value.shape)}", f"shape {shape or '(N,)'}")
        return value.detach().cpu().contiguous()

    def int64(self, name: str, length: int | None = None) -> IdArray:
        """Return an int64 vector."""
        shape = None if length is None else (length,)
        return np.asarray(self._tensor(name, torch.int64, shape).numpy(), dtype=np.int64)

    def uint8(self, name: str, length: int | None = None) -> ByteArray:
        """Return a vector of bytes."""
        shape = None if length is None else (length,)
        return np.asarray(self._tensor(name, torch.uint8, shape).numpy(), dtype=np.uint8)

    def float32(self, name: str, shape: tuple[int, int]) -> FloatArray:
        """Return a float32 matrix."""
        return np.asarray(self._tensor(name, torch.float32, shape).numpy(), dtype=np.float32)


def _check(reader: _Reader, parts: TableParts) -> None:
    for name in ("ids", "pending_ids", "removed_ids"):
        ids = getattr(parts, name)
        if not bool(np.all(ids[1:] > ids[:-1])):
            raise reader.refuse(name, "ids out of order or twice", "ids that ascend")
    for name in ("pending_ids", "removed_ids"):
        if len(np.intersect1d(parts.ids, getattr(parts, name), assume_unique=True)):
            raise reader.refuse(name, "ids that have a row", "ids without a row")
    if parts.floor > parts.mark:
        raise reader.refuse("floor", parts.floor, f"a mark up to {parts.mark}")
    for name, low in (("marks", 1), ("removed_marks", parts.floor + 1)):
        marks = getattr(parts, name)
        if len(marks) and not low <= int(marks.min()) <= int(marks.max()) <= parts.mark:
            raise reader.refuse(name, "marks out of range", f"marks from {low} to {parts.mark}")
    if len(parts.pending_counts) and int(parts.pending_counts.min()) < 1:
        raise reader.refuse("pending_counts", int(parts.pending_counts.min()), "counts of at least 1")
