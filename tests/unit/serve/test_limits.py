from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.serve.limits import Buckets, network_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = Clock()
    buckets = Buckets(10.0, 5, now=clock)
    assert [buckets.take("a") for _ in range(5)] == [0.0] * 5
    assert buckets.take("a") == pytest.approx(0.1)
    passed = 0
    for _ in range(1000):
        clock.now += 0.01
        passed += buckets.take("a") == 0.0
    assert passed == pytest.approx(100, abs=1)


def test_what_it_says_to_wait_is_enough() -> None:
    clock = Clock()
    buckets = Buckets(3.0, 1, now=clock)
    buckets.take("a")
    clock.now += buckets.take("a") + 1e-9
    assert buckets.take("a") == 0.0


def test_everybody_has_their_own() -> None:
    buckets = Buckets(1.0, 1, now=Clock())
    assert buckets.take("a") == 0.0
    assert buckets.take("b") == 0.0
    assert buckets.take("a") > 0


def test_memory_is_bounded_and_the_busy_are_not_forgotten() -> None:
    buckets = Buckets(0.001, 1, most=10, now=Clock())
    for one in range(1000):
        buckets.take(f"made up {one}")
        buckets.take("busy")
    assert len(buckets) == 10
    assert buckets.take("busy") > 0


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    clock = Clock()
    buckets = Buckets(1.0, 1, now=clock)
    buckets.take("a")
    clock.now = -100.0
    assert buckets.take("a") > 0


@pytest.mark.parametrize("wrong", [(0.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0)])
def test_numbers_that_cannot_work_are_refused(wrong: tuple[float, int, int]) -> None:
    with pytest.raises(ConfigError):
        Buckets(wrong[0], wrong[1], most=wrong[2])


def test_an_ipv6_client_is_counted_by_its_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff")
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("") == ""
