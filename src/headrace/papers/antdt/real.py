"""Jobs of real processes: every pattern with every method, the same rows and seed, sleeps for slow devices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.papers.antdt.recipe import METHODS, OURS, OURS_ASYNC, measured
from headrace.papers.antdt.work import IDS_BY_ROW, Work
from headrace.runtime import Bound, Overheads, SimulatedJob, bound, simulate

_log = logging.getLogger(__name__)
Say = Callable[[str], None]
STEPS = {"persistent_worker": 64, "transient_worker": 100, "persistent_server": 64, "mixed_devices": 48}
"""Steps of a real job: as many as it takes for what is seen in the first ones to pay."""
RIVALS = {OURS: ("BSP", "backup workers", "LB-BSP"), OURS_ASYNC: ("ASP",)}
"""Baselines of either mode."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one job came to.

    Attributes:
        job_s: From the first committed step to the last.
        steps: Committed steps, or pushes.
        auc: On the rows for testing.
        cpu_s: CPU seconds of all processes since the first step.
        ids_by_row: Ids that servers looked up, by row learned.
        rows: Rows that were learned.
        share: Of all rows that there were.
    """

    job_s: float
    steps: int
    auc: float
    cpu_s: float
    ids_by_row: float
    rows: int
    share: float

    @staticmethod
    def of(report: Mapping[str, Any]) -> Cell:
        """Read a report of `run_elastic`, as `measured` returns it."""
        status = report["status"]
        rows = int(status.get("rows", {}).get("committed", 0))
        asked = sum(int(server.get("rows", 0)) for server in status.get("servers", ()))
        return Cell(
            job_s=float(report["job_s"]), steps=int(report["steps"]), auc=float(report.get("test_auc", float("nan"))),
            cpu_s=sum(report["cpu_s_learning"].values()), ids_by_row=asked / rows if rows and asked else IDS_BY_ROW,
            rows=rows, share=rows / max(int(status.get("rows", {}).get("all", rows)), 1),
        )  # fmt: skip


Cells = dict[tuple[str, str], Cell]


def quiet(_: str) -> None:
    """Say nothing."""


def sized(work: Work, pattern: str) -> Work:
    """Return the work with as many steps as a pattern needs, where the work is a whole one."""
    return replace(work, rows=STEPS[pattern] * work.batch_rows * 10 // 8) if work.rows == 0 else work


def run_cells(work: Work, patterns: Iterable[str], methods: Sequence[str], say: Say = quiet) -> Cells:
    """Run every method under every pattern, those of a pattern in turn."""
    found: Cells = {}
    for pattern in patterns:
        for method in methods:
            found[pattern, method] = cell = Cell.of(measured(sized(work, pattern), pattern, METHODS[method]))
            say(f"{pattern}, {method}: {cell.job_s:.1f} s, {cell.steps} steps, AUC {cell.auc:.4f}")
    return found


def auc_seeds(work: Work, seeds: Iterable[int], say: Say = quiet) -> list[float]:
    """Return the AUC of plain synchronous training without sleeps, by seed: how far seeds alone are apart."""
    found = []
    for seed in seeds:
        found.append(
            Cell.of(
                measured(replace(sized(work, "transient_worker"), seed=seed, step_s=0.0), "none", METHODS["BSP"])
            ).auc
        )
        say(f"seed {seed}: AUC {found[-1]:.4f}")
    return found


def limit(work: Work, pattern: str, ids_by_row: float = IDS_BY_ROW) -> Bound:
    """Return a pattern's analytic bound for this work; servers are relieved of buckets, not replaced."""
    work = sized(work, pattern)
    return bound(work.pattern(pattern), rows=work.trained, batch=work.batch_rows, workers=work.workers,
                 servers=work.servers, ids_by_row=ids_by_row, replace=pattern != "persistent_server")  # fmt: skip


