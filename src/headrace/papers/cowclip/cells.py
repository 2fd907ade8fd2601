"""Cells of the tables: one fit each, in several processes, kept on disk so that a run goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from headrace.config import fingerprint
from headrace.optim.scaling import Rule
from headrace.papers.cowclip.recipe import Clip, Task, ranker
from headrace.ranking import FitProgress, fit_ranker

_log = logging.getLogger(__name__)

Measured = dict[str, float]
"""`auc`, `log_loss` of the test rows at the best validation; `seconds` of the first pass (of the processor, with the
making of batches); `rows_per_s` there; `best_epoch`; `clipped`, the mean share of the learning rows that were clipped.
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit.

    Attributes:
        task: Name of the data set.
        network, rule, times, clip, bound, seed: See `recipe.ranker`.
        row_lr, dense_lr: Rates at the base batch in place of the task's, for the search; 0: the task's.
    """

    task: str
    network: str
    rule: Rule
    times: int
    clip: Clip = "auto"
    bound: float = 1.0
    seed: int = 0
    row_lr: float = 0.0
    dense_lr: float = 0.0


def measure(task: Task, cell: Cell) -> Measured:
    """Fit one cell on one thread."""
    torch.set_num_threads(1)  # one order of summation, and one process a core
    if cell.row_lr:
        baseline, cowclip = (replace(each, row_lr=cell.row_lr, dense_lr=cell.dense_lr)
                             for each in (task.baseline, task.cowclip))  # fmt: skip
        task = replace(task, baseline=baseline, cowclip=cowclip, row_rates={})
    config = ranker(task, cell.network, cell.rule, cell.times, clip=cell.clip, bound=cell.bound, seed=cell.seed)
    watch = _Watch()
    figures = {name: figure.value for name, figure in fit_ranker(config, on_step=watch).figures.items()}
    clipped = [value for name, value in figures.items() if name.startswith("part/clipped/")]
    return {
        "auc": figures["test_auc"], "log_loss": figures["test_log_loss"], "best_epoch": figures["best_epoch"],
        "seconds": watch.seconds, "rows_per_s": watch.examples / max(watch.seconds, 1e-9),
        "clipped": sum(clipped) / len(clipped) if clipped else 0.0,
    }  # fmt: skip


class _Watch:
    """Takes the processor's time of the first pass; the first step, which warms up, is not in it."""

    def __init__(self) -> None:
        self.seconds, self.examples, self._start, self._before = 0.0, 0, 0.0, 0

    def __call__(self, progress: FitProgress) -> None:
        if progress.epoch or progress.evaluations:
            return
        now = time.process_time()
        if progress.step == 1:
            self._start, self._before = now, progress.examples
        self.seconds, self.examples = now - self._start, progress.examples - self._before


def run_cells(cells: Sequence[Cell], tasks: Mapping[str, Task], folder: Path, workers: int) -> dict[Cell, Measured]:
    """Measure cells, or find them measured.

    Args:
        cells: Which.
        tasks: Their tasks by name.
        folder: Where each cell's result is kept; a result that is there is not measured again.
        workers: Processes; 0 measures here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {cell: folder / f"{fingerprint((tasks[cell.task], cell))}.json" for cell in dict.fromkeys(cells)}
    found = {cell: _read(path) for cell, path in files.items() if path.exists()}
    # the smallest batches take longest, so they come first
    missing = sorted((cell for cell in files if cell not in found), key=lambda cell: cell.times)
    _log.info("%d cells, %d measured already", len(files), len(found))
    if workers and len(missing) > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting = {pool.submit(measure, tasks[cell.task], cell): cell for cell in missing}
            for done in as_completed(waiting):
                cell = waiting[done]
                found[cell] = _keep(files[cell], cell, done.result())
    else:
        for cell in missing:
            found[cell] = _keep(files[cell], cell, measure(tasks[cell.task], cell))
    return {cell: found[cell] for cell in files}


def _read(path: Path) -> Measured:
    return {name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8"))["measured"].items()}


def _keep(path: Path, cell: Cell, measured: Measured) -> Measured:
    _log.info("%s: %s", cell, measured)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps({"cell": asdict(cell), "measured": measured}), encoding="utf-8")
    os.replace(unfinished, path)
    return measured
