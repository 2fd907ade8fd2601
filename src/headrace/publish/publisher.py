"""Publishers: changes become durable, numbered and ordered, and from time to time one full snapshot."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.config import require
from headrace.data.log import EmbeddedLog
from headrace.errors import StaleError, StoreError
from headrace.publish.change_log import ChangeLog
from headrace.publish.snapshots import Snapshots, fold
from headrace.types import Change, Version

_log = logging.getLogger(__name__)
IDLE_S = 0.005
TRIM_EVERY = 16


class ChangeReader:
    """The published versions as a replica reads them, in any process; never writes.

    Args:
        log: The log that the publisher writes.
        snapshots: The publisher's folder of snapshots.
        topic: The publisher's topic.
    """

    def __init__(self, log: EmbeddedLog, snapshots: Path, *, topic: str = "changes") -> None:
        self.changes = ChangeLog(log, topic)
        self.snapshots = Snapshots(snapshots)

    def last(self) -> Version:
        """Return the newest durable version; number -1 when there is none."""
        return self.changes.last()

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the changes after version `number`, oldest first.

        Raises:
            StaleError: If they are no longer kept one by one; `snapshot` holds their effect.
        """
        return self.changes.read_since(number)

    def snapshot(self) -> Change | None:
        """Return the newest whole snapshot as a full change, or None."""
        return self.snapshots.newest()

    def published_at(self) -> int:
        """Return the wall-clock µs at which the newest version became durable; 0 when there is none."""
        return self.changes.published_at()


class LogPublisher:
    """The `Publisher` on the embedded log, with full snapshots beside it.

    `publish` returns when the change is in the log; whoever follows the log sees it then, before a snapshot is made.
    Every `snapshot_every` versions the newest snapshot and the changes after it are merged into the next one. The log
    is trimmed only before the oldest snapshot that is kept, so a replica that loaded any of the kept snapshots finds
    every change after it.

    Args:
        log: Where the changes go.
        snapshots: Folder of the snapshots.
        topic: Topic of the changes.
        snapshot_every: Versions between two snapshots; a replica that starts applies at most that many changes.
        keep: Snapshots kept. Two: if one file is damaged, the older one and the log still give every version.

    Cost: a snapshot reads and writes every row once; it happens inside the `publish` that makes it due, after that
        change is durable.
    """

    def __init__(
        self, log: EmbeddedLog, snapshots: Path, *, topic: str = "changes", snapshot_every: int = 100, keep: int = 2
    ) -> None:
        require(snapshot_every >= 1, "snapshot_every", got=snapshot_every, expected="a positive integer")
        self.changes, self.snapshots = ChangeLog(log, topic), Snapshots(snapshots, keep=keep)
        self.snapshot_every = snapshot_every
        self._newest = max(self.snapshots.numbers(), default=-1)
        if self._newest > self.last().number:
            raise StoreError(
                f"Log {log.path}, topic '{topic}'", got=f"version {self.last().number}",
                expected=f"at least {self._newest}, of which {snapshots} has a snapshot",
                do="The log was lost or replaced. Give log and snapshots of the same run, or empty both.",
            )  # fmt: skip

    def publish(self, change: Change) -> Change:
        """Return the change once it is durable; a repeated one is compared and kept once.

        Raises:
            GapError: If its number is not the next one, or its content differs from what has its number.
        """
        if self.changes.append(change):
            self.snapshot_if_due()
        return change

    def last(self) -> Version:
        """Return the newest durable version; number -1 when there is none."""
        return self.changes.last()

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the changes after version `number`, oldest first; StaleError if they were compacted already."""
        return self.changes.read_since(number)

    def snapshot(self) -> Change | None:
        """Return the newest whole snapshot as a full change, or None."""
        return self.snapshots.newest()

    def published_at(self) -> int:
        """Return the wall-clock µs at which the newest version became durable; 0 when there is none."""
        return self.changes.published_at()

    def snapshot_if_due(self) -> bool:
        """Write a snapshot if enough versions have passed, and trim the log; returns whether it did.

        A disk that does not take the snapshot costs a warning and no version: the changes are durable without it, and
        it is tried again at the next version.
        """
        last = self.last().number
        if last < 0 or (self._newest >= 0 and last - self._newest < self.snapshot_every):
            return False
        try:
            self.write_snapshot()
        except OSError as error:
            _log.warning("no snapshot of version %d was written (%s); trying again at the next version", last, error)
            return False
        return True

    def write_snapshot(self) -> None:
        """Write a snapshot of the newest version now, and trim the log before the oldest snapshot kept.

        Raises:
            OSError: If the disk does not take it.
            StaleError: If every snapshot is damaged and the log does not reach back to the beginning.
        """
        base = self.snapshots.newest()
        whole = fold(base, self.read_since(base.version.number if base else -1))
        if whole is None:
            return
        self.snapshots.write(whole)
        numbers = self.snapshots.numbers()
        self._newest = numbers[-1]
        self.changes.trim(numbers[0])


class StagingPublisher:
    """The learner's side when publishing is another process's work: a durable append, and on with learning.

    After a restart the learner regenerates the changes since its manifest; they are compared by (number, checksum)
    with what was staged, also when the relay has taken them away already, and none is appended twice.

    Args:
        log: The log between learner and publisher.
        topic: Its topic.
    """

    def __init__(self, log: EmbeddedLog, *, topic: str = "staged") -> None:
        self.changes = ChangeLog(log, topic)

    def publish(self, change: Change) -> Change:
        """Return the change once it is durable; a repeated one is compared and kept once.

        Raises:
            GapError: If its number is not the next one, or its content differs from what has its number.
        """
        self.changes.append(change)
        return change

    def last(self) -> Version:
        """Return the newest staged version; number -1 when there is none."""
        return self.changes.last()


def relay(
    staged: EmbeddedLog, publisher: LogPublisher, *, topic: str = "staged", stop: Callable[[], bool] = lambda: False,
    idle_s: float = IDLE_S, on_progress: Callable[[Version], None] | None = None,
) -> int:  # fmt: skip
    """Publish what the learner staged, in order and each version once, until the topic is closed and drained.

    The publisher's log says where to go on, so the process may be killed at any instant: a version that was published
    and not yet removed here is recognised. Staged entries are removed once they are published; their checksums stay
    for the learner.

    Args:
        staged: The log that a `StagingPublisher` writes.
        publisher: Who publishes.
        topic: The staged topic.
        stop: Asked before every version and while idle; True ends the loop, and nothing is lost.
        idle_s: Pause when nothing is staged.
        on_progress: Called with every version that was published or recognised.

    Returns:
        How many versions went through.

    Raises:
        StaleError: If versions that the publisher lacks were removed here: its log was lost.
        GapError: If a staged version differs from the published one.
    """
    source, passed = ChangeLog(staged, topic), 0
    following = source.first()
    if following > publisher.last().number + 1:
        raise StaleError(
            f"Published log {publisher.changes.log.path}", got=f"version {publisher.last().number}",
            expected=f"at least {following - 1}, because older staged versions were removed after they were published",
            do="The published log was lost or replaced; restore it from a copy, or begin a new run.",
        )  # fmt: skip
    while not stop():
        before = following
        for change in source.read_since(following - 1):
            publisher.publish(change)
            following, passed = change.version.number + 1, passed + 1
            if on_progress is not None:
                on_progress(change.version)
            if following % TRIM_EVERY == 0:
                source.trim(following)
            if stop():
                break
        if following > source.first():
            source.trim(following)
        if following == before:
            if staged.is_closed(topic) and following > source.last().number:
                break
            time.sleep(idle_s)
    return passed
