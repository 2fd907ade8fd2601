"""The virtual clock: steps of all workers, pushes of single ones, nodes that die and nodes that come."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np

from headrace.runtime.actions import Add, MoveBuckets, NodeAction, Plan, Remove, Restart
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.simulate_job import Floats, JobResult, SimulatedFault, SimulatedJob
from headrace.runtime.solutions import Solution


def simulate(job: SimulatedJob, solution: Solution) -> JobResult:
    """Run a job on a virtual clock under a solution; the controller is the one of real runs.

    Example:
        >>> from headrace.runtime.simulate_patterns import persistent_worker
        >>> from headrace.runtime.solutions import Static
        >>> pattern = persistent_worker(worker_row_s=0.001)
        >>> round(simulate(SimulatedJob(rows=4000, batch=400, pattern=pattern), Static()).job_s, 3)
        6.0
    """
    run = _Run(job, solution)
    return run.steps() if job.mode == "sync" else run.pushes()


@dataclass(slots=True)
class _Worker:
    """A simulated worker: its place in the pattern and how often it was replaced."""

    index: int
    generation: int = 0


@dataclass(order=True, slots=True)
class _Event:
    """Something that will happen: an order that is carried out, a fault, or the end of a worker's push."""

    time_s: float
    number: int
    what: NodeAction | SimulatedFault | str = field(compare=False)
    started: float = field(default=0.0, compare=False)
    rows: int = field(default=0, compare=False)


