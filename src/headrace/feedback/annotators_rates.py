"""How often annotators and groups are right about each class, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from headrace.feedback.annotators_groups import GroupConfusions, curvature
from headrace.feedback.annotators_truth import TINY, log_softmax
from headrace.feedback.crowd import Name
from headrace.feedback.randomness import Floats, Ints

LEAST_INFORMATION = 0.05
"""Of what the answers would tell were the classes known: what not knowing them can at most take away."""


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """Error rates of annotators, or of groups.

    Shapes: names, answers, error, error_low, error_high (R,); recall, recall_low, recall_high (R, K).

    Attributes:
        names: Whose rates.
        answers: How many answers they gave.
        recall: Share of right answers among items of each class; for two classes specificity and sensitivity.
        recall_low, recall_high: Interval of the recall.
        error: Share of wrong answers, classes weighted as they occur.
        error_low, error_high: Interval of the error.
    """

    names: tuple[Name, ...]
    answers: Ints
    recall: Floats
    recall_low: Floats
    recall_high: Floats
    error: Floats
    error_low: Floats
    error_high: Floats


def rates(
    names: Sequence[Name], answers: Ints, recall: Floats, variances: Floats, shares: Floats, confidence: float
) -> Rates:
    """Return rates with intervals that are symmetric in log-odds.

    Args:
        names: Whose.
        answers: How many, (R,).
        recall: (R, K).
        variances: Of the log-odds of each recall, (R, K); infinite where nothing is known.
        shares: How often each class occurs, (K,).
        confidence: Of the intervals.
    """
    wide = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    low, high = _interval(recall, np.sqrt(variances), wide)
    error = (1.0 - recall) @ shares
    finite = np.where(np.isfinite(variances), variances, 1e6)
    slopes = (shares * recall * (1.0 - recall)) ** 2
    spread = np.sqrt((slopes * finite).sum(axis=1)) / np.maximum(error * (1.0 - error), TINY)
    error_low, error_high = _interval(error, spread, wide)
    return Rates(tuple(names), answers, recall, low, high, error, error_low, error_high)


def _interval(middle: Floats, spread: Floats, wide: float) -> tuple[Floats, Floats]:
    inside = np.clip(middle, 1e-12, 1.0 - 1e-12)
    odds = np.log(inside) - np.log1p(-inside)
    half = np.minimum(wide * spread, 700.0)
    low, high = (1.0 / (1.0 + np.exp(np.clip(-(odds + sign * half), -700.0, 700.0))) for sign in (-1.0, 1.0))
    return low, high


def missing_information(doubt: Floats, chances: Floats) -> Floats:
    """Return what not knowing the classes takes from the information on logits, per annotator, (R, K, K).

    Shapes: doubt (R, K), the sum of q (1 - q) over answers of each kind; chances (R, K).

    Source:
        Louis 1982, equation 3.1, the blocks of one annotator and class; items are taken as independent.
    """
    total = doubt.sum(axis=1)
    middle = np.einsum("ra,rb->rab", doubt, chances)
    outer = np.einsum("ra,rb->rab", chances, chances)
    found = doubt[:, :, None] * np.eye(doubt.shape[1]) - middle - middle.transpose(0, 2, 1)
    return np.asarray(found + total[:, None, None] * outer)


def counted_variances(counts: Floats, doubt: Floats, recall: Floats) -> Floats:
    """Return variances of the log-odds of recalls that are shares of counts, (R, K).

    Shapes: counts, doubt (R, K, K); recall (R, K).
    """
    own = np.diagonal(doubt, axis1=1, axis2=2)
    full = counts.sum(axis=2) * recall * (1.0 - recall)
    lost = own * (1.0 - recall) ** 2 + (doubt.sum(axis=2) - own) * recall**2
    known = np.maximum(full - lost, LEAST_INFORMATION * full)
    return np.where(known > 0, 1.0 / np.maximum(known, TINY), np.inf)


def pooled_rates(
    names: Sequence[Name], codes: Ints, answers: Ints, counts: Floats, shares: Floats, confidence: float
) -> Rates:
    """Return rates of groups from counts of their annotators; errors are those between annotators of a group.

    Shapes: codes (R,) group of each annotator or -1; answers (R,); counts (R, K, K).
    """
    known, size = codes >= 0, len(names)
    met = counts.sum(axis=2)[known]
    right = np.diagonal(counts, axis1=1, axis2=2)[known]
    groups = codes[known]
    recall, variances = np.empty((size, counts.shape[1])), np.empty((size, counts.shape[1]))
    for place in range(counts.shape[1]):
        total = np.bincount(groups, weights=met[:, place], minlength=size)
        hits = np.bincount(groups, weights=right[:, place], minlength=size)
        share = (hits + 0.5) / (total + 1.0)
        apart = np.bincount(groups, weights=(right[:, place] - share[groups] * met[:, place]) ** 2, minlength=size)
        people = np.bincount(groups, weights=met[:, place] > 0, minlength=size)
        between = apart * people / np.maximum(people - 1.0, 1.0) / np.maximum(total, TINY) ** 2
        alone = share * (1.0 - share) / np.maximum(total, TINY)
        recall[:, place] = share
        variances[:, place] = np.where(people > 1, between, alone) / (share * (1.0 - share)) ** 2
    said = np.bincount(groups, weights=answers[known], minlength=size).astype(np.int64)
    return rates(names, said, recall, variances, shares, confidence)


def modelled_variances(model: GroupConfusions, counts: Floats, doubt: Floats, levels: Floats) -> tuple[Floats, Floats]:
    """Return variances of the log-odds of recalls under GroupAnno, of annotators (R, K) and of typical people (G, K).

    Shapes: counts, doubt (R, K, K); levels (G, M), what a typical person of a group has of each shared part.
    """
    confusions, classes = model.confusions, counts.shape[1]
    persons, groups = np.empty(confusions.shape[:2]), np.empty((len(levels), classes))
    design, cells = model.cells.design, model.cells.cells
    for place in range(classes):
        chances = confusions[:, place]
        curve = curvature(counts[:, place].sum(axis=1) + model.added[place].sum(), chances)
        observed = _positive(curve - missing_information(doubt[:, place], chances), curve)
        within, carried, shared = model.spread(place, observed)
        blocks = shared.reshape(design.shape[1], classes, design.shape[1], classes)
        per_cell = np.einsum("cm,manb,cn->cab", design, blocks, design)[cells]
        whole = within + np.einsum("rab,rbc,rdc->rad", carried, per_cell, carried)
        persons[:, place] = _of_recall(whole, chances, place)
        typical = np.exp(log_softmax(levels @ model.shared[place]))
        groups[:, place] = _of_recall(np.einsum("gm,manb,gn->gab", levels, blocks, levels), typical, place)
    return persons, groups


def _positive(observed: Floats, curve: Floats) -> Floats:
    """Return the information with its eigenvalues kept above a small share of the complete information's."""
    values, vectors = np.linalg.eigh(observed)
    least = LEAST_INFORMATION * np.trace(curve, axis1=1, axis2=2)[:, None] / max(curve.shape[1], 1)
    kept = np.maximum(values, least)
    # the direction of all ones carries no information, whatever the answers
    flat = np.einsum("rab,rb,rcb->rac", vectors, kept, vectors)
    center = np.eye(curve.shape[1]) - 1.0 / curve.shape[1]
    return np.asarray(center @ flat @ center)


def _of_recall(covariances: Floats, chances: Floats, place: int) -> Floats:
    """Return the variance of the log-odds of answer `place`. Shapes: (R, K, K), (R, K) to (R,)."""
    own = chances[:, place]
    slope = -chances / np.maximum(1.0 - own, TINY)[:, None]
    slope[:, place] = 1.0
    return np.asarray(np.einsum("ra,rab,rb->r", slope, covariances, slope))
