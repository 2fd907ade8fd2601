"""ICE-GRT as a recipe: fine-tuning, a reward model, then PPO on prompts of the domain and others.

Each of the paper's four factors is a parameter: `kl` and `price` or `target` (KL control), `advantages` (advantage
normalisation), `reward_size` with `reward_scale` (reward size scaling), `in_domain` (appropriate data).

    headrace run headrace.papers.ice_grt.recipe:small kl=none
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from headrace.config import known_name
from headrace.learn import CriticCredit, KLControl, PolicyConfig
from headrace.nn import CausalSettings
from headrace.objectives import PPO
from headrace.online.rewarded import RewardedConfig
from headrace.online.writing import WritingConfig
from headrace.online.writing_planted import planted

WARMTH = 0.7
"""What logits are divided by: a model this small writes no words at 1."""
KL = Literal["adaptive", "fixed", "none"]
REWARD_SIZES: dict[str, tuple[int, int, int] | None] = {
    "base": None, "third": (24, 2, 1), "equal": (64, 3, 2), "triple": (144, 4, 4),
}  # fmt: skip
"""Width, layers and heads of the reward model's trunk; `base` begins as the base model, the others untrained."""


def small(
    *, seed: int = 0, kl: KL = "adaptive", price: float = 0.2, target: float = 2.0,
    advantages: Literal["whitened", "centred", "raw"] = "whitened", reward_size: str = "base",
    reward_scale: float = 1.0, in_domain: float = 0.75, iterations: int = 20,
) -> RewardedConfig:  # fmt: skip
    """Return the run on real texts: a policy of 0.3 M parameters, some ten seconds on one core.

    The first run also fits what it starts from, once, and keeps it in the cache: minutes.

    Args:
        seed: Seed of prompts, draws and orders.
        kl: `fixed`: a price of distance; `adaptive`: one that is moved towards `target`; `none`: distance is free.
        price: The price of a nat; where an adaptive one begins.
        target: Nats of distance, summed over a completion.
        advantages: How advantages are normed over a rollout.
        reward_size: Size of the reward model beside the policy, of `REWARD_SIZES`.
        reward_scale: What rewards are multiplied with; the price is multiplied alike, so that only the size changes.
        in_domain: Share of prompts that are beginnings of reviews; the others are of books.
        iterations: Rollouts of 64 completions.
    """
    return ice_grt(WritingConfig(), seed=seed, kl=kl, price=price, target=target, advantages=advantages,
                   reward_size=reward_size, reward_scale=reward_scale, in_domain=in_domain,
                   iterations=iterations)  # fmt: skip


def toy(*, seed: int = 0, kl: KL = "adaptive", price: float = 0.05, iterations: int = 32) -> RewardedConfig:
    """Return the run on planted texts, in seconds."""
    config = ice_grt(planted(), seed=seed, kl=kl, price=price, target=3.0, in_domain=0.75, iterations=iterations)
    return replace(config, lr=1e-3, objective=PPO())


def ice_grt(
    writing: WritingConfig, *, seed: int, kl: KL, price: float, target: float, in_domain: float, iterations: int,
    advantages: Literal["whitened", "centred", "raw"] = "whitened", reward_size: str = "base",
    reward_scale: float = 1.0,
) -> RewardedConfig:  # fmt: skip
    """Return a run over any texts; see `small` for the parameters."""
    known_name("reward_size", reward_size, REWARD_SIZES)
    rows, sizes = 64, REWARD_SIZES[reward_size]
    control = {
        "none": KLControl(coefficient=0.0),
        "fixed": KLControl(coefficient=price * reward_scale),
        "adaptive": KLControl(coefficient=price * reward_scale, target=target,
                              horizon=max(rows * iterations // 8, 1)),
    }  # fmt: skip
    known_name("kl", kl, control)
    policy = PolicyConfig(credit=CriticCredit(advantages=advantages), kl=control[kl], epochs=2, minibatch_rows=32,
                          reward_scale=reward_scale, reward_clip=5.0 * reward_scale, seed=seed)  # fmt: skip
    trunk = None if sizes is None else CausalSettings(vocabulary=writing.vocabulary, width=sizes[0], layers=sizes[1],
                                                      heads=sizes[2], max_length=writing.sizes.max_length)  # fmt: skip
    objective = PPO(value_weight=0.5, temperature=WARMTH)
    return RewardedConfig(name="ice_grt", writing=writing, start="tuned", policy=policy, objective=objective,
                          reward_sizes=trunk, in_domain=in_domain, rows=rows, iterations=iterations, lr=3e-4,
                          seed=seed)  # fmt: skip
