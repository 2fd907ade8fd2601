"""A serving copy of a model: tables and dense tensors that move from version to version and never stand between two."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, GapError, StaleError, VersionError
from headrace.protocols import Table
from headrace.publish.agreement import check_dense, check_rows, check_tables
from headrace.publish.change import check, follows
from headrace.publish.gate import Gate
from headrace.types import NO_VERSION, Change, Version

SNAPSHOT_TRIES = 5


@runtime_checkable
class ServingTable(Protocol):
    """What a replica needs of a table beyond the role; every table of `headrace.store` has it."""

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D)."""
        ...

    def assign(self, ids: Tensor, rows: Tensor) -> None:
        """Put rows."""
        ...

    def remove(self, ids: Tensor) -> object:
        """Remove rows; ids without one are no error."""
        ...

    def clear(self) -> None:
        """Remove all rows."""
        ...


class ChangeSource(Protocol):
    """Where a replica gets versions from: a `LogPublisher` in the same process, a `ChangeReader` in another one."""

    def last(self) -> Version:
        """Return the newest durable version."""
        ...

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the changes after a version; StaleError if they were compacted."""
        ...

    def snapshot(self) -> Change | None:
        """Return the newest snapshot as a full change."""
        ...

    def published_at(self) -> int:
        """Return the wall-clock µs at which the newest version became durable; 0 when there is none."""
        ...


class Replica:
    """Tables and dense tensors at exactly one version.

    `apply` checks a change whole before it touches anything, then moves while no reader is inside; `reading` holds
    the version still. So whatever is computed inside one `reading` block comes from one version, sparse and dense.

    Args:
        tables: Serving tables by name; nobody else may write to them.
        dense: The module whose parameters and buffers follow, or tensors by name, or None.

    Raises:
        ConfigError: If rows cannot be put into a table from outside.

    Thread-safety: any number of threads may read while others apply.

    Cost: readers wait while rows are assigned, not while a change is read or checked. A full change clears and fills
        the tables, so it holds readers up for as long as all its rows take; deltas are the normal case.
    """

    def __init__(
        self, tables: Mapping[str, Table], dense: nn.Module | Mapping[str, Tensor] | None = None
    ) -> None:  # fmt: skip
        self.tables: dict[str, ServingTable] = {}
        for name, table in tables.items():
            if not isinstance(table, ServingTable):
                raise ConfigError(f"Table '{name}'", got=type(table).__name__, expected="one that rows can be put into",
                                  do="Open it with open_table(config, serving=True).")  # fmt: skip
            self.tables[name] = table
        held = dense.state_dict(keep_vars=True) if isinstance(dense, nn.Module) else dict(dense or {})
        self.dense: dict[str, Tensor] = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        self._judges: list[Callable[[Change], None]] = []
        self._version, self._spec, self._torn = Version(NO_VERSION), dict[str, str](), False
        self._gate, self._applying = Gate(), threading.Lock()

    @property
    def version(self) -> Version:
        """The version held; number -1 before the first."""
        return self._version

    @property
    def spec(self) -> Mapping[str, str]:
        """What the version held says about itself."""
        return self._spec

    def add_check(self, judge: Callable[[Change], None]) -> None:
        """Have every change judged before it is applied; `judge` raises a HeadraceError to refuse it."""
        self._judges.append(judge)

    @contextmanager
    def reading(self) -> Iterator[Version]:
        """Hold the replica at its version for the length of the block; blocks must not be nested.

        Raises:
            VersionError: If there is no version yet.
        """
        with self._gate.shared():
            if self._version.number < 0:
                raise VersionError("Replica", got="no version yet", expected="one published version",
                                   do="Wait until the learner has published, or look at why it has not.")  # fmt: skip
            yield self._version

    def apply(self, change: Change) -> None:
        """Move to the change's version. A version already passed is ignored; a full change replaces everything.

        Raises:
            GapError: If the change does not follow the version held.
            RowRuleMismatch: If a table has another dimension.
            VersionError: If the change was made for other tables, dense tensors, seeds or another schema.

        In all these cases nothing was changed. If the machine fails in the middle (no memory), the replica says that
        it has no version, and only a full change makes it whole again.
        """
        with self._applying:
            if change.version.number <= self._version.number:
                return
            if not follows(change, self._version.number) or (self._torn and not change.full):
                raise GapError(
                    f"Change {change.version.number}", got=f"parent {change.version.parent}",
                    expected=f"parent {self._version.number}, the version held" if not self._torn else "a full change",
                    do="Use catch_up, which reads what is missing from the log or a snapshot.",
                )  # fmt: skip
            self._check(change)
            with self._gate.alone():
                self._move(change)

    def catch_up(self, source: ChangeSource, *, on_applied: Callable[[Change], None] | None = None) -> int:
        """Move to the newest version that `source` has, from its snapshot where the log does not reach back.

        Args:
            source: The publisher, or a reader of its log.
            on_applied: Called after every change that was applied.

        Returns:
            How many changes (snapshots included) were applied.

        Raises:
            StaleError: If neither log nor snapshot has what is missing.
        """
        applied = 0
        for _ in range(SNAPSHOT_TRIES):  # the publisher may trim while we read
            if self._version.number < 0 and (first := source.snapshot()) is not None:
                applied += self._apply_one(first, on_applied)
            try:
                for change in source.read_since(self._version.number):
                    applied += self._apply_one(change, on_applied)
                return applied
            except StaleError:
                snapshot = source.snapshot()
                if snapshot is None or snapshot.version.number <= self._version.number:
                    raise
                applied += self._apply_one(snapshot, on_applied)
        raise StaleError("Replica", got=f"version {self._version.number} and a log that is trimmed while it is read",
                         expected="a log that keeps changes for longer than a snapshot takes to load",
                         do="Raise snapshot_every or keep.")  # fmt: skip

    def _apply_one(self, change: Change, on_applied: Callable[[Change], None] | None) -> int:
        before = self._version.number
        self.apply(change)
        if self._version.number == before:
            return 0
        if on_applied is not None:
            on_applied(change)
        return 1

    def _check(self, change: Change) -> None:
        """Raise unless the change can be applied whole."""
        check(change)
        check_tables(change, self.tables)
        check_rows(change, {name: self._width(name) for name in self.tables})
        check_dense(change, self.dense, whole=self._replaces(change))
        for judge in self._judges:
            judge(change)

    def _width(self, name: str) -> int:
        return int(self.tables[name].lookup(torch.empty(0, dtype=torch.int64)).shape[1])

    @staticmethod
    def _replaces(change: Change) -> bool:
        return change.full or change.version.parent == NO_VERSION

    def _move(self, change: Change) -> None:
        try:
            for name, table in self.tables.items():
                if self._replaces(change):
                    table.clear()
                rows = change.tables.get(name)
                if rows is None:
                    continue
                if len(rows.removed):
                    table.remove(rows.removed)
                if len(rows.ids):
                    table.assign(rows.ids, rows.rows)
            with torch.no_grad():
                for name, tensor in change.dense.items():
                    self.dense[name].copy_(tensor)
        except BaseException:
            self._version, self._torn = Version(NO_VERSION), True
            raise
        self._version, self._spec, self._torn = change.version, dict(change.spec), False
