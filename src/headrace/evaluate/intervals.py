"""How sure an AUC is: intervals for one, and for the difference of two on the same rows."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.metrics import Floats, columns


class Interval(NamedTuple):
    """A number, its confidence interval and its standard error."""

    value: float
    low: float
    high: float
    error: float


def auc_interval(labels: ArrayLike, scores: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the AUC with DeLong's interval; NaN with fewer than two rows of a class.

    Rows are taken as independent: within one request they are not, and the true interval is wider.

    Cost: O(N log N), by mid-ranks.

    Source:
        DeLong et al., Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves (1988);
        Sun and Xu, Fast Implementation of DeLong's Algorithm (2014).
    """
    areas, covariance = _delong(labels, [scores])
    return _interval(float(areas[0]), float(covariance[0, 0]), confidence)


def auc_difference(labels: ArrayLike, first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return AUC(first) - AUC(second) on the same rows, with DeLong's interval for paired scores.

    Example:
        >>> auc_difference([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], [0.1, 0.9, 0.2, 0.8]).value
        0.0
    """
    areas, covariance = _delong(labels, [first, second])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return _interval(float(areas[0] - areas[1]), float(variance), confidence)


def hanley_mcneil_interval(auc: float, positives: float, negatives: float, *, confidence: float = 0.95) -> Interval:
    """Return an interval for an AUC of which only the numbers of rows are known, as in a stream.

    Source:
        Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve (1982), equation 2.

    Example:
        >>> interval = hanley_mcneil_interval(0.8, 50, 950)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.725, 0.875)
    """
    if math.isnan(auc) or positives < 1 or negatives < 1:
        return Interval(auc, math.nan, math.nan, math.nan)
    one, two = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (one - auc**2) + (negatives - 1) * (two - auc**2)
    return _interval(auc, max(spread, 0.0) / (positives * negatives), confidence)


def _interval(value: float, variance: float, confidence: float) -> Interval:
    require(0 < confidence < 1, "confidence", got=confidence, expected="a share between 0 and 1")
    error = math.sqrt(max(variance, 0.0)) if not math.isnan(variance) else math.nan
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Interval(value, value - reach, value + reach, error)


def _delong(labels: ArrayLike, scores: list[ArrayLike]) -> tuple[Floats, Floats]:
    """Return the AUCs (K,) and their covariance (K, K)."""
    count = len(scores)
    if len({np.shape(each) for each in scores}) > 1:
        raise DataError("Scores to compare", got=str([np.shape(each) for each in scores]), expected="one length")
    label = columns(labels, scores[0])[0]
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    m, n = len(positive), len(negative)
    if m < 2 or n < 2:
        return np.full(count, np.nan), np.full((count, count), np.nan)
    areas, of_positives, of_negatives = np.empty(count), np.empty((count, m)), np.empty((count, n))
    for place, each in enumerate(scores):
        score = columns(labels, each)[1]
        ranks = _mid_ranks(np.concatenate([score[positive], score[negative]]))
        areas[place] = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
        of_positives[place] = (ranks[:m] - _mid_ranks(score[positive])) / n
        of_negatives[place] = 1 - (ranks[m:] - _mid_ranks(score[negative])) / m
    covariance = np.cov(of_positives).reshape(count, count) / m + np.cov(of_negatives).reshape(count, count) / n
    return areas, covariance


def _mid_ranks(values: Floats) -> Floats:
    """Return ranks from 1, ties sharing their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Floats = (ends - (counts - 1) / 2).astype(np.float64)
    return middle[which]
