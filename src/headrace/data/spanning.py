"""Spanning forests of a graph: how often an edge is in one, forests drawn uniformly, and the heaviest one.

A spanning forest has one spanning tree for every component. CVAE's prior is a uniform mixture over all of them, in
which an edge counts as much as the share of forests that have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.config import require
from headrace.data.graph import Bools, Floats, Graph, Ints
from headrace.errors import DataError

EXACT_UP_TO = 4000
"""Nodes of the largest component whose weights are computed exactly by default: about ten seconds and 250 MB."""
FORESTS = 400
"""Forests drawn where a component is larger; the standard error of a weight w is then sqrt(w (1 - w) / 400)."""


def spanning_weights(graph: Graph, *, exact_up_to: int = EXACT_UP_TO, forests: int = FORESTS, seed: int = 0) -> Floats:
    """Return the share of all spanning forests that have an edge, (E,): exact, or estimated where a component is large.

    Weights are in (0, 1], a bridge has 1, and their sum is nodes less components.

    Args:
        graph: The graph.
        exact_up_to: Nodes of the largest component for `effective_resistances`.
        forests: Forests to draw for larger ones.
        seed: Of these draws.

    Example:
        >>> spanning_weights(Graph.from_pairs(3, [[0, 1], [1, 2], [0, 2]])).round(4).tolist()
        [0.6667, 0.6667, 0.6667]
    """
    sizes = np.bincount(graph.components, minlength=1)
    if sizes.max(initial=0) <= exact_up_to:
        return effective_resistances(graph)
    require(forests >= 1, "forests", got=forests, expected="at least 1")
    return np.asarray(random_forests(graph, forests, seed).mean(axis=0))


def effective_resistances(graph: Graph) -> Floats:
    """Return the resistance between the ends of every edge if all edges are resistors of 1, (E,).

    It is the share of the spanning forests that have the edge.

    Cost: O(n^3) time and O(n^2) memory for the largest component of n nodes.

    Source:
        Kirchhoff 1847. With J the matrix of ones, (L + J / n)^-1 is the pseudo-inverse of a connected Laplacian L plus
        J / n, which cancels in `P_ii + P_jj - 2 P_ij`.
    """
    weights = np.ones(len(graph))
    place = np.empty(graph.nodes, dtype=np.int64)
    owners = graph.components[graph.edges[:, 0]]
    nodes_of, edges_of = _grouped(graph.components), _grouped(owners)
    for label, own in edges_of.items():
        nodes = nodes_of[label]
        if len(own) == len(nodes) - 1:
            continue  # a tree: every edge is a bridge
        place[nodes] = np.arange(len(nodes))
        left, right = place[graph.edges[own]].T
        laplacian = np.full((len(nodes), len(nodes)), 1.0 / len(nodes))
        np.add.at(laplacian, (np.r_[left, right], np.r_[left, right]), 1.0)
        np.add.at(laplacian, (np.r_[left, right], np.r_[right, left]), -1.0)
        inverse = np.linalg.inv(laplacian)
        weights[own] = inverse[left, left] + inverse[right, right] - inverse[left, right] - inverse[right, left]
    return weights


def _grouped(labels: Ints) -> dict[int, Ints]:
    """Return the places of every label."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(labels) else {}


def random_forests(graph: Graph, count: int, seed: int = 0) -> Bools:
    """Return spanning forests drawn uniformly and independently, as masks over the edges (count, E).

    Every node but the roots points to a neighbour drawn at random; as long as there is a cycle, the nodes on cycles
    draw again. What is left when there is none is a uniform spanning forest, in whatever order cycles go, so all of a
    round go at once.

    Cost: O(N log N) a round; rounds as the graph's walks are slow: tens on social graphs, thousands on long paths.

    Source:
        Wilson 1996, "Generating random spanning trees more quickly than the cover time": the stacks of his proof.
    """
    draw = np.random.default_rng(seed)
    roots = np.zeros(graph.nodes, dtype=np.bool_)
    roots[graph.components] = True
    free = np.flatnonzero(~roots)
    steps = max(int(graph.nodes - 1).bit_length(), 1)
    picked = np.zeros((count, len(graph)), dtype=np.bool_)
    for forest in picked:
        target, over = np.arange(graph.nodes), np.zeros(graph.nodes, dtype=np.int64)
        again = free
        while len(again):
            degrees = graph.degrees[again]
            slots = graph.offsets[again] + (draw.random(len(again)) * degrees).astype(np.int64)
            target[again], over[again] = graph.neighbours[slots], graph.edge_ids[slots]
            jumped = target
            for _ in range(steps):  # after at least N steps from anywhere one is on a cycle or at a root
                jumped = jumped[jumped]
            held = np.zeros(graph.nodes, dtype=np.bool_)
            held[jumped] = True
            again = np.flatnonzero(held & ~roots)
        forest[over[free]] = True
    return picked


def maximum_forest(graph: Graph, scores: Floats) -> Bools:
    """Return the spanning forest with the largest sum of scores, as a mask over the edges (E,).

    Scores may be negative: every component is spanned all the same. Of equal scores the edge of the lower number goes
    first.

    Cost: O(E log E).

    Source:
        Kruskal 1956.
    """
    if scores.shape != (len(graph),) or not np.isfinite(scores).all():
        raise DataError("maximum_forest, scores", got=f"shape {scores.shape}, finite: {np.isfinite(scores).all()}",
                        expected=f"{len(graph)} finite scores, one per edge")  # fmt: skip
    above = list(range(graph.nodes))

    def top(node: int) -> int:
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    chosen = np.zeros(len(graph), dtype=np.bool_)
    left_over = graph.forest_edges
    ends = graph.edges.tolist()
    for edge in np.argsort(-scores, kind="stable").tolist():
        if not left_over:
            break
        one, other = top(ends[edge][0]), top(ends[edge][1])
        if one != other:
            above[one] = other
            chosen[edge] = True
            left_over -= 1
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """A spanning forest hung up at a root in every component.

    Attributes:
        parents: Each node's parent; a root is its own.
        parent_edges: Number, in the graph, of the edge to the parent; -1 for roots.
        levels: Nodes by their distance from the root, roots first.

    Shapes:
        parents, parent_edges (N,); the levels together have every node once.
    """

    parents: Ints
    parent_edges: Ints
    levels: tuple[Ints, ...]


def rooted(graph: Graph, mask: Bools) -> Forest:
    """Hang up a spanning forest.

    Raises:
        DataError: If the edges of the mask (E,) are no spanning forest of the graph.
    """
    tree = Graph.from_pairs(graph.nodes, graph.edges[mask])
    numbers = np.flatnonzero(mask)[tree.edge_ids]  # edges stay in ascending order
    spans = len(tree) == graph.forest_edges and np.array_equal(tree.components, graph.components)
    if not spans:
        raise DataError("Forest", got=f"{int(mask.sum())} edges that do not span the graph without a cycle",
                        expected=f"a spanning forest of {graph.forest_edges} edges")  # fmt: skip
    parents, parent_edges = np.arange(graph.nodes), np.full(graph.nodes, -1, dtype=np.int64)
    level = np.unique(graph.components)
    levels = [level]
    while True:
        lengths = tree.degrees[level]
        slots = np.repeat(tree.offsets[level] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        above, below = np.repeat(level, lengths), tree.neighbours[slots]
        new = below != parents[above]
        if not new.any():
            return Forest(parents, parent_edges, tuple(levels))
        level = below[new]
        parents[level], parent_edges[level] = above[new], numbers[slots[new]]
        levels.append(level)
