from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.errors import StaleError, StoreError
from headrace.publish import (
    AcknowledgementFolder,
    Acknowledger,
    ChangeFolder,
    ChangeFolderWriter,
    ChangeReader,
    LogPublisher,
    Mirror,
    Replica,
    Retention,
    run_id,
)
from headrace.store import TableConfig, open_table


def replica() -> Replica:
    return Replica({"user": open_table(TableConfig(name="user", dim=3, seed=5), serving=True)},
                   {"weight": torch.zeros(2)})  # fmt: skip


def content(one: Replica) -> tuple:
    return one.version.number, one.tables["user"].lookup(torch.arange(-2, 400)).tolist(), one.dense["weight"].tolist()


class Place:
    """A publisher, and a folder that its versions are copied to."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.root = folder
        self.log = EmbeddedLog(folder / "changes.db", durability="process")
        self.told = AcknowledgementFolder(folder / "told")
        self.publisher = LogPublisher(self.log, folder / "s", acknowledgements=self.told, **settings)  # type: ignore[arg-type]
        self.far = ChangeFolder(folder / "far")

    def mirror(self) -> Mirror:
        log = EmbeddedLog(self.root / "changes.db", durability="process")
        target = ChangeFolderWriter(self.root / "far", run_id(log), sync=False, retention=Retention(snapshots=2))
        return Mirror(
            ChangeReader(log, self.root / "s"), target, acknowledger=Acknowledger(self.told, "far", every_s=0)
        )

    def same(self) -> bool:
        near, far = replica(), replica()
        near.catch_up(self.publisher)
        far.catch_up(self.far)
        return content(near) == content(far)


def test_versions_and_snapshots_are_copied(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=4)
    mirror = place.mirror()
    assert mirror.step() == 0
    for number in range(11):
        place.publisher.publish(change(number))
        mirror.step()
    assert mirror.step() == 0
    assert place.far.last().number == 10
    assert place.far.snapshots.numbers() == place.publisher.snapshots.numbers() == [4, 8]
    assert place.far.numbers() == list(range(4, 11))
    assert place.told.newest()["far"].version == 10
    assert place.same()


def test_a_new_place_begins_with_the_snapshot(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=10)
    for number in range(25):
        place.publisher.publish(change(number))
    place.mirror().step()
    assert place.far.snapshots.numbers() == [20]
    assert place.far.numbers() == [21, 22, 23, 24]
    assert place.same()


def test_the_log_is_kept_for_a_place_that_is_away(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=5, keep=1)
    place.publisher.publish(change(0))
    place.mirror().step()
    for number in range(1, 33):
        place.publisher.publish(change(number))
    assert place.publisher.changes.first() == 1
    mirror = place.mirror()
    assert mirror.step() == 32
    assert place.same()


def test_a_place_that_was_away_for_too_long_goes_on_from_a_snapshot(tmp_path: Path, change, caplog) -> None:
    place = Place(tmp_path, snapshot_every=5, keep=1, retention=Retention(keep_versions=8))
    place.publisher.publish(change(0))
    place.mirror().step()
    following = replica()
    following.catch_up(place.far)
    for number in range(1, 33):
        place.publisher.publish(change(number))
    mirror = place.mirror()
    with caplog.at_level(logging.WARNING):
        mirror.step()
    assert "goes on from version 30" in caplog.text
    mirror.step()
    assert place.far.last().number == 32
    following.catch_up(place.far)
    assert following.version.number == 32
    assert place.same()


def test_nothing_that_helps_is_said(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=5, keep=1)
    for number in range(12):
        place.publisher.publish(change(number))
    mirror = place.mirror()
    for path in (tmp_path / "s").iterdir():
        path.unlink()
    with pytest.raises(StaleError):
        mirror.step()


def test_a_log_that_is_older_than_the_place_is_refused(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=50)
    for number in range(3):
        place.publisher.publish(change(number))
    mirror = place.mirror()
    mirror.step()
    mirror.target.append(change(3))
    with pytest.raises(StoreError, match="older copy"):
        mirror.step()


def test_another_past_under_the_same_numbers_is_refused(tmp_path: Path, change) -> None:
    """As after a power cut: the copy has a version that the log lost, and the learner learned another one."""
    place = Place(tmp_path, snapshot_every=50)
    for number in range(3):
        place.publisher.publish(change(number))
    mirror = place.mirror()
    mirror.step()
    mirror.target.append(change(3))
    again = place.mirror()
    with pytest.raises(StoreError, match="power cut"):
        again.step()
    place.publisher.publish(change(3, salt=1))
    place.publisher.publish(change(4))
    for each in (again, place.mirror()):
        with pytest.raises(StoreError, match="version 3: got checksum"):
            each.step()
    assert place.far.last().number == 3


def test_the_same_past_is_gone_on_from(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=50)
    for number in range(3):
        place.publisher.publish(change(number))
    mirror = place.mirror()
    mirror.step()
    mirror.target.append(change(3))
    with pytest.raises(StoreError):
        mirror.step()
    for number in (3, 4):  # the learner repeats its steps
        place.publisher.publish(change(number))
    assert mirror.step() == 1
    assert place.same()


def test_publishing_does_not_wait_for_a_place_that_fails(tmp_path: Path, change, caplog, monkeypatch) -> None:
    monkeypatch.setattr("headrace.publish.mirror.BACKOFF_S", 0.01)
    place = Place(tmp_path, snapshot_every=50)
    mirror = place.mirror()
    real = mirror.target.append

    def broken(_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror.target, "append", broken)
    monkeypatch.setattr(mirror.target, "begin", broken)
    mirror.start()
    for number in range(5):
        place.publisher.publish(change(number))
    deadline = time.monotonic() + 10
    while "No space" not in mirror.error and time.monotonic() < deadline:
        time.sleep(0.005)
    assert "No space" in mirror.error
    assert len([each for each in caplog.records if "could not be copied" in each.message]) == 1
    monkeypatch.setattr(mirror.target, "append", real)
    monkeypatch.setattr(mirror.target, "begin", ChangeFolderWriter.begin.__get__(mirror.target))
    while place.far.last().number < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    mirror.stop(finish=True)
    assert mirror.error == ""
    assert place.same()


def test_at_the_end_everything_is_copied(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=50)
    mirror = place.mirror()
    mirror.start()
    for number in range(40):
        place.publisher.publish(change(number))
    mirror.stop(finish=True)
    assert place.far.last().number == 39
    assert place.told.newest()["far"].version == 39


def test_whoever_rewrites_keeps_the_copying_out(tmp_path: Path, change) -> None:
    place = Place(tmp_path, snapshot_every=50)
    mirror, done = place.mirror(), threading.Event()
    place.publisher.publish(change(0))

    def copy() -> None:
        mirror.step()
        done.set()

    with mirror.alone():
        thread = threading.Thread(target=copy)
        thread.start()
        assert not done.wait(0.05)
        assert place.far.last().number == -1
    thread.join(10)
    assert place.far.last().number == 0


def test_a_run_keeps_its_name(tmp_path: Path) -> None:
    first, other = (EmbeddedLog(tmp_path / name, durability="process") for name in ("a.db", "b.db"))
    assert run_id(first) == run_id(first) == run_id(EmbeddedLog(first.path, durability="process"))
    assert run_id(first) != run_id(other)


def _copy_for_ever(root: Path, started) -> None:
    mirror = Place(root, snapshot_every=7).mirror()
    started.set()
    while True:
        mirror.step()


def test_killed_at_any_moment_the_mirror_copies_each_version_once(tmp_path: Path, change) -> None:
    context = multiprocessing.get_context("fork")
    place = Place(tmp_path, snapshot_every=7)
    for number in range(120):
        if number % 20 == 0:
            started = context.Event()
            process = context.Process(target=_copy_for_ever, args=(tmp_path, started))
            process.start()
            assert started.wait(20)
        place.publisher.publish(change(number))
        if number % 20 == 15:
            time.sleep(0.004 * (number % 9))
            os.kill(process.pid, signal.SIGKILL)
            process.join(20)
    place.mirror().step()
    assert place.far.last().number == 119
    kept = place.far.numbers()
    assert kept == list(range(kept[0], 120))
    assert [place.far.read(number).checksum() for number in kept] == [change(number).checksum() for number in kept]
    assert place.same()
