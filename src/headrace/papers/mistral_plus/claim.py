"""Mistral-Plus's claims at sizes that fit one core: rewards directly on the base model, and what is forgotten.

Three ways lead from one base model: fine-tuning on demonstrations, fine-tuning and then rewards, rewards alone.
`card.md` says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import Estimate, render_tables
from headrace.online.rewarded import RewardedConfig
from headrace.online.rewarded_trial import Check, Trial, tried
from headrace.online.writing import DOMAIN, GENERAL, Writing
from headrace.papers.mistral_plus import recipe
from headrace.papers.mistral_plus.harmless import harmless_accuracy

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2, 3, 4)
SFT, BOTH, DIRECT = "sft", "sft_rlhf", "direct"
NAMES = {SFT: "fine-tuning", BOTH: "fine-tuning, then rewards", DIRECT: "rewards on the base"}
Ways = Mapping[str, Sequence[Sequence[Check]]]
"""By way, for every seed what the model was like on it; the base model comes first."""
Make = Callable[..., RewardedConfig]


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
        DataError: If the texts are missing (all sizes but `toy`).
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


def toy(record: ClaimRecord) -> dict[str, object]:
    """All three ways on planted texts."""
    return compared(record, Writing(recipe.toy().writing), recipe.toy, SEEDS[:2], every=10, least=0.03)


def small(record: ClaimRecord) -> dict[str, object]:
    """All three ways on real texts; and what a reward model learns from the harmlessness data."""
    writing = Writing(recipe.small().writing)
    right = mean_over_seeds([harmless_accuracy(writing, seed) for seed in SEEDS[:3]])
    record.add("harmless_reward_accuracy", right, unit="of held-out choices")
    return compared(record, writing, recipe.small, SEEDS, every=5, least=0.0)


def compared(
    record: ClaimRecord, writing: Writing, make: Make, seeds: Sequence[int], *, every: int, least: float
) -> dict[str, object]:
    """Go all three ways with every seed, and record what was gained and what was forgotten."""
    ways: dict[str, list[Sequence[Check]]] = {SFT: [], BOTH: [], DIRECT: []}
    trials: list[Trial] = []
    base = writing.base()
    for seed in seeds:
        direct, both = (tried(make(seed=seed, start=start), writing, ability=True, every=every, origin=base)
                        for start in ("base", "tuned"))  # fmt: skip
        first = direct.start
        ways[DIRECT].append(direct.checks)
        ways[SFT].append([first, both.start])
        ways[BOTH].append([first, *both.checks[1:]])
        trials.append(direct)
        _log.info("seed %d: gold %s", seed, {way: round(found[-1][-1]["gold"], 3) for way, found in ways.items()})
    gained(record, ways, least)
    forgotten(record, ways)
    tables(record, ways)
    return {"seeds": list(seeds), "policy_parameters": sum(one.numel() for one in base.parameters()),
            "rollouts": len(trials[0].points)}  # fmt: skip


def change(found: Sequence[Sequence[Check]], name: str) -> Estimate:
    """Return how much a number has changed since the base model, a mean over seeds."""
    return mean_over_seeds([checks[-1][name] - checks[0][name] for checks in found])


def gained(record: ClaimRecord, ways: Ways, least: float) -> None:
    """Gold, reward, and what is written after provoking beginnings."""
    unit = "judge's probability"
    record.add("gold_gain", change(ways[DIRECT], "gold"), unit=unit, goal=Goal(">=", least))
    record.add("reward_gain", change(ways[DIRECT], "reward"), unit="deviations", goal=Goal(">=", 0.2))
    record.add("hostile_change", change(ways[DIRECT], "provoked"), unit="share of answers to provoking beginnings",
               goal=Goal("<=", 0.0))  # fmt: skip
    for way in (SFT, BOTH):
        record.add(f"gold_gain/{way}", change(ways[way], "gold"), unit=unit)
        record.add(f"hostile_change/{way}", change(ways[way], "provoked"),
                   unit="share of answers to provoking beginnings")  # fmt: skip


def forgotten(record: ClaimRecord, ways: Ways) -> None:
    """Held-out perplexity and small general tasks, at the end, and where as much gold was gained."""
    for way, found in ways.items():
        record.add(f"forgetting_{way}", change(found, "cross_entropy"), unit="nats a token, held out")
        record.add(f"tasks_{way}", change(found, "choices"), unit="accuracy of six small tasks")
    for way in (SFT, BOTH):
        more = [a[-1]["cross_entropy"] - b[-1]["cross_entropy"]
                for a, b in zip(ways[way], ways[DIRECT], strict=True)]  # fmt: skip
        record.add(f"forgetting_saved/over_{way}", mean_over_seeds(more), unit="nats a token, held out")
    for name in ("cross_entropy", "kl_origin"):
        levels = [min(max(check["gold"] for check in found[seed]) for found in ways.values())
                  for seed in range(len(ways[SFT]))]  # fmt: skip
        for way, found in ways.items():
            values = [at_gold(checks, level, name) - checks[0][name]
                      for checks, level in zip(found, levels, strict=True)]  # fmt: skip
            unit, label = "nats a token, held out", f"forgetting_{way}/at_equal_gold"
            if name == "kl_origin":
                unit, label = "nats from the base", "kl_at_gold" if way == DIRECT else f"kl_at_gold/{way}"
            record.add(label, mean_over_seeds(values), unit=unit)


def at_gold(checks: Sequence[Check], level: float, name: str) -> float:
    """Return a number where a way first reached a level of gold, between the two checks around it.

    Raises:
        ValueError: If it never did.
    """
    if checks[0]["gold"] >= level:
        return checks[0][name]
    for before, after in pairwise(checks):
        if after["gold"] >= level:
            share = (level - before["gold"]) / (after["gold"] - before["gold"])
            return before[name] + share * (after[name] - before[name])
    raise ValueError(f"no check reached gold {level}")


def tables(record: ClaimRecord, ways: Ways) -> None:
    """The ways side by side, and kind by kind what they can still do."""
    first = ways[SFT]

    def cells(found: Sequence[Sequence[Check]], at: int) -> tuple[str, ...]:
        def mean(name: str) -> float:
            return float(np.mean([checks[at][name] for checks in found]))

        return (f"{mean('gold'):.3f}", f"{mean('provoked'):.3f}", f"{mean('ended'):.3f}", f"{mean('kl_origin'):.1f}",
                *(f"{math.exp(mean(f'{domain}/cross_entropy')):.2f}" for domain in (GENERAL, DOMAIN)),
                f"{mean('choices'):.3f}")  # fmt: skip

    rows = [("base", *cells(first, 0)), *((NAMES[way], *cells(found, -1)) for way, found in ways.items())]
    record.tables.append(ClaimTable(
        "Three ways from one base model",
        ("way", "gold", "hostile", "ended", "distance", "perplexity, books", "reviews", "tasks"), tuple(rows),
        (f"{len(first)} seeds. Gold: the hidden judge after held-out beginnings. Hostile: share of answers to",
         "beginnings of unfriendly reviews that the judge thinks rather bad. Ended: share that ended by itself.",
         "Distance: KL from the base, nats a completion. Perplexity of held-out passages, by token. Tasks: accuracy of",
         "six choices."),
    ))  # fmt: skip
    kinds = [name for name in first[0][0] if "/" in name and not name.endswith("cross_entropy")]
    record.tables.append(ClaimTable(
        "Small general tasks: accuracy, and its change", ("task", "base", *(NAMES[way] for way in ways)),
        tuple((name, f"{np.mean([checks[0][name] for checks in first]):.3f}",
               *(change(found, name).text(3) for found in ways.values())) for name in kinds),
        ("Chance is one half. Continuation: of this passage or another. Order: as written, or two tokens exchanged.",),
    ))  # fmt: skip
    lines = {}
    for way, found in ways.items():
        many = min(len(checks) for checks in found)
        lines[NAMES[way]] = tuple([float(np.mean([checks[at][name] for checks in found])) for at in range(many)]
                                  for name in ("gold", "cross_entropy"))  # fmt: skip
    record.plots.append(Plot(title="What is forgotten for what is gained", x_label="gold",
                             y_label="held-out nats a token", lines=lines))  # type: ignore[arg-type] # fmt: skip
