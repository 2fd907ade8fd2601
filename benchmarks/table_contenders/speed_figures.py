"""Figures about the training step and the lookup."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from headrace.evaluate.claims import ClaimTable, Goal
from table_contenders import cases
from table_contenders.cases import BOUND, COLLISIONS, FBGEMM, OURS, OURS_FULL, TORCH, Entry, Plan
from table_contenders.figures import Figures
from table_contenders.rounds import Bench, Choose, Rates, ratios

BOUND_SCALES = 1.85
"""Two threads have to help the bound by this before they have to help the table."""

NO_PEERS = "not part of this size of run, or the peers' environment is missing (scripts/peers.sh makes it)"
NO_BOUND = "no C++ compiler for the bound"


def main_case(plan: Plan, figures: Figures, threads: int) -> None:
    """Measure the case that the goals are for."""
    fixed = plan.there(BOUND, OURS, OURS_FULL)
    everyone = [*fixed, *plan.there(*TORCH, *FBGEMM, COLLISIONS)]
    bench = Bench(steps=plan.steps, threads=threads, together=plan.together, scaling=(OURS, BOUND))
    rates = bench.run(plan.main, everyone, plan.rounds, _fastest_of_each(fixed))
    torch, fbgemm = rates.fastest(TORCH), rates.fastest(FBGEMM)
    _against("train_vs_torch", rates.train, OURS, torch, figures, Goal(">=", 10))
    _against("train_vs_fbgemm", rates.train, OURS, fbgemm, figures, Goal(">=", 20))
    _against("train_vs_bound", rates.train, OURS, BOUND.name, figures, Goal(">=", 0.6))
    _against("lookup_vs_torch", rates.lookup, OURS, rates.fastest(TORCH, "lookup"), figures, Goal(">=", 1.5))
    _against("train_full_vs_torch", rates.train, OURS_FULL, torch, figures)
    _against("train_full_vs_bound", rates.train, OURS_FULL, BOUND.name, figures)
    _against("train_vs_torchrec_mch", rates.train, OURS, COLLISIONS.name, figures)
    for entry in (*TORCH, *FBGEMM):
        if entry.name in rates.train and entry.name not in {torch, fbgemm}:
            _against(f"train_vs_slower_way/{entry.name}", rates.train, OURS, entry.name, figures)
    for kind, found in (("train", rates.train), ("lookup", rates.lookup)):
        for name, values in found.items():
            figures.add(f"{kind}_ids_per_s/{name}", values, unit="ids/s")
    _scaling(rates, figures, threads)
    figures.tables.append(rates_table(f"{plan.main.rows / 1e6:g} M rows, Zipf {plan.main.skew}", rates))


def other_cases(plan: Plan, figures: Figures, threads: int, say: Callable[[str], None]) -> None:
    """Measure everything that has no goal."""
    bench = Bench(steps=plan.steps, threads=threads)
    for name, work in plan.others.items():
        say(name)
        fixed = plan.there(BOUND, OURS, OURS_FULL)
        rates = bench.run(work, [*fixed, *plan.there(*TORCH, *FBGEMM)], plan.other_rounds, _fastest_of_each(fixed))
        for other, who in (("torch", rates.fastest(TORCH)), ("fbgemm", rates.fastest(FBGEMM)), ("bound", BOUND.name)):
            _against(f"train_vs_{other}/{name}", rates.train, OURS, who, figures)
        _against(f"lookup_vs_torch/{name}", rates.lookup, OURS, rates.fastest(TORCH, "lookup"), figures)
        figures.tables.append(rates_table(name, rates))
    for rule, (ours, peer) in (cases.OTHER_RULES if plan.others else {}).items():
        if plan.there(peer):
            say(rule)
            rates = bench.run(plan.main, [ours, peer], plan.other_rounds)
            _against(f"train_vs_{peer.module.split('_')[0]}/{rule}", rates.train, ours, peer.name, figures)
            figures.tables.append(rates_table(f"the main case, {rule}", rates))


def _fastest_of_each(fixed: Sequence[Entry]) -> Choose:
    """Return who stays after the first round: the fixed ones, and of every peer the fastest way of writing it."""

    def choose(rates: Rates) -> Sequence[Entry]:
        kept = {rates.fastest(TORCH), rates.fastest(TORCH, "lookup"), rates.fastest(FBGEMM)}
        return [*fixed, *(entry for entry in (*TORCH, *FBGEMM) if entry.name in kept)]

    return choose


def _against(
    name: str, rates: dict[str, list[float]], ours: Entry, peer: str | None, figures: Figures, goal: Goal | None = None
) -> None:
    if peer in rates:
        figures.add(name, ratios(rates[ours.name], rates[peer]), goal=goal)
    else:
        figures.missing(name, NO_BOUND if peer == BOUND.name else NO_PEERS, goal=goal)


def _scaling(rates: Rates, figures: Figures, threads: int) -> None:
    two, of_bound = Goal(">=", 1.7), Goal(">=", 0.9)
    if threads < 2 or BOUND.name not in rates.scaling:
        why = "this machine has one core" if threads < 2 else NO_BOUND
        for name, goal in (("two_threads_vs_one", two), ("two_threads_vs_bound_scaling", of_bound)):
            figures.missing(name, why, goal=goal)
        return
    ours, bound = rates.scaling[OURS.name], rates.scaling[BOUND.name]
    gain = statistics.median(bound)
    figures.add("two_threads_vs_one", ours, goal=two if gain >= BOUND_SCALES else None)
    figures.add("two_threads_vs_bound_scaling", ratios(ours, bound), goal=of_bound)
    figures.add("bound_two_threads_vs_one", bound)
    if gain < BOUND_SCALES:
        figures.notes.append(f"two_threads_vs_one: no goal here, because the bound itself gains {gain:.2f} from the "
                             f"second thread; the goal is for machines where it gains {BOUND_SCALES}.")  # fmt: skip


def rates_table(title: str, rates: Rates) -> ClaimTable:
    """Return the rates of one case as a table, medians over the rounds."""

    def millions(values: list[float]) -> str:
        return f"{statistics.median(values) / 1e6:.2f}"

    rows = tuple(
        (name, millions(train), millions(rates.lookup[name]), str(len(train)), f"{rates.difference[name]:.1e}")
        for name, train in rates.train.items()
    )
    return ClaimTable(title, ("contender", "train, M ids/s", "lookup, M ids/s", "rounds", "rows differ by"), rows)
