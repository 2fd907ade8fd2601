"""ICE-GRT's claims at sizes that fit one core: what PPO gains after fine-tuning, and what each of its factors does.

Gold is a judge that the policy never sees. `card.md` says what the paper claims, what the settings are and what came
out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import Estimate, render_tables
from headrace.evaluate.frontier import at_matched_distance
from headrace.online.rewarded import RewardedConfig
from headrace.online.rewarded_trial import Trial, tried
from headrace.online.writing import DOMAIN, GENERAL, Writing
from headrace.papers.ice_grt import recipe

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2, 3, 4)
MAIN, FIXED, FREE = "all of it", "fixed price", "no price of distance"
ARMS: dict[str, dict[str, object]] = {
    MAIN: {},
    FIXED: {"kl": "fixed"},
    FREE: {"kl": "none"},
    "raw advantages": {"advantages": "raw"},
    "whitened, rewards x 10": {"reward_scale": 10.0},
    "raw, rewards x 10": {"reward_scale": 10.0, "advantages": "raw"},
    "untrained reward trunk, a third": {"reward_size": "third"},
    "untrained reward trunk, equal": {"reward_size": "equal"},
    "untrained reward trunk, triple": {"reward_size": "triple"},
    "prompts of books only": {"in_domain": 0.0},
    "prompts of reviews only": {"in_domain": 1.0},
}
TOY_ARMS = (MAIN, FREE)
PRICES = (MAIN, FIXED, FREE)
"""Arms that are judged on the way, too."""
ABILITY = (MAIN, "prompts of books only", "prompts of reviews only")
Runs = Mapping[str, Sequence[Trial]]
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
    """The whole recipe with and without a price of distance, on planted texts."""
    seeds = SEEDS[:2]
    writing = Writing(recipe.toy().writing)
    runs = measured({arm: ARMS[arm] for arm in TOY_ARMS}, seeds, writing, recipe.toy, every=8)
    gains(record, runs, least=0.05)
    kl_control(record, runs)
    return {"seeds": list(seeds)}


def small(record: ClaimRecord) -> dict[str, object]:
    """Every arm, on real texts."""
    writing = Writing(recipe.small().writing)
    runs = measured(ARMS, SEEDS, writing, recipe.small, every=4)
    gains(record, runs, least=0.0)
    kl_control(record, runs)
    advantage_normalisation(record, runs)
    reward_size(record, runs, writing)
    appropriate_data(record, runs)
    own = writing.config
    size = sum(one.numel() for one in writing.base().parameters())
    return {"seeds": list(SEEDS), "policy_parameters": size, "prompt": own.prompt, "answer": own.answer,
            "base_passages": own.base_passages, "pairs": own.pairs}  # fmt: skip


def measured(
    arms: Mapping[str, Mapping[str, object]], seeds: Sequence[int], writing: Writing, make: Make, *, every: int
) -> dict[str, list[Trial]]:
    """Run every arm with every seed; seeds draw the prompts, the completions and the order of learning."""
    runs: dict[str, list[Trial]] = {}
    for arm, settings in arms.items():
        way = every if arm in PRICES else None
        runs[arm] = [tried(make(seed=seed, **settings), writing, ability=arm in ABILITY, every=way) for seed in seeds]
        ends = mean_over_seeds([one.end["gold"] for one in runs[arm]])
        _log.info("%s: gold %s, distance %.1f", arm, ends.text(3), mean(runs[arm], "kl"))
    return runs


def mean(trials: Sequence[Trial], name: str) -> float:
    """Return the mean over seeds of a number of the end."""
    return sum(one.end[name] for one in trials) / len(trials)


def gained(trials: Sequence[Trial], name: str) -> Estimate:
    """Return how much a number has risen over each seed's own start."""
    return mean_over_seeds([one.gain(name) for one in trials])


def paired(one: Sequence[Trial], other: Sequence[Trial], name: str = "gold") -> Estimate:
    """Return how much more an arm has of something at the end than another one, seed by seed."""
    return mean_over_seeds([a.end[name] - b.end[name] for a, b in zip(one, other, strict=True)])


