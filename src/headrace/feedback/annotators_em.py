"""Expectation maximisation over items' classes, for any pair of a truth model and an answer model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.errors import NumericError
from headrace.feedback.annotators_confusion import AnswerModel
from headrace.feedback.annotators_truth import TruthModel, log_sum
from headrace.feedback.crowd import Answers
from headrace.feedback.randomness import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Where EM ended.

    Attributes:
        beliefs: p(class | answers) per item, (I, K).
        trace: Penalised log-likelihood after each step; it never falls.
        converged: Whether no belief moved by more than the tolerance in the last step.
    """

    beliefs: Floats
    trace: tuple[float, ...]
    converged: bool


def vote_shares(answers: Answers) -> Floats:
    """Return the share of votes for each class, (I, K); uniform for items without answers."""
    votes = answers.votes()
    total = votes.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, votes / np.maximum(total, 1.0), 1.0 / votes.shape[1]))


def expectation(answers: Answers, truth: TruthModel, model: AnswerModel) -> tuple[Floats, float]:
    """Return the beliefs under the present parameters, (I, K), and the penalised log-likelihood, in log-space."""
    joint = truth.log_prior(answers.shape[0]) + model.log_likelihood(answers)
    evidence = log_sum(joint)
    value = float(evidence.sum()) - truth.penalty() - model.penalty()
    if not np.isfinite(value):
        raise NumericError("Label aggregation, log-likelihood", got=str(value), expected="a finite number",
                           do="Use more smoothing, or scale the features.")  # fmt: skip
    return np.exp(joint - evidence[:, None]), value


def expectation_maximisation(
    answers: Answers, truth: TruthModel, model: AnswerModel, beliefs: Floats, *, iterations: int, tolerance: float
) -> Fitted:
    """Fit both models to the answers, from these beliefs on.

    Source:
        Dawid and Skene 1979; Raykar et al. 2010 where the truth model is a classifier; where the answer model only
        takes steps uphill, generalised EM (Dempster et al. 1977), which still never falls.
    """
    trace: list[float] = []
    for _ in range(iterations):
        truth.fit(beliefs)
        model.fit(answers, beliefs)
        after, value = expectation(answers, truth, model)
        trace.append(value)
        moved = float(np.abs(after - beliefs).max(initial=0.0))
        beliefs = after
        if moved < tolerance:
            return Fitted(beliefs, tuple(trace), True)
    return Fitted(beliefs, tuple(trace), False)
