"""How the publisher stands beside its versions, durable in the same transactions as the versions themselves.

The invariant of everything here: the newest published version, with the pending changes applied to it, is the learner's
state at the last change that was taken from it. Holding versions back, refusing them and rolling back move content from
one side to the other; nothing is ever dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace.data.log import Transaction
from headrace.errors import GapError, StaleError, VersionError
from headrace.publish.pending import PendingChanges, folded
from headrace.publish.publisher import LogPublisher
from headrace.publish.standing import Standing, standing_name
from headrace.publish.versions import VersionRecord, VersionRecords
from headrace.types import Change, Version

REMEMBER = 1_000_000


class StandingLog:
    """The standing, the pending changes and the records of a versions' log, moved together.

    Args:
        publisher: Who writes versions; nobody else may write to its log.

    Raises:
        VersionError: If versions were published around this class, so that it is not known what they hold.

    Attributes:
        standing: How things stand.
        pending: What waits.
        records: What became of every version.
    """

    def __init__(self, publisher: LogPublisher) -> None:
        self.publisher, changes = publisher, publisher.changes
        self.log, self.topic = changes.log, changes.topic
        self.records, self.pending = VersionRecords(self.log, self.topic), PendingChanges(self.log, self.topic)
        self._name, self._checksums = standing_name(self.topic), f"{self.topic}-staged-checksums"
        self._raw, last = self.log.state(self._name), publisher.last().number
        self.standing = Standing.plain(last) if self._raw is None else Standing.from_bytes(self._raw)
        if self.standing.published != last:
            raise VersionError(
                f"Log {self.log.path}, topic '{self.topic}'", got=f"version {last} as the newest one",
                expected=f"version {self.standing.published}, as the publisher left it",
                do="Something else published into this log. Restore it from a copy, or begin a new run.",
            )  # fmt: skip
        self.pending.load(self.standing.pending_from)

    @property
    def plain(self) -> bool:
        """Whether the learner's numbers are those of the versions, and nothing ever waited."""
        return self._raw is None

    def publish_plain(self, change: Change, record: VersionRecord) -> None:
        """Publish the learner's change as it is; nothing is kept of it but the version and its record."""

        def beside(write: Transaction) -> None:
            self.check_unmoved(write)
            self.records.append(write, record)

        self.publisher.publish(change, beside=beside)
        self.standing = Standing.plain(change.version.number)

    def write(
        self, after: Standing, pieces: Sequence[Change], record: VersionRecord | None = None, *,
        publish: Change | None = None, checksum: bytes | None = None, added: bool = False,
    ) -> None:  # fmt: skip
        """Write everything that belongs to one step in one transaction.

        Args:
            after: How things stand then; what is published and where the pending pieces begin is filled in.
            pieces: What is pending then.
            record: What to remember of the step.
            publish: The version that the step publishes.
            checksum: Of the learner's change that the step takes.
            added: Whether `pieces` are those of before and one more.
        """
        kept = self.pending.pieces
        if added and self.pending.due:
            pieces, added = [folded(pieces, Version(2, 1))], False
        same = not added and len(pieces) == len(kept) and all(one is two for one, two in zip(pieces, kept, strict=True))
        written = after

        def beside(write: Transaction) -> None:
            nonlocal written
            self.check_unmoved(write)
            start = after.pending_from
            if added:
                offset = self.pending.append(write, pieces[-1])
                start = start if kept else offset
            elif not same:
                start = self.pending.replace(write, pieces)
            if checksum is not None:
                write.append_bytes(self._checksums, checksum)
            if record is not None:
                self.records.append(write, record)
            published = after.published if publish is None else publish.version.number
            written = replace(after, pending_from=start, published=published)
            write.put_state(self._name, written.to_bytes())

        if publish is not None:
            self.publisher.publish(publish, beside=beside)
        else:
            with self.log.transaction() as write:
                beside(write)
        self._raw, self.standing = written.to_bytes(), written
        if added:
            self.pending.added(pieces[-1])
        elif not same:
            self.pending.taken(pieces)
        self.pending.trim(written.pending_from)

    def compare(self, change: Change) -> None:
        """Raise unless a change of the learner that was taken before is the same now.

        Raises:
            GapError: If it differs.
            StaleError: If it is too old to be compared.
        """
        number, standing = change.version.number, self.standing
        if number < standing.checked_from:
            if not standing.erasures:  # which rewrite what was published
                self.publisher.changes.append(change)
            return
        try:
            known = self.log.read(self._checksums, number - standing.checked_from, limit=1)[0].payload.hex()
        except StaleError as error:
            raise StaleError(f"The learner's change {number}", got="one too old to be compared",
                             expected=f"one of the newest {REMEMBER}",
                             do="Restore the learner from a newer manifest.") from error  # fmt: skip
        if known != (got := change.checksum()):
            raise GapError(
                f"The learner's change {number}", got=f"content with checksum {got[:16]}",
                expected=f"{known[:16]}, as it was taken before",
                do="The learner did not repeat its steps: it was restored from another run's manifest, reads another "
                "log, or its configuration changed. Start a new run folder for a new run.",
            )  # fmt: skip

    def tidy(self) -> None:
        """Forget the oldest records and checksums, a few at a time."""
        self.records.trim()
        info = self.log.topic(self._checksums)
        forgotten = info.next_offset - REMEMBER
        if forgotten > info.first_offset + REMEMBER // 8:
            self.log.trim(self._checksums, forgotten)

    def check_unmoved(self, write: Transaction | None = None) -> None:
        """Raise MovedError if another process has written the standing."""
        if (self.log if write is None else write).state(self._name) != self._raw:
            raise MovedError(f"Log {self.log.path}", got="another publisher's work", expected="one publisher",
                             do="Stop one of the two.")  # fmt: skip


class MovedError(VersionError):
    """Another process wrote the standing: two publishers work on one log."""
