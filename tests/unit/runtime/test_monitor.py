"""Windows forget, changes are seen and noise is not."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.runtime.monitor import EVENTS_KEPT, Monitor, MonitorConfig


def watched(*names: str, **settings) -> Monitor:
    monitor = Monitor(MonitorConfig(**settings))
    for name in names:
        monitor.join(name, "worker", 0.0)
    return monitor


def fed(seconds, name: str = "a", **settings) -> Monitor:
    monitor = watched(name, **settings)
    for each in seconds:
        monitor.record(name, rows=100, seconds=each * 100)
    return monitor


def test_the_short_window_is_the_newest_samples() -> None:
    speeds = fed([1.0] * 50 + [1.1] * 10, short=10).speeds("worker")
    assert speeds.row_s[0] == pytest.approx(1.1)
    assert speeds.long_row_s[0] == pytest.approx((50 + 11) / 60)


@pytest.mark.parametrize(("factor", "most"), [(6.0, 3), (4.0, 3), (2.0, 3), (1.3, 12), (0.25, 3)])
def test_a_large_change_is_seen_sooner_than_a_small_one(factor, most) -> None:
    monitor = fed([1.0] * 40)
    seen = [monitor.record("a", rows=100, seconds=100 * factor) for _ in range(20)]
    assert seen.index(True) < most
    speeds = monitor.speeds("worker")
    assert speeds.row_s[0] == pytest.approx(factor)
    assert speeds.steady[0] == 20


def test_two_long_steps_are_no_change() -> None:
    monitor = fed([1.0] * 40)
    assert not monitor.record("a", rows=100, seconds=10_000.0)
    assert not monitor.record("a", rows=100, seconds=10_000.0)
    assert monitor.speeds("worker").row_s[0] == 1.0
    assert not any(monitor.record("a", rows=100, seconds=100.0) for _ in range(40))


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4])
def test_noise_is_no_change(spread) -> None:
    draws = np.random.default_rng(1).lognormal(0, spread, 5000)
    monitor = watched("a")
    changes = sum(monitor.record("a", rows=10, seconds=float(each)) for each in draws)
    assert changes <= 10  # one in five hundred samples
    assert monitor.speeds("worker").noise[0] == pytest.approx(spread, rel=0.6)


def test_samples_that_say_nothing_are_left_out() -> None:
    monitor = watched("a")
    for rows, seconds in ((0, 1.0), (5, 0.0), (5, float("nan")), (5, float("inf")), (5, -1.0)):
        monitor.record("a", rows=rows, seconds=seconds)
    monitor.record("gone", rows=1, seconds=1.0)
    assert monitor.speeds("worker").samples.tolist() == [0]


def test_an_unknown_node_counts_as_a_middling_one() -> None:
    monitor = watched("a", "b", "c")
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        monitor.record(name, rows=1, seconds=seconds)
    assert monitor.speeds("worker").speeds().tolist() == pytest.approx([1.0, 0.5, 1 / 1.5])
    assert watched("a", "b").speeds("worker").speeds().tolist() == [1.0, 1.0]


def test_a_node_that_comes_again_is_another_one() -> None:
    monitor = fed([1.0] * 20)
    monitor.join("a", "worker", 5.0)
    speeds = monitor.speeds("worker")
    assert (speeds.samples[0], speeds.generation[0]) == (0, 1)
    monitor.leave("a", 6.0, "dead")
    assert [event.kind for event in monitor.events] == ["join", "restart", "dead"]
    assert len(monitor.speeds("worker").names) == 0
    monitor.leave("a", 7.0)


def test_memory_is_bounded() -> None:
    monitor = fed([1.0] * 1000, long=20)
    for number in range(2000):
        monitor.event("a", "note", number)
        monitor.record_lag(number, 0, number)
    assert len(monitor.events) == EVENTS_KEPT
    assert len(monitor.lag) == 20
    assert monitor.speeds("worker").steady[0] == 20
    assert dict(monitor.counts()) == {"worker": 1}


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        MonitorConfig(short=5, long=4)
    with pytest.raises(ConfigError):
        MonitorConfig(drift=0)
