from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest

from headrace.errors import CapacityError
from headrace.serve.pressure import Pressure


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Disk:
    free = 1 << 40

    def __call__(self, folder: object) -> Usage:
        if self.free < 0:
            raise OSError("gone")
        return Usage(1 << 41, 0, self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", disk)
    return disk


def test_with_room_rows_are_taken(tmp_path, disk) -> None:
    pressure = Pressure(tmp_path, min_free_bytes=1 << 30)
    pressure.check()
    assert pressure.free_bytes == 1 << 40


def test_a_disk_that_is_nearly_full_refuses_rows_until_there_is_room(tmp_path, disk) -> None:
    now = 0.0
    pressure = Pressure(tmp_path, min_free_bytes=1 << 30, now=lambda: now)
    disk.free = 1 << 29
    with pytest.raises(CapacityError, match="512 MiB of free disk, expected at least 1024 MiB"):
        pressure.check()
    assert pressure.retry_s == 30.0
    disk.free = 1 << 31
    with pytest.raises(CapacityError):
        pressure.check()  # it looks four times a second
    now = 0.3
    pressure.check()
    assert pressure.retry_s == 1.0


def test_a_learner_that_is_too_far_behind_refuses_rows(tmp_path, disk) -> None:
    now, waiting = 0.0, 11
    pressure = Pressure(tmp_path, min_free_bytes=0, max_backlog_rows=10, now=lambda: now)
    pressure.backlog = lambda: waiting
    with pytest.raises(CapacityError, match="11 rows that nobody has learned from yet, expected at most 10"):
        pressure.check()
    assert pressure.retry_s == 5.0
    now, waiting = 1.0, 10
    pressure.check()


@pytest.mark.parametrize("backlog", [None, lambda: None])
def test_a_backlog_that_is_not_known_refuses_nothing(tmp_path, disk, backlog) -> None:
    pressure = Pressure(tmp_path, min_free_bytes=0, max_backlog_rows=1)
    pressure.backlog = backlog
    pressure.check()


def test_a_folder_that_cannot_be_looked_at_is_left_to_the_log(tmp_path, disk) -> None:
    disk.free = -1
    Pressure(tmp_path, min_free_bytes=1 << 30).check()