# What is gained ------------------------------------------------------------------------------------------------------


def gains(record: ClaimRecord, runs: Runs, *, least: float) -> None:
    """Reward and gold both rise over fine-tuning; every arm in one table."""
    main = runs[MAIN]
    record.add("gold_gain", gained(main, "gold"), unit="judge's probability",
               goal=Goal(">=", least))  # fmt: skip
    record.add("reward_gain", gained(main, "reward"), unit="deviations",
               goal=Goal(">=", 0.2))  # fmt: skip
    start = [one.start for one in main]
    rows = [("fine-tuned, before PPO", *(f"{sum(one[name] for one in start) / len(start):.3f}"
                                         for name in ("reward", "gold")), "", "0.0", "")]  # fmt: skip
    for arm, trials in runs.items():
        gold = mean_over_seeds([one.end["gold"] for one in trials])
        peak = f"{sum(one.frontier.peak for one in trials) / len(trials):.3f}" if arm in PRICES else ""
        rows.append((arm, f"{mean(trials, 'reward'):.3f}", f"{gold.value:.3f}", f"{gold.spread:.3f}",
                     f"{mean(trials, 'kl'):.1f}", peak))  # fmt: skip
    record.tables.append(ClaimTable(
        "What PPO makes of a fine-tuned model: held-out prompts",
        ("arm", "reward", "gold", "spread", "distance", "best on the way"), tuple(rows),
        (f"{len(main)} seeds. Gold: the hidden judge's mean probability that a friendly reviewer wrote it.",
         "Reward in deviations of the fine-tuned model's; each arm's by its own reward model. Distance: KL from the",
         "fine-tuned model, nats a completion. Best on the way: of the checks before, between and at the end."),
    ))  # fmt: skip


# KL control ----------------------------------------------------------------------------------------------------------


def kl_control(record: ClaimRecord, runs: Runs) -> None:
    """Compare along the frontier of gold over distance: at equal gold, at equal distance, and at the end."""
    main, free = runs[MAIN], runs[FREE]
    levels = midway(main, free)
    if levels:
        for name, trials in (("kl_at_gold", main), ("kl_at_gold/no_price", free)):
            found = [trials[seed].frontier.distance_at(level) for seed, level in levels.items()]
            record.add(name, mean_over_seeds(found),
                       unit=f"nats midway to the lower peak, {len(levels)} of {len(main)} seeds")  # fmt: skip
    matched = [at_matched_distance(one.frontier, other.frontier) for one, other in zip(main, free, strict=True)]
    record.add("kl_control/gold_at_matched_kl", mean_over_seeds([a - b for _, a, b in matched]),
               unit="judge's probability")  # fmt: skip
    record.add("kl_control/gold_kept_at_the_end", paired(main, free), unit="judge's probability",
               goal=Goal(">=", 0.05))  # fmt: skip
    lost = [one.frontier.peak - one.frontier.last for one in free]
    record.add("kl_control/gold_lost_without", mean_over_seeds(lost), unit="judge's probability")
    lost = [one.frontier.peak - one.frontier.last for one in main]
    record.add("kl_control/gold_lost_with", mean_over_seeds(lost), unit="judge's probability")
    lines = {arm: mean_line(trials) for arm, trials in runs.items() if arm in PRICES}
    record.plots.append(Plot(title="Gold over distance, check by check", x_label="KL from the start, nats",
                             y_label="gold", lines=lines))  # fmt: skip
    many = [one["rollouts"] for one in main[0].checks]
    record.plots.append(Plot(title="Gold, check by check", x_label="rollouts", y_label="gold",
                             lines={arm: (many, line[1]) for arm, line in lines.items()}))  # fmt: skip


def midway(one: Sequence[Trial], other: Sequence[Trial]) -> dict[int, float]:
    """Return by seed the gold midway between the start and the lower of two arms' peaks.

    A seed of which an arm never rises over the start has no such level, and is left out.
    """
    found = {}
    for seed, pair in enumerate(zip(one, other, strict=True)):
        start = max(float(trial.frontier.golds[0]) for trial in pair)
        peak = min(trial.frontier.peak for trial in pair)
        if peak > start:
            found[seed] = (start + peak) / 2
    return found


