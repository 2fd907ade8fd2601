"""What a fault cost: how long no step was committed, and how many steps were taken again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What is done to a process.

    Attributes:
        kind: `kill` or `freeze`.
        role: To whom: `worker`, `server` or `head`.
        after_steps: Steps of all workers together before it.
        steps_after: Steps after it that are looked at.
    """

    kind: str
    role: str = "worker"
    after_steps: int = 20
    steps_after: int = 20


@dataclass(frozen=True, slots=True)
class Stall:
    """What came of it: the longest time without a committed step, steps taken again, and when it happened."""

    seconds: float
    redone: int
    struck: float


def longest_gap(times: Sequence[Sequence[float]], struck: float) -> float:
    """Return the longest time between two steps in a row of one survivor that ended after the blow; the longest of all.

    Example:
        >>> longest_gap([[1.0, 1.1, 1.2, 2.0, 2.1], [1.0, 1.1, 1.2, 1.9, 2.0]], struck=1.15)
        0.8
    """
    gaps = [
        later - sooner
        for one in times
        for sooner, later in pairwise(one)
        if later > struck
    ]  # fmt: skip
    return max(gaps, default=float("nan"))
