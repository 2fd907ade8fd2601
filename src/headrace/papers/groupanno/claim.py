"""GroupAnno's claims, measured: rates of annotators and labels with planted group bias, and what is left on real data.

A1 plants group bias; A2 plants none and asks the permutation test, and takes real answers with real groups. `card.md`
says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.feedback import Answers, LabelConfig, Labels, LabelStream, aggregate, groups_test
from headrace.feedback.randomness import Floats, Ints
from headrace.papers.groupanno.recipe import SETS, Planted, planted, popquorn, truth_inference

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = SEEDS[:3]
CROWDS = (400, 1500, 40)
"""Annotators in the planted worlds of A1: 15, 4 and 150 answers each. The thresholds are for the first two."""
NULL_WORLDS = 20
LEVEL = 0.05
PERMUTATIONS = 199
FOLDS = 5
PLAIN = 0.1
"""Smoothing of LFC and Dawid-Skene as published: maximum likelihood, with just enough to keep cells from zero."""

ARMS: dict[str, LabelConfig] = {
    "majority vote": LabelConfig(method="majority"),
    "Dawid-Skene": LabelConfig(method="dawid-skene", smoothing=PLAIN),
    "Dawid-Skene, our prior": LabelConfig(method="dawid-skene"),
    "GLAD": LabelConfig(method="glad"),
    "LFC": LabelConfig(method="lfc", smoothing=PLAIN),
    "LFC, our prior": LabelConfig(method="lfc"),
    "shrink-only": LabelConfig(),
    "permuted groups": LabelConfig(),
    "GroupAnno": LabelConfig(),
}


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
        DataError: If a data file is missing; names it.
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


def toy(record: ClaimRecord) -> dict[str, object]:
    """Planted bias in small worlds: rates, labels, the test with and without bias, and the stream's fixed point."""
    arms = ("majority vote", "LFC", "shrink-only", "permuted groups", "GroupAnno")
    planted_bias(record, crowds=(100,), seeds=FEW_SEEDS, arms=arms, items=500)
    null_worlds(record, worlds=5, annotators=100, items=500)
    world = planted(annotators=100, items=300, seed=9)
    config = LabelConfig(tolerance=1e-7)
    whole, streamed = aggregate(world.answers, config), _streamed(world.answers, config)
    apart = float(np.abs(whole.beliefs - streamed).max())
    record.add("stream_minus_whole_beliefs", mean_over_seeds([apart]), unit="probability", goal=Goal("<=", 1e-3))
    return {"seeds": list(FEW_SEEDS)}


def small(record: ClaimRecord) -> dict[str, object]:
    """A1 at the sizes of its thresholds, A2 in null worlds and on POPQUORN, and the sets with known truth."""
    planted_bias(record, crowds=CROWDS, seeds=SEEDS, arms=tuple(ARMS), items=2000)
    null_worlds(record, worlds=NULL_WORLDS, annotators=400, items=2000)
    held_out(record, popquorn())
    known_truth(record)
    return {"seeds": list(SEEDS), "fold_seeds": list(FEW_SEEDS), "null_worlds": NULL_WORLDS}


# A1 ------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Scores:
    """What one arm reached, one entry per seed."""

    accuracy: list[float] = field(default_factory=list)
    mae: list[float] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, world: Planted, labels: Labels, seconds: float) -> None:
        found = labels.annotators
        self.accuracy.append(float((labels.codes == world.truth).mean()))
        self.mae.append(float(np.abs(found.recall - world.rates).mean()))
        self.covered.append(float(((found.recall_low <= world.rates) & (world.rates <= found.recall_high)).mean()))
        self.seconds.append(seconds)


def fit(arm: str, answers: Answers, seed: int) -> Labels:
    """Aggregate with one arm's settings and groups."""
    if arm == "permuted groups":
        answers = answers.permuted_groups(1000 + seed)
    elif arm != "GroupAnno":
        answers = replace(answers, attributes={})
    return aggregate(answers, ARMS[arm])


