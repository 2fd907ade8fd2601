"""Figures about whole training steps: against the bound, against peers, and with reading apart or ahead."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from table_contenders.figures import Figures

from headrace.errors import DataError
from headrace.evaluate.claims import ClaimTable, Goal
from pipeline_contenders import real
from pipeline_contenders.cases import BOUND, INTERLEAVED, OURS, PEER_NAMES, PLAIN, READER, WAYS, Entry, Plan
from pipeline_contenders.rounds import COLUMNS, Bench, Rates
from pipeline_contenders.work import Made, put

Say = Callable[[str], None]

NEAR_BOUND = Goal("<=", 1.25)
FOUR_TIMES = Goal(">=", 4.0)
HALF_MORE = Goal(">=", 1.5)
NO_PEERS = ("not part of this size of run, or the peer is not there (scripts/peers.sh and scripts/peers_ctr.sh make "
            "their environments)")  # fmt: skip


def there(peer: str, plan: Plan) -> list[Entry]:
    """Return the ways of running a peer that can run here and are tried."""
    return [entry for entry in WAYS[peer][: plan.ways] if entry.there]


def made(plan: Plan, figures: Figures, threads: int, say: Say) -> None:
    """Measure every network on the made data: ours and the bound side by side, then ours and each peer in turn."""
    for model in plan.models:
        say(f"{model}, {plan.made.ids:,} ids")
        case = plan.made.case(model)
        with tempfile.TemporaryDirectory() as name:
            put(Path(name), case, plan.made.columns(case))
            with Bench(Path(name), case.batch, threads) as bench:
                for number in range(plan.rounds):
                    bench.round(number, [OURS, BOUND], plan.steps)
                near = bench.found
                others = {peer: Rates(case.batch) for peer in PEER_NAMES}
                for number in range(plan.peer_rounds):
                    beside_peers(bench, number, others, plan)
        figures.add(f"step_vs_bound/{model}", near.against(BOUND.name, OURS.name), goal=NEAR_BOUND)
        for kind in (OURS, BOUND):
            figures.add(f"samples_per_s/{model}/{kind.name}", near.rates[kind.name], unit="examples/s")
        best = {peer: found.fastest(WAYS[peer]) for peer, found in others.items()}
        for peer, found in others.items():
            add(figures, f"samples_vs_{peer}/{model}", found, best[peer], FOUR_TIMES)
        rows = near.rows() + tuple(row for found in others.values() for row in found.rows() if row[0] != OURS.name)
        title = (f"{model}: {plan.made.ids / 1e6:g} M ids in {len(case.sizes)} tables, dim {case.dim}, batch "
                 f"{case.batch:,}, from disk")  # fmt: skip
        figures.tables.append(ClaimTable(title, COLUMNS, rows))


def beside_peers(bench: Bench, number: int, others: Mapping[str, Rates], plan: Plan) -> None:
    """Measure one round of all peers, each with a block of ours right before it; slower ways have one round."""
    for peer, found in others.items():
        best = found.fastest(WAYS[peer])
        for entry in there(peer, plan):
            if number and entry.name != best:
                continue
            if not number and found.rates:
                mine = Rates(found.batch)  # a second way in the first round: its own block of ours is not kept
                bench.visit(entry, plan.peer_steps, mine)
                found.rates |= mine.rates
                found.facts |= mine.facts
                continue
            bench.round(0, [OURS], plan.steps, found)
            bench.visit(entry, plan.peer_steps, found)


def add(figures: Figures, name: str, found: Rates, peer: str | None, goal: Goal) -> None:
    """Record ours over a peer's, or that there is no such number."""
    if peer is None:
        figures.missing(name, NO_PEERS, goal=goal)
    else:
        figures.add(name, found.against(OURS.name, peer), goal=goal)


def small(plan: Plan, figures: Figures, threads: int, say: Say) -> None:
    """Measure every network on the small real sets that it reads: ours and all peers, side by side."""
    entries = [OURS, *(entry for peer in PEER_NAMES for entry in there(peer, plan))] if plan.small else []
    for model in plan.models:
        sets: dict[str, Rates] = {}
        for name in plan.small:
            if not real.fits(model, name):
                continue
            say(f"{model}, {name}")
            with tempfile.TemporaryDirectory() as folder:
                try:
                    case = real.write(name, model, plan.small_rows, Path(folder))
                except DataError as error:
                    figures.notes.append(f"{name} was left out: {error}")
                    continue
                with Bench(Path(folder), case.batch, threads) as bench:
                    for number in range(plan.small_rounds):
                        bench.round(number, entries, plan.small_steps)
            sets[name] = bench.found
            title = f"{model}: {name}, {case.rows:,} rows, dim {case.dim}, batch {case.batch:,}"
            figures.tables.append(ClaimTable(title, COLUMNS, bench.found.rows()))
        for peer in PEER_NAMES:
            over_sets(figures, f"samples_vs_{peer}_small/{model}", peer, sets)


def over_sets(figures: Figures, name: str, peer: str, sets: Mapping[str, Rates]) -> None:
    """Record ours over a peer's fastest way, as the geometric mean over data sets, round by round."""
    ratios = []
    for found in sets.values():
        best = found.fastest(WAYS[peer])
        if best is not None:
            ratios.append(found.against(OURS.name, best))
    if not ratios:
        figures.missing(name, NO_PEERS, goal=HALF_MORE)
        return
    figures.add(name, [math.prod(each) ** (1 / len(each)) for each in zip(*ratios, strict=True)], goal=HALF_MORE)


def interleaving(plan: Plan, figures: Figures, threads: int, say: Say) -> None:
    """Measure reading ahead and micro-batches, and the reader alone."""
    model, rounds = plan.overlap
    say(f"interleaving, {model}")
    data = Made(ids=min(plan.made.ids, 1_000_000), batches=plan.made.batches, settings=plan.made.settings)
    case = data.case(model)
    with tempfile.TemporaryDirectory() as name:
        put(Path(name), case, data.columns(case))
        with Bench(Path(name), case.batch, threads) as bench:
            for number in range(rounds):
                bench.round(number, INTERLEAVED[: plan.overlap_ways], plan.steps)
                bench.round(number, [READER], data.batches)
    found = bench.found
    figures.add("interleaving", found.against(OURS.name, PLAIN.name), goal=Goal(">=", 1.0))
    for entry in INTERLEAVED[2 : plan.overlap_ways]:
        count = entry.options["micro"]
        figures.add(f"interleaving/micro_batches_{count}", found.against(entry.name, OURS.name))
    figures.add("reading_alone", found.rates[READER.name], unit="examples/s")
    title = f"Interleaving: {model}, {data.ids / 1e6:g} M ids, from disk; 'ours' reads ahead"
    figures.tables.append(ClaimTable(title, COLUMNS, found.rows()))
