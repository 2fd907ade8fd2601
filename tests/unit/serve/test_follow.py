from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.errors import StaleError
from headrace.publish import Replica
from headrace.serve import Follower
from headrace.serve.follow import NICENESS
from headrace.serve.freshness import Delays
from headrace.types import Change, Version

NOW = 1_000_000_000


class Kept:
    """Published changes in memory."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.broken = False

    def publish(self, **notes: torch.Tensor) -> None:
        number = len(self.changes)
        self.changes.append(Change(version=Version(number, number - 1), notes=notes))

    def last(self) -> Version:
        return Version(len(self.changes) - 1)

    def read_since(self, number: int) -> Iterator[Change]:
        if self.broken:
            raise StaleError("Topic", got=number)
        return iter(self.changes[number + 1 :])

    def snapshot(self) -> Change | None:
        return None

    def published_at(self) -> int:
        return NOW


def following(source: Kept) -> Follower:
    return Follower(Replica({}), source, poll_s=0.001, now=lambda: NOW)


def ago(*seconds: float) -> torch.Tensor:
    return torch.tensor([NOW - int(s * 1e6) for s in seconds])


def test_new_versions_are_applied_in_the_background() -> None:
    source = Kept()
    follower = following(source)
    follower.start()
    source.publish()
    source.publish()
    deadline = time.monotonic() + 5
    while follower.replica.version.number < 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    follower.stop()
    assert follower.replica.version.number == 1
    source.publish()
    time.sleep(0.02)
    assert follower.replica.version.number == 1  # stopped means stopped


def test_positives_and_negatives_are_measured_apart() -> None:
    source = Kept()
    follower = following(source)
    follower.step()
    source.publish(accepted_times=ago(1, 3), negative_accepted_times=ago(100))
    follower.step()
    assert follower.positives.summary().count == 2
    assert follower.positives.summary().p50_s == pytest.approx(2.0)
    assert follower.negatives.summary().p50_s == pytest.approx(100.0)


def test_what_was_published_before_the_start_is_not_measured() -> None:
    source = Kept()
    source.publish(accepted_times=ago(500))
    follower = following(source)
    follower.step()
    assert follower.replica.version.number == 0
    assert follower.positives.summary().count == 0


def test_unknown_times_are_not_measured() -> None:
    source = Kept()
    follower = following(source)
    follower.step()
    source.publish(accepted_times=torch.tensor([0, NOW - 1_000_000]))
    follower.step()
    assert follower.positives.summary().count == 1


def test_what_cannot_be_applied_is_told_once_and_tried_again(caplog) -> None:
    source = Kept()
    follower = following(source)
    source.publish()
    follower.step()
    source.publish()
    source.broken = True
    assert not follower.step()
    assert not follower.step()
    assert "Topic" in follower.error
    assert follower.lag == 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    source.broken = False
    assert follower.step()
    assert (follower.error, follower.lag) == ("", 0)


def test_a_log_that_went_back_is_told() -> None:
    source = Kept()
    for _ in range(3):
        source.publish()
    follower = following(source)
    follower.step()
    gone = source.changes.pop()
    assert not follower.step()
    assert "restart this server" in follower.error
    assert follower.replica.version.number == 2
    source.changes.append(gone)
    assert follower.step()
    assert follower.error == ""


def test_an_unknown_failure_does_not_end_the_following(caplog) -> None:
    source = Kept()
    follower = following(source)
    follower.start()
    real, fails = source.last, [True]

    def last() -> Version:
        if fails.pop() if fails else False:
            raise ZeroDivisionError
        return real()

    source.last = last  # type: ignore[method-assign]
    deadline = time.monotonic() + 5
    while "ZeroDivisionError" not in follower.error and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "ZeroDivisionError" in follower.error
    source.publish()
    while follower.replica.version.number < 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    follower.stop()
    assert follower.replica.version.number == 0


def test_no_delays_have_no_quantiles() -> None:
    summary = Delays().summary()
    assert summary.count == 0
    assert np.isnan(summary.p50_s)


def test_quantiles_are_of_the_newest_and_counts_of_all() -> None:
    delays = Delays(recent=100)
    delays.add(np.full(500, 50.0))
    delays.add(np.linspace(1.0, 2.0, 100))
    summary = delays.summary()
    assert summary.count == 600
    assert summary.p50_s == pytest.approx(1.5)
    assert summary.p99_s == pytest.approx(1.99, abs=0.01)
    assert summary.sum_s == pytest.approx(500 * 50 + 150)
    assert summary.buckets[-3:] == (100, 600, 600)  # up to 30, 60, 300 s


def test_more_delays_at_once_than_are_kept() -> None:
    delays = Delays(recent=10)
    delays.add(np.arange(25.0))
    assert delays.summary().p50_s == pytest.approx(np.median(np.arange(15.0, 25.0)))


def test_delays_are_kept_in_turn() -> None:
    delays = Delays(recent=4)
    for value in range(10):
        delays.add(np.array([float(value)]))
    assert delays.summary().p50_s == pytest.approx(np.median([6.0, 7.0, 8.0, 9.0]))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="threads have a niceness of their own on Linux alone")
def test_following_steps_back_only_where_nobody_waits_for_it() -> None:
    for waited_for in (True, False):
        follower = following(Kept())
        follower.replica.waited_for = waited_for  # type: ignore[misc]
        seen: list[int] = []
        apply = follower.step

        def step(apply: Callable[[], bool] = apply, seen: list[int] = seen) -> bool:
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return apply()

        follower.step = step  # type: ignore[method-assign]
        follower.start()
        deadline = time.monotonic() + 5
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        follower.stop()
        assert seen[-1] == (seen[0] if waited_for else max(seen[0], NICENESS))
        assert os.getpriority(os.PRIO_PROCESS, 0) == seen[0]  # the process itself stays as it was
