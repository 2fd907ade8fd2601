"""Losses of models with several labels: a log-loss per label, where the label is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from headrace.config import require
from headrace.errors import ConfigError, DataError, nearest
from headrace.objectives.sampling import SamplingCorrection, Where
from headrace.objectives.supervised import check_examples, check_rates, refuse_rows
from headrace.types import Batch, Loss

Target = tuple[Tensor, Tensor]
"""Labels (B,) with 0 where they are not known, and which are known (B,) bool."""


@dataclass(frozen=True, slots=True)
class MultiTask:
    """Weighted sum of the log-losses of several labels.

    The total is `sum_t weight_t sum_b w_b l_bt / B` over the examples b whose label t is known: divided by all
    examples of the batch, as `LogLoss` does, so that a label which is seldom known does not count as much in a batch
    that happens to hold one example of it.

    Negatives of the main label may have been sampled. For the main label that is corrected as in `LogLoss`. For the
    others no constant shift is right, since a sampled-out example may have any extra label: their examples weigh
    1 / their own rate. Sampling that serving corrects is refused for the same reason.

    Attributes:
        labels: Names of the extra labels, in the order of the model's columns after the first: the schema's order.
            Their values are `Batch.extra["label/<name>"]`; NaN is an unknown label.
        weights: One per label, the main one first; None: 1 each. `learned`: by the uncertainties of a
            `headrace.nn.LearnedWeights` around the model.
        negative_rate: As in `LogLoss`, of the main label.
        correction: `training` or `weights`; see `LogLoss`.

    Raises:
        ConfigError: If a setting cannot work.

    Shapes:
        The model returns logits (B, 1 + labels). `Loss.logits` is column 0, the main label's, which is served as
        `score`. `Loss.parts` has `log_loss` and `log_loss/<name>`, each a mean over the examples where it is known;
        a label that is known nowhere in the batch has none.

    Example:
        >>> MultiTask(("buy", "like"), weights=(1.0, 2.0, 0.5)).names
        ('log_loss', 'log_loss/buy', 'log_loss/like')
    """

    labels: tuple[str, ...]
    weights: tuple[float, ...] | Literal["learned"] | None = None
    negative_rate: float = 1.0
    correction: Where = "training"

    def __post_init__(self) -> None:
        fits = type(self.labels) is tuple and len(set(self.labels)) == len(self.labels)
        require(fits, "MultiTask.labels", got=self.labels, expected="a tuple of different names of extra labels")
        SamplingCorrection(self.negative_rate, self.correction)
        require(self.negative_rate == 1.0 or self.correction != "serving", "MultiTask.correction", got="serving",
                expected="'training' or 'weights'", do="A server cannot correct the extra labels.")  # fmt: skip
        if self.weights is None or self.weights == "learned":
            return
        count = 1 + len(self.labels)
        numbers = type(self.weights) is tuple and len(self.weights) == count and all(w >= 0 for w in self.weights)
        require(numbers, "MultiTask.weights", got=self.weights, expected=f"{count} numbers of 0 or more, or 'learned'")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts of the loss, the main label's first."""
        return ("log_loss", *(f"log_loss/{name}" for name in self.labels))

    @property
    def sampling(self) -> SamplingCorrection:
        """The correction as one value; a server reads it from the version's spec."""
        return SamplingCorrection(self.negative_rate, self.correction)

    def spec(self) -> Mapping[str, str]:
        """Return what a published version says about this objective."""
        return {"sampling": self.sampling.spec()}

    def targets(self, batch: Batch) -> list[Target]:
        """Return what every column of the model is compared with."""
        found = [(batch.labels, torch.ones(len(batch), dtype=torch.bool))]
        return found + [extra_label(batch, name) for name in self.labels]

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch; `logits` are its column 0, to be served as they are.

        Raises:
            DataError: If there are no examples, or a label, weight or sample rate cannot be right; names the first
                such row and its example id.
            ConfigError: If weights are to be learned and the model holds none.
        """
        check_examples(batch)
        check_rates(batch, self.sampling)
        targets = self.targets(batch)
        logits_BT = model(batch)
        if logits_BT.shape != (len(batch), len(targets)):
            raise DataError("Model output", got=f"shape {tuple(logits_BT.shape)}",
                            expected=f"one logit per example and label, {(len(batch), len(targets))}",
                            do="Give model and objective the same labels.")  # fmt: skip
        losses, parts = [], dict[str, float]()
        for task, (label_B, known_B) in enumerate(targets):
            sums = self._summed(task, logits_BT[:, task], label_B, known_B, batch)
            losses.append(sums / len(batch))
            if known := int(known_B.sum()):
                parts[self.names[task]] = float(sums.detach()) / known
        return Loss(self._total(model, losses), parts, logits_BT[:, 0].detach())

    def _summed(self, task: int, logits_B: Tensor, label_B: Tensor, known_B: Tensor, batch: Batch) -> Tensor:
        weights_B = torch.where(known_B, batch.weights, 0.0)
        if task == 0 and self.correction == "training":
            logits_B = logits_B + self.sampling.training_shift
        else:
            weights_B = weights_B / batch.sample_rates
        return binary_cross_entropy_with_logits(logits_B, label_B, weight=weights_B, reduction="sum")

    def _total(self, model: nn.Module, losses: list[Tensor]) -> Tensor:
        if self.weights is None:
            return torch.stack(losses).sum()
        if self.weights == "learned":
            log_variances = getattr(model, "log_variances", None)
            if not isinstance(log_variances, Tensor) or log_variances.shape != (len(losses),):
                raise ConfigError("MultiTask.weights", got="'learned' for a model without log-variances",
                                  expected=f"LearnedWeights(model, {len(losses)})")  # fmt: skip
            weighed = [loss * torch.exp(-s) + 0.5 * s for loss, s in zip(losses, log_variances, strict=True)]
            return torch.stack(weighed).sum()
        return torch.stack([loss * weight for loss, weight in zip(losses, self.weights, strict=True)]).sum()


@dataclass(frozen=True, slots=True)
class ESMMLoss(MultiTask):
    """Loss of a chain of labels, each of which needs the one before: click, then conversion.

    Column t of the model (`headrace.nn.ESMM`) says how probable it is that steps 0 to t all happen, and is learned
    on every impression: click, and click-and-conversion. Nothing is trained on clicked impressions alone. A row
    without a click counts as no conversion whatever its conversion label says, unknown (NaN) included; a clicked row
    whose conversion is not known yet teaches the click alone.

    Attributes:
        labels: Names of the steps after the main label, in their order.
        weights: As in `MultiTask`.
        negative_rate: As in `MultiTask`.
        correction: As in `MultiTask`.

    Shapes:
        As `MultiTask`; `Loss.logits` is pCTR, the main label's. Served beside it is pCTCVR (`score/<name>`); their
        ratio is pCVR.

    Source:
        Ma et al. 2018, "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion
        Rate".
    """

    labels: tuple[str, ...] = ("conversion",)

    def targets(self, batch: Batch) -> list[Target]:
        """Return what every column of the model is compared with: the products of the labels so far."""
        product_B, known_B = batch.labels, torch.ones(len(batch), dtype=torch.bool)
        found = [(product_B, known_B)]
        for name in self.labels:
            label_B, seen_B = extra_label(batch, name)
            known_B = known_B & (seen_B | (product_B == 0))
            product_B = product_B * label_B
            found.append((product_B, known_B))
        return found


def extra_label(batch: Batch, name: str) -> Target:
    """Return an extra label and where it is known.

    Raises:
        DataError: If the batch has no such label, or a value that is neither NaN nor in [0, 1].
    """
    label_B = batch.extra.get(f"label/{name}")
    if label_B is None:
        known = [key.removeprefix("label/") for key in batch.extra if key.startswith("label/")]
        raise DataError(f"Extra label '{name}'", got="none in the batch", expected=nearest(name, known),
                        do="Name it among the schema's extra_labels.")  # fmt: skip
    known_B = ~torch.isnan(label_B)
    refuse_rows(batch, known_B & ~((label_B >= 0) & (label_B <= 1)), f"label '{name}'", label_B,
                "a number in [0, 1], or NaN", "Look at where the label of this example is made.")  # fmt: skip
    return torch.where(known_B, label_B, 0.0), known_B
