"""A job of any size on a virtual clock, with pattern, overheads and faults; the controller is the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from headrace.config import known_name, require
from headrace.runtime.actions import Decision, Nothing
from headrace.runtime.monitor import MonitorConfig
from headrace.runtime.simulate_patterns import Pattern, no_stragglers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Overheads:
    """What a step and its accidents cost beside the work itself, in seconds; measured on small real runs.

    Attributes:
        step_s: Of a synchronous step of any number of workers.
        member_s: Of a synchronous step, for every worker.
        push_s: Of one push of a worker in asynchronous training.
        commit_s: Of a push at the head, where one comes after another.
        wait_s: From ordering a node until it takes part.
        stall_s: Nobody trains: a group is made again.
        detect_s: From a death until it is known.
        reload_s: To bring everything back to a manifest.
        move_s: Until moved buckets are where they shall be; nobody waits.
    """

    step_s: float = 0.0
    member_s: float = 0.0
    push_s: float = 0.0
    commit_s: float = 0.0
    wait_s: float = 5.0
    stall_s: float = 0.1
    detect_s: float = 0.05
    reload_s: float = 2.0
    move_s: float = 0.5

    def sync_s(self, workers: int) -> float:
        """Return the overhead of a synchronous step."""
        return self.step_s + self.member_s * workers

    @staticmethod
    def fitted(steps: Mapping[int, float], **rest: float) -> Overheads:
        """Return overheads from measured seconds of a step beyond its work, by number of workers (least squares).

        Example:
            >>> Overheads.fitted({2: 0.004, 4: 0.006}).sync_s(8)
            0.01
        """
        require(len(steps) >= 1, "Overheads: steps", got="none", expected="at least one measurement")
        count, seconds = np.array(list(steps), dtype=float), np.array(list(steps.values()), dtype=float)
        if len(steps) == 1:
            return Overheads(step_s=max(float(seconds[0]), 0.0), **rest)
        member, step = np.polyfit(count, seconds, 1)
        if member < 0 or step < 0:  # noise larger than the trend: no more is known than the mean
            member, step = 0.0, max(float(seconds.mean()), 0.0)
        return Overheads(step_s=round(float(step), 9), member_s=round(float(member), 9), **rest)


@dataclass(frozen=True, slots=True)
class SimulatedFault:
    """A node that dies at a moment: a `worker`, a `server` or the `head`."""

    at_s: float
    kind: Literal["worker", "server", "head"] = "worker"
    index: int = 0


@dataclass(frozen=True, kw_only=True)
class SimulatedJob:
    """A job that is simulated.

    Attributes:
        rows: Rows to learn.
        batch: Rows of a step, over all workers.
        workers, servers: How many there are.
        mode: `sync` or `async`.
        pattern: How long work takes, and who is slow.
        overheads: What everything else costs.
        noise: Relative spread of a worker's compute from batch to batch.
        ids_by_row: Ids that a row looks up, over all servers.
        ahead: Steps beyond the next one that are planned already.
        checkpoint_steps: Steps between manifests.
        faults: Who dies when.
        monitor: How the controller watches.
        seed: Of the noise.
    """

    rows: int
    batch: int
    workers: int = 4
    servers: int = 2
    mode: str = "sync"
    pattern: Pattern = field(default_factory=no_stragglers)
    overheads: Overheads = field(default_factory=Overheads)
    noise: float = 0.0
    ids_by_row: float = 1.0
    ahead: int = 0
    checkpoint_steps: int = 100
    faults: tuple[SimulatedFault, ...] = ()
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        known_name("SimulatedJob: mode", self.mode, ("sync", "async"))
        require(self.workers >= 1 and self.servers >= 1, "SimulatedJob: workers, servers",
                got=(self.workers, self.servers), expected="at least 1 of each")  # fmt: skip
        require(self.rows >= self.batch >= self.workers, "SimulatedJob: rows, batch", got=(self.rows, self.batch),
                expected="rows >= batch >= workers")  # fmt: skip
        require(self.noise >= 0 and self.checkpoint_steps >= 1 and self.ahead >= 0,
                "SimulatedJob: noise, checkpoint_steps, ahead", got=(self.noise, self.checkpoint_steps, self.ahead),
                expected="noise and ahead from 0, checkpoints every step or more")  # fmt: skip


@dataclass(slots=True)
class JobResult:
    """What came of a simulated job.

    Attributes:
        job_s: From the first step to the last commit.
        steps: Committed steps, or pushes in asynchronous training.
        step_s: How long each took.
        rows: Rows learned; exactly those of the job.
        computed_rows: Rows computed, those done again or thrown away included.
        decisions: What the controller did.
        redone: Steps that were done again after faults.
    """

    job_s: float = 0.0
    steps: int = 0
    step_s: list[float] = field(default_factory=list)
    rows: int = 0
    computed_rows: int = 0
    decisions: list[Decision] = field(default_factory=list)
    redone: int = 0

    def changes(self) -> int:
        """Return how often something was changed."""
        return sum(not isinstance(decision.action, Nothing) for decision in self.decisions)


def analytic_step_s(
    pattern: Pattern, sizes: Sequence[int], *, servers: int = 2, shares: Sequence[float] | None = None,
    ids_by_row: float = 1.0, progress: float = 0.0, generation: int = 0,
) -> float:  # fmt: skip
    """Return how long a synchronous step takes without any overhead: look-ups, compute, and waiting for the slowest.

    Servers are asked at the same time, so a look-up takes as long as the slowest of them.
    """
    parts = shares or [1.0 / servers] * servers
    look_up = max(pattern.server_s(place, 1, progress, generation) * part for place, part in enumerate(parts))
    return max(ids_by_row * rows * look_up + pattern.worker_s(place, rows, progress, generation)
               for place, rows in enumerate(sizes))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bound:
    """What a pattern leaves to gain at most.

    Attributes:
        bsp_s: Of equal parts, every step waiting for the slowest, without any overhead.
        best_s: With the right split (or another node in place of one that is slow for good) from the first instant,
            without any cost.
        how: By what.
    """

    bsp_s: float
    best_s: float
    how: str

    @property
    def speedup(self) -> float:
        """How many times faster than BSP nothing can be."""
        return self.bsp_s / self.best_s


def bound(
    pattern: Pattern, *, rows: int, batch: int, workers: int = 4, servers: int = 2, ids_by_row: float = 1.0,
    replace: bool = True, points: int = 300,
) -> Bound:  # fmt: skip
    """Return the analytic bound of a pattern: an all-knowing controller whose changes cost nothing.

    At every moment rows and buckets are split by the true speeds of workers and servers, and there is, if `replace`, a
    healthy node in place of each one that a restart would heal.

    Args:
        pattern: Who is slow, and when.
        rows: Rows of the job.
        batch: Rows of a step.
        workers: How many there are.
        servers: How many there are.
        ids_by_row: Ids that a row looks up.
        replace: Whether slow nodes may be replaced.
        points: Moments of the job that are looked at.
    """
    steps, bsp, best = rows / batch, 0.0, 0.0
    equal, even = batch / workers, 1.0 / servers
    for point in range(points):
        progress = (point + 0.5) / points
        own = [pattern.factor("worker", place, progress) for place in range(workers)]
        those = [pattern.factor("server", place, progress) for place in range(servers)]
        bsp += _level_s(pattern, equal, max(own), even * max(those) * ids_by_row)
        if replace:
            own = [pattern.factor("worker", place, progress, 1) for place in range(workers)]
            those = [pattern.factor("server", place, progress, 1) for place in range(servers)]
        look_up = pattern.server_row_s * ids_by_row / sum(1 / factor for factor in those)
        # rows r of a worker take r * (look-up + compute * factor): the best split gives all the same time
        speed = sum(1 / max(look_up + pattern.worker_row_s * factor, 1e-12) for factor in own)
        best += batch / speed + pattern.worker_step_s * min(own)
    healed = replace and any(each.heals for each in pattern.slow)
    how = "another node in its place" if healed else "rows split by speed" if pattern.slow else "nothing to gain"
    return Bound(bsp * steps / points, best * steps / points, how)


def _level_s(pattern: Pattern, rows: float, factor: float, look_up: float) -> float:
    return rows * pattern.server_row_s * look_up + (pattern.worker_step_s + pattern.worker_row_s * rows) * factor
