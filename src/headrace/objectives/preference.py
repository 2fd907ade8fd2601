"""Learning from preferences: reward models (Bradley-Terry), and policies directly (DPO)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from headrace.config import known_name, require
from headrace.errors import DataError
from headrace.objectives.tokens import (
    CHOSEN,
    PROMPT,
    REJECTED,
    Joined,
    LanguageModel,
    completion_log_probs,
    feature,
    joined,
    row_sums,
)
from headrace.types import Batch, Jagged, Loss

REFERENCE_CHOSEN, REFERENCE_REJECTED = "reference_chosen", "reference_rejected"


class _Scorer(Protocol):
    """What a reward model has; `headrace.nn.ScoreModel` does."""

    def scores(self, tokens: Jagged) -> Tensor:
        """Return the score after each token, (L,)."""
        ...


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """`-log sigmoid(score of the chosen - score of the rejected)`, with labels as probabilities.

    A label is the probability that `chosen` is the better one: 1 where somebody said so, less where opinions differ.
    `last` compares the scores after the last tokens. `every` compares them after each token from the first that
    differs, which teaches where in a completion the difference arises; behind the end of the shorter one its last
    score stands. Both answer to the same question with the score after the last token.

    Attributes:
        at: `last` or `every`.
        centred: Weight of the squared sum of the two last scores, which keeps the level of scores near zero.

    Shapes:
        Features `prompt`, `chosen`, `rejected`; the model gives scores (L,).

    Source:
        `every`: the loss of DeepSpeed-Chat's reward model; it compares padding behind the end of the shorter one,
        where we compare its last score.
    """

    at: Literal["last", "every"] = "last"
    centred: float = 0.0

    def __post_init__(self) -> None:
        known_name("BradleyTerry.at", self.at, ["last", "every"])
        require(0 <= self.centred < math.inf, "BradleyTerry.centred", got=self.centred, expected="0 or more")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss; `accuracy` (of last scores) and `margin` are among its parts, `logits` are differences.

        Raises:
            DataError: If there are no pairs, a completion is empty, a label is no probability or a weight negative.
        """
        chosen, rejected = _pairs(batch)
        scorer = cast(_Scorer, model)
        # One pass over both; each half has its own rows.
        both = _behind(chosen.tokens, rejected.tokens)
        scores_L = scorer.scores(both)
        cut = int(chosen.tokens.values.numel())
        better_L, worse_L = scores_L[:cut], scores_L[cut:]
        last_chosen_B = better_L[chosen.tokens.offsets[1:] - 1]
        last_rejected_B = worse_L[rejected.tokens.offsets[1:] - 1]
        differences_B = last_chosen_B - last_rejected_B
        if self.at == "last":
            losses_B = _log_loss(differences_B, batch.labels)
        else:
            losses_B = self._every(better_L, worse_L, chosen, rejected, batch.labels)
        penalty_B = self.centred * (last_chosen_B + last_rejected_B).square()
        total = ((losses_B + penalty_B) * batch.weights).sum() / len(batch)
        right_B = (differences_B.detach() > 0) == (batch.labels > 0.5)
        parts = {"bradley_terry": float(losses_B.detach().mean()), "accuracy": float(right_B.float().mean()),
                 "margin": float(differences_B.detach().mean())}  # fmt: skip
        return Loss(total, parts, differences_B.detach())

    @staticmethod
    def _every(better_L: Tensor, worse_L: Tensor, chosen: Joined, rejected: Joined, labels_B: Tensor) -> Tensor:
        """Return the mean loss over the places from the first difference on, (B,); 0 for equal completions."""
        lengths = torch.stack((chosen.answers.offsets.diff(), rejected.answers.offsets.diff()))
        longest = int(lengths.max())
        places_T = torch.arange(longest, device=lengths.device)
        scores, tokens = [], []
        for whole, values, length_B in ((chosen, better_L, lengths[0]), (rejected, worse_L, lengths[1])):
            first_B1 = (whole.tokens.offsets[1:] - length_B).unsqueeze(1)
            at_BT = first_B1 + torch.minimum(places_T, length_B.unsqueeze(1) - 1)
            scores.append(values[at_BT])
            tokens.append(whole.tokens.values[at_BT].where(places_T < length_B.unsqueeze(1), -1))
        # Places count from the first difference to the end of the longer one.
        counted_BT = ((tokens[0] != tokens[1]).cumsum(1) > 0) & (places_T < lengths.max(0).values.unsqueeze(1))
        losses_BT = _log_loss(scores[0] - scores[1], labels_B.unsqueeze(1)) * counted_BT
        return losses_BT.sum(1) / counted_BT.sum(1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class DPO:
    """Direct preference optimisation: the policy is its own reward model.

    `-log sigmoid(beta [(log-ratio of the chosen) - (log-ratio of the rejected)])`, where a log-ratio is how much
    likelier the policy thinks a completion than the reference does. The reference's log-probabilities stand in the
    batch (`with_reference`), so the objective itself needs no second model.

    Attributes:
        beta: How dearly distance from the reference is paid for.
        anchor: Weight of the mean negative log-probability of the chosen completion's tokens, which keeps the chosen
            one likely.
        per_token: Divide log-ratios by the number of tokens.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization". Labels below 1 are label smoothing.
    """

    beta: float = 0.1
    anchor: float = 0.0
    per_token: bool = False

    def __post_init__(self) -> None:
        require(0 < self.beta < math.inf, "DPO.beta", got=self.beta, expected="a positive number")
        require(0 <= self.anchor < math.inf, "DPO.anchor", got=self.anchor, expected="0 or more")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss; `accuracy` and `margin` of the implied rewards are among its parts.

        Raises:
            DataError: If there are no pairs, or the reference's log-probabilities are not in the batch.
        """
        language, (chosen, rejected) = cast(LanguageModel, model), _pairs(batch)
        found, means = [], []
        for whole, name in ((chosen, REFERENCE_CHOSEN), (rejected, REFERENCE_REJECTED)):
            if name not in batch.extra:
                raise DataError(f"Batch, extra '{name}'", got="nothing", expected="the reference's log-probabilities",
                                do="Put them in with with_reference(reference, batch).")  # fmt: skip
            sums_B, counts_B = row_sums(completion_log_probs(language, whole), whole), whole.answers.offsets.diff()
            ratios_B = sums_B - batch.extra[name]
            found.append(ratios_B / counts_B if self.per_token else ratios_B)
            means.append(sums_B / counts_B)
        margins_B = self.beta * (found[0] - found[1])
        losses_B = _log_loss(margins_B, batch.labels) - self.anchor * means[0]
        total = (losses_B * batch.weights).sum() / len(batch)
        right_B = (margins_B.detach() > 0) == (batch.labels > 0.5)
        parts = {"dpo": float(total.detach()), "accuracy": float(right_B.float().mean()),
                 "margin": float(margins_B.detach().mean())}  # fmt: skip
        return Loss(total, parts, margins_B.detach())


@torch.no_grad()
def with_reference(reference: LanguageModel, batch: Batch) -> Batch:
    """Return a batch of pairs with the reference's log-probabilities of both completions."""
    chosen, rejected = _pairs(batch)
    sums = {name: row_sums(completion_log_probs(reference, whole), whole)
            for name, whole in ((REFERENCE_CHOSEN, chosen), (REFERENCE_REJECTED, rejected))}  # fmt: skip
    return replace(batch, extra={**batch.extra, **sums})


def _pairs(batch: Batch) -> tuple[Joined, Joined]:
    """Return both completions behind the prompts, checked."""
    if not len(batch):
        raise DataError("Batch", got="no pairs", expected="at least one", do="Skip empty batches.")
    if not bool(((batch.labels >= 0) & (batch.labels <= 1)).all()) or bool((batch.weights < 0).any()):
        raise DataError("Batch", got="a label outside [0, 1], or a negative weight", expected="probabilities that the "
                        "chosen one is better, and weights of 0 or more")  # fmt: skip
    prompts = feature(batch, PROMPT)
    answers = [feature(batch, name) for name in (CHOSEN, REJECTED)]
    if any(int(one.offsets.diff().min()) == 0 for one in answers):
        raise DataError("Batch", got="a completion without tokens", expected="at least one token in each",
                        do="An empty answer is its end token.")  # fmt: skip
    return joined(prompts, answers[0]), joined(prompts, answers[1])


def _behind(first: Jagged, second: Jagged) -> Jagged:
    offsets = torch.cat((first.offsets, second.offsets[1:] + first.offsets[-1]))
    return Jagged(torch.cat((first.values, second.values)), offsets)


def _log_loss(differences: Tensor, labels: Tensor) -> Tensor:
    return -labels * logsigmoid(differences) - (1.0 - labels) * logsigmoid(-differences)
