"""Who takes part in a run, and how it ends: what the hearts of runs of either mode have in common."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from headrace.elastic.membership import Membership
from headrace.errors import HeadraceError
from headrace.runtime.controller import Controller


class Attendance(ABC):
    """Members, the lock over everything that is decided of them, and the end.

    Args:
        members: Who takes part; epochs.
        controller: Told of members.
        committed: The newest committed step.

    Attributes:
        turn: The lock over everything, and the news of a change.
        failed: What ended the run.
        ended: Whether everything is learned.

    Thread-safety: every method may be called from any thread; those that wait hold no lock meanwhile.
    """

    def __init__(self, members: Membership, controller: Controller, committed: int) -> None:
        self.members, self.controller, self.committed = members, controller, committed
        self.turn = threading.Condition(threading.RLock())
        self.failed: HeadraceError | None = None
        self.ended = False

    @abstractmethod
    def gone(self, worker: str) -> None:
        """Forget what belonged to a worker that is no member any more. REQUIRES: `turn` is held."""

    @abstractmethod
    def is_news(self, epoch: int) -> bool:
        """Return whether something has happened that a worker of this epoch has to hear. REQUIRES: `turn` is held."""

    def join(self, worker: str, told: Mapping[str, Any], now: float) -> None:
        """Make a worker a member, from this time on. REQUIRES: `turn` is held."""
        self.members.join(worker, told, now)
        self.controller.join(worker, "worker", now)

    def left(self, worker: str, reason: str) -> None:
        """Note that a worker is gone."""
        with self.turn:
            now = time.monotonic()
            if worker in self.members:
                self.members.leave(worker, reason, now)
                self.controller.leave(worker, now, reason)
                self.gone(worker)

    def wait_for_change(self, epoch: int, timeout_s: float) -> int:
        """Return the epoch of the members, at once where there is news or the run has ended, else after a time."""
        with self.turn:
            self.turn.wait_for(lambda: self.is_news(epoch) or self.ended or self.failed is not None, timeout_s)
            return self.members.epoch

    def fail(self, error: HeadraceError) -> None:
        """End the run with an error."""
        with self.turn:
            self.failed = self.failed or error
            self.turn.notify_all()

    def _raise_failure(self) -> None:
        if self.failed is not None:
            raise self.failed
