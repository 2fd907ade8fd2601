"""The native table and `open_table`, which takes it where it can and the reference where it cannot."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from headrace.config import require
from headrace.errors import CapacityError, ConfigError, HeadraceError, StoreError
from headrace.protocols import RowTransform
from headrace.store.admission import AdmitCount, AdmitProbability, AdmitSketch
from headrace.store.arguments import own_native_form
from headrace.store.cache import TierStats, require_folder
from headrace.store.capacity import SHARES, capacity_rows, pending_limit, removal_limit
from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray
from headrace.store.initial import Constant, InitialRow, Normal, Uniform, Zeros
from headrace.store.notices import note_once
from headrace.store.parts import TableParts
from headrace.store.precision import PRECISION_CODES
from headrace.store.reference import ReferenceTable
from headrace.store.row_rules import FTRL, SGD, Adagrad, FloatArray, Momentum, RowRule
from headrace.store.row_rules_adam import Adam, AdamW
from headrace.store.row_rules_whole import GroupFTRL, RowWiseAdagrad
from headrace.store.storage import LFU
from headrace.store.table_config import Clipping, TableConfig, TableStats

INTERFACE = 6
"""What this file expects of the module; a build of another interface is refused."""

# The codes of csrc/table/status.h.
_DUPLICATE, _COUNT, _NOT_FINITE, _STALE, _FUTURE, _SERVING, _NO_MEMORY, _INVALID = range(1, 9)
_IO, _FULL, _NO_TIMES, _NO_HISTORY, _BUSY, _TIER_FULL = 9, 11, 12, 13, 14, 16

_RULES = (SGD, Momentum, Adagrad, RowWiseAdagrad, Adam, AdamW, FTRL, GroupFTRL)
"""Rules of csrc/rules/row_rule.h."""

NativeRule: TypeAlias = tuple[int, float, list[float]]


def load_native() -> ModuleType | None:
    """Return the native module, or None where it was not built or belongs to other sources."""
    try:
        module = importlib.import_module("headrace.store._native")
    except ImportError:
        return None
    return module if getattr(module, "INTERFACE", None) == INTERFACE else None


def native_rule(rule: RowRule) -> NativeRule | None:
    """Return kind, rate and parameters of a rule in csrc/rules/row_rule.h, or None when it has no native form."""
    form = own_native_form(rule) if type(rule) in _RULES else None
    return None if form is None else (form[0], rule.lr, list(form[1]))


def native_initial(init: InitialRow) -> tuple[int, float] | None:
    """Return kind and parameter of an initial row in csrc/table/initial.h, or None."""
    if type(init) is Zeros:
        return (0, 0.0)
    if type(init) is Constant:
        return (0, init.value)
    if type(init) is Uniform:
        return (1, init.scale)
    return (2, init.std) if type(init) is Normal else None


def native_clips(transforms: Sequence[RowTransform]) -> list[tuple[int, list[float]]] | None:
    """Return kind and parameters of every transform, or None when one of them has no native form."""
    forms = [own_native_form(transform) for transform in transforms]
    if any(form is None for form in forms):
        return None
    return [(form[0], list(form[1])) for form in forms if form is not None]


def _admit(spec: Any, config: TableConfig) -> None:
    admission = config.admission
    if isinstance(admission, AdmitCount):
        spec.admit_count(admission.occurrences)
    elif isinstance(admission, AdmitProbability):
        spec.admit_probability(1.0 - admission.probability, config.admission_key)
    elif isinstance(admission, AdmitSketch):
        spec.admit_sketch(admission.occurrences, admission.cells_per_bucket, admission.depth, admission.ages_at)


def _native_spec(
    module: ModuleType, config: TableConfig, serving: bool, capacity: int | None, hot_rows: int | None
) -> Any:
    """Return what csrc/table/spec.h calls a TableSpec. REQUIRES: rule and init have native forms."""
    rule, init, storage, spec = native_rule(config.rule), native_initial(config.init), config.storage, module.Spec()
    assert rule is not None
    assert init is not None
    spec.dim, spec.serving, spec.times, spec.history = config.dim, serving, storage.event_times, storage.history
    spec.set_rule(*rule)
    spec.set_initial(*init, config.row_key)
    spec.set_precision(PRECISION_CODES[storage.row_precision(serving)])
    spec.set_victims(int(isinstance(storage.when_full, LFU)))
    for kind, parameters in () if serving else native_clips(config.transforms) or ():
        spec.add_clip(kind, parameters)
    spec.lost = 0.0 if serving else float(config.lost_when_missed)
    _admit(spec, config)
    if config.ttl_us is not None:
        spec.ttl_us = config.ttl_us
    if capacity is not None and storage.max_bytes is not None:
        spec.capacity, spec.pending_limit = capacity, pending_limit(capacity)
        spec.removal_limit, spec.capture_limit = removal_limit(config), storage.max_bytes // SHARES
    if storage.disk is not None:
        spec.set_tier(storage.disk.folder, storage.disk.memory_bytes, -1 if hot_rows is None else hot_rows)
    return spec


class NativeTable(CheckedTable):
    """The table in C++: same answers as `ReferenceTable`, bit by bit; see `CheckedTable` for what every method does.

    Cost: per id and call about two overlapped cache misses; a row takes 24 + 4 (D + S) bytes and 9 to 18 in the map.

    Args:
        config: What the table is made of; rule and init must be ones of this package.
        serving: A table that only serves.

    Raises:
        ConfigError: If the native module is missing, or rule or init have no native form (`open_table` falls back).
    """

    def __init__(
        self, config: TableConfig, *, serving: bool = False, _capacity: int | None = None, _hot_rows: int | None = None
    ) -> None:
        module = load_native()
        require(module is not None, "NativeTable", got="no native module", expected="headrace.store._native",
                do="Install a wheel, or use open_table, which falls back to ReferenceTable.")  # fmt: skip
        if native_rule(config.rule) is None or native_initial(config.init) is None:
            raise ConfigError(f"Table '{config.name}'", got=f"{config.rule}, {config.init}",
                              expected="a rule and an init with a native form", do="Use open_table.")  # fmt: skip
        require(serving or not config.lost_when_missed or native_clips(config.transforms) is not None,
                f"Table '{config.name}', transforms", got="RowL2 with untouched='lazy' beside one in Python",
                expected="transforms with a native form", do="Use open_table.")  # fmt: skip
        require_folder(config)
        super().__init__(config, serving=serving)
        assert module is not None
        if native_clips(config.transforms) is not None:
            self._python_transforms = ()
        self._capacity = capacity_rows(config, serving)
        if self._capacity is not None and _capacity is not None:
            self._capacity = _capacity  # for tests: the budgets there are too large to be filled quickly
        self.module = module
        self._native: Any = module.Table(_native_spec(module, config, serving, self._capacity, _hot_rows))

    @property
    def native(self) -> Any:
        """The table of the native module, for calls on many tables at once; None where a transform needs Python."""
        return None if self._python_transforms else self._native

    def no_memory(self, what: str) -> CapacityError:
        """Return the error for memory that could not be had."""
        return self._arguments.no_memory(what)

    def tier_error(self, code: int, what: str, detail: int) -> HeadraceError | None:
        """Return the error of a call for whose rows there was no room in memory or in the file; None for another."""
        if code == _TIER_FULL:
            return CapacityError(
                f"{self._arguments.table}, {what}", got=f"ids that take more than Disk.memory_bytes, {detail}",
                expected="room for the map of all ids",
                do="Nothing was changed. Raise memory_bytes (memory_for tells).",
            )  # fmt: skip
        return None if code != _IO else StoreError(
            f"{self._arguments.table}, {what}, cold rows", got=os.strerror(detail), expected="room in Disk.folder",
            do="Nothing was changed. Free space there, or choose another folder.",
        )  # fmt: skip

    def tier(self) -> TierStats | None:
        """Return numbers about memory and file; None without `Storage(disk=...)`."""
        return None if self._config.storage.disk is None else TierStats(*self._native.tier())

    def warm(self, ids: Tensor, counts: Tensor) -> int:
        """Move into memory the rows that will be asked for most; without a disk nothing happens.

        A restored table does not know yet which of its rows are hot: counts of a log tell it at once. Ids without a
        row are passed over. No row changes, and no mark moves.

        Args:
            ids: Unique ids (N,) int64.
            counts: How often each is expected (N,) int64, at least 1; only their proportions matter.

        Returns:
            Rows that moved into memory.

        Raises:
            StoreError: If ids repeat, a count is below 1, or a snapshot is being written.
        """
        wanted, seen = self._arguments.int64("ids", ids), self._arguments.int64("counts", counts, len(ids))
        return self._accept(self._native.warm(wanted, seen), "warm")

    def release_pages(self) -> None:
        """Write changed cold rows to the disk, and give the system's memory for them back: what memory pressure does.

        Raises:
            StoreError: If the disk fails.
        """
        self._accept(self._native.release_pages(), "release_pages")

    def rate(self) -> float:
        """Return the learning rate of the next update."""
        return float(self._config.rate(self.mark() + 1 if self._config.schedule is not None else 1))

    def _accept(self, answer: tuple[int, int], what: str, since: int = 0) -> int:
        """Return the detail of a call that went well; raise the error of one that did not."""
        code, detail = answer
        if code == 0:
            return detail
        arguments = self._arguments
        errors: dict[int, HeadraceError] = {
            _FULL: arguments.over_capacity(what, detail), _NO_TIMES: arguments.no_event_times(what),
            _NO_HISTORY: StoreError(f"{arguments.table}, {what}", got="a table without history",
                                    expected="Storage(history=True), and a table that learns"),
            _BUSY: StoreError(f"{arguments.table}, {what}", got="a snapshot that is still being written",
                              expected="one at a time", do="Wait for the earlier one first."),
            _DUPLICATE: arguments.duplicate(detail), _COUNT: arguments.count(detail),
            _NOT_FINITE: arguments.not_finite(what, detail), _STALE: arguments.stale(since, detail, self.mark()),
            _FUTURE: arguments.future(since, detail), _SERVING: arguments.serving(what),
            _NO_MEMORY: arguments.no_memory(what),
        }  # fmt: skip
        failed = self.tier_error(code, what, detail)
        raise errors.get(code) or failed or StoreError(f"{arguments.table}, {what}", got=f"native code {code}")

    def _lookup(self, ids: IdArray, out: FloatArray) -> None:
        self._accept(self._native.lookup(ids, out), "lookup")

    def _initial(self, ids: IdArray) -> FloatArray:
        out = np.empty((len(ids), self._config.dim), np.float32)
        self._accept(self._native.initial(ids, out), "initial")
        return out

    def _contains(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        out = np.empty(len(ids), np.uint8)
        self._accept(self._native.contains(ids, out), "contains")
        return out.view(np.bool_)

    def _update(self, ids: IdArray, grads: FloatArray, counts: IdArray, times: IdArray) -> None:
        self._accept(self._native.update(ids, grads, counts, times, self.rate()), "gradients")

    def _assign(self, ids: IdArray, rows: FloatArray, times: IdArray | None) -> None:
        self._accept(self._native.assign(ids, rows, times), "rows")

    def _remove(self, ids: IdArray) -> int:
        return self._accept(self._native.remove(ids), "remove")

    def _evict(self, before: int) -> int:
        return self._accept(self._native.evict(before), "evict")

    def _clear(self) -> None:
        self._accept(self._native.clear(), "clear")

    def mark(self) -> int:
        """Return the number of operations so far."""
        return int(self._native.mark())

    def _changes(self, since: int) -> tuple[IdArray, FloatArray, IdArray]:
        asked = since if 0 <= since < 2**63 else 2**63  # no mark of ours: refused as any other from elsewhere
        answer, ids, rows, removed = self._native.changes(asked)
        self._accept(answer, "changes", since)
        return ids, rows, removed

    def _rows(self) -> tuple[IdArray, FloatArray]:
        answer, ids, rows, _ = self._native.rows()
        self._accept(answer, "rows")
        return ids, rows

    def _forget(self, mark: int) -> None:
        if not 0 <= mark < 2**63:
            raise self._arguments.future(mark, self.mark())
        self._accept(self._native.forget(mark), "forget", mark)

    def clipping(self) -> Clipping:
        """Return how many rows have learned, and been clipped, since this table was opened."""
        return super().clipping() if self._python_transforms else Clipping(*self._native.clipping())

    def stats(self) -> TableStats:
        """Return numbers about the table."""
        rows, size, admitted, filtered, evicted, load, pending = self._native.stats()
        return TableStats(
            rows=rows, bytes=size, admitted=admitted, filtered=filtered, evicted=evicted, load=load, pending=pending,
            capacity=self._capacity, max_bytes=self._config.storage.max_bytes, tier=self.tier(),
        )  # fmt: skip

    def _export(self) -> TableParts:
        answer, *arrays, numbers = self._native.export_parts()
        self._accept(answer, "state")
        ids, rows, slots, times, marks, frequencies, waiting, counts, waited, removed, removed_marks, sketch = arrays
        mark, floor, admitted, filtered, evicted, halvings, newest = numbers
        return TableParts(
            ids=ids, rows=rows, slots=slots, times=times, marks=marks, frequencies=frequencies, pending_ids=waiting,
            pending_counts=counts, pending_times=waited, removed_ids=removed, removed_marks=removed_marks,
            sketch=sketch, mark=mark, floor=floor, admitted=admitted, filtered=filtered, evicted=evicted,
            halvings=halvings, newest=newest,
        )  # fmt: skip

    def _import(self, parts: TableParts) -> None:
        if isinstance(self._admission, AdmitSketch) and len(parts.sketch) not in (0, self._admission.sketch().nbytes):
            raise self._arguments.sketch(len(parts.sketch), self._admission.sketch().nbytes)
        pending = (parts.pending_ids, parts.pending_counts, parts.pending_times)
        removed = (parts.removed_ids, parts.removed_marks)
        numbers = (parts.mark, parts.floor, parts.admitted, parts.filtered, parts.evicted, parts.halvings, parts.newest)
        answer = self._native.import_parts(
            parts.ids, parts.rows, parts.slots, parts.times, parts.marks, parts.frequencies, pending, removed,
            parts.sketch, numbers,
        )  # fmt: skip
        self._accept(answer, "restore")

    def _begin_save(self, path: str, header: bytes, since: int, parent: int, shard: int, shards: int) -> _NativeSaver:
        answer, saver = self._native.begin_save(path, header, since, parent, shard, shards)
        self._accept(answer, "save", max(since, 0))
        return _NativeSaver(saver, self)

    def _load_blocks(self, chain: Any) -> tuple[int, int]:
        answer: tuple[int, int] = self._native.load_chain(chain)
        return answer


class _NativeSaver:
    """A snapshot that is being written. It keeps its table alive."""

    def __init__(self, saver: Any, table: NativeTable) -> None:
        self._saver, self._table = saver, table

    def done(self) -> bool:
        """Return whether `wait` would return at once."""
        return bool(self._saver.done())

    def wait(self) -> tuple[tuple[int, int], int, int, int, int]:
        """Return answer, bytes, digest, mark and rows."""
        result: tuple[tuple[int, int], int, int, int, int] = self._saver.wait()
        return result


def _refuse_disk(config: TableConfig, got: str) -> None:
    """Refuse a cold tier where only the reference is at hand: it would hold all rows in memory."""
    require(config.storage.disk is None, f"Storage.disk of table '{config.name}'", got=got,
            expected="a native table", do="Leave the disk out, or use parts with a native form.")  # fmt: skip


def open_table(config: TableConfig, *, serving: bool = False) -> CheckedTable:
    """Return a table: native where possible, else the reference with one warning (see `fallbacks`).

    Args:
        config: What the table is made of.
        serving: A table that only serves: no optimiser slots, no admission, no change history, no `update`.

    Example:
        >>> import torch
        >>> from headrace.store import TableConfig, open_table
        >>> table = open_table(TableConfig(name="user", dim=4))
        >>> table.lookup(torch.tensor([-1, 0, 2**63 - 1])).shape
        torch.Size([3, 4])
    """
    if load_native() is None:
        _refuse_disk(config, "no native module")
        note_once(
            "native module", "The native table is missing (no compiler when Headrace was installed?); "
            "the reference table in Python is used instead: same results, about a hundred times slower.",
        )  # fmt: skip
        return ReferenceTable(config, serving=serving)
    lazy_in_python = bool(config.lost_when_missed) and native_clips(config.transforms) is None
    if native_rule(config.rule) is None or native_initial(config.init) is None or lazy_in_python:
        parts = f"{type(config.rule).__name__} with {type(config.init).__name__}"
        parts += " and lazy RowL2 beside a transform in Python" if lazy_in_python else ""
        _refuse_disk(config, f"{parts}, which has no native form")
        note_once(
            f"native form of {parts}",
            f"Table '{config.name}': {parts} has no native form; the reference table in Python is used: slower.",
        )
        return ReferenceTable(config, serving=serving)
    return NativeTable(config, serving=serving)