def planted_bias(
    record: ClaimRecord, *, crowds: Sequence[int], seeds: Sequence[int], arms: Sequence[str], items: int
) -> None:
    """Every arm in worlds with planted group bias; thresholds hold for crowds with few answers each."""
    cells = []
    for crowd in crowds:
        scores = {arm: _Scores() for arm in arms}
        rejected = 0
        for seed in seeds:
            world = planted(annotators=crowd, items=items, seed=seed)
            for arm in arms:
                start = time.monotonic()
                labels = fit(arm, world.answers, seed)
                scores[arm].add(world, labels, time.monotonic() - start)
            rejected += groups_test(world.answers, permutations=PERMUTATIONS, seed=seed).p_value <= LEVEL
            _log.info(
                "A1, %d annotators, seed %d: %s", crowd, seed, {arm: each.mae[-1] for arm, each in scores.items()}
            )
        cells += [(f"{crowd:,}", arm, *_cells(each)) for arm, each in scores.items()]
        _plot(record, scores, f"error of rates; {crowd:,} annotators, {3 * items // crowd} answers each")
        _compare(record, crowd, scores, few=3 * items / crowd <= 15, many=items >= 2000)
        found = rejected / len(seeds)
        record.add(f"A1_groups_found/{crowd}", mean_over_seeds([found]), unit="share of worlds", goal=Goal(">=", 1.0))
    record.tables.append(ClaimTable(
        f"A1. Planted group bias: {items:,} items, 3 answers each, 20 features, groups 2 x 3",
        ("annotators", "method", "truth accuracy", "rate MAE", "spread", "95 % covers", "seconds"), tuple(cells),
        (f"{len(seeds)} seeds. Rate: how often an annotator is right, per class. Covers: share of true rates in the",
         "95 % intervals. LFC, Dawid-Skene: smoothing 0.1; our prior: smoothing 1, as they come by default.",
         "Shrink-only: GroupAnno without groups. Permuted groups: GroupAnno with groups dealt out anew."),
    ))  # fmt: skip


def _plot(record: ClaimRecord, scores: Mapping[str, _Scores], label: str) -> None:
    """Draw how far every arm's rates are from the planted ones."""
    found = {arm: mean_over_seeds(each.mae) for arm, each in scores.items()}
    bars = {arm: (each.value, each.low, each.high) for arm, each in found.items()}
    record.plots.append(Plot(title="Rates of annotators", x_label=label, bars=bars))


def _cells(scores: _Scores) -> tuple[str, ...]:
    mae = mean_over_seeds(scores.mae)
    return (f"{np.mean(scores.accuracy):.4f}", f"{mae.value:.4f}", f"{mae.spread:.4f}",
            f"{100 * np.mean(scores.covered):.1f} %", f"{np.mean(scores.seconds):.2f}")  # fmt: skip


def _compare(record: ClaimRecord, crowd: int, scores: Mapping[str, _Scores], *, few: bool, many: bool) -> None:
    """Record ratios of rate errors and differences of accuracy, GroupAnno against each other arm, paired by seed.

    Goals hold for crowds with few answers each, that of the accuracy only where there are many items to tell it.
    """
    ours = scores["GroupAnno"]
    goals = {"LFC": (Goal("<=", 0.5), Goal(">=", 0.01) if many else None), "shrink-only": (Goal("<=", 0.6), None)}
    for arm, theirs in scores.items():
        if arm == "GroupAnno":
            continue
        rate, accuracy = goals.get(arm, (None, None)) if few else (None, None)
        place = f"{_slug(arm)}/{crowd}"
        ratio = mean_over_seeds([own / other for own, other in zip(ours.mae, theirs.mae, strict=True)])
        gain = mean_over_seeds([own - other for own, other in zip(ours.accuracy, theirs.accuracy, strict=True)])
        record.add(f"A1_rate_mae_vs_{place}", ratio, unit="of its MAE", goal=rate)
        record.add(f"A1_accuracy_minus_{place}", gain, unit="accuracy", goal=accuracy)


