"""How much each row moves a metric: from that, standard errors of every metric, for independent rows and for groups.

The influence of a row is the derivative of the metric by the row's weight, times the weight. The sum over rows is zero;
the sum of squares is the metric's variance when rows are independent; with groups, influences are added within a group
first (clustered variance). For the AUC this is DeLong's estimator, and with groups Obuchowski's. Two models judged on
the same rows are compared by the difference of their influences, which makes the comparison paired.

Source:
    DeLong et al. (1988); Obuchowski, Nonparametric Analysis of Clustered ROC Curve Data (1997); Efron, The Jackknife,
    the Bootstrap and Other Resampling Plans (1982), chapter 6 (the infinitesimal jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.evaluate.metrics import entropy_ratio, losses
from headrace.evaluate.order import Floats, Integers

FEW = 200
"""Clusters up to which intervals are Student's; beyond, the normal distribution is as good."""


class Influence(NamedTuple):
    """A metric's value and each row's influence on it, (N,)."""

    value: float
    rows: Floats


def log_loss_influence(label: Floats, probability: Floats, weight: Floats) -> Influence:
    """Return the log-loss with its influences."""
    return _mean(losses(label, probability), weight)


def entropy_influence(label: Floats, probability: Floats, weight: Floats) -> Influence:
    """Return the normalised entropy with its influences; rows also count through the mean label."""
    loss, rate = _mean(losses(label, probability), weight), _mean(label, weight)
    value = entropy_ratio(loss.value, rate.value)
    if math.isnan(value):
        return Influence(math.nan, np.full(len(label), np.nan))
    entropy = loss.value / value if value else 1.0
    slope = math.log((1 - rate.value) / rate.value)
    return Influence(value, (loss.rows - value * slope * rate.rows) / entropy)


def gain_influence(label: Floats, probability: Floats, weight: Floats) -> Influence:
    """Return the relative information gain with its influences."""
    value, rows = entropy_influence(label, probability, weight)
    return Influence(1 - value, -rows)


def calibration_influence(label: Floats, probability: Floats, weight: Floats) -> Influence:
    """Return expected over observed positives with its influences."""
    observed = float(np.sum(weight * label))
    if not observed:
        return Influence(math.nan, np.full(len(label), np.nan))
    value = float(np.sum(weight * probability)) / observed
    return Influence(value, weight * (probability - value * label) / observed)


def auc_influence(label: Floats, score: npt.NDArray[np.floating], weight: Floats) -> Influence:
    """Return the AUC with its influences, scaled so that without weights their squares sum to DeLong's variance."""
    positive, negative = weight * label, weight * (1 - label)
    positives, negatives = float(positive.sum()), float(negative.sum())
    m = float(label.sum())
    n = len(label) - m
    if m < 2 or n < 2:
        return Influence(math.nan, np.full(len(label), np.nan))
    order, block, starts = _blocks(score)
    wins, rest = np.add.reduceat(positive[order], starts), np.add.reduceat(negative[order], starts)
    below, above = np.cumsum(rest) - 0.5 * rest, positives - np.cumsum(wins) + 0.5 * wins
    value = float(np.sum(wins * below)) / (positives * negatives)
    of_positive = (below / negatives - value) * (math.sqrt(m / (m - 1)) / positives)
    of_negative = (above / positives - value) * (math.sqrt(n / (n - 1)) / negatives)
    rows = np.empty(len(label))
    sorted_label = label[order] == 1
    rows[order] = np.where(sorted_label, of_positive[block], of_negative[block]) * weight[order]
    return Influence(value, rows)


def precision_influence(label: Floats, score: npt.NDArray[np.floating], weight: Floats) -> Influence:
    """Return the average precision with its influences; a row also counts in the precision of positives below it."""
    positives = float(np.sum(weight * label))
    if not positives:
        return Influence(math.nan, np.full(len(label), np.nan))
    order, block, starts = _blocks(-score)  # the best block first
    mass, wins = np.add.reduceat(weight[order], starts), np.add.reduceat((weight * label)[order], starts)
    total = np.cumsum(mass)
    precision = np.cumsum(wins) / total
    value = float(np.sum(wins * precision)) / positives
    reach, drag = wins / total, wins * precision / total
    below = np.cumsum(reach[::-1])[::-1]  # over positives of this block and those after it
    pulled = np.cumsum(drag[::-1])[::-1]
    own = label[order]
    rows = np.empty(len(label))
    rows[order] = weight[order] * (own * (precision[block] - value) + own * below[block] - pulled[block]) / positives
    return Influence(value, rows)


def calibration_bins(probability: Floats, bins: int, *, equal_mass: bool) -> Integers:
    """Return the bin of each row: of equal width, or cut at quantiles so that bins hold nearly equally many rows."""
    if not equal_mass:
        return np.minimum((probability * bins).astype(np.int64), bins - 1)
    edges = np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, probability, side="right").astype(np.int64)


