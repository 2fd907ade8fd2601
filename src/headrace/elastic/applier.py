"""Hands committed steps to every table server, in order and in the background; whoever commits keeps one.

A decision is durable with the queue before it comes here, so nothing is lost with this process: a new one asks the
queue what was decided and hands it on again, and servers ignore what they have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from headrace.elastic.directory import Directory
from headrace.elastic.transactions import Transaction
from headrace.errors import ClusterError, HeadraceError, WorkerLost

logger = logging.getLogger(__name__)
PAUSE_S = 0.05
TOGETHER = 64
"""Steps in one call, at most."""


class StepTaker(Protocol):
    """What is told of a step; `ServerClient` is one."""

    def apply_all(self, steps: Sequence[tuple[int, Sequence[Transaction]]], version: int | None = None) -> int:
        """See `ServerClient.apply_all`."""
        ...

    def fence(self, epoch: int, worker: str = "") -> None:
        """See `TableServer.fence`."""
        ...


Told = tuple[int, tuple[Transaction, ...]]
Fence = tuple[int, str]


class _Line(threading.Thread):
    """What one server has still to be told, in order."""

    def __init__(self, applier: Applier, number: int) -> None:
        super().__init__(name=f"apply-{number}", daemon=True)
        self.number, self.waiting = number, list[Told | Fence]()
        self.problem: HeadraceError | None = None
        self._applier, self.stopped = applier, False
        self._version = applier.directory.map.version  # a server that was restored since ignores what we tell

    def run(self) -> None:
        """Tell the server what waits, until stopped."""
        turn = self._applier.turn
        while True:
            with turn:
                turn.wait_for(lambda: self.waiting or self.stopped)
                if self.stopped:
                    return
                some = self.waiting[:TOGETHER]
            try:
                self._tell(some)
            except ClusterError as error:
                # it is restarted or replaced, or the run goes back to a checkpoint: then we are stopped
                logger.info("table server %d: %s", self.number, error)
                time.sleep(PAUSE_S)
                continue
            except HeadraceError as error:
                with turn:
                    self.problem, self.stopped = error, True
                    turn.notify_all()
                logger.error("table server %d: %s", self.number, error)
                return
            with turn:
                del self.waiting[: len(some)]
                turn.notify_all()

    def _tell(self, some: Sequence[Told | Fence]) -> None:
        client, steps = self._applier.directory.client(self.number), list[Told]()
        for item in some:
            if isinstance(item[1], str):
                if steps:
                    client.apply_all(steps, self._version)
                steps = []
                client.fence(item[0], item[1])
            else:
                steps.append((item[0], item[1]))
        if steps:
            client.apply_all(steps, self._version)


class Applier:
    """Tells every server what was committed.

    Args:
        directory: The servers.
        last: The newest step that they all have applied.

    Thread-safety: any thread; steps are told in the order of calls.
    """

    def __init__(self, directory: Directory[StepTaker], last: int = 0) -> None:
        self.directory, self.turn = directory, threading.Condition()
        self._last, self._lines = last, dict[int, _Line]()

    @property
    def last(self) -> int:
        """The newest step committed here."""
        return self._last

    def committed(self, sequence: int, transactions: Sequence[Transaction]) -> None:
        """Hand on a step, which must be durable; returns at once. What is not the next step is ignored if it is old.

        Raises:
            StoreError: If a server has refused an earlier step: it has to be restored.
        """
        with self.turn:
            self._check()
            if sequence <= self._last:
                return
            self._last = sequence
            for line in self._all():
                line.waiting.append((sequence, tuple(transactions)))
            self.turn.notify_all()

    def fence(self, epoch: int, worker: str = "") -> None:
        """Tell the servers, behind all steps committed so far, to refuse older epochs; see `TableServer.fence`."""
        with self.turn:
            for line in self._all():
                line.waiting.append((epoch, worker))
            self.turn.notify_all()

    def resume(self, decided: Iterable[tuple[int, Sequence[Transaction]]]) -> None:
        """Hand on what the queue knows to be decided: after a restart of the head, or a restore."""
        for sequence, transactions in decided:
            self.committed(sequence, transactions)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until every server has been told everything.

        Raises:
            WorkerLost: If one does not answer in time.
            HeadraceError: What a server refused.
        """
        with self.turn:
            quiet = self.turn.wait_for(
                lambda: any(line.problem for line in self._lines.values())
                or not any(line.waiting for line in self._lines.values()), timeout_s)  # fmt: skip
            self._check()
            if not quiet:
                late = [line.number for line in self._lines.values() if line.waiting]
                raise WorkerLost(f"Table servers {late}", got=f"silence for {timeout_s:g} s",
                                 expected=f"step {self._last} applied")  # fmt: skip

    def reset(self, last: int) -> None:
        """Forget everything: the servers were restored to this step. Servers may be others than before."""
        with self.turn:
            for line in self._lines.values():
                line.stopped = True
            self._lines.clear()
            self._last = last
            self.turn.notify_all()

    def close(self) -> None:
        """Stop; what was not told is told by whoever resumes."""
        self.reset(self._last)

    def _check(self) -> None:
        for line in self._lines.values():
            if line.problem is not None:
                raise line.problem

    def _all(self) -> list[_Line]:
        """Return a line for every server, also for one without buckets: those that come to it stand at every step."""
        return [self._line(number) for number in sorted({*self._lines, *self.directory.servers})]

    def _line(self, number: int) -> _Line:
        if number not in self._lines:
            self._lines[number] = _Line(self, number)
            self._lines[number].start()
        return self._lines[number]
