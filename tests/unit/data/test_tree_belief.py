"""Correlations along paths against the inverse of the tree's precision matrix, and a mixture against all its trees."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.data import Graph, maximum_forest, rooted, tree_correlations, tree_distances
from headrace.errors import ConfigError


def planted(nodes: int = 25, seed: int = 0) -> tuple[Graph, np.ndarray, np.ndarray]:
    """A connected graph less a part, a spanning forest of it, and correlations of all edges in three dimensions."""
    draw = np.random.default_rng(seed)
    half = nodes // 2
    parents = [draw.integers(0, node) if node < half else draw.integers(half, node) for node in range(1, nodes)
               if node != half]  # fmt: skip
    children = [node for node in range(1, nodes) if node != half]
    extra = draw.integers(0, half, (10, 2))
    graph = Graph.from_pairs(nodes, np.concatenate([np.stack([parents, children], axis=1), extra]))
    mask = maximum_forest(graph, draw.normal(size=len(graph)))
    return graph, mask, draw.uniform(-0.95, 0.95, (len(graph), 3))


def from_precision(graph: Graph, mask: np.ndarray, correlations: np.ndarray) -> np.ndarray:
    """Invert the precision matrix of `prod_i N(z_i) prod_e N(z_i, z_j; c_e) / (N(z_i) N(z_j))`."""
    precision = np.eye(graph.nodes)
    for (i, j), c in zip(graph.edges[mask], correlations[mask], strict=True):
        pair = np.linalg.inv(np.array([[1.0, c], [c, 1.0]]))
        precision[np.ix_([i, j], [i, j])] += pair - np.eye(2)
    return np.linalg.inv(precision)


@pytest.mark.parametrize("seed", range(4))
def test_path_products_invert_the_precision_matrix(seed) -> None:
    graph, mask, correlations = planted(seed=seed)
    found = tree_correlations(rooted(graph, mask), correlations, np.arange(graph.nodes))
    for dimension in range(3):
        expected = from_precision(graph, mask, correlations[:, dimension])
        np.testing.assert_allclose(found[..., dimension], expected, atol=1e-10)


def test_across_components_there_is_no_correlation() -> None:
    graph, mask, correlations = planted()
    found = tree_correlations(rooted(graph, mask), correlations, np.array([3]))[0]
    apart = graph.components != graph.components[3]
    assert apart.any()
    assert not found[apart].any()
    assert np.abs(found[~apart]).min() > 0.0


def test_some_rows_are_those_of_all() -> None:
    graph, mask, correlations = planted(seed=2)
    forest, rows = rooted(graph, mask), np.array([7, 0, 7])
    every = tree_correlations(forest, correlations, np.arange(graph.nodes))
    np.testing.assert_array_equal(tree_correlations(forest, correlations, rows), every[rows])


def test_distances_are_expectations_over_the_joint() -> None:
    graph, mask, correlations = planted(seed=1)
    draw = np.random.default_rng(5)
    means, scales = draw.normal(size=(graph.nodes, 3)), draw.uniform(0.2, 1.0, (graph.nodes, 3))
    rows = np.array([2, 20])
    found = tree_distances(rooted(graph, mask), correlations, means, scales, rows)
    expected = np.zeros_like(found)
    for dimension in range(3):
        joint = from_precision(graph, mask, correlations[:, dimension])
        covariance = joint * np.outer(scales[:, dimension], scales[:, dimension])
        own = np.diag(covariance)
        gaps = (means[rows, None, dimension] - means[None, :, dimension]) ** 2
        expected += gaps + own[rows, None] + own[None] - 2.0 * covariance[rows]
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert np.abs(found[[0, 1], rows]).max() < 1e-10


def test_shapes_that_do_not_fit_are_refused() -> None:
    graph, mask, correlations = planted()
    with pytest.raises(ConfigError, match="means"):
        tree_distances(rooted(graph, mask), correlations, np.zeros((3, 3)), np.zeros((3, 3)), np.array([0]))
