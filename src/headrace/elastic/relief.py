"""Slow or hot table servers, as the head sees them: it tells the controller how fast they answer, and moves buckets."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from headrace.elastic.buckets import relief_plan
from headrace.elastic.directory import carry_out
from headrace.elastic.server_side import ServerSide
from headrace.errors import HeadraceError, StaleError
from headrace.runtime.actions import MoveBuckets
from headrace.runtime.controller import Controller

_log = logging.getLogger(__name__)
EVERY_S = 0.2


class Relief:
    """Asks servers how busy they were, five times a second, and carries out `MoveBuckets` in a thread of its own.

    Args:
        servers: The table servers.
        controller: Told of look-ups; decides.
        turn: The lock under which the controller is called.
        every_s: Seconds between two questions.
        lost: Called when buckets are nobody's: a move broke off in its last milliseconds, and only a checkpoint has
            what they held.

    Thread-safety: one thread, its own once it is started.
    """

    def __init__(
        self, servers: ServerSide, controller: Controller, turn: Callable[[], AbstractContextManager[Any]], *,
        every_s: float = EVERY_S, lost: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._servers, self._controller, self._turn, self._every_s = servers, controller, turn, every_s
        self._lost, self._missed = lost, 0
        self._seen: dict[str, tuple[int, int, float]] = {}
        self._orders: list[MoveBuckets] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relief", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a move under way is finished first."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(30.0)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            if not self._servers.ready:
                self._seen.clear()
                continue
            try:
                self.look()
                self.relieve()
            except HeadraceError as error:  # a server that is gone: whoever waits for it says so
                _log.info("servers: %s", error)
            except Exception:  # noqa: BLE001 - whatever it is, servers must not go unwatched from now on
                _log.exception("servers")

    def look(self) -> None:
        """Tell the controller how fast each server has answered since the last time; see that all buckets are there."""
        told = [known for known in self._servers.stats() if "busy_s" in known]
        self._compare(told)
        for known in told:
            name, count = str(known["name"]), int(known["lookups"])
            rows, seconds = int(known["rows"]), float(known["busy_s"])
            before = self._seen.get(name)
            self._seen[name] = (count, rows, seconds)
            with self._turn():
                if name not in self._controller.monitor.nodes("server"):
                    self._controller.join(name, "server", time.monotonic())
                if before is not None and count > before[0]:  # the mean look-up
                    times = count - before[0]
                    mean_rows = max(round((rows - before[1]) / times), 1)
                    self._controller.record_requests(name, mean_rows, (seconds - before[2]) / times)
        with self._turn():
            self._orders += [order for order in self._controller.orders(MoveBuckets) if isinstance(order, MoveBuckets)]

    def _compare(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Learn of a move that worked though its answer was lost, and notice buckets that no server has."""
        record, directory = self._servers.record, self._servers.directory
        newest = max(told, key=lambda known: int(known["map"]), default=None)
        if newest is not None and int(newest["map"]) > record.map.version:
            record.moved(self._servers.map_of(int(newest["number"])))
            directory.refresh()
        for known in told:
            if int(known["map"]) < record.map.version:
                with contextlib.suppress(StaleError):  # it lacks buckets: they are counted next
                    directory.client(int(known["number"])).advance(record.map)
        whole = len(told) == len(directory.servers) and not any(known["moving"] for known in told)
        lacks = any(int(known["buckets"]) != int(record.map.mask(int(known["number"])).sum()) for known in told)
        self._missed = self._missed + 1 if whole and lacks else 0
        if self._missed > 1:  # not only between two answers
            self._missed = 0
            _log.warning("buckets are nobody's")
            self._lost()

    def relieve(self) -> None:
        """Carry out the moves that were ordered, one order after another."""
        while self._orders:
            order, worked, began = self._orders.pop(0), False, time.monotonic()
            try:
                moved = self.move({int(name.rpartition("-")[2]): share for name, share in order.shares.items()})
                worked = True
                _log.info("%d buckets moved in %.2f s", moved, time.monotonic() - began)
            except HeadraceError as error:
                _log.warning("moving buckets: %s", error)
            except Exception:  # noqa: BLE001 - the controller waits for an answer, whatever it is
                _log.exception("moving buckets")
            finally:
                with self._turn():
                    self._controller.done(order, time.monotonic(), worked=worked)

    def move(self, shares: dict[int, float]) -> int:
        """Give servers these shares of the load; return how many buckets moved."""
        directory, record = self._servers.directory, self._servers.record
        directory.refresh()
        loads = sum(directory.client(number).bucket_loads() for number in directory.servers)
        moves = relief_plan(loads, record.map, shares)
        try:
            return carry_out(moves, record, directory)
        finally:
            directory.refresh()
