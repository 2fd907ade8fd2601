"""Tables that live at servers, for an `EmbeddingCollection` on a worker: same numbers as tables at hand.

All tables are looked up in one call to each server, and learn in one; servers are asked side by side. An id that comes
a thousand times in a batch crosses the wire once each way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from headrace.config import fingerprint
from headrace.elastic.buckets import BucketMap
from headrace.elastic.directory import Directory, Tables
from headrace.elastic.transactions import Part, Transaction
from headrace.errors import StaleError, StoreError, WorkerLost
from headrace.store import TableConfig
from headrace.store.arguments import Arguments, check_update
from headrace.store.hashing import IdArray
from headrace.store.passes import Lookup, PlainPass, Sums
from headrace.store.row_rules import FloatArray
from headrace.store.sharded import Step, merged
from headrace.types import Batch, RowChange, State

Answer = TypeVar("Answer")
PAUSE_S = 0.002
"""Between two questions while buckets are on their way."""
FORGET_EVERY = 256
"""Updates between two words to the servers that history may go."""


class RemoteTables:
    """All tables of a model, at their servers.

    Args:
        configs: The tables; the servers must have the same.
        directory: Who owns what, and the ways to the servers.
        patience_s: How long to ask again while buckets move or a server is being replaced.
        name: Of this worker, for updates outside `transaction`.
        dense_server: The server that keeps the dense part, where one does.

    Attributes:
        tables: By name, for an `EmbeddingCollection`.
        after: A step that servers must have applied before they answer a look-up.
        dense: Dense gradients (P,) that the next `transaction` takes along to the server that keeps them.

    Thread-safety: look-ups from any thread; everything else from one.
    """

    def __init__(self, configs: Sequence[TableConfig], directory: Directory[Tables], *, patience_s: float = 30.0,
                 name: str = "", dense_server: int = 0) -> None:  # fmt: skip
        self.configs = {config.name: config for config in configs}
        self.tables = {config.name: RemoteTable(config, self) for config in configs}
        self.after, self.dense = 0, np.zeros(0, np.float32)
        self._directory, self._patience_s, self._dense_server = directory, patience_s, dense_server
        self._name = name or f"alone-{os.getpid()}"
        self._pool = ThreadPoolExecutor(32, "table-server")
        self._gathered: dict[str, list[Step]] | None = None
        self._evictions: dict[str, int] = {}
        self._attempt, self._sequence, self._marks = 0, -1, dict[str, int]()

    def open(self) -> int:
        """Meet the servers, by the newest map; return the last step that all of them have applied.

        Raises:
            RowRuleMismatch: If a server has other tables.
            WorkerLost: If one does not answer.
        """
        self._directory.refresh()  # servers tell by it what was asked before they were restored
        prints = {name: fingerprint(config) for name, config in self.configs.items()}
        told = self._patiently(
            lambda _: self._each(self._directory.servers, lambda number: self._client(number).open(prints))
        )
        self._sequence, self._marks = min(int(fields["applied"]) for fields in told.values()), {}
        return self._sequence

    def close(self) -> None:
        """End the threads; the directory is its owner's."""
        self._pool.shutdown(wait=False)

    def _client(self, number: int) -> Tables:
        return self._directory.client(number)

    def _each(self, servers: Sequence[int], ask: Callable[[int], Answer]) -> dict[int, Answer]:
        """Ask servers side by side; raise the first error after all have answered."""
        if len(servers) == 1:
            return {servers[0]: ask(servers[0])}
        asked = [self._pool.submit(ask, number) for number in servers]
        wait(asked)  # all of them, so that nobody reads our arrays any more when one fails
        return {number: one.result() for number, one in zip(servers, asked, strict=True)}

    def _patiently(self, ask: Callable[[BucketMap], Answer]) -> Answer:
        """Ask by the map; ask again by a newer one where a server says that the map is old.

        A server that is lost is asked again where it is now; but not once everybody went back to a checkpoint: to wait
        for steps that nobody knows any more would only delay the next epoch.
        """
        end = time.monotonic() + self._patience_s
        while True:
            buckets = self._directory.map
            try:
                return ask(buckets)
            except StaleError:
                if time.monotonic() > end:
                    raise
                if not self._directory.refresh():
                    time.sleep(PAUSE_S)
            except WorkerLost:
                if time.monotonic() > end or not self._directory.refresh():
                    raise  # it has not moved: it is dead
                if self._directory.since > buckets.version:
                    raise

    def fetch(self, ids: Mapping[str, IdArray]) -> dict[str, FloatArray]:
        """Return rows (U, D) of every table for distinct ids (U,).

        Raises:
            WorkerLost: If a server is lost.
        """
        return self._patiently(lambda buckets: self._fetch(buckets, ids))

    def _fetch(self, buckets: BucketMap, ids: Mapping[str, IdArray]) -> dict[str, FloatArray]:
        owners = {name: buckets.of(one) for name, one in ids.items()} if len(buckets.servers) > 1 else None
        places = {server: {name: np.flatnonzero(owner == server) for name, owner in owners.items()}
                  for server in buckets.servers} if owners is not None else {}  # fmt: skip

        def ask(server: int) -> dict[str, FloatArray]:
            wanted = ids if owners is None else {name: one[places[server][name]] for name, one in ids.items()}
            return self._client(server).lookup(buckets.version, self.after, wanted)

        told = self._each(buckets.servers, ask)
        if owners is None:
            return told[buckets.servers[0]]
        found = {name: np.empty((len(one), self.configs[name].dim), np.float32) for name, one in ids.items()}
        for server, rows in told.items():
            for name, where in places[server].items():
                found[name][where] = rows[name]
        return found

    @contextmanager
    def transaction(self, transaction: Transaction) -> Iterator[None]:
        """Gather all updates and evictions inside, and prepare them at every server as one, at the end.

        Nothing is applied: that is for `apply`, once the transaction is committed. Where the body raises, nothing is
        sent.

        Raises:
            NonFiniteLoss: If a gradient is not finite; nothing was changed.
            LeaseLost: If the epoch was fenced.
            WorkerLost: If a server is lost.
        """
        if self._gathered is not None:
            raise StoreError("RemoteTables.transaction", got="one inside another", expected="one at a time")
        self._gathered, self._evictions = {}, {}
        try:
            yield
            part = self._part()
        finally:
            self._gathered, self.dense = None, self.dense[:0]
        self.prepare(transaction, part)

    def _part(self) -> Part:
        assert self._gathered is not None
        steps = {}
        for name, several in self._gathered.items():
            steps[name] = several[0] if len(several) == 1 else merged(several, self.configs[name].dim)
        return Part(steps, self._evictions, self.dense)

    def prepare(self, transaction: Transaction, part: Part) -> None:
        """Prepare a transaction at every server; see `transaction`."""
        part.check({name: config.dim for name, config in self.configs.items()})

        def ask(buckets: BucketMap) -> None:
            self._attempt += 1
            attempt, servers = self._attempt, buckets.servers
            if len(part.dense) and self._dense_server not in servers:
                servers = (*servers, self._dense_server)
            shares = part.by_owner(buckets.owners, servers, self._dense_server)
            self._each(servers, lambda server: self._client(server).prepare(transaction, attempt, buckets.version,
                                                                            shares[server]))  # fmt: skip

        self._patiently(ask)

    def apply(self, sequence: int, transactions: Sequence[Transaction]) -> int:
        """Tell every server that a step is committed; return how many rows it has evicted, as far as is known.

        May be called by several, and again.

        Raises:
            WorkerLost: If a server is lost.
            StoreError: If a server has to be restored.
        """
        told = self._each(self._directory.servers, lambda server: self._client(server).apply(sequence, transactions))
        return sum(told.values())

    def pull_dense(self, known: int = -1) -> tuple[int, FloatArray | None]:
        """Return the step that the dense part stands at, not before `after`, and its values (P,) unless it is `known`.

        Raises:
            WorkerLost: If the server that keeps it is lost.
        """
        return self._patiently(lambda _: self._client(self._dense_server).pull_dense(known, self.after))

    def discard(self, transactions: Sequence[Transaction]) -> None:
        """Tell every server to drop transactions that will not be committed."""
        self._each(self._directory.servers, lambda server: self._client(server).discard(transactions))

    def take(self, part: Part) -> int:
        """Gather a part into the open transaction; without one, prepare it and apply it as the next step.

        Returns:
            Rows evicted; 0 inside a transaction.
        """
        if self._gathered is None:
            sequence = (self.open() if self._sequence < 0 else self._sequence) + 1
            alone = Transaction(self._name, 0, sequence)
            self.prepare(alone, part)
            self.after = self._sequence = sequence
            for name in (*part.steps, *part.evict):
                self._marks[name] = self.mark(name) + 1
            return self.apply(sequence, [alone])
        for name, step in part.steps.items():
            self._gathered.setdefault(name, []).append(step)
        for name, before in part.evict.items():
            self._evictions[name] = max(before, self._evictions.get(name, before))
        return 0

    def rows(self, name: str, since: int | None = None) -> RowChange:
        """Return what changed in a table after a mark, at all servers; all rows where the mark is None.

        Servers answer by one map, so that buckets on their way are neither missing nor there twice.

        Raises:
            WorkerLost: If a server is lost.
        """

        def ask(buckets: BucketMap, number: int) -> RowChange:
            client, version = self._client(number), buckets.version
            if since is None:
                return client.rows(name, self.after, version)
            return client.changes(name, since, self.after, version)

        told = self._patiently(lambda buckets: self._each(buckets.servers, lambda number: ask(buckets, number)))
        ids = torch.cat([one.ids for one in told.values()])
        order = torch.argsort(ids)
        removed = torch.cat([one.removed for one in told.values()]).sort().values
        return RowChange(ids[order], torch.cat([one.rows for one in told.values()])[order], removed)

    def mark(self, name: str) -> int:
        """Return a table's mark, as far as it is known here: `marks` asks, and updates of this process count."""
        return self._marks[name] if name in self._marks else self.marks()[name]

    def marks(self) -> dict[str, int]:
        """Ask for every table's mark: the number of its updates and evictions."""
        told = self._each(self._directory.servers, lambda number: self._client(number).marks())
        self._marks = {name: max(marks[name] for marks in told.values()) for name in self.configs}
        return dict(self._marks)

    def forget(self, marks: Mapping[str, int]) -> None:
        """Let the tables forget their history up to these marks."""
        self._each(self._directory.servers, lambda number: self._client(number).forget(marks))


