"""Stages add up: each has its own time, and what happens inside another one is not counted twice."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from headrace.learn import StageTimes
from headrace.learn.stages import lookups_timed
from headrace.testing.toy import Toy, ToyConfig


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_a_stage_inside_another_is_counted_once(clock: Clock) -> None:
    times = StageTimes()
    with times.stage("forward"):
        clock.now += 1
        with times.stage("lookup"):
            clock.now += 10
        clock.now += 100
    clock.now += 1000
    with times.stage("lookup"):
        clock.now += 5
    assert times.seconds == {"forward": 101.0, "lookup": 15.0}
    assert not times.inside


def test_an_error_closes_what_it_left_open(clock: Clock) -> None:
    times = StageTimes()
    with pytest.raises(ValueError, match="x"), times.stage("forward"):
        times.enter("lookup")
        clock.now += 2
        raise ValueError("x")
    assert times.seconds == {"forward": 0.0, "lookup": 2.0}
    assert not times.inside


def test_methods_are_watched(clock: Clock) -> None:
    class Part:
        def work(self, seconds: float, *, more: float = 0.0) -> float:
            clock.now += seconds + more
            return seconds

    times, part = StageTimes(), Part()
    times.watch(part, "work", "publish")
    assert part.work(2.0, more=1.0) == 2.0
    assert times.seconds == {"publish": 3.0}


def test_totals_go_on() -> None:
    first, second = StageTimes(), StageTimes()
    with first.stage("forward"):
        pass
    first.add_beside("read", 2.0)
    first.count()
    second.go_on(first.totals())
    second.add_beside("read", 1.0)
    second.count()
    assert second.totals() == {"steps": 2, "seconds": first.seconds, "beside": {"read": 3.0}}
    assert first.beside == {"read": 2.0}


def test_only_lookups_of_the_step_are_timed() -> None:
    times = StageTimes()
    before, after = lookups_timed(times)
    before()
    after()
    assert times.seconds == {}
    with times.stage("forward"):
        with torch.no_grad():
            before()
            after()
        thread = threading.Thread(target=torch.no_grad()(lambda: (before(), after())))
        thread.start()
        thread.join()
        assert "lookup" not in times.seconds
        before()
        after()
    assert set(times.seconds) == {"forward", "lookup"}


def test_a_learner_says_where_its_time_went(make_learner) -> None:
    learner = make_learner()
    for batch in Toy(ToyConfig(users=16, items=16)).batches(32, 3):
        learner.learn(batch)
    assert learner.times.steps == 3
    assert set(learner.times.seconds) == {"lookup", "forward", "backward", "table update", "dense update", "checks"}
    assert not learner.times.inside
