"""How sure a number is: intervals from standard errors, and those of one AUC and of the difference of two."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.claims import student_t
from headrace.evaluate.influence import Clusters, auc_influence
from headrace.evaluate.metrics import columns
from headrace.evaluate.order import encode


class Interval(NamedTuple):
    """A number, its confidence interval and its standard error."""

    value: float
    low: float
    high: float
    error: float


def auc_interval(
    labels: ArrayLike, scores: ArrayLike, *, weights: ArrayLike | None = None, groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Interval:  # fmt: skip
    """Return the AUC with DeLong's interval; NaN with fewer than two rows of a class.

    Without groups rows are taken as independent: within one request or user they are not, and the true interval is
    wider. With groups the interval is Obuchowski's, which holds for rows that depend on each other within a group.

    Cost: one sort.

    Source:
        DeLong et al., Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves (1988);
        Sun and Xu, Fast Implementation of DeLong's Algorithm (2014); Obuchowski (1997).
    """
    label, score, weight = columns(labels, scores, weights, single=True)
    found, clusters = auc_influence(label, score, weight), clusters_of(groups, len(label))
    return interval(found.value, clusters.error(found.rows), confidence, clusters.freedom)


def auc_difference(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, *, weights: ArrayLike | None = None,
    groups: ArrayLike | None = None, confidence: float = 0.95,
) -> Interval:  # fmt: skip
    """Return AUC(first) - AUC(second) on the same rows, with DeLong's interval for paired scores.

    Example:
        >>> auc_difference([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], [0.1, 0.9, 0.2, 0.8]).value
        0.0
    """
    if np.shape(first) != np.shape(second):
        raise DataError("Scores to compare", got=str([np.shape(first), np.shape(second)]), expected="one length")
    label, score, weight = columns(labels, first, weights, single=True)
    one, two = auc_influence(label, score, weight), auc_influence(*columns(labels, second, weights, single=True))
    clusters = clusters_of(groups, len(label))
    return interval(one.value - two.value, clusters.error(one.rows - two.rows), confidence, clusters.freedom)


def clusters_of(groups: ArrayLike | None, rows: int) -> Clusters:
    """Return which rows belong together; every row for itself when there are no groups."""
    if groups is None:
        return Clusters.rows(rows)
    found = encode(groups, rows)
    return Clusters.of(found.codes, found.distinct)


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
    return interval(auc, math.sqrt(max(spread, 0.0) / (positives * negatives)), confidence)


def interval(value: float, error: float, confidence: float = 0.95, freedom: int | None = None) -> Interval:
    """Return a number with its interval from its standard error: Student's where there are degrees of freedom.

    Example:
        >>> interval(1.0, 0.5).high
        1.9799819922700268
    """
    require(0 < confidence < 1, "confidence", got=confidence, expected="a share between 0 and 1")
    if freedom is not None and freedom < 1:
        return Interval(value, math.nan, math.nan, math.nan)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) if freedom is None else student_t(freedom, confidence)
    return Interval(value, value - reach * error, value + reach * error, error)
