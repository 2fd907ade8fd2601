"""Rollouts: completions with rewards, and what every token of them is credited with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from headrace.errors import DataError, NonFiniteLoss
from headrace.learn.policy_config import CriticCredit, GroupCredit, PolicyConfig
from headrace.nn import ActorCritic, CausalModel
from headrace.nn.token_layout import taken
from headrace.objectives import generalised_advantages, kl_per_token, leave_one_out, token_rewards, whitened
from headrace.objectives.policy_gradient import ADVANTAGES, LOG_PROBS, RETURNS, VALUES
from headrace.objectives.tokens import (
    COMPLETION,
    PROMPT,
    Joined,
    beside,
    completion_log_probs,
    feature,
    in_a_row,
    joined,
    there,
)
from headrace.types import Batch, Loss

ENDED = "ended"
"""Extra (B,): 1 where a completion ended by itself, 0 where it was cut."""
GROUPS = "groups"
"""Extra (B,): equal numbers for completions of the same prompt."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A batch with advantages, returns and values of every token, and what a run should watch."""

    batch: Batch
    parts: dict[str, float]


@torch.no_grad()
def credited(
    model: ActorCritic, reference: CausalModel, batch: Batch, config: PolicyConfig, coefficient: float,
    rewards: Sequence[float], temperature: float = 1.0,
) -> Rollout:  # fmt: skip
    """Return a rollout with what every token is credited with.

    Args:
        model: Policy and critic.
        reference: Distance is measured from it.
        batch: The rollout.
        config: How.
        coefficient: The present price of distance.
        rewards: Count, mean and sum of squares of rewards so far, this rollout's among them.
        temperature: What logits were divided by when the completions were drawn.

    Raises:
        DataError: If something is missing.
        NonFiniteLoss: If the reference or the critic is not finite.
    """
    whole = joined(feature(batch, PROMPT), feature(batch, COMPLETION))
    there_BT = there(whole.answers)
    drawn_BT = beside(in_a_row(batch, LOG_PROBS, whole.answers), whole.answers)
    reference_BT = beside(completion_log_probs(reference, whole, temperature), whole.answers)
    kl_BT = kl_per_token(drawn_BT, reference_BT, config.kl.estimator) * there_BT
    scaled_B = scaled(batch.labels, config, rewards)
    if config.missing_end:
        scaled_B = scaled_B - config.missing_end * (1.0 - _column(batch, ENDED))
    parts = {"reward": float(batch.labels.mean()), "scaled_reward": float(scaled_B.mean()),
             "kl": float(kl_BT.sum(1).mean()), "kl_coefficient": coefficient,
             "length": float(there_BT.sum(1).float().mean())}  # fmt: skip
    if ENDED in batch.extra:
        parts[ENDED] = float(batch.extra[ENDED].float().mean())
    if isinstance(config.credit, CriticCredit):
        rewards_BT = token_rewards(scaled_B, coefficient * kl_BT, there_BT)
        extra = _by_critic(model, whole, rewards_BT, there_BT, config.credit, parts)
    else:
        totals_B = scaled_B - coefficient * kl_BT.sum(1)
        extra = {ADVANTAGES: _by_group(totals_B, batch, config.credit).unsqueeze(1) * there_BT}
    for name, values in {**extra, "kl": kl_BT}.items():
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteLoss(f"Rollout, {name}", got="NaN or infinity", expected="finite numbers",
                                do="Nothing was changed. Look at the reference and the critic.")  # fmt: skip
    return Rollout(replace(batch, extra={**batch.extra, **extra}), parts)


def _by_critic(
    model: ActorCritic, whole: Joined, rewards_BT: Tensor, there_BT: Tensor, credit: CriticCredit,
    parts: dict[str, float],
) -> dict[str, Tensor]:  # fmt: skip
    values_BT = beside(model.states_and_values(whole.tokens)[1][whole.before], whole.answers)
    if credit.whiten_rewards:
        rewards_BT = whitened(rewards_BT, there_BT, shift=False)
    advantages_BT, returns_BT = generalised_advantages(
        rewards_BT, values_BT, there_BT, gamma=credit.gamma, lam=credit.lam
    )
    raw_N, returns_N = advantages_BT[there_BT], returns_BT[there_BT]
    parts["advantage_std"] = float(raw_N.std(unbiased=False))
    unexplained = float((returns_N - values_BT[there_BT]).var(unbiased=False))
    spread = float(returns_N.var(unbiased=False))
    parts["explained"] = 1.0 - unexplained / spread if spread > 0 else 0.0
    if credit.advantages == "whitened":
        advantages_BT = whitened(advantages_BT, there_BT)
    elif credit.advantages == "centred":
        advantages_BT = (advantages_BT - raw_N.mean()) * there_BT
    return {ADVANTAGES: advantages_BT, RETURNS: returns_BT, VALUES: values_BT}


def _by_group(totals_B: Tensor, batch: Batch, credit: GroupCredit) -> Tensor:
    if credit.baseline == "none":
        return totals_B
    groups_B = _column(batch, GROUPS)
    count = len(groups_B)
    if count > 1 and len(torch.unique(groups_B)) == count:  # a single row is the rest of a group that was cut
        raise DataError("Rollout, groups", got=f"{count} completions of {count} prompts",
                        expected="several completions of a prompt, under one key and other items",
                        do='Ask for more answers to each prompt, or take GroupCredit(baseline="none").')  # fmt: skip
    return leave_one_out(totals_B, groups_B)


def scaled(rewards_B: Tensor, config: PolicyConfig, statistics: Sequence[float]) -> Tensor:
    """Return rewards scaled or normed, and cut."""
    if config.reward_norm == "running":
        count, mean, squares = statistics
        deviation = math.sqrt(max(squares / max(count, 1.0), 0.0))
        rewards_B = (rewards_B - mean) / max(deviation, 1e-8) if deviation > 0 else rewards_B - mean
    else:
        rewards_B = rewards_B * config.reward_scale
    return rewards_B if config.reward_clip is None else rewards_B.clamp(-config.reward_clip, config.reward_clip)


def reward_statistics(before: Sequence[float], rewards_B: Tensor) -> list[float]:
    """Return count, mean and sum of squared differences from it, with more rewards taken in (Chan et al. 1979)."""
    count, mean, squares = before
    more, values = float(len(rewards_B)), rewards_B.double()
    own = float(values.mean())
    total, gap = count + more, own - mean
    spread = squares + float((values - own).square().sum()) + gap * gap * count * more / total
    return [total, mean + gap * more / total, spread]


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """Return some rows of a batch, in that order."""
    columns = {
        item.name: getattr(batch, item.name)[rows] for item in fields(Batch) if item.name not in ("ids", "extra")
    }
    return Batch(ids={name: taken(one, rows)[0] for name, one in batch.ids.items()},
                 extra={name: value[rows] for name, value in batch.extra.items()}, **columns)  # fmt: skip


def mean_parts(losses: Sequence[Loss]) -> dict[str, float]:
    """Return the mean of every named part; of `ratio_max` the largest."""
    names = losses[0].parts
    found = {name: sum(loss.parts[name] for loss in losses) / len(losses) for name in names}
    if "ratio_max" in found:
        found["ratio_max"] = max(loss.parts["ratio_max"] for loss in losses)
    return found


def _column(batch: Batch, name: str) -> Tensor:
    if name not in batch.extra:
        raise DataError(f"Batch, extra '{name}'", got="nothing", expected="one number per completion",
                        do="Make the batch with CompletionCollator.")  # fmt: skip
    return batch.extra[name]
