"""How good predictions are: functions of labels and probabilities, exact, for what fits into memory.

Labels are 0 or 1, probabilities in [0, 1], weights positive; all are (N,) arrays, lists or CPU tensors. Where a number
does not exist (no positives, no rows) the functions return NaN.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.order import areas, encode, ties

Floats: TypeAlias = "npt.NDArray[np.float64]"

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 where their logarithm is taken; float32 has nothing finer near 1."""

PIECE = 1 << 16
"""Rows taken at a time where a whole column of temporaries would only cost memory."""


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: how often a positive is ranked above a negative, ties counted half.

    Cost: one sort, O(N log N); 10 million float32 scores without weights take under a second. Any real scores will do.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
    """
    label, score, weight = columns(labels, scores, weights, single=True)
    value, _ = areas(ties(label, score, None if weights is None else weight, None))
    return float(value[0]) if len(value) else math.nan


def area(positive: Floats, negative: Floats) -> float:
    """Return the AUC of weights counted per score, in ascending order of the score; NaN without both classes."""
    positives, negatives = float(positive.sum()), float(negative.sum())
    if positives <= 0 or negatives <= 0:
        return math.nan
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + 0.5 * negative)) / (positives * negatives))


def log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean negative log-likelihood in nats.

    Example:
        >>> round(log_loss([1, 0], [0.5, 0.5]), 4)
        0.6931
    """
    label, probability, weight = columns(labels, probabilities, weights, unit=True)
    total = float(weight.sum())
    return total_loss(label, probability, weight) / total if total else math.nan


def total_loss(labels: Floats, probabilities: Floats, weights: Floats) -> float:
    """Return the weighted sum of `losses`, taken in pieces that stay in the cache."""
    pieces = (slice(at, at + PIECE) for at in range(0, len(labels), PIECE))
    return math.fsum(float(np.sum(weights[part] * losses(labels[part], probabilities[part]))) for part in pieces)


def losses(labels: Floats, probabilities: Floats) -> Floats:
    """Return the negative log-likelihood of each row, (N,), probabilities clipped to `CLIP`."""
    clipped = np.clip(probabilities, CLIP, 1 - CLIP)
    rows: Floats = -np.log(np.where(labels > 0, clipped, 1 - clipped))  # one logarithm a row: a label is 0 or 1
    return rows


def normalised_entropy(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the log-loss divided by that of always predicting the mean label: below 1 is better than knowing only it.

    Source:
        He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (2014), section 2.

    Example:
        >>> normalised_entropy([1, 0, 0, 0], [0.25] * 4)
        1.0
    """
    label, probability, weight = columns(labels, probabilities, weights, unit=True)
    total, positives = float(weight.sum()), float(np.sum(weight * label))
    return entropy_ratio(total_loss(label, probability, weight) / total, positives / total) if total else math.nan


def entropy_ratio(loss: float, mean_label: float) -> float:
    """Return a log-loss over the entropy of a mean label; NaN when all labels are equal."""
    if not 0 < mean_label < 1:
        return math.nan
    return loss / -(mean_label * math.log(mean_label) + (1 - mean_label) * math.log1p(-mean_label))


def calibration_ratio(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return expected over observed positives: 1 is calibrated, 1.1 promises a tenth too many.

    Example:
        >>> calibration_ratio([1, 0], [0.8, 0.4])
        1.2000000000000002
    """
    label, probability, weight = columns(labels, probabilities, weights, unit=True)
    observed = float(np.sum(weight * label))
    return float(np.sum(weight * probability)) / observed if observed else math.nan


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 20,
    equal_mass: bool = False,
) -> float:  # fmt: skip
    """Return the mean distance between predicted and observed rate, over bins of predictions.

    Args:
        labels: 0 or 1, (N,).
        probabilities: Predictions, (N,).
        weights: Row weights, (N,).
        bins: How many.
        equal_mass: Cut into bins of (nearly) equally many rows instead of equal width; finer where rates are low.

    Source:
        Guo et al., On Calibration of Modern Neural Networks (2017), section 2.
    """
    require(bins >= 1, "bins", got=bins, expected="a positive integer")
    label, probability, weight = columns(labels, probabilities, weights, unit=True)
    if not len(label):
        return math.nan
    if equal_mass:
        edges = np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1])
        which = np.searchsorted(edges, probability, side="right")
    else:
        which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weight * (probability - label), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def grouped_auc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the AUC within groups (users, requests), averaged by group weight; groups of one class are left out.

    Groups may be integers or texts. Cost: one sort for all groups together.

    Raises:
        DataError: If a row has no group.

    Source:
        Zhu et al., Optimized Cost per Click in Taobao Display Advertising (2017), equation 7.

    Example:
        >>> grouped_auc([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.7], [7, 7, 9, 9])
        0.5
    """
    label, score, weight = columns(labels, scores, weights, single=True)
    codes = encode(groups, len(label)).codes
    value, mass = areas(ties(label, score, None if weights is None else weight, codes))
    usable = ~np.isnan(value)
    return float(np.average(value[usable], weights=mass[usable])) if usable.any() else math.nan


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the precision-recall curve as a sum of steps: the mean precision at each positive.

    Rows of one score are taken together, as one step. NaN without positives.

    Example:
        >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
        0.8333
    """
    label, score, weight = columns(labels, scores, weights, single=True)
    blocks = ties(label, score, None if weights is None else weight, None)
    return precision_area(blocks.positive, blocks.negative)


def precision_area(positive: Floats, negative: Floats) -> float:
    """Return the average precision of weights counted per score, in ascending order of the score."""
    positives = float(positive.sum())
    if positives <= 0:
        return math.nan
    above = np.cumsum(positive[::-1])
    total = above + np.cumsum(negative[::-1])
    precision = np.divide(above, total, out=np.zeros(len(above)), where=total > 0)
    return float(np.sum(positive[::-1] * precision)) / positives


def relative_information_gain(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return 1 - normalised entropy: which share of the labels' entropy the predictions explain.

    Example:
        >>> relative_information_gain([1, 0, 0, 0], [0.25] * 4)
        0.0
    """
    return 1 - normalised_entropy(labels, probabilities, weights)


def columns(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, unit: bool = False, single: bool = False
) -> tuple[Floats, Floats, Floats]:
    """Return labels, scores and weights (ones when None) as checked float64 arrays.

    With `single`, scores that come as float32 stay float32; ones made here are one number seen N times.

    Raises:
        DataError: If lengths differ, a label is not 0 or 1, a score is not finite (or, with `unit`, no probability),
            or a weight is not positive.
    """
    label, score = np.asarray(labels, dtype=np.float64), np.asarray(scores)
    if not (single and score.dtype == np.float32):
        score = score.astype(np.float64, copy=False)
    weight = np.broadcast_to(1.0, label.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if not label.shape == score.shape == weight.shape or label.ndim != 1:
        raise DataError("Metric", got=f"shapes {label.shape}, {score.shape}, {weight.shape}",
                        expected="labels, scores and weights of one length")  # fmt: skip
    _refuse("label", label, (label == 0) | (label == 1), "0 or 1")
    _refuse("score", score, np.isfinite(score), "a number")
    if unit:
        _refuse("probability", score, (score >= 0) & (score <= 1), "a number from 0 to 1")
    if weights is not None:
        _refuse("weight", weight, (weight > 0) & np.isfinite(weight), "a positive number")
    return label, score, weight


def _refuse(what: str, values: Floats, right: npt.NDArray[np.bool_], expected: str) -> None:
    if not right.all():
        row = int(np.argmin(right))
        raise DataError(f"Metric, {what} of row {row}", got=float(values[row]), expected=expected)
