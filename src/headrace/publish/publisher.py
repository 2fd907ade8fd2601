"""Publishers: changes become durable, numbered and ordered, and from time to time one full snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.data.log import EmbeddedLog, Transaction
from headrace.publish.acknowledgements import Acknowledgements
from headrace.publish.change_log import ChangeLog
from headrace.publish.compaction import Compactor
from headrace.publish.retention import Retention
from headrace.publish.snapshots import Snapshots
from headrace.publish.standing import Standing, read_standing
from headrace.types import Change, Version


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

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which a version (None: the newest) became durable; 0 when that is unknown."""
        return self.changes.published_at(number)

    def standing(self) -> Standing:
        """Return how the publisher stands beside its versions: on hold or not, what is pending, what was refused."""
        return read_standing(self.changes.log, self.changes.topic)


class LogPublisher:
    """The `Publisher` on the embedded log, with full snapshots beside it.

    `publish` returns when the change is in the log; whoever follows the log sees it then, before a snapshot is made.
    Every `snapshot_every` versions the newest snapshot and the changes after it are merged into the next one. The log
    is trimmed only before the oldest snapshot that is kept, so a replica that loaded any of the kept snapshots finds
    every change after it; and it is kept for longer, up to the bounds of `retention`, for a replica that is slow.

    Args:
        log: Where the changes go.
        snapshots: Folder of the snapshots.
        topic: Topic of the changes.
        snapshot_every: Versions between two snapshots; a replica that starts applies at most that many changes.
        keep: Snapshots kept. Two: if one file is damaged, the older one and the log still give every version.
        retention: How much of the log is kept for slow replicas.
        acknowledgements: Where replicas say what they hold; None: nothing is kept for slow ones.
        behind: Write snapshots and trim in a thread of this publisher, so that no `publish` waits for them; `close`
            ends it. False: inside the `publish` that makes them due, after its change is durable.

    Cost: a snapshot reads and writes every row once.
    """

    def __init__(
        self, log: EmbeddedLog, snapshots: Path, *, topic: str = "changes", snapshot_every: int = 100, keep: int = 2,
        retention: Retention | None = None, acknowledgements: Acknowledgements | None = None, behind: bool = False,
    ) -> None:  # fmt: skip
        self.changes, self.snapshots = ChangeLog(log, topic), Snapshots(snapshots, keep=keep)
        apart = ChangeLog(EmbeddedLog(log.path, durability=log.durability), topic) if behind else self.changes
        self.compactor = Compactor(
            apart, self.snapshots, every=snapshot_every, retention=retention, acknowledgements=acknowledgements
        )
        self._behind = behind
        if behind:
            self.compactor.start()

    def publish(self, change: Change, *, beside: Callable[[Transaction], None] | None = None) -> Change:
        """Return the change once it is durable; a repeated one is compared and kept once.

        Args:
            change: The next change, or a repeated one.
            beside: Called in the transaction that publishes it; see `ChangeLog.append`.

        Raises:
            GapError: If its number is not the next one, or its content differs from what has its number.
        """
        if self.changes.append(change, beside=beside):
            if self._behind:
                self.compactor.wake()
            else:
                self.compactor.if_due()
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

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which a version (None: the newest) became durable; 0 when that is unknown."""
        return self.changes.published_at(number)

    def snapshot_if_due(self) -> bool:
        """Write a snapshot if enough versions have passed, and trim the log; returns whether it did.

        A disk that does not take the snapshot costs a warning and no version: the changes are durable without it, and
        it is tried again at the next version.
        """
        return self.compactor.if_due()

    def write_snapshot(self) -> None:
        """Write a snapshot of the newest version now, and trim the log.

        Raises:
            OSError: If the disk does not take it.
            StaleError: If every snapshot is damaged and the log does not reach back to the beginning.
        """
        self.compactor.write()

    def close(self) -> None:
        """End the thread that writes snapshots, after the one it is writing; the log stays open."""
        self.compactor.stop()
        if self._behind:
            self.compactor.changes.log.close()


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
