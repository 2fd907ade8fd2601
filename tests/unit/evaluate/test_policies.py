"""What judging a policy off its log needs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate import check_propensities, cross_fitted_rates, ranking_target


def test_a_ranking_in_any_order_of_rows() -> None:
    lists, places, scores = ["b", "a", "b", "a", "b"], [3, 1, 1, 2, 2], [0.9, 0.1, 0.5, 0.7, 0.2]
    found = ranking_target(scores, lists, places)
    assert found.places.tolist() == [1, 2, 2, 1, 3]
    assert found.probabilities.tolist() == [0.0] * 5
    assert found.complete


def test_exploration_shuffles_evenly_and_keeps_a_total_of_one() -> None:
    found = ranking_target([3, 2, 1, 9], ["a", "a", "a", "b"], [1, 2, 3, 1], explore=0.3)
    assert found.probabilities.tolist() == pytest.approx([0.8, 0.8, 0.8, 1.0])
    with pytest.raises(ConfigError):
        ranking_target([1.0], ["a"], [1], explore=1.5)


def test_ties_keep_the_logged_order() -> None:
    assert ranking_target([1, 1, 1], ["a"] * 3, [2, 3, 1]).probabilities.tolist() == [1.0, 1.0, 1.0]


def test_lists_with_holes_are_noticed() -> None:
    assert not ranking_target([1, 2], ["a", "a"], [1, 3]).complete
    assert not ranking_target([1, 2], ["a", "a"], [2, 2]).complete


def test_a_row_has_no_part_in_its_own_prediction() -> None:
    """One positive row in an action of its own: its prediction must not know of it, others' may."""
    rewards, actions = np.zeros(100), np.zeros(100, int)
    rewards[7], actions[7] = 1.0, 1
    found = cross_fitted_rates(rewards, actions, folds=5, prior_rows=1.0)
    fold = found.folds[7]
    assert found.rates[fold, 0, 1] == 0.0  # the mean of the others, none of them positive
    assert all(found.rates[other, 0, 1] > 0.5 for other in range(5) if other != fold)


def test_groups_stay_in_one_fold() -> None:
    users = np.repeat(np.arange(50), 4)
    found = cross_fitted_rates(np.zeros(200), np.zeros(200, int), groups=users)
    assert all(len(set(found.folds[users == user])) == 1 for user in range(50))
    assert len(set(found.folds)) == 5


def test_rates_are_means_drawn_to_their_place() -> None:
    draw = np.random.default_rng(0)
    places, actions = draw.integers(0, 2, 20_000), draw.integers(0, 3, 20_000)
    truth = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
    rewards = (draw.random(20_000) < truth[places, actions]).astype(float)
    found = cross_fitted_rates(rewards, actions, places, shape=(2, 4))
    assert np.abs(found.rates[:, :, :3] - truth).max() < 0.03
    assert np.abs(found.rates[:, 1, 3] - 0.6).max() < 0.02  # never seen: the mean of its place


def test_expected_predictions_for_every_kind_of_target() -> None:
    draw = np.random.default_rng(1)
    places, actions = draw.integers(0, 2, 300), draw.integers(0, 3, 300)
    found = cross_fitted_rates(draw.random(300), actions, places)
    policy = draw.dirichlet(np.ones(3), size=2)
    by_place = found.expected(policy, places)
    by_row = found.expected(policy[places], places)
    one = [float(found.rates[f, p] @ policy[p]) for f, p in zip(found.folds, places, strict=True)]
    np.testing.assert_allclose(by_place, one)
    np.testing.assert_allclose(by_row, one)
    alone = found.expected(np.eye(3)[actions], places)
    np.testing.assert_allclose(alone, found.predicted(actions, places))
    with pytest.raises(DataError, match="target"):
        found.expected(np.ones((7, 3)), places)


def test_right_propensities_pass_as_often_as_they_should() -> None:
    """At the 5 % level 5 of 100 right logs may look wrong; here at most 11."""
    wrong = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        policy = draw.dirichlet(np.full(6, 2.0))
        actions = draw.choice(6, 1500, p=policy)
        wrong += check_propensities(actions, policy[actions]).p < 0.05
    assert wrong <= 11


def test_wrong_propensities_are_named() -> None:
    draw = np.random.default_rng(0)
    places, actions = draw.integers(0, 2, 6000), draw.choice(3, 6000, p=[0.5, 0.3, 0.2])
    chances = np.array([0.5, 0.3, 0.2])[actions]
    assert check_propensities(actions, chances, places).p > 0.01
    chances[(places == 1) & (actions == 2)] = 0.3
    found = check_propensities(actions, chances, places)
    assert found.p < 1e-6
    assert found.worst == (1, 2)
    assert found.z < 0


def test_what_cannot_be_judged_is_said() -> None:
    few = check_propensities([0, 1, 0], [0.5, 0.5, 0.5])
    assert math.isnan(few.p)
    assert (few.worst, few.cells, few.skipped) == (None, 0, 2)
    draw = np.random.default_rng(0)
    uneven = np.where(draw.random(1000) < 0.02, 0.001, 0.9)  # a few rows carry the sum
    assert check_propensities(np.zeros(1000, int), uneven).cells == 0
