from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, GapError, StaleError, StoreError
from headrace.publish import ChangeReader, LogPublisher, StagingPublisher, merge, relay
from headrace.testing.checks import check_publisher
from headrace.types import Version


def test_the_log_publisher_keeps_the_contract(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "a.db", durability="process")

    def opened(_: object = None) -> LogPublisher:
        return LogPublisher(log, tmp_path / "snapshots", snapshot_every=2)

    assert check_publisher(opened, reopen=opened).untried == ()


def test_the_staging_publisher_keeps_the_contract(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "a.db", durability="process")
    assert check_publisher(lambda: StagingPublisher(log), reopen=lambda _: StagingPublisher(log)).untried == ()


def test_there_is_a_snapshot_from_the_first_version_on(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=10)
    publisher.publish(change(0))
    assert publisher.snapshot().version.number == 0


def test_snapshots_come_every_so_many_versions(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=3)
    for number in range(10):
        publisher.publish(change(number))
    assert publisher.snapshots.numbers() == [0, 4, 8]


def test_a_snapshot_is_all_changes_in_one(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=3)
    for number in range(7):
        publisher.publish(change(number))
    snapshot, whole = publisher.snapshot(), merge([change(number) for number in range(7)])
    assert snapshot.full
    assert snapshot.version == Version(6, -1)
    assert snapshot.tables["user"].ids.tolist() == whole.tables["user"].ids.tolist() == [6, 7]
    assert snapshot.tables["user"].rows.equal(whole.tables["user"].rows)
    assert not len(snapshot.tables["user"].removed)


def test_the_log_is_trimmed_only_before_the_oldest_snapshot_kept(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2)
    for number in range(15):
        publisher.publish(change(number))
    assert publisher.snapshots.numbers() == [8, 12]
    assert log.topic("changes").first_offset == 8
    assert [one.version.number for one in publisher.read_since(7)] == list(range(8, 15))


def test_a_damaged_snapshot_is_made_again_from_the_older_one(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2)
    for number in range(9):
        publisher.publish(change(number))
    (tmp_path / "s" / "000000000008.snapshot").write_bytes(b"gone")
    again = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2)
    assert again.snapshot().version.number == 4
    for number in range(9, 13):
        again.publish(change(number))
    assert again.snapshot().version.number == 12
    assert again.snapshot().tables["user"].ids.tolist() == [12, 13]


