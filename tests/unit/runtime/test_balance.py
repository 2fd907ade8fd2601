"""Splits are exact and as good as any whole split can be: compared with trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.runtime.balance import DeviceClass, batch_scale, level_rows, micro_batches, plan_devices, share_batch


def splits(total: int, parts: int):
    for cuts in itertools.combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *cuts, total + parts - 1)
        yield [second - first - 1 for first, second in itertools.pairwise(edges)]


@given(
    total=st.integers(0, 14), row_s=st.lists(st.floats(0.1, 9.0), min_size=1, max_size=4), data=st.data(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_split_of_whole_rows_is_faster(total, row_s, data) -> None:
    count = len(row_s)
    fixed = data.draw(st.lists(st.floats(0, 5), min_size=count, max_size=count))
    low = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    high = [low_i + data.draw(st.integers(0, 12)) for low_i in low]
    allowed = [one for one in splits(total, count)
               if all(a <= r <= b for a, r, b in zip(low, one, high, strict=True))]  # fmt: skip
    arguments = (total, np.array(row_s), np.array(fixed), np.array(low), np.array(high))
    if not allowed:
        with pytest.raises(ConfigError):
            level_rows(*arguments)
        return
    rows = level_rows(*arguments)
    assert rows in allowed

    def longest(one) -> float:
        return max(f + s * r for f, s, r in zip(fixed, row_s, one, strict=True))

    assert longest(rows) <= min(map(longest, allowed)) * (1 + 1e-9) + 1e-12


@given(total=st.integers(50, 5000), speeds=st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_shares_are_exact_and_near_their_speeds(total, speeds) -> None:
    rows = share_batch(total, speeds)
    assert sum(rows) == total
    assert min(rows) >= 1
    rates = np.array(speeds)
    rounded_up = np.maximum(np.ceil(total * rates / rates.sum()), 1)
    assert (np.array(rows) / rates).max() <= (rounded_up / rates).max() * (1 + 1e-9)


def test_equal_speeds_share_equally() -> None:
    assert share_batch(10, [2.0] * 4) == [3, 3, 2, 2]


def test_limits_are_kept() -> None:
    assert share_batch(100, [1.0, 1.0, 98.0], low=5, high=50) == [25, 25, 50]
    with pytest.raises(ConfigError, match="allow 0 to 9"):
        share_batch(10, [1.0, 1.0, 1.0], low=0, high=3)


@pytest.mark.parametrize("speeds", [[], [0.0, 1.0], [float("nan")], [-1.0]])
def test_speeds_that_are_none_are_refused(speeds) -> None:
    with pytest.raises(ConfigError):
        share_batch(10, speeds)


def by_brute_force(classes: list[DeviceClass], batch: int, most: int) -> float:
    """The best time over all accumulation counts and all whole rows of every single device."""
    best = float("inf")
    for counts in itertools.product(range(1, most + 1), repeat=len(classes)):
        devices = [(kind, times) for kind, times in zip(classes, counts, strict=True) for _ in range(kind.count)]
        for rows in splits(batch, len(devices)):
            fits = all(times * kind.rows_min <= own <= times * kind.rows_max
                       for (kind, times), own in zip(devices, rows, strict=True))  # fmt: skip
            if fits:
                took = [
                    times * kind.step_s + kind.row_s * own for (kind, times), own in zip(devices, rows, strict=True)
                ]
                best = min(best, max(took))
    return best


@given(data=st.data(), batch=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_the_plan_of_devices_is_the_best_there_is(data, batch) -> None:
    def one_kind() -> DeviceClass:
        low = data.draw(st.integers(1, 2))
        return DeviceClass(count=data.draw(st.integers(1, 2)), row_s=data.draw(st.floats(0.1, 5)),
                           step_s=data.draw(st.sampled_from([0.0, 0.3, 2.0])), rows_min=low,
                           rows_max=low + data.draw(st.integers(0, 3)))  # fmt: skip

    classes = [one_kind() for _ in range(data.draw(st.integers(1, 2)))]
    best = by_brute_force(classes, batch, 3)
    if best == float("inf"):
        with pytest.raises(ConfigError):
            plan_devices(classes, batch, accumulation_max=3)
        return
    plan = plan_devices(classes, batch, accumulation_max=3)
    assert plan.seconds == pytest.approx(best)
    assert sum(map(sum, plan.rows)) == batch
    for kind, own, times in zip(classes, plan.rows, plan.accumulation, strict=True):
        assert len(own) == kind.count
        for rows in own:
            assert all(kind.rows_min <= size <= kind.rows_max for size in micro_batches(rows, times))


def test_memory_asks_for_accumulation() -> None:
    plan = plan_devices([DeviceClass(count=1, row_s=1.0, step_s=0.5, rows_max=4)], 10)
    assert plan.accumulation == (3,)
    assert plan.seconds == pytest.approx(11.5)


def test_too_many_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="Join devices"):
        plan_devices([DeviceClass(count=1, row_s=1.0)] * 9, 100)


def test_rates_follow_batches() -> None:
    assert batch_scale(100, 400) == 0.25
    with pytest.raises(ConfigError):
        batch_scale(1, 1, "cubic")
