"""Follows the published versions: a thread that applies what the change log has, and measures how fresh it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from headrace.errors import HeadraceError
from headrace.publish.replica import ChangeSource, Replica
from headrace.serve.freshness import Delays
from headrace.types import Change

_log = logging.getLogger(__name__)
BACKOFF_S = 1.0


class Follower:
    """Keeps a replica at the newest version, from another thread than those that answer requests.

    Versions that were published before this process began are applied and not measured: nobody was served by this
    process in between. From then on every change adds the delays of its events: now minus the `accepted_times` (of
    positives) and `negative_accepted_times` in its notes.

    A version that cannot be applied stops nothing: the replica goes on serving what it has, `error` says why, and it
    is tried again every second.

    Args:
        replica: Who moves.
        source: Where versions come from.
        poll_s: Pause between two looks.
        now: The wall clock in µs.
    """

    def __init__(
        self, replica: Replica, source: ChangeSource, *, poll_s: float = 0.005, now: Callable[[], int] | None = None
    ) -> None:
        self.replica, self.source, self.poll_s = replica, source, poll_s
        self.positives, self.negatives = Delays(), Delays()
        self.applied, self.published, self.error = 0, -1, ""
        self._now = now or (lambda: time.time_ns() // 1000)
        self._steady, self._stop = False, threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Apply what there is, then follow in the background."""
        self.step()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the replica stays where it is."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> bool:
        """Apply what is new; returns False, and keeps the reason in `error`, if that was not possible."""
        try:
            self.published = self.source.last().number
            if self.published != self.replica.version.number:
                self.applied += self.replica.catch_up(self.source, on_applied=self._measure)
        except HeadraceError as error:
            if str(error) != self.error:
                self.error = str(error)
                _log.error("still serving version %d: %s", self.replica.version.number, error)
            return False
        if self.error:
            _log.warning("following again, at version %d", self.replica.version.number)
            self.error = ""
        self._steady = True
        return True

    @property
    def lag(self) -> int:
        """Published versions that are not served yet."""
        return max(self.published - self.replica.version.number, 0)

    def _run(self) -> None:
        while not self._stop.wait(self.poll_s if not self.error else BACKOFF_S):
            try:
                self.step()
            except Exception as error:  # noqa: BLE001  an unknown failure must not end the following for ever
                _log.exception("could not follow the change log")
                self.error = f"{type(error).__name__}: {error}"

    def _measure(self, change: Change) -> None:
        if not self._steady:
            return
        now = self._now()
        for name, delays in (("accepted_times", self.positives), ("negative_accepted_times", self.negatives)):
            times = change.notes.get(name)
            if times is not None:
                known = times[times > 0].numpy()
                delays.add((now - known).astype(np.float64) / 1e6)
