"""From answers of cells to rows of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctr_contenders.cases import Plan
from ctr_contenders.cell import LABEL
from ctr_contenders.runs import Run
from headrace.evaluate import ClaimTable

Answer = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A family on a data set: what both sides answered, seed by seed.

    Attributes:
        family, data: Which.
        ours, zoo: Answers in the order of the seeds; only seeds that both sides have.
        examples: Training examples of one epoch.
        failed: Whether a cell has no answer.
    """

    family: str
    data: str
    ours: tuple[Answer, ...]
    zoo: tuple[Answer, ...]
    examples: int
    failed: bool

    @property
    def whole(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.ours) and not self.failed

    def values(self, side: str, what: str) -> list[float]:
        """Return a number per seed: `best`, `one_pass`, `log_loss` (at the best), `rate`, `speedup`."""
        answers = self.ours if side == "ours" else self.zoo
        if what == "one_pass":
            return [answer["test"][0] for answer in answers]
        if what == "rate":
            return [self.examples * len(answer["test"]) / answer["fit_s"] for answer in answers]
        if what == "speedup":
            return [zoo["fit_s"] / ours["fit_s"] for ours, zoo in zip(self.ours, self.zoo, strict=True)]
        name = "test_log_loss" if what == "log_loss" else "test"
        return [answer[name][int(np.argmax(answer["valid"]))] for answer in answers]

    def gaps(self, what: str) -> list[float]:
        """Return ours minus FuxiCTR's, per seed."""
        pairs = zip(self.values("ours", what), self.values("zoo", what), strict=True)
        return [ours - zoo for ours, zoo in pairs]

    @property
    def spread(self) -> float:
        """The largest difference between two seeds of one side."""
        return max(float(np.ptp(self.values(side, "best"))) for side in ("ours", "zoo"))


def compare(answered: Sequence[tuple[Run, Answer | None]], plan: Plan, folders: Mapping[str, str]) -> list[Comparison]:
    """Return one comparison per data set and family."""
    by_cell = {(run.contender, run.cell.model, run.cell.data, run.cell.seed): answer for run, answer in answered}
    found = []
    for data, folder in folders.items():
        with np.load(Path(folder) / "train.npz") as columns:
            examples = len(columns[LABEL])
        for family in plan.families:
            sides = [[by_cell[side, family, folder, seed] for seed in plan.seeds] for side in ("ours", "zoo")]
            both = [pair for pair in zip(*sides, strict=True) if None not in pair]
            ours, zoo = tuple(pair[0] for pair in both), tuple(pair[1] for pair in both)
            found.append(Comparison(family, data, ours, zoo, examples, len(both) < len(plan.seeds)))  # type: ignore[arg-type]
    return found


def tables(found: Sequence[Comparison], folders: Mapping[str, str]) -> list[ClaimTable]:
    """Return one table per data set: test AUC of both sides at the best validation and after one pass, and costs."""
    columns = ("family", "FuxiCTR best", "ours best", "gap", "spread", "FuxiCTR one pass", "ours one pass",
               "examples/s", "vs FuxiCTR")  # fmt: skip
    made = []
    for data in folders:
        rows = []
        for one in found:
            if one.data == data and one.ours:
                rows.append(row(one))
        made.append(ClaimTable(f"{data}: test AUC", columns, tuple(rows)))
    return made


def row(one: Comparison) -> tuple[str, ...]:
    """Return a family's row."""
    best, single = (
        [f"{np.mean(one.values(side, what)):.4f}" for side in ("zoo", "ours")] for what in ("best", "one_pass")
    )
    return (
        one.family, *best, f"{np.mean(one.gaps('best')):+.4f}", f"{one.spread:.4f}", *single,
        f"{np.mean(one.values('ours', 'rate')):,.0f}", f"{np.mean(one.values('ours', 'speedup')):.2f}x",
    )  # fmt: skip
