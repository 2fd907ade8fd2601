"""Keeps the change log short: full snapshots from time to time, and the changes before them dropped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.config import require
from headrace.errors import HeadraceError, StoreError
from headrace.publish.acknowledgements import Acknowledgements
from headrace.publish.change_log import ChangeLog
from headrace.publish.retention import Retention, kept_from, remembered
from headrace.publish.snapshots import Snapshots, fold

_log = logging.getLogger(__name__)
TRIM_CHANGES = 4
"""Changes dropped in one transaction: a publisher waits for one of them at most."""
TRIM_EVERY_S = 10.0
PAUSE_SHARE = 3.0
"""Pause after a transaction, in its own durations: a publisher that wants to write finds the log free at most times."""


class Compactor:
    """Writes snapshots of a change log and trims it, at once or in a thread beside whoever publishes.

    The changes are durable before a snapshot of them is begun, and the log is trimmed only after the snapshot is, so
    a process killed at any instant leaves a log and snapshots from which every kept version can be had.

    Args:
        changes: The log. With `start`, one of its own connections: the publisher's then never waits for its reads.
        snapshots: Where snapshots go; nobody else writes there.
        every: Versions between two snapshots.
        retention: How much of the log is kept for slow replicas.
        acknowledgements: What replicas said; None: the log is kept for none but from the oldest snapshot on.

    Raises:
        ConfigError: If `every` is below 1.
        StoreError: If there is a snapshot of a version that the log does not have.

    Cost: a snapshot reads and writes every row once.
    """

    def __init__(
        self, changes: ChangeLog, snapshots: Snapshots, *, every: int, retention: Retention | None = None,
        acknowledgements: Acknowledgements | None = None,
    ) -> None:  # fmt: skip
        require(every >= 1, "snapshot_every", got=every, expected="a positive integer")
        self.changes, self.snapshots, self.every = changes, snapshots, every
        self.retention, self.acknowledgements = retention or Retention(), acknowledgements
        self.newest = max(snapshots.numbers(), default=-1)
        last = changes.last().number
        if self.newest > last:
            raise StoreError(
                f"Log {changes.log.path}, topic '{changes.topic}'", got=f"version {last}",
                expected=f"at least {self.newest}, of which {snapshots.folder} has a snapshot",
                do="The log was lost or replaced. Give log and snapshots of the same run, or empty both.",
            )  # fmt: skip
        self._busy, self._wake, self._ended, self._failed = threading.RLock(), threading.Event(), False, ""
        self._thread: threading.Thread | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep snapshots and trimming out for the length of the block, for whoever rewrites log or snapshots."""
        with self._busy:
            yield

    def if_due(self) -> bool:
        """Write a snapshot if enough versions have passed; returns whether it did.

        A disk that does not take the snapshot, or a log from which none can be made, costs a warning and no version:
        the changes are durable without it, and it is tried again at the next version.
        """
        last = self.changes.last().number
        if last < 0 or (self.newest >= 0 and last - self.newest < self.every):
            return False
        try:
            self.write()
        except (OSError, HeadraceError) as error:
            if str(error) != self._failed:  # once, not at every version
                self._failed = str(error)
                _log.warning(
                    "no snapshot of version %d was written (%s); trying again at the next version", last, error
                )
            return False
        self._failed = ""
        return True

    def write(self) -> None:
        """Write a snapshot of the newest version now, then trim.

        Raises:
            OSError: If the disk does not take it.
            StaleError: If every snapshot is damaged and the log does not reach back to the beginning.
        """
        with self._busy:
            base = self.snapshots.newest()
            whole = fold(base, self.changes.read_since(base.version.number if base else -1))
            if whole is None:
                return
            self.snapshots.write(whole)
            self.newest = whole.version.number
            self.trim()

    def trim(self) -> int:
        """Drop the changes that no snapshot and no replica needs, a few at a time; returns how many."""
        with self._busy:
            numbers = self.snapshots.numbers()
            if not numbers:
                return 0
            where = self.acknowledgements
            told = {} if where is None else remembered(where, self.retention.forget_after_s)
            before, first = kept_from(self.changes, numbers[0], told, self.retention), self.changes.first()
            dropped = 0
            for end in range(min(first + TRIM_CHANGES, before), before + TRIM_CHANGES, TRIM_CHANGES):
                if min(end, before) > first:
                    began = time.monotonic()
                    dropped += self.changes.trim(min(end, before))
                    if self._thread is not None:
                        time.sleep(PAUSE_SHARE * (time.monotonic() - began))
            return dropped

    def start(self) -> None:
        """Work in a thread from now on; `wake` tells it that there is a new version."""
        self._wake.set()  # one may have been due when an earlier process ended
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look whether a snapshot is due; returns at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread, after the snapshot that it is writing."""
        self._ended = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._ended:
            told = self._wake.wait(TRIM_EVERY_S)
            self._wake.clear()
            try:
                if not self.if_due() and not told:
                    self.trim()  # replicas have moved on since the last snapshot
            except HeadraceError as error:
                _log.error("the change log could not be compacted and goes on growing: %s", error)
            except Exception:  # noqa: BLE001  an unknown failure must not end the compaction for ever
                _log.exception("the change log could not be compacted and goes on growing")
