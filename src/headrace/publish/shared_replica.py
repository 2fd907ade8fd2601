"""Replicas over a shared space: one in the process that applies changes, and views of it in those that answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from headrace.errors import StaleError, VersionError
from headrace.publish.replica import Replica
from headrace.store.shared_memory import SharedReader, SharedRows, SharedSpace
from headrace.store.table_config import TableConfig, TableStats
from headrace.types import NO_VERSION, Change, RowChange, Version


class SpaceTable:
    """A table of a shared space as its writer has it: reads what is committed, and puts into what comes next.

    Args:
        space: The writing end.
        rows: The same table of a reader in this process.
        config: What the table is made of.
    """

    def __init__(self, space: SharedSpace, rows: SharedRows, config: TableConfig) -> None:
        self.space, self.config, self._rows = space, config, rows
        self._reads = threading.Lock()  # a reader of the space is for one thread at a time

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D) of the newest version."""
        with self._reads:
            return self._rows.lookup(ids)

    def contains(self, ids: Tensor) -> Tensor:
        """Return (N,) bool: which ids have a row in the newest version."""
        with self._reads:
            return self._rows.contains(ids)

    def rows(self) -> RowChange:
        """Return every row of the newest version, ids ascending."""
        with self._reads:
            return self._rows.rows()

    def assign(self, ids: Tensor, rows: Tensor) -> None:
        """Put rows into the version that is being made."""
        self.space.put(self.config.name, ids, rows)

    def remove(self, ids: Tensor) -> None:
        """Remove rows from the version that is being made."""
        self.space.remove(self.config.name, ids)

    def clear(self) -> None:
        """Do nothing: a version that replaces everything begins without rows."""

    def stats(self) -> TableStats:
        """Return numbers about the table."""
        return self.space.stats(self.config.name)


class SharedReplica(Replica):
    """A replica whose versions other processes serve from the same memory.

    A version becomes visible to all of them in one instant, when it is whole; none of them ever waits for it.

    Args:
        space: The writing end; nobody else may write.
        tables: Tables by name, of `space_tables`.
        dense: The module whose parameters follow in this process too, or tensors by name.

    Thread-safety: as `Replica`.
    """

    waited_for = False

    def __init__(
        self, space: SharedSpace, tables: Mapping[str, SpaceTable], dense: nn.Module | Mapping[str, Tensor] | None
    ) -> None:
        super().__init__(tables, dense)  # type: ignore[arg-type]  # all that a replica needs of a table is there
        self.space = space

    def _move(self, change: Change, tables: Mapping[str, RowChange], whole: bool) -> None:
        held = self._version, self._spec, self._torn
        self.space.begin(full=whole)
        try:
            super()._move(change, tables, whole)
            self.space.put_dense(change.dense)
            self.space.commit(change.version.number, change.version.parent)
        except BaseException:
            self.space.abort()
            self._version, self._spec, self._torn = held  # nothing that is visible was changed
            raise


def space_tables(space: SharedSpace, *, place: int = 0) -> dict[str, SpaceTable]:
    """Return the tables of a space as its writer has them; `place` is that of their reader."""
    reader = SharedReader(space.folder, place=place)
    return {name: SpaceTable(space, reader.tables[name], config) for name, config in space.configs.items()}


class SharedView:
    """What a predictor needs of a replica, in a process that only reads: the newest version of a shared space.

    Args:
        reader: The reading end, for what is computed.
        watcher: Another one, for looking at the version meanwhile.
        dense: The module whose parameters are to be those of the version that is read; they become views of the
            shared memory.

    Raises:
        VersionError: If the space has other dense tensors than the module.

    Thread-safety: threads read one after another.
    """

    def __init__(self, reader: SharedReader, watcher: SharedReader, dense: nn.Module | None = None) -> None:
        self.reader, self._watcher, self.mode = reader, watcher, "consistent"
        self.tables = reader.tables
        held = {} if dense is None else dense.state_dict(keep_vars=True)
        self.dense = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        if set(self.dense) != set(reader.dense_places):
            raise VersionError("Shared space, dense tensors", got=sorted(reader.dense_places),
                               expected=str(sorted(self.dense)))  # fmt: skip
        self._halves = [reader.dense(half) for half in (0, 1)]
        self._half = -1
        self._reads, self._looks = threading.Lock(), threading.Lock()

    @property
    def version(self) -> Version:
        """The newest version; number -1 before the first."""
        with self._looks:
            return Version(self._watcher.version)

    @property
    def spec(self) -> Mapping[str, str]:
        """Nothing: the process that applies versions looks at what they say."""
        return {}

    def add_check(self, judge: Callable[[Change], None]) -> None:
        """Do nothing: the process that applies versions judges them."""

    @contextmanager
    def reading(self) -> Iterator[Version]:
        """Hold the newest version for the length of the block.

        Raises:
            VersionError: If there is no version yet.
        """
        with self._reads:
            try:
                with self.reader.reading() as number:
                    self._turn(self.reader.half)
                    yield Version(number, self.reader.parent)
            except StaleError as error:
                if self._watcher.version == NO_VERSION:
                    raise VersionError("Replica", got="no version yet", expected="one published version",
                                       do="Wait until the learner has published.") from error  # fmt: skip
                raise

    def _turn(self, half: int) -> None:
        if half != self._half:
            with torch.no_grad():
                for name, value in self.dense.items():
                    value.data = self._halves[half][name]
            self._half = half
