"""Bootstrap draws: the right distribution, a function of names only, and intervals that hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate.bootstrap import bootstrap_interval, group_keys, mixed, poisson_weights


def test_counts_are_poisson() -> None:
    counts = np.bincount(poisson_weights(np.arange(20_000, dtype=np.uint64), 50).ravel())
    expected = [math.exp(-1) / math.factorial(count) for count in range(5)]
    assert counts[:5] / counts.sum() == pytest.approx(expected, abs=2e-3)


def test_draws_and_keys_do_not_depend_on_each_other() -> None:
    weights = poisson_weights(np.arange(4000, dtype=np.uint64), 40).astype(float)
    between = np.corrcoef(weights)
    assert np.abs(between - np.eye(40)).max() < 0.08
    assert np.abs(np.corrcoef(weights[:, :40].T) - np.eye(40)).max() < 0.75
    assert weights.mean(axis=0).var() == pytest.approx(1 / 40, rel=0.15)


def test_a_key_has_its_draws_wherever_it_comes() -> None:
    keys = group_keys(np.array(["a", "b", "c"]), 3)
    assert (poisson_weights(keys, 9)[:, 1:] == poisson_weights(keys[1:], 9)).all()
    assert (poisson_weights(keys, 9) != poisson_weights(keys, 9, seed=1)).any()
    assert (poisson_weights(keys, 7) == poisson_weights(keys, 9)[:7]).all()


def test_keys_follow_from_names_alone() -> None:
    assert group_keys(np.array(["x", "y", "x"]), 3)[0] == group_keys(np.array(["y", "x"]), 2)[1]
    assert (group_keys(np.array([5, 6, 5]), 3) == mixed(np.array([5, 6, 5], np.uint64))).all()
    assert len(np.unique(group_keys(np.arange(10_000), 10_000))) == 10_000


def test_a_missing_group_has_no_key() -> None:
    with pytest.raises(DataError, match="row 1"):
        group_keys(np.array(["x", None], dtype=object), 2)


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2000)
    found = bootstrap_interval(lambda times: float(np.average(values, weights=times)), 2000, draws=400)
    assert found.error == pytest.approx(values.std() / math.sqrt(2000), rel=0.1)
    assert found.low < found.value < found.high


def test_groups_are_drawn_whole() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=100), 20)
    groups = np.repeat(np.arange(100), 20)

    def mean(times: np.ndarray) -> float:
        return float(np.average(values, weights=times))

    apart, together = (bootstrap_interval(mean, 2000, groups=each, draws=300) for each in (None, groups))
    assert together.error == pytest.approx(apart.error * math.sqrt(20), rel=0.25)


def test_a_statistic_that_rarely_exists_has_no_interval() -> None:
    found = bootstrap_interval(lambda times: 1.0 if times.sum() == 3 else math.nan, 3, draws=20)
    assert math.isnan(found.low)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ConfigError, match="draws"):
        bootstrap_interval(np.sum, 3, draws=5)