# A2 ------------------------------------------------------------------------------------------------------------------


def null_worlds(record: ClaimRecord, *, worlds: int, annotators: int, items: int) -> None:
    """No group differs: how often does the test say so nevertheless, and do the groups' parameters do harm?"""
    values, ratios = [], []
    for seed in range(worlds):
        world = planted(annotators=annotators, items=items, effect=0.0, seed=100 + seed)
        values.append(groups_test(world.answers, permutations=PERMUTATIONS, seed=seed).p_value)
        if seed < len(SEEDS):
            with_groups, without = (
                _error(fit(arm, world.answers, seed), world) for arm in ("GroupAnno", "shrink-only")
            )
            ratios.append(with_groups / without)
    rejected = float(sum(value <= LEVEL for value in values))
    record.add("A2_null_rejections", mean_over_seeds([rejected]), unit=f"of {worlds} worlds",
               goal=Goal("<=", 2.0 if worlds == NULL_WORLDS else 1.0))  # fmt: skip
    record.add("A2_null_rate_mae_vs_shrink_only", mean_over_seeds(ratios), unit="of its MAE",
               goal=Goal("<=", 1.1 if worlds == NULL_WORLDS else 1.25))  # fmt: skip
    record.tables.append(ClaimTable(
        f"A2. Worlds without group bias ({annotators} annotators, {items:,} items)",
        ("worlds", "rejected at 0.05", "smallest p", "median p", "rate MAE, with groups / without"),
        ((str(worlds), f"{rejected:.0f}", f"{min(values):.3f}", f"{np.median(values):.3f}",
          mean_over_seeds(ratios).text(3)),),
        (f"{PERMUTATIONS} permutations of the groups of all annotators.",),
    ))  # fmt: skip


def _error(labels: Labels, world: Planted) -> float:
    return float(np.abs(labels.annotators.recall - world.rates).mean())


PEOPLE: dict[str, tuple[str, LabelConfig]] = {
    "shared": ("none", LabelConfig(individual_sd=0.0)),
    "groups": ("real", LabelConfig(individual_sd=0.0)),
    "individual": ("none", LabelConfig()),
    "both": ("real", LabelConfig()),
    "both, permuted": ("permuted", LabelConfig()),
}
"""Arms of the held-out comparison: whose groups, and whether a person has parameters of their own."""


def held_out(record: ClaimRecord, answers: Answers) -> None:
    """Predict answers of POPQUORN that were left out, and answers of annotators who were."""
    known: dict[str, list[float]] = {arm: [] for arm in PEOPLE}
    cold: dict[str, list[float]] = {arm: [] for arm in ("shared", "both", "both, permuted")}
    start = time.monotonic()
    for seed in FEW_SEEDS:
        draw = np.random.default_rng(seed)
        rows = draw.permutation(len(answers)) % FOLDS
        people = (draw.permutation(answers.shape[1]) % FOLDS)[answers.annotators]
        for found, folds, strangers in ((known, rows, False), (cold, people, True)):
            for arm, losses in found.items():
                losses.append(float(np.mean([_log_loss(arm, answers, folds == fold, seed, strangers)
                                             for fold in range(FOLDS)])))  # fmt: skip
        _log.info("POPQUORN seed %d: %s %s", seed, known, cold)
    test = groups_test(answers, permutations=999)
    for place, found in (("known_annotators", known), ("new_annotators", cold)):
        names = {"permuted": "both, permuted"} | (
            {"individual": "individual"} if place[0] == "k" else {"shared": "shared"}
        )
        for name, arm in names.items():
            gains = [other - own for own, other in zip(found["both"], found[arm], strict=True)]
            record.add(f"A2_log_loss_{name}_minus_groups/{place}", mean_over_seeds(gains), unit="nats")
    record.add("A2_popquorn_p_value", mean_over_seeds([test.p_value]), unit="p")
    seconds = (time.monotonic() - start) / len(FEW_SEEDS)
    rows_of = [(arm, f"{np.mean(known[arm]):.4f}", f"{np.mean(cold[arm]):.4f}" if arm in cold else "") for arm in known]
    alone = ", ".join(f"{name} {value:.3f}" for name, value in test.by_attribute.items())
    record.tables.append(ClaimTable(
        "A2. POPQUORN offensiveness (rating 2 or more): log-loss of answers left out, in nats",
        ("confusions", "answers of known annotators", "answers of new annotators"), tuple(rows_of),
        (f"{FOLDS} folds, {len(FEW_SEEDS)} seeds, {seconds:.0f} s per seed. Groups: gender, race, age, education.",
         f"Permutation test (999): all groups together p = {test.p_value:.3f}; alone: {alone}."),
    ))  # fmt: skip