class BinnedError(NamedTuple):
    """An expected calibration error with influences, and by how much its plug-in value may be too high."""

    influence: Influence
    bias: float


def calibration_error_influence(
    label: Floats, probability: Floats, weight: Floats, which: Integers, bins: int, clusters: Clusters
) -> BinnedError:
    """Return the expected calibration error over given bins.

    Distances of bins are not negative, so chance adds to them: the plug-in value is too high by at most
    sum of sigma sqrt(2/pi) over bins, which is what a perfectly calibrated model shows. That is `bias`.
    """
    total = float(weight.sum())
    gap = np.bincount(which, weight * (probability - label), minlength=bins) / total
    value = float(np.abs(gap).sum())
    rows = weight / total * (np.sign(gap)[which] * (probability - label) - value)
    spread = _bin_variances(weight * (probability - label) / total, which, bins, clusters)
    return BinnedError(Influence(value, rows), float(np.sqrt(2 / math.pi * spread).sum()))


def _bin_variances(parts_N: Floats, which: Integers, bins: int, clusters: Clusters) -> Floats:
    if clusters.codes is None:
        return _summed(which, parts_N**2, bins)
    key = clusters.codes * bins + which
    if clusters.distinct * bins <= 4 * len(which) + 65_536:
        sums = _summed(key, parts_N, clusters.distinct * bins).reshape(-1, bins)
        squares: Floats = np.sum(sums**2, axis=0)
        return squares
    cells, place = np.unique(key, return_inverse=True)
    return _summed(cells % bins, _summed(place, parts_N, len(cells)) ** 2, bins)


def _summed(which: Integers, parts: Floats, count: int) -> Floats:
    total: Floats = np.bincount(which, parts, minlength=count).astype(np.float64, copy=False)
    return total


class Clusters(NamedTuple):
    """Which rows belong together: codes from 0, (N,), or None when every row stands for itself.

    Attributes:
        codes: Cluster of each row.
        distinct: How many clusters; each has a row.
    """

    codes: Integers | None
    distinct: int

    @classmethod
    def rows(cls, count: int) -> Clusters:
        """Return clusters of one row each."""
        return cls(None, count)

    @classmethod
    def of(cls, codes: Integers, count: int) -> Clusters:
        """Return clusters of rows with one code; codes without a row are closed up."""
        present = np.bincount(codes, minlength=count) > 0
        used = int(np.count_nonzero(present))
        return cls(codes if used == count else (np.cumsum(present) - 1)[codes], used)

    def sums(self, rows_N: Floats) -> Floats:
        """Return influences added within clusters, (C,), corrected for few clusters."""
        if self.codes is None:
            return rows_N
        sums = _summed(self.codes, rows_N, self.distinct)
        return sums * math.sqrt(self.distinct / (self.distinct - 1)) if self.distinct > 1 else np.full(1, np.nan)

    def error(self, rows_N: Floats) -> float:
        """Return the standard error that influences amount to."""
        return float(np.sqrt(np.sum(self.sums(rows_N) ** 2)))

    @property
    def freedom(self) -> int | None:
        """Degrees of freedom of an error from few clusters; None where there are so many that it does not matter."""
        return self.distinct - 1 if self.codes is not None and self.distinct <= FEW else None


def of_groups(values_G: Floats, masses_G: Floats) -> Influence:
    """Return the weighted mean over groups with the influence of each group, (G,), small samples corrected."""
    count = len(values_G)
    if count < 2:
        return Influence(float(values_G[0]) if count else math.nan, np.full(count, np.nan))
    found = _mean(values_G, masses_G)
    return Influence(found.value, found.rows * math.sqrt(count / (count - 1)))


def _mean(values: Floats, weight: Floats) -> Influence:
    total = float(weight.sum())
    value = float(np.sum(weight * values)) / total
    return Influence(value, weight * (values - value) / total)


def _blocks(score: npt.NDArray[np.floating]) -> tuple[Integers, Integers, Integers]:
    """Return the ascending order, the block of each sorted row, and where blocks start."""
    order = np.argsort(score)  # not stable: within a block the order does not matter
    ordered = score[order]
    changed = ordered[1:] != ordered[:-1]
    block = np.concatenate([[0], np.cumsum(changed)])
    return order, block, np.concatenate([[0], np.flatnonzero(changed) + 1])


ROWS: dict[str, Callable[[Floats, Floats, Floats], Influence]] = {
    "auc": auc_influence, "average_precision": precision_influence, "log_loss": log_loss_influence,
    "ne": entropy_influence, "rig": gain_influence, "calibration": calibration_influence,
}  # fmt: skip
"""Metrics of rows by name."""
