"""Sizes that we do not have: jobs of up to a thousand workers on a virtual clock, and what deciding for them costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headrace.papers.antdt.recipe import METHODS, ND, PATTERNS
from headrace.papers.antdt.work import Work
from headrace.runtime import Controller, ControllerConfig, Overheads, SimulatedJob, simulate

SIZES = (4, 32, 256, 1000)
HEARTBEATS_PER_S = 1 / 0.15


def simulated_table(work: Work, overheads: Overheads, methods: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the simulated seconds of every pattern and method."""
    found = {}
    for pattern in PATTERNS:
        for method in methods:
            way = METHODS[method]
            job = SimulatedJob(
                rows=work.trained, batch=work.batch_rows, workers=work.workers, servers=work.servers, mode=way.mode,
                pattern=work.pattern(pattern), overheads=overheads, noise=0.02, seed=work.seed,
                ids_by_row=26.0,
            )  # fmt: skip
            found[pattern, method] = simulate(job, way.of(pattern)).job_s
    return found


def at_size(work: Work, overheads: Overheads, pattern: str, method: str, workers: int) -> float:
    """Return the simulated seconds with so many workers, each with as many rows a step as in the real runs.

    The steps stay as many, and the overhead of a step is the one of the real runs (their workers share two cores, which
    those of a cluster do not), so without slow nodes the time would be the same at every size.
    """
    way, times = METHODS[method], workers / work.workers
    overheads = replace(overheads, step_s=overheads.sync_s(work.workers), member_s=0.0)
    batch = round(work.batch_rows * times)
    job = SimulatedJob(
        rows=work.trained // work.batch_rows * batch, batch=batch, workers=workers, servers=work.servers,
        mode=way.mode, pattern=replace(work, workers=workers, batch_rows=batch).pattern(pattern), overheads=overheads,
        noise=0.05, seed=work.seed, ids_by_row=26.0 / times,
    )  # fmt: skip
    return simulate(job, way.of(pattern)).job_s


def decision_cost(workers: int = 1000, seconds: float = 1.5, seed: int = 0) -> tuple[float, float]:
    """Feed a real controller by synthetic agents; return CPU seconds a second, and the longest decision in seconds.

    Every agent sends a sample with each heartbeat (every 150 ms), the controller decides as often; one agent in fifty
    becomes slow half way through, so that batches are really shared anew.

    Args:
        workers: Agents.
        seconds: Of the agents' time.
        seed: Of their noise.
    """
    controller = Controller(ND, ControllerConfig(batch=100 * workers))
    names = [f"worker-{place}" for place in range(workers)]
    for name in names:
        controller.join(name, "worker", 0.0)
    draw, beats = np.random.default_rng(seed), max(round(seconds * HEARTBEATS_PER_S), 10)
    spent, longest = 0.0, 0.0
    for beat in range(beats):
        took = 0.01 * draw.lognormal(0, 0.05, workers)
        if beat >= beats // 2:
            took[::50] *= 4.0
        began = time.process_time()
        sizes = controller.plan(beat).sizes
        for name, row_s in zip(names, took.tolist(), strict=True):
            controller.record_step(name, beat, sizes[name], sizes[name] * row_s)
        before = time.process_time()
        controller.tick(beat / HEARTBEATS_PER_S, beat, rows_left=10**9)
        ended = time.process_time()
        spent, longest = spent + ended - began, max(longest, ended - before)
    return spent / (beats / HEARTBEATS_PER_S), longest
