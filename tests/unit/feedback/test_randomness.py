from __future__ import annotations

import numpy as np
import pytest

from headrace.feedback.randomness import Draw, bits, choice, normal, uniform


def test_a_number_depends_on_its_counters_and_not_on_its_neighbours() -> None:
    many = uniform(3, Draw.CLICK, np.arange(100), 7)
    assert uniform(3, Draw.CLICK, 42, 7)[()] == many[42]


def test_other_seeds_purposes_and_counters_give_other_numbers() -> None:
    base = bits(1, Draw.CLICK, 5)[()]
    assert len({base, bits(2, Draw.CLICK, 5)[()], bits(1, Draw.DELAY, 5)[()], bits(1, Draw.CLICK, 6)[()]}) == 4


def test_the_order_of_counters_matters() -> None:
    assert bits(0, Draw.CLICK, 1, 2)[()] != bits(0, Draw.CLICK, 2, 1)[()]


def test_counters_broadcast() -> None:
    grid = bits(0, Draw.ITEM, np.arange(3)[:, None], np.arange(4)[None, :])
    assert grid.shape == (3, 4)
    assert grid[2, 1] == bits(0, Draw.ITEM, 2, 1)[()]


def test_negative_and_extreme_counters_work() -> None:
    extremes = np.array([-(2**63), -1, 0, 2**63 - 1])
    assert len(set(bits(-5, Draw.ITEM, extremes).tolist())) == 4


def test_uniform_numbers_are_uniform() -> None:
    counts, _ = np.histogram(uniform(9, Draw.USER, np.arange(200_000)), bins=20, range=(0, 1))
    assert np.abs(counts - 10_000).max() < 500  # five standard deviations


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    numbers = normal(9, Draw.TASTE, np.arange(200_000))
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs((numbers**4).mean() - 3) < 0.1
    assert np.isfinite(numbers).all()


def test_neighbouring_counters_are_not_correlated() -> None:
    numbers = uniform(0, Draw.CLICK, np.arange(100_000))
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02


def test_choice_follows_the_shares() -> None:
    drawn = choice(np.array([1.0, 2.0, 7.0]), uniform(4, Draw.SCENARIO, np.arange(100_000)))
    assert np.bincount(drawn) / len(drawn) == pytest.approx([0.1, 0.2, 0.7], abs=0.01)


def test_choice_never_leaves_the_range() -> None:
    shares = np.full(10, 0.1)
    assert choice(shares, np.array([0.0, np.nextafter(1.0, 0.0)])).tolist() == [0, 9]
