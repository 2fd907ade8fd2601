"""Buckets that come from another server: the target's side of a move; see `departures` for the order of events."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace.elastic.buckets import BucketMap, Mask
from headrace.elastic.holdings import Holding, parts_of_chunks, table_from
from headrace.elastic.server_parts import OwnServer
from headrace.elastic.transactions import Part, Transaction, summed
from headrace.errors import ClusterError
from headrace.runtime.frames import Array


class Peer(Protocol):
    """Where buckets go: the `Arrivals` of the target, here or behind a wire. Every call may arrive twice."""

    def begin(self, move: str, mask: Mask, applied: int) -> int:
        """Expect buckets as they were after step `applied`; return the step from which decisions are known here."""
        ...

    def rows(self, move: str, table: str, place: int, numbers: Mapping[str, int], arrays: Mapping[str, Array]) -> None:
        """Take a stretch of the rows of a table, which are counted from 0; the first has everything else of it."""
        ...

    def delta(self, move: str, sequence: int, part: Part) -> None:
        """Take a step that was applied since."""
        ...

    def prepared(self, move: str, place: int, transaction: Transaction, attempt: int, part: Part) -> None:
        """Take what a transaction had brought for the buckets; these are counted from 0."""
        ...

    def end(self, move: str, buckets: BucketMap) -> None:
        """Own the buckets from now on; may be told again."""
        ...

    def abort(self, move: str) -> None:
        """Forget a move."""
        ...


@dataclass(slots=True)
class _Arrival:
    mask: Mask
    applied: int
    chunks: dict[str, dict[int, tuple[Mapping[str, int], Mapping[str, Array]]]] = field(default_factory=dict)
    holding: Holding | None = None
    prepared: dict[int, tuple[Transaction, int, Part]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A call whose answer was lost may still be at work when it comes again."""


class Arrivals:
    """Takes buckets over.

    Args:
        server: The target.

    Thread-safety: any thread; the calls of one move come one after another, but for those that arrive twice.
    """

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self._open: dict[str, _Arrival] = {}
        self._ended: set[str] = set()

    def begin(self, move: str, mask: Mask, applied: int) -> int:
        """See `Peer`."""
        with self._server.state:
            self._open.setdefault(move, _Arrival(mask, applied))
            known = self._server.prepared.known_since
            return self._server.applied if known is None else known

    def rows(self, move: str, table: str, place: int, numbers: Mapping[str, int], arrays: Mapping[str, Array]) -> None:
        """See `Peer`."""
        arrival = self._find(move)
        with arrival.lock:
            if arrival.holding is None:
                arrival.chunks.setdefault(table, {})[place] = (numbers, arrays)

    def delta(self, move: str, sequence: int, part: Part) -> None:
        """See `Peer`."""
        arrival = self._find(move)
        with arrival.lock:
            holding = self._holding(arrival)
            if sequence > holding.applied:
                holding.take(part, sequence)

    def prepared(self, move: str, place: int, transaction: Transaction, attempt: int, part: Part) -> None:
        """See `Peer`."""
        self._find(move).prepared[place] = (transaction, attempt, part)

    def end(self, move: str, buckets: BucketMap) -> None:
        """See `Peer`."""
        server = self._server
        with server.order:
            if move in self._ended:
                return
            arrival = self._find(move)
            prepared = [arrival.prepared[place] for place in sorted(arrival.prepared)]
            with arrival.lock:
                holding = self._holding(arrival)
            with server.state:
                recent = server.prepared.applied_since(holding.applied)
            for sequence, transactions in recent:  # steps that this server has taken already, and its source not yet
                came = [part for wanted in transactions for one, _, part in prepared if one == wanted]
                holding.take(summed(came, server.dims), sequence)
            with server.state:
                for transaction, attempt, part in prepared:
                    server.prepared.adopt(transaction, attempt, part)
                server.hold([*server.holdings, holding])
                server.map = buckets if buckets.version > server.map.version else server.map
                self._ended.add(move)
                del self._open[move]
                server.state.notify_all()

    def abort(self, move: str) -> None:
        """See `Peer`."""
        self._open.pop(move, None)

    def stop(self) -> None:
        """Forget all moves."""
        self._open.clear()

    def _find(self, move: str) -> _Arrival:
        found = self._open.get(move)
        if found is None:
            raise ClusterError(f"Table server {self._server.number}, move {move}", got="unknown",
                               expected="one that has begun", do="Begin it again.")  # fmt: skip
        return found

    def _holding(self, arrival: _Arrival) -> Holding:
        """Return what has arrived, as tables. REQUIRES: the arrival's lock is held."""
        if arrival.holding is None:
            chunks = {name: [some[place] for place in sorted(some)] for name, some in arrival.chunks.items()}
            tables = {name: table_from(config, parts_of_chunks(chunks.get(name, [])))
                      for name, config in self._server.configs.items()}  # fmt: skip
            arrival.chunks.clear()
            arrival.holding = Holding(arrival.mask, tables, arrival.applied)
        return arrival.holding
