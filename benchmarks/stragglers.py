"""What slow workers and servers cost, and what is done about it: job times of real processes with injected sleeps.

    python benchmarks/stragglers.py [--quick | --tiny] [--json] [--record FILE]

Four workers, two table servers and a head learn Criteo rows on this machine; each batch of a worker and each look-up
of a server sleeps as long as a slow (or healthy) device would compute. The same pattern, rows and seed under plain
synchronous training, asynchronous training, backup workers, load balancing and AntDT's solutions; then alternated
pairs without any sleeps, for what watching costs; then the simulator, calibrated on runs without slow nodes, against
all of it. The data are made up where there is no Criteo file. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from table_contenders.delivery import deliver
from table_contenders.figures import Figures

from headrace.errors import HeadraceError
from headrace.evaluate.claims import ClaimTable, Goal
from headrace.papers.antdt.claim import SEEDS, SIMULATED, SIZED, TYPICAL
from headrace.papers.antdt.real import (
    Cell,
    Cells,
    auc_apart,
    auc_lost,
    auc_seeds,
    calibrated,
    errors,
    goal_of,
    limit,
    run_cells,
    worse_than_best,
)  # fmt: skip
from headrace.papers.antdt.recipe import METHODS, OURS, OURS_ASYNC, PATTERNS, measured
from headrace.papers.antdt.scale import SIZES, at_size, decision_cost, simulated_table
from headrace.papers.antdt.work import Work
from headrace.runtime import Overheads

SETTINGS = {
    "processes": "head, table servers, workers; sockets on this machine; gloo between workers",
    "sleeps": "by row of a batch and of a look-up; persistent worker 6x, transient worker 4x for the middle third, "
              "persistent server 6x (look-ups are half of a healthy step), mixed devices 1:1:3:3",
    "ours": "AntDT: AntDT-ND, AntDT-DD under mixed devices, synchronous; asynchronous: AntDT-ND. speedup_vs_bsp is of "
            "the synchronous one; worse_than_best compares synchronous jobs with synchronous ones and asynchronous "
            "with asynchronous ones, and the worse of both counts",
    "bound": "an all-knowing controller whose changes cost nothing; slow servers give buckets away, slow workers are "
             "replaced",
    "peers": "all methods share this library's runtime; shards are leased in every one of them, also in ASP",
}  # fmt: skip

FULL = Work(rows=0, batch_rows=80, step_s=0.3)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        work: The jobs.
        patterns: Those run for real.
        methods: Those run for real.
        pairs: Alternated pairs without sleeps; 0: none.
        pair_rows: Rows of each job of a pair.
        seeds: Seeds whose AUCs give the spread.
        agents: Synthetic agents of the decision cost.
        sizes: Workers of the simulated jobs.
    """

    work: Work = FULL
    patterns: tuple[str, ...] = PATTERNS
    methods: tuple[str, ...] = tuple(METHODS)
    pairs: int = 9
    pair_rows: int = 12_000
    seeds: tuple[int, ...] = SEEDS
    agents: int = 1000
    sizes: tuple[int, ...] = SIZES


