"""What judging says: figures with intervals, slices, differences; as tables for people and JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.evaluate.claims import ClaimTable, render_tables
from headrace.evaluate.intervals import Interval
from headrace.types import Figure, Report

NAMES = {
    "auc": "AUC", "gauc": "GAUC", "average_precision": "average precision (PR-AUC)", "log_loss": "log-loss",
    "ne": "normalised entropy", "rig": "relative information gain", "calibration": "calibration (expected / observed)",
    "ece": "calibration error, equal width", "ece_mass": "calibration error, equal mass", "ndcg": "NDCG",
    "hit_rate": "hit rate", "recall": "recall", "mrr": "MRR", "map": "MAP",
}  # fmt: skip
LOWER_IS_BETTER = frozenset({"log_loss", "ne"})
NO_DIRECTION = frozenset({"calibration"})


def title(name: str) -> str:
    """Return a metric's name for people.

    Example:
        >>> title("ndcg@10"), title("ne")
        ('NDCG@10', 'normalised entropy')
    """
    known, at, k = name.partition("@")
    return NAMES.get(known, known) + at + k


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One category of a column: how many rows, and the main numbers of them alone."""

    name: str
    rows: int
    mean_label: float
    mean_prediction: float
    auc: Interval
    ne: Interval
    calibration: Interval

    def to_json(self) -> dict[str, object]:
        """Return plain values; what does not exist is None."""
        figures = {name: _plain(getattr(self, name)) for name in ("auc", "ne", "calibration")}
        return {"name": self.name, "rows": self.rows, "mean_label": self.mean_label,
                "mean_prediction": self.mean_prediction, **figures}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model judged on one set of rows.

    Attributes:
        figures: Metric to value, interval and standard error.
        rows: How many rows.
        positives: How many of them are positive.
        groups: How many groups; None without.
        slices: Column to its categories.
        confidence: Of the intervals.
        notes: What was left out or approximated.
    """

    figures: dict[str, Interval]
    rows: int
    positives: int
    groups: int | None = None
    slices: dict[str, tuple[Slice, ...]] = field(default_factory=dict)
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Interval:
        return self.figures[name]

    def table(self) -> str:
        """Return the figures, and one table per slice column, as aligned text."""
        groups = "" if self.groups is None else f", {self.groups:,} groups"
        head = f"{self.rows:,} rows, {self.positives:,} positives{groups}"
        rows = tuple((title(name), _number(found.value), _range(found)) for name, found in self.figures.items())
        tables = [ClaimTable(head, ("metric", "value", f"{self.confidence:.0%} interval"), rows, self.notes)]
        for column, parts in self.slices.items():
            cells = tuple(
                (part.name, f"{part.rows:,}", _number(part.mean_label), _number(part.mean_prediction),
                 _number(part.auc.value), _range(part.auc), _number(part.ne.value), _number(part.calibration.value),
                 _range(part.calibration))
                for part in parts
            )  # fmt: skip
            columns = ("value", "rows", "labels", "predicted", "AUC", "interval", "NE", "calibration", "interval")
            tables.append(ClaimTable(f"by {column}", columns, cells))
        return _render(tables)

    def to_json(self) -> dict[str, object]:
        """Return plain values; what does not exist is None."""
        return {
            "rows": self.rows, "positives": self.positives, "groups": self.groups, "confidence": self.confidence,
            "figures": {name: _plain(found) for name, found in self.figures.items()},
            "slices": {name: [part.to_json() for part in parts] for name, parts in self.slices.items()},
            "notes": list(self.notes),
        }  # fmt: skip

    def add_to(self, report: Report, *, source: str = "evaluate") -> None:
        """Write the figures with their intervals, and the notes, into a report."""
        for name, found in self.figures.items():
            low, high = (None if math.isnan(end) else end for end in (found.low, found.high))
            report.figures[name] = Figure(found.value, low, high, source=source)
        for column, parts in self.slices.items():
            for part in parts:
                for name in ("auc", "ne", "calibration"):
                    found = getattr(part, name)
                    low, high = (None if math.isnan(end) else end for end in (found.low, found.high))
                    report.figures[f"slice/{column}={part.name}/{name}"] = Figure(found.value, low, high, source=source)
        report.notes.extend(self.notes)


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of A and of B, A - B with its interval and standard error, and the two-sided p of no difference."""

    first: float
    second: float
    value: float
    low: float
    high: float
    error: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A against B on the same rows.

    Attributes:
        figures: Metric to difference.
        rows: How many rows.
        groups: How many groups; None without.
        confidence: Of the intervals, and 1 - the p below which `verdict` decides.
        method: How intervals and p-values were found.
    """

    figures: dict[str, Difference]
    rows: int
    groups: int | None = None
    confidence: float = 0.95
    method: str = "analytic"

    def __getitem__(self, name: str) -> Difference:
        return self.figures[name]

    def verdict(self, name: str) -> str:
        """Return `A is better`, `B is better`, `A and B differ` or `no difference seen` for one metric."""
        found, known = self.figures[name], name.partition("@")[0]
        if not found.p < 1 - self.confidence:
            return "no difference seen"
        if known in NO_DIRECTION:
            return "A and B differ"
        return "A is better" if (found.value > 0) != (known in LOWER_IS_BETTER) else "B is better"

    def table(self) -> str:
        """Return the differences as aligned text."""
        groups = "" if self.groups is None else f", {self.groups:,} groups"
        cells = tuple(
            (title(name), _number(found.first), _number(found.second), f"{found.value:+.5f}",
             f"{found.low:+.5f} to {found.high:+.5f}", _probability(found.p), self.verdict(name))
            for name, found in self.figures.items()
        )  # fmt: skip
        columns = ("metric", "A", "B", "A - B", f"{self.confidence:.0%} interval", "p", "verdict")
        note = "p-values are of each metric alone; with many metrics one falls below 0.05 by chance"
        return _render([ClaimTable(f"A against B: {self.rows:,} rows{groups}, paired", columns, cells, (note,))])

    def to_json(self) -> dict[str, object]:
        """Return plain values; what does not exist is None."""
        return {
            "rows": self.rows, "groups": self.groups, "confidence": self.confidence, "method": self.method,
            "figures": {
                name: {part: _finite(getattr(found, part)) for part in Difference.__slots__}
                | {"verdict": self.verdict(name)}
                for name, found in self.figures.items()
            },
        }  # fmt: skip


def _render(tables: list[ClaimTable]) -> str:
    rendered: list[Mapping[str, object]] = [
        {"title": table.title, "columns": table.columns, "rows": table.rows, "notes": table.notes} for table in tables
    ]
    return render_tables({"tables": rendered})


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.5f}"


def _range(found: Interval) -> str:
    return "–" if math.isnan(found.low) else f"{found.low:.5f} to {found.high:.5f}"


def _probability(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(found: Interval) -> dict[str, float | None]:
    return {name: _finite(getattr(found, name)) for name in Interval._fields}
