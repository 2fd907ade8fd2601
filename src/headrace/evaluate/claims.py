"""What a paper's claim measured: figures with intervals and goals, tables for people, one JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headrace.config import git_commit, machine_kind, require
from headrace.errors import DataError
from headrace.evaluate.page import Plot, plain_plot

CONFIDENCE = 0.95
"""Of every interval in a claim's result."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure's value has to reach for the claim to hold.

    Example:
        >>> Goal(">=", 0.0).holds(0.1), Goal("<=", 0.0).holds(0.1)
        (True, False)
    """

    op: Literal[">=", "<="]
    bound: float

    def holds(self, value: float) -> bool:
        """Return whether the value reaches the bound."""
        return value >= self.bound if self.op == ">=" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        value: The mean.
        low, high: Its 95 % interval; None when one value was all there was.
        spread: Standard deviation of what was averaged; 0 for one value.
        error: Standard error of the mean; 0 for one value.
        count: How many values were averaged.
    """

    value: float
    low: float | None
    high: float | None
    spread: float
    error: float
    count: int

    @property
    def errors_above_zero(self) -> float:
        """The mean in standard errors; infinite when a mean that is not zero has no error."""
        if self.error > 0:
            return self.value / self.error
        return math.copysign(math.inf, self.value) if self.value else 0.0

    def text(self, digits: int = 4) -> str:
        """Return `value ± half the interval` for a table."""
        middle = f"{self.value:+.{digits}f}"
        return middle if self.high is None else f"{middle} ± {self.high - self.value:.{digits}f}"


def mean_over_seeds(values: Sequence[float] | Floats) -> Estimate:
    """Return the mean of independent values, one per seed, with a Student interval.

    Raises:
        DataError: If there is no value, or one is not finite.

    Example:
        >>> print(mean_over_seeds([0.1, 0.2, 0.3]).text(2))
        +0.20 ± 0.25
    """
    data = _finite(values)
    require(data.ndim == 1, "mean_over_seeds, values", got=data.shape, expected="one value per seed")
    if len(data) == 1:
        return Estimate(float(data[0]), None, None, 0.0, 0.0, 1)
    spread = float(data.std(ddof=1))
    return _estimate(float(data.mean()), spread, spread / math.sqrt(len(data)), len(data) - 1, len(data))


