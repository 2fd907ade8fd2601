"""Tables and figures from measured cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds
from headrace.optim import scale
from headrace.optim.scaling import Rule
from headrace.papers.cowclip.cells import Cell, Measured
from headrace.papers.cowclip.recipe import Clip, Task

Floats = npt.NDArray[np.float64]

TIME = Goal("<=", 0.5)
"""At the largest batch a pass takes half of the time at most."""

WORDS = {"none": "no scaling", "sqrt": "sqrt", "sqrt_lr": "sqrt, L2 kept", "linear": "linear",
         "n2_lambda": "L2 x n^2", "cowclip": "CowClip", "cowclip off": "CowClip's rule, no clip"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """Which rules and batch sizes of a data set are measured, and with what seeds."""

    task: str
    networks: tuple[str, ...]
    rules: tuple[Rule, ...]
    times: tuple[int, ...]
    seeds: tuple[int, ...]
    clips_off: bool = False

    def lines(self) -> list[tuple[Rule, Clip]]:
        """Return the lines of a table: each rule, and CowClip's with the clip off if it is asked for."""
        own: list[tuple[Rule, Clip]] = [(rule, "auto") for rule in self.rules]
        return [*own, ("cowclip", "off")] if self.clips_off else own

    def cell(self, network: str, rule: Rule, clip: Clip, times: int, seed: int) -> Cell:
        """Return one cell; at the base batch all rules but CowClip's are one."""
        if times == 1 and rule != "cowclip":
            rule = "none"
        return Cell(task=self.task, network=network, rule=rule, times=times, clip=clip, seed=seed)

    def cells(self) -> list[Cell]:
        """Return all cells, each once."""
        found = [self.cell(network, rule, clip, times, seed) for network in self.networks
                 for rule, clip in self.lines() for times in self.times for seed in self.seeds]  # fmt: skip
        return list(dict.fromkeys(found))

    def values(self, found: Mapping[Cell, Measured], name: str, network: str, rule: Rule, times: int,
               clip: Clip = "auto") -> Floats:  # fmt: skip
        """Return one measurement of every seed."""
        return np.array([found[self.cell(network, rule, clip, times, seed)][name] for seed in self.seeds])


def auc_tables(record: ClaimRecord, grid: Grid, found: Mapping[Cell, Measured], notes: Sequence[str]) -> None:
    """Add one table per network: AUC in % by rule and batch size, with the spread over seeds."""
    for network in grid.networks:
        rows = []
        for rule, clip in grid.lines():
            cells = [_percent(grid.values(found, "auc", network, rule, times, clip)) for times in grid.times]
            clipped = [grid.values(found, "clipped", network, rule, times, clip).mean() for times in grid.times]
            shares = "" if rule != "cowclip" or clip == "off" else " / ".join(f"{100 * each:.2g}" for each in clipped)
            rows.append((_word(rule, clip), *cells, shares))
        record.tables.append(ClaimTable(
            f"AUC in % of {network} on {grid.task}, by rule and batch size",
            ("rule", *(f"{times}x" for times in grid.times), "rows clipped, %"), tuple(rows), tuple(notes),
        ))  # fmt: skip


def auc_plot(record: ClaimRecord, grid: Grid, found: Mapping[Cell, Measured]) -> None:
    """Add one plot per network: AUC in % over the batch size, a line per rule, with the spread over seeds."""
    for network in grid.networks:
        lines, bands = {}, {}
        for rule, clip in grid.lines():
            each = [100 * grid.values(found, "auc", network, rule, times, clip) for times in grid.times]
            spread = [float(values.std(ddof=1)) if len(values) > 1 else 0.0 for values in each]
            middle = [float(values.mean()) for values in each]
            name, x = _word(rule, clip), [float(times) for times in grid.times]
            lines[name] = (x, middle)
            bands[name] = ([m - s for m, s in zip(middle, spread, strict=True)],
                           [m + s for m, s in zip(middle, spread, strict=True)])  # fmt: skip
        record.plots.append(Plot(title=f"{network} on {grid.task}", x_label="batch, times the base batch",
                                 y_label="AUC, %", lines=lines, bands=bands, log_x=True))  # fmt: skip


def time_table(record: ClaimRecord, grid: Grid, found: Mapping[Cell, Measured]) -> None:
    """Add seconds and rows a second of a pass by batch size, under CowClip, and the figure of the gain."""
    rows = []
    for network in grid.networks:
        seconds = [grid.values(found, "seconds", network, "cowclip", times) for times in grid.times]
        speed = [grid.values(found, "rows_per_s", network, "cowclip", times).mean() for times in grid.times]
        rows.append((network, *(f"{each.mean():.1f} s, {rate / 1e3:.0f} k" for each, rate in
                                zip(seconds, speed, strict=True))))  # fmt: skip
        record.add(f"time_vs_base_batch/{network}", mean_over_seeds(seconds[-1] / seconds[0]),
                   unit="of the time at 1x", goal=TIME)  # fmt: skip
    record.tables.append(ClaimTable(
        f"Processor time of one pass on {grid.task} with CowClip, and rows a second: {', '.join(grid.networks)}",
        ("network", *(f"{times}x" for times in grid.times)), tuple(rows), (
            "One core, with the making of batches.",),
    ))  # fmt: skip