class _Run:
    """One simulated job."""

    def __init__(self, job: SimulatedJob, solution: Solution) -> None:
        self.job, self.result = job, JobResult()
        self.controller = Controller(solution, ControllerConfig(batch=job.batch, monitor=job.monitor))
        self.workers = {f"worker-{place}": _Worker(place) for place in range(job.workers)}
        self.servers = {f"server-{place}": 0 for place in range(job.servers)}
        for name in self.workers:
            self.controller.join(name, "worker", 0.0)
        for name in self.servers:
            self.controller.join(name, "server", 0.0)
        self.draw = np.random.default_rng(job.seed)
        self.now, self.learned, self.saved = 0.0, 0, 0
        self.events: list[_Event] = []
        self.numbers, self.spare = 0, job.workers
        for fault in job.faults:
            self.later(fault.at_s, fault)

    def later(
        self, time_s: float, what: NodeAction | SimulatedFault | str, started: float = 0.0, rows: int = 0
    ) -> None:
        """Let something happen at a moment."""
        self.numbers += 1
        heapq.heappush(self.events, _Event(time_s, self.numbers, what, started, rows))

    @property
    def progress(self) -> float:
        """Share of the job that is committed."""
        return self.learned / self.job.rows

    def seconds(self, names: list[str], rows: Floats) -> tuple[Floats, Floats]:
        """Return compute seconds of workers, and seconds of their look-ups; servers are asked at the same time."""
        pattern, job, progress = self.job.pattern, self.job, self.progress
        compute = np.array([
            pattern.worker_s(self.workers[name].index, int(count), progress, self.workers[name].generation)
            for name, count in zip(names, rows, strict=True)
        ])  # fmt: skip
        if job.noise:
            compute *= self.draw.lognormal(-(job.noise**2) / 2, job.noise, len(names))
        even = 1.0 / len(self.servers)
        by_row = []
        for place, (name, generation) in enumerate(self.servers.items()):
            share = self.controller.shares.get(name, even)
            by_row.append(pattern.server_s(place, 1, progress, generation) * job.ids_by_row * share)
            asked = rows.mean() * job.ids_by_row * share  # the mean look-up
            if pattern.server_row_s and asked >= 1:
                self.controller.record_requests(name, int(asked), float(asked / (job.ids_by_row * share) * by_row[-1]))
        return compute, rows * max(by_row)

    # Synchronous ---------------------------------------------------------------------------------------------------

    def steps(self) -> JobResult:
        """Run step after step until all rows are learned."""
        step = 0
        while self.learned < self.job.rows:
            plan = self.controller.plan(step)
            self.controller.plan(step + self.job.ahead)
            names = [name for name in plan.sizes if name in self.workers]
            rows = np.array([plan.sizes[name] for name in names], dtype=float)
            compute, look_up = self.seconds(names, rows)
            ends = np.sort(compute + look_up)
            length = float(ends[len(ends) - 1 - plan.backup]) + self.job.overheads.sync_s(len(names))
            if self._interrupted(self.now + length):
                step = self.controller.view(self.now).step + 1
                continue
            self._commit(step, plan, names, rows, compute, compute + look_up, length)
            step += 1
        self.result.job_s, self.result.rows = self.now, self.learned
        self.result.decisions = list(self.controller.decisions)
        return self.result

    def _commit(
        self, step: int, plan: Plan, names: list[str], rows: Floats, compute: Floats, taken: Floats, length: float
    ) -> None:
        result, last = self.result, np.sort(taken)[len(taken) - 1 - plan.backup]
        inside = taken <= last
        for place, name in enumerate(names):
            if inside[place]:
                self.controller.record_step(name, step, int(rows[place]), float(compute[place]))
        wanted = int(rows[inside].sum())
        learned = min(wanted, self.job.rows - self.learned)
        # the last step of a job is as short as its rows
        length *= max(learned / wanted, 1e-9) if wanted else 1.0
        self.now += length
        self.learned += learned
        result.steps += 1
        result.step_s.append(length)
        result.computed_rows += int(rows.sum())
        self.controller.tick(self.now, step, rows_left=self.job.rows - self.learned)
        self._carry_out()
        if result.steps % self.job.checkpoint_steps == 0:
            self.saved = self.learned

    def _carry_out(self) -> None:
        for order in self.controller.orders():
            wait_s = self.job.overheads.move_s if isinstance(order, MoveBuckets) else self.job.overheads.wait_s
            at_once = isinstance(order, Remove) or (isinstance(order, Restart) and order.node in self.servers)
            self.later(self.now + (0.0 if at_once else wait_s), order)

    def _interrupted(self, end: float) -> bool:
        """Let happen what comes before the step's end; True: the step is not committed, begin it again."""
        again = False
        while self.events and self.events[0].time_s <= end and not again:
            event = heapq.heappop(self.events)
            if isinstance(event.what, SimulatedFault):
                again = self._strike(event.what, event.time_s)
            elif not isinstance(event.what, str):
                # a node that is ready joins between two steps
                again = self._ready(event.what)
        return again

    def _ready(self, order: NodeAction) -> bool:
        """Carry an order out; True if the group of workers is another one now."""
        costs = self.job.overheads
        if isinstance(order, Restart) and order.node in self.workers:
            self.workers[order.node].generation += 1
            self.controller.join(order.node, "worker", self.now)
            self.now += costs.stall_s
        elif isinstance(order, Restart) and order.node in self.servers:
            # its rows are in the newest checkpoint, so everybody goes back to it
            self.result.redone += math.ceil((self.learned - self.saved) / self.job.batch)
            self.learned = self.saved
            self.now += costs.wait_s + costs.reload_s
            self.servers[order.node] += 1
            self.controller.join(order.node, "server", self.now)
            self.controller.shares = {}  # buckets are even again
        elif isinstance(order, Add):
            for _ in range(order.count):
                self.workers[f"worker-{self.spare}"] = _Worker(self.spare)
                self.controller.join(f"worker-{self.spare}", "worker", self.now)
                self.spare += 1
            self.now += costs.stall_s
        elif isinstance(order, Remove):
            for name in order.nodes:
                self.workers.pop(name, None)
                self.controller.leave(name, self.now)
            self.now += costs.stall_s
        self.controller.done(order, self.now)
        return isinstance(order, (Add, Remove)) or (isinstance(order, Restart) and order.node in self.workers)

    def _strike(self, fault: SimulatedFault, at_s: float) -> bool:
        """Let a node die; True if the step under way is lost."""
        costs, name = self.job.overheads, f"{fault.kind}-{fault.index}"
        self.now = max(self.now, at_s) + costs.detect_s
        self.result.redone += 1
        if fault.kind == "worker":
            if len(self.workers) > 1 and self.workers.pop(name, None) is not None:
                self.controller.leave(name, self.now, "dead")
                self.later(self.now + costs.wait_s, Add(1))
            self.now += costs.stall_s
        elif fault.kind == "server":
            self.result.redone += math.ceil((self.learned - self.saved) / self.job.batch)
            self.learned = self.saved
            self.now += costs.wait_s + costs.reload_s
            if name in self.servers:
                self.servers[name] += 1
        else:
            self.now += costs.wait_s
        return True

    # Asynchronous --------------------------------------------------------------------------------------------------

    def pushes(self) -> JobResult:
        """Run push after push: who is free takes the next rows; nobody waits for anybody."""
        job, result, given, free_s = self.job, self.result, 0, 0.0
        for name in self.workers:
            given += self._start(name, 0.0, given)
        while self.learned < job.rows and self.events:
            event = heapq.heappop(self.events)
            self.now = max(self.now, event.time_s)
            if isinstance(event.what, SimulatedFault):
                given -= self._lose(event.what)
                given += sum(self._start(name, self.now, given) for name in self._resting())
            elif not isinstance(event.what, str):
                self._ready(event.what)
                given += sum(self._start(name, self.now, given) for name in self._resting())
            elif event.what in self.workers:
                # the head takes one push after another
                free_s = max(free_s, event.time_s) + job.overheads.commit_s
                self.now = max(self.now, free_s)
                self.learned += event.rows
                result.computed_rows += event.rows
                result.steps += 1
                taken = event.time_s - event.started
                result.step_s.append(taken)
                self.controller.record_step(event.what, result.steps, event.rows, taken - job.overheads.push_s)
                if result.steps % len(self.workers) == 0:
                    self.controller.tick(self.now, result.steps // len(self.workers),
                                         rows_left=job.rows - self.learned)  # fmt: skip
                    self._carry_out()
                if result.steps % (job.checkpoint_steps * job.workers) == 0:
                    self.saved = self.learned
                given += self._start(event.what, free_s, given)
        result.job_s, result.rows, result.decisions = self.now, self.learned, list(self.controller.decisions)
        return result

    def _resting(self) -> list[str]:
        busy = {event.what for event in self.events if isinstance(event.what, str)}
        return [name for name in self.workers if name not in busy]

    def _start(self, name: str, now: float, given: int) -> int:
        """Let a worker take its next rows; return how many."""
        plan = self.controller.plan(self.result.steps // max(len(self.workers), 1))
        rows = min(plan.sizes.get(name, self.job.batch // len(self.workers)), self.job.rows - given)
        if rows <= 0:
            return 0
        compute, look_up = self.seconds([name], np.array([float(rows)]))
        self.later(now + float(compute[0] + look_up[0]) + self.job.overheads.push_s, name, now, rows)
        return rows

    def _lose(self, fault: SimulatedFault) -> int:
        """Let a node die in asynchronous training; return the rows that go back to the queue."""
        costs, name = self.job.overheads, f"{fault.kind}-{fault.index}"
        lost = [event for event in self.events if event.what == name]
        self.result.redone += 1
        if fault.kind == "worker" and name in self.workers and len(self.workers) > 1:
            self.events = [event for event in self.events if event.what != name]
            heapq.heapify(self.events)
            self.workers.pop(name)
            self.controller.leave(name, self.now, "dead")
            self.later(self.now + costs.wait_s, Add(1))
            return sum(event.rows for event in lost)
        delay = costs.wait_s + costs.detect_s
        back = 0
        if fault.kind == "server":
            back, self.learned = self.learned - self.saved, self.saved
            delay += costs.reload_s
        for event in self.events:
            if isinstance(event.what, str):
                event.time_s += delay
                event.started += delay
        return back
