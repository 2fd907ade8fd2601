"""Rows of a log's topic as a Source: exact row limits, resumable by row number."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import pyarrow as pa

from headrace.data.log_entry import Entry
from headrace.data.subjects import without_erased
from headrace.errors import ConfigError, SchemaError, SourceEnded
from headrace.types import Events, Position

READ_ENTRIES = 64


class RowLog(Protocol):
    """What the source needs of a log that counts rows."""

    def read(self, topic: str, offset: int, *, partition: int = 0, limit: int = 64) -> list[Entry]:
        """Return at most `limit` entries from `offset` on."""
        ...

    def locate(self, topic: str, row: int, *, partition: int = 0) -> int:
        """Return the offset of the entry that holds row number `row`."""
        ...

    def is_closed(self, topic: str, *, partition: int = 0) -> bool:
        """Return whether the topic was closed."""
        ...


class LogSource:
    """One partition of a topic as a Source; its position is the number of rows read.

    `read(limit)` returns exactly the next `limit` rows where that many are there, across entries of any size; columns
    that only some of them have are filled with nulls. Every row has `accepted_time`: its own, or its entry's. Rows of
    kind `erased` are counted, so that positions stay true, and left out.

    Args:
        log: The log; several sources may share it.
        topic: The topic; need not exist yet.
        partition: The partition.

    Raises:
        StaleError: From `read`, if the rows at the position were trimmed.
        SourceEnded: From `read`, after the last row of a closed topic.
    """

    def __init__(self, log: RowLog, topic: str, partition: int = 0) -> None:
        self.log, self.topic, self.partition = log, topic, partition
        self._name = f"{topic}/{partition}"
        self._restart(0)

    def _restart(self, row: int) -> None:
        self._row = row
        self._offset: int | None = None
        self._waiting: deque[Entry] = deque()
        self._events: Events | None = None

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` next rows, None when there are none yet."""
        if limit < 1:
            raise ConfigError("limit", got=limit, expected="a positive number of rows")
        start, parts = self._row, list[Events]()
        try:
            while self._row - start < limit and self._fill():
                parts.append(without_erased(self._take(limit - (self._row - start))))
            if any(len(part) for part in parts):
                return _joined(self._name, [part for part in parts if len(part)])
            if parts:
                return None  # a whole read of erased rows; the next one goes on behind them
            # Asked in this order, an entry appended before the topic was closed cannot be missed.
            ended = self.log.is_closed(self.topic, partition=self.partition) and not self._fill()
        except BaseException:
            self._restart(start)  # what was read on the way is read again, not lost
            raise
        if ended:
            raise SourceEnded(f"Topic '{self._name}'", got=f"{self._row} rows, then its end")
        return None

    def position(self) -> Position:
        """Return the number of rows read."""
        return {self._name: self._row}

    def seek(self, position: Position) -> None:
        """Resume after so many rows; `{}` is the beginning."""
        unknown = [name for name in position if name != self._name]
        if unknown:
            raise ConfigError("position", got=f"a position in {unknown}", expected=f"one in '{self._name}'")
        self._restart(int(position.get(self._name, 0)))

    def _take(self, wanted: int) -> Events:
        assert self._events is not None
        piece = self._events.slice(0, min(wanted, len(self._events)))
        self._events = self._events.slice(len(piece)) if len(piece) < len(self._events) else None
        self._row += len(piece)
        return piece

    def _fill(self) -> bool:
        """Have rows in hand; return False when the log has no more now."""
        while self._events is None:
            if not self._waiting:
                if self._offset is None:
                    self._offset = self.log.locate(self.topic, self._row, partition=self.partition)
                self._waiting.extend(
                    self.log.read(self.topic, self._offset, partition=self.partition, limit=READ_ENTRIES)
                )
                if not self._waiting:
                    return False
            entry = self._waiting.popleft()
            self._offset = entry.offset + 1
            if entry.first_row + entry.rows > self._row:  # raw and empty entries have no rows
                self._events = entry.stamped().slice(self._row - entry.first_row)
        return True


def _joined(name: str, parts: list[Events]) -> Events:
    try:
        return Events.concat(parts)
    except pa.ArrowException as error:
        raise SchemaError(
            f"Topic '{name}'", got=f"entries whose columns do not fit together: {error}",
            expected="one type per column in all entries", do="Read with a smaller limit, or write one type.",
        ) from error  # fmt: skip
