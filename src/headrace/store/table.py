"""The native table and `open_table`, which takes it where it can and the reference where it cannot."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import ConfigError, HeadraceError, StoreError
from headrace.store.admission import AdmitCount, AdmitProbability
from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray
from headrace.store.initial import Constant, InitialRow, Normal, Uniform, Zeros
from headrace.store.notices import note_once
from headrace.store.parts import TableParts
from headrace.store.reference import ReferenceTable
from headrace.store.row_rules import FTRL, SGD, Adagrad, Adam, FloatArray, RowRule
from headrace.store.table_config import TableConfig, TableStats

INTERFACE = 1
"""What this file expects of the module; a build of another interface is refused."""

# The codes of csrc/table/status.h.
_DUPLICATE, _COUNT, _NOT_FINITE, _STALE, _FUTURE, _SERVING, _NO_MEMORY = range(1, 8)


def load_native() -> ModuleType | None:
    """Return the native module, or None where it was not built or belongs to other sources."""
    try:
        module = importlib.import_module("headrace.store._native")
    except ImportError:
        return None
    return module if getattr(module, "INTERFACE", None) == INTERFACE else None


def native_rule(rule: RowRule) -> tuple[int, float, float, float, float] | None:
    """Return kind and parameters of a rule in csrc/rules/row_rule.h, or None when it has no native form."""
    if type(rule) is SGD:
        return (0, rule.lr, 0.0, 0.0, 0.0)
    if type(rule) is Adagrad:
        return (1, rule.lr, rule.initial_accumulator, rule.eps, 0.0)
    if type(rule) is Adam:
        return (2, rule.lr, rule.beta1, rule.beta2, rule.eps)
    if type(rule) is FTRL:
        return (3, rule.lr, rule.l1, rule.l2, rule.beta)
    return None


def native_initial(init: InitialRow) -> tuple[int, float] | None:
    """Return kind and parameter of an initial row in csrc/table/initial.h, or None."""
    if type(init) is Zeros:
        return (0, 0.0)
    if type(init) is Constant:
        return (0, init.value)
    if type(init) is Uniform:
        return (1, init.scale)
    return (2, init.std) if type(init) is Normal else None


def _native_admission(config: TableConfig) -> tuple[int, int, float, int]:
    if isinstance(config.admission, AdmitCount):
        return (1, config.admission.occurrences, 0.0, 0)
    if isinstance(config.admission, AdmitProbability):
        return (2, 1, 1.0 - config.admission.probability, config.admission_key)
    return (0, 1, 0.0, 0)


class NativeTable(CheckedTable):
    """The table in C++: same answers as `ReferenceTable`, bit by bit; see `CheckedTable` for what every method does.

    Cost: per id and call about two overlapped cache misses; a row takes 24 + 4 (D + S) bytes and 9 to 18 in the map.

    Args:
        config: What the table is made of; rule and init must be ones of this package.
        serving: A table that only serves.

    Raises:
        ConfigError: If the native module is missing, or rule or init have no native form (`open_table` falls back).
    """

    def __init__(self, config: TableConfig, *, serving: bool = False) -> None:
        module, rule, init = load_native(), native_rule(config.rule), native_initial(config.init)
        require(module is not None, "NativeTable", got="no native module", expected="headrace.store._native",
                do="Install a wheel, or use open_table, which falls back to ReferenceTable.")  # fmt: skip
        if rule is None or init is None:
            raise ConfigError(f"Table '{config.name}'", got=f"{config.rule}, {config.init}",
                              expected="a rule and an init with a native form", do="Use open_table.")  # fmt: skip
        super().__init__(config, serving=serving)
        assert module is not None
        kind, value = init
        self._native: Any = module.Table(
            config.dim, rule, (kind, value, config.row_key), _native_admission(config), serving
        )

    def _accept(self, answer: tuple[int, int], what: str, since: int = 0) -> int:
        """Return the detail of a call that went well; raise the error of one that did not."""
        code, detail = answer
        if code == 0:
            return detail
        arguments = self._arguments
        errors: dict[int, HeadraceError] = {
            _DUPLICATE: arguments.duplicate(detail), _COUNT: arguments.count(detail),
            _NOT_FINITE: arguments.not_finite(what, detail), _STALE: arguments.stale(since, detail, self.mark()),
            _FUTURE: arguments.future(since, detail), _SERVING: arguments.serving(what),
            _NO_MEMORY: arguments.no_memory(what),
        }  # fmt: skip
        raise errors.get(code) or StoreError(f"{arguments.table}, {what}", got=f"native code {code}")

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
        self._accept(self._native.update(ids, grads, counts, times), "gradients")

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

    def stats(self) -> TableStats:
        """Return numbers about the table."""
        rows, size, admitted, filtered, evicted, load, pending, _ = self._native.stats()
        return TableStats(
            rows=rows, bytes=size, admitted=admitted, filtered=filtered, evicted=evicted, load=load, pending=pending
        )

    def _export(self) -> TableParts:
        answer, *arrays, numbers = self._native.export_parts()
        self._accept(answer, "state")
        ids, rows, slots, times, marks, waiting, counts, waited, removed, removed_marks = arrays
        mark, floor, admitted, filtered, evicted = numbers
        return TableParts(
            ids=ids, rows=rows, slots=slots, times=times, marks=marks, pending_ids=waiting, pending_counts=counts,
            pending_times=waited, removed_ids=removed, removed_marks=removed_marks, mark=mark, floor=floor,
            admitted=admitted, filtered=filtered, evicted=evicted,
        )  # fmt: skip

    def _import(self, parts: TableParts) -> None:
        pending = (parts.pending_ids, parts.pending_counts, parts.pending_times)
        removed = (parts.removed_ids, parts.removed_marks)
        numbers = (parts.mark, parts.floor, parts.admitted, parts.filtered, parts.evicted)
        answer = self._native.import_parts(
            parts.ids, parts.rows, parts.slots, parts.times, parts.marks, pending, removed, numbers
        )
        self._accept(answer, "restore")


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
        note_once(
            "native module", "The native table is missing (no compiler when Headrace was installed?); "
            "the reference table in Python is used instead: same results, about a hundred times slower.",
        )  # fmt: skip
        return ReferenceTable(config, serving=serving)
    if native_rule(config.rule) is None or native_initial(config.init) is None:
        parts = f"{type(config.rule).__name__} with {type(config.init).__name__}"
        note_once(
            f"native form of {parts}",
            f"Table '{config.name}': {parts} has no native form; the reference table in Python is used: slower.",
        )
        return ReferenceTable(config, serving=serving)
    return NativeTable(config, serving=serving)
