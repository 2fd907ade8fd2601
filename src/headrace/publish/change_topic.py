"""Published changes in a Kafka topic, with snapshots in a folder that replicas can reach.

A change is one message or several: brokers bound the size of a message, changes have none. Every part says which
version it belongs to, which part of how many it is, and of which run. Kafka delivers at least once, so a part or a
whole version may stand there twice; readers take every version once, and drop a version that was left half sent.

The topic has one partition, is not compacted, and keeps what the brokers' `retention.ms` says. A replica that needs
older versions loads a snapshot and goes on behind it: versions grow along the topic, so the place is found by halving.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from headrace.config import require
from headrace.data.kafka import KafkaLog
from headrace.data.log_entry import Entry
from headrace.errors import ConfigError, CorruptSnapshot, DataError, GapError, StaleError
from headrace.publish.acknowledgements import Acknowledgement
from headrace.publish.change import decode, encode
from headrace.publish.retention import Retention
from headrace.publish.snapshots import Snapshots
from headrace.types import NO_VERSION, Change, Version

MAGIC, LAYOUT = b"HRCPART\0", 1
_HEAD = struct.Struct("<8sIIIq32s")
PART_BYTES = 900_000
"""Below the brokers' usual limit of a megabyte."""
READ_PARTS = 16


class _Part(NamedTuple):
    number: int
    part: int
    parts: int
    run: str
    body: memoryview

    @property
    def ends(self) -> bool:
        """Whether the version is complete with it; a mark that only names a snapshot has no parts."""
        return self.part >= self.parts - 1


def _packed(part: _Part) -> bytes:
    return _HEAD.pack(MAGIC, LAYOUT, part.part, part.parts, part.number, part.run.encode()) + bytes(part.body)


def _opened(entry: Entry, topic: str) -> _Part:
    data = memoryview(entry.payload)
    if len(data) >= _HEAD.size:
        magic, layout, part, parts, number, run = _HEAD.unpack_from(data)
        if magic == MAGIC and layout == LAYOUT:
            return _Part(number, part, parts, run.rstrip(b"\0").decode("ascii", "replace"), data[_HEAD.size :])
    raise CorruptSnapshot(
        f"Kafka topic '{topic}', message {entry.offset}", got="no part of a change",
        expected="messages of a ChangeTopicWriter alone", do="Give the changes a topic of their own.",
    )  # fmt: skip


