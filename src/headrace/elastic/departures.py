"""Buckets that go to another server while everybody learns on: the source's side of a move.

1. The tables are frozen between two steps (their files are written beside learning), and the rows of the buckets are
   sent; meanwhile every step applied here is noted.
2. What was noted is sent and taken there, until little is left.
3. Between two steps the source gives the buckets up and makes the next map: from here on it refuses whoever comes with
   the old one. The last steps, and the gradients that are prepared and not yet applied, are sent.
4. The target owns the buckets, takes the steps that it was ahead, and answers.

Until 3 anything may fail and nothing has happened. Between 3 and 4 (milliseconds) callers for these buckets are refused
at both and ask again. If the target dies there, the buckets are lost and a checkpoint has to be restored, as whenever a
server dies.

Of what is counted (`admitted`, say) an id that is new while its bucket is on its way counts at both servers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from headrace.config import require
from headrace.elastic.arrivals import Peer
from headrace.elastic.buckets import BucketMap, Mask, mask_of
from headrace.elastic.holdings import Frozen, Holding, chunks_of, joined, part_of, table_from
from headrace.elastic.prepared import Moved
from headrace.elastic.server_parts import OwnServer
from headrace.elastic.transactions import Part
from headrace.errors import HeadraceError, StoreError, WorkerLost
from headrace.store.parts import TableParts

FRAME_BYTES = 32 << 20
FEW = 2
"""Noted steps that are sent with the hand-over."""
ROUNDS = 100
NOTED_BYTES = 1 << 30
PAUSE_S = 0.001


class Departures:
    """Gives buckets away, and puts a server's holdings in order.

    Args:
        server: The source.

    Attributes:
        busy: Whether a move or a tidying is under way; one at a time.

    Thread-safety: any thread.
    """

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self._one = threading.Lock()
        self._mask: Mask | None = None
        self._noted: deque[tuple[int, Part]] = deque()
        self._noted_bytes = self._moves = 0

    @property
    def busy(self) -> bool:
        """Whether a move or a tidying is under way."""
        return self._one.locked()

    def log(self, sequence: int, total: Part) -> None:
        """Note a step that was applied. REQUIRES: the server's `order` is held."""
        if self._mask is not None:
            part = total.split(self._mask)[0]
            self._noted.append((sequence, part))
            self._noted_bytes += part.nbytes

    def stop(self) -> None:
        """Note no more. REQUIRES: the server's `order` is held."""
        self._mask = None
        self._noted.clear()
        self._noted_bytes = 0

    def move(self, buckets: Sequence[int], target: int, peer: Peer) -> BucketMap:
        """Give buckets to another server; returns the new map when they are there.

        Args:
            buckets: All owned here.
            target: Number of the other server.
            peer: The way to it.

        Raises:
            StaleError: If a bucket is not here.
            StoreError: If learning is faster than the target, so that it would never catch up; nothing has changed.
            WorkerLost: If the target is lost; nothing has changed, unless the message says so. A target that fails
                after the buckets were given up, in whatever way, counts as lost.
        """
        server, mask = self._server, mask_of(buckets)
        require(target != server.number, "target", got=target, expected="another server")
        with self._one:
            self._moves += 1
            name = f"{server.number}-{target}-{self._moves}-{time.time_ns()}"
            try:
                frozen, applied = self._freeze(mask, counted=False)
                known = peer.begin(name, mask, applied)
                for table, parts in frozen():
                    for place, (numbers, arrays) in enumerate(chunks_of(parts, FRAME_BYTES)):
                        peer.rows(name, table, place, numbers, arrays)
                self._catch_up(lambda sequence, part: peer.delta(name, sequence, part), known)
                last, prepared, after = self._give_up(mask, target)
            except BaseException:
                with server.order:
                    self.stop()
                _quietly(lambda: peer.abort(name))
                raise
            try:
                for sequence, part in last:
                    peer.delta(name, sequence, part)
                for place, (transaction, attempt, part) in enumerate(prepared):
                    peer.prepared(name, place, transaction, attempt, part)
                peer.end(name, after)
            except HeadraceError as error:
                raise WorkerLost(f"Move of {int(mask.sum())} buckets to server {target}", got=str(error),
                                 expected="an answer after they were given up",
                                 do="Restore the newest checkpoint on all servers.") from error  # fmt: skip
        return after

    def tidy(self) -> bool:
        """Make one holding of all, without rows that have moved away; learning goes on. Returns whether it did."""
        server = self._server
        with self._one:
            with server.state:
                if not server.holdings or (len(server.holdings) == 1 and not server.holdings[0].dirty):
                    return False
                before = server.holdings
            union = np.logical_or.reduce([one.mask for one in before])
            try:
                frozen, applied = self._freeze(union, counted=True)
                tables = {name: table_from(server.configs[name], parts) for name, parts in frozen()}
                one = Holding(union, tables, applied)
                self._catch_up(lambda sequence, part: one.take(part, sequence), 0)
                with server.order:
                    self._require_noted()
                    for sequence, part in self._noted:
                        one.take(part, sequence)
                    self.stop()
                    with server.state:
                        later = [other for other in server.holdings if all(other is not known for known in before)]
                        server.hold([one, *later])
            except BaseException:
                with server.order:
                    self.stop()
                raise
        return True

    def _freeze(self, mask: Mask, *, counted: bool) -> tuple[Callable[[], list[tuple[str, TableParts]]], int]:
        """Begin to note steps, and return how to read the buckets' tables as they are now, and the last step."""
        server, end = self._server, time.monotonic() + self._server.wait_s
        while True:
            self._in_time(end)
            with server.order:
                with server.state:
                    server.require_whole()
                    server.require_own(mask)
                    applied, holdings = server.applied, [one for one in server.holdings if (one.mask & mask).any()]
                if all(one.applied == applied for one in holdings):
                    self.stop()
                    frozen = {name: [(one.mask & mask, Frozen(one.tables[name], server.folder)) for one in holdings]
                              for name in server.configs}  # fmt: skip
                    self._mask = mask
                    break
            time.sleep(PAUSE_S)

        def read() -> list[tuple[str, TableParts]]:
            return [
                (name, joined([part_of(one.parts(), share, counted=counted) for share, one in some]))
                for name, some in frozen.items()
            ]

        return read, applied

    def _in_time(self, end: float) -> None:
        """Raise StoreError where buckets that came lately are ahead for too long: steps do not reach this server."""
        if time.monotonic() > end:
            raise StoreError(f"Table server {self._server.number}, move", got=f"step {self._server.applied}",
                             expected="the step of buckets that came here",
                             do="Nothing has changed. Try again.")  # fmt: skip

    def _require_noted(self) -> None:
        """Raise StoreError if the server was restored since `_freeze`. REQUIRES: the server's `order` is held."""
        if self._mask is None:
            raise StoreError(f"Table server {self._server.number}, move", got="a restore", expected="no restore")

    def _catch_up(self, send: Callable[[int, Part], object], known: int) -> None:
        """Send noted steps until few are left, and until a step is reached from which the target knows decisions."""
        server = self._server
        for _ in range(ROUNDS):
            with server.order:
                self._require_noted()
                if len(self._noted) <= FEW and server.applied >= known:
                    return
                entries = [*self._noted]
                self._noted.clear()
                self._noted_bytes = 0
            for sequence, part in entries:
                send(sequence, part)
            if not entries:
                time.sleep(PAUSE_S)
            if self._noted_bytes > NOTED_BYTES:
                break
        raise StoreError(f"Table server {server.number}, move", got=f"{len(self._noted)} steps not taken there yet",
                         expected=f"at most {FEW}", do="Nothing has changed. Move fewer buckets at once.")  # fmt: skip

    def _give_up(self, mask: Mask, target: int) -> tuple[list[tuple[int, Part]], list[Moved], BucketMap]:
        """Stop owning the buckets; return the last steps, what was prepared for them, and the next map."""
        server, end = self._server, time.monotonic() + self._server.wait_s
        while True:
            self._in_time(end)
            with server.order, server.state:
                server.require_whole()
                self._require_noted()
                touched = [one for one in server.holdings if (one.mask & mask).any()]
                if all(one.applied == server.applied for one in touched):
                    last = [*self._noted]
                    self.stop()
                    prepared = server.prepared.give_up(mask)
                    for one in touched:
                        one.mask, one.dirty = one.mask & ~mask, True
                    server.hold(server.holdings)
                    server.map = server.map.moved(np.flatnonzero(mask).tolist(), target)
                    server.state.notify_all()
                    return last, prepared, server.map
            time.sleep(PAUSE_S)


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(HeadraceError):  # the error that led here is the one to tell
        call()
