"""How annotators answer, as far as counts tell: a confusion of each in closed form, and what all models share."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from headrace.feedback.annotators_truth import TINY
from headrace.feedback.crowd import Answers
from headrace.feedback.randomness import Floats


class AnswerModel(Protocol):
    """p(answer | class, annotator, item) and how it is fitted to soft labels."""

    def fit(self, answers: Answers, beliefs: Floats) -> None:
        """Raise the expected log-likelihood of the answers under soft labels (I, K), less the penalty."""
        ...

    def log_likelihood(self, answers: Answers) -> Floats:
        """Return, per item and class, the log-likelihood of the item's answers, (I, K)."""
        ...

    def penalty(self) -> float:
        """Return what is taken off the log-likelihood."""
        ...


class CountModel(AnswerModel, Protocol):
    """An answer model whose likelihood needs no more than expected counts of (annotator, class, answer)."""

    def fit_counts(self, counts: Floats) -> None:
        """Fit to counts (R, K, K): how often each annotator met each class and gave each answer."""
        ...

    @property
    def confusions(self) -> Floats:
        """p(answer | class) of each annotator, (R, K, K); rows add to 1."""
        ...


def count(answers: Answers, beliefs: Floats) -> Floats:
    """Return the expected counts of (annotator, class, answer) under soft labels, (R, K, K).

    Shapes: beliefs (I, K).
    Cost: O(N K).
    """
    _, people, classes = answers.shape
    cell, size = answers.annotators * classes + answers.answers, people * classes
    counts = np.empty((people, classes, classes))
    for place in range(classes):
        weights = beliefs[answers.items, place]
        counts[:, place] = np.bincount(cell, weights=weights, minlength=size).reshape(people, classes)
    return counts


def likelihood(answers: Answers, confusions: Floats) -> Floats:
    """Return the log-likelihood of each item's answers if it were of each class, (I, K); 0 for items without answers.

    Shapes: confusions (R, K, K).
    Cost: O(N K).
    """
    items, _, classes = answers.shape
    logs = np.log(np.maximum(confusions, TINY))
    found = np.empty((items, classes))
    for place in range(classes):
        parts = logs[answers.annotators, place, answers.answers]
        found[:, place] = np.bincount(answers.items, weights=parts, minlength=items)
    return found


SHARED_LOG_ODDS = 1.2
"""What a right answer is ahead of each wrong one, before any answer was seen: it keeps classes from swapping names."""


def pseudo_answers(classes: int, smoothing: float) -> Floats:
    """Return what is added to counts, (K, K): `smoothing` per cell on average, more where the answer is right.

    Equal numbers in all cells would pull rare annotators to answers that say nothing, and with them all labels to the
    largest class.

    Example:
        >>> pseudo_answers(2, 0.5).round(2).tolist()
        [[0.77, 0.23], [0.23, 0.77]]
    """
    faith = np.exp(SHARED_LOG_ODDS * np.eye(classes))
    return np.asarray(smoothing * classes * faith / faith.sum(axis=1, keepdims=True))


class FreeConfusions:
    """Dawid and Skene's: each annotator has a confusion of their own, counts plus some pseudo-answers.

    Without smoothing a cell that was never seen is impossible for ever, and an annotator who never met a class has no
    rates; a few pseudo-answers cure both.

    Args:
        annotators: R.
        classes: K.
        smoothing: Pseudo-answers per cell; see `pseudo_answers`.

    Source:
        Dawid and Skene 1979; smoothing is the mode under a Dirichlet prior.
    """

    def __init__(self, annotators: int, classes: int, smoothing: float) -> None:
        self._added = pseudo_answers(classes, smoothing)
        self._confusions: Floats = np.full((annotators, classes, classes), 1.0 / classes)

    def take_over(self, older: FreeConfusions, stranger: Floats) -> None:
        """Start from a model of fewer annotators; the others answer as a stranger does, (K, K)."""
        self._confusions[: len(older._confusions)] = older._confusions
        self._confusions[len(older._confusions) :] = stranger

    @property
    def confusions(self) -> Floats:
        """p(answer | class) of each annotator, (R, K, K)."""
        return self._confusions

    def fit(self, answers: Answers, beliefs: Floats) -> None:
        """Set the confusions to their maximum."""
        self.fit_counts(count(answers, beliefs))

    def fit_counts(self, counts: Floats) -> None:
        """Set the confusions to their maximum; a row without any count becomes uniform."""
        cells = counts + self._added
        total = cells.sum(axis=2, keepdims=True)
        self._confusions = np.where(total > 0, cells / np.maximum(total, TINY), 1.0 / cells.shape[2])

    def log_likelihood(self, answers: Answers) -> Floats:
        """Return the log-likelihood of each item's answers, (I, K)."""
        return likelihood(answers, self._confusions)

    def penalty(self) -> float:
        """Return the pseudo-answers' part."""
        return -float((self._added * np.log(np.maximum(self._confusions, TINY))).sum())