def _log_loss(arm: str, answers: Answers, out: Ints | np.ndarray[tuple[int, ...], np.dtype[np.bool_]], seed: int,
              strangers: bool) -> float:  # fmt: skip
    groups, config = PEOPLE[arm]
    if groups == "none":
        answers = replace(answers, attributes={})
    elif groups == "permuted":
        answers = answers.permuted_groups(2000 + seed)
    labels = aggregate(answers.select(~out), config)
    chances = labels.predicted_answers(answers.items[out], answers.annotators[out], groups_for_strangers=strangers)
    said = chances[np.arange(len(chances)), answers.answers[out]]
    return float(-np.log(np.maximum(said, 1e-12)).mean())


# sets with known truth, and the stream -------------------------------------------------------------------------------


def known_truth(record: ClaimRecord) -> None:
    """Accuracy on three public sets; they say nothing of their annotators, so GroupAnno is its shrink-only form."""
    arms = ("majority vote", "Dawid-Skene", "Dawid-Skene, our prior", "GLAD", "shrink-only")
    cells = []
    for name in SETS:
        gold = truth_inference(name)
        items, annotators, classes = gold.answers.shape
        shape = f"{name} ({items} items, {annotators} annotators, {classes} classes)"
        for arm in arms:
            start = time.monotonic()
            labels = fit(arm, gold.answers, 0)
            seconds = time.monotonic() - start
            accuracy = float((labels.codes[gold.items] == gold.truth).mean())
            record.add(f"accuracy/{name}_{_slug(arm)}", mean_over_seeds([accuracy]), unit="accuracy")
            cells.append((shape, arm, f"{accuracy:.4f}", f"{labels.entropy.mean():.3f}", f"{seconds:.2f}"))
    record.tables.append(ClaimTable(
        "Sets with known truth and unknown groups", ("set", "method", "accuracy", "mean entropy", "seconds"),
        tuple(cells), ("Nothing is drawn at random here: one run each, no spread.",),
    ))  # fmt: skip


def _streamed(answers: Answers, config: LabelConfig, batches: int = 5) -> Floats:
    """Return the beliefs after the answers came in batches, in random order."""
    stream = LabelStream(answers.classes, config, groups=list(answers.attributes))
    assert answers.features is not None
    for rows in np.array_split(np.random.default_rng(0).permutation(len(answers)), batches):
        items = np.unique(answers.items[rows])
        groups = {name: each.codes[answers.annotators[rows]] for name, each in answers.attributes.items()}
        said = np.array(answers.classes)[answers.answers[rows]]
        stream.add(answers.items[rows], answers.annotators[rows], said, groups=groups,
                   features=(items, answers.features[items]))  # fmt: skip
    settled = stream.settle()
    return settled.beliefs[np.argsort(np.array(settled.answers.item_names))]


def _slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace("-", "_").replace(" ", "_")
