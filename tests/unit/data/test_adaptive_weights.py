"""Adaptive weights: a rate of 0 changes nothing, every step is feasible, and the bound falls to its least."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from headrace.data import AdaptiveWeights, Graph, maximum_forest, spanning_weights
from headrace.errors import ConfigError, DataError

GRAPH = Graph.from_pairs(8, [[0, 1], [1, 2], [2, 0], [2, 3], [3, 0], [4, 5], [5, 6], [6, 4]])


def scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(GRAPH))


def test_a_rate_of_zero_is_the_fixed_prior() -> None:
    weights = AdaptiveWeights(GRAPH, rate=0.0)
    for seed in range(3):
        assert weights.step(scores(seed)) > 0.0
    np.testing.assert_array_equal(weights.weights, spanning_weights(GRAPH))
    assert weights.shares.tolist() == [1.0]


def test_weights_stay_in_the_polytope() -> None:
    weights = AdaptiveWeights(GRAPH, rate=0.3)
    for seed in range(20):
        weights.step(scores(seed))
        now = weights.weights
        assert now.min() >= 0.0
        assert now.max() <= 1.0 + 1e-12
        assert now.sum() == pytest.approx(GRAPH.forest_edges)
        for count in range(2, GRAPH.nodes):  # no set of nodes holds more than a tree on it could
            for nodes in combinations(range(GRAPH.nodes), count):
                assert now[np.isin(GRAPH.edges, nodes).all(axis=1)].sum() <= count - 1 + 1e-9


def test_with_scores_that_stay_the_bound_falls_and_the_gap_closes() -> None:
    weights, given = AdaptiveWeights(GRAPH, rate=0.3), scores(7)
    sums, gaps = [weights.weights @ given], []
    for _ in range(40):
        gaps.append(weights.step(given))
        sums.append(weights.weights @ given)
    assert np.all(np.diff(sums) >= -1e-12)
    assert np.all(np.diff(gaps) <= 1e-12)
    assert sums[-1] == pytest.approx(given[maximum_forest(GRAPH, given)].sum(), abs=1e-4)


def test_the_mixture_has_the_weights() -> None:
    weights = AdaptiveWeights(GRAPH, rate=0.5)
    for seed in range(3):
        weights.step(scores(seed))
    assert weights.shares.sum() == pytest.approx(1.0)
    assert weights.shares.tolist() == pytest.approx([0.125, 0.125, 0.25, 0.5])
    drawn = weights.draw(8000, seed=1).mean(axis=0)
    assert np.abs(drawn - weights.weights).max() < 0.03


def test_it_goes_on_from_a_state() -> None:
    one, other = AdaptiveWeights(GRAPH, rate=0.3), AdaptiveWeights(GRAPH, rate=0.3)
    one.step(scores(0))
    other.restore(one.state())
    for weights in (one, other):
        weights.step(scores(1))
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.draw(20), other.draw(20))
    assert all(isinstance(value, torch.Tensor | float) for value in one.state().values())


def test_other_states_and_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="rate"):
        AdaptiveWeights(GRAPH, rate=0.2).restore(AdaptiveWeights(GRAPH, rate=0.3).state())
    with pytest.raises(ConfigError, match="sum"):
        AdaptiveWeights(GRAPH, start=np.ones(len(GRAPH)))
    with pytest.raises(DataError, match="scores"):
        AdaptiveWeights(GRAPH).step(np.zeros(3))
