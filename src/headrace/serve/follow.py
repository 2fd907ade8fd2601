"""Follows the published versions: a thread that applies what the change log has, and measures how fresh it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from headrace.errors import HeadraceError, VersionError
from headrace.publish.acknowledgements import Acknowledger, ReplicaLag, lags, plain
from headrace.publish.replica import ChangeSource, Replica
from headrace.runtime import thread_steps_back
from headrace.serve.freshness import Delays
from headrace.serve.metrics import Reading
from headrace.serve.standing import standing_facts, standing_gauges
from headrace.types import Change

_log = logging.getLogger(__name__)
BACKOFF_S = 1.0
NICENESS = 5
"""How far following steps back where other processes answer from the version before until the next one is whole."""


class Follower:
    """Keeps a replica at the newest version, from another thread than those that answer requests.

    Versions that were published before this process began are applied and not measured: nobody was served by this
    process in between. From then on every change adds the delays of its events: now minus the `accepted_times` (of
    positives) and `negative_accepted_times` in its notes.

    A version that cannot be applied stops nothing: the replica goes on serving what it has, `error` says why, and it
    is tried again every second.

    What was applied is acknowledged, so that the publisher keeps the changes that are still needed here and everybody
    can see how far behind this replica is.

    Args:
        replica: Who moves.
        source: Where versions come from.
        poll_s: Pause between two looks.
        now: The wall clock in µs.
        acknowledger: Tells the publisher which version is held; None: nobody is told.
    """

    def __init__(
        self, replica: Replica, source: ChangeSource, *, poll_s: float = 0.005, now: Callable[[], int] | None = None,
        acknowledger: Acknowledger | None = None,
    ) -> None:  # fmt: skip
        self.replica, self.source, self.poll_s, self.acknowledger = replica, source, poll_s, acknowledger
        self.positives, self.negatives = Delays(), Delays()
        self.applied, self.published, self.error = 0, -1, ""
        self._now = now or (lambda: time.time_ns() // 1000)
        self._steady, self._stop, self._behind_since = False, threading.Event(), 0
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
        if self.acknowledger is not None:
            self.acknowledger.tell(self.replica.version, final=True)

    def step(self) -> bool:
        """Apply what is new; returns False, and keeps the reason in `error`, if that was not possible."""
        try:
            return self._step()
        finally:
            if self.lag == 0:
                self._behind_since = 0
            if self.acknowledger is not None:
                self.acknowledger.tell(self.replica.version)

    def _step(self) -> bool:
        try:
            self.published, held = self.source.last().number, self.replica.version.number
            if self.published < held:
                raise VersionError("Published versions", got=f"version {self.published} as the newest",
                                   expected=f"at least {held}, which is served here",
                                   do="Was the log restored from an older copy? Then restart this server.")  # fmt: skip
            if self.published != held:
                self._behind_since = self._behind_since or self._now()
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

    @property
    def lag_s(self) -> float:
        """For how long there has been a published version that is not served yet; 0 when there is none."""
        since = self._behind_since
        return max(self._now() - since, 0) / 1e6 if since and self.lag else 0.0

    def replicas(self) -> list[ReplicaLag]:
        """Return how far every replica of the run is behind, this one among them, as they acknowledged it."""
        if self.acknowledger is None:
            return []
        try:
            return lags(self.acknowledger.where.newest(), self.source, self._now())
        except HeadraceError as error:
            _log.warning("the acknowledgements of other replicas cannot be read: %s", error)
            return []

    def health(self) -> dict[str, object]:
        """Return where the replica stands, as plain values."""
        facts: dict[str, object] = {
            "published": self.published, "lag_versions": self.lag, "lag_s": round(self.lag_s, 3),
        }  # fmt: skip
        facts |= standing_facts(self.source)
        if self.acknowledger is not None:
            facts["replica"] = self.acknowledger.replica
            facts["replicas"] = {lag.replica: plain(lag) for lag in self.replicas()}
        return facts

    def gauges(self) -> Iterator[Reading]:
        """Yield what Prometheus is told about this replica and the others."""
        yield "headrace_following", "1 unless the newest look for versions failed.", [({}, float(not self.error))]
        yield "headrace_version_lag", "Published versions not served yet.", [({}, float(self.lag))]
        yield "headrace_version_lag_seconds", "For how long there has been such a version.", [({}, self.lag_s)]
        yield from standing_gauges(self.source)
        known = self.replicas()
        if known:
            yield ("headrace_replica_lag_versions", "Published versions that a replica has not acknowledged.",
                   [({"replica": lag.replica}, float(lag.versions)) for lag in known])  # fmt: skip
            yield ("headrace_replica_lag_seconds", "For how long the oldest of them has been published.",
                   [({"replica": lag.replica}, lag.seconds) for lag in known])  # fmt: skip

    def _run(self) -> None:
        if not self.replica.waited_for:
            thread_steps_back(NICENESS)
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