PLANS = {
    "standard": Plan(),
    "quick": Plan(work=Work(rows=2_500, batch_rows=80, step_s=0.1), patterns=("persistent_worker",),
                  methods=("BSP", OURS), pairs=0, seeds=(), sizes=(4, 256)),
    "tiny": Plan(work=Work(rows=800, batch_rows=80, step_s=0.02, workers=2, servers=1),
                 patterns=("persistent_worker",), methods=(OURS,), pairs=0, seeds=(), agents=50, sizes=(4,)),
}  # fmt: skip


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def real(plan: Plan, figures: Figures) -> Cells:
    """Record the real jobs of every pattern, and whether AUC stays where seeds alone would put it."""
    work = plan.work
    seeds = auc_seeds(work, plan.seeds, say)
    cells = run_cells(work, plan.patterns, plan.methods, say)
    for pattern in PATTERNS:
        names = {"speedup_vs_bsp": None, "speedup_vs_goal": Goal(">=", 1.0), "worse_than_best": Goal("<=", 0.05)}
        if not {(pattern, "BSP"), (pattern, OURS)} <= cells.keys():
            for name, goal in names.items():
                figures.missing(f"{name}/{pattern}", "not run at this size", goal=goal)
            continue
        limits = limit(work, pattern, cells[pattern, "BSP"].ids_by_row)
        gain = cells[pattern, "BSP"].job_s / cells[pattern, OURS].job_s
        figures.add(f"speedup_vs_bsp/{pattern}", [gain], unit="times as fast")
        figures.add(f"speedup_vs_goal/{pattern}", [gain / goal_of(limits)], goal=Goal(">=", 1.0))
        worse = worse_than_best(cells, pattern)
        if worse is None:
            figures.missing(f"worse_than_best/{pattern}", "not all were run", goal=Goal("<=", 0.05))
        else:
            figures.add(f"worse_than_best/{pattern}", [worse], goal=Goal("<=", 0.05))
        figures.add(f"bound/{pattern}", [limits.speedup], unit="times as fast")
    figures.tables.append(ClaimTable(
        f"Job time, s: {work.workers} workers, {work.servers} servers",
        ("pattern", "bound", "goal", *plan.methods),
        tuple((pattern, f"{limit(work, pattern).speedup:.2f}x", f"{goal_of(limit(work, pattern)):.2f}x",
               *(f"{cells[pattern, method].job_s:.1f}" for method in plan.methods)) for pattern in plan.patterns),
        ("Goal: how many times faster than BSP; the smaller of 3 and 0.8 times the bound.",),
    ))  # fmt: skip
    accuracy(plan, figures, cells, seeds)
    return cells


def accuracy(plan: Plan, figures: Figures, cells: Cells, seeds: Sequence[float]) -> None:
    """Record the AUC of every job."""
    if not seeds:
        figures.missing("auc_apart", "not run at this size", goal=Goal("<=", 1.0))
        return
    figures.add("auc_apart", [auc_apart(cells, seeds)], unit="of the spread of seeds", goal=Goal("<=", 1.0))
    if any(method == OURS_ASYNC for _, method in cells):
        figures.add("auc_lost_asynchronous", [auc_lost(cells)], unit="AUC")
    figures.tables.append(ClaimTable(
        "AUC on the test rows", ("pattern", *plan.methods),
        tuple((pattern, *(f"{cells[pattern, method].auc:.4f}" for method in plan.methods))
              for pattern in plan.patterns),
        (f"Plain training without slow nodes, by seed: {', '.join(f'{auc:.4f}' for auc in seeds)}.",),
    ))  # fmt: skip


def watching(plan: Plan, figures: Figures) -> None:
    """Record what monitor and controller cost when nobody is slow: CPU seconds of all processes, alternated pairs."""
    goal = Goal("<=", 0.02)
    if not plan.pairs:
        figures.missing("overhead_no_stragglers", "not run at this size", goal=goal)
        return
    work, found = replace(plan.work, rows=plan.pair_rows, step_s=0.0, workers=2, servers=1), []
    for number in range(plan.pairs):
        order = ("BSP", OURS) if number % 2 == 0 else (OURS, "BSP")
        cpu_s = {method: Cell.of(measured(work, "none", METHODS[method])).cpu_s for method in order}
        found.append(cpu_s[OURS] / cpu_s["BSP"] - 1)
        say(f"pair {number}: {found[-1]:+.2%} of CPU time")
    figures.add("overhead_no_stragglers", found, goal=goal)


