"""How well links are found: each node ranks all others, and links held out should come first (NCRR).

Links seen in training are no candidates. Ties count against the link: its rank is the number of candidates at most as
far away, itself included, so that a constant distance earns as little as can be.

Source:
    Tang et al. 2019, "Correlated Variational Auto-Encoders", normalised cumulative reciprocal rank. We average over
    the nodes that have a link held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import DataError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Distances = Callable[[Ints], npt.NDArray[np.floating]]
"""From nodes (R,) to their distances from all nodes (R, N); the smallest is the best."""

BLOCK = 128
"""Nodes asked for at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class LinkRanks:
    """Normalised cumulative reciprocal rank of every node with a link held out.

    Attributes:
        nodes: These nodes, (U,).
        values: `sum_j 1 / rank_j` over their links, over what the best order gains, (U,).
        by_chance: What an order drawn at random gains on average, (U,).
    """

    nodes: Ints
    values: Floats
    by_chance: Floats

    @property
    def mean(self) -> float:
        """NCRR."""
        return float(self.values.mean())

    @property
    def chance(self) -> float:
        """NCRR of a random order, its mean."""
        return float(self.by_chance.mean())


def link_ranks(distances: Distances, nodes: int, seen: npt.ArrayLike, held_out: npt.ArrayLike) -> LinkRanks:
    """Rank the links held out.

    Args:
        distances: Gives distances of some nodes from all.
        nodes: How many there are.
        seen: Links of training, (S, 2), undirected.
        held_out: Links to be found, (T, 2), undirected, each asked for from both ends.

    Returns:
        Values of all nodes with a link held out.

    Raises:
        DataError: If there is no link to find, a link stands in both, or a distance is not a number.

    Example:
        >>> far = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
        >>> link_ranks(lambda rows: far[rows], 3, [], [[0, 1]]).values.tolist()
        [1.0, 0.5]
    """
    known, asked = _both_ways(seen, nodes), _both_ways(held_out, nodes)
    if not len(asked):
        raise DataError("link_ranks, held_out", got="no links", expected="at least one")
    if np.isin(asked @ [nodes, 1], known @ [nodes, 1]).any():
        raise DataError("link_ranks", got="a link both seen and held out", expected="two disjoint sets of links")
    users, first = np.unique(asked[:, 0], return_index=True)
    ends = np.append(first[1:], len(asked))
    begin, stop = np.searchsorted(known[:, 0], users), np.searchsorted(known[:, 0], users, side="right")
    harmonic = np.concatenate([np.zeros(1), np.cumsum(1.0 / np.arange(1, nodes + 1))])
    values, chance = np.empty(len(users)), np.empty(len(users))
    for start in range(0, len(users), BLOCK):
        block = users[start : start + BLOCK]
        rows = np.array(distances(block), dtype=np.float64)
        require(rows.shape == (len(block), nodes), "Distances", got=rows.shape, expected=f"({len(block)}, {nodes})")
        if np.isnan(rows).any():
            raise DataError("Distances", got="a distance that is not a number", expected="numbers")
        for place, row in enumerate(rows, start):
            targets = asked[first[place] : ends[place], 1]
            candidates = np.ones(nodes, dtype=np.bool_)
            candidates[known[begin[place] : stop[place], 1]] = False
            candidates[users[place]] = False
            ranks = np.searchsorted(np.sort(row[candidates]), row[targets], side="right")
            many, best = int(candidates.sum()), harmonic[len(targets)]
            values[place] = (1.0 / ranks).sum() / best
            chance[place] = len(targets) * harmonic[many] / many / best
    return LinkRanks(users, values, chance)


def ncrr(distances: Distances, nodes: int, seen: npt.ArrayLike, held_out: npt.ArrayLike) -> float:
    """Return the normalised cumulative reciprocal rank; see `link_ranks`."""
    return link_ranks(distances, nodes, seen, held_out).mean


def _both_ways(links: npt.ArrayLike, nodes: int) -> Ints:
    """Return links in both directions, distinct, in ascending order, (2 L, 2)."""
    pairs = np.asarray(links, dtype=np.int64).reshape(-1, 2)
    if ((pairs < 0) | (pairs >= nodes)).any() or (pairs[:, 0] == pairs[:, 1]).any():
        raise DataError("link_ranks, links", got="a node that is not there, or a node linked with itself",
                        expected=f"pairs of two nodes from 0 to {nodes - 1}")  # fmt: skip
    return np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
