"""Policy gradients on completions: PPO with clipped policy and value, and plain REINFORCE.

The objective is stateless: what was worked out once per rollout (old log-probabilities, advantages, returns, old
values; see `headrace.objectives.advantages`) stands in the batch, one number per token of a completion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from headrace.config import require
from headrace.errors import DataError
from headrace.objectives.tokens import COMPLETION, PROMPT, Joined, LanguageModel, feature, in_a_row, joined
from headrace.types import Batch, Jagged, Loss

LOG_PROBS, ADVANTAGES, RETURNS, VALUES = "log_probs", "advantages", "returns", "values"
"""Extras of a batch of completions, each (B, T), zeros behind the end of a completion."""
LOG_RATIO_LIMIT = 20.0
"""A ratio is taken as at most e^20: beyond, exp overflows and the clip has long decided."""


class _Critic(Protocol):
    """A policy with a critic; `headrace.nn.ActorCritic` is one."""

    def states_and_values(self, tokens: Jagged) -> tuple[Tensor, Tensor]:
        """Return states (L, D) and values (L,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO:
    """Proximal policy optimisation of completions, a mean over their tokens.

    `mean max(-A r, -A clip(r, 1 - clip, 1 + clip)) + value_weight ½ mean max((V - R)², (V_clipped - R)²)`, with r the
    ratio of the policy's probability of a token to the probability that it was drawn with. The mean is over all tokens
    of the batch. While the ratio is 1 the gradient is that of `Reinforce`.

    Attributes:
        clip: How far a ratio may move before its gradient stops.
        value_clip: How far a value may move from the old one before its gradient stops.
        value_weight: Weight of the critic's loss; 0 leaves the critic out, and no extras of it are needed.
        entropy_weight: Weight of the entropy, which is taken from the loss.
        temperature: What logits are divided by, as when the tokens were drawn.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization"; Stiennon et al. 2020 for completions. Defaults are those
        of TRL's PPO.
    """

    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    entropy_weight: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("clip", "value_clip", "temperature"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"PPO.{name}", got=value, expected="a positive number")
        for name in ("value_weight", "entropy_weight"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"PPO.{name}", got=value, expected="0 or more")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss, with what a run should watch in its parts.

        Parts: `policy`, `value`, `entropy`, `ratio_max`, `clipped` (share of tokens), `kl_old` (how far the policy has
        moved from the one that drew, per token).

        Raises:
            DataError: If there is no token, or an extra is missing.
        """
        whole = _completions(batch)
        needs_values = self.value_weight > 0
        if needs_values:
            states_LD, values_L = cast(_Critic, model).states_and_values(whole.tokens)
        else:
            states_LD, values_L = cast(LanguageModel, model).states(whole.tokens), None
        logits_NV = cast(LanguageModel, model).logits(states_LD[whole.before]) / self.temperature
        all_NV = torch.log_softmax(logits_NV, -1)
        now_N = all_NV.gather(1, whole.answers.values.unsqueeze(1)).squeeze(1)
        weights_N = batch.weights[whole.owners]
        old_N = in_a_row(batch, LOG_PROBS, whole.answers)
        advantages_N = in_a_row(batch, ADVANTAGES, whole.answers)
        log_ratios_N = now_N - old_N
        ratios_N = log_ratios_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        kept_N = ratios_N.clamp(1.0 - self.clip, 1.0 + self.clip)
        losses_N = torch.maximum(-advantages_N * ratios_N, -advantages_N * kept_N)
        policy = (losses_N * weights_N).mean()
        entropy = -(softmax(logits_NV, -1) * all_NV).sum(-1).mean() if self.entropy_weight else None
        total, parts = policy, {"policy": float(policy.detach())}
        if values_L is not None:
            value = self._value(values_L[whole.before], batch, whole, weights_N)
            total, parts["value"] = total + self.value_weight * value, float(value.detach())
        if entropy is not None:
            total, parts["entropy"] = total - self.entropy_weight * entropy, float(entropy.detach())
        with torch.no_grad():
            clipped = (-advantages_N * kept_N > -advantages_N * ratios_N).float().mean()
            parts |= {"ratio_max": float(ratios_N.max()), "clipped": float(clipped),
                      "kl_old": float(0.5 * log_ratios_N.square().mean())}  # fmt: skip
        return Loss(total, parts)

    def _value(self, values_N: Tensor, batch: Batch, whole: Joined, weights_N: Tensor) -> Tensor:
        old_N, returns_N = (in_a_row(batch, name, whole.answers) for name in (VALUES, RETURNS))
        near_N = old_N + (values_N - old_N).clamp(-self.value_clip, self.value_clip)
        worst_N = torch.maximum((values_N - returns_N).square(), (near_N - returns_N).square())
        return 0.5 * (worst_N * weights_N).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """`-mean A log p(token)`: the plain policy gradient, for samples of the present policy.

    With advantages over completions of the same prompt (`headrace.objectives.leave_one_out`) it is RLOO.

    Attributes:
        temperature: What logits are divided by, as when the tokens were drawn.
        corrected: Weigh every token by the ratio of its probability now to that when it was drawn, cut at this value
            (truncated importance sampling), for samples that an earlier version drew; 0: not at all.
    """

    temperature: float = 1.0
    corrected: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "Reinforce.temperature", got=self.temperature, expected="above 0")
        require(0 <= self.corrected < math.inf, "Reinforce.corrected", got=self.corrected, expected="0 or more")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss.

        Raises:
            DataError: If there is no token, or an extra is missing.
        """
        whole, language = _completions(batch), cast(LanguageModel, model)
        logits_NV = language.logits(language.states(whole.tokens)[whole.before]) / self.temperature
        now_N = torch.log_softmax(logits_NV, -1).gather(1, whole.answers.values.unsqueeze(1)).squeeze(1)
        advantages_N = in_a_row(batch, ADVANTAGES, whole.answers) * batch.weights[whole.owners]
        parts: dict[str, float] = {}
        if self.corrected:
            ratios_N = (now_N.detach() - in_a_row(batch, LOG_PROBS, whole.answers)).clamp(max=LOG_RATIO_LIMIT).exp()
            advantages_N = advantages_N * ratios_N.clamp(max=self.corrected)
            parts["ratio_max"] = float(ratios_N.max())
        total = -(advantages_N * now_N).mean()
        return Loss(total, {"policy": float(total.detach()), **parts})


def _completions(batch: Batch) -> Joined:
    whole = joined(feature(batch, PROMPT), feature(batch, COMPLETION))
    if not len(whole.places):
        raise DataError("Batch", got="no token of a completion", expected="at least one", do="Skip empty batches.")
    if bool((batch.weights < 0).any()):
        raise DataError("Batch, weights", got=float(batch.weights.min()), expected="0 or more")
    return whole
