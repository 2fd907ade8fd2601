"""A serving copy of a model: tables and dense tensors that move from version to version and never stand between two."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from headrace.config import known_name
from headrace.errors import ConfigError, CorruptSnapshot, GapError, StaleError, VersionError
from headrace.protocols import Table
from headrace.publish.agreement import check_dense, check_reload, check_rows, check_tables
from headrace.publish.change import check, follows
from headrace.publish.difference import difference, pieces
from headrace.publish.gate import Gate
from headrace.types import NO_VERSION, Change, RowChange, Version

SNAPSHOT_TRIES = 5
Mode: TypeAlias = Literal["consistent", "eventual"]
MODES = ("consistent", "eventual")


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

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which a version (None: the newest) became durable; 0 when that is unknown."""
        ...


class Replica:
    """Tables and dense tensors at exactly one version.

    `apply` checks a change whole before it touches anything, then moves while no reader is inside; `reading` holds
    the version still. So whatever is computed inside one `reading` block comes from one version, sparse and dense.

    With `mode="eventual"` readers never wait for rows: these are put a few thousand at a time while requests are
    answered, and the dense tensors follow in one go. A version is told only when all of it is in place, so an answer's
    version is what it has at least; some of its rows may already be those of the next one, with the dense tensors of
    the version told. It is for tables so large, or changes so frequent, that even a short wait is too long.

    Args:
        tables: Serving tables by name; nobody else may write to them.
        dense: The module whose parameters and buffers follow, or tensors by name, or None.
        mode: Whether sparse and dense are held together (`consistent`), or rows go ahead (`eventual`).

    Raises:
        ConfigError: If rows cannot be put into a table from outside, or the mode is unknown.

    Thread-safety: any number of threads may read while others apply.

    Cost: readers wait while rows are assigned, not while a change is read or checked. Of a full change only the rows
        that differ from those held are assigned, so that readers wait for what has changed and not for the whole
        table; finding them takes a copy of the table's rows. Tables that cannot list their rows are cleared and filled.
    """

    waited_for = True
    """Whether readers may have to wait for whoever applies a change."""

    def __init__(
        self, tables: Mapping[str, Table], dense: nn.Module | Mapping[str, Tensor] | None = None, *,
        mode: Mode = "consistent",
    ) -> None:  # fmt: skip
        known_name("mode", mode, MODES)
        self.mode: Mode = mode
        self.tables: dict[str, ServingTable] = {}
        for name, table in tables.items():
            if not isinstance(table, ServingTable):
                raise ConfigError(f"Table '{name}'", got=type(table).__name__, expected="one that rows can be put into",
                                  do="Open it with open_table(config, serving=True).")  # fmt: skip
            self.tables[name] = table
        held = dense.state_dict(keep_vars=True) if isinstance(dense, nn.Module) else dict(dense or {})
        self.dense: dict[str, Tensor] = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        self._judges: list[Callable[[Change], None]] = []
        self._parts: list[Callable[[Change], Callable[[], None]]] = []
        self._version, self._spec, self._torn = Version(NO_VERSION), dict[str, str](), False
        self._forgotten: dict[str, Tensor] = {}
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

    def add_part(self, prepare: Callable[[Change], Callable[[], None]]) -> None:
        """Have something else move with the versions, such as an index over rows.

        Args:
            prepare: Called with every change that is about to be applied, beside readers; what it returns is called
                once the replica has moved, while no reader is inside. If the change cannot be applied after all, it
                is not called, and `prepare` is given the same or another change later.
        """
        self._parts.append(prepare)

    @contextmanager
    def still(self) -> Iterator[Version]:
        """Keep the replica from moving for the length of the block, without being a reader; -1 before the first."""
        with self._applying:
            yield self._version

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
            tables, whole = self._without_forgotten(change), self._replaces(change)
            if whole and self._version.number >= 0 and (found := difference(tables, self.tables)) is not None:
                tables, whole = found, False
            if self.mode == "eventual" and not whole:
                self._move_rows(tables)  # if it fails in the middle, the same change puts them again
                tables = {}
            moves = [prepare(change) for prepare in self._parts]
            with self._gate.alone():
                self._move(change, tables, whole)
                for move in moves:
                    move()

    def forget(self, ids: Mapping[str, Tensor]) -> None:
        """Remove rows now, before the version that removes them has come, and keep them out until `remember`.

        Args:
            ids: Table name to ids (N,) int64; tables that are not here are passed over.
        """
        with self._applying:
            removed = {}
            for name in set(ids) & set(self.tables):
                gone = ids[name].unique()  # type: ignore[no-untyped-call]
                known = self._forgotten.get(name, gone[:0])
                self._forgotten[name] = torch.cat([known, gone]).unique()  # type: ignore[no-untyped-call]
                removed[name] = RowChange(gone[:0], torch.zeros(0, self._width(name)), gone)
            if removed and self._version.number >= 0:
                again = Change(version=self._version, tables=removed, spec=self._spec)
                with self._gate.alone():
                    self._move(again, removed, False)

    def remember(self, ids: Mapping[str, Tensor]) -> None:
        """Take rows again from now on that `forget` kept out; what they were is not known any more."""
        with self._applying:
            for name in set(ids) & set(self._forgotten):
                kept = self._forgotten[name]
                self._forgotten[name] = kept[~torch.isin(kept, ids[name])]

    def _without_forgotten(self, change: Change) -> Mapping[str, RowChange]:
        tables = dict(change.tables)
        for name, gone in self._forgotten.items():
            rows = tables.get(name)
            if rows is not None and len(gone):
                kept = ~torch.isin(rows.ids, gone)
                tables[name] = RowChange(rows.ids[kept], rows.rows[kept], rows.removed)
        return tables

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
                    check_reload(change)
                    applied += self._apply_one(change, on_applied)
                return applied
            except (StaleError, CorruptSnapshot):  # a damaged change is as good as one that is gone
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

    def _move_rows(self, tables: Mapping[str, RowChange]) -> None:
        for name, rows in tables.items():
            for piece in pieces(rows):
                self._put(name, piece)

    def _put(self, name: str, rows: RowChange) -> None:
        if len(rows.removed):
            self.tables[name].remove(rows.removed)
        if len(rows.ids):
            self.tables[name].assign(rows.ids, rows.rows)

    def _move(self, change: Change, tables: Mapping[str, RowChange], whole: bool) -> None:
        try:
            for table in self.tables.values() if whole else ():
                table.clear()
            for name, rows in tables.items():
                self._put(name, rows)
            with torch.no_grad():
                for name, tensor in change.dense.items():
                    self.dense[name].copy_(tensor)
        except BaseException:
            self._version, self._torn = Version(NO_VERSION), True
            raise
        self._version, self._spec, self._torn = change.version, dict(change.spec), False