def virtual(plan: Plan, figures: Figures, cells: Cells) -> None:
    """Record the simulator: its error, sizes that we do not have, and what deciding costs."""
    overheads = overheads_of(plan, cells)
    if len(plan.methods) > 1:
        apart = errors(plan.work, cells, overheads)
        sizes = sorted(abs(error) for error in apart.values())
        step_ms, push_ms = 1e3 * overheads.sync_s(plan.work.workers), 1e3 * overheads.push_s
        told = f"Overheads: {step_ms:.0f} ms of a step, {push_ms:.0f} ms of a push."
        figures.add("simulator_error", [statistics.mean(sizes)], unit="of the measured time")
        figures.add("simulator_error_max", [sizes[-1]], unit="of the measured time")
        figures.tables.append(ClaimTable(
            "Simulated over measured, less one", ("pattern", *plan.methods),
            tuple((pattern, *(f"{apart[pattern, method]:+.1%}" for method in plan.methods))
                  for pattern in plan.patterns),
            (told,),
        ))  # fmt: skip
    else:
        figures.missing("simulator_error", "not run at this size")
    seconds = simulated_table(SIMULATED, overheads, list(METHODS))
    figures.tables.append(ClaimTable(
        f"Simulated job time, s: {SIMULATED.workers} workers, {SIMULATED.trained // SIMULATED.batch_rows} steps",
        ("pattern", *METHODS),
        tuple((pattern, *(f"{seconds[pattern, method]:.1f}" for method in METHODS)) for pattern in PATTERNS),
    ))  # fmt: skip
    ways = ("BSP", "backup workers", "LB-BSP", OURS)
    figures.tables.append(ClaimTable(
        "Simulated job time, s, by number of workers", ("pattern", "workers", *ways),
        tuple((pattern, f"{workers:,}",
               *(f"{at_size(SIZED, overheads, pattern, way, workers):.0f}" for way in ways))
              for pattern in ("persistent_worker", "transient_worker") for workers in plan.sizes),
    ))  # fmt: skip
    costs = [decision_cost(plan.agents, seed=seed) for seed in range(3)]
    figures.add(f"decision_cost_per_s/{plan.agents}_workers", [cost for cost, _ in costs], unit="CPU s / s")
    figures.add(f"decision_max_s/{plan.agents}_workers", [longest for _, longest in costs], unit="s")


def overheads_of(plan: Plan, cells: Cells) -> Overheads:
    """Return what the simulator is given: of runs of their own where there is time, or where nothing else tells."""
    if len(plan.methods) == 1:
        return TYPICAL
    if plan.work.rows and "persistent_worker" in plan.patterns:
        return fitted_here(plan.work, cells)
    return calibrated(plan.work, say).overheads


def fitted_here(work: Work, cells: Cells) -> Overheads:
    """Return overheads from the run of BSP itself, where there is no time for runs of their own.

    One worker that is slow throughout makes every step as long as its own, so what is left is not sleep.
    """
    cell = cells["persistent_worker", "BSP"]
    beyond = cell.job_s / max(cell.steps - 1, 1) - 6.0 * work.step_s
    return Overheads.fitted({work.workers: beyond}, wait_s=8.0, stall_s=0.5, move_s=1.0, push_s=max(beyond, 0.0))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="about a minute")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, help="only these")
    parser.add_argument("--pairs", type=int, help="alternated pairs without sleeps (0: none)")
    parser.set_defaults(size="standard")
    asked = parser.parse_args()
    plan, figures, began = PLANS[asked.size], Figures(), time.monotonic()
    plan = replace(plan, patterns=tuple(asked.patterns or plan.patterns))
    plan = replace(plan, pairs=plan.pairs if asked.pairs is None else asked.pairs)
    flag = "" if asked.size == "standard" else f" --{asked.size}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        cells = real(plan, figures)
        watching(plan, figures)
        virtual(plan, figures, cells)
    except HeadraceError as error:
        say(f"benchmarks/stragglers.py: {error}")
        return 1
    result = figures.result({"command": f"python benchmarks/stragglers.py{flag}", **SETTINGS, **asdict(plan),
                             "load": os.getloadavg()[0], "total_s": round(time.monotonic() - began)})  # fmt: skip
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
