"""What a log holds: entries, each one Arrow record batch or raw bytes, and the contract of anything that has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import SchemaError
from headrace.types import Events

UNKNOWN_ROW = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a topic.

    Attributes:
        offset: Its number in the topic's partition; grows by one per entry.
        first_row: Rows in all earlier entries of the partition; -1 where the log does not count them (Kafka).
        rows: Rows of events in this entry; 0 for a raw payload.
        accepted_time: Wall-clock µs at which the log took the entry.
        payload: The bytes as appended.
    """

    offset: int
    first_row: int
    rows: int
    accepted_time: int
    payload: bytes

    @property
    def events(self) -> Events:
        """The entry's rows as appended, decoded from `payload` at each call.

        Raises:
            SchemaError: If the entry holds raw bytes.
        """
        try:
            return Events.from_bytes(self.payload)
        except SchemaError as error:
            raise SchemaError(
                f"Log entry {self.offset}", got=f"{len(self.payload)} bytes that are no events ({error.got})",
                expected="an entry written with append()", do="Read raw entries through `payload`.",
            ) from error  # fmt: skip

    def stamped(self) -> Events:
        """Return the rows with `accepted_time`: the entry's own where the column is absent or null."""
        events = self.events
        if "accepted_time" not in events.names:
            times = pa.array(np.full(len(events), self.accepted_time, dtype=np.int64))
            return events.with_columns({"accepted_time": times})
        column = events.column("accepted_time")
        if column.null_count == 0:
            return events
        filled = pc.fill_null(column.cast(pa.int64()), pa.scalar(self.accepted_time, pa.int64()))
        return events.with_columns({"accepted_time": filled})


@runtime_checkable
class EntryLog(Protocol):
    """Topics of numbered entries: what `EmbeddedLog` and `KafkaLog` have in common."""

    def append(self, topic: str, events: Events, *, partition: int = 0, closed: bool = False) -> int:
        """Append rows as one durable entry and return its offset; `closed` ends the topic with it."""
        ...

    def append_bytes(self, topic: str, payload: bytes, *, partition: int = 0) -> int:
        """Append raw bytes as one durable entry and return its offset."""
        ...

    def read(self, topic: str, offset: int, *, partition: int = 0, limit: int = 64) -> list[Entry]:
        """Return at most `limit` entries from `offset` on, in order; empty when nothing is there yet."""
        ...

    def end(self, topic: str, *, partition: int = 0) -> int:
        """Return the offset that the next entry will get."""
        ...

    def close_topic(self, topic: str, *, partition: int = 0) -> None:
        """Say that nothing more will be appended."""
        ...

    def is_closed(self, topic: str, *, partition: int = 0) -> bool:
        """Return whether the topic was closed."""
        ...
