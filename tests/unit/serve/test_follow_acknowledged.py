"""A follower says what it holds, and everybody can see how far behind each replica is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.data.log import EmbeddedLog
from headrace.publish import Acknowledgement, AcknowledgementFolder, Acknowledger, ChangeReader, LogPublisher
from headrace.serve import Follower, ServeConfig
from headrace.serve.service import RankService

SECOND = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.us = time.time_ns() // 1000

    def __call__(self) -> int:
        return self.us


class Served:
    """A publisher, and a replica that follows it."""

    def __init__(self, folder: Path, predictor, change) -> None:
        self.log, self.clock, self._change = EmbeddedLog(folder / "changes.db", durability="process"), Clock(), change
        self.publisher = LogPublisher(self.log, folder / "s")
        self.told = AcknowledgementFolder(folder / "told")
        self.follower = Follower(
            predictor.replica, ChangeReader(self.log, folder / "s"), now=self.clock,
            acknowledger=Acknowledger(self.told, "here", now=self.clock),
        )  # fmt: skip

    def publish(self, count: int) -> None:
        first = self.publisher.last().number + 1
        for number in range(first, first + count):
            self.publisher.publish(self._change(number))


@pytest.fixture
def served(tmp_path: Path, make_predictor: Callable, make_change: Callable) -> Served:
    return Served(tmp_path, make_predictor(), make_change)


def test_what_was_applied_is_acknowledged(served: Served) -> None:
    served.publish(2)
    served.follower.step()
    assert served.told.newest()["here"].version == 1
    served.publish(1)
    served.clock.us += SECOND
    served.follower.step()
    assert served.told.newest()["here"].version == 2


def test_what_cannot_be_applied_is_not_acknowledged(served: Served, make_change) -> None:
    served.publish(1)
    served.follower.step()
    served.publisher.publish(make_change(1, spec={"schema": "another"}))
    for _ in range(3):
        served.clock.us += 2 * SECOND
        assert not served.follower.step()
    assert served.told.newest()["here"].version == 0
    assert ("headrace_following", 0.0) in [(name, values[0][1]) for name, _, values in served.follower.gauges()]
    assert served.follower.lag == 1
    assert served.follower.lag_s >= 4
    served.clock.us += 10 * SECOND
    assert served.follower.lag_s >= 14


def test_the_end_is_acknowledged(served: Served) -> None:
    served.follower.start()
    served.publish(1)
    deadline = time.monotonic() + 10
    while served.follower.replica.version.number < 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    served.publish(1)
    served.follower.stop()
    served.follower.step()
    served.follower.stop()
    assert served.told.newest()["here"].version == 1


def test_a_place_that_takes_no_word_stops_nothing(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    served.follower.acknowledger = Acknowledger(AcknowledgementFolder(tmp_path / "file"), "here", now=served.clock)
    served.publish(3)
    assert served.follower.step()
    assert served.follower.replica.version.number == 2


def test_health_and_metrics_tell_of_every_replica(tmp_path: Path, make_predictor, make_change) -> None:
    log = EmbeddedLog(tmp_path / "changes.db", durability="process")
    publisher, told = LogPublisher(log, tmp_path / "s"), AcknowledgementFolder(tmp_path / "told")
    for number in range(4):
        publisher.publish(make_change(number))
    told.record(Acknowledgement(replica="far", version=1, time=time.time_ns() // 1000 - 5 * SECOND))
    service = RankService(
        make_predictor(), EmbeddedLog(tmp_path / "events.db", durability="process"), ServeConfig(),
        changes=ChangeReader(log, tmp_path / "s"), acknowledger=Acknowledger(told, "here"),
    )  # fmt: skip
    service.start()
    try:
        health = service.health()
        text = service.metrics.text().decode()
    finally:
        service.close()
    assert (health["replica"], health["lag_versions"], health["lag_s"]) == ("here", 0, 0.0)
    replicas = health["replicas"]
    assert isinstance(replicas, dict)
    assert set(replicas) == {"far", "here"}
    assert replicas["far"]["version"] == 1
    assert replicas["far"]["lag_versions"] == 2
    assert replicas["far"]["silent_s"] >= 5
    assert 'headrace_replica_lag_versions{replica="far"} 2.0' in text
    assert 'headrace_replica_lag_versions{replica="here"} 0.0' in text
    assert 'headrace_replica_lag_seconds{replica="far"}' in text
    assert "headrace_version_lag_seconds 0.0" in text
    assert "headrace_following 1.0" in text
