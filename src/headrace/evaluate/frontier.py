"""What a policy gains for how far it goes: gold over distance from the reference, and comparisons at equal distance.

A run without any price of distance goes further in the same number of steps, so its gold at equal steps says little.
Here runs are compared where they have gone equally far, or where they have reached the same gold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.config import require

Floats = npt.NDArray[np.float64]
SMOOTHED = 3
"""Neighbouring points that are averaged before anything is read off: a rollout's gold is a noisy mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """Gold over distance, as a run went along it.

    Attributes:
        distances: KL from the reference at each point, in nats; in order of the run.
        golds: What the judge said of the completions there.

    Raises:
        ConfigError: If there is no point, lengths differ, or a number is not finite.

    Example:
        >>> run = Frontier.of([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 1.0, 0.0], smoothed=1)
        >>> run.gold_at(1.5), run.distance_at(1.5), run.peak
        (1.5, 1.5, 2.0)
    """

    distances: Floats
    golds: Floats

    @staticmethod
    def of(distances: Sequence[float], golds: Sequence[float], smoothed: int = SMOOTHED) -> Frontier:
        """Return the frontier of a run, each point a mean of as many neighbours (fewer at the ends)."""
        pair = [np.asarray(values, dtype=np.float64) for values in (distances, golds)]
        require(len(pair[0]) == len(pair[1]) > 0, "Frontier", got=(len(pair[0]), len(pair[1])),
                expected="as many distances as golds, at least one")  # fmt: skip
        require(all(bool(np.isfinite(values).all()) for values in pair), "Frontier", got="a number that is not finite",
                expected="finite numbers")  # fmt: skip
        require(smoothed >= 1, "Frontier, smoothed", got=smoothed, expected="1 or more")
        return Frontier(*(_means(values, smoothed) for values in pair))

    @property
    def peak(self) -> float:
        """The most gold."""
        return float(self.golds.max())

    @property
    def last(self) -> float:
        """Gold at the end of the run."""
        return float(self.golds[-1])

    def gold_at(self, distance: float) -> float:
        """Return the gold when the run first had gone so far; NaN if it never did.

        Distances before the first point have the first point's gold only if they equal it.
        """
        return _crossing(self.distances, self.golds, distance)

    def distance_at(self, gold: float) -> float:
        """Return how far the run had gone when it first reached this gold; NaN if it never did."""
        return _crossing(self.golds, self.distances, gold)


def at_matched_distance(one: Frontier, other: Frontier) -> tuple[float, float, float]:
    """Return the largest distance that both have gone, and the gold of each there.

    The largest distance of the one that went less far, so that both are judged as late as can be.
    """
    distance = min(float(one.distances.max()), float(other.distances.max()))
    return distance, one.gold_at(distance), other.gold_at(distance)


def _means(values: Floats, smoothed: int) -> Floats:
    """Return running means around each point, with whole windows cut at the ends."""
    before, after = (smoothed - 1) // 2, smoothed // 2
    parts = [values[max(at - before, 0) : at + after + 1].mean() for at in range(len(values))]
    return np.asarray(parts)


def _crossing(along: Floats, wanted: Floats, level: float) -> float:
    """Return `wanted` where `along` first reaches a level, between the two points around it."""
    reached = np.flatnonzero(along >= level)
    if not len(reached):
        return math.nan
    at = int(reached[0])
    if at == 0 or along[at] == level:
        return float(wanted[at])
    share = (level - along[at - 1]) / (along[at] - along[at - 1])
    return float(wanted[at - 1] + share * (wanted[at] - wanted[at - 1]))
