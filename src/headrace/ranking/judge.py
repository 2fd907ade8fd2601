"""Scores of a model on a split, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.errors import DataError
from headrace.evaluate import auc, auc_interval, log_loss
from headrace.learn import Pipeline
from headrace.ranking.examples import ExampleSet
from headrace.types import Figure, Report

SCORE_ROWS = 8192
"""Rows scored at a time; the scores depend on it by rounding only."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """Labels and scores of a split.

    Shapes: labels, scores (rows,); scores are probabilities.
    """

    labels: Floats
    scores: Floats

    @property
    def auc(self) -> float:
        """Area under the ROC curve."""
        return auc(self.labels, self.scores)

    @property
    def log_loss(self) -> float:
        """Mean negative log-likelihood."""
        return log_loss(self.labels, self.scores)

    def report(self, report: Report, prefix: str, source: str) -> None:
        """Add `<prefix>_auc` with its 95 % interval and `<prefix>_log_loss`."""
        found = auc_interval(self.labels, self.scores)
        report.figures[f"{prefix}_auc"] = Figure(self.auc, found.low, found.high, source=source)
        report.add(f"{prefix}_log_loss", self.log_loss, source=source)


def served_logits(output: Tensor) -> Tensor:
    """Return the logits (B,) that are served: of a model with several tasks those of task 0."""
    return output[:, 0] if output.dim() == 2 else output


def judge(model: nn.Module, examples: ExampleSet) -> Judged:
    """Score a split without keeping anything for learning; the model is left in its own mode.

    Rows without a main label (NaN) are scored and left out.

    Raises:
        DataError: If there is no labelled row.
    """
    training, scores, labels = model.training, list[Tensor](), list[Tensor]()
    model.eval()
    try:
        with torch.no_grad(), Pipeline().over(examples.batches(SCORE_ROWS)) as ahead:
            for batch in ahead:
                scores.append(torch.sigmoid(served_logits(model(batch)).double()))
                labels.append(batch.labels.double())
    finally:
        model.train(training)
    known = ~torch.isnan(torch.cat(labels)) if labels else torch.zeros(0, dtype=torch.bool)
    if not bool(known.any()):
        raise DataError("Split to judge", got="no labelled row", expected="at least one")
    return Judged(torch.cat(labels)[known].numpy(), torch.cat(scores)[known].numpy())
