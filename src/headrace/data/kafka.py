"""A Kafka cluster behind the same reading and appending contract as the embedded log.

Delivery is at least once: a producer that dies between sending and hearing back may send an entry again, as another
entry. The join makes it exactly once by example id: a repeated impression or action is dropped while its example is
remembered, and is too late afterwards, so no example ever comes out twice.

What the brokers have to keep (`retention.ms`, with `cleanup.policy=delete`): for an event topic, at least attribution
window + lateness + the longest time for which the joiner may be down + the age of its last state; for a topic that a
learner reads, the age of the oldest manifest that it may restart from. Reading what is no longer there is a StaleError,
never a silent gap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

from headrace.data.log_entry import UNKNOWN_ROW, Entry
from headrace.errors import ConfigError, DataError, SourceEnded, StaleError, StoreError
from headrace.types import Events, Position

confluent_kafka: Any
try:
    import confluent_kafka
except ImportError:  # an optional extra
    confluent_kafka = None

Setting: TypeAlias = "str | int | float | bool"
READER_GROUP = "headrace-reader"
ROWS, ACCEPTED, CLOSED = "headrace.rows", "headrace.accepted_time", "headrace.closed"


class KafkaLog:
    """Topics of a Kafka cluster: one message is one entry, its offset the broker's, its rows an Arrow IPC payload.

    Rows are not counted across entries (`Entry.first_row` is -1), there are no transactions with state, and topics
    must not be compacted. A topic is closed by a mark on its last message.

    Thread-safety: every method may be called from any thread.

    Args:
        servers: Bootstrap servers, `host:port,host:port`.
        settings: Further settings of librdkafka for all clients (security, compression, ...).
        timeout_s: How long to wait for the cluster before giving up with StoreError.

    Raises:
        ConfigError: If `confluent-kafka` is not installed.
    """

    def __init__(self, servers: str, *, settings: Mapping[str, Setting] | None = None, timeout_s: float = 30.0) -> None:
        if confluent_kafka is None:
            raise ConfigError("KafkaLog", got="no module confluent_kafka", expected="the optional extra 'kafka'",
                              do="pip install 'headrace[kafka]'")  # fmt: skip
        if not servers:
            raise ConfigError("servers", got="''", expected="host:port of at least one Kafka broker")
        self.servers, self.timeout_s = servers, timeout_s
        self._settings: dict[str, Setting] = {"bootstrap.servers": servers, **(settings or {})}
        self._lock = threading.Lock()
        self._groups: dict[str, Any] = {}
        self._reading: tuple[str, int, int] | None = None  # topic, partition and offset that the reader gives next
        self._marks: dict[tuple[str, int], tuple[int, bool]] = {}  # the end last looked at, and whether it was closed
        self._producer: Any = confluent_kafka.Producer(
            {"acks": "all", "enable.idempotence": True, "linger.ms": 0, **self._settings}
        )

    def append(self, topic: str, events: Events, *, partition: int = 0, closed: bool = False) -> int:
        """Append rows as one entry, wait until all in-sync replicas have it, and return its offset."""
        headers = {ROWS: str(len(events))} | ({CLOSED: "1"} if closed else {})
        return self._send(topic, partition, events.to_bytes(), headers)

    def append_bytes(self, topic: str, payload: bytes, *, partition: int = 0) -> int:
        """Append raw bytes as one entry (of 0 rows) and return its offset."""
        return self._send(topic, partition, payload, {ROWS: "0"})

    def close_topic(self, topic: str, *, partition: int = 0) -> None:
        """Say that nothing more will be appended, by a last message without rows that readers do not see."""
        if not self.is_closed(topic, partition=partition):
            self._send(topic, partition, b"", {ROWS: "0", CLOSED: "1"})

    def is_closed(self, topic: str, *, partition: int = 0) -> bool:
        """Return whether the last message says so; once its retention is over, only those who saw it know."""
        low, high = self._range(topic, partition)
        looked_at, closed = self._marks.get((topic, partition), (0, False))
        if closed or high == looked_at:
            return closed
        for message in self._messages(topic, partition, high - 1, 1) if high > low else []:
            self._look(topic, partition, message)
        return self._marks.get((topic, partition), (0, False))[1]

    def _look(self, topic: str, partition: int, message: Any) -> None:
        if not self._marks.get((topic, partition), (0, False))[1]:  # closed is for ever
            self._marks[topic, partition] = (int(message.offset()) + 1, CLOSED in _headers(message))

    def read(self, topic: str, offset: int, *, partition: int = 0, limit: int = 64) -> list[Entry]:
        """Return at most `limit` entries from `offset` on, in order; empty when nothing is there yet.

        Raises:
            StaleError: If the brokers no longer keep that offset.
            DataError: If `offset` lies beyond the end.
        """
        low, high = self._range(topic, partition)
        what = f"Kafka topic '{topic}', partition {partition}: offset"
        if offset < low:
            raise StaleError(what, got=offset, expected=f"at least {low}: earlier entries are past their retention",
                             do="Start again from a snapshot; raise retention.ms.")  # fmt: skip
        if offset > high:
            raise DataError(what, got=offset, expected=f"at most {high}, the end",
                            do="Was the topic deleted and made again? Start again from a snapshot.")  # fmt: skip
        messages = self._messages(topic, partition, offset, min(limit, high - offset))
        for message in messages[-1:]:
            self._look(topic, partition, message)
        return [_entry(message) for message in messages if not _is_mark(message)]

    def end(self, topic: str, *, partition: int = 0) -> int:
        """Return the offset that the next entry will get."""
        return self._range(topic, partition)[1]

    def first(self, topic: str, *, partition: int = 0) -> int:
        """Return the oldest offset that the brokers still keep."""
        return self._range(topic, partition)[0]

    def commit_offset(self, consumer: str, topic: str, partition: int, offset: int) -> None:
        """Record the next offset that `consumer` (a consumer group) will read of a topic."""
        place = confluent_kafka.TopicPartition(topic, partition, offset)
        with self._lock, _Translated(f"Kafka, offset of '{consumer}'"):
            self._client(consumer).commit(offsets=[place], asynchronous=False)

    def committed(self, consumer: str, topic: str, partition: int = 0) -> int:
        """Return the next offset that `consumer` will read, as it recorded it; 0 when it never did."""
        place = confluent_kafka.TopicPartition(topic, partition)
        with self._lock, _Translated(f"Kafka, offset of '{consumer}'"):
            (found,) = self._client(consumer).committed([place], timeout=self.timeout_s)
        return max(int(found.offset), 0)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._producer.flush(self.timeout_s)
            for client in self._groups.values():
                client.close()
            self._groups.clear()
            self._reading = None

    def _client(self, group: str) -> Any:
        if group not in self._groups:
            fixed = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "error"}
            # A long-polling fetch at the end of a partition would hold up the next seek.
            self._groups[group] = confluent_kafka.Consumer({"fetch.wait.max.ms": 20, **self._settings, **fixed})
        return self._groups[group]

    def _send(self, topic: str, partition: int, payload: bytes, headers: dict[str, str]) -> int:
        what = f"Kafka topic '{topic}', partition {partition}"
        known = self._marks.get((topic, partition))
        if known[1] if known is not None else self.is_closed(topic, partition=partition):
            raise DataError(what, got="an append", expected="no more entries: it was closed", do="Use another topic.")
        headers[ACCEPTED] = str(time.time_ns() // 1000)
        answers: list[tuple[Any, Any]] = []
        with _Translated(what):
            self._producer.produce(
                topic, payload, partition=partition, headers=list(headers.items()),
                on_delivery=lambda error, message: answers.append((error, message)),
            )  # fmt: skip
            deadline = time.monotonic() + self.timeout_s
            while not answers and time.monotonic() < deadline:
                self._producer.poll(0.05)
        if not answers:
            raise StoreError(what, got=f"no answer for {self.timeout_s:g} s", expected="an acknowledgement",
                             do="It may still arrive; append it again: the join drops repeats.")  # fmt: skip
        error, message = answers[0]
        if error is not None:
            raise StoreError(what, got=str(error), expected="an acknowledgement",
                             do="Check the topic, its partitions, its ACLs and message.max.bytes.")  # fmt: skip
        self._marks[topic, partition] = (int(message.offset()) + 1, CLOSED in headers)
        return int(message.offset())

    def _range(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset kept and the end; (0, 0) when the topic or partition is not there."""
        what, place = f"Kafka topic '{topic}', partition {partition}", confluent_kafka.TopicPartition(topic, partition)
        deadline = time.monotonic() + self.timeout_s
        with self._lock, _Translated(what):
            reader = self._client(READER_GROUP)
            while True:
                try:
                    low, high = reader.get_watermark_offsets(place, timeout=self.timeout_s)
                    return int(low), int(high)
                except confluent_kafka.KafkaException as error:
                    if error.args[0].code() not in _absent():
                        raise
                # The client may only not know the topic yet: ask the brokers before believing that there is none.
                found = reader.list_topics(topic, timeout=self.timeout_s).topics[topic]
                if found.error is not None and found.error.code() in _absent():
                    return 0, 0
                if found.error is None and partition not in found.partitions:
                    return 0, 0
                if time.monotonic() > deadline:
                    raise StoreError(what, got=f"no leader for {self.timeout_s:g} s", expected="a broker that has it",
                                     do="Check the brokers.")  # fmt: skip
                time.sleep(0.05)

    def _messages(self, topic: str, partition: int, offset: int, count: int) -> list[Any]:
        """Return `count` messages from `offset` on; they must be there."""
        what = f"Kafka topic '{topic}', partition {partition}"
        found: list[Any] = []
        deadline = time.monotonic() + self.timeout_s
        with self._lock, _Translated(what):
            reader = self._client(READER_GROUP)
            if self._reading != (topic, partition, offset):
                reader.assign([confluent_kafka.TopicPartition(topic, partition, offset)])
            self._reading = None
            while len(found) < count:
                for message in reader.consume(count - len(found), timeout=0.05 if found else 0.2):
                    if message.error() is not None:
                        raise confluent_kafka.KafkaException(message.error())
                    found.append(message)
                if time.monotonic() > deadline:
                    raise StoreError(what, got=f"{len(found)} messages in {self.timeout_s:g} s", expected=f"{count}",
                                     do="Check the brokers, and that the topic is not compacted.")  # fmt: skip
            self._reading = (topic, partition, offset + count)
        return found