class ChangeTopic:
    """A topic of changes as a replica reads it; never writes. Implements `ChangeSource`.

    Args:
        log: The cluster.
        topic: The topic; need not exist yet.
        snapshots: Folder of the snapshots. None: a replica can start only while the topic reaches back to a full
            change, or to version 0.

    Thread-safety: one thread reads changes; any may ask for the newest version.
    """

    def __init__(self, log: KafkaLog, topic: str = "changes", *, snapshots: Path | None = None) -> None:
        self.log, self.topic = log, topic
        self.snapshots = None if snapshots is None else Snapshots(snapshots)
        self.acknowledgements = AcknowledgementTopic(log, f"{topic}-acknowledgements")
        self._end, self._newest, self._at, self._looking = 0, NO_VERSION, 0, threading.Lock()
        self._behind: tuple[int, int] | None = None  # a version, and the offset behind its last part
        self._tail: Entry | None = None  # the message that was looked at last

    def last(self) -> Version:
        """Return the newest version; number -1 when there is none.

        Cost: one question to the brokers, and one message where there is something new.
        """
        with self._looking:
            end = self.log.end(self.topic)
            if end != self._end:
                self._look(end)
                self._end = end
            return Version(self._newest, self._newest - 1) if self._newest >= 0 else Version(NO_VERSION)

    def _look(self, end: int) -> None:
        """Find the newest whole version from the end of the topic; what a killed writer left half sent is passed."""
        first = self.log.first(self.topic)
        if end < self._end:
            self._newest, self._behind, self._tail = NO_VERSION, None, None  # the topic was made again
        for offset in range(end - 1, first - 1, -1):
            entries = self.log.read(self.topic, offset, limit=1)
            if entries and (part := _opened(entries[0], self.topic)).ends:
                self._newest, self._at = max(self._newest, part.number), entries[0].accepted_time
                self._tail = entries[0]
                return

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the changes after version `number`, oldest first, up to the newest at the time it is reached.

        Raises:
            StaleError: If the brokers no longer keep the next one; a snapshot holds its effect.
            CorruptSnapshot: If a message is damaged, or something else wrote to the topic.
        """
        held, parts = number, list[_Part]()
        offset = self._offset_after(number)
        while entries := self._read(offset, held):
            for entry in entries:
                offset, part = entry.offset + 1, _opened(entry, self.topic)
                if part.number <= held or (parts and part == parts[-1]):
                    continue  # delivered twice
                if part.part == 0 or (parts and (part.number, part.part) == (parts[-1].number, parts[-1].part + 1)):
                    parts = [*parts, part] if part.part else [part]
                else:
                    parts = []  # the middle of a version whose beginning is elsewhere: it is sent again from the start
                if parts and part.ends:
                    change = self._whole(parts, held)
                    held, parts = change.version.number, []
                    self._behind = (held, offset)
                    yield change

    def _whole(self, parts: list[_Part], held: int) -> Change:
        number = parts[0].number
        lacking = StaleError(f"Kafka topic '{self.topic}'", got=f"version {number} after version {held}",
                             expected=f"version {held + 1}: it is past its retention, or was never sent",
                             do="Start again from a snapshot; raise retention.ms.")  # fmt: skip
        if not parts[0].parts:
            raise lacking  # a mark: this version is a snapshot in the folder
        change = decode(b"".join(part.body for part in parts))
        if change.version.number != number:
            raise CorruptSnapshot(f"Kafka topic '{self.topic}'", got=f"version {change.version.number}",
                                  expected=f"version {number}, as its parts say")  # fmt: skip
        if not change.full and change.version.parent != held:
            raise lacking
        return change

    def _read(self, offset: int, held: int) -> list[Entry]:
        tail = self._tail
        if tail is not None and tail.offset == offset:  # who keeps up need not ask for it a second time
            return [tail]
        try:
            return self.log.read(self.topic, offset, limit=READ_PARTS)
        except StaleError as error:
            raise StaleError(error.what, got=f"version {held + 1} is no longer kept", expected="a later one",
                             do="Start again from a snapshot; raise retention.ms.") from error  # fmt: skip

    def _offset_after(self, number: int) -> int:
        """Return an offset at or before the first part of the first version after `number`."""
        if self._behind is not None and self._behind[0] == number:
            return self._behind[1]
        first = low = self.log.first(self.topic)
        high = self.log.end(self.topic)
        while low < high:
            middle = (low + high) // 2
            entries = self.log.read(self.topic, middle, limit=1)
            if entries and _opened(entries[0], self.topic).number <= number:
                low = middle + 1
            else:
                high = middle
        found = self.log.read(self.topic, low, limit=1)
        if found and _opened(found[0], self.topic).number == number + 1:
            return low
        return first  # versions do not grow everywhere, as after two writers at once; from the start none is missed

    def snapshot(self) -> Change | None:
        """Return the newest whole snapshot as a full change, or None."""
        return None if self.snapshots is None else self.snapshots.newest()

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which the newest version was sent; 0 for others, whose time is not known."""
        newest = self.last().number
        return self._at if number in (None, newest) else 0


