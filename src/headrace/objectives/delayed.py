"""Positives that come late: examples are learned after a short wait, and what was wrong is put right by weights.

An impression is learned once after a window. Of its positives a share r, the late ones, come after the window: the
impression was learned as a negative that it was not, and when the positive arrives it is learned a second time. With
p the true rate of an impression, the odds of a positive in that stream are

- second examples `positives` (the late ones alone): `p` to `1 - p + r p`;
- second examples `all` (every impression again, once its answer is certain): `(2 - r) p` to `2 (1 - p) + r p`.

`weights` gives an example the weight P(label) / Q(label), true probability over that in the stream, with the model's
own estimate for p (no gradient flows through it):

- `positives`: a positive `1 + r p`, a negative `(1 + r p) (1 - p) / (1 - p + r p)`;
- `all`: a positive `2 / (2 - r)`, a negative `2 (1 - p) / (2 (1 - p) + r p)`.

`calibration` compares the label with the probability Q that follows from the model's p: the maximum-likelihood
estimate of p from that stream, which is what FNC computes afterwards from a model of Q.

Named forms: fake-negative weighted (FNW) is `positives` with r = 1 (no window: everything is a negative first);
fake-negative calibration (FNC) is `calibration` with r = 1; ES-DFM is `positives` with weights and r < 1; DEFER is
`all` with weights. In each of them the model whose p is right is a fixed point, whatever r is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from headrace.config import known_name, require
from headrace.errors import DataError
from headrace.objectives.multi_task import extra_label
from headrace.objectives.sampling import SamplingCorrection
from headrace.objectives.supervised import check_examples, check_rates
from headrace.types import Batch, Loss

Second = Literal["positives", "all"]
Method = Literal["weights", "calibration"]
LOG_TWO = math.log(2.0)
LATE = "late"
"""Name of the extra label that says whether a positive came after the window."""


@dataclass(frozen=True, slots=True)
class DelayedLogLoss:
    """Log-loss of the true label on a stream whose late positives are learned twice; see the module.

    The model's own logit is that of the true rate: it is served as it is.

    Attributes:
        late_share: r, the share of positives that come after the window; 1 when there is no window. None: learned
            per example as a second column of the model, from the positives, each of which says (extra label `late`)
            whether it came late.
        method: `weights` or `calibration`.
        second: Which examples come a second time: late `positives`, or `all`.
        negative_rate: Share of the negatives that the stream keeps, as in `LogLoss`. `calibration` corrects it in
            the logit, `weights` by the inverse of each example's own rate.

    Raises:
        ConfigError: If a setting cannot work.

    Shapes:
        The model returns logits (B,), or (B, 2) with `late_share` None; `Loss.logits` is the first column.

    Source:
        Ktena et al. 2019, "Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR
        prediction" (FNW, FNC); Yang et al. 2021, "Capturing Delayed Feedback in Conversion Rate Prediction via
        Elapsed-Time Sampling" (ES-DFM); Gu et al. 2021, "Real Negatives Matter: Continuous Training with Real
        Negatives for Delayed Feedback Modeling" (DEFER). The papers train a network for r (or r p) beforehand; we
        learn r beside p.

    Example:
        >>> DelayedLogLoss().weigh(torch.tensor([0.0]), torch.tensor([1.0]))[1]  # FNW: (1 + p) (1 - p)
        tensor([0.7500])
    """

    late_share: float | None = 1.0
    method: Method = "weights"
    second: Second = "positives"
    negative_rate: float = 1.0

    def __post_init__(self) -> None:
        known_name("DelayedLogLoss.method", self.method, get_args(Method))
        known_name("DelayedLogLoss.second", self.second, get_args(Second))
        share = self.late_share
        require(share is None or 0.0 <= share <= 1.0, "DelayedLogLoss.late_share", got=share,
                expected="a share from 0 to 1, or None")  # fmt: skip
        SamplingCorrection(self.negative_rate, self.sampling.where)

    @property
    def sampling(self) -> SamplingCorrection:
        """The correction of negative sampling as one value; a server reads it from the version's spec."""
        return SamplingCorrection(self.negative_rate, "weights" if self.method == "weights" else "training")

    def spec(self) -> Mapping[str, str]:
        """Return what a published version says about this objective."""
        return {"sampling": self.sampling.spec()}

    def weigh(self, logits_B: Tensor, late_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights (B,) of a positive and of a negative, given the logits of p, and r (B,)."""
        # (1 - p) / (1 - p + r p) = 1 / (1 + r e^logit), which is defined where 1 - p rounds to 0
        if self.second == "all":
            return 2.0 / (2.0 - late_B), torch.sigmoid(-(logits_B + torch.log(0.5 * late_B)))
        more_B = 1.0 + late_B * torch.sigmoid(logits_B)
        return more_B, more_B * torch.sigmoid(-(logits_B + torch.log(late_B)))

    def stream_logit(self, logits_B: Tensor, late_B: Tensor) -> Tensor:
        """Return the logits (B,) of a positive in the stream, given those of the truth, and r (B,)."""
        positive_B, negative_B = logsigmoid(logits_B), logsigmoid(-logits_B)
        if self.second == "all":
            other_B = torch.logaddexp(negative_B + LOG_TWO, positive_B + torch.log(late_B))
            return torch.log(2.0 - late_B) + positive_B - other_B
        return positive_B - torch.logaddexp(negative_B, positive_B + torch.log(late_B))

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch.

        Raises:
            DataError: If there are no examples, a label, weight or sample rate cannot be right, or r is to be
                learned and an example does not say whether it is late.
        """
        check_examples(batch)
        check_rates(batch, self.sampling)
        logits = model(batch)
        expected = (len(batch),) if self.late_share is not None else (len(batch), 2)
        if logits.shape != expected:
            raise DataError("Model output", got=f"shape {tuple(logits.shape)}", expected=f"{expected}",
                            do="Two columns with late_share=None, else one logit per example.")  # fmt: skip
        if self.late_share is not None:
            main = self._main(logits, torch.full_like(logits, self.late_share), batch)
            return Loss(main, {"log_loss": float(main.detach())}, logits.detach())
        logits_B = logits[:, 0]
        main = self._main(logits_B, torch.sigmoid(logits[:, 1].detach()), batch)
        late = self._late(logits[:, 1], batch)
        parts = {"log_loss": float(main.detach()), f"log_loss/{LATE}": float(late.detach())}
        return Loss(main + late, parts, logits_B.detach())

    def _main(self, logits_B: Tensor, late_B: Tensor, batch: Batch) -> Tensor:
        if self.method == "calibration":
            logits_B = self.stream_logit(logits_B, late_B) + self.sampling.training_shift
            weights_B = batch.weights
        else:
            positive_B, negative_B = self.weigh(logits_B.detach(), late_B)
            own_B = batch.labels * positive_B + (1.0 - batch.labels) * negative_B
            weights_B = batch.weights * own_B / batch.sample_rates
        losses_B = binary_cross_entropy_with_logits(logits_B, batch.labels, weight=weights_B, reduction="none")
        return losses_B.sum() / len(batch)

    def _late(self, logits_B: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the late share, on positives alone: what is in time and what is late adds up to them."""
        late_B, known_B = extra_label(batch, LATE)
        # With `all`, a positive in time comes twice and a late one once.
        share_B = torch.where(late_B > 0, 1.0, 0.5) if self.second == "all" else torch.ones_like(late_B)
        weights_B = torch.where((batch.labels > 0) & known_B, batch.weights * batch.labels * share_B, 0.0)
        return binary_cross_entropy_with_logits(logits_B, late_B, weight=weights_B, reduction="sum") / len(batch)
