"""The claims about committees, measured: spam with few questions (A3), mine fields where accuracy says nothing (A4).

`card.md` says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.learn import CommitteeConfig
from headrace.papers.active_multitask.deals import Deal, Split
from headrace.papers.active_multitask.recipe import agreement, emails, landmine, planted
from headrace.papers.active_multitask.stream import ARMS, Asked, Judged, ask

_log = logging.getLogger(__name__)

SEEDS = tuple(range(10))
FEW_SEEDS = SEEDS[:3]
RIVALS = ("random", "independent", "PEER")
"""The arms that the committee has to beat at a tenth of the questions."""
CONTROLS = (
    "committee, no sharing", "committee, permuted tasks", "committee, ties by rounding", "committee, own first",
    "one task for all", "one task for all, 1/K", "uncertainty", "PEER+share",
)  # fmt: skip
PLOTTED = ("random", "independent", "PEER", "PEER+share", "committee", "one task for all")
TOY_ARMS = ("random", "independent", "PEER", "committee", "committee, permuted tasks", "committee, own first")

Results = Mapping[str, Sequence[Asked]]
Measure = Callable[[Judged], float]


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
    """Planted tasks, alike and opposed, and the single task in which all ways are the same."""
    budgets = (30, 60)
    for name, deal in (("alike", planted), ("opposed", opposed)):
        results = asked_of(deal, TOY_ARMS, FEW_SEEDS, budgets)
        table(record, f"Planted tasks, 6 x 50 examples, {name}: accuracy", results, budgets, lambda one: one.accuracy)
        better, worse = ("committee", "random") if name == "alike" else ("committee, own first", "committee")
        gain = _differences(results, better, worse, lambda one: one.accuracy, budgets[0] if name == "alike" else None)
        record.add(f"A3_toy_{_slug(better)}_minus_{_slug(worse)}/{name}", mean_over_seeds(gain), unit="accuracy",
                   goal=Goal(">=", 0.05))  # fmt: skip
        same = _differences(results, "committee", "committee, permuted tasks", lambda one: one.auc, None)
        apart = [abs(difference) for difference in same]
        record.add(f"A3_toy_committee_apart_from_permuted_tasks/{name}", mean_over_seeds(apart), unit="AUC",
                   goal=Goal("<=", 1e-6))  # fmt: skip
    one_task(record)
    return {"seeds": list(FEW_SEEDS)}


def opposed(seed: int) -> Split:
    """Deal planted tasks of which every second is the opposite of the others."""
    return planted(seed, opposed=True)


def small(record: ClaimRecord) -> dict[str, object]:
    """A3 and A4 on the authors' two sets."""
    mails, spots = emails(0), landmine(0)
    tenth = len(mails.train) // 10
    budgets = sorted({tenth, *(round(share * len(mails.train)) for share in np.linspace(0.03, 0.3, 10))})
    results = asked_of(emails, tuple(ARMS), SEEDS, budgets)
    spam(record, results, tenth)
    shown = (tenth, 3 * tenth)
    table(
        record, "A3. Spam, 15 mailboxes, 1,500 mails to ask about: accuracy", results, shown, lambda one: one.accuracy
    )
    affordable = [round(share * len(spots.train)) for share in np.linspace(0.01, 0.1, 10)]
    mines = asked_of(landmine, tuple(ARMS), SEEDS, affordable)
    fields(record, mines, _majority(spots))
    table(record, "A4. 29 mine fields, 4,640 spots to ask about: AUC", mines, (affordable[0], affordable[-1]),
          lambda one: one.auc)  # fmt: skip
    one_task(record)
    record.plots.append(_plot("Spam in 15 mailboxes: accuracy by questions asked", "accuracy", results, budgets,
                              lambda one: one.accuracy))  # fmt: skip
    record.plots.append(_plot("29 mine fields: AUC by questions asked", "AUC", mines, affordable, lambda one: one.auc))
    return {"seeds": list(SEEDS), "budgets": {"emails": budgets, "landmine": affordable},
            "majority": {"emails": _majority(mails), "landmine": _majority(spots)}}  # fmt: skip


