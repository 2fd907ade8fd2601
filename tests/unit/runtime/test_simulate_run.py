"""The virtual clock agrees with sums done by hand, learns every row, and is the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.runtime.actions import Add, AdjustBatch, MoveBuckets, Restart
from headrace.runtime.simulate_job import Overheads, SimulatedFault, SimulatedJob, bound
from headrace.runtime.simulate_patterns import (
    mixed_devices,
    no_stragglers,
    persistent_server,
    persistent_worker,
    transient_worker,
)
from headrace.runtime.simulate_run import simulate
from headrace.runtime.solutions import Asp, BackupWorkers, LbBsp, Static
from headrace.runtime.solutions_dd import AntDtDd
from headrace.runtime.solutions_nd import AntDtNd, RestartCost

JOB = SimulatedJob(rows=40_000, batch=400, overheads=Overheads(step_s=0.0, stall_s=0.0, wait_s=1.0))
SLOW = persistent_worker(worker_row_s=0.001)
SERVER = persistent_server(worker_row_s=0.001, server_row_s=0.002)
ND = AntDtNd(restart=RestartCost(wait_s=1.0, stall_s=0.1))
PATTERNS = [SLOW, transient_worker(worker_row_s=0.001), SERVER, mixed_devices(worker_row_s=0.001)]
SOLUTIONS = [Static(), Asp(), BackupWorkers(), LbBsp(), ND, AntDtDd()]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda each: each.name)
@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_row_is_learned_and_nothing_beats_the_bound(pattern, solution, mode) -> None:
    result = simulate(replace(JOB, pattern=pattern, mode=mode), solution)
    assert result.rows == JOB.rows
    assert result.computed_rows >= JOB.rows
    best = bound(pattern, rows=JOB.rows, batch=JOB.batch).best_s
    assert result.job_s >= best * 0.995  # a batch in flight when a slow while begins is still fast
    if type(solution) is Static and mode == "sync":
        assert result.job_s == pytest.approx(bound(pattern, rows=JOB.rows, batch=JOB.batch).bsp_s, rel=0.02)


def test_overheads_are_added_by_step() -> None:
    job = replace(JOB, pattern=no_stragglers(worker_row_s=0.001), overheads=Overheads(step_s=0.01, member_s=0.001))
    assert simulate(job, Static()).job_s == pytest.approx(100 * (0.1 + 0.014))


def test_who_is_free_takes_the_next_rows() -> None:
    result = simulate(replace(JOB, pattern=SLOW, mode="async"), Asp())
    assert result.job_s == pytest.approx(40.0 / (3 + 1 / 6), rel=0.05)


def test_one_head_takes_one_push_after_another() -> None:
    job = replace(JOB, pattern=no_stragglers(worker_row_s=0.0001), mode="async", overheads=Overheads(commit_s=0.02))
    assert simulate(job, Asp()).job_s == pytest.approx(400 * 0.02, rel=0.05)


def test_ours_gains_what_the_pattern_leaves() -> None:
    for pattern in PATTERNS:
        solution = AntDtDd() if pattern.name == "mixed_devices" else ND
        own = simulate(replace(JOB, pattern=pattern, rows=120_000), solution).job_s
        limits = bound(pattern, rows=120_000, batch=JOB.batch, replace=pattern is not SERVER)
        assert limits.bsp_s / own >= min(3.0, 0.8 * limits.speedup), pattern.name


def test_slow_nodes_are_replaced_after_they_were_relieved() -> None:
    kinds = [type(each.action) for each in simulate(replace(JOB, pattern=SLOW, rows=120_000), ND).decisions]
    assert kinds.index(AdjustBatch) < kinds.index(Restart)
    own = replace(ND, restart_server=RestartCost(wait_s=0.0, stall_s=3.0))
    result = simulate(replace(JOB, pattern=SERVER, rows=120_000, checkpoint_steps=50), own)
    kinds = [type(each.action) for each in result.decisions]
    assert kinds.index(MoveBuckets) < kinds.index(Restart)
    assert result.redone > 0  # everything went back to a checkpoint
    assert result.rows == 120_000


def test_with_backup_workers_late_rows_are_computed_again() -> None:
    result = simulate(replace(JOB, pattern=SLOW), BackupWorkers())
    assert result.rows == JOB.rows
    assert result.computed_rows == pytest.approx(JOB.rows * 4 / 3, rel=0.05)
    assert result.job_s == pytest.approx(40.0 / 3, rel=0.06)


@pytest.mark.parametrize("kind", ["worker", "server", "head"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_faults_cost_time_and_no_rows(kind, mode) -> None:
    job = replace(JOB, pattern=no_stragglers(worker_row_s=0.001), mode=mode, checkpoint_steps=20)
    whole = simulate(job, Static())
    hurt = simulate(replace(job, faults=(SimulatedFault(4.0, kind), SimulatedFault(7.0, kind, 1))), Static())
    assert hurt.rows == whole.rows == JOB.rows
    assert whole.job_s < hurt.job_s < whole.job_s + 12
    assert hurt.redone >= 2
    if kind == "server":
        assert hurt.computed_rows > whole.computed_rows


def test_a_worker_comes_in_place_of_one_that_died() -> None:
    job = replace(JOB, pattern=no_stragglers(worker_row_s=0.001), faults=(SimulatedFault(2.0),))
    result = simulate(job, Static())
    # 1 s with three workers, the step under way again
    assert result.job_s == pytest.approx(10.0 + 1 / 3 + 0.1, abs=0.2)
    assert not any(isinstance(each.action, Add) for each in result.decisions)


def test_the_same_seed_gives_the_same_job() -> None:
    job = replace(JOB, pattern=SLOW, noise=0.2)
    first, second, other = simulate(job, ND), simulate(job, ND), simulate(replace(job, seed=1), ND)
    assert first.step_s == second.step_s
    assert first.step_s != other.step_s


def test_a_thousand_workers() -> None:
    job = SimulatedJob(rows=1_000_000, batch=100_000, workers=1000, servers=16, pattern=SLOW, noise=0.05)
    result = simulate(job, ND)
    assert result.rows == 1_000_000
    assert result.changes() >= 1