def goal_of(limits: Bound) -> float:
    """Return how many times faster than BSP a job has to be: the smaller of 3 and 0.8 times the bound."""
    return min(3.0, 0.8 * limits.speedup)


# The simulator beside them ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calibration:
    """What small real runs without slow nodes say of everything that is not sleep."""

    overheads: Overheads
    push_s: float


def calibrated(work: Work, say: Say = quiet) -> Calibration:
    """Measure overheads: synchronous steps of 2 workers and of all, and pushes of all, with nobody slow."""
    beyond: dict[int, float] = {}
    short = replace(work, rows=24 * work.batch_rows * 10 // 8)
    for workers in (2, work.workers):
        # as many rows for each worker
        own = replace(short, workers=workers, batch_rows=work.batch_rows * workers // work.workers)
        cell = Cell.of(measured(own, "none", METHODS["BSP"]))
        beyond[workers] = cell.job_s / max(cell.steps - 1, 1) - work.step_s
        say(f"calibration, {workers} workers: {1e3 * beyond[workers]:.1f} ms of a step are not sleep")
    cell = Cell.of(measured(short, "none", METHODS["ASP"]))
    push_s = cell.job_s / max(cell.steps - work.workers, 1) * work.workers - work.step_s
    say(f"calibration, asynchronous: {1e3 * push_s:.1f} ms of a push are not sleep")
    return Calibration(Overheads.fitted(beyond, wait_s=8.0, stall_s=0.5, move_s=1.0, push_s=max(push_s, 0.0)), push_s)


def predicted(work: Work, pattern: str, method: str, overheads: Overheads, ids_by_row: float = IDS_BY_ROW) -> float:
    """Return the simulated seconds of a job, counted as a real one's are: from the first commit."""
    way = METHODS[method]
    job = SimulatedJob(
        rows=work.trained, batch=work.batch_rows, workers=work.workers, servers=work.servers, mode=way.mode,
        pattern=work.pattern(pattern), overheads=overheads, noise=0.02, ids_by_row=ids_by_row, seed=work.seed,
    )  # fmt: skip
    result = simulate(job, way.of(pattern))
    return result.job_s - result.step_s[0]


def errors(work: Work, cells: Cells, overheads: Overheads) -> dict[tuple[str, str], float]:
    """Return the relative error of the simulator in every cell: simulated over measured, less one."""
    return {
        (pattern, method): predicted(sized(work, pattern), pattern, method, overheads, cell.ids_by_row) / cell.job_s - 1
        for (pattern, method), cell in cells.items()
    }


def worse_than_best(cells: Cells, pattern: str) -> float | None:
    """Return by what share of its time our job takes longer than the best baseline of its mode, in the worse mode.

    Synchronous jobs are compared with synchronous ones, asynchronous ones with each other: they do not learn the same.
    None where not all of them were run.
    """
    if any((pattern, method) not in cells for modes in RIVALS.items() for method in (modes[0], *modes[1])):
        return None
    return max(
        cells[pattern, ours].job_s / min(cells[pattern, other].job_s for other in others) - 1
        for ours, others in RIVALS.items()
    )


def auc_lost(cells: Cells) -> float:
    """Return how much AUC our asynchronous jobs lose against BSP's on the same rows, in the mean over patterns."""
    lost = [cells[pattern, "BSP"].auc - cell.auc for (pattern, method), cell in cells.items() if method == OURS_ASYNC]
    return sum(lost) / len(lost)


def spread_of(seeds: Sequence[float]) -> float:
    """Return the range of AUCs, at least 0.002."""
    return max(max(seeds) - min(seeds), 0.002)


def auc_apart(cells: Cells, seeds: Sequence[float]) -> float:
    """Return how far AUC of our synchronous jobs lies from BSP's on the same rows at most, in units of seeds' range."""
    apart = [abs(cell.auc - cells[pattern, "BSP"].auc) for (pattern, method), cell in cells.items() if method == OURS]
    return max(apart) / spread_of(seeds)
