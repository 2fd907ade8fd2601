"""AntDT's solutions against plain synchronous and asynchronous training, backup workers and load balancing, measured.

`card.md` says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.papers.antdt.real import (
    STEPS,
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
from headrace.papers.antdt.recipe import METHODS, OURS, PATTERNS
from headrace.papers.antdt.scale import SIZES, at_size, decision_cost, simulated_table
from headrace.papers.antdt.work import Work
from headrace.runtime import Overheads

_log = logging.getLogger(__name__)

TOY = Work(rows=2000, batch_rows=80, step_s=0.08, workers=2, servers=1)
SMALL = Work(rows=0, batch_rows=80, step_s=0.3)
SIMULATED = Work(rows=20_000, batch_rows=80, step_s=0.2)
SIZED = Work(rows=5_000, batch_rows=80, step_s=0.2)
TYPICAL = Overheads(step_s=0.02, member_s=0.0075, push_s=0.05, wait_s=8.0, stall_s=0.5, move_s=1.0)
"""About what was measured on two cores; sizes without real runs are simulated with it."""
SEEDS = (1, 2, 3)


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


def toy(record: ClaimRecord) -> dict[str, object]:
    """All patterns and methods on the virtual clock, and one real job of two workers."""
    simulated(record, SIMULATED, TYPICAL, goals=True)
    cells = run_cells(TOY, ["persistent_worker"], [OURS], _log.info)
    cell = cells["persistent_worker", OURS]
    record.add("real_rows_learned", mean_over_seeds([cell.share]), unit="of the rows",
               goal=Goal(">=", 1.0))  # fmt: skip
    record.add("real_s", mean_over_seeds([cell.job_s]), unit="s")
    return {"seeds": [0], "rows": TOY.rows, "workers": TOY.workers}


def small(record: ClaimRecord) -> dict[str, object]:
    """The whole table, real: four workers, two servers, injected sleeps; the simulator beside it, and beyond."""
    calibration = calibrated(SMALL, _log.info)
    cells = run_cells(SMALL, PATTERNS, list(METHODS), _log.info)
    seeds = auc_seeds(SMALL, SEEDS, _log.info)
    compared(record, SMALL, cells, calibration.overheads, seeds)
    sizes(record, SIZED, calibration.overheads)
    return {"seeds": [0, *SEEDS], "steps": STEPS, "batch_rows": SMALL.batch_rows, "step_s": SMALL.step_s,
            "workers": SMALL.workers, "servers": SMALL.servers}  # fmt: skip


def simulated(record: ClaimRecord, work: Work, overheads: Overheads, *, goals: bool) -> None:
    """Record every pattern and method on the virtual clock."""
    seconds = simulated_table(work, overheads, list(METHODS))
    for pattern in PATTERNS:
        gain, limits = seconds[pattern, "BSP"] / seconds[pattern, OURS], limit(work, pattern)
        record.add(f"simulated_speedup_vs_bsp/{pattern}", mean_over_seeds([gain]), unit="times as fast",
                   goal=Goal(">=", round(goal_of(limits), 3)) if goals else None)  # fmt: skip
    rows = tuple((pattern, f"{limit(work, pattern).speedup:.2f}x",
                  *(f"{seconds[pattern, method]:.1f}" for method in METHODS)) for pattern in PATTERNS)  # fmt: skip
    record.tables.append(ClaimTable(
        f"Simulated job time, s: {work.workers} workers, {work.trained // work.batch_rows} steps",
        ("pattern", "bound", *METHODS), rows,
        ("Bound: how much faster than BSP an all-knowing controller could be whose changes cost nothing.",),
    ))  # fmt: skip


def compared(record: ClaimRecord, work: Work, cells: Cells, overheads: Overheads, seeds: Sequence[float]) -> None:
    """Record the real table: job times, what is gained, how the simulator did, and AUC."""
    apart, rows = errors(work, cells, overheads), []
    for pattern in PATTERNS:
        limits = limit(work, pattern, cells[pattern, "BSP"].ids_by_row)
        gain = cells[pattern, "BSP"].job_s / cells[pattern, OURS].job_s
        worse = worse_than_best(cells, pattern)
        assert worse is not None  # every method was run
        record.add(f"speedup_vs_bsp/{pattern}", mean_over_seeds([gain]), unit="times as fast")
        record.add(f"speedup_vs_goal/{pattern}", mean_over_seeds([gain / goal_of(limits)]), unit="of the goal",
                   goal=Goal(">=", 1.0))  # fmt: skip
        record.add(f"worse_than_best/{pattern}", mean_over_seeds([worse]), unit="of the best baseline's time",
                   goal=Goal("<=", 0.05))  # fmt: skip
        rows.append((pattern, f"{limits.speedup:.2f}x", f"{goal_of(limits):.2f}x", f"{gain:.2f}x",
                     *(f"{cells[pattern, method].job_s:.1f}" for method in METHODS)))  # fmt: skip
    sizes_of = sorted(abs(error) for error in apart.values())
    record.add("simulator_error", mean_over_seeds([statistics.mean(sizes_of)]), unit="of the measured time")
    record.add("simulator_error_max", mean_over_seeds([sizes_of[-1]]), unit="of the measured time")
    record.add("auc_apart", mean_over_seeds([auc_apart(cells, seeds)]), unit="of the spread of seeds",
               goal=Goal("<=", 1.0))  # fmt: skip
    record.add("auc_lost_asynchronous", mean_over_seeds([auc_lost(cells)]), unit="AUC")
    record.tables.append(ClaimTable(
        f"Job time, s: {work.workers} real workers, {work.servers} servers",
        ("pattern", "bound", "goal", "AntDT vs BSP", *METHODS), tuple(rows),
        ("Sleeps stand for compute; two cores hold all processes. Goal: the smaller of 3 and 0.8 times the bound.",
         "AntDT is AntDT-DD under mixed devices when synchronous, AntDT-ND otherwise. `worse_than_best` compares",
         "synchronous jobs with synchronous ones and asynchronous with asynchronous ones; the worse of both counts."),
    ))  # fmt: skip
    record.tables.append(ClaimTable(
        "AUC on the test rows", ("pattern", *METHODS),
        tuple((pattern, *(f"{cells[pattern, method].auc:.4f}" for method in METHODS)) for pattern in PATTERNS),
        (f"Plain training without slow nodes, by seed: {', '.join(f'{auc:.4f}' for auc in seeds)}.",),
    ))  # fmt: skip
    record.tables.append(ClaimTable(
        "Simulated over measured, less one", ("pattern", *METHODS),
        tuple((pattern, *(f"{apart[pattern, method]:+.1%}" for method in METHODS)) for pattern in PATTERNS),
        ("Calibrated on runs without slow nodes: 2 and all workers, synchronous; all, asynchronous.",),
    ))  # fmt: skip


def sizes(record: ClaimRecord, work: Work, overheads: Overheads) -> None:
    """Record simulated jobs of up to a thousand workers, and the cost of deciding for so many."""
    ways, rows = ("BSP", "backup workers", "LB-BSP", OURS), []
    for pattern in ("persistent_worker", "transient_worker"):
        for workers in SIZES:
            seconds = [at_size(work, overheads, pattern, way, workers) for way in ways]
            rows.append((pattern, f"{workers:,}", *(f"{each:.0f}" for each in seconds)))
    cost, longest = decision_cost()
    record.add("decision_cost_per_s/1000_workers", mean_over_seeds([cost]), unit="CPU seconds a second",
               goal=Goal("<=", 1.0))  # fmt: skip
    record.add("decision_max_s/1000_workers", mean_over_seeds([longest]), unit="s")
    record.tables.append(ClaimTable(
        "Simulated job time, s, by number of workers", ("pattern", "workers", *ways), tuple(rows),
        ("As many rows for each worker, as many steps and the same overhead of a step at every size.",),
    ))  # fmt: skip
