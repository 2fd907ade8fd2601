"""Writes to an embedded log that become visible and durable together, or not at all."""

from __future__ import annotations

import time
import zlib
from sqlite3 import Connection

from headrace.errors import ConfigError, DataError
from headrace.types import Events

STATE_PART_BYTES = 64 << 20


class Transaction:
    """Writes that become visible and durable together, or not at all; made by `EmbeddedLog.transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, topic: str, events: Events, *, partition: int = 0, closed: bool = False) -> int:
        """Append rows as one entry and return its offset; `closed` ends the topic with it.

        Raises:
            DataError: If the topic is closed.
        """
        return self._append(topic, partition, events.to_bytes(), len(events), closed, None)

    def append_bytes(self, topic: str, payload: bytes, *, partition: int = 0) -> int:
        """Append raw bytes as one entry (of 0 rows) and return its offset."""
        return self._append(topic, partition, payload, 0, False, None)

    def append_once(self, topic: str, key: str, events: Events, *, partition: int = 0) -> tuple[int, bool]:
        """Append rows unless an entry with this key is there already.

        Returns:
            The offset of the entry with this key, and whether it was appended by this call.
        """
        found = self._connection.execute(
            'SELECT e."offset" FROM entries e JOIN topics t ON t.id = e.topic '
            "WHERE t.name = ? AND t.partition = ? AND e.once = ?",
            (topic, partition, key),
        ).fetchone()
        if found is not None:
            return int(found[0]), False
        return self._append(topic, partition, events.to_bytes(), len(events), False, key), True

    def close_topic(self, topic: str, *, partition: int = 0) -> None:
        """Say that nothing more will be appended."""
        number, _, _, _ = self._topic(topic, partition)
        self._connection.execute("UPDATE topics SET closed = 1 WHERE id = ?", (number,))

    def commit_offset(self, consumer: str, topic: str, partition: int, offset: int) -> None:
        """Record the next offset that `consumer` will read of a topic (of this log or of another one)."""
        self._connection.execute(
            "INSERT OR REPLACE INTO consumers VALUES (?, ?, ?, ?)", (consumer, topic, partition, int(offset))
        )

    def committed(self, consumer: str, topic: str, partition: int = 0) -> int:
        """Return the consumer's offset as this transaction sees it; 0 when there is none."""
        return committed_offset(self._connection, consumer, topic, partition)

    def put_state(self, name: str, value: bytes) -> None:
        """Keep bytes under a name, in place of what was there."""
        self._connection.execute("DELETE FROM states WHERE name = ?", (name,))
        parts = [value[start : start + STATE_PART_BYTES] for start in range(0, len(value), STATE_PART_BYTES)]
        rows = [(name, part, piece) for part, piece in enumerate(parts or [b""])]
        self._connection.executemany("INSERT INTO states VALUES (?, ?, ?)", rows)

    def state(self, name: str) -> bytes | None:
        """Return the bytes under a name as this transaction sees them."""
        return kept_state(self._connection, name)

    def replace(self, topic: str, offset: int, payload: bytes, *, partition: int = 0) -> None:
        """Put other bytes into an entry; its offset, its number of rows and the time it was taken stay.

        What a consumer has read already is not read again by it; see `headrace.data.rewrite` for when that is safe.
        """
        self._connection.execute(
            'UPDATE entries SET crc = ?, payload = ? WHERE "offset" = ? AND topic = (SELECT id FROM topics '
            "WHERE name = ? AND partition = ?)",
            (zlib.crc32(payload), payload, offset, topic, partition),
        )

    def drop_state(self, name: str) -> None:
        """Forget the bytes under a name."""
        self._connection.execute("DELETE FROM states WHERE name = ?", (name,))

    def _topic(self, topic: str, partition: int) -> tuple[int, int, int, bool]:
        query = "SELECT id, next_offset, next_row, closed FROM topics WHERE name = ? AND partition = ?"
        found = self._connection.execute(query, (topic, partition)).fetchone()
        if found is None:
            if not topic or partition < 0:
                raise ConfigError("topic", got=f"'{topic}', partition {partition}", expected="a name and a number >= 0")
            self._connection.execute("INSERT INTO topics VALUES (NULL, ?, ?, 0, 0, 0, 0, 0)", (topic, partition))
            found = self._connection.execute(query, (topic, partition)).fetchone()
        return int(found[0]), int(found[1]), int(found[2]), bool(found[3])

    def _append(self, topic: str, partition: int, payload: bytes, rows: int, closed: bool, once: str | None) -> int:
        number, offset, row, was_closed = self._topic(topic, partition)
        if was_closed:
            raise DataError(
                f"Topic '{topic}', partition {partition}", got="an append", expected="no more entries: it was closed",
                do="Write to another topic, or to another log file.",
            )  # fmt: skip
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, offset, row, rows, time.time_ns() // 1000, zlib.crc32(payload), once, payload),
        )
        self._connection.execute(
            "UPDATE topics SET next_offset = ?, next_row = ?, closed = ? WHERE id = ?",
            (offset + 1, row + rows, int(closed), number),
        )
        return offset


def committed_offset(connection: Connection, consumer: str, topic: str, partition: int) -> int:
    """Return the consumer's recorded offset; 0 when there is none."""
    found = connection.execute(
        'SELECT "offset" FROM consumers WHERE consumer = ? AND topic = ? AND partition = ?',
        (consumer, topic, partition),
    ).fetchone()
    return int(found[0]) if found else 0


def kept_state(connection: Connection, name: str) -> bytes | None:
    """Return the bytes kept under a name, or None."""
    parts = connection.execute("SELECT value FROM states WHERE name = ? ORDER BY part", (name,)).fetchall()
    return b"".join(part for (part,) in parts) if parts else None
