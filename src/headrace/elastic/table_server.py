"""A table server: some virtual buckets of every table, behind prepare and apply.

Every server takes the committed steps in one order, 1, 2, 3, ...: what comes early is held back, what comes twice is
ignored. So a decision may be handed on by anybody, more than once, and a copy made after step k is the same moment at
every server. Nothing here is durable by itself: a server that dies is made again from a checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.config import fingerprint, require
from headrace.elastic.arrivals import Arrivals
from headrace.elastic.buckets import BucketMap, Mask
from headrace.elastic.dense_server import DenseServer
from headrace.elastic.departures import Departures
from headrace.elastic.holdings import Holding, all_of
from headrace.elastic.prepared import PreparedParts
from headrace.elastic.server_copies import ServerCopies
from headrace.elastic.server_load import ServerLoad
from headrace.elastic.server_parts import ServerLimits
from headrace.elastic.transactions import Part, Transaction, summed
from headrace.errors import LeaseLost, RowRuleMismatch, StaleError, StoreError, WorkerLost
from headrace.store import TableConfig, bucket_of
from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray
from headrace.store.row_rules import FloatArray
from headrace.types import RowChange


class TableServer:
    """Owns virtual buckets of every table, and of the optimiser state of their rows.

    Args:
        number: Of the server.
        configs: All tables of the model; `Storage(disk=...)` is not possible here.
        buckets: Who owns what.
        folder: For copies and for moves; None: it can make no copy.
        dense: The dense part, in asynchronous mode, on one server.
        limits: What it waits for and holds.

    Attributes:
        delay: Seconds to sleep in a look-up of so many rows: injected slowness.

    Thread-safety: every method may be called from any thread. Look-ups run beside each other and beside `prepare`;
    steps are applied one at a time, and look-ups wait for them only where they touch the same table.
    """

    def __init__(
        self, number: int, configs: Sequence[TableConfig], buckets: BucketMap, *, folder: Path | None = None,
        dense: DenseServer | None = None, limits: ServerLimits | None = None,
    ) -> None:  # fmt: skip
        for config in configs:
            require(config.storage.disk is None, f"Table '{config.name}', storage.disk", got=config.storage.disk,
                    expected="None on a table server", do="Give the servers more memory, or add servers.")  # fmt: skip
        self.number, self.configs, self.dense = number, {config.name: config for config in configs}, dense
        self.limits, self.folder = limits or ServerLimits(), folder
        self.delay: Callable[[int], float] = lambda _: 0.0
        self.dims = {config.name: config.dim for config in configs}
        # held while a step is applied, a bucket handed over, a copy begun
        self.order: AbstractContextManager[Any] = threading.RLock()
        self.state = threading.Condition()  # guards what is below
        self.map, self.applied, self.torn, self.restored = buckets, 0, "", 0
        self._since = buckets.version  # the map of the last restore
        self.holdings: tuple[Holding, ...] = ()
        self.prepared = PreparedParts(f"Table server {number}", self.limits.prepared_bytes, self.limits.remembered)
        self.hold([Holding.fresh(buckets.mask(number), configs, 0)])
        self.load = ServerLoad()
        self.copies, self.departures, self.arrivals = ServerCopies(self), Departures(self), Arrivals(self)

    @property
    def wait_s(self) -> float:
        """How long it waits for a step."""
        return self.limits.wait_s

    def hold(self, holdings: Sequence[Holding]) -> None:
        """Take these holdings for all there is from now on. REQUIRES: `state` is held."""
        kept = [one for one in holdings if one.mask.any()]
        self.holdings = tuple(kept)
        where = np.full(4096, -1, np.int64)
        for place, one in enumerate(kept):
            where[one.mask] = place
        self._where = where

    def open(self, prints: Mapping[str, str]) -> dict[str, Any]:
        """Compare tables with those of a caller; return the bucket map and the last step applied.

        Raises:
            RowRuleMismatch: If a table is configured differently there.
        """
        for name in sorted(prints.keys() | self.configs.keys()):
            here = fingerprint(self.configs[name]) if name in self.configs else "no such table"
            if prints.get(name) != here:
                raise RowRuleMismatch(f"Table '{name}' of server {self.number}", got=prints.get(name), expected=here,
                                      do="Start servers and workers with one configuration.")  # fmt: skip
        with self.state:
            return {"map": self.map.fields(), "applied": self.applied}

    def lookup(self, version: int, after: int, ids: Mapping[str, IdArray]) -> dict[str, FloatArray]:
        """Return rows (U, D) of every table for its ids (U,).

        Args:
            version: Of the bucket map by which the ids came here.
            after: A step that has to be applied before.
            ids: By table.

        Raises:
            StaleError: If an id's bucket is not here (any more).
            LeaseLost: If the step will never be applied: the server was restored since that map.
            WorkerLost: If the step is not applied in time.
            StoreError: If the server has to be restored, or a table is unknown.
        """
        begun, rows = time.perf_counter(), sum(len(one) for one in ids.values())
        self._require_served(ids)
        holdings, where = self._ready(version, after, ids)
        found = {name: self._read(holdings, where, name, one) for name, one in ids.items()}
        pause = self.delay(rows)
        if pause > 0:
            time.sleep(pause)
        self.load.count(ids.values(), rows, time.perf_counter() - begun)
        return found

    def _ready(self, version: int, after: int, ids: Mapping[str, IdArray]) -> tuple[tuple[Holding, ...], IdArray]:
        with self.state:
            if version < self._since and self.applied < after:  # `after` is a step of the history that was given up
                raise LeaseLost(f"Table server {self.number}", got=f"a restore to step {self.applied}",
                                expected=f"step {after}", do="Enter again: everybody went back.")  # fmt: skip
            self._wait_for(after)
            if version != self.map.version:
                for one in ids.values():
                    self._require_here(version, one)
            return self.holdings, self._where

    def _require_served(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.configs:
                raise StoreError(f"Table '{name}'", got="a table that is not served",
                                 expected=f"one of {sorted(self.configs)}")  # fmt: skip

    def _wait_for(self, after: int) -> None:
        with self.state:
            born = self.restored
            self.state.wait_for(lambda: self.torn or self.applied >= after or self.restored != born, self.limits.wait_s)
            self.require_whole()
            if self.applied < after:  # too late, or never: the server went back to a checkpoint meanwhile
                raise WorkerLost(f"Table server {self.number}", got=f"step {self.applied}", expected=f"step {after}",
                                 do="The step was not handed on; see the head's log.")  # fmt: skip

    def _require_here(self, version: int, ids: IdArray) -> None:
        if len(ids) and int(self._where[bucket_of(ids)].min()) < 0:
            raise self.stale(version)

    def require_own(self, mask: Mask) -> None:
        """Raise StaleError unless all these buckets are here. REQUIRES: `state` is held."""
        if int(self._where[mask].min()) < 0:
            raise self.stale(self.map.version)

    def stale(self, version: int) -> StaleError:
        """Return the error for a caller with another map."""
        return StaleError(f"Table server {self.number}, bucket map", got=f"version {version}",
                          expected=f"version {self.map.version}", do="Ask the head for the map.")  # fmt: skip

    @staticmethod
    def _read(holdings: Sequence[Holding], where: IdArray, name: str, ids: IdArray) -> FloatArray:
        if len(holdings) == 1:
            return np.asarray(holdings[0].tables[name].lookup(torch.from_numpy(ids)).numpy())
        places = where[bucket_of(ids)]
        dims = [one.tables[name].config.dim for one in holdings]
        rows = np.zeros((len(ids), dims[0] if dims else 1), np.float32)
        for place, one in enumerate(holdings):
            chosen = np.flatnonzero(places == place)
            rows[chosen] = one.tables[name].lookup(torch.from_numpy(ids[chosen])).numpy()
        return rows

    def prepare(self, transaction: Transaction, attempt: int, version: int, part: Part) -> None:
        """Check and keep what a transaction brings; nothing changes. May be called again with a later attempt.

        Raises:
            LeaseLost: If the transaction's epoch was fenced.
            StaleError: If the map is older than the server's, or an id's bucket is not here.
            NonFiniteLoss, StoreError: See `Part.check`; or the dense gradient does not fit.
            CapacityError: If too much waits already.
        """
        part.check(self.dims)
        size = 0 if self.dense is None else self.dense.size
        if len(part.dense) not in (0, size):  # it would tear the server when its step is applied
            raise StoreError(f"Table server {self.number}, dense gradient", got=f"{len(part.dense)} values",
                             expected=f"{size}", do="Start servers and workers with one model.")  # fmt: skip
        with self.state:
            self.require_whole()
            self.prepared.check(transaction)
            if version < self.map.version:
                raise self.stale(version)
            if version != self.map.version or len(self.holdings) != 1:
                for step in part.steps.values():
                    self._require_here(version, step[0])
            self.prepared.add(transaction, attempt, part)

    def apply(self, sequence: int, transactions: Sequence[Transaction], version: int | None = None) -> int:
        """Take a committed step: one update of every table that gradients flowed to, then evictions.

        Returns once the step, and whatever waited for it, is applied; at once where it came before its turn.

        Args:
            sequence: Number of the step, from 1.
            transactions: What it is made of; gradients are added in this order.
            version: Of a bucket map that whoever tells it has known since it began: a step told from before the last
                restore is ignored, for another one may have its number now. None: it is not from before.

        Returns:
            Rows evicted here by that step, if it is known.

        Raises:
            StoreError: If a transaction was not prepared here, the step came before with other transactions, or a
                table refuses: the server then takes nothing any more until it is restored.
        """
        with self.order:
            with self.state:
                if version is not None and version < self._since:
                    return 0
                self.require_whole()
                if sequence > self.applied and not self.prepared.decide(sequence, tuple(transactions)):
                    self._tear(f"step {sequence}, told with different transactions")
            while self._next():
                pass
            with self.state:
                return self.prepared.evicted(sequence)

    def _next(self) -> bool:
        sequence = self.applied + 1
        with self.state:
            transactions = self.prepared.decided(sequence)
            if transactions is None:
                return False
            parts, missing = self.prepared.parts_of(transactions)
            if missing is not None and (self.holdings or self.dense is not None):
                self._tear(f"step {sequence}, committed with {missing.text}, which was not prepared here")
        try:
            total = summed(parts, self.dims)
            evicted = sum(self._take(one, total, sequence) for one in self.holdings if one.applied < sequence)
            if self.dense is not None and len(total.dense):
                self.dense.step(total.dense, sequence)
        except BaseException as error:
            with self.state:
                self._tear(f"step {sequence}, interrupted by: {error}")
            raise
        self.departures.log(sequence, total)
        with self.state:
            self.applied = sequence
            self.prepared.settle(sequence, transactions, evicted)
            self.state.notify_all()
        self.copies.after(sequence)
        return True

    def _take(self, one: Holding, total: Part, sequence: int) -> int:
        whole = len(self.holdings) == 1
        return one.take(total if whole else total.split(one.mask)[0], sequence)

    def _tear(self, what: str) -> None:
        self.torn = what
        self.state.notify_all()
        self.require_whole()

    def require_whole(self) -> None:
        """Raise StoreError if a step was interrupted. REQUIRES: `state` is held."""
        if self.torn:
            raise StoreError(f"Table server {self.number}", got=self.torn, expected="whole steps",
                             do="Restore the newest checkpoint on all servers.")  # fmt: skip

    def fence(self, epoch: int, worker: str = "") -> None:
        """Refuse transactions of an older epoch from now on, and drop those that are not committed.

        Args:
            epoch: The oldest that is still taken.
            worker: Whose; empty: everybody's.
        """
        with self.state:
            self.prepared.fence(epoch, worker)

    def discard(self, transactions: Sequence[Transaction]) -> None:
        """Drop transactions that will not be committed."""
        with self.state:
            self.prepared.discard(transactions)

    def advance(self, buckets: BucketMap) -> None:
        """Take notice of a later map, in which this server's buckets are the same.

        Raises:
            StaleError: If the map gives this server other buckets than it has.
        """
        with self.state:
            if buckets.version > self.map.version:
                if not np.array_equal(buckets.mask(self.number), self._where >= 0):
                    raise self.stale(buckets.version)
                self.map = buckets

    def pull_dense(self, known: int, after: int) -> tuple[int, FloatArray | None]:
        """Return the step of the dense part, once it is at least `after`, and its values (P,) unless it is `known`.

        Raises:
            WorkerLost: If the step is not applied in time.
            StoreError: If the dense part is elsewhere, or the server has to be restored.
        """
        if self.dense is None:
            raise StoreError(f"Table server {self.number}", got="no dense part", expected="the server that keeps it")
        self._wait_for(after)
        return self.dense.pull(known)

    def changes(self, name: str, since: int, after: int = 0, version: int | None = None) -> RowChange:
        """Return what changed in a table here after a mark, once step `after` is applied; as `CheckedTable.changes`.

        Args:
            name: Of the table.
            since: The mark.
            after: See above.
            version: Of the bucket map by which all servers are asked; None: only this one is.

        Raises:
            StaleError: If the map is another one, also when it becomes one meanwhile.
            WorkerLost: If the step is not applied in time.
            StoreError: If the server has to be restored, or the table is unknown.
        """
        return self._all(name, after, version, lambda table: table.changes(since))

    def rows(self, name: str, after: int = 0, version: int | None = None) -> RowChange:
        """Return all rows of a table here, once step `after` is applied; arguments and errors as for `changes`."""
        return self._all(name, after, version, lambda table: table.rows())

    def _all(self, name: str, after: int, version: int | None, ask: Callable[[CheckedTable], RowChange]) -> RowChange:
        self._require_served([name])
        holdings = self._still(after, version)
        found = all_of([one.own(ask(one.tables[name])) for one in holdings], self.dims[name])
        self._still(after, version)  # nothing went away between one table and the next
        return found

    def marks(self) -> dict[str, int]:
        """Return the mark of every table: the same at every server, and the same as one table would have."""
        with self.state:
            return {name: max((one.tables[name].mark() for one in self.holdings), default=0) for name in self.configs}

    def forget(self, marks: Mapping[str, int]) -> None:
        """Let tables forget their history up to these marks."""
        with self.order:
            for one in self.holdings:
                for name, mark in marks.items():
                    one.tables[name].forget(mark)

    def _still(self, after: int, version: int | None) -> tuple[Holding, ...]:
        with self.state:
            self._wait_for(after)
            if version is not None and version != self.map.version:
                raise self.stale(version)
            return self.holdings

    def stats(self) -> dict[str, Any]:
        """Return numbers about the server: plain values."""
        with self.state:
            holdings = self.holdings
            found: dict[str, Any] = {
                "number": self.number, "applied": self.applied, "map": self.map.version, "torn": self.torn,
                "buckets": int((self._where >= 0).sum()), "holdings": len(holdings), "prepared": len(self.prepared),
                "prepared_bytes": self.prepared.nbytes, "held_back": self.prepared.held_back,
                "moving": self.departures.busy,
            }  # fmt: skip
        tables = {name: [one.tables[name].stats() for one in holdings] for name in self.configs}
        found["tables"] = {
            name: {item: sum(getattr(one, item) for one in some) for item in ("rows", "bytes", "admitted", "filtered",
                                                                               "evicted", "pending")}
            for name, some in tables.items()
        }  # fmt: skip
        if self.dense is not None:
            found["dense"] = self.dense.stats()
        return found | self.load.numbers()

    def reset(self, buckets: BucketMap, holdings: Sequence[Holding], applied: int) -> None:
        """Become a server that holds this and stands at this step; all that was prepared is dropped."""
        with self.order, self.state:
            self.map, self.applied, self.torn, self._since = buckets, applied, "", buckets.version
            self.restored += 1
            self.prepared.clear()
            self.departures.stop()
            self.arrivals.stop()
            self.hold(holdings)
            self.state.notify_all()
