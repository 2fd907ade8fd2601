"""Belief propagation on a Gaussian forest: the correlation of any two nodes, exactly, without asking a model again.

On a tree, with variances 1 and a correlation on every edge, two nodes correlate as the product of the correlations
along the path between them; across components they do not. That is what sum-product messages come to: one number per
latent dimension goes out from a node over every edge, times the edge's correlation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.data.graph import Floats, Ints
from headrace.data.spanning import Forest

Numbers = npt.NDArray[np.floating]


def tree_correlations(forest: Forest, correlations_EK: Numbers, rows: Ints) -> Numbers:
    """Return the correlation of some nodes with all nodes in every latent dimension, (R, N, K).

    Args:
        forest: A spanning forest.
        correlations_EK: Of all edges of its graph; those outside the forest are not looked at.
        rows: The nodes to start from, (R,).

    Cost: O(R N K), one pass outwards per level of the tree.

    Example:
        >>> from headrace.data.graph import Graph
        >>> from headrace.data.spanning import rooted
        >>> graph = Graph.from_pairs(4, [[0, 1], [1, 2]])
        >>> forest = rooted(graph, np.array([True, True]))
        >>> tree_correlations(forest, np.array([[0.5], [0.8]]), np.array([0]))[0, :, 0].tolist()
        [1.0, 0.5, 0.4, 0.0]
    """
    found = np.zeros((len(rows), len(forest.parents), correlations_EK.shape[1]), dtype=correlations_EK.dtype)
    reached = _climb(forest, correlations_EK, rows, found)
    for level in forest.levels[1:]:
        edges = correlations_EK[forest.parent_edges[level]]
        below = found[:, forest.parents[level]] * edges
        found[:, level] = np.where(reached[:, level, None], found[:, level], below)
    return found


def _climb(forest: Forest, correlations_EK: Numbers, rows: Ints, found: Numbers) -> npt.NDArray[np.bool_]:
    """Fill in the start nodes and their ancestors; return which nodes these are, (R, N)."""
    reached = np.zeros(found.shape[:2], dtype=np.bool_)
    each, here = np.arange(len(rows)), rows.copy()
    product = np.ones((len(rows), found.shape[2]), dtype=found.dtype)
    while len(each):
        found[each, here], reached[each, here] = product, True
        on = forest.parents[here] != here
        each, here, product = each[on], here[on], product[on]
        product = product * correlations_EK[forest.parent_edges[here]]
        here = forest.parents[here]
    return reached


def tree_distances(
    forest: Forest, correlations_EK: Numbers, means_NK: Numbers, scales_NK: Numbers, rows: Ints
) -> Floats:
    """Return the expected squared distance of the latents of some nodes and of all, (R, N), under the tree's joint.

    `sum_k (m_i - m_j)^2 + s_i^2 + s_j^2 - 2 s_i s_j c_ij`, where c is the tree's.
    """
    require(means_NK.shape == scales_NK.shape == (len(forest.parents), correlations_EK.shape[1]), "tree_distances",
            got=(means_NK.shape, scales_NK.shape, correlations_EK.shape),
            expected="means and scales (N, K), correlations (E, K)")  # fmt: skip
    together = np.einsum("rnk,nk,rk->rn", tree_correlations(forest, correlations_EK, rows), scales_NK, scales_NK[rows])
    return np.asarray(apart(means_NK, scales_NK, rows) - 2.0 * together)


def apart(means_NK: Numbers, scales_NK: Numbers, rows: Ints) -> Floats:
    """Return the expected squared distance of independent latents, some nodes' and all nodes', (R, N)."""
    sizes = (means_NK**2 + scales_NK**2).sum(axis=1)
    return np.asarray(sizes[rows, None] + sizes[None] - 2.0 * means_NK[rows] @ means_NK.T)