def asked_of(deal: Deal, arms: Sequence[str], seeds: Sequence[int], budgets: Sequence[int]) -> Results:
    """Let every arm go through every deal; arms of one seed meet the same examples in the same order."""
    results: dict[str, list[Asked]] = {arm: [] for arm in arms}
    for seed in seeds:
        split = deal(seed)
        for arm in arms:
            results[arm].append(ask(ARMS[arm], split, budgets, seed))
        _log.info("%s, seed %d: %s", getattr(deal, "__name__", "deal"), seed,
                  {arm: found[-1].end for arm, found in results.items()})  # fmt: skip
    return results


def spam(record: ClaimRecord, results: Results, tenth: int) -> None:
    """Record A3: accuracy with a tenth of the questions, and questions and accuracy when nobody counts them."""
    for arm in ARMS:
        for place, budget in (("10pct", tenth), ("30pct", 3 * tenth), ("unlimited", None)):
            values = [_at(found, budget).accuracy for found in results[arm]]
            record.add(f"A3_accuracy_{place}/{_slug(arm)}", mean_over_seeds(values), unit="accuracy")
    best = max(RIVALS, key=lambda arm: float(np.mean([_at(found, tenth).accuracy for found in results[arm]])))
    gain = _differences(results, "committee", best, lambda one: one.accuracy, tenth)
    record.add("A3_committee_minus_best_rival/10pct", mean_over_seeds(gain), unit="accuracy", goal=Goal(">=", 0.08))
    for arm in CONTROLS:
        for place, budget in (("10pct", tenth), ("unlimited", None)):
            gain = _differences(results, "committee", arm, lambda one: one.accuracy, budget)
            record.add(f"A3_committee_minus_{_slug(arm)}/{place}", mean_over_seeds(gain), unit="accuracy")
    record.add("A3_questions_vs_peer/unlimited", mean_over_seeds(_question_ratios(results)), unit="of PEER's questions",
               goal=Goal("<=", 0.35))  # fmt: skip
    lost = _differences(results, "committee", "PEER", lambda one: one.accuracy, None)
    record.add("A3_committee_minus_peer/unlimited", mean_over_seeds(lost), unit="accuracy", goal=Goal(">=", -0.01))


def fields(record: ClaimRecord, results: Results, majority: float) -> None:
    """Record A4: AUC, and how far accuracy is from that of saying "no mine" always."""
    for arm in ARMS:
        ends = [_at(found, None) for found in results[arm]]
        place = _slug(arm)
        record.add(f"A4_auc_unlimited/{place}", mean_over_seeds([end.auc for end in ends]), unit="AUC")
        record.add(f"A4_accuracy_minus_majority/{place}", mean_over_seeds([end.accuracy - majority for end in ends]),
                   unit="accuracy")  # fmt: skip
        record.add(f"A4_balanced_accuracy/{place}", mean_over_seeds([end.balanced for end in ends]), unit="accuracy")
    gain = _differences(results, "committee", "PEER", lambda one: one.auc, None)
    record.add("A4_committee_minus_peer/unlimited", mean_over_seeds(gain), unit="AUC")
    record.add("A4_questions_vs_peer/unlimited", mean_over_seeds(_question_ratios(results)), unit="of PEER's questions")
    best = max(ARMS, key=lambda arm: float(np.mean([_at(found, None).accuracy for found in results[arm]])))
    over = [_at(found, None).accuracy - majority for found in results[best]]
    record.add("A4_best_accuracy_minus_majority", mean_over_seeds(over), unit="accuracy", goal=Goal("<=", 0.0))
    rows: list[tuple[str, ...]] = [('always "no mine"', f"{majority:.4f}", "0.5000", "0.5000")]
    for arm in ARMS:
        ends = [_at(found, None) for found in results[arm]]
        means = (np.mean([getattr(end, name) for end in ends]) for name in ("accuracy", "balanced", "auc"))
        rows.append((arm, *(f"{mean:.4f}" for mean in means)))
    record.tables.append(ClaimTable(
        "A4. Why accuracy is not the measure there", ("who, no limit", "accuracy", "balanced accuracy", "AUC"),
        tuple(rows), (f"{len(SEEDS)} seeds.",),
    ))  # fmt: skip


