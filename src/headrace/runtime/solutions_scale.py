"""How many workers a stream needs, decided from how far they are behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.config import require
from headrace.runtime.actions import Add, Decision, Nothing, Remove
from headrace.runtime.monitor import View


@dataclass(frozen=True, kw_only=True)
class LagScaling:
    """Add workers while the rows that wait would take longer than wanted, remove them when far fewer would do.

    The rate at which rows come is what was learned plus what the lag has grown by. Workers are added for that rate and
    for working off the lag within `target_s`; one is removed when the others could do both with `spare` to spare.
    Nothing is decided while an earlier change is under way, or before the window is full.

    Attributes:
        target_s: Seconds of lag that are well.
        workers_min, workers_max: Bounds on the number of workers.
        window: Notes of the lag that it is decided from.
        spare: Share of their speed that the workers that stay must have left.
        most: Workers that are added at once.
    """

    target_s: float = 10.0
    workers_min: int = 1
    workers_max: int = 64
    window: int = 6
    spare: float = 0.3
    most: int = 4

    def __post_init__(self) -> None:
        require(self.target_s > 0, "LagScaling: target_s", got=self.target_s, expected="seconds above 0")
        require(1 <= self.workers_min <= self.workers_max, "LagScaling: workers_min, workers_max",
                got=(self.workers_min, self.workers_max), expected="1 <= workers_min <= workers_max")  # fmt: skip
        require(self.window >= 2 and self.most >= 1, "LagScaling: window, most", got=(self.window, self.most),
                expected="at least 2 notes and 1 worker")  # fmt: skip
        require(0 <= self.spare < 1, "LagScaling: spare", got=self.spare, expected="a share below 1")

    def decide(self, view: View) -> Sequence[Decision]:
        """Return how many workers come or go."""
        count, notes = len(view.workers.names), view.lag[-self.window :]
        if "workers" in view.moving:
            return (Decision(Nothing("workers are coming or going"), "wait for the change under way"),)
        if count < self.workers_min:
            return (Decision(Add(self.workers_min - count), "fewer workers than the least", {"workers": count}),)
        seconds = notes[-1][0] - notes[0][0] if len(notes) == self.window else 0.0
        if seconds <= 0 or not view.workers.known().any():
            return (Decision(Nothing("too little is known"), f"{len(notes)} of {self.window} notes of the lag"),)
        waiting, speeds = notes[-1][1], view.workers.speeds()
        growth = (waiting - notes[0][1]) / seconds
        comes = max((notes[-1][2] - notes[0][2]) / seconds + growth, 0.0)
        wanted = comes + waiting / self.target_s
        numbers = {"waiting": waiting, "growth_per_s": round(growth, 3), "comes_per_s": round(comes, 3),
                   "wanted_per_s": round(wanted, 3), "speed_per_s": round(float(speeds.sum()), 3),
                   "workers": count}  # fmt: skip
        one = float(np.median(speeds))
        if wanted > speeds.sum() and waiting > comes * self.target_s and count < self.workers_max:
            more = int(np.ceil((wanted - speeds.sum()) / one))
            more = max(1, min(more, self.most, self.workers_max - count))
            return (
                Decision(Add(more), f"{waiting:,} rows wait, more than {self.target_s:g} s of the stream", numbers),
            )
        slowest = int(np.argmin(speeds))
        left = float(speeds.sum() - speeds[slowest])
        behind = waiting > comes * self.target_s / 2
        if count > self.workers_min and wanted < (1 - self.spare) * left and growth <= 0 and not behind:
            return (Decision(Remove((view.workers.names[slowest],)), "the others can do it alone", numbers),)
        return (Decision(Nothing("enough workers"), "the lag is within bounds", numbers),)