def drops(
    record: ClaimRecord, grid: Grid, found: Mapping[Cell, Measured], *, most: Goal | None = None,
    linear: Goal | None = None,
) -> None:  # fmt: skip
    """Add how much AUC is lost at the largest batch, by CowClip and by linear scaling.

    The loss is against whichever is better at the base batch: the baseline or CowClip.

    Args:
        record: Gets the figures.
        grid: What was measured.
        found: Its cells.
        most: Goal of CowClip's loss.
        linear: Goal of linear scaling's.
    """
    last = grid.times[-1]
    for network in grid.networks:
        own = grid.values(found, "auc", network, "cowclip", 1)
        plain = grid.values(found, "auc", network, "none", 1)
        best = own if own.mean() > plain.mean() else plain
        large = grid.values(found, "auc", network, "cowclip", last)
        record.add(f"auc_drop_at_{last}x/{network}/{grid.task}", mean_over_seeds(best - large), unit="AUC",
                   goal=most)  # fmt: skip
        record.add(f"auc_drop_at_{last}x_from_own_1x/{network}/{grid.task}", mean_over_seeds(own - large), unit="AUC",
                   goal=most)  # fmt: skip
        for rule in grid.rules:
            if rule != "cowclip":
                lost = best - grid.values(found, "auc", network, rule, last)
                goal = linear if rule == "linear" else None
                record.add(f"auc_drop_at_{last}x_{rule}/{network}/{grid.task}", mean_over_seeds(lost), unit="AUC",
                           goal=goal)  # fmt: skip


def rates_table(
    record: ClaimRecord, task: Task, network: str, rules: Iterable[Rule], times: Iterable[int]
) -> None:  # fmt: skip
    """Add what each rule makes of the base rates of a network."""
    rows = []
    for rule in rules:
        for each in times:
            rates = scale(rule, task.rates(network, rule), task.batch_rows, task.batch_rows * each)
            rows.append((f"{_word(rule)}, {each}x", str(task.batch_rows * each), f"{rates.dense_lr:.3g}",
                         f"{rates.row_lr:.3g}", f"{rates.l2:.3g}", f"{rates.init_std:g}"))  # fmt: skip
    columns = ("rule", "batch", "dense rate", "row rate", "L2", "first rows")
    others = [f"{name}: row rate {plain:g}, with CowClip {own:g}." for name, (plain, own) in task.row_rates.items()]
    record.tables.append(ClaimTable(f"Rates of {network} on {task.name}", columns, tuple(rows), (
        "CowClip's dense rate warms up over the first tenth of the steps.", *others)))  # fmt: skip


def search_table(record: ClaimRecord, task: Task, found: Mapping[Cell, Measured]) -> None:
    """Add the search of the base rates."""
    rows = tuple((_word(cell.rule), f"{cell.row_lr:g}", f"{cell.dense_lr:g}", f"{100 * measured['auc']:.3f}")
                 for cell, measured in found.items())  # fmt: skip
    record.tables.append(ClaimTable(
        f"Search of the base rates at 1x ({task.train:,} rows)", ("rule", "row rate", "dense rate", "AUC %"), rows,
        ("DeepFM, one seed. The same grid for both; the rates taken are in the table above.",),
    ))  # fmt: skip


def clip_table(record: ClaimRecord, title: str, found: Mapping[Cell, Measured], names: Mapping[Clip, str]) -> None:
    """Add the ablation of the clip's granularity: every bound that was tried."""
    rows = []
    for clip, word in names.items():
        bounds = dict.fromkeys(cell.bound for cell in found if cell.clip == clip)
        for bound in bounds:
            same = [measured for cell, measured in found.items() if cell.clip == clip and cell.bound == bound]
            clipped = np.mean([each["clipped"] for each in same])
            rows.append((word, "" if clip == "off" else f"{bound:g}", _percent(np.array([e["auc"] for e in same])),
                         "" if clip in ("off", "global", "field") else f"{100 * clipped:.2g}",
                         f"{np.mean([each['best_epoch'] for each in same]):.1f}"))  # fmt: skip
    record.tables.append(ClaimTable(title, ("clip", "bound", "AUC %", "rows clipped, %", "best epoch"), tuple(rows), (
        "CowClip's rule in all. Bound: largest norm; for CowClip the ratio (published: 1).",)))  # fmt: skip


def _percent(values: Floats) -> str:
    spread = f" ± {100 * values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.3f}{spread}"


def _word(rule: Rule, clip: Clip = "auto") -> str:
    return WORDS["cowclip off" if clip == "off" else rule]
