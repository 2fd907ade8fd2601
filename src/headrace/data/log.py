"""The embedded durable log: topics of Arrow record batches in one SQLite file.

One file, several processes, no server. Whatever was acknowledged survives `kill -9` (and, with durability "power", a
power cut); a transaction holds appended entries, a consumer's offset and named state together, so that a process that
reads one log and writes another is exactly-once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple, Self

from headrace.data.log_database import Durability, LogDatabase
from headrace.data.log_entry import Entry, EntryLog
from headrace.data.log_source import LogSource
from headrace.data.log_transaction import Transaction, committed_offset, kept_state
from headrace.errors import CorruptSnapshot, DataError, StaleError
from headrace.types import Events

__all__ = ["EmbeddedLog", "Entry", "EntryLog", "LogSource", "TopicInfo", "Transaction"]

READ_BYTES = 64 << 20
ENTRY_COLUMNS = '"offset", first_row, rows, accepted_time, crc, payload'


class TopicInfo(NamedTuple):
    """Where one partition of a topic stands: what is kept begins at `first_*`, the next entry gets `next_*`."""

    name: str
    partition: int
    first_offset: int
    first_row: int
    next_offset: int
    next_row: int
    closed: bool


class EmbeddedLog:
    """Topics, partitions and offsets in one SQLite file (write-ahead logging), for several processes and threads.

    An entry is one record batch or some bytes. Offsets count the entries of a partition, rows its rows; both begin at
    0, grow without gaps and stay the same when old entries are trimmed.

    Args:
        path: The file; made with its folder if absent. SQLite keeps `-wal` and `-shm` files beside it.
        durability: "power" syncs the disk at every commit; "process" survives the death of any process, but a power
            cut may take the newest commits (never the order, never half of one).
        busy_timeout_s: How long a writer waits for another one.

    Cost: one append of 1000 rows takes well under a millisecond plus, with "power", one disk sync. Many small appends
        are cheaper in one `transaction`.

    Raises:
        StoreError: If the file cannot be used, or the disk is full; nothing of the failed write is kept.
        CorruptSnapshot: If the file is no log, or is damaged.

    Example:
        >>> import tempfile
        >>> from headrace.types import Events
        >>> log = EmbeddedLog(tempfile.mkdtemp() + "/events.db", durability="process")
        >>> rows = Events.from_columns({"key": ["r1"], "kind": ["click"], "event_time": [7]})
        >>> log.append("events", rows), log.append("events", rows, closed=True)
        (0, 1)
        >>> [entry.first_row for entry in log.read("events", 0)], log.is_closed("events")
        ([0, 1], True)
    """

    def __init__(self, path: Path | str, *, durability: Durability = "power", busy_timeout_s: float = 30.0) -> None:
        self.path, self.durability = Path(path), durability
        self._database = LogDatabase(self.path, durability, busy_timeout_s)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write several things together: all of them when the block ends, none if it raises.

        Other processes wait for the end of the block to write, not to read. One transaction at a time per thread.
        """
        with self._database.writing() as connection:
            yield Transaction(connection)

    def append(self, topic: str, events: Events, *, partition: int = 0, closed: bool = False) -> int:
        """Append rows as one durable entry and return its offset; `closed` ends the topic with it."""
        with self.transaction() as write:
            return write.append(topic, events, partition=partition, closed=closed)

    def append_bytes(self, topic: str, payload: bytes, *, partition: int = 0) -> int:
        """Append raw bytes as one durable entry and return its offset."""
        with self.transaction() as write:
            return write.append_bytes(topic, payload, partition=partition)

    def append_once(self, topic: str, key: str, events: Events, *, partition: int = 0) -> tuple[int, bool]:
        """Append rows unless an entry with this key was appended before, by whatever process and however long ago.

        A key is forgotten when its entry is trimmed: the topic's retention is the time in which repeats are known.

        Returns:
            The offset of the entry with this key, and whether it was appended by this call.
        """
        with self.transaction() as write:
            return write.append_once(topic, key, events, partition=partition)

    def close_topic(self, topic: str, *, partition: int = 0) -> None:
        """Say that nothing more will be appended; sources end after the last entry."""
        with self.transaction() as write:
            write.close_topic(topic, partition=partition)

    def read(
        self, topic: str, offset: int, *, partition: int = 0, limit: int = 64, max_bytes: int = READ_BYTES
    ) -> list[Entry]:
        """Return at most `limit` entries from `offset` on, in order; empty when nothing is there yet.

        At least one entry comes back if there is one, and no further ones once `max_bytes` are together.

        Raises:
            StaleError: If entries from `offset` on were trimmed.
            DataError: If `offset` lies beyond the end.
            CorruptSnapshot: If an entry's checksum is wrong.
        """
        with self._database.reading() as connection:
            info = _info(connection, topic, partition)
            _check_range(topic, partition, "offset", offset, info.first_offset, info.next_offset)
            found = connection.execute(
                f"SELECT {ENTRY_COLUMNS} FROM entries WHERE topic = (SELECT id FROM topics WHERE name = ? AND "
                'partition = ?) AND "offset" >= ? ORDER BY "offset" LIMIT ?',
                (topic, partition, offset, limit),
            )
            entries, size = [], 0
            for row in found:
                entries.append(_entry(topic, row))
                size += len(entries[-1].payload)
                if size >= max_bytes:
                    break
        return entries

    def locate(self, topic: str, row: int, *, partition: int = 0) -> int:
        """Return the offset of the entry that holds row number `row`; the end offset if it is not there yet.

        Raises:
            StaleError: If that row was trimmed.
            DataError: If `row` lies beyond the row to come next.
        """
        with self._database.reading() as connection:
            info = _info(connection, topic, partition)
            _check_range(topic, partition, "row", row, info.first_row, info.next_row)
            if row == info.next_row:
                return info.next_offset
            found = connection.execute(
                'SELECT "offset" FROM entries WHERE topic = (SELECT id FROM topics WHERE name = ? AND partition = ?) '
                'AND first_row <= ? ORDER BY first_row DESC, "offset" DESC LIMIT 1',
                (topic, partition, row),
            ).fetchone()
            return int(found[0])

    def topic(self, topic: str, *, partition: int = 0) -> TopicInfo:
        """Return where a topic stands; all zero when nothing was ever appended."""
        with self._database.reading() as connection:
            return _info(connection, topic, partition)

    def topics(self) -> list[TopicInfo]:
        """Return every topic and partition, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {', '.join(TopicInfo._fields)} FROM topics ORDER BY name, partition")
            return [_described(row) for row in rows]

    def end(self, topic: str, *, partition: int = 0) -> int:
        """Return the offset that the next entry will get."""
        return self.topic(topic, partition=partition).next_offset

    def rows(self, topic: str, *, partition: int = 0) -> int:
        """Return how many rows were ever appended."""
        return self.topic(topic, partition=partition).next_row

    def is_closed(self, topic: str, *, partition: int = 0) -> bool:
        """Return whether the topic was closed."""
        return self.topic(topic, partition=partition).closed

    def committed(self, consumer: str, topic: str, partition: int = 0) -> int:
        """Return the next offset that `consumer` will read, as it recorded it; 0 when it never did."""
        with self._database.reading() as connection:
            return committed_offset(connection, consumer, topic, partition)

    def state(self, name: str) -> bytes | None:
        """Return the bytes kept under a name, or None."""
        with self._database.reading() as connection:
            return kept_state(connection, name)

    def trim(self, topic: str, before_offset: int, *, partition: int = 0) -> int:
        """Drop the entries before an offset and return how many were dropped.

        Offsets and rows keep their numbers; reading before the trim point raises StaleError from now on. Keep what a
        consumer may need after a crash: the joiner begins again at its last snapshot, not at its committed offset.
        """
        with self.transaction() as write:
            number, following, next_row, _ = write._topic(topic, partition)
            before, query = min(before_offset, following), 'topic = ? AND "offset" < ?'
            connection = write._connection
            dropped = connection.execute(f"DELETE FROM entries WHERE {query}", (number, before)).rowcount
            kept = connection.execute(
                'SELECT first_row FROM entries WHERE topic = ? ORDER BY "offset" LIMIT 1', (number,)
            ).fetchone()
            connection.execute(
                "UPDATE topics SET first_offset = max(first_offset, ?), first_row = ? WHERE id = ?",
                (before, kept[0] if kept else next_row, number),
            )
        if dropped:
            self._database.reclaim()
        return int(dropped)

    def offset_at(self, topic: str, accepted_time: int, *, partition: int = 0) -> int:
        """Return the first offset that was accepted at or after a time (µs): where to trim to, for a retention by age.

        Cost: reads the times of all entries kept.
        """
        with self._database.reading() as connection:
            info = _info(connection, topic, partition)
            found = connection.execute(
                'SELECT min("offset") FROM entries WHERE topic = (SELECT id FROM topics WHERE name = ? AND '
                "partition = ?) AND accepted_time >= ?",
                (topic, partition, accepted_time),
            ).fetchone()[0]
        return info.next_offset if found is None else int(found)

    def offset_within(self, topic: str, size: int, *, partition: int = 0) -> int:
        """Return the first offset from which on all entries together take at most `size` bytes: what to trim to.

        Cost: reads the lengths, not the contents, of the entries that fit.
        """
        with self._database.reading() as connection:
            first = _info(connection, topic, partition).next_offset
            lengths = connection.execute(
                'SELECT "offset", length(payload) FROM entries WHERE topic = (SELECT id FROM topics WHERE name = ? AND '
                'partition = ?) ORDER BY "offset" DESC',
                (topic, partition),
            )
            for offset, length in lengths:
                size -= int(length)
                if size < 0:
                    break
                first = int(offset)
        return first

    def purge(self, *, whole: bool = False) -> bool:
        """Leave nothing of what was dropped or replaced in the file or beside it; returns whether that is done.

        False: somebody else is reading from before. Nothing is wrong then; ask again.

        Args:
            whole: Write the file anew, without its free pages. Needed once for a file of an earlier release, which did
                not overwrite what it dropped; writers wait for as long as it takes.
        """
        return self._database.purge(whole=whole)

    def limit_bytes(self, size: int) -> None:
        """Cap the file at `size` bytes for this process's writes: beyond it they fail as on a full disk."""
        self._database.limit_pages(self._database.pages_of(size))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _info(connection: Connection, topic: str, partition: int) -> TopicInfo:
    fields = ", ".join(TopicInfo._fields)
    row = connection.execute(
        f"SELECT {fields} FROM topics WHERE name = ? AND partition = ?", (topic, partition)
    ).fetchone()
    return _described(row) if row else TopicInfo(topic, partition, 0, 0, 0, 0, False)


def _described(row: tuple[str, int, int, int, int, int, int]) -> TopicInfo:
    return TopicInfo(row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6]))


def _check_range(topic: str, partition: int, what: str, value: int, first: int, following: int) -> None:
    if value < first:
        raise StaleError(
            f"Topic '{topic}', partition {partition}: {what}", got=value, expected=f"at least {first}: earlier entries "
            "were trimmed", do="Start again from a snapshot, and keep more of the topic next time.",
        )  # fmt: skip
    if value > following:
        raise DataError(
            f"Topic '{topic}', partition {partition}: {what}", got=value, expected=f"at most {following}, the end",
            do="The log is shorter than it was: was it replaced, or written without power durability before a cut?",
        )  # fmt: skip


def _entry(topic: str, row: tuple[int, int, int, int, int, bytes]) -> Entry:
    offset, first_row, rows, accepted_time, crc, payload = row
    if zlib.crc32(payload) != crc:
        raise CorruptSnapshot(
            f"Topic '{topic}', entry {offset}", got="another checksum", expected=f"crc32 {crc:08x}",
            do="The disk returned damaged data; restore the log from a copy.",
        )  # fmt: skip
    return Entry(offset, first_row, rows, accepted_time, payload)
