"""What the head has to do with table servers: who they are, what they are told, and going back to a checkpoint."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from headrace.config import fingerprint
from headrace.elastic.applier import Applier
from headrace.elastic.buckets import BucketMap
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.elastic.table_wire import ServerClient
from headrace.elastic.transactions import Transaction
from headrace.errors import HeadraceError, StaleError
from headrace.runtime.work_queue import ShardQueue
from headrace.store import TableConfig

_log = logging.getLogger(__name__)
PATIENCE_S = 2.0
"""A server that has not said how it is after so long is silent."""


class ServerSide:
    """The table servers as the head sees them.

    Args:
        count: How many servers there are to be at the beginning.
        tables: What they serve.
        secret: Of the run.

    Attributes:
        ready: Whether all servers are there and hold one step.

    Thread-safety: any thread.
    """

    def __init__(self, count: int, tables: Sequence[TableConfig], secret: bytes) -> None:
        self.count, self._prints = count, {table.name: fingerprint(table) for table in tables}
        self.record = BucketDirectory()
        self.directory: Directory[Any] = Directory(self.record.fields, lambda address: ServerClient(address, secret))
        self.applier: Applier | None = None
        self.ready = False
        self._given: dict[int, tuple[str, str]] = {}
        self._changes, self._torn = 0, False
        self._heard, self._asked = dict[int, dict[str, Any]](), (-1, 0.0)
        self._lock = threading.RLock()

    def set_server(self, number: int, address: str, process: str = "") -> bool:
        """Note where a server listens; return whether all are there and have to be given their tables.

        Args:
            number: Which server.
            address: Where it listens.
            process: Which process it is: one that was started again may listen where the one before it did.
        """
        with self._lock:
            if self._given.get(number) != (address, process):
                self.ready = False
                self._changes += 1
                self._heard.pop(number, None)
            self._given[number] = (address, process)
            self.record.set_server(number, address)
            return not self.ready and len(self._given) >= self.count

    def hold(self) -> int:
        """Let nobody count on the servers while they are brought to a checkpoint; give `release` what is returned."""
        with self._lock:
            self.ready, self._torn = False, True
            return self._changes

    def release(self, held: int) -> None:
        """Note that all servers stand at one step again; not ready where one of them was replaced meanwhile."""
        with self._lock:
            self._torn, self.ready = False, held == self._changes

    def shares(self) -> dict[str, float]:
        """Return the share of the buckets that each server has; nothing where they are even."""
        owners = self.record.map.owners
        counts = {number: int((owners == number).sum()) for number in sorted(self.record.servers)}
        if max(counts.values()) - min(counts.values()) <= 1:
            return {}
        return {f"server-{number}": count / len(owners) for number, count in counts.items()}

    def known(self, number: int, address: str, process: str) -> bool:
        """Return whether this process is known as a server already."""
        with self._lock:
            return self._given.get(number) == (address, process)

    def complete(self) -> bool:
        """Return whether all servers have told where they listen."""
        with self._lock:
            return len(self._given) >= self.count

    def begin(self, queue: ShardQueue) -> bool:
        """Give new servers their buckets, empty; or meet servers that live since before this head.

        Returns:
            Whether they hold what was committed; if not, all have to go back to a checkpoint.

        Raises:
            HeadraceError: If a server does not answer.
        """
        with self._lock:
            self.record.moved(BucketMap.even(sorted(self._given), version=1))
            self.directory.refresh()
            if self._torn:
                return False  # a way back that broke off: some stand here, some there
            for number in self.directory.servers:
                self._heard[number] = self.directory.client(number).stats()
            applied = [int(self._heard[number]["applied"]) for number in self.directory.servers]
            last = max(queue.last_step, 0)
            told = {step for step, _ in queue.decided(min(applied) + 1)}
            if not last and not max(applied):
                self.give(self.record.map, 0)
            elif min(applied) > 0 and max(applied) <= last and told >= set(range(min(applied) + 1, last + 1)):
                if not self._meet(queue, min(applied)):
                    return False
            else:
                return False
            self.ready = True
            return True

    def give(self, buckets: BucketMap, applied: int) -> None:
        """Let every server begin with nothing in its buckets."""
        for number in self.directory.servers:
            self.directory.client(number).restore(buckets, applied, [])
        self.start_applier(applied)

    def map_of(self, number: int) -> BucketMap:
        """Return the bucket map as a server knows it."""
        return BucketMap.read(self.directory.client(number).open(self._prints)["map"])

    def _meet(self, queue: ShardQueue, applied: int) -> bool:
        for number in self.directory.servers:
            self.record.moved(self.map_of(number))
        self.directory.refresh()
        try:
            for number in self.record.map.servers:
                self.directory.client(number).advance(self.record.map)
        except StaleError as error:
            _log.warning("buckets are nobody's: %s", error)
            return False
        self.start_applier(applied)
        assert self.applier is not None
        self.applier.resume((step, transactions_of(step, note)) for step, note in queue.decided(applied + 1))
        return True

    def start_applier(self, last: int) -> None:
        """Hand on steps from here on."""
        if self.applier is None:
            self.applier = Applier(self.directory, last)
        else:
            self.applier.reset(last)

    def committed(self, step: int, epoch: int, workers: Sequence[str]) -> None:
        """See `headrace.elastic.conductor.Tables`."""
        assert self.applier is not None
        self.applier.committed(step, [Transaction(worker, epoch, step) for worker in workers])

    def took(self, step: int, transactions: Sequence[Transaction]) -> None:
        """See `headrace.elastic.async_commits.Tables`."""
        assert self.applier is not None
        self.applier.committed(step, transactions)

    def fence(self, epoch: int, worker: str = "") -> None:
        """See `headrace.elastic.turns.Tables`; before servers have begun there is nothing to refuse."""
        if self.applier is not None:
            self.applier.fence(epoch, worker)

    def stats(self) -> list[dict[str, Any]]:
        """Ask every server for its numbers, and return those of all that answer; may wait for one that does not."""
        for number in sorted(self._given):
            self._asked = (number, time.monotonic())
            try:
                self._heard[number] = self.directory.client(number).stats()
            except HeadraceError as error:
                _log.info("server %d: %s", number, error)
                self._heard.pop(number, None)
        self._asked = (-1, 0.0)
        return self.heard()

    def heard(self) -> list[dict[str, Any]]:
        """Return what every server said when `stats` last asked it; nothing of one that keeps it waiting."""
        (asked, since), found = self._asked, []
        for number in sorted(self._given):
            told = self._heard.get(number)
            if told is None or (asked == number and time.monotonic() - since > PATIENCE_S):
                found.append({"name": f"server-{number}", "state": "silent"})
            else:
                found.append({"name": f"server-{number}", "state": "serving", **told})
        return found

    def close(self) -> None:
        """End the threads and connections."""
        if self.applier is not None:
            self.applier.close()
        self.directory.close()


def transactions_of(step: int, note: str) -> list[Transaction]:
    """Return what a step was made of, from the note of its commit: the epoch, then the workers; or one push."""
    if "/" in note:
        return [Transaction.parse(note)]
    epoch, *workers = note.split()
    return [Transaction(worker, int(epoch), step) for worker in workers]