def test_a_disk_that_takes_no_snapshot_costs_no_version(tmp_path: Path, log, change, caplog, monkeypatch) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=1)
    publisher.publish(change(0))

    def full_disk(_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(publisher.snapshots, "write", full_disk)
        publisher.publish(change(1))
    assert publisher.last().number == 1
    assert "no snapshot of version 1" in caplog.text
    publisher.publish(change(2))
    assert publisher.snapshot().version.number == 2


def test_a_lost_log_beside_snapshots_is_refused(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=1)
    publisher.publish(change(0))
    with pytest.raises(StoreError, match="lost or replaced"):
        LogPublisher(EmbeddedLog(tmp_path / "fresh.db", durability="process"), tmp_path / "s")


def test_snapshot_every_must_be_positive(tmp_path: Path, log) -> None:
    with pytest.raises(ConfigError, match="snapshot_every"):
        LogPublisher(log, tmp_path, snapshot_every=0)


def test_a_reader_sees_what_was_published(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=2)
    reader = ChangeReader(EmbeddedLog(log.path, durability="process"), tmp_path / "s")
    assert reader.last() == Version(-1)
    for number in range(4):
        publisher.publish(change(number))
    assert reader.last() == publisher.last()
    assert reader.published_at() == publisher.published_at() > 0
    assert reader.snapshot().version.number == 2
    assert [one.version.number for one in reader.read_since(1)] == [2, 3]


class Stage:
    """A staged log and a publisher behind it."""

    def __init__(self, folder: Path) -> None:
        self.log = EmbeddedLog(folder / "staged.db", durability="process")
        self.staging = StagingPublisher(self.log)
        self.changes = EmbeddedLog(folder / "changes.db", durability="process")
        self.publisher = LogPublisher(self.changes, folder / "s", snapshot_every=5)

    def published(self) -> list[int]:
        return [entry.offset for entry in self.changes.read("changes", self.publisher.changes.first(), limit=1000)]


def test_the_relay_publishes_in_order_and_ends_with_the_topic(tmp_path: Path, change) -> None:
    stage, seen = Stage(tmp_path), []
    for number in range(40):
        stage.staging.publish(change(number))
    stage.log.close_topic("staged")
    assert relay(stage.log, stage.publisher, on_progress=seen.append) == 40
    assert [version.number for version in seen] == list(range(40))
    assert stage.publisher.last().number == 39


def test_the_relay_removes_what_it_published(tmp_path: Path, change) -> None:
    stage = Stage(tmp_path)
    for number in range(20):
        stage.staging.publish(change(number))
    stage.log.close_topic("staged")
    relay(stage.log, stage.publisher)
    assert stage.log.topic("staged").first_offset == 20


def test_the_learner_may_repeat_what_the_relay_removed(tmp_path: Path, change) -> None:
    stage = Stage(tmp_path)
    for number in range(20):
        stage.staging.publish(change(number))
    relay(stage.log, stage.publisher, stop=lambda: stage.publisher.last().number == 19)
    again = StagingPublisher(stage.log)
    assert again.last().number == 19
    assert again.publish(change(4)).version.number == 4
    with pytest.raises(GapError):
        again.publish(change(4, salt=1))
    assert again.publish(change(20)).version.number == 20


def test_the_relay_goes_on_where_it_was_stopped(tmp_path: Path, change) -> None:
    stage = Stage(tmp_path)
    for number in range(12):
        stage.staging.publish(change(number))
    assert relay(stage.log, stage.publisher, stop=lambda: stage.publisher.last().number >= 4) == 5
    stage.log.close_topic("staged")
    assert relay(stage.log, stage.publisher) == 7


def test_a_published_version_that_was_not_removed_is_recognised(tmp_path: Path, change) -> None:
    stage = Stage(tmp_path)
    for number in range(3):
        stage.staging.publish(change(number))
        stage.publisher.publish(change(number))  # as if killed between publishing and removing
    stage.log.close_topic("staged")
    assert relay(stage.log, stage.publisher) == 3
    assert stage.published() == [0, 1, 2]


def test_a_lost_published_log_is_refused(tmp_path: Path, change) -> None:
    stage = Stage(tmp_path)
    for number in range(5):
        stage.staging.publish(change(number))
    relay(stage.log, stage.publisher, stop=lambda: stage.publisher.last().number == 4)
    fresh = LogPublisher(EmbeddedLog(tmp_path / "fresh.db", durability="process"), tmp_path / "other")
    with pytest.raises(StaleError, match="lost or replaced"):
        relay(stage.log, fresh)


# Each line from outside is another relay, in a process of its own: a fork, so that torch is imported once.
RELAYS = """
import os, sys
from pathlib import Path
from headrace.data.log import EmbeddedLog
from headrace.publish import LogPublisher, relay
folder, child = Path(sys.argv[1]), 0
while sys.stdin.readline():
    if child:
        os.waitpid(child, 0)
    child = os.fork()
    if not child:
        changes = EmbeddedLog(folder / "changes.db", durability="process")
        publisher = LogPublisher(changes, folder / "s", snapshot_every=5)
        print(os.getpid(), flush=True)
        relay(EmbeddedLog(folder / "staged.db", durability="process"), publisher)
        os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_at_any_moment_the_relay_publishes_each_version_once(tmp_path: Path, change) -> None:
    stage, total = Stage(tmp_path), 120
    made = [change(number) for number in range(total)]
    running, kills = 0, 0
    with subprocess.Popen([sys.executable, "-c", RELAYS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, bufsize=1) as relays:  # fmt: skip
        assert relays.stdin is not None
        assert relays.stdout is not None
        for number, one in enumerate(made):
            stage.staging.publish(one)
            if number % 30 == 5:
                if running:
                    os.kill(running, signal.SIGKILL)
                    kills += 1
                relays.stdin.write("another\n")
                running = int(relays.stdout.readline())
                time.sleep(0.002 * (number % 7))
        stage.log.close_topic("staged")
        relays.stdin.close()
        assert relays.wait(60) == 0
    assert kills == 3
    assert stage.publisher.last().number == total - 1
    kept = list(stage.publisher.read_since(stage.publisher.changes.first() - 1))
    assert [one.checksum() for one in kept] == [one.checksum() for one in made[kept[0].version.number :]]
    assert stage.published() == [one.version.number for one in kept]
    assert stage.publisher.snapshot().version.number >= total - 5