class KafkaSource:
    """One partition of a topic as a Source; its position is the broker's offset, and the rows taken of that entry.

    Args:
        log: The cluster.
        topic: The topic; need not exist yet.
        partition: The partition.

    Raises:
        StaleError: From `read`, if the entry at the position is past its retention.
        SourceEnded: From `read`, after the last row of a closed topic.
    """

    def __init__(self, log: KafkaLog, topic: str, partition: int = 0) -> None:
        self.log, self.topic, self.partition = log, topic, partition
        self._name = f"{topic}/{partition}"
        self._offset, self._row = 0, 0
        self._waiting: list[Entry] = []

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` next rows, of one entry at a time; None when there are none yet."""
        if limit < 1:
            raise ConfigError("limit", got=limit, expected="a positive number of rows")
        while True:
            if not self._waiting:
                closed = self.log.is_closed(self.topic, partition=self.partition)
                self._waiting = self.log.read(self.topic, self._offset, partition=self.partition)
                if not self._waiting:
                    if closed:
                        raise SourceEnded(f"Kafka topic '{self._name}'", got=f"offset {self._offset}, the end")
                    return None
            events = self._waiting[0].stamped().slice(self._row, limit) if self._waiting[0].rows else None
            self._row += 0 if events is None else len(events)
            if self._row >= self._waiting[0].rows:
                self._offset, self._row = self._waiting.pop(0).offset + 1, 0
            if events is not None and len(events):
                return events

    def position(self) -> Position:
        """Return the offset of the entry to read next, and the rows of it that were read already."""
        return {self._name: self._offset} | ({f"{self._name}#row": self._row} if self._row else {})

    def seek(self, position: Position) -> None:
        """Resume there; `{}` is the beginning of the topic."""
        unknown = [name for name in position if name not in (self._name, f"{self._name}#row")]
        if unknown:
            raise ConfigError("position", got=f"a position in {unknown}", expected=f"one in '{self._name}'")
        self._offset, self._row = int(position.get(self._name, 0)), int(position.get(f"{self._name}#row", 0))
        self._waiting = []


class _Translated:
    """Turns librdkafka's errors into ours."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (confluent_kafka.KafkaException, BufferError)):
            raise StoreError(self._what, got=str(error), expected="a Kafka cluster that answers",
                             do="Check the bootstrap servers, the network and the brokers.") from error  # fmt: skip


def _absent() -> set[int]:
    codes = confluent_kafka.KafkaError
    return {codes._UNKNOWN_PARTITION, codes._UNKNOWN_TOPIC, codes.UNKNOWN_TOPIC_OR_PART}


def _headers(message: Any) -> dict[str, bytes]:
    return dict(message.headers() or [])


def _is_mark(message: Any) -> bool:
    return CLOSED in _headers(message) and not message.value()


def _entry(message: Any) -> Entry:
    headers = _headers(message)
    payload = message.value() or b""
    accepted = int(headers[ACCEPTED]) if ACCEPTED in headers else int(message.timestamp()[1]) * 1000
    rows = int(headers[ROWS]) if ROWS in headers else len(Events.from_bytes(payload))
    return Entry(int(message.offset()), UNKNOWN_ROW, rows, accepted, payload)
