"""Mistral-Plus as a recipe: learn from rewards directly on the base model; no fine-tuning comes first.

headrace run headrace.papers.mistral_plus.recipe:small
headrace run headrace.papers.mistral_plus.recipe:small start=tuned      # what it is compared with
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from headrace.objectives import PPO
from headrace.online.rewarded import RewardedConfig
from headrace.online.small_rewarded import PRICE, TARGET, moving_price, small_rewarded
from headrace.online.writing import WritingConfig
from headrace.online.writing_planted import planted


def small(
    *, seed: int = 0, start: Literal["base", "tuned"] = "base", price: float = PRICE, target: float = TARGET,
    in_domain: float = 0.75, iterations: int = 20,
) -> RewardedConfig:  # fmt: skip
    """Return the run on real texts: a policy of 0.3 M parameters, some ten seconds on one core.

    The first run also fits what it starts from, once, and keeps it in the cache: minutes.

    Args:
        seed: Seed of prompts, draws and orders.
        start: `base`: no fine-tuning; `tuned`: fine-tuned on demonstrations first, as is usual.
        price: Where the price of distance from the start begins.
        target: Nats of distance that the price is moved towards.
        in_domain: Share of prompts that are beginnings of reviews, provoking ones among them.
        iterations: Rollouts of 64 completions.
    """
    return mistral_plus(WritingConfig(), seed=seed, start=start, price=price, target=target, in_domain=in_domain,
                        iterations=iterations)  # fmt: skip


def toy(*, seed: int = 0, start: Literal["base", "tuned"] = "base", iterations: int = 20) -> RewardedConfig:
    """Return the run on planted texts, in seconds."""
    config = mistral_plus(planted(), seed=seed, start=start, price=0.05, target=3.0, in_domain=0.75,
                          iterations=iterations)  # fmt: skip
    return replace(config, lr=1e-3, objective=PPO())


def mistral_plus(
    writing: WritingConfig, *, seed: int, start: Literal["base", "tuned"], price: float, target: float,
    in_domain: float, iterations: int,
) -> RewardedConfig:  # fmt: skip
    """Return a run over any texts; see `small` for the parameters."""
    return small_rewarded("mistral_plus", writing, start=start, kl=moving_price(price, target, iterations),
                          in_domain=in_domain, iterations=iterations, seed=seed)  # fmt: skip
