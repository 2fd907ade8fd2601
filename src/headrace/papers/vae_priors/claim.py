"""The claim of user-dependent priors, measured: does a prior that knows the user rank better, and when?

L7 compares a prior that reads side information with the standard one, and with itself after side information was dealt
out anew, for users who show 0, 1, 3 and 10 likes. `card.md` says what the paper claims and what came out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.evaluate import ClaimRecord, ClaimTable, Estimate, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.papers.vae_priors.arms import (
    ARMS,
    RIDGES,
    Sizes,
    best_of,
    ease,
    encoder_of_nothing,
    fit,
    popularity,
    ridge,
    scores_of,
)
from headrace.papers.vae_priors.protocol import Cut, Score, cut, dealt_anew, judge
from headrace.papers.vae_priors.recipe import Floats, Likes, movielens, planted

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = SEEDS[:3]
FOLDED = (0, 1, 3, 10)
VALID, TEST = 100, 150
RECALL_AT, NDCG_AT = 20, 100
STANDARD, USER, PERMUTED = "N(0, I) prior", "user prior", "user prior, permuted"
BOTH = "user prior, and in the encoder"
IN_ENCODER, NOTHING = "side information in the encoder", "N(0, I) prior, encoder at k = 0"
POPULAR, RIDGE, EASE = "popularity", "ridge from side information", "EASE"
TOY_SIZES = Sizes(latent=8, hidden=32, epochs=20, batch_rows=45, lr=1e-2, beta=0.2, warmup=40)

GOALS = {
    (STANDARD, 0): Goal(">=", 1.10), (PERMUTED, 0): Goal(">=", 1.08),
    (STANDARD, 3): Goal(">=", 0.95), (STANDARD, 10): Goal(">=", 0.95),
}  # fmt: skip
"""Of the user prior's recall over an arm's, at so many likes shown; side information `genres`."""


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
    """Planted tastes that side information tells; dealt out anew, it tells nothing."""
    study = Study(TOY_SIZES, valid=40, test=80, k=10)
    for seed in FEW_SEEDS:
        study.add("people", planted(seed=seed), seed, kinds=("people",))
    _record(record, study, "people", goals={key: goal for key, goal in GOALS.items() if key[1] in (0, 10)})
    return {"seeds": list(FEW_SEEDS), "data": "planted"}


def small(record: ClaimRecord) -> dict[str, object]:
    """MovieLens 100K with genres of what users told, and with age, gender and occupation."""
    study, likes = Study(Sizes(), valid=VALID, test=TEST, k=RECALL_AT), movielens()
    for seed in SEEDS:
        study.add("movielens", likes, seed, kinds=("genres", "people"))
    _record(record, study, "genres", goals=GOALS)
    _record(record, study, "people", goals={})
    return {"seeds": list(SEEDS), "data": "MovieLens 100K", "test_users": TEST, "valid_users": VALID,
            "users": likes.users, "items": likes.catalogue, "likes": len(likes.items)}  # fmt: skip


@dataclass(slots=True)
class Arm:
    """What one arm reached with one kind of side information: recall by likes shown, NDCG at none, seconds; by seed."""

    recall: dict[int, list[float]] = field(default_factory=dict)
    ndcg: dict[int, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


class Study:
    """Fits all arms on the same users with the same seeds, and judges the test users.

    Args:
        sizes: Of the fits.
        valid: Validation users; only closed-form arms choose by them.
        test: Test users.
        k: Places of recall.
    """

    def __init__(self, sizes: Sizes, *, valid: int, test: int, k: int) -> None:
        self.sizes, self.valid, self.test, self.k = sizes, valid, test, k
        self.arms: dict[str, dict[str, Arm]] = {}

    def add(self, name: str, likes: Likes, seed: int, *, kinds: Sequence[str]) -> None:
        """Fit and judge every arm for one seed, with every kind of side information (methods of `Cut`)."""
        dealt = cut(likes, valid=self.valid, test=self.test, seed=seed)
        shared = self._without_side(dealt, seed)
        for kind in kinds:
            side: Floats = getattr(dealt, kind)()
            found = {**shared, **self._with_side(dealt, side, seed)}
            for arm, one in found.items():
                kept = self.arms.setdefault(kind, {}).setdefault(arm, Arm())
                for into, values in ((kept.recall, one.recall), (kept.ndcg, one.ndcg)):
                    for shown, value in values.items():
                        into.setdefault(shown, []).extend(value)
                kept.seconds += one.seconds
            shown_by_arm = {arm: [round(each[0], 3) for each in one.recall.values()] for arm, one in found.items()}
            _log.info("%s, %s, seed %d: %s", name, kind, seed, shown_by_arm)

    def _without_side(self, dealt: Cut, seed: int) -> dict[str, Arm]:
        start = time.monotonic()
        popular = popularity(dealt)
        found = {POPULAR: self._judged(dealt, dict.fromkeys(FOLDED, popular), time.monotonic() - start)}
        start = time.monotonic()
        made = [ease(dealt, penalty) for penalty in RIDGES]
        best = {shown: best_of(dealt, made, folded=shown, k=self.k) for shown in FOLDED[1:]}
        found[EASE] = self._judged(dealt, best, time.monotonic() - start)
        start = time.monotonic()
        side = np.zeros((dealt.likes.users, 0))
        learner = fit(ARMS[STANDARD], dealt, side, self.sizes, seed)
        spent = time.monotonic() - start
        found[STANDARD] = self._judged(dealt, dict.fromkeys(FOLDED, scores_of(learner, side, self.sizes)), spent)
        found[NOTHING] = self._judged(dealt, {0: encoder_of_nothing(learner)}, spent)
        return found

    def _with_side(self, dealt: Cut, side: Floats, seed: int) -> dict[str, Arm]:
        start = time.monotonic()
        made = [ridge(dealt, side, penalty) for penalty in RIDGES]
        best = {shown: best_of(dealt, made, folded=shown, k=self.k) for shown in FOLDED}
        found = {RIDGE: self._judged(dealt, best, time.monotonic() - start)}
        for arm in (IN_ENCODER, PERMUTED, USER, BOTH):
            start = time.monotonic()
            told = dealt_anew(side, seed) if arm == PERMUTED else side
            learner = fit(ARMS[arm], dealt, told, self.sizes, seed)
            spent = time.monotonic() - start
            found[arm] = self._judged(dealt, dict.fromkeys(FOLDED, scores_of(learner, told, self.sizes)), spent)
        return found

    def _judged(self, dealt: Cut, scores: Mapping[int, Score], seconds: float) -> Arm:
        recall = {
            shown: [judge(dealt, dealt.test, score, folded=shown, k=self.k, name="recall")]
            for shown, score in scores.items()
        }
        ndcg = {
            shown: [judge(dealt, dealt.test, score, folded=shown, k=NDCG_AT, name="ndcg")]
            for shown, score in scores.items()
        }
        return Arm(recall, ndcg, [seconds])


def _record(record: ClaimRecord, study: Study, kind: str, *, goals: Mapping[tuple[str, int], Goal]) -> None:
    """Record ratios of the user prior's recall to each arm's, paired by seed, the table, and a plot."""
    arms = study.arms[kind]
    ours = arms[USER]
    for arm, theirs in arms.items():
        if arm == USER:
            continue
        for shown, values in theirs.recall.items():
            ratio = mean_over_seeds([own / other for own, other in zip(ours.recall[shown], values, strict=True)])
            record.add(f"L7_recall{study.k}_over_{_slug(arm)}/{kind}_k{shown}", ratio, unit="of its recall",
                       goal=goals.get((arm, shown)))  # fmt: skip
    ndcg = mean_over_seeds([own / other for own, other in zip(ours.ndcg[0], arms[STANDARD].ndcg[0], strict=True)])
    record.add(f"L7_ndcg{NDCG_AT}_over_{_slug(STANDARD)}/{kind}_k0", ndcg, unit="of its NDCG")
    record.tables.append(ClaimTable(
        f"L7. Side information: {kind}. Recall@{study.k} of users who show k likes, mean and spread over seeds",
        ("arm", *(f"k = {shown}" for shown in FOLDED), f"NDCG@{NDCG_AT}, k = 0", "seconds"),
        tuple((arm, *(_cell(one.recall.get(shown)) for shown in FOLDED), _cell(one.ndcg.get(0)),
               f"{np.mean(one.seconds):.1f}") for arm, one in arms.items()),
        (f"{len(ours.seconds)} seeds: each deals out users and likes anew; {study.test} test users.",
         "Ridge and EASE choose their penalty by validation users; EASE ranks by nothing at k = 0."),
    ))  # fmt: skip
    shown_arms = [arm for arm, one in arms.items() if set(FOLDED) <= set(one.recall) and arm != POPULAR]
    found = {arm: [mean_over_seeds(arms[arm].recall[shown]) for shown in FOLDED] for arm in shown_arms}
    record.plots.append(Plot(
        title=f"Users who show k likes; side information: {kind}", x_label="likes shown", y_label=f"Recall@{study.k}",
        lines={arm: (FOLDED, [one.value for one in each]) for arm, each in found.items()},
        bands={arm: ([_end(one, one.low) for one in each], [_end(one, one.high) for one in each])
               for arm, each in found.items()},
    ))  # fmt: skip


def _end(one: Estimate, end: float | None) -> float:
    return one.value if end is None else end


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    found = mean_over_seeds(values)
    return f"{found.value:.3f} ({found.spread:.3f})"


def _slug(arm: str) -> str:
    names = {STANDARD: "standard", PERMUTED: "permuted", NOTHING: "encoder_of_nothing", IN_ENCODER: "encoder_side",
             BOTH: "both", RIDGE: "ridge"}  # fmt: skip
    return names.get(arm, arm.lower())
