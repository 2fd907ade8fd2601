"""Changes in Kafka topics, against librdkafka's built-in test cluster, over TCP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import confluent_kafka
import pytest
import torch

from headrace.data.kafka import KafkaLog
from headrace.errors import ConfigError, CorruptSnapshot, GapError, StaleError
from headrace.publish import Acknowledgement, AcknowledgementTopic, ChangeTopic, ChangeTopicWriter, Replica
from headrace.store import TableConfig, open_table
from headrace.types import Version

QUIET = {"log_level": 0}
numbers = count()


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaLog]:
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 1, **QUIET})
    broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
    opened = KafkaLog(f"{broker.host}:{broker.port}", settings=QUIET, timeout_s=10)
    yield opened
    opened.close()
    del cluster


@pytest.fixture
def topic() -> str:
    return f"changes-{next(numbers)}"


def replica() -> Replica:
    return Replica({"user": open_table(TableConfig(name="user", dim=3, seed=5), serving=True)},
                   {"weight": torch.zeros(2)})  # fmt: skip


def content(one: Replica) -> tuple:
    return one.version.number, one.tables["user"].lookup(torch.arange(-2, 200)).tolist(), one.dense["weight"].tolist()


def applied(change, count: int) -> Replica:
    one = replica()
    for number in range(count):
        one.apply(change(number))
    return one


def test_nothing_is_there_at_first(kafka: KafkaLog, topic: str) -> None:
    reader = ChangeTopic(kafka, topic)
    assert reader.last() == Version(-1)
    assert (list(reader.read_since(-1)), reader.snapshot(), reader.published_at()) == ([], None, 0)


@pytest.mark.parametrize("part_bytes", [100, 600, 900_000])
def test_a_replica_follows_the_topic(kafka: KafkaLog, topic: str, change, part_bytes: int) -> None:
    writer, reader, far = (
        ChangeTopicWriter(kafka, topic, "run", part_bytes=part_bytes),
        ChangeTopic(kafka, topic),
        replica(),
    )
    for number in range(6):
        assert writer.append(change(number))
        assert reader.last() == Version(number, number - 1)
        if number % 2:
            far.catch_up(reader)
    assert content(far) == content(applied(change, 6))
    assert kafka.end(topic) == 6 if part_bytes > 10_000 else kafka.end(topic) > 6
    assert reader.published_at() > reader.published_at(3) == 0


def test_a_repeated_change_is_sent_once(kafka: KafkaLog, topic: str, change) -> None:
    writer = ChangeTopicWriter(kafka, topic, "run")
    writer.append(change(0))
    assert not writer.append(change(0))
    again = ChangeTopicWriter(kafka, topic, "run")
    assert not again.append(change(0))
    assert again.append(change(1))
    assert kafka.end(topic) == 2
    assert [again.checksum(number) for number in range(3)] == [change(0).checksum(), change(1).checksum(), ""]


def test_a_gap_is_refused(kafka: KafkaLog, topic: str, change) -> None:
    writer = ChangeTopicWriter(kafka, topic, "run")
    writer.append(change(0))
    with pytest.raises(GapError, match="expected number 1"):
        writer.append(change(2))


def test_two_runs_are_not_mixed(kafka: KafkaLog, topic: str, change) -> None:
    ChangeTopicWriter(kafka, topic, "one").append(change(0))
    with pytest.raises(ConfigError, match="got run one, expected run two"):
        ChangeTopicWriter(kafka, topic, "two")


def test_a_writer_killed_in_the_middle_of_a_change_sends_it_again(
    kafka: KafkaLog, topic: str, change, monkeypatch
) -> None:
    class Killed(BaseException):
        pass

    writer, steady = ChangeTopicWriter(kafka, topic, "run", part_bytes=150), replica()
    reader, real = ChangeTopic(kafka, topic), kafka.append_bytes
    for number in range(4):
        left = [number + 1]

        def dying(*arguments, left=left, **named):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **named)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(kafka, "append_bytes", dying)
            writer.append(change(number))
        assert reader.last().number == number - 1
        steady.catch_up(reader)  # half a version changes nothing
        assert steady.version.number == number - 1
        writer = ChangeTopicWriter(kafka, topic, "run", part_bytes=150 + number)
        writer.append(change(number))
        steady.catch_up(reader)
        fresh = replica()
        fresh.catch_up(ChangeTopic(kafka, topic))
        assert content(steady) == content(fresh) == content(applied(change, number + 1))


def test_messages_delivered_twice_count_once(kafka: KafkaLog, topic: str, change, monkeypatch) -> None:
    writer, real = ChangeTopicWriter(kafka, topic, "run", part_bytes=300), kafka.append_bytes

    def twice(*arguments, **named):
        real(*arguments, **named)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(kafka, "append_bytes", twice)
        writer.append(change(0))
    assert not writer.append(change(0))
    for number in (1, 2):
        writer.append(change(number))
    late = ChangeTopicWriter(kafka, topic, "run")
    monkeypatch.setattr(late, "last", lambda: Version(0))  # an old writer that comes back
    late.append(change(1))
    writer.append(change(3))
    for start in (replica(), applied(change, 2), applied(change, 3)):
        start.catch_up(ChangeTopic(kafka, topic))
        assert content(start) == content(applied(change, 4))


def test_the_place_behind_a_snapshot_is_found(kafka: KafkaLog, topic: str, change, tmp_path: Path, monkeypatch) -> None:
    writer = ChangeTopicWriter(kafka, topic, "run", snapshots=tmp_path, part_bytes=200)
    for number in range(40):
        writer.append(change(number))
    writer.keep(change(30, full=True))
    reads, real = [0], kafka.read

    def counting(*arguments, **named):
        reads[0] += 1
        return real(*arguments, **named)

    monkeypatch.setattr(kafka, "read", counting)
    one, two = replica(), replica()
    assert one.catch_up(ChangeTopic(kafka, topic, snapshots=tmp_path)) == 10
    assert reads[0] < 25  # by halving, not from the beginning
    two.apply(change(30, full=True))
    for number in range(31, 40):
        two.apply(change(number))
    assert content(one) == content(two)


def test_past_the_retention_a_snapshot_helps(kafka: KafkaLog, topic: str, change, tmp_path: Path, monkeypatch) -> None:
    writer = ChangeTopicWriter(kafka, topic, "run", snapshots=tmp_path)
    for number in range(12):
        writer.append(change(number))
    real = kafka._range
    monkeypatch.setattr(
        kafka, "_range", lambda name, part: (6, real(name, part)[1]) if name == topic else real(name, part)
    )
    behind = applied(change, 3)
    with pytest.raises(StaleError):
        behind.catch_up(ChangeTopic(kafka, topic))
    assert behind.version.number == 2
    writer.keep(change(9, full=True))
    behind.catch_up(ChangeTopic(kafka, topic, snapshots=tmp_path))
    assert behind.version.number == 11


@pytest.mark.parametrize("with_folder", [True, False])
def test_going_on_from_a_snapshot_where_changes_are_lost(
    kafka: KafkaLog, topic: str, change, tmp_path: Path, with_folder: bool
) -> None:
    folder = tmp_path if with_folder else None
    writer = ChangeTopicWriter(kafka, topic, "run", snapshots=folder)
    for number in range(3):
        writer.append(change(number))
    writer.begin(change(8, full=True))
    writer.begin(change(8, full=True))
    assert writer.last().number == 8
    reader = ChangeTopic(kafka, topic, snapshots=folder)
    behind, fresh = applied(change, 3), replica()
    behind.catch_up(reader)
    assert behind.version.number == 8
    writer.append(change(9))
    behind.catch_up(reader)
    fresh.catch_up(ChangeTopic(kafka, topic, snapshots=folder))
    assert content(behind) == content(fresh)
    assert behind.version.number == 9


def test_something_else_in_the_topic_is_refused(kafka: KafkaLog, topic: str, change) -> None:
    kafka.append_bytes(topic, b"hello")
    with pytest.raises(CorruptSnapshot, match="topic of their own"):
        ChangeTopic(kafka, topic).last()
    with pytest.raises(CorruptSnapshot, match="topic of their own"):
        ChangeTopicWriter(kafka, topic, "run")


def test_acknowledgements_go_through_a_topic(kafka: KafkaLog, topic: str) -> None:
    one, other = AcknowledgementTopic(kafka, topic), AcknowledgementTopic(kafka, topic)
    assert one.newest() == {}
    for replica_name, version in (("a", 1), ("b", 5), ("a", 2)):
        one.record(Acknowledgement(replica=replica_name, version=version, time=version))
    kafka.append_bytes(topic, b"something else")
    for each in (one, other, AcknowledgementTopic(kafka, topic)):
        assert {name: told.version for name, told in each.newest().items()} == {"a": 2, "b": 5}
    other.forget("a")
    assert set(other.newest()) == {"b"}
    one.record(Acknowledgement(replica="a", version=9, time=9))
    assert other.newest()["a"].version == 9
