"""Who owns which bucket and where servers listen: kept by the head, known to everybody by asking it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from headrace.elastic.buckets import BucketMap, Move
from headrace.elastic.transactions import Part, Transaction
from headrace.errors import ClusterError, WorkerLost
from headrace.store.hashing import IdArray
from headrace.store.row_rules import FloatArray
from headrace.types import RowChange


class Tables(Protocol):
    """What workers need of a table server: `TableServer` here, `ServerClient` elsewhere."""

    def open(self, prints: Mapping[str, str]) -> dict[str, Any]:
        """See `TableServer.open`."""
        ...

    def lookup(self, version: int, after: int, ids: Mapping[str, IdArray]) -> dict[str, FloatArray]:
        """See `TableServer.lookup`."""
        ...

    def prepare(self, transaction: Transaction, attempt: int, version: int, part: Part) -> None:
        """See `TableServer.prepare`."""
        ...

    def apply(self, sequence: int, transactions: Sequence[Transaction]) -> int:
        """See `TableServer.apply`."""
        ...

    def pull_dense(self, known: int, after: int) -> tuple[int, FloatArray | None]:
        """See `TableServer.pull_dense`."""
        ...

    def discard(self, transactions: Sequence[Transaction]) -> None:
        """See `TableServer.discard`."""
        ...

    def changes(self, name: str, since: int, after: int = 0, version: int | None = None) -> RowChange:
        """See `TableServer.changes`."""
        ...

    def rows(self, name: str, after: int = 0, version: int | None = None) -> RowChange:
        """See `TableServer.rows`."""
        ...

    def marks(self) -> dict[str, int]:
        """See `TableServer.marks`."""
        ...

    def forget(self, marks: Mapping[str, int]) -> None:
        """See `TableServer.forget`."""
        ...


Server = TypeVar("Server")


class BucketDirectory:
    """The head's record of the bucket map and of the servers' addresses.

    Args:
        buckets: The map; None: not known yet.

    Thread-safety: any thread.
    """

    def __init__(self, buckets: BucketMap | None = None) -> None:
        self._lock = threading.Lock()
        self._map, self._servers, self._since = buckets, dict[int, str](), 0

    @property
    def map(self) -> BucketMap:
        """The newest map.

        Raises:
            ClusterError: If there is none yet.
        """
        with self._lock:
            if self._map is None:
                raise ClusterError("Bucket map", got="none yet", expected="one, once the servers are there")
            return self._map

    @property
    def servers(self) -> dict[int, str]:
        """Addresses by number."""
        with self._lock:
            return dict(self._servers)

    def set_server(self, number: int, address: str) -> None:
        """Remember where a server listens, also a new one under an old number."""
        with self._lock:
            self._servers[number] = address

    def moved(self, buckets: BucketMap, *, restored: bool = False) -> None:
        """Take a map if it is newer than the one known.

        Args:
            buckets: The map.
            restored: Whether it came about as all servers went back to a checkpoint.
        """
        with self._lock:
            if self._map is None or buckets.version > self._map.version:
                self._map = buckets
                self._since = buckets.version if restored else self._since

    def fields(self) -> dict[str, Any]:
        """Return the record as plain values.

        Raises:
            ClusterError: If there is no map yet.
        """
        buckets = self.map
        return {"map": buckets.fields(), "since": self._since,
                "servers": {str(number): address for number, address in self.servers.items()}}  # fmt: skip


class Directory(Generic[Server]):
    """What one process knows of the map and the servers, and its connections to them.

    Args:
        fetch: Asks the head for `BucketDirectory.fields`.
        connect: Makes the way to a server at an address.

    Attributes:
        since: Version of the map that the last restore made, as far as it is known here.

    Thread-safety: any thread.
    """

    def __init__(self, fetch: Callable[[], Mapping[str, Any]], connect: Callable[[str], Server]) -> None:
        self._fetch, self._connect, self.since = fetch, connect, 0
        self._lock = threading.Lock()
        self._map: BucketMap | None = None
        self._addresses: dict[int, str] = {}
        self._clients: dict[int, tuple[str, Server]] = {}

    @property
    def map(self) -> BucketMap:
        """The map, as far as it is known here."""
        if self._map is None:
            self.refresh()
        assert self._map is not None
        return self._map

    def refresh(self) -> bool:
        """Ask again; return whether the map or an address has changed."""
        fields = self._fetch()
        found, self.since = BucketMap.read(fields["map"]), int(fields.get("since", 0))
        addresses = {int(number): str(address) for number, address in fields["servers"].items()}
        with self._lock:
            changed = self._map is None or found.version != self._map.version or addresses != self._addresses
            self._map, self._addresses = found, addresses
            for number, (address, client) in list(self._clients.items()):
                if addresses.get(number) != address:
                    del self._clients[number]
                    _close(client)
        return changed

    @property
    def servers(self) -> tuple[int, ...]:
        """Numbers of all servers, also those that own nothing (yet)."""
        if self._map is None:
            self.refresh()
        with self._lock:
            return tuple(sorted(self._addresses))

    def client(self, number: int) -> Server:
        """Return the way to a server.

        Raises:
            WorkerLost: If there is no such server now.
        """
        if self._map is None:
            self.refresh()
        with self._lock:
            if number not in self._clients:
                if number not in self._addresses:
                    raise WorkerLost(f"Table server {number}", got="no address", expected="a server that runs")
                self._clients[number] = (self._addresses[number], self._connect(self._addresses[number]))
            return self._clients[number][1]

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            for _, client in self._clients.values():
                _close(client)
            self._clients.clear()


def _close(client: object) -> None:
    close = getattr(client, "close", None)
    if callable(close):
        close()


class Mover(Protocol):
    """What a move needs of a server's client."""

    def move(self, buckets: Sequence[int], target: int, address: str) -> BucketMap:
        """See `ServerClient.move`."""
        ...

    def advance(self, buckets: BucketMap) -> None:
        """See `TableServer.advance`."""
        ...

    def tidy(self) -> bool:
        """See `Departures.tidy`."""
        ...


def carry_out(moves: Sequence[Move], record: BucketDirectory, directory: Directory[Mover], *, tidy: bool = True) -> int:
    """Move buckets, one move after another, while everybody learns on; return how many buckets went.

    Callers with the old map are refused by the source and ask the head: so the record is told at once.

    Args:
        moves: See `relief_plan`.
        record: The head's.
        directory: The ways to the servers.
        tidy: Whether sources and targets then put their tables in order, in the background of learning.

    Raises:
        WorkerLost: If a server is lost; the moves before have happened.
        StaleError: If a source does not own what it should give away.
    """
    count = 0
    for one in moves:
        record.moved(directory.client(one.source).move(one.buckets, one.target, record.servers[one.target]))
        count += len(one.buckets)
        for number in record.map.servers:
            if number not in (one.source, one.target):
                directory.client(number).advance(record.map)
    if tidy:
        for number in sorted({number for one in moves for number in (one.source, one.target)}):
            directory.client(number).tidy()
    return count
