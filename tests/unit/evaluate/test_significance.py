"""Paired tests, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headrace.errors import ConfigError, DataError
from headrace.evaluate.significance import compare_seeds, normal_probability, paired_t, sign_flip, wilcoxon


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40])
def test_paired_t_equals_scipy(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.normal(0.3, 1, count), rng.normal(0, 1, count)
    assert paired_t(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-10)


@pytest.mark.parametrize("count", [1, 4, 9, 25])
def test_small_wilcoxon_equals_scipys_exact_one(count: int) -> None:
    gap = np.random.default_rng(count).normal(0.2, 1, count)
    assert wilcoxon(gap) == pytest.approx(stats.wilcoxon(gap, method="exact").pvalue, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_large_or_tied_wilcoxon_equals_scipys_normal_one(ties: bool) -> None:
    gap = np.random.default_rng(0).normal(0.1, 1, 60)
    gap = np.round(gap) if ties else gap
    expected = stats.wilcoxon(gap, method="approx", zero_method="wilcox", correction=False).pvalue
    assert wilcoxon(gap) == pytest.approx(expected, abs=1e-12)


def test_all_equal_is_no_difference() -> None:
    found = compare_seeds([0.7, 0.8], [0.7, 0.8])
    assert (found.t_p, found.wilcoxon_p, found.wins, found.difference.value) == (1.0, 1.0, 0, 0.0)


def test_a_constant_gain_has_no_chance_in_the_t_test() -> None:
    assert compare_seeds([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]).t_p == 0.0


def test_wilcoxon_cannot_be_surer_than_its_seeds() -> None:
    assert compare_seeds([1.0, 1.1, 1.2], [0.1, 0.0, 0.2]).wilcoxon_p == 0.25


def test_sign_flips_agree_with_the_exact_count() -> None:
    gap = np.array([0.5, 0.2, -0.1, 0.4, 0.3])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    exact = np.mean(np.abs(gap @ signs) >= gap.sum() - 1e-12)
    assert sign_flip(gap, draws=20_000) == pytest.approx(exact, abs=0.01)


def test_sign_flips_say_no_difference_as_often_as_they_should() -> None:
    rng = np.random.default_rng(3)
    found = [sign_flip(rng.normal(size=40), draws=199, seed=seed) for seed in range(400)]
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09


def test_sign_flips_repeat_with_their_seed() -> None:
    gap = np.random.default_rng(1).normal(0.2, 1, 30)
    assert sign_flip(gap, seed=1) == sign_flip(gap, seed=1) != sign_flip(gap, seed=2)


def test_a_difference_of_nothing_is_certain_to_be_reached() -> None:
    assert sign_flip(np.zeros(10), draws=50) == 1.0


def test_normal_tail() -> None:
    assert normal_probability(-1.959964) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_what_are_no_pairs_is_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(DataError, match="Pairs"):
        compare_seeds(first, second)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="finite"):
        paired_t([1.0, float("nan")], [1.0, 2.0])


def test_draws_have_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="draws"):
        sign_flip([1.0], draws=0)