class RemoteTable:
    """One table at its servers; fills the role `Table`, but for `state` and `restore`, which are the servers' own.

    Args:
        config: What it is made of.
        remote: All tables.

    Thread-safety: as `RemoteTables`.
    """

    def __init__(self, config: TableConfig, remote: RemoteTables) -> None:
        self.config, self.remote = config, remote
        self._arguments, self._forgotten = Arguments(config.name, config.dim), 0

    def joint_pass(self, tables: Mapping[str, Any], lookups: Sequence[Lookup], batch: Batch, keep: bool) -> PlainPass:
        """Return a pass over several tables of the same servers."""
        return RemotePass(tables, lookups, batch, self.remote)

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D) for ids (N,)."""
        known, places = np.unique(self._arguments.int64("ids", ids), return_inverse=True)
        return torch.from_numpy(self.remote.fetch({self.config.name: known})[self.config.name][places.reshape(-1)])

    def update(self, ids: Tensor, grads: Tensor, counts: Tensor, times: Tensor) -> None:
        """Learn one step: at once, or with the open transaction.

        Raises:
            StoreError: If ids repeat, or shapes, dtypes or counts are wrong.
            NumericError: If a gradient is not finite.
        """
        known = self._arguments.int64("ids", ids)
        gradients = self._arguments.float32("gradients", grads, len(known))
        occurrences = self._arguments.int64("counts", counts, len(known))
        moments = self._arguments.int64("times", times, len(known))
        check_update(self._arguments, known, gradients, occurrences)
        order = np.argsort(known)
        step = known[order], gradients[order], occurrences[order], moments[order]
        self.remote.take(Part({self.config.name: step}))

    def evict(self, before: int) -> int:
        """Remove rows last touched before an event time; return how many, 0 inside a transaction."""
        return self.remote.take(Part({}, {self.config.name: int(before)}))

    def changes(self, since: int) -> RowChange:
        """Return what changed after a mark."""
        return self.remote.rows(self.config.name, since)

    def rows(self) -> RowChange:
        """Return all rows."""
        return self.remote.rows(self.config.name)

    def mark(self) -> int:
        """Return the number of updates and evictions so far, as far as it is known here."""
        return self.remote.mark(self.config.name)

    def forget(self, mark: int) -> None:
        """Let the servers forget the history up to a mark, now and then: a call is not worth a few removals."""
        if mark >= self._forgotten + FORGET_EVERY:
            self._forgotten = mark
            self.remote.forget({self.config.name: mark})

    if TYPE_CHECKING:  # not there: rows are saved where they are, by `ElasticCheckpoint`

        def state(self) -> State:
            """Not there."""
            ...

        def restore(self, state: State) -> None:
            """Not there."""
            ...


class RemotePass(PlainPass):
    """A pass over tables at servers: one call to each for the rows of all tables, and one for their gradients.

    `check` looks for values that are not finite; `apply` hands the sums of all tables to `RemoteTables.take`.
    """

    def __init__(
        self, tables: Mapping[str, RemoteTable], lookups: Sequence[Lookup], batch: Batch, remote: RemoteTables
    ) -> None:
        super().__init__(tables, lookups, batch, keep=True)
        self._remote = remote

    def found(self) -> dict[str, FloatArray]:
        """Return the rows of every table's distinct ids."""
        return self._remote.fetch(self._ids)

    def sums(self, table: str) -> Sums:
        """Return the summed gradients of a table that some flowed to."""
        return Sums(self._ids[table], self._grads[table])

    def apply(self) -> None:
        """Hand on the sums of every table that gradients flowed to."""
        self.check()
        steps = {name: self.step(name, self._grads[name]) for name in self._remote.configs if name in self._grads}
        if steps:
            self._remote.take(Part(steps))
