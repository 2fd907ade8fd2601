"""Is A better than B, or was it luck? Tests of paired differences: over seeds, and over groups by flipping signs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.claims import Estimate, coverage, mean_over_seeds
from headrace.evaluate.order import Floats

EXACT_PAIRS = 25
"""Pairs up to which Wilcoxon's distribution is counted out; beyond, and with ties, the normal distribution is used."""


@dataclass(frozen=True, slots=True)
class SeedComparison:
    """A against B over seeds.

    Attributes:
        difference: Mean of A - B with Student's interval.
        t_p: Two-sided p of the paired t-test.
        wilcoxon_p: Two-sided p of Wilcoxon's signed-rank test; with n seeds it cannot be below 2 / 2**n.
        wins: Seeds in which A was above B.
    """

    difference: Estimate
    t_p: float
    wilcoxon_p: float
    wins: int


def compare_seeds(first: ArrayLike, second: ArrayLike) -> SeedComparison:
    """Return whether A differs from B, given one number of each per seed, paired (same seed, split and order).

    Raises:
        DataError: If there are not two or more pairs of finite numbers.

    Example:
        >>> found = compare_seeds([0.781, 0.783, 0.780], [0.779, 0.780, 0.779])
        >>> print(found.difference.text(), round(found.t_p, 3), found.wilcoxon_p, found.wins)
        +0.0020 ± 0.0025 0.074 0.25 3
    """
    gap = _pairs(first, second)
    estimate = mean_over_seeds(gap)
    return SeedComparison(estimate, _t_probability(estimate), wilcoxon(gap), int((gap > 0).sum()))


def paired_t(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p of the paired t-test.

    Example:
        >>> round(paired_t([3, 5, 4, 6], [1, 2, 4, 3]), 4)
        0.0663
    """
    return _t_probability(mean_over_seeds(_pairs(first, second)))


def _pairs(first: ArrayLike, second: ArrayLike) -> Floats:
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != two.shape or one.ndim != 1 or len(one) < 2:
        raise DataError("Pairs to compare", got=f"shapes {one.shape} and {two.shape}",
                        expected="one number per seed for each, at least two seeds")  # fmt: skip
    # differences of numbers written as decimals: 0.3 - 0.2 and 0.2 - 0.1 are to tie
    scale = float(np.abs(np.concatenate([one, two])).max())
    gap = one - two
    return np.round(gap, 14 - math.ceil(math.log10(scale))) if 0 < scale < math.inf else gap


def _t_probability(estimate: Estimate) -> float:
    if estimate.error == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return 1 - coverage(abs(estimate.value) / estimate.error, estimate.count - 1)


def wilcoxon(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; zeros are dropped, ties share their mean rank.

    Source:
        Wilcoxon, Individual Comparisons by Ranking Methods (1945); exact distribution by counting sums of ranks.

    Example:
        >>> wilcoxon([1, 2, 3, 4, 5])
        0.0625
    """
    gap = np.asarray(differences, np.float64)
    gap = gap[gap != 0]
    if not len(gap):
        return 1.0
    _, which, counts = np.unique(np.abs(gap), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    count, above = len(gap), float(ranks[gap > 0].sum())
    if count <= EXACT_PAIRS and (counts == 1).all():
        ways = np.array([1.0])
        for rank in range(1, count + 1):
            ways = np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways])
        smaller = int(min(above, count * (count + 1) / 2 - above))
        return float(min(1.0, 2 * ways[: smaller + 1].sum() / 2**count))
    mean, square = count * (count + 1) / 4, float((ranks**2).sum()) / 4
    return normal_probability((above - mean) / math.sqrt(square))


def normal_probability(z: float) -> float:
    """Return how likely a standard normal number is at least this far from zero.

    Example:
        >>> round(normal_probability(1.96), 3)
        0.05
    """
    return math.erfc(abs(z) / math.sqrt(2))


def sign_flip(differences: ArrayLike, *, draws: int = 2000, seed: int = 0) -> float:
    """Return the two-sided p of a sum of differences when each sign could as well have been the other.

    One difference per group (user, request, day): if A and B are equally good, swapping them within a group changes
    nothing but chance. The smallest p is 1 / (draws + 1).

    Cost: draws × groups.

    Example:
        >>> sign_flip([0.1] * 12, draws=999) < 0.01
        True
    """
    require(draws >= 1, "draws", got=draws, expected="a positive integer")
    gap = np.asarray(differences, np.float64)
    draw, seen = np.random.default_rng(seed), abs(float(gap.sum()))
    beyond, tiny = 0, 1e-12 * float(np.abs(gap).sum())
    step = max(1, (1 << 22) // max(len(gap), 1))
    for start, stop in pairwise([*range(0, draws, step), draws]):
        bits = np.unpackbits(draw.integers(0, 256, (stop - start, -(-len(gap) // 8)), dtype=np.uint8), axis=1)
        sums = gap.sum() - 2 * (bits[:, : len(gap)].astype(np.float64) @ gap)
        beyond += int((np.abs(sums) >= seen - tiny).sum())
    return (beyond + 1) / (draws + 1)
