"""The Kafka log against librdkafka's built-in test cluster, over TCP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import confluent_kafka
import pytest

from headrace.data import kafka as module
from headrace.data.join import EventJoin, JoinConfig
from headrace.data.join_log import join_log
from headrace.data.kafka import KafkaLog, KafkaSource
from headrace.data.log import EmbeddedLog
from headrace.data.log_entry import EntryLog
from headrace.errors import ConfigError, DataError, SourceEnded, StaleError, StoreError
from headrace.testing import check_source
from headrace.types import Events

QUIET = {"log_level": 0}
numbers = count()


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 3, **QUIET})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    del cluster


@pytest.fixture(scope="module")
def log(servers: str) -> Iterator[KafkaLog]:
    opened = KafkaLog(servers, settings=QUIET, timeout_s=10)
    yield opened
    opened.close()


@pytest.fixture
def topic() -> str:
    return f"topic-{next(numbers)}"


def rows(start: int, number: int, **more: object) -> Events:
    keys = [f"k{row}" for row in range(start, start + number)]
    times = list(range(start, start + number))
    return Events.from_columns({"key": keys, "kind": ["impression"] * number, "event_time": times} | more)


def keys(events: Events | None) -> list[int]:
    return [] if events is None else [int(key[1:]) for key in events.column("key").to_pylist()]


def test_both_logs_keep_one_contract(log: KafkaLog, tmp_path: Path, topic: str) -> None:
    for each in (log, EmbeddedLog(tmp_path / "log.db", durability="process")):
        assert isinstance(each, EntryLog)
        assert each.read(topic, 0) == []
        assert (each.end(topic), each.is_closed(topic)) == (0, False)
        assert [each.append(topic, rows(0, 3)), each.append(topic, rows(3, 2))] == [0, 1]
        assert each.append_bytes(topic, b"raw") == 2
        entries = each.read(topic, 0)
        assert [(entry.offset, entry.rows) for entry in entries] == [(0, 3), (1, 2), (2, 0)]
        assert [keys(entry.events) for entry in entries[:2]] == [[0, 1, 2], [3, 4]]
        assert entries[2].payload == b"raw"
        assert [entry.offset for entry in each.read(topic, 1, limit=1)] == [1]
        assert (each.read(topic, 3), each.end(topic)) == ([], 3)
        each.close_topic(topic)
        assert each.is_closed(topic)
        assert each.read(topic, 3) == []
        with pytest.raises(DataError, match="it was closed"):
            each.append(topic, rows(5, 1))


def test_partitions_are_apart(log: KafkaLog, topic: str) -> None:
    log.append(topic, rows(0, 1))
    log.append(topic, rows(1, 1), partition=1)
    assert keys(log.read(topic, 0, partition=1)[0].events) == [1]
    assert (log.end(topic), log.end(topic, partition=1), log.end(topic, partition=2)) == (1, 1, 0)


def test_another_client_over_tcp_reads_what_was_appended(servers: str, log: KafkaLog, topic: str) -> None:
    log.append(topic, rows(0, 1000), closed=True)
    other = KafkaLog(servers, settings=QUIET, timeout_s=10)
    assert keys(other.read(topic, 0)[0].events) == list(range(1000))
    assert other.is_closed(topic)
    with pytest.raises(DataError, match="it was closed"):
        other.append(topic, rows(1, 1))
    other.close()


def test_accepted_time_is_the_wall_clock_of_the_append(
    log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.data.kafka.time.time_ns", lambda: 5_000_123)
    log.append(topic, rows(0, 1))
    assert log.read(topic, 0)[0].accepted_time == 5_000


def test_messages_of_others_are_read_too(servers: str, log: KafkaLog, topic: str) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, **QUIET})
    producer.produce(topic, rows(0, 3).to_bytes(), partition=0)
    producer.flush(10)
    assert keys(KafkaSource(log, topic).read(10)) == [0, 1, 2]


def test_committed_offsets_are_kept_per_consumer(log: KafkaLog, topic: str) -> None:
    log.append(topic, rows(0, 1))
    assert log.committed("a", topic) == 0
    log.commit_offset("a", topic, 0, 7)
    assert (log.committed("a", topic), log.committed("b", topic)) == (7, 0)


def test_reading_beyond_the_end_is_refused(log: KafkaLog, topic: str) -> None:
    log.append(topic, rows(0, 1))
    with pytest.raises(DataError, match="at most 1"):
        log.read(topic, 2)


def test_reading_what_is_past_its_retention_is_stale(
    log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(topic, rows(0, 1))
    monkeypatch.setattr(log, "_range", lambda *_: (5, 9))
    with pytest.raises(StaleError, match="retention"):
        log.read(topic, 4)


def test_a_source_cuts_rows_and_resumes_within_an_entry(log: KafkaLog, topic: str) -> None:
    log.append(topic, rows(0, 5))
    log.append_bytes(topic, b"no rows")
    log.append(topic, rows(5, 2))
    source = KafkaSource(log, topic)
    assert keys(source.read(3)) == [0, 1, 2]
    assert source.position() == {f"{topic}/0": 0, f"{topic}/0#row": 3}
    again = KafkaSource(log, topic)
    again.seek(source.position())
    assert [keys(again.read(10)), keys(again.read(10)), again.read(10)] == [[3, 4], [5, 6], None]
    assert again.position() == {f"{topic}/0": 3}


def test_a_source_ends_with_a_closed_topic_only(log: KafkaLog, topic: str) -> None:
    source = KafkaSource(log, topic)
    assert source.read(1) is None
    log.append(topic, rows(0, 1))
    assert keys(source.read(5)) == [0]
    assert source.read(5) is None
    log.close_topic(topic)
    with pytest.raises(SourceEnded):
        source.read(5)


def test_a_source_keeps_the_contract_of_sources(log: KafkaLog, topic: str) -> None:
    for number in range(5):
        log.append(topic, rows(4 * number, 4), closed=number == 4)
    assert check_source(lambda: KafkaSource(log, topic)).untried == ()


def test_a_position_of_another_topic_is_refused(log: KafkaLog, topic: str) -> None:
    with pytest.raises(ConfigError, match="other/0"):
        KafkaSource(log, topic).seek({"other/0": 1})


def test_entries_delivered_twice_give_every_example_once(log: KafkaLog, topic: str, tmp_path: Path) -> None:
    def of(number: int, kind: str, items: list[str], time: int) -> Events:
        shown = {"key": [f"k{number}"] * len(items), "kind": [kind] * len(items), "item": items}
        return Events.from_columns(shown | {"event_time": [time * 1_000_000] * len(items)})

    for number in range(20):
        for _ in range(1 + number % 2):
            log.append(topic, of(number, "impression", ["a", "b", "c"], number))
        for _ in range(1 + number % 3):
            log.append(topic, of(number, "click", ["b"], number + 1))
    log.close_topic(topic)
    out = EmbeddedLog(tmp_path / "examples.db", durability="process")
    join = EventJoin(JoinConfig(window_s=5, lateness_s=2))
    assert join_log(log, topic, out, "examples", join).examples == 60
    examples = Events.concat([entry.events for entry in out.read("examples", 0, limit=10**6)])
    assert len(set(examples.column("example_id").to_pylist())) == 60
    assert sum(examples.column("label").to_pylist()) == 20
    assert join.counts.duplicate_impressions == 30


def test_a_cluster_that_does_not_answer_is_said_plainly(free_port: int) -> None:
    silent = KafkaLog(f"127.0.0.1:{free_port}", settings=QUIET, timeout_s=0.3)
    with pytest.raises(StoreError, match="bootstrap servers"):
        silent.read("t", 0)


def test_an_entry_too_large_for_the_brokers_is_refused(servers: str, topic: str) -> None:
    small = KafkaLog(servers, settings={"message.max.bytes": 2000, **QUIET}, timeout_s=10)
    with pytest.raises(StoreError, match="too large"):
        small.append_bytes(topic, b"x" * 5000)
    small.close()


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[kafka\]'"):
        KafkaLog("localhost:9092")


def test_servers_have_to_be_named() -> None:
    with pytest.raises(ConfigError, match="servers"):
        KafkaLog("")
