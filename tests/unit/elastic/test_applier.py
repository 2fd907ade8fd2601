"""Decisions go to every server, in order, once they are there, and again after a restart."""

from __future__ import annotations

import threading
import time

import pytest

from headrace.elastic.applier import Applier
from headrace.elastic.buckets import BucketMap
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.errors import StoreError, WorkerLost

from .tables_world import named


class Taker:
    """Notes what it is told; may be lost, slow or refuse."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.versions: list[int | None] = []
        self.lost, self.refuses = False, False
        self.gate = threading.Event()
        self.gate.set()

    def apply_all(self, steps, version=None) -> int:
        self.gate.wait()
        self.versions.append(version)
        if self.lost:
            raise WorkerLost("taker")
        if self.refuses:
            raise StoreError("taker")
        self.told += [step for step, _ in steps]
        return 0

    def fence(self, epoch: int, worker: str = "") -> None:
        self.told.append((epoch, worker))


@pytest.fixture
def takers():
    return [Taker(), Taker(), Taker()]


@pytest.fixture
def applier(takers):
    record = BucketDirectory(BucketMap.even([0, 1]))  # the third has no buckets
    for number in (0, 1, 2):
        record.set_server(number, str(number))
    made = Applier(Directory(record.fields, lambda address: takers[int(address)]))
    yield made
    made.close()


def test_all_servers_hear_everything_in_order(applier, takers) -> None:
    takers[1].gate.clear()
    for step in range(1, 200):
        applier.committed(step, [named(step)])
        if step == 50:
            applier.fence(3, "w1")
    applier.committed(7, [named(7)])  # old
    with pytest.raises(WorkerLost, match=r"\[1\]"):
        applier.flush(0.05)
    takers[1].gate.set()
    applier.flush()
    expected = [*range(1, 51), (3, "w1"), *range(51, 200)]
    assert takers[0].told == takers[1].told == takers[2].told == expected
    assert applier.last == 199


def test_a_server_that_is_away_is_told_later(applier, takers) -> None:
    takers[0].lost = True
    applier.committed(1, [named(1)])
    time.sleep(0.02)
    takers[0].lost = False
    applier.flush()
    assert takers[0].told == [1]


def test_a_server_that_refuses_stops_everything_until_a_restore(applier, takers) -> None:
    takers[0].refuses = True
    applier.committed(1, [named(1)])
    with pytest.raises(StoreError):
        applier.flush()
    with pytest.raises(StoreError):
        applier.committed(2, [named(2)])
    takers[0].refuses = False
    applier.reset(0)
    applier.resume([(1, [named(1)]), (2, [named(2)])])
    applier.flush()
    assert takers[0].told == [1, 2]


def test_after_a_restore_steps_are_told_by_its_map(applier, takers) -> None:
    applier.committed(1, [named(1)])
    applier.flush()
    before = applier.directory.map
    applier.directory._fetch = lambda: {"map": before.moved([0], 1).fields(), "servers": {0: "0", 1: "1", 2: "2"}}
    applier.directory.refresh()
    applier.committed(2, [named(2)])  # by a line from before: a server that is restored already ignores it
    applier.flush()
    applier.reset(0)
    applier.committed(1, [named(1)])
    applier.flush()
    assert takers[0].versions == [before.version, before.version, before.version + 1]
