"""Settings of learning a policy from rewards: credit, distance from the reference, and how rewards are scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from headrace.config import known_name, require
from headrace.objectives.advantages import ESTIMATORS


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticCredit:
    """Advantages of every token from a critic's values (generalised advantage estimation).

    Attributes:
        gamma: Discount per token.
        lam: How far errors of later values are trusted.
        whiten_rewards: Give rewards per token deviation 1 first; their mean stays.
        advantages: `whitened`: mean 0 and deviation 1 over all tokens of the rollout; `centred`: mean 0; `raw`.
    """

    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    advantages: Literal["whitened", "centred", "raw"] = "whitened"

    def __post_init__(self) -> None:
        for name in ("gamma", "lam"):
            require(0 <= getattr(self, name) <= 1, f"CriticCredit.{name}", got=getattr(self, name), expected="0 to 1")
        known_name("CriticCredit.advantages", self.advantages, ["whitened", "centred", "raw"])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCredit:
    """One advantage for a whole completion: its reward less the mean of the others to the same prompt (RLOO).

    Attributes:
        baseline: `others`; or `none`: the reward itself (REINFORCE).
    """

    baseline: Literal["others", "none"] = "others"

    def __post_init__(self) -> None:
        known_name("GroupCredit.baseline", self.baseline, ["others", "none"])


@dataclass(frozen=True, slots=True, kw_only=True)
class KLControl:
    """What distance from the reference costs.

    Attributes:
        coefficient: Price of the distance; 0: free. With a target it is where the price begins.
        estimator: See `headrace.objectives.kl_per_token`.
        target: Distance, summed over a completion, that the price is moved towards; None: the price is fixed.
        horizon: Completions in which the price may move by a factor e or so; about a tenth of all there will be.

    Raises:
        ConfigError: If a value cannot work, or a horizon is given that nothing would read.
    """

    coefficient: float = 0.05
    estimator: str = "k1"
    target: float | None = None
    horizon: int | None = None

    def __post_init__(self) -> None:
        require(0 <= self.coefficient < math.inf, "KLControl.coefficient", got=self.coefficient, expected="0 or more")
        known_name("KLControl.estimator", self.estimator, ESTIMATORS)
        require((self.target is None) == (self.horizon is None), "KLControl", got=f"target {self.target}, horizon "
                f"{self.horizon}", expected="both or neither", do="A fixed price reads neither of them.")  # fmt: skip
        require(self.target is None or self.target > 0, "KLControl.target", got=self.target, expected="above 0")
        require(self.horizon is None or self.horizon > 0, "KLControl.horizon", got=self.horizon, expected="above 0")
        require(self.target is None or self.coefficient > 0, "KLControl.coefficient", got=self.coefficient,
                expected="more than 0 with a target: 0 times anything stays 0")  # fmt: skip

    def moved(self, coefficient: float, distance: float, completions: int) -> float:
        """Return the price after completions of a mean distance; it at most halves.

        Source:
            Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences".

        Example:
            >>> round(KLControl(target=6.0, horizon=1000).moved(0.1, 12.0, 100), 6)
            0.102
        """
        if self.target is None or self.horizon is None:
            return coefficient
        error = min(max(distance / self.target - 1.0, -0.2), 0.2)
        return coefficient * max(1.0 + error * completions / self.horizon, 0.5)  # a horizon may be short; no price is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """How a policy learns from a rollout: prompts with completions and one reward each.

    Attributes:
        credit: How rewards become advantages of tokens.
        kl: What distance from the reference costs.
        epochs: How often a rollout is learned.
        minibatch_rows: Completions per step; None: all of a rollout.
        reward_scale: What rewards are multiplied with.
        reward_norm: `running`: rewards less their mean, over their deviation, both over all rollouts so far; `none`.
        reward_clip: Rewards are cut at plus and minus this, after scaling; None: not at all.
        missing_end: Taken from the reward of a completion that was cut at its longest, not ended by itself.
        seed: Seed of the order in which completions are learned.

    Raises:
        ConfigError: If a value cannot work.
    """

    credit: CriticCredit | GroupCredit = field(default_factory=CriticCredit)
    kl: KLControl = field(default_factory=KLControl)
    epochs: int = 4
    minibatch_rows: int | None = None
    reward_scale: float = 1.0
    reward_norm: Literal["none", "running"] = "none"
    reward_clip: float | None = None
    missing_end: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "PolicyConfig.epochs", got=self.epochs, expected="1 or more")
        rows = self.minibatch_rows
        require(rows is None or rows >= 1, "PolicyConfig.minibatch_rows", got=rows, expected="1 or more, or None")
        require(0 < self.reward_scale < math.inf, "PolicyConfig.reward_scale", got=self.reward_scale,
                expected="a positive number")  # fmt: skip
        known_name("PolicyConfig.reward_norm", self.reward_norm, ["none", "running"])
        ignored = self.reward_norm == "running" and self.reward_scale != 1.0
        require(not ignored, "PolicyConfig.reward_scale", got=self.reward_scale,
                expected="1 with reward_norm='running'", do="Norming takes any scale out again.")  # fmt: skip
        clip = self.reward_clip
        require(clip is None or clip > 0, "PolicyConfig.reward_clip", got=clip, expected="a positive number, or None")
        require(self.missing_end >= 0, "PolicyConfig.missing_end", got=self.missing_end, expected="0 or more")
