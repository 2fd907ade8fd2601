"""Weights of edges, drawn forests and heaviest forests against all spanning forests, enumerated."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from headrace.data import (
    Graph,
    effective_resistances,
    maximum_forest,
    random_forests,
    rooted,
    spanning_weights,
)
from headrace.errors import DataError

TWO_PARTS = Graph.from_pairs(8, [[0, 1], [1, 2], [2, 0], [2, 3], [3, 0], [4, 5], [5, 6], [6, 4]])
"""A square with a diagonal, a triangle, and a node alone: 8 x 3 forests."""


def forests(graph: Graph) -> np.ndarray:
    """All spanning forests, as masks."""
    found = []
    for chosen in combinations(range(len(graph)), graph.forest_edges):
        part = Graph.from_pairs(graph.nodes, graph.edges[list(chosen)])
        if part.forest_edges == graph.forest_edges:
            found.append(np.isin(np.arange(len(graph)), chosen))
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_shares_of_all_spanning_forests(seed) -> None:
    graph = Graph.from_pairs(7, np.random.default_rng(seed).integers(0, 7, (12, 2)))
    np.testing.assert_allclose(effective_resistances(graph), forests(graph).mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(spanning_weights(graph).sum(), graph.forest_edges, atol=1e-9)


def test_weights_of_a_complete_graph_and_of_a_tree() -> None:
    complete = Graph.from_pairs(9, list(combinations(range(9), 2)))
    np.testing.assert_allclose(spanning_weights(complete), 2 / 9)
    np.testing.assert_array_equal(spanning_weights(Graph.from_pairs(4, [[0, 1], [1, 2], [1, 3]])), np.ones(3))


def test_drawn_forests_are_uniform() -> None:
    every = forests(TWO_PARTS)
    assert len(every) == 24
    drawn = random_forests(TWO_PARTS, 4800, seed=1)
    places = (drawn[:, None] == every[None]).all(axis=2)
    assert places.sum(axis=1).tolist() == [1] * 4800
    counts = places.sum(axis=0)
    assert ((counts - 200) ** 2 / 200).sum() < 49.7  # chi-square, 23 degrees of freedom, 0.001


def test_large_components_are_estimated() -> None:
    exact = spanning_weights(TWO_PARTS)
    drawn = spanning_weights(TWO_PARTS, exact_up_to=3, forests=2000)
    assert np.abs(drawn - exact).max() < 0.05
    assert drawn.sum() == pytest.approx(exact.sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_heaviest_forest_is_the_best_of_all(seed) -> None:
    scores = np.random.default_rng(seed).normal(size=len(TWO_PARTS)) - 2.0  # negative ones span all the same
    best = maximum_forest(TWO_PARTS, scores)
    assert scores[best].sum() == pytest.approx((forests(TWO_PARTS) @ scores).max())


def test_the_first_of_equal_edges_goes_first() -> None:
    assert maximum_forest(Graph.from_pairs(3, [[0, 1], [0, 2], [1, 2]]), np.zeros(3)).tolist() == [True, True, False]


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="scores"):
        maximum_forest(TWO_PARTS, np.full(len(TWO_PARTS), np.nan))


def test_a_forest_hangs_from_the_least_node_of_each_part() -> None:
    mask = forests(TWO_PARTS)[5]
    hung = rooted(TWO_PARTS, mask)
    assert sorted(np.concatenate(hung.levels)) == list(range(8))
    assert hung.levels[0].tolist() == [0, 4, 7]
    below = np.concatenate(hung.levels[1:])
    ends = np.sort(np.stack([below, hung.parents[below]], axis=1), axis=1)
    assert ends.tolist() == TWO_PARTS.edges[hung.parent_edges[below]].tolist()
    assert sorted(hung.parent_edges[below]) == np.flatnonzero(mask).tolist()
    assert (hung.parent_edges[hung.levels[0]] == -1).all()


@pytest.mark.parametrize("mask", [[True] * 8, [True, True, True, True, False, False, True, True]])
def test_what_is_no_spanning_forest_is_refused(mask) -> None:
    with pytest.raises(DataError, match="spanning forest"):
        rooted(TWO_PARTS, np.array(mask))
