"""Which data points belong together: an undirected graph that stays on the host, and what can be drawn from it.

A graph is three integer arrays (compressed sparse rows); nothing of it travels to a model but the few nodes of a step.
Spanning trees and their weights are in `headrace.data.spanning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import DataError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NODES, EDGES, OTHERS = 1, 2, 3
"""Streams of random numbers: orders of nodes and of edges, and pairs of any nodes."""


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph without loops, every edge once.

    Attributes:
        nodes: How many nodes; they are numbered from 0.
        edges: Both ends of every edge, the smaller first, rows in ascending order.
        offsets, neighbours, edge_ids: Node i has the neighbours `neighbours[offsets[i]:offsets[i + 1]]`, over the edges
            with these numbers.

    Shapes:
        edges (E, 2), offsets (N + 1,), neighbours and edge_ids (2 E,), all int64.

    Example:
        >>> graph = Graph.from_pairs(4, [[1, 0], [0, 1], [2, 1], [3, 3]])
        >>> graph.edges.tolist(), graph.degrees.tolist()
        ([[0, 1], [1, 2]], [1, 2, 1, 0])
    """

    nodes: int
    edges: Ints
    offsets: Ints
    neighbours: Ints
    edge_ids: Ints

    @staticmethod
    def from_pairs(nodes: int, pairs: npt.ArrayLike) -> Graph:
        """Build a graph from pairs of nodes (P, 2), in any direction and number; loops are left out.

        Raises:
            DataError: If a node is not one of 0 .. nodes - 1.
        """
        ends = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        wrong = (ends < 0) | (ends >= nodes)
        if wrong.any():
            raise DataError("Graph, pairs", got=f"node {int(ends[wrong][0])}", expected=f"a node from 0 to {nodes - 1}",
                            do="Number the nodes without gaps.")  # fmt: skip
        ends = np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1)
        edges = np.unique(ends, axis=0).reshape(-1, 2)
        tails = np.concatenate([edges[:, 0], edges[:, 1]])
        heads = np.concatenate([edges[:, 1], edges[:, 0]])
        order = np.lexsort((heads, tails))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(tails, minlength=nodes))])
        return Graph(nodes, edges, offsets, heads[order], np.tile(np.arange(len(edges)), 2)[order])

    def __len__(self) -> int:
        return len(self.edges)

    @cached_property
    def degrees(self) -> Ints:
        """Number of neighbours of every node, (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def components(self) -> Ints:
        """The smallest node that each node is connected with, (N,): equal for nodes of one component.

        Cost: O((N + E) log N) or so: labels fall along edges and then along themselves.
        """
        labels = np.arange(self.nodes)
        while True:
            before = labels.copy()
            lower = labels[self.edges].min(axis=1)
            for end in (0, 1):
                np.minimum.at(labels, labels[self.edges[:, end]], lower)
                np.minimum.at(labels, self.edges[:, end], lower)
            labels = labels[labels]
            if np.array_equal(before, labels):
                return labels

    @property
    def forest_edges(self) -> int:
        """Edges of every spanning forest: nodes less components."""
        return self.nodes - len(np.unique(self.components))

    def without(self, left_out: Bools) -> Graph:
        """Return the graph of the same nodes without some edges; mask (E,)."""
        return Graph.from_pairs(self.nodes, self.edges[~left_out])

    def split(self, share: float, seed: int = 0) -> tuple[Graph, Ints]:
        """Hold out a share of the edges, drawn uniformly: the graph that is left, and the edges held out (T, 2).

        Source:
            The authors of CVAE hold out a share of every node's edges, which takes more than half of a sparse graph.
        """
        require(0.0 < share < 1.0, "Graph.split, share", got=share, expected="a number between 0 and 1")
        held = np.zeros(len(self), dtype=np.bool_)
        held[np.random.default_rng(seed).permutation(len(self))[: round(share * len(self))]] = True
        return self.without(held), self.edges[held]

    def shuffled(self, seed: int = 0) -> Graph:
        """Return the same graph with its nodes dealt out anew: the shape is kept, and who is connected says nothing."""
        return Graph.from_pairs(self.nodes, np.random.default_rng(seed).permutation(self.nodes)[self.edges])

    def spread(self, values_RN: Floats) -> Floats:
        """Return the sum of every node's neighbours' values: values times the adjacency matrix, (R, N).

        Cost: O(R E).
        """
        sums = np.zeros_like(values_RN)
        some = np.flatnonzero(self.degrees)
        if len(some):
            sums[:, some] = np.add.reduceat(values_RN[:, self.neighbours], self.offsets[some], axis=1)
        return sums

    def path_counts(self, rows: Ints, *, longer: float = 0.05) -> Floats:
        """Return how many paths of two steps, plus `longer` times how many of three, lead from nodes to all, (R, N).

        The plain baseline of link prediction that looks at nothing but the graph.
        """
        starts = np.zeros((len(rows), self.nodes))
        starts[np.arange(len(rows)), rows] = 1.0
        two = self.spread(self.spread(starts))
        return two + longer * self.spread(two)


@dataclass(frozen=True, slots=True)
class PairDraw:
    """What one step of learning sees of a graph.

    Shapes:
        nodes (A,); edges (E,), numbers of edges; ends (E, 2), their nodes in random direction; others (P, 2), pairs of
        any two nodes.
    """

    nodes: Ints
    edges: Ints
    ends: Ints
    others: Ints

    @property
    def rows(self) -> Ints:
        """Nodes in the order in which `headrace.objectives.with_pairs` expects them: alone, left ends, right ends."""
        return np.concatenate([self.nodes, self.ends[:, 0], self.others[:, 0], self.ends[:, 1], self.others[:, 1]])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSampler:
    """Draws nodes, edges and pairs of any nodes, as many as asked for, in every step.

    Nodes and edges come in a new random order in every round over all of them; each is drawn equally often. A draw is
    a function of seed and step alone, so a stopped run goes on with the same draws.

    Attributes:
        graph: The graph.
        nodes, edges, others: How many of each in a step.
        seed: Another seed, other draws.

    Example:
        >>> sampler = PairSampler(graph=Graph.from_pairs(3, [[0, 1], [1, 2]]), nodes=3, edges=1, others=2)
        >>> sorted(sampler.draw(0).nodes.tolist()), sampler.draw(7).others.shape
        ([0, 1, 2], (2, 2))
    """

    graph: Graph
    nodes: int = 64
    edges: int = 256
    others: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("nodes", "edges", "others"):
            value = getattr(self, name)
            require(value >= 0, f"PairSampler.{name}", got=value, expected="0 or more")
        require(self.nodes + self.edges > 0, "PairSampler", got="no nodes and no edges", expected="some of either")
        require(self.others == 0 or self.graph.nodes > 1, "PairSampler.others", got=f"{self.graph.nodes} nodes",
                expected="at least two nodes to make pairs of")  # fmt: skip

    def draw(self, step: int) -> PairDraw:
        """Return what step 0, 1, ... sees."""
        nodes = self._in_turn(NODES, self.graph.nodes, self.nodes, step)
        edges = self._in_turn(EDGES, len(self.graph), self.edges if len(self.graph) else 0, step)
        random = np.random.default_rng([self.seed, OTHERS, step])
        turned = random.integers(0, 2, len(edges))
        ends = self.graph.edges[edges]
        ends = np.stack([ends[np.arange(len(edges)), turned], ends[np.arange(len(edges)), 1 - turned]], axis=1)
        left = random.integers(0, self.graph.nodes, self.others)
        right = random.integers(0, max(self.graph.nodes - 1, 1), self.others)
        return PairDraw(nodes, edges, ends, np.stack([left, right + (right >= left)], axis=1))

    def _in_turn(self, purpose: int, count: int, many: int, step: int) -> Ints:
        """Return the next `many` of 0 .. count - 1, in an order that is drawn anew in every round."""
        places = step * many + np.arange(many)
        drawn = np.empty(many, dtype=np.int64)
        for lap in np.unique(places // count) if many else ():
            order = np.random.default_rng([self.seed, purpose, int(lap)]).permutation(count)
            own = places // count == lap
            drawn[own] = order[places[own] % count]
        return drawn