def mean_line(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """Return distance and gold of every check, means over seeds."""
    fronts = [one.frontier for one in trials]
    many = len(fronts[0].golds)
    return ([float(sum(one.distances[at] for one in fronts) / len(fronts)) for at in range(many)],
            [float(sum(one.golds[at] for one in fronts) / len(fronts)) for at in range(many)])  # fmt: skip


# The other factors ---------------------------------------------------------------------------------------------------


def advantage_normalisation(record: ClaimRecord, runs: Runs) -> None:
    """Whitened advantages against raw ones, with rewards of the right size and ten times too large."""
    for scale, on, off in ((1, MAIN, "raw advantages"), (10, "whitened, rewards x 10", "raw, rewards x 10")):
        record.add(f"advantage_normalisation/rewards_x_{scale}", paired(runs[on], runs[off]),
                   unit="judge's probability")  # fmt: skip


def reward_size(record: ClaimRecord, runs: Runs, writing: Writing) -> None:
    """Reward models of three sizes, none pre-trained, that learned the same pairs."""
    arms = {name: f"untrained reward trunk, {word}" for name, word in
            (("third", "a third"), ("equal", "equal"), ("triple", "triple"))}  # fmt: skip
    rows = []
    for name, arm in {**arms, "base": MAIN}.items():
        sizes = recipe.small(reward_size=name).reward_sizes
        model = writing.reward(sizes)
        right = writing.reward_accuracy(model)["opinions"]
        many = sum(one.numel() for one in model.parameters())
        record.add(f"reward_accuracy/{name}", mean_over_seeds([right]), unit="of held-out pairs")
        gold = mean_over_seeds([one.end["gold"] for one in runs[arm]])
        rows.append((arm if name != "base" else "pre-trained trunk", f"{many:,}", f"{right:.3f}", f"{gold.value:.3f}",
                     f"{gold.spread:.3f}"))  # fmt: skip
    record.add("reward_size/triple_over_third", paired(runs[arms["triple"]], runs[arms["third"]]),
               unit="judge's probability")  # fmt: skip
    record.tables.append(ClaimTable("Reward size", ("reward model", "parameters", "right", "gold", "spread"),
                                    tuple(rows), ("Right: share of held-out pairs, of other films.",)))  # fmt: skip


def appropriate_data(record: ClaimRecord, runs: Runs) -> None:
    """Prompts of the domain, of books, of both: gold in the domain, and what is forgotten of books."""
    rows = []
    for arm in ("prompts of books only", MAIN, "prompts of reviews only"):
        trials = runs[arm]
        gold = mean_over_seeds([one.end["gold"] for one in trials])
        lost = {domain: gained(trials, f"{domain}/cross_entropy") for domain in (DOMAIN, GENERAL)}
        chosen = gained(trials, "choices")
        rows.append((arm, gold.text(3), lost[GENERAL].text(3), lost[DOMAIN].text(3), chosen.text(3)))
    record.add("appropriate_data/domain_prompts", paired(runs[MAIN], runs["prompts of books only"]),
               unit="judge's probability")  # fmt: skip
    forgotten = [a.end[f"{GENERAL}/cross_entropy"] - b.end[f"{GENERAL}/cross_entropy"]
                 for a, b in zip(runs["prompts of reviews only"], runs[MAIN], strict=True)]  # fmt: skip
    record.add("appropriate_data/general_prompts", mean_over_seeds(forgotten), unit="nats a token of books kept")
    record.tables.append(ClaimTable(
        "Appropriate data", ("prompts", "gold", "books: nats lost", "reviews: nats lost", "choices"), tuple(rows),
        ("Three quarters of the prompts of the main arm are of reviews. Lost: held-out cross-entropy over that of the",
         "fine-tuned model of the same seed. Choices: accuracy of six small tasks, over the same.")))  # fmt: skip
