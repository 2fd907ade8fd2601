"""What is recorded: medians of rounds with intervals and goals, and reasons for what could not be measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.evaluate.claims import ClaimRecord, ClaimTable, Estimate, Goal


class Figures:
    """Collects figures, tables and notes."""

    def __init__(self) -> None:
        self._record = ClaimRecord()
        self.notes: list[str] = []

    @property
    def tables(self) -> list[ClaimTable]:
        """The tables, in order."""
        return self._record.tables

    def add(self, name: str, values: Sequence[float], *, unit: str = "ratio", goal: Goal | None = None) -> None:
        """Record the median of rounds."""
        self._record.add(name, median(values), unit=unit, goal=goal)

    def missing(self, name: str, why: str, *, unit: str = "ratio", goal: Goal | None = None) -> None:
        """Record that there is no value; a goal that was not measured neither holds nor is missed."""
        self._record.figures[name] = {
            "value": None, "low": None, "high": None, "unit": unit, "holds": None, "spread": None,
            "goal": None if goal is None else {"op": goal.op, "bound": goal.bound},
        }  # fmt: skip
        self.notes.append(f"{name}: {why}.")

    def result(self, settings: Mapping[str, object]) -> dict[str, Any]:
        """Return the result object; notes are part of its settings."""
        return self._record.to_json({**settings, "notes": self.notes})


def median(values: Sequence[float]) -> Estimate:
    """Return the median of the rounds with its 95 % interval by order statistics.

    The interval needs no law of the noise: the law's median lies below the k-th smallest of n values with the
    probability that fewer than k of n fair coins show heads. Below six rounds the whole range is given, which covers
    less than 95 %.

    Example:
        >>> estimate = median([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 9.0, 8.0, 7.0])
        >>> estimate.low, estimate.value, estimate.high
        (2.0, 5.0, 8.0)
    """
    ordered, count = sorted(values), len(values)
    place = 0
    while sum(math.comb(count, heads) for heads in range(place + 2)) * 2 <= 0.05 * 2**count:
        place += 1
    spread = statistics.stdev(ordered) if count > 1 else 0.0
    low, high = (None, None) if count == 1 else (ordered[place], ordered[count - 1 - place])
    return Estimate(statistics.median(ordered), low, high, spread, spread / math.sqrt(count), count)
