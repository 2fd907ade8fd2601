from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.publish import Acknowledgement, AcknowledgementFolder, Acknowledger, LogPublisher, lags
from headrace.types import Version

SECOND = 1_000_000


def ack(replica: str, version: int, at: int = 1) -> Acknowledgement:
    return Acknowledgement(replica=replica, version=version, time=at)


def test_the_newest_word_of_every_replica_is_kept(tmp_path: Path) -> None:
    kept = AcknowledgementFolder(tmp_path / "absent")
    assert kept.newest() == {}
    for one in (ack("a", 1), ack("b", 7), ack("a", 2)):
        kept.record(one)
    assert kept.newest() == {"a": ack("a", 2), "b": ack("b", 7)}
    kept.forget("a")
    kept.forget("nobody")
    assert set(kept.newest()) == {"b"}


@pytest.mark.parametrize("name", ["../up", "a/b", "über server", "x.json", "%2F", "."])
def test_any_name_is_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    kept = AcknowledgementFolder(tmp_path / "here", sync=True)
    kept.record(ack(name, 3))
    kept.record(ack("other", 4))
    assert kept.newest()[name].version == 3
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


OTHERS = b'{"replica":"b","version":1,"time":1}'


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"replica": "a"}', OTHERS])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, data: bytes) -> None:
    kept = AcknowledgementFolder(tmp_path)
    kept.record(ack("c", 3))
    (tmp_path / "a.json").write_bytes(data)
    (tmp_path / "notes.txt").write_text("something else")
    assert set(kept.newest()) == {"c"}


def _record_for_ever(folder: Path, started) -> None:
    kept = AcknowledgementFolder(folder)
    version = 0
    while True:
        kept.record(ack("a", version, version))
        version += 1
        if version == 50:
            started.set()


def test_killed_at_any_moment_a_replica_leaves_a_whole_word(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    kept, last = AcknowledgementFolder(tmp_path), 0
    for number in range(4):
        started = context.Event()
        process = context.Process(target=_record_for_ever, args=(tmp_path, started))
        process.start()
        assert started.wait(20)
        time.sleep(0.003 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.join(20)
        last = kept.newest()["a"].version
        assert last >= 48
    assert set(kept.newest()) == {"a"}
    (tmp_path / "b.json.77.part").write_bytes(b"half of another replica's")
    (tmp_path / "a.json.78.part").write_bytes(b"half")
    AcknowledgementFolder(tmp_path).record(ack("a", 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json.77.part"]


class Clock:
    def __init__(self) -> None:
        self.us = 1_000 * SECOND

    def __call__(self) -> int:
        return self.us

    def on(self, seconds: float) -> None:
        self.us += int(seconds * SECOND)


def test_a_version_is_told_at_once_and_then_not_too_often(tmp_path: Path) -> None:
    clock, kept = Clock(), AcknowledgementFolder(tmp_path)
    one = Acknowledger(kept, "a", every_s=0.5, alive_s=5, now=clock)
    assert one.tell(Version(3))
    clock.on(0.1)
    assert not one.tell(Version(4))
    assert kept.newest()["a"].version == 3
    clock.on(0.5)
    assert one.tell(Version(9))
    assert kept.newest()["a"].version == 9


def test_a_replica_at_rest_gives_a_sign_of_life(tmp_path: Path) -> None:
    clock, kept = Clock(), AcknowledgementFolder(tmp_path)
    one = Acknowledger(kept, "a", every_s=0.5, alive_s=5, now=clock)
    one.tell(Version(3))
    clock.on(4)
    assert not one.tell(Version(3))
    clock.on(1.5)
    assert one.tell(Version(3))
    assert kept.newest()["a"].time == clock.us
    clock.on(-3600)  # the clock was set back
    assert one.tell(Version(3))


def test_the_last_word_is_not_held_back(tmp_path: Path) -> None:
    clock, kept = Clock(), AcknowledgementFolder(tmp_path)
    one = Acknowledger(kept, "a", now=clock)
    one.tell(Version(3))
    assert one.tell(Version(4), final=True)
    assert not one.tell(Version(4), final=True)
    assert kept.newest()["a"].version == 4


def test_a_word_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog) -> None:
    clock = Clock()
    (tmp_path / "file").write_text("in the way")
    one = Acknowledger(AcknowledgementFolder(tmp_path / "file" / "below"), "a", now=clock)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert not one.tell(Version(number))
            clock.on(1)
    assert len(caplog.records) == 1
    (tmp_path / "file").unlink()
    assert one.tell(Version(3))


@pytest.mark.parametrize("name", ["", "x" * 200])
def test_a_name_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="Replica's name"):
        Acknowledger(AcknowledgementFolder(tmp_path), name)


def test_lag_is_counted_in_versions_and_in_seconds(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=100)
    for number in range(10):
        publisher.publish(change(number))
    now = publisher.published_at() + 30 * SECOND
    told = {"far": ack("far", 3, now - 9 * SECOND), "near": ack("near", 9, now), "new": ack("new", -1, now)}
    far, near, fresh = lags(told, publisher, now)
    assert (far.replica, far.version, far.versions, far.silent_s) == ("far", 3, 6, 9.0)
    assert far.seconds == (now - publisher.published_at(4)) / SECOND
    assert 30 <= far.seconds < 60
    assert (near.versions, near.seconds) == (0, 0.0)
    assert (fresh.versions, fresh.seconds) == (10, (now - publisher.published_at(0)) / SECOND)
