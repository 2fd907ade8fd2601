from __future__ import annotations

import logging
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.publish import Acknowledgement, AcknowledgementFolder, Retention
from headrace.publish.retention import kept_from, remembered
from headrace.types import Version


class Log:
    """Versions 0 .. last, each of ten bytes."""

    def __init__(self, last: int) -> None:
        self.number = last

    def last(self) -> Version:
        return Version(self.number)

    def first_within(self, size: int) -> int:
        return self.number + 1 - size // 10


def told(**versions: int) -> dict[str, Acknowledgement]:
    return {name: Acknowledgement(replica=name, version=number, time=0) for name, number in versions.items()}


def test_without_replicas_the_log_begins_at_the_oldest_snapshot() -> None:
    assert kept_from(Log(100), 80, {}, Retention()) == 80


def test_the_log_is_kept_for_the_slowest_replica() -> None:
    assert kept_from(Log(100), 80, told(a=99, b=60), Retention()) == 61


def test_a_replica_ahead_of_the_snapshots_does_not_shorten_the_log() -> None:
    assert kept_from(Log(100), 80, told(a=99), Retention()) == 80


def test_versions_bound_what_is_kept() -> None:
    assert kept_from(Log(100), 80, told(a=10), Retention(keep_versions=30)) == 71


def test_bytes_bound_what_is_kept() -> None:
    assert kept_from(Log(100), 80, told(a=10), Retention(keep_bytes=400)) == 61


def test_no_bound_goes_beyond_the_oldest_snapshot() -> None:
    assert kept_from(Log(100), 80, told(a=10), Retention(keep_versions=1, keep_bytes=1)) == 80


def test_a_replica_without_a_version_holds_nothing() -> None:
    assert kept_from(Log(100), 80, told(a=-1), Retention()) == 80  # it begins with a snapshot


def test_a_silent_replica_is_forgotten_and_comes_back(tmp_path: Path, caplog) -> None:
    kept = AcknowledgementFolder(tmp_path)
    for name, at in (("old", 10), ("young", 100)):
        kept.record(Acknowledgement(replica=name, version=5, time=at * 1_000_000))
    with caplog.at_level(logging.WARNING):
        assert set(remembered(kept, 60, now=120 * 1_000_000)) == {"young"}
    assert "'old' was silent for more than 60 s" in caplog.text
    assert set(kept.newest()) == {"young"}
    kept.record(Acknowledgement(replica="old", version=6, time=119 * 1_000_000))
    assert set(remembered(kept, 60, now=120 * 1_000_000)) == {"old", "young"}


@pytest.mark.parametrize(
    ("name", "value"), [("keep_versions", 0), ("keep_bytes", 0), ("snapshots", 0), ("forget_after_s", 0)]
)
def test_a_setting_that_cannot_work_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        Retention(**{name: value})
