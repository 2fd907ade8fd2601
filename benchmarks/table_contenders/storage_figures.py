"""Figures about memory, growth and snapshots, taken from `ours_storage.py`."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from headrace.evaluate.claims import Goal
from table_contenders.cases import Plan
from table_contenders.figures import Figures
from table_contenders.process import BENCHMARKS, Process
from table_contenders.rounds import ratios

TOUCHED = 0.01
"""Share of the rows that an incremental snapshot holds."""


def take(plan: Plan, figures: Figures, threads: int) -> None:
    """Measure all of them. Snapshots are written under build/, on the disk of the checkout."""
    build = BENCHMARKS.parent / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build, prefix="bench-") as folder, ExitStack() as shared:

        def fresh() -> Process:
            return shared.enter_context(Process("ours_storage", Path(folder), threads=threads))

        # memory that one measurement gave back would hide what the next one takes, but a quick run starts only once
        one = fresh() if plan.together else None
        for part in (_memory, _growth, _snapshots):
            part(plan, figures, lambda: one or fresh())


def _memory(plan: Plan, figures: Figures, process: Callable[[], Process]) -> None:
    for storage, name, goal in (("plain", "overhead", 20), ("full", "overhead_full", 32)):
        found = process().ask("overhead", rows=plan.overhead_rows, dim=plan.main.dim, storage=storage)
        figures.add(f"{name}_bytes_per_id", [found["bytes_per_id"]], unit="bytes/id", goal=Goal("<=", goal))
        if not plan.together:
            figures.add(f"{name}_resident_bytes_per_id", [found["resident_per_id"]], unit="bytes/id")


def _growth(plan: Plan, figures: Figures, process: Callable[[], Process]) -> None:
    rows, batch = plan.growth
    pauses, typical = [], []
    for _ in range(min(plan.rounds, 3)):
        found = process().ask("growth", rows=rows, batch=batch, dim=plan.main.dim, storage="default")
        milliseconds = np.array(found["seconds"]) * 1e3
        pauses.append(float(np.quantile(milliseconds, 0.999, method="higher")))
        typical.append(statistics.median(milliseconds))
    figures.add("growth_pause_p999_ms", pauses, unit="ms")
    figures.add("growth_pause_p50_ms", typical, unit="ms")


def _snapshots(plan: Plan, figures: Figures, process: Callable[[], Process]) -> None:
    disk, change = Goal(">=", 0.6), Goal("<=", 0.05)
    saver = process()
    saver.ask("open", rows=plan.snapshot_rows, dim=plan.main.dim)
    saver.ask("snapshot", share=TOUCHED)  # the first one warms the disk up
    found = [saver.ask("snapshot", share=TOUCHED) for _ in range(plan.rounds)]
    column = {name: [answer[name] for answer in found] for name in found[0]}
    figures.add("snapshot_vs_disk", ratios(column["disk_s"], column["full_s"]), goal=disk)
    figures.add("snapshot_bytes_per_s", ratios(column["full_bytes"], column["full_s"]), unit="bytes/s")
    figures.add("incremental_snapshot_vs_full", ratios(column["change_s"], column["full_s"]), goal=change)
    figures.add("incremental_snapshot_bytes_vs_full", ratios(column["change_bytes"], column["full_bytes"]))