class ChangeTopicWriter(ChangeTopic):
    """The topic as the one who fills it sees it: a `ChangeTarget`. One writer at a time.

    Args:
        log: The cluster.
        topic: The topic, with one partition; made by the first message where the brokers allow it.
        run: Which run the changes are of, at most 32 letters.
        snapshots: Folder of the snapshots.
        retention: How many snapshots are kept; how long changes are is the brokers' business.
        part_bytes: Longest part of a change in one message.

    Raises:
        ConfigError: If the topic holds another run, or a setting cannot work.
    """

    def __init__(
        self, log: KafkaLog, topic: str, run: str, *, snapshots: Path | None = None, retention: Retention | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:  # fmt: skip
        require(part_bytes >= 1, "part_bytes", got=part_bytes, expected="a positive integer")
        require(0 < len(run.encode()) <= 32, "run", got=run, expected="1 to 32 letters")
        super().__init__(log, topic, snapshots=snapshots)
        if snapshots is not None:
            self.snapshots = Snapshots(snapshots, keep=(retention or Retention()).snapshots)
        self._run, self.part_bytes = run, part_bytes
        end, first = log.end(topic), log.first(topic)
        newest = log.read(topic, end - 1, limit=1) if end > first else []
        if newest and (held := _opened(newest[0], topic).run) != run:
            raise ConfigError(f"Kafka topic '{topic}'", got=f"run {held}", expected=f"run {run}",
                              do="Give every run a topic of its own.")  # fmt: skip

    def append(self, change: Change) -> bool:
        """Send the next change; returns False if its version is there already.

        Raises:
            GapError: If it does not follow the newest one.
            StoreError: If the brokers do not answer. What they have all the same is recognised the next time.
        """
        number, last = change.version.number, self.last().number
        if number <= last:
            return False
        if number != last + 1 and not change.full:
            raise GapError(f"Change {number} for Kafka topic '{self.topic}'", got=f"number {number}",
                           expected=f"number {last + 1}", do="Put a snapshot first, with `begin`.")  # fmt: skip
        data = memoryview(encode(change))
        pieces = [data[start : start + self.part_bytes] for start in range(0, len(data), self.part_bytes)]
        for place, piece in enumerate(pieces):
            self._send(_Part(number, place, len(pieces), self._run, piece))
        self._newest = max(self._newest, number)
        return True

    def checksum(self, number: int) -> str:
        """Return the checksum of a version's change; empty where it is not, or no longer, in the topic."""
        try:
            change = next(self.read_since(number - 1), None)
        except StaleError:
            return ""
        return change.checksum() if change is not None and change.version.number == number else ""

    def begin(self, snapshot: Change) -> None:
        """Go on from a full change: in the folder of snapshots, with a mark in the topic, or else in the topic."""
        if snapshot.version.number <= self.last().number:
            return
        if self.snapshots is None:
            self.append(snapshot)
            return
        self.snapshots.write(snapshot)
        self._send(_Part(snapshot.version.number, 0, 0, self._run, memoryview(b"")))

    def keep(self, snapshot: Change) -> None:
        """Add a snapshot of a version that was sent; the brokers drop old changes by themselves."""
        if self.snapshots is not None and snapshot.version.number <= self.last().number:
            self.snapshots.write(snapshot)

    def _send(self, part: _Part) -> None:
        self.log.append_bytes(self.topic, _packed(part))


class AcknowledgementTopic:
    """Acknowledgements as messages of a topic; the newest one of each replica counts.

    A message is tiny, and what the brokers no longer keep is too old to matter. What is forgotten here is only not
    told any more by this object.

    Args:
        log: The cluster.
        topic: The topic.

    Thread-safety: may be used from any thread.
    """

    def __init__(self, log: KafkaLog, topic: str) -> None:
        self.log, self.topic = log, topic
        self._offset, self._reading = 0, threading.Lock()
        self._newest: dict[str, Acknowledgement] = {}

    def record(self, one: Acknowledgement) -> None:
        """Send an acknowledgement.

        Raises:
            StoreError: If the brokers do not answer.
        """
        self.log.append_bytes(self.topic, one.to_bytes())

    def newest(self) -> dict[str, Acknowledgement]:
        """Return the newest acknowledgement of every replica by name. Cost: reads what came since the last call."""
        with self._reading:
            self._offset = max(self._offset, self.log.first(self.topic))
            try:
                while entries := self.log.read(self.topic, self._offset, limit=512):
                    found = [Acknowledgement.from_bytes(entry.payload) for entry in entries]
                    self._newest |= {one.replica: one for one in found if one is not None}
                    self._offset = entries[-1].offset + 1
            except (DataError, StaleError):
                self._offset = 0  # trimmed while we read, or the topic was made again
            return dict(self._newest)

    def forget(self, replica: str) -> None:
        """Do not tell a replica any more until it says something again."""
        self._newest.pop(replica, None)
