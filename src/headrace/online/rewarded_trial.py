"""A run from rewards tried and judged: what it wrote before and after, how far it went, and what it forgot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.data.passages import rows_of_tokens
from headrace.evaluate.frontier import Frontier
from headrace.evaluate.language_tasks import general_ability
from headrace.learn.language_fit import likelihood_of
from headrace.nn import CausalTransformer, ScoreModel
from headrace.objectives.tokens import completion_log_probs, joined, row_sums
from headrace.online.rewarded import RewardedConfig, RewardedRun
from headrace.online.rewarded_watch import Point
from headrace.online.writing import DOMAIN, Writing
from headrace.serve import GenerateConfig, generate

HELD_OUT = 256
"""Held-out prompts that a policy is judged by; the same for all."""


Check = Mapping[str, float]
"""What a policy was like at one moment; see `judged_policy`, and `general_ability` where that was asked for."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out of one run.

    Attributes:
        points: Every rollout; see `RewardedRun.points`.
        checks: The policy before it learned from rewards, perhaps on the way, and at the end, always after the same
            held-out prompts under the same random numbers. `rollouts` says after how many.
        samples: Some completions at the end.
    """

    points: Sequence[Point]
    checks: Sequence[Check]
    samples: Sequence[str] = ()

    @property
    def start(self) -> Check:
        """Before it learned from rewards."""
        return self.checks[0]

    @property
    def end(self) -> Check:
        """At the end."""
        return self.checks[-1]

    def gain(self, name: str = "gold") -> float:
        """Return how much a number has risen."""
        return self.end[name] - self.start[name]

    @property
    def frontier(self) -> Frontier:
        """Gold over distance, check by check: always after the same prompts, under the same random numbers."""
        return Frontier.of([one["kl"] for one in self.checks], [one["gold"] for one in self.checks], smoothed=1)


def tried(
    config: RewardedConfig, writing: Writing, *, ability: bool = False, every: int | None = None,
    origin: CausalTransformer | None = None,
) -> Trial:  # fmt: skip
    """Run a configuration and judge what came out.

    Args:
        config: What to run.
        writing: Its parts, shared between runs.
        ability: Whether to measure general ability too.
        every: Rollouts between checks on the way; None: only before and at the end.
        origin: Another model that distance is measured from as well (`kl_origin`).
    """
    asked, checks = writing.held_out(DOMAIN, HELD_OUT), list[Check]()
    provoking = writing.held_out(DOMAIN, HELD_OUT, liked=False)

    def check() -> None:
        seed, warmth = config.seed, config.objective.temperature
        found = judged_policy(run.policy, run.reference, writing, asked, reward=run.reward, seed=seed, origin=origin,
                              temperature=warmth)  # fmt: skip
        worst = judged_policy(run.policy, run.reference, writing, provoking, seed=seed, temperature=warmth)
        found |= {"provoked": worst["bad"], "rollouts": float(len(run.points))}
        checks.append(found | (general_ability(likelihood_of(run.policy), writing.general) if ability else {}))

    def pointed(point: Point, samples: Sequence[str]) -> None:
        done = int(point["rollout"]) + 1
        if done == config.iterations or (every is not None and done % every == 0):
            check()

    run = RewardedRun(config, writing=writing, on_point=pointed)
    check()
    run.run()
    return Trial(run.points, checks, tuple(run.samples))


@torch.no_grad()
def judged_policy(
    policy: CausalTransformer, reference: CausalTransformer, writing: Writing, asked: Tensor, *,
    reward: ScoreModel | None = None, origin: CausalTransformer | None = None, seed: int = 0,
    temperature: float = 1.0,
) -> dict[str, float]:  # fmt: skip
    """Return what a policy writes after held-out prompts (B, P): gold, reward, distance, how much ends by itself.

    The same seed asks two policies under the same random numbers. At a temperature all distributions are taken at it.

    Returns:
        `gold`, the judge's mean; `bad`, the share that it thinks rather bad; `kl` from the reference, summed over a
        completion; `ended`; `reward` where a reward model is given, and `kl_origin` where another model is.
    """
    end = writing.codec.end
    how = GenerateConfig(max_tokens=writing.config.answer, ends=() if end is None else (end,), temperature=temperature)
    rows = rows_of_tokens(asked)
    made = generate(policy.decoder(), rows, how, [seed * 1_000_003 + row for row in range(len(asked))])
    whole = joined(rows, made.tokens)
    golds = writing.judge(writing.codec.decode(whole.tokens))
    own_N = completion_log_probs(policy, whole, temperature)

    def apart(other: CausalTransformer) -> float:
        return float(row_sums(own_N - completion_log_probs(other, whole, temperature), whole).mean())

    found = {"gold": float(golds.mean()), "bad": float((golds < 0.5).mean()), "kl": apart(reference),
             "ended": float(made.ended.float().mean())}  # fmt: skip
    if origin is not None:
        found["kl_origin"] = apart(origin)
    return found | ({} if reward is None else {"reward": float(reward.last_scores(whole.tokens).mean())})
