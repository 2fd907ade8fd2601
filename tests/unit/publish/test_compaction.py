from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.publish import Acknowledgement, AcknowledgementFolder, ChangeLog, LogPublisher, Replica, Retention
from headrace.store import TableConfig, open_table
from headrace.types import Version


def replica() -> Replica:
    return Replica({"user": open_table(TableConfig(name="user", dim=3, seed=5), serving=True)},
                   {"weight": torch.zeros(2)})  # fmt: skip


def content(one: Replica) -> tuple:
    return one.version.number, one.tables["user"].lookup(torch.arange(-2, 3000)).tolist(), one.dense["weight"].tolist()


def say(where: AcknowledgementFolder, name: str, version: int, *, ago_s: float = 0) -> None:
    where.record(Acknowledgement(replica=name, version=version, time=time.time_ns() // 1000 - int(ago_s * 1e6)))


def wait(done, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_log_is_kept_for_a_slow_replica_within_bounds(tmp_path: Path, log, change) -> None:
    told = AcknowledgementFolder(tmp_path / "told")
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2, acknowledgements=told,
                             retention=Retention(keep_versions=20))  # fmt: skip
    say(told, "slow", 2)
    for number in range(15):
        publisher.publish(change(number))
    assert publisher.changes.first() == 3
    for number in range(15, 41):
        publisher.publish(change(number))
    assert publisher.snapshots.numbers() == [36, 40]
    assert publisher.changes.first() == 21  # twenty versions, and not all
    say(told, "slow", 39)
    for number in range(41, 45):
        publisher.publish(change(number))
    assert publisher.changes.first() == 40  # the older snapshot


def test_bytes_bound_what_is_kept_too(tmp_path: Path, log, change) -> None:
    told = AcknowledgementFolder(tmp_path / "told")
    size = len(log.path.name) + 1000
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=1, acknowledgements=told,
                             retention=Retention(keep_bytes=6 * size))  # fmt: skip
    say(told, "slow", 0)
    for number in range(41):
        publisher.publish(change(number))
    kept = log.read("changes", publisher.changes.first(), limit=100)
    assert 6 * size >= sum(len(entry.payload) for entry in kept) > 3 * size


def test_a_replica_three_days_behind_catches_up(tmp_path: Path, log, change) -> None:
    told = AcknowledgementFolder(tmp_path / "told")
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=50, keep=2, acknowledgements=told)
    behind, plain = replica(), replica()
    for number in range(20):
        publisher.publish(change(number))
    behind.catch_up(publisher)
    say(told, "behind", 19, ago_s=3 * 86_400)
    for number in range(20, 700):
        publisher.publish(change(number))
    assert publisher.changes.first() == 600  # it was forgotten: the log is as short as without it
    assert behind.version.number == 19  # and it goes on serving what it has
    assert behind.catch_up(publisher) <= 100
    for number in range(700):
        plain.apply(change(number))
    assert content(behind) == content(plain)


def test_snapshots_are_written_beside_publishing(tmp_path: Path, log, change, monkeypatch) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=2, behind=True)
    real, writing, go_on = publisher.snapshots.write, threading.Event(), threading.Event()

    def slow(one) -> None:
        writing.set()
        assert go_on.wait(20)
        real(one)

    monkeypatch.setattr(publisher.snapshots, "write", slow)
    publisher.publish(change(0))
    assert writing.wait(20)
    for number in range(1, 30):
        publisher.publish(change(number))  # returns although the snapshot is not there
    assert publisher.snapshots.numbers() == []
    go_on.set()
    wait(lambda: publisher.snapshots.numbers()[-1:] >= [28])
    publisher.close()
    assert content(caught_up(publisher)) == content(applied(change, 30))


def caught_up(publisher: LogPublisher) -> Replica:
    one = replica()
    one.catch_up(publisher)
    return one


def applied(change, count: int) -> Replica:
    one = replica()
    for number in range(count):
        one.apply(change(number))
    return one


def test_a_replica_can_start_at_any_moment_while_the_log_is_compacted(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=3, keep=2, behind=True)
    reader = LogPublisher(EmbeddedLog(log.path, durability="process"), tmp_path / "s")
    ended, seen, wrong = threading.Event(), [], []

    def start_again_and_again() -> None:
        while not ended.is_set() or not seen:
            one = replica()
            try:
                one.catch_up(reader)
                seen.append(content(one))
            except Exception as error:  # noqa: BLE001  whatever it is, the test has failed
                wrong.append(error)

    thread = threading.Thread(target=start_again_and_again)
    thread.start()
    for number in range(120):
        publisher.publish(change(number))
    ended.set()
    thread.join()
    publisher.close()
    assert not wrong
    truth = {number: content(applied(change, number + 1)) for number in {one[0] for one in seen} - {-1}}
    assert all(one == truth[one[0]] for one in seen if one[0] >= 0)
    assert publisher.changes.first() > 0


def test_whoever_rewrites_keeps_the_compaction_out(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=1, behind=True)
    with publisher.compactor.alone():
        for number in range(5):
            publisher.publish(change(number))
        time.sleep(0.1)
        assert publisher.snapshots.numbers() == []
    wait(lambda: publisher.snapshots.numbers()[-1:] == [4])
    publisher.close()


def test_the_compaction_goes_on_after_a_failure(tmp_path: Path, log, change, monkeypatch, caplog) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=1, behind=True)
    with monkeypatch.context() as patch:
        patch.setattr(publisher.snapshots, "write", lambda _: 1 / 0)
        publisher.publish(change(0))
        wait(lambda: "could not be compacted" in caplog.text)
    publisher.publish(change(1))
    wait(lambda: publisher.snapshots.numbers()[-1:] == [1])
    publisher.close()


def test_replicas_that_moved_on_let_the_log_go_without_a_new_snapshot(tmp_path: Path, log, change) -> None:
    told = AcknowledgementFolder(tmp_path / "told")
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=5, keep=1, acknowledgements=told)
    say(told, "slow", 1)
    for number in range(14):
        publisher.publish(change(number))
    assert (publisher.changes.first(), publisher.snapshots.numbers()) == (2, [10])
    say(told, "slow", 7)
    assert publisher.compactor.trim() == 6
    assert publisher.compactor.trim() == 0
    assert publisher.changes.first() == 8


def test_a_damaged_snapshot_does_not_take_the_place_of_a_whole_one(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2)
    for number in range(9):
        publisher.publish(change(number))
    (tmp_path / "s" / "000000000008.snapshot").write_bytes(b"gone")
    again = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2)
    for number in range(9, 13):
        again.publish(change(number))
    assert again.snapshots.numbers() == [4, 12]
    assert again.changes.first() <= 5
    (tmp_path / "s" / "000000000012.snapshot").write_bytes(b"gone too")
    assert content(caught_up(again)) == content(applied(change, 13))


@pytest.mark.parametrize("number", [0, 5, 99])
def test_when_a_version_was_published_is_known_after_it_was_dropped(log, change, number: int) -> None:
    changes = ChangeLog(log)
    for each in range(100):
        changes.append(change(each))
    at = log.read("changes-checksums", number, limit=1)[0].accepted_time
    changes.trim(50)
    assert changes.published_at(number) == at
    assert changes.checksum(number) == change(number).checksum()
    assert changes.published_at(100) == 0
    assert changes.last() == Version(99, 98)