def mean_over_blocks(differences: Sequence[Sequence[float]] | Floats) -> Estimate:
    """Return the mean of paired differences over seed × shard blocks.

    All seeds see the same shards, so blocks of one shard are not independent of each other. The squared
    standard error is therefore that of the shard means plus that of the seed means (an upper bound of the
    two-way error), not spread²/blocks; the interval has Satterthwaite's degrees of freedom. `spread` is over
    all blocks, as they are.

    Shapes:
        differences (seeds, shards).

    Raises:
        DataError: If a difference is not finite.
        ConfigError: If there are fewer than two seeds or two shards.
    """
    data = _finite(differences)
    require(data.ndim == 2 and min(data.shape) >= 2, "mean_over_blocks, differences", got=data.shape,
            expected="at least two seeds and two shards")  # fmt: skip
    seeds, shards = data.shape
    by_shard = float(data.mean(axis=0).var(ddof=1)) / shards
    by_seed = float(data.mean(axis=1).var(ddof=1)) / seeds
    total = by_shard + by_seed
    freedom = shards + seeds - 2
    if total > 0:
        freedom = max(1, int(total**2 / (by_shard**2 / (shards - 1) + by_seed**2 / (seeds - 1))))
    return _estimate(float(data.mean()), float(data.std(ddof=1)), math.sqrt(total), freedom, data.size)


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return t such that a Student variable of integer degrees of freedom lies in ±t with this probability.

    Source:
        Abramowitz and Stegun 1964, 26.7.3 and 26.7.4 (finite sums, exact), inverted by bisection.

    Example:
        >>> [round(student_t(freedom), 3) for freedom in (1, 2, 4, 30)]
        [12.706, 4.303, 2.776, 2.042]
    """
    require(freedom >= 1, "student_t, freedom", got=freedom, expected="a positive integer")
    require(0 < confidence < 1, "student_t, confidence", got=confidence, expected="a probability in (0, 1)")
    low, high = 0.0, 1.0
    while coverage(high, freedom) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if coverage(middle, freedom) < confidence else (low, middle)
    return high


def coverage(t: float, freedom: int) -> float:
    """Return how likely a Student variable lies within ±t.

    Example:
        >>> round(coverage(12.7062, 1), 4)
        0.95
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for step in range(1, (freedom - odd) // 2 + 1):
        total += term
        term *= square * ((2 * step) / (2 * step + 1) if odd else (2 * step - 1) / (2 * step))
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def _estimate(mean: float, spread: float, error: float, freedom: int, count: int) -> Estimate:
    half = student_t(freedom) * error
    return Estimate(mean, mean - half, mean + half, spread, error, count)


def _finite(values: Sequence[float] | Sequence[Sequence[float]] | Floats) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    if not data.size or not np.isfinite(data).all():
        bad = "no value" if not data.size else f"{int((~np.isfinite(data)).sum())} values that are not finite"
        raise DataError("A claim's measurements", got=bad, expected="finite numbers",
                        do="An AUC is not a number where a block has only one class; use larger blocks.")  # fmt: skip
    return data


@dataclass(frozen=True, slots=True)
class ClaimTable:
    """One table of a claim: cells are text already, so that what is printed is what is recorded."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            require(len(row) == len(self.columns), f"Table '{self.title}'", got=f"a row of {len(row)} cells",
                    expected=f"{len(self.columns)} cells, one per column")  # fmt: skip


@dataclass(slots=True)
class ClaimRecord:
    """Collects what a claim measures: figures, tables for people, and plots for the paper's page.

    Example:
        >>> record = ClaimRecord()
        >>> record.add("gain/toy", mean_over_seeds([0.1, 0.2]), unit="AUC", goal=Goal(">=", 0))
        >>> record.to_json({"size": "toy"})["figures"]["gain/toy"]["holds"]
        True
    """

    figures: dict[str, dict[str, object]] = field(default_factory=dict)
    tables: list[ClaimTable] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)

    def add(self, name: str, estimate: Estimate, *, unit: str, goal: Goal | None = None) -> None:
        """Record one figure; without a goal it is for information, or a claim recorded as not reproduced."""
        require(name not in self.figures, "Figure", got=name, expected="a name that is not taken")
        self.figures[name] = {
            "value": estimate.value, "low": estimate.low, "high": estimate.high, "unit": unit,
            "goal": None if goal is None else {"op": goal.op, "bound": goal.bound},
            "holds": None if goal is None else goal.holds(estimate.value), "spread": estimate.spread,
        }  # fmt: skip

    def to_json(self, settings: Mapping[str, object]) -> dict[str, object]:
        """Return the result object of DESIGN §7, with commit, machine kind, the tables and, if there are any, plots."""
        tables = [
            {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows],
             "notes": list(table.notes)}
            for table in self.tables
        ]  # fmt: skip
        drawn = {"plots": [plain_plot(plot) for plot in self.plots]} if self.plots else {}
        return {"figures": dict(self.figures), "commit": git_commit(), "machine": machine_kind(),
                "settings": dict(settings), "tables": tables, **drawn}  # fmt: skip


def render_tables(result: Mapping[str, object]) -> str:
    """Return the tables of a result object as aligned text, each with its title above and its notes below.

    Raises:
        DataError: If the result has no tables.
    """
    tables = result.get("tables")
    if not isinstance(tables, list) or not tables:
        raise DataError("Result", got="no tables", expected="what `ClaimRecord.to_json` returned")
    return "\n\n".join(_text(table) for table in tables)


def _text(table: Mapping[str, Any]) -> str:
    lines: list[list[str]] = [list(table["columns"]), *(list(row) for row in table["rows"])]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    # names to the left, numbers to the right
    texts = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip
    rule = "-" * max(len(text) for text in texts)
    return "\n".join([str(table["title"]), rule, texts[0], rule, *texts[1:], *(str(note) for note in table["notes"])])
