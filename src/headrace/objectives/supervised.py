"""Supervised objectives on labels of single examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from headrace.errors import DataError
from headrace.objectives.sampling import SamplingCorrection, Where
from headrace.types import Batch, Loss

RATE_TOLERANCE = 1e-6
"""Rates travel as float32; this much difference is rounding."""


@dataclass(frozen=True, slots=True)
class LogLoss:
    """Weighted log-loss of a binary label, corrected for negative sampling exactly once.

    The total is `sum_b w_b l_b / B`: divided by the number of examples and not by the sum of weights, so that the
    correction by weights stays unbiased however small the batch is.

    Attributes:
        negative_rate: Share of the negatives that the joiner keeps. It is checked against the rate that every
            example carries, so that a stream that is sampled otherwise than the configuration says is refused.
        correction: Where sampling is corrected for; see `headrace.objectives.sampling`. With `serving` the loss is
            plain and the server corrects.

    Raises:
        ConfigError: If the rate is not in (0, 1] or `correction` is not one of the places.

    Shapes:
        The model returns logits (B,); labels (B,) in [0, 1]; weights (B,) >= 0.

    Example:
        >>> LogLoss(negative_rate=0.1).sampling.training_shift
        2.3025850929940455
    """

    negative_rate: float = 1.0
    correction: Where = "training"

    def __post_init__(self) -> None:
        SamplingCorrection(self.negative_rate, self.correction)

    @property
    def sampling(self) -> SamplingCorrection:
        """The correction as one value; a server reads it from the version's spec."""
        return SamplingCorrection(self.negative_rate, self.correction)

    def spec(self) -> Mapping[str, str]:
        """Return what a published version says about this objective."""
        return {"sampling": self.sampling.spec()}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch; `logits` are the model's own, as they are to be served.

        Raises:
            DataError: If there are no examples, or a label, weight or sample rate cannot be right; names the first
                such row and its example id.
        """
        check_examples(batch)
        check_rates(batch, self.sampling)
        logits_B = model(batch)
        if logits_B.shape != batch.labels.shape:
            raise DataError("Model output", got=f"shape {tuple(logits_B.shape)}",
                            expected=f"one logit per example, {tuple(batch.labels.shape)}")  # fmt: skip
        weights_B = batch.weights
        if self.correction == "weights":
            weights_B = weights_B / batch.sample_rates
        losses_B = binary_cross_entropy_with_logits(
            logits_B + self.sampling.training_shift, batch.labels, weight=weights_B, reduction="none"
        )
        total = losses_B.sum() / len(batch)
        return Loss(total, {"log_loss": float(total.detach())}, logits_B.detach())


def check_rates(batch: Batch, sampling: SamplingCorrection) -> None:
    """Refuse sample rates that are none, or other ones than the correction was made for.

    Raises:
        DataError: Names the first bad row, its example id and value.
    """
    if sampling.where == "weights":
        wrong_B = ~((batch.sample_rates > 0) & (batch.sample_rates <= 1))
        refuse_rows(batch, wrong_B, "sample rate", batch.sample_rates, "a share in (0, 1]", "Check the joiner.")
        return
    # A soft label lies between; only whole negatives are sampled.
    expected_B = torch.where(batch.labels > 0, 1.0, sampling.negative_rate).to(torch.float32)
    wrong_B = ~((batch.sample_rates - expected_B).abs() <= RATE_TOLERANCE)
    refuse_rows(
        batch, wrong_B, "sample rate", batch.sample_rates,
        f"1 for positives and {sampling.negative_rate} for negatives (negative_rate of the objective)",
        "Give the objective the negative_rate of the joiner, or use correction='weights' if it varies.",
    )  # fmt: skip


def check_examples(batch: Batch) -> None:
    """Refuse a batch without examples, labels outside [0, 1] (NaN included) and negative weights.

    Weights that are NaN or infinite make a loss that is, and the learner refuses that.

    Raises:
        DataError: Names the first bad row, its example id and value.
    """
    if not len(batch):
        raise DataError("Batch", got="no examples", expected="at least one", do="Skip empty batches.")
    refuse_rows(batch, ~((batch.labels >= 0) & (batch.labels <= 1)), "label", batch.labels, "a number in [0, 1]",
                "Look at where the label of this example is made.")  # fmt: skip
    refuse_rows(batch, batch.weights < 0, "weight", batch.weights, "0 or more",
                "Look at where the weight of this example is made.")  # fmt: skip


def refuse_rows(batch: Batch, wrong_B: Tensor, name: str, values: Tensor, expected: str, do: str) -> None:
    """Raise DataError if any row is wrong; it names the first one, its example id and value."""
    if not bool(wrong_B.any()):
        return
    row = int(torch.nonzero(wrong_B)[0])
    more = int(wrong_B.sum()) - 1
    raise DataError(
        f"Batch row {row} (example {int(batch.example_ids[row])}), {name}",
        got=f"{float(values[row]):g}" + (f" and {more} more bad rows" if more else ""), expected=expected, do=do,
    )  # fmt: skip
