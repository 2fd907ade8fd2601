"""How good ranked lists are: NDCG, hit rate, recall, reciprocal rank and average precision, each per group at k.

Ties are not broken: every number is its expected value when rows of one score come in random order, so that a constant
score earns what chance earns and no order of the input helps. Groups without a positive have no value; they are left
out of the mean and counted. A group's weight in the mean is the mean weight of its rows: one for all without weights.

Source:
    McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores
    (2008), from which the sums over positions of a tied block; Järvelin and Kekäläinen, Cumulated Gain-based Evaluation
    of IR Techniques (2002), with gain 1 and discount 1/log2(rank + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.evaluate.metrics import columns
from headrace.evaluate.order import Floats, Integers, Ties, encode, ties

RANKING = ("ndcg", "hit_rate", "recall", "mrr", "map")
"""What can be asked of ranked lists."""


@dataclass(frozen=True, slots=True)
class GroupValues:
    """A metric of every group that has one.

    Attributes:
        values: The values.
        masses: Weight of each group in the mean.
        groups: Code of each group.
        without: How many groups have no value (no positive, or for AUC one class only).
    """

    values: Floats
    masses: Floats
    groups: Integers
    without: int

    @property
    def mean(self) -> float:
        """The mean over groups; NaN without any."""
        return float(np.average(self.values, weights=self.masses)) if len(self.values) else math.nan


def ndcg(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int | None = None) -> float:
    """Return the mean normalised discounted cumulative gain of the first k of each group, ties at expectation.

    Equal to scikit-learn's `ndcg_score`, which treats ties the same way.

    Example:
        >>> round(ndcg([0, 1, 1, 0], [0.9, 0.8, 0.3, 0.1], ["q"] * 4, k=2), 4)
        0.3869
    """
    return ranking_values(labels, scores, groups, names=("ndcg",), k=k)["ndcg"].mean


def hit_rate(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int) -> float:
    """Return the share of groups with a positive among the first k (HR@k).

    Example:
        >>> hit_rate([0, 1, 1, 0], [0.9, 0.1, 0.8, 0.3], ["a", "a", "b", "b"], k=1)
        0.5
    """
    return ranking_values(labels, scores, groups, names=("hit_rate",), k=k)["hit_rate"].mean


def recall(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int) -> float:
    """Return the mean share of a group's positives that are among the first k (Recall@k).

    Example:
        >>> recall([1, 1, 0, 0], [0.9, 0.1, 0.5, 0.4], ["q"] * 4, k=2)
        0.5
    """
    return ranking_values(labels, scores, groups, names=("recall",), k=k)["recall"].mean


def mean_reciprocal_rank(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int | None = None) -> float:
    """Return the mean of 1 / rank of the first positive of a group, 0 where it is not among the first k (MRR@k).

    Example:
        >>> mean_reciprocal_rank([0, 1, 1, 0], [0.9, 0.8, 0.3, 0.1], ["q"] * 4)
        0.5
    """
    return ranking_values(labels, scores, groups, names=("mrr",), k=k)["mrr"].mean


def mean_average_precision(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int | None = None) -> float:
    """Return the mean over groups of precision at each positive among the first k, over min(positives, k) (MAP@k).

    Example:
        >>> round(mean_average_precision([0, 1, 1, 0], [0.9, 0.8, 0.3, 0.1], ["q"] * 4), 4)
        0.5833
    """
    return ranking_values(labels, scores, groups, names=("map",), k=k)["map"].mean


def ranking_values(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None, *,
    names: Sequence[str] = RANKING, k: int | None = None,
) -> dict[str, GroupValues]:  # fmt: skip
    """Return ranking metrics of every group.

    Args:
        labels: 0 or 1, (N,).
        scores: Any numbers, the highest first, (N,).
        groups: The list (request, user) each row belongs to, (N,).
        weights: Row weights, (N,); they weigh groups, not places within a list.
        names: Which, of `RANKING`.
        k: How many places of each list count; None: all.

    Cost: one sort for all, then O(N) for each.

    Raises:
        DataError: If a row has no group, or is no label, score or weight.
    """
    require(k is None or k >= 1, "k", got=k, expected="a positive number of places, or None")
    for name in names:
        require(name in RANKING, "Ranking metric", got=name, expected=f"one of {', '.join(RANKING)}")
    label, score, weight = columns(labels, scores, weights, single=True)
    found = encode(groups, len(label))
    masses = None
    if weights is not None:
        rows = np.bincount(found.codes, minlength=found.distinct)
        masses = np.bincount(found.codes, weight, minlength=found.distinct) / np.maximum(rows, 1)
    # the order of a list is descending, that of `ties` ascending
    return values_of_lists(ties(label, -score, None, found.codes), names, k, masses)


def values_of_lists(
    blocks: Ties, names: Sequence[str], k: int | None, masses_C: Floats | None
) -> dict[str, GroupValues]:
    """Return ranking metrics of groups whose rows come in blocks of equal scores, best first.

    Args:
        blocks: Unweighted blocks, sorted by group.
        names: Which metrics.
        k: Places that count; None: all.
        masses_C: Weight by group code; None: all one.
    """
    if not len(blocks.group_starts):
        return {name: GroupValues(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), 0) for name in names}
    places = _Places(blocks, k)
    usable = places.positives_G > 0
    codes = blocks.groups[usable]
    masses = np.ones(len(codes)) if masses_C is None else masses_C[codes]
    out = {}
    for name in names:
        value = getattr(places, name)()[usable]
        out[name] = GroupValues(value, masses, codes, int((~usable).sum()))
    return out


class _Places:
    """The places of all lists that count, one entry each: rank, and what its block of ties holds."""

    def __init__(self, blocks: Ties, k: int | None) -> None:
        positive, size = blocks.positive, blocks.positive + blocks.negative
        starts, lists = blocks.group_starts, len(blocks.group_starts)
        group_T = np.repeat(np.arange(lists), np.diff(starts, append=len(size)))
        above_T = np.cumsum(size) - size
        above_T -= above_T[starts][group_T]
        won_T = np.cumsum(positive) - positive
        won_T -= won_T[starts][group_T]
        self.positives_G: Floats = np.add.reduceat(positive, starts)
        shown_T = size if k is None else np.clip(k - above_T, 0, size)
        kept = shown_T > 0
        count = shown_T[kept].astype(np.int64)
        self.k = math.inf if k is None else float(k)
        self.group = np.repeat(group_T[kept], count)
        self.size, self.positive = np.repeat(size[kept], count), np.repeat(positive[kept], count)
        self.won = np.repeat(won_T[kept], count)
        self.within = np.arange(len(self.group)) - np.repeat(np.cumsum(count) - count, count) + 1.0
        self.rank = np.repeat(above_T[kept], count) + self.within

    def _sum(self, values: Floats) -> Floats:
        total: Floats = np.bincount(self.group, values, minlength=len(self.positives_G)).astype(np.float64, copy=False)
        return total

    def ndcg(self) -> Floats:
        """Return gain by place over what the best order gains, (G,)."""
        gain = self._sum(self.positive / self.size / np.log2(self.rank + 1))
        most = int(min(self.k, self.positives_G.max(initial=0)))
        ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, most + 2)))])
        return _over(gain, ideal[np.minimum(self.positives_G, self.k).astype(np.int64)])

    def recall(self) -> Floats:
        """Return the expected share of the positives that are shown, (G,)."""
        return _over(self._sum(self.positive / self.size), self.positives_G)

    def _first(self) -> Floats:
        """Return how likely each place has the first positive of its list."""
        size, positive, within = self.size, self.positive, self.within
        possible = (self.won == 0) & (positive > 0) & (within <= size - positive + 1)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size.max(initial=0) + 1)))])

        def choose(n: Floats, r: Floats) -> Floats:
            logs = [log_factorial[np.maximum(part, 0).astype(np.int64)] for part in (n, r, n - r)]
            chosen: Floats = logs[0] - logs[1] - logs[2]
            return chosen

        alone = (size == 1) | (size == positive)  # no draw: exact without logarithms
        chance = np.where(alone, 1.0, np.exp(choose(size - within, positive - 1) - choose(size, positive)))
        return np.where(possible, chance, 0.0)

    def hit_rate(self) -> Floats:
        """Return how likely a positive is shown, (G,)."""
        return np.minimum(self._sum(self._first()), 1.0)

    def mrr(self) -> Floats:
        """Return the expected reciprocal rank of the first positive, (G,)."""
        return self._sum(self._first() / self.rank)

    def map(self) -> Floats:
        """Return the expected average precision, (G,)."""
        share = np.divide(self.positive - 1, self.size - 1, out=np.zeros(len(self.size)), where=self.size > 1)
        precision = (self.won + 1 + (self.within - 1) * share) / self.rank
        return _over(self._sum(self.positive / self.size * precision), np.minimum(self.positives_G, self.k))


def _over(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.zeros(len(total)), where=count > 0)
