"""ICE-GRT as a recipe: fine-tuning, a reward model, then PPO on prompts of the domain and others.

Each of the paper's four factors is a parameter: `kl` and `price` or `target` (KL control), `advantages` (advantage
normalisation), `reward_size` with `reward_scale` (reward size scaling), `in_domain` (appropriate data).

    headrace run headrace.papers.ice_grt.recipe:small kl=none
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from headrace.config import known_name, require
from headrace.learn import CriticCredit, KLControl
from headrace.nn import CausalSettings
from headrace.objectives import PPO
from headrace.online.rewarded import RewardedConfig
from headrace.online.small_rewarded import PRICE, TARGET, moving_price, small_rewarded
from headrace.online.writing import WritingConfig
from headrace.online.writing_planted import planted

KL = Literal["adaptive", "fixed", "none"]
REWARD_SIZES: dict[str, tuple[int, int, int] | None] = {
    "base": None, "third": (24, 2, 1), "equal": (64, 3, 2), "triple": (144, 4, 4),
}  # fmt: skip
"""Width, layers and heads of the reward model's trunk; `base` begins as the base model, the others untrained."""


def small(
    *, seed: int = 0, kl: KL = "adaptive", price: float | None = None, target: float | None = None,
    advantages: Literal["whitened", "centred", "raw"] = "whitened", reward_size: str = "base",
    reward_scale: float = 1.0, in_domain: float = 0.75, iterations: int = 20,
) -> RewardedConfig:  # fmt: skip
    """Return the run on real texts: a policy of 0.3 M parameters, some ten seconds on one core.

    The first run also fits what it starts from, once, and keeps it in the cache: minutes.

    Args:
        seed: Seed of prompts, draws and orders.
        kl: `fixed`: a price of distance; `adaptive`: one that is moved towards `target`; `none`: distance is free.
        price: The price of a nat, where there is one; where an adaptive one begins. None: 0.2.
        target: Nats of distance, summed over a completion, that an adaptive price is moved towards. None: 2.
        advantages: How advantages are normed over a rollout.
        reward_size: Size of the reward model beside the policy, of `REWARD_SIZES`.
        reward_scale: What rewards are multiplied with; the price is multiplied alike, so that only the size changes.
        in_domain: Share of prompts that are beginnings of reviews; the others are of books.
        iterations: Rollouts of 64 completions.

    Raises:
        ConfigError: If a value cannot work, or one is given that `kl` would not read.
    """
    return ice_grt(WritingConfig(), seed=seed, kl=kl, price=price, target=target, advantages=advantages,
                   reward_size=reward_size, reward_scale=reward_scale, in_domain=in_domain,
                   iterations=iterations)  # fmt: skip


def toy(*, seed: int = 0, kl: KL = "adaptive", price: float | None = None, iterations: int = 32) -> RewardedConfig:
    """Return the run on planted texts, in seconds; the price begins at 0.05 there, and its target is 3 nats."""
    begins = 0.05 if price is None and kl != "none" else price
    config = ice_grt(planted(), seed=seed, kl=kl, price=begins, target=3.0 if kl == "adaptive" else None,
                     in_domain=0.75, iterations=iterations)  # fmt: skip
    return replace(config, lr=1e-3, objective=PPO())


def ice_grt(
    writing: WritingConfig, *, seed: int, kl: KL, price: float | None, target: float | None, in_domain: float,
    iterations: int, advantages: Literal["whitened", "centred", "raw"] = "whitened", reward_size: str = "base",
    reward_scale: float = 1.0,
) -> RewardedConfig:  # fmt: skip
    """Return a run over any texts; see `small` for the parameters."""
    known_name("reward_size", reward_size, REWARD_SIZES)
    sizes = REWARD_SIZES[reward_size]
    trunk = None if sizes is None else CausalSettings(vocabulary=writing.vocabulary, width=sizes[0], layers=sizes[1],
                                                      heads=sizes[2], max_length=writing.sizes.max_length)  # fmt: skip
    return small_rewarded("ice_grt", writing, start="tuned", kl=_price(kl, price, target, reward_scale, iterations),
                          in_domain=in_domain, iterations=iterations, seed=seed, reward_scale=reward_scale,
                          credit=CriticCredit(advantages=advantages), reward_sizes=trunk)  # fmt: skip


def _price(kl: KL, price: float | None, target: float | None, scale: float, iterations: int) -> KLControl:
    known_name("kl", kl, ["adaptive", "fixed", "none"])
    require(kl != "none" or price is None, "price", got=price, expected="none with kl=none: distance is free")
    require(kl == "adaptive" or target is None, "target", got=target, expected=f"none with kl={kl}: no price moves")
    if kl == "none":
        return KLControl(coefficient=0.0)
    begins, goal = (PRICE if price is None else price) * scale, TARGET if target is None else target
    return KLControl(coefficient=begins) if kl == "fixed" else moving_price(begins, goal, iterations)
