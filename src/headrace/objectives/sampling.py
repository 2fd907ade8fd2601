"""Negative sampling and its correction, applied exactly once.

A joiner that keeps every positive and only a share r of the negatives shows the learner odds that are 1/r times too
high: in the sample P(1)/P(0) = p / (r (1 - p)), so `logit_sample = logit_true - log r`. Three places can put this
right, and exactly one of them must:

- `training`: the loss is computed on `z - log r`, for positives and negatives alike, so that the model's own output z
  estimates the true logit and is served as it is. (Shifting each example by the rate that it carries itself would
  shift negatives only, and so tell the model the label.)
- `weights`: every example weighs 1 / its own rate; the output is the true logit too. Needs no constant rate and works
  for any sampling, at the price of noisier gradients (kept negatives count 1/r times).
- `serving`: nothing is done in training, z estimates the logit of the sample, and the server subtracts: `z + log r`.

One `SamplingCorrection` names the rate and the one place. A learner publishes it with every version (`spec`), so that
a server can see what was done and refuses to do it again (`check_applied_once`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from headrace.config import known_name, require
from headrace.errors import ConfigError

Where = Literal["training", "weights", "serving"]
Probability = TypeVar("Probability", float, Tensor, npt.NDArray[np.float32], npt.NDArray[np.float64])
"""A number, tensor or array of probabilities or logits; the same kind comes back."""


@dataclass(frozen=True, slots=True)
class SamplingCorrection:
    """The share of negatives that the stream keeps, and the one place where that is corrected for.

    Attributes:
        negative_rate: Share of the negatives that was kept, in (0, 1]; 1 means no sampling, nothing to correct.
        where: `training` (shift of the logit in the loss), `weights` (inverse rates in the loss) or `serving`.

    Raises:
        ConfigError: If the rate is not in (0, 1], or `where` is not exactly one of the three places.

    Source:
        The odds argument of Monolith's log-odds correction (section "Online Joiner"); King and Zeng 2001, "prior
        correction", for the constant shift.

    Example:
        >>> SamplingCorrection(0.1, "serving").serve(0.5)
        0.09090909090909091
        >>> SamplingCorrection(0.1, "training").serve(0.5)
        0.5
    """

    negative_rate: float = 1.0
    where: Where = "training"

    def __post_init__(self) -> None:
        check_rate(self.negative_rate)
        require(isinstance(self.where, str), "correction", got=self.where, expected=f"exactly one of {get_args(Where)}",
                do="Two corrections would make every probability too low.")  # fmt: skip
        known_name("correction", self.where, get_args(Where))

    @property
    def training_shift(self) -> float:
        """What the loss adds to every logit: minus log of the rate when training corrects, else 0."""
        return -math.log(self.negative_rate) if self.where == "training" else 0.0

    @property
    def serving_rate(self) -> float:
        """The rate that a server must correct for: the rate when serving corrects, else 1."""
        return self.negative_rate if self.where == "serving" else 1.0

    def serve(self, probability: Probability) -> Probability:
        """Return the probability to serve, given the model's own."""
        return correct_probability(probability, self.serving_rate)

    def spec(self) -> str:
        """Return the text that travels with every published version."""
        return json.dumps({"negative_rate": self.negative_rate, "where": self.where}, sort_keys=True)

    @staticmethod
    def from_spec(text: str) -> SamplingCorrection:
        """Read what `spec` wrote; ConfigError if it is something else."""
        try:
            content = json.loads(text)
            return SamplingCorrection(float(content["negative_rate"]), content["where"])
        except (ValueError, KeyError, TypeError) as error:
            what = "Sampling correction of a version"
            raise ConfigError(what, got=repr(text), expected="what `spec` wrote") from error


def check_applied_once(trained: SamplingCorrection, serving_rate: float) -> None:
    """Refuse a server whose own correction does not complete what was done in training.

    Args:
        trained: What the learner did, from the published version's spec.
        serving_rate: The rate that the server is configured to correct for; 1 = it corrects nothing.

    Raises:
        ConfigError: If both correct (every probability would be too low), if neither does although negatives were
            sampled (too high), or if they name different rates.

    Example:
        >>> check_applied_once(SamplingCorrection(0.1, "training"), 1.0)
        >>> check_applied_once(SamplingCorrection(0.1, "training"), 0.1)
        Traceback (most recent call last):
        ...
        headrace.errors.ConfigError: Sampling correction: got rate 0.1 in serving after it was applied in training, \
expected no correction in serving (rate 1.0). Apply it once: take it out of the server's settings.
    """
    check_rate(serving_rate)
    wanted = trained.serving_rate
    if serving_rate == wanted:
        return
    if trained.where != "serving":
        place = "in training" if trained.where == "training" else "by weights in training"
        raise ConfigError(
            "Sampling correction", got=f"rate {serving_rate} in serving after it was applied {place}",
            expected="no correction in serving (rate 1.0)",
            do="Apply it once: take it out of the server's settings.",
        )  # fmt: skip
    raise ConfigError(
        "Sampling correction", got=f"rate {serving_rate} in serving",
        expected=f"rate {wanted}, because the model was trained on a sample and not corrected",
        do="Give the server the negative_rate of the joiner.",
    )  # fmt: skip


def correct_probability(probability: Probability, negative_rate: float) -> Probability:
    """Return true probabilities from those of a model that was trained on a sample without correction.

    `p r / (p r + 1 - p)`, which is `sigmoid(logit(p) + log r)` without the detour; 0 and 1 stay what they are.

    Raises:
        ConfigError: If the rate is not in (0, 1].

    Example:
        >>> correct_probability(0.5, 0.25)
        0.2
    """
    check_rate(negative_rate)
    if negative_rate == 1.0:
        return probability
    kept = probability * negative_rate
    return kept / (kept + (1 - probability))


def correct_logit(logit: Probability, negative_rate: float) -> Probability:
    """Return true logits from those of a model that was trained on a sample without correction: `z + log r`."""
    check_rate(negative_rate)
    return logit + math.log(negative_rate)


def check_rate(negative_rate: object) -> None:
    """Raise ConfigError unless the rate is in (0, 1]."""
    in_range = isinstance(negative_rate, (int, float)) and 0.0 < negative_rate <= 1.0
    require(in_range and not isinstance(negative_rate, bool), "negative_rate", got=negative_rate,
            expected="a number in (0, 1]", do="It is the share of negatives that the joiner keeps.")  # fmt: skip
