"""Published changes in a durable log, numbered without gaps, each kept once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from headrace.data.log import EmbeddedLog, Transaction
from headrace.errors import ConfigError, CorruptSnapshot, DataError, GapError, StaleError
from headrace.publish.change import decode, encode
from headrace.types import NO_VERSION, Change, Version

READ_CHANGES = 16


class ChangeLog:
    """One topic of changes in which entry number n is version n.

    Beside the changes stands a topic of their checksums, 32 bytes each, written in the same transaction. It outlives
    the changes themselves: a version can still be recognised after its content was compacted into a snapshot.

    Several processes may read while one writes. A second writer is harmless: whatever comes first stands, and the
    other one's change is compared with it.

    Args:
        log: Where the topics live.
        topic: Name of the topic; the checksums go to `<topic>-checksums`.
        remember: How many versions back checksums are kept.

    Raises:
        ConfigError: If something else than a `ChangeLog` wrote to the topic.
    """

    def __init__(self, log: EmbeddedLog, topic: str = "changes", *, remember: int = 1_000_000) -> None:
        self.log, self.topic, self.remember = log, topic, remember
        self.checksums = f"{topic}-checksums"
        ends = {info.name: info.next_offset for info in log.topics()}  # one look at both: a writer may be at work
        changes, sums = ends.get(topic, 0), ends.get(self.checksums, 0)
        if changes != sums:
            raise ConfigError(f"Log {log.path}, topic '{topic}'", got=f"{changes} entries and {sums} checksums",
                              expected="a topic that only a ChangeLog writes", do="Use another name.")  # fmt: skip

    def last(self) -> Version:
        """Return the newest version; number -1 when there is none. Cost: one small query."""
        number = self.log.end(self.topic) - 1
        return Version(number, number - 1) if number >= 0 else Version(NO_VERSION)

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which a version (None: the newest) became durable; 0 when that is unknown."""
        wanted = self.last().number if number is None else number
        try:
            entries = self.log.read(self.checksums, wanted, limit=1) if wanted >= 0 else []
        except (StaleError, DataError):
            return 0  # too old to be remembered, or not there yet
        return entries[0].accepted_time if entries else 0

    def checksum(self, number: int) -> str:
        """Return the checksum of a version's content, also after the change itself was dropped.

        Raises:
            StaleError: If the version is older than `remember` versions.
            DataError: If it is not there yet.
        """
        entries = self.log.read(self.checksums, number, limit=1)
        if not entries:
            raise DataError(f"Topic '{self.topic}', version {number}", got="a version to come",
                            expected=f"at most {self.last().number}")  # fmt: skip
        return entries[0].payload.hex()

    def first_within(self, size: int) -> int:
        """Return the oldest version from which on all changes together take at most `size` bytes."""
        return self.log.offset_within(self.topic, size)

    def append(self, change: Change, *, beside: Callable[[Transaction], None] | None = None) -> bool:
        """Make the change durable, once; returns False if the same change was there already.

        Args:
            change: The next change, or one that was appended before.
            beside: Called in the transaction that appends it, for what has to become durable together with it; if it
                raises, nothing is appended.

        Raises:
            GapError: If the change does not follow the newest one, or if it differs from what has its number.
            StaleError: If it is too old to be compared.
            VersionError: If it breaks the contract of a change.
        """
        number, parent = change.version.number, change.version.parent
        end = self.last().number + 1
        if number < end:
            self._compare(change)
            return False
        if number > end or parent != end - 1:
            raise GapError(f"Change {number} for topic '{self.topic}'", got=f"number {number}, parent {parent}",
                           expected=f"number {end}, parent {end - 1}", do=self._advice(end))  # fmt: skip
        payload, checksum = encode(change), bytes.fromhex(change.checksum())
        try:
            with self.log.transaction() as write:
                if write.append_bytes(self.checksums, checksum) != number:
                    raise _SomebodyElseWasFirst
                write.append_bytes(self.topic, payload)
                if beside is not None:
                    beside(write)
        except _SomebodyElseWasFirst:
            return self.append(change, beside=beside)
        return True

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the changes after version `number`, oldest first, up to the newest at the time it is reached.

        Raises:
            StaleError: If the first of them was trimmed; a snapshot holds its effect.
            DataError: If `number` lies beyond the newest version.
            CorruptSnapshot: If an entry is damaged.
        """
        following = number + 1
        while entries := self.log.read(self.topic, following, limit=READ_CHANGES):
            for entry in entries:
                change = decode(entry.payload)
                if change.version.number != entry.offset:
                    raise CorruptSnapshot(
                        f"Topic '{self.topic}', entry {entry.offset}", got=f"version {change.version.number}",
                        expected="the entry's number", do="Something else wrote to the topic.",
                    )  # fmt: skip
                yield change
            following = entries[-1].offset + 1

    def first(self) -> int:
        """Return the number of the oldest change kept; the next number if none is."""
        return self.log.topic(self.topic).first_offset

    def trim(self, before: int) -> int:
        """Drop the changes before version `before` and return how many; checksums stay for `remember` versions."""
        dropped = self.log.trim(self.topic, before)
        forgotten = self.last().number - self.remember
        if forgotten > self.log.topic(self.checksums).first_offset + self.remember // 8:
            self.log.trim(self.checksums, forgotten)
        return dropped

    def _compare(self, change: Change) -> None:
        number = change.version.number
        try:
            known = self.log.read(self.checksums, number, limit=1)[0].payload.hex()
        except StaleError as error:
            raise StaleError(f"Change {number} for topic '{self.topic}'", got="a version too old to be compared",
                             expected=f"one of the newest {self.remember}",
                             do="Restore the learner from a newer manifest.") from error  # fmt: skip
        if known != (got := change.checksum()):
            raise GapError(
                f"Change {number} for topic '{self.topic}'", got=f"content with checksum {got[:16]}",
                expected=f"{known[:16]}, as it was published before",
                do="The learner did not repeat its steps: it was restored from another run's manifest, reads another "
                "log, or its configuration changed. Start a new run folder for a new run.",
            )  # fmt: skip

    def _advice(self, end: int) -> str:
        if end == 0:
            return "The log is empty although the writer is not at its start: was the log lost or replaced?"
        return "Publish the changes in between first; the learner regenerates them from its last manifest."


class _SomebodyElseWasFirst(Exception):
    """Rolls the transaction back."""
