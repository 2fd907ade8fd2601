"""AntDT-DD: devices of known, different speed in a cluster of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.config import require
from headrace.runtime.actions import AdjustBatch, Decision, Nothing
from headrace.runtime.balance import DeviceClass, plan_devices
from headrace.runtime.monitor import View
from headrace.runtime.solutions import rounded


@dataclass(frozen=True, kw_only=True)
class AntDtDd:
    """Rows and accumulation counts that let unequal devices end a step together; solved once for each membership.

    Speeds are measured in the first steps. Devices whose speeds differ by less than `alike` are one kind, unless
    `kinds` says which worker has which.

    Attributes:
        probe: Samples of every worker before it is solved.
        alike: Devices whose seconds by row differ by less than this share are of one kind.
        kinds: Kind of device by worker; empty: found by speed.
        rows_min: Rows of a micro-batch below which a device is not busy.
        rows_max: Rows of a micro-batch that a device's memory takes.
        step_s: Seconds of a micro-batch of any size.
        accumulation_max: Micro-batches of a step at most.

    Source:
        AntDT (arXiv 2404.09679), AntDT-DD, from our notes; solver and integer split are ours.
    """

    probe: int = 3
    alike: float = 0.15
    kinds: Mapping[str, str] = field(default_factory=dict)
    rows_min: int = 1
    rows_max: int = 1 << 30
    step_s: float = 0.0
    accumulation_max: int = 4

    def __post_init__(self) -> None:
        require(self.probe >= 1, "AntDtDd: probe", got=self.probe, expected="at least 1 sample")
        require(0 < self.alike < 1, "AntDtDd: alike", got=self.alike, expected="a share between 0 and 1")
        require(1 <= self.rows_min <= self.rows_max, "AntDtDd: rows_min, rows_max",
                got=(self.rows_min, self.rows_max), expected="1 <= rows_min <= rows_max")  # fmt: skip

    def decide(self, view: View) -> Sequence[Decision]:
        """Return the plan of the devices, once it can be made and is another than the one in force."""
        workers = view.workers
        if not len(workers.names) or view.solved_for == frozenset(workers.names):
            return (Decision(Nothing("solved"), "the plan for these devices is in force"),)
        if int(workers.samples.min()) < self.probe:
            return (Decision(Nothing("probing"), f"{int(workers.samples.min())} of {self.probe} samples"),)
        groups = self._groups(workers.names, workers.row_s)
        row_s = dict(zip(workers.names, workers.row_s, strict=True))
        classes = [
            DeviceClass(count=len(group), row_s=self._row_s([row_s[name] for name in group], view),
                        step_s=self.step_s, rows_min=self.rows_min, rows_max=self.rows_max)
            for group in groups
        ]  # fmt: skip
        plan = plan_devices(classes, view.batch, accumulation_max=self.accumulation_max)
        sizes = {name: rows for group, own in zip(groups, plan.rows, strict=True)
                 for name, rows in zip(group, own, strict=True)}  # fmt: skip
        counts = {name: count for group, count in zip(groups, plan.accumulation, strict=True) for name in group}
        numbers = {"devices": [len(group) for group in groups], "row_s": rounded([kind.row_s for kind in classes]),
                   "step_s": round(plan.seconds, 5), "accumulation": list(plan.accumulation)}  # fmt: skip
        return (Decision(AdjustBatch({name: sizes[name] for name in workers.names}, counts),
                         f"{len(groups)} kinds of devices: all end after {plan.seconds:.3f} s", numbers),)  # fmt: skip

    def _row_s(self, seconds: Sequence[float], view: View) -> float:
        """Return a kind's seconds by row without the part of a micro-batch of any size."""
        rows = max(view.batch // max(len(view.workers.names), 1), 1)
        return max(float(np.mean(seconds)) - self.step_s / rows, 1e-9)

    def _groups(
        self, names: Sequence[str], row_s: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    ) -> list[list[str]]:
        if self.kinds:
            kinds = sorted({self.kinds.get(name, name) for name in names})
            return [[name for name in names if self.kinds.get(name, name) == kind] for kind in kinds]
        groups: list[list[str]] = []
        first = 0.0
        for place in np.argsort(row_s, kind="stable"):
            if not groups or row_s[place] > first * (1 + self.alike):
                groups.append([])
                first = float(row_s[place])
            groups[-1].append(names[place])
        return groups
