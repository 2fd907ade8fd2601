"""GLAD: annotators have an ability, items a difficulty, and all wrong answers are alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from headrace.feedback.crowd import Answers
from headrace.feedback.randomness import Floats, Ints

Margin: TypeAlias = Callable[[Floats], tuple[Floats, Floats, Floats]]

SWEEPS = 5
PRIOR_MEAN = 1.0
"""Of abilities and of the logarithm of easiness; both with standard deviation 1, as in crowd-kit."""


class AbilityDifficulty:
    """p(right) = sigmoid(ability of the annotator times exp(ease of the item)); errors are uniform over other classes.

    An M-step sweeps over abilities and eases in turn: each is a problem of one number, solved for all at once by
    Newton steps that are halved, number by number, until they are a gain.

    Args:
        annotators: R.
        items: I.
        classes: K.

    Source:
        Whitehill et al. 2009; priors N(1, 1) on ability and ease.
    """

    def __init__(self, annotators: int, items: int, classes: int) -> None:
        self.ability: Floats = np.full(annotators, PRIOR_MEAN)
        self.ease: Floats = np.full(items, PRIOR_MEAN)
        self._classes = classes

    def fit(self, answers: Answers, beliefs: Floats) -> None:
        """Sweep a few times over abilities and eases."""
        right = beliefs[answers.items, answers.answers]
        for _ in range(SWEEPS):
            _climb(self.ability, answers.annotators, right, partial(_by_ability, np.exp(self.ease)[answers.items]))
            _climb(self.ease, answers.items, right, partial(_by_ease, self.ability[answers.annotators]))

    def log_likelihood(self, answers: Answers) -> Floats:
        """Return the log-likelihood of each item's answers, (I, K)."""
        items, _, classes = answers.shape
        logit = self.ability[answers.annotators] * np.exp(self.ease[answers.items])
        wrong = -np.logaddexp(0.0, logit) - np.log(max(classes - 1, 1))
        right = -np.logaddexp(0.0, -logit)
        found = np.repeat(np.bincount(answers.items, weights=wrong, minlength=items)[:, None], classes, axis=1)
        cell = answers.items * classes + answers.answers
        found += np.bincount(cell, weights=right - wrong, minlength=items * classes).reshape(items, classes)
        return np.asarray(found)

    def penalty(self) -> float:
        """Return the priors' part."""
        return 0.5 * float(((self.ability - PRIOR_MEAN) ** 2).sum() + ((self.ease - PRIOR_MEAN) ** 2).sum())


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


def _by_ability(ease: Floats, own: Floats) -> tuple[Floats, Floats, Floats]:
    return own * ease, ease, np.zeros_like(own)


def _by_ease(ability: Floats, own: Floats) -> tuple[Floats, Floats, Floats]:
    value = ability * np.exp(own)
    return value, value, value


def _climb(values: Floats, owners: Ints, right: Floats, margin: Margin) -> None:
    """Move each value uphill in place; `margin(value per answer)` gives the logit and its two derivatives."""
    logit, first, second = margin(values[owners])
    chance = _sigmoid(logit)
    slope = np.bincount(owners, weights=(right - chance) * first, minlength=len(values)) - (values - PRIOR_MEAN)
    bend = chance * (1.0 - chance) * first**2 - (right - chance) * second
    curve = np.maximum(np.bincount(owners, weights=bend, minlength=len(values)), 0.0) + 1.0
    step = slope / curve
    before = _value(values, owners, right, logit)
    worse = np.ones(len(values), dtype=np.bool_)
    for _ in range(40):
        tried = values + step
        after = _value(tried, owners, right, margin(tried[owners])[0])
        worse = after < before
        if not worse.any():
            break
        step = np.where(worse, step / 2, step)
    values += np.where(worse, 0.0, step)


def _value(values: Floats, owners: Ints, right: Floats, logit: Floats) -> Floats:
    logs = right * logit - np.logaddexp(0.0, logit)
    total = np.bincount(owners, weights=logs, minlength=len(values))
    return np.asarray(total - 0.5 * (values - PRIOR_MEAN) ** 2)