def one_task(record: ClaimRecord) -> None:
    """Record that with one task all rules and learners are one, and that the learner agrees with plain vectors."""
    apart = 0.0
    for seed in FEW_SEEDS:
        split = planted(seed).pooled()
        found = [ask(ARMS[arm], split, (20,), seed) for arm in ("independent", "committee", "PEER+share")]
        ends = [(one.end.questions, one.end.auc, one.at[20].auc) for one in found if one.end is not None]
        apart = max(apart, max(abs(a - b) for end in ends for a, b in zip(end, ends[0], strict=True)))
    record.add("one_task_apart", mean_over_seeds([apart]), unit="questions or AUC", goal=Goal("<=", 0.0))
    distances = [agreement(planted(seed), CommitteeConfig(), 40) for seed in FEW_SEEDS]
    record.add("learner_minus_plain_vectors", mean_over_seeds(distances), unit="score", goal=Goal("<=", 1e-4))


def table(record: ClaimRecord, title: str, results: Results, budgets: Sequence[int], measure: Measure) -> None:
    """Add a table of all arms."""
    rows = []
    for arm, found in results.items():
        ends = mean_over_seeds([float(_at(one, None).questions) for one in found])
        cells = [mean_over_seeds([measure(_at(one, at)) for one in found]) for at in (*budgets, None)]
        asked, seconds = f"{ends.value:,.0f} ± {ends.spread:.0f}", np.mean([one.seconds for one in found])
        measures = (f"{cell.value:.4f}" for cell in cells)
        rows.append((arm, *measures, f"{cells[-1].spread:.4f}", asked, f"{seconds:.2f}"))
    columns = ("arm", *(f"at {budget:,}" for budget in budgets), "no limit", "spread", "questions asked", "seconds")
    count = len(next(iter(results.values())))
    record.tables.append(ClaimTable(title, columns, tuple(rows), (
        f"{count} seeds; spread: standard deviation at no limit; seconds: one pass, judging aside.",
        "An arm that asked fewer questions than a budget counts there with what it had at its end.",
    )))  # fmt: skip


def _at(found: Asked, budget: int | None) -> Judged:
    assert found.end is not None
    return found.end if budget is None else found.at[budget]


def _differences(results: Results, arm: str, other: str, measure: Measure, budget: int | None) -> list[float]:
    pairs = zip(results[arm], results[other], strict=True)
    return [measure(_at(own, budget)) - measure(_at(theirs, budget)) for own, theirs in pairs]


def _question_ratios(results: Results) -> list[float]:
    pairs = zip(results["committee"], results["PEER"], strict=True)
    return [_at(own, None).questions / _at(theirs, None).questions for own, theirs in pairs]


def _majority(split: Split) -> float:
    """Return the accuracy on the test examples of always saying what is more frequent."""
    share = float((split.test.labels > 0).mean())
    return max(share, 1.0 - share)


def _plot(title: str, name: str, results: Results, budgets: Sequence[int], measure: Measure) -> Plot:
    lines, bands = {}, {}
    for arm in PLOTTED:
        cells = [mean_over_seeds([measure(_at(one, budget)) for one in results[arm]]) for budget in budgets]
        lines[arm] = (list(budgets), [cell.value for cell in cells])
        bands[arm] = ([cell.low or cell.value for cell in cells], [cell.high or cell.value for cell in cells])
    return Plot(title=title, x_label="questions asked", y_label=name, lines=lines, bands=bands)


def _slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace("+", "_").replace("/", "_over_").replace("-", "_").replace(" ", "_")
