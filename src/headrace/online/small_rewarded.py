"""A run from rewards of the size that fits one core, with what its recipes share filled in."""

from __future__ import annotations

from typing import Literal

from headrace.learn import CriticCredit, KLControl, PolicyConfig
from headrace.nn import CausalSettings
from headrace.objectives import PPO
from headrace.online.rewarded import RewardedConfig
from headrace.online.writing import WritingConfig

ROWS, WARMTH = 64, 0.7
"""Completions of a rollout, and what logits are divided by: a model this small writes no words at 1."""
PRICE, TARGET = 0.2, 2.0
"""Where the price of a nat of distance begins, and the nats that it is moved towards."""


def moving_price(price: float, target: float, iterations: int) -> KLControl:
    """Return a price of distance that is moved towards a target within an eighth of a run."""
    return KLControl(coefficient=price, target=target, horizon=max(ROWS * iterations // 8, 1))


def small_rewarded(
    name: str, writing: WritingConfig, *, start: Literal["tuned", "base"], kl: KLControl, in_domain: float,
    iterations: int, seed: int, credit: CriticCredit | None = None, reward_scale: float = 1.0,
    reward_sizes: CausalSettings | None = None,
) -> RewardedConfig:  # fmt: skip
    """Return a run over any texts.

    Args:
        name: For people.
        writing: What it starts from.
        start: After fine-tuning, or from the base model.
        kl: What distance costs.
        in_domain: Share of prompts that are beginnings of reviews; the others are of books.
        iterations: Rollouts of 64 completions.
        seed: Seed of prompts, draws and orders.
        credit: How rewards become advantages; None: whitened, by a critic.
        reward_scale: What rewards are multiplied with; they are cut at five times that.
        reward_sizes: Sizes of a reward model that begins untrained; None: it begins as the base model.
    """
    policy = PolicyConfig(credit=credit or CriticCredit(), kl=kl, epochs=2, minibatch_rows=32,
                          reward_scale=reward_scale, reward_clip=5.0 * reward_scale, seed=seed)  # fmt: skip
    return RewardedConfig(name=name, writing=writing, start=start, policy=policy, reward_sizes=reward_sizes,
                          objective=PPO(value_weight=0.5, temperature=WARMTH), in_domain=in_domain, rows=ROWS,
                          iterations=iterations, lr=3e-4, seed=seed)  # fmt: skip
