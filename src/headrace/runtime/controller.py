"""Asks a solution what to do, keeps noise from becoming changes, and gives every step one plan that all see."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace.config import known_name, require
from headrace.runtime.actions import (
    Add,
    AdjustBatch,
    AdjustRate,
    Backup,
    Decision,
    MoveBuckets,
    NodeAction,
    Nothing,
    Plan,
    Remove,
    Restart,
)  # fmt: skip
from headrace.runtime.balance import batch_scale, share_batch
from headrace.runtime.monitor import Monitor, MonitorConfig, View
from headrace.runtime.solutions import Solution

_log = logging.getLogger(__name__)
DECISIONS_KEPT = 1000
NOTED_KEPT = 20
NOTHING_EVERY_S = 60.0
"""Seconds after which the same reason for doing nothing is logged again."""
AWAITED_S = 1800.0
"""Seconds after which a node that was ordered and never came may be ordered again."""


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """How decisions become plans.

    Attributes:
        batch: Rows of the global batch (at the start, when `keep` is `per_worker`).
        rows: Rows of the whole job; None: nobody knows (a stream).
        margin: Steps between the newest that was planned and the first under a change.
        ignored: Steps under a new plan whose samples are not looked at.
        keep: `global`: the batch stays when workers come or go. `per_worker`: rows per worker stay, the batch changes.
        rate_rule: How learning rates follow another global batch: `linear`, `sqrt` or `none`.
        leaves_out: Whether a step can do without some workers: gradients are added in one place.
        monitor: How speeds are watched.
    """

    batch: int
    rows: int | None = None
    margin: int = 1
    ignored: int = 1
    keep: str = "global"
    rate_rule: str = "linear"
    leaves_out: bool = True
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        require(self.batch >= 1, "ControllerConfig: batch", got=self.batch, expected="at least 1 row")
        require(self.margin >= 1 and self.ignored >= 0, "ControllerConfig: margin, ignored",
                got=(self.margin, self.ignored), expected="margin from 1, ignored from 0")  # fmt: skip
        known_name("ControllerConfig: keep", self.keep, ("global", "per_worker"))
        known_name("ControllerConfig: rate_rule", self.rate_rule, ("linear", "sqrt", "none"))


class Controller:
    """Decisions of one run; it lives in the head, which asks it at every commit.

    A plan is agreed in advance: a change takes effect at a step whose plan nobody was told yet, so no step mixes two
    plans. What was told of a step changes only where nobody can have begun it: when workers come or go (steps that are
    not committed are redone by the new members), and when all of them wait for the answer to a commit.

    Args:
        solution: Who decides.
        config: How decisions become plans.
        log: File to which every decision is written, one JSON object a line; None: kept in memory alone.

    Attributes:
        decisions: The newest of this controller.
        noted: The newest lines of the log, with those of controllers before this one.

    Thread-safety:
        None of its own; the head calls it under one lock.

    Example:
        >>> from headrace.runtime.solutions_nd import AntDtNd
        >>> controller = Controller(AntDtNd(), ControllerConfig(batch=40))
        >>> for node in ("worker-0", "worker-1"):
        ...     controller.join(node, "worker", now=0.0)
        >>> dict(controller.plan(0).sizes)
        {'worker-0': 20, 'worker-1': 20}
        >>> for step in range(5):
        ...     for node, row_s in (("worker-0", 0.1), ("worker-1", 0.3)):
        ...         controller.record_step(node, step, controller.plan(step).sizes[node], 20 * row_s)
        ...     made = controller.tick(now=step, step=step)
        >>> dict(controller.plan(5).sizes)
        {'worker-0': 30, 'worker-1': 10}
        >>> controller.decisions[-1].reason
        'worker-0, worker-1 out of line: 100% to gain'
    """

    def __init__(self, solution: Solution, config: ControllerConfig, *, log: Path | None = None) -> None:
        self.solution, self.config = solution, config
        self.monitor = Monitor(config.monitor)
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self.noted: deque[Mapping[str, Any]] = deque(maxlen=NOTED_KEPT)
        self.batch = config.batch
        self.learned = 0
        self.shares: dict[str, float] = {}
        self.attempts: dict[str, int] = {}
        self._log, self._torn = log, False
        if log is not None and log.is_file():
            self.noted.extend(read_decisions(log))
        self._plans: list[tuple[int, Plan]] = [(0, Plan({}))]
        self._asked, self._committed, self._agreed = -1, -1, -1
        self._per_worker: float | None = None
        self._solved_for: frozenset[str] = frozenset()
        self._orders: list[NodeAction] = []
        self._moving: dict[str, float] = {}
        self._pending_s: deque[float] = deque(maxlen=16)
        self._awaited: list[tuple[str, float]] = []
        self._fresh: set[str] = set()
        self._idle: tuple[str, float] = ("", -NOTHING_EVERY_S)

    # Members -------------------------------------------------------------------------------------------------------

    def join(self, node: str, kind: str, now: float) -> None:
        """Take a node in (`worker` or `server`); steps that are not committed are planned afresh for workers."""
        known_name("Controller: kind", kind, ("worker", "server"))
        self._arrived(node, kind, now)
        self.monitor.join(node, kind, now)
        self._fresh.add(node)
        if kind == "worker":
            self._membership(now)

    def leave(self, node: str, now: float, why: str = "leave") -> None:
        """Let a node go; an unknown one is no error."""
        was_worker = node in self.monitor.nodes("worker")
        self.monitor.leave(node, now, why)
        self.shares.pop(node, None)
        if was_worker:
            self._membership(now)

    def _membership(self, now: float) -> None:
        names = self.monitor.nodes("worker")
        self._solved_for = frozenset()
        plan = self._plans[-1][1]  # one that is agreed but not in force holds from here
        # what was told beyond the newest commit is void: those steps are done again by the new members
        self._plans = [each for each in self._plans if each[0] <= self._committed] or self._plans[:1]
        self._asked = self._committed
        if not names:
            return
        backup, rate = min(plan.backup, len(names) - 1), plan.rate
        if self.config.keep == "per_worker":
            if self._per_worker is None:
                self._per_worker = float(self.config.batch)
            self.batch = round(self._per_worker * len(names))
            rate = batch_scale(self.batch, self.config.batch, self.config.rate_rule)
        sizes = self._sizes(names, backup, unequal=len(set(plan.sizes.values())) > 1)
        self._put(self._committed + 1, replace(plan, sizes=sizes, accumulation={}, backup=backup, rate=rate))
        if rate != plan.rate:
            self._note(Decision(AdjustRate(rate), f"the global batch is {self.batch:,} rows now",
                                {"workers": len(names), "batch": self.batch}), now)  # fmt: skip

    def _sizes(self, names: tuple[str, ...], backup: int, *, unequal: bool) -> dict[str, int]:
        """Share the batch among members; by speed when it was shared unequally before."""
        speeds = self.monitor.speeds("worker").speeds() if unequal and not backup else [1.0] * len(names)
        if backup:
            rows = share_batch(self.batch, [1.0] * (len(names) - backup))
            rows += [max(rows)] * backup
        else:
            rows = share_batch(self.batch, speeds)
        return dict(zip(names, rows, strict=True))

    # Samples -------------------------------------------------------------------------------------------------------

    def record_step(self, worker: str, step: int, rows: int, seconds: float) -> None:
        """Take a worker's compute seconds for its rows of a committed step (waiting for others left out)."""
        self.learned += rows
        if worker in self._fresh:  # its first batch warms it up
            self._fresh.discard(worker)
        elif step < self._agreed or step >= self._agreed + self.config.ignored:
            self.monitor.record(worker, rows=rows, seconds=seconds)

    def record_requests(self, server: str, rows: int, seconds: float) -> None:
        """Take the seconds of a look-up of a server, and the rows that were asked for (or the means of several)."""
        self.monitor.record(server, rows=rows, seconds=seconds)

    def record_lag(self, rows: int, now: float) -> None:
        """Note how many rows of a stream wait."""
        self.monitor.record_lag(rows, self.learned, now)

    # Plans ---------------------------------------------------------------------------------------------------------

    def plan(self, step: int) -> Plan:
        """Return what holds in a step; from now on it is what holds there, for everybody who asks."""
        self._asked = max(self._asked, step)
        return next((plan for first, plan in reversed(self._plans) if first <= step), self._plans[0][1])

    def _put(self, first: int, plan: Plan) -> None:
        self._plans = [each for each in self._plans if each[0] < first]
        self._plans.append((max(first, 0), replace(plan, number=plan.number + 1)))
        kept = [place for place, each in enumerate(self._plans) if each[0] <= self._committed]
        self._plans = self._plans[kept[-1] if kept else 0 :]
        self._agreed = first

    def tick(self, now: float, step: int, *, rows_left: int | None = None, anew: bool = False) -> list[Decision]:
        """Decide after a commit; return what was decided beyond doing nothing.

        Args:
            now: Seconds, on any clock that does not go back.
            step: The newest committed step.
            rows_left: Rows of the job that are not committed; None: those of the job but for the steps recorded so far.
            anew: Whether nobody has begun the next step: a change may then begin with it, whatever was told of it.
        """
        if step > self._committed:
            self._committed = step
        if anew:
            self._asked = self._committed
        if step < self._agreed:  # a change is under way
            return []
        self._give_up(now)
        made = []
        for decision in self.solution.decide(self.view(now, rows_left)):
            done = self._carry_out(replace(decision, step=step, solution=type(self.solution).__name__), now)
            if done is not None:
                made.append(done)
        return made

    def _arrived(self, node: str, kind: str, now: float) -> None:
        """Measure how long a node was waited for."""
        names = [node] if any(name == node for name, _ in self._awaited) else ["workers"] if kind == "worker" else []
        for each in [each for each in self._awaited if each[0] in names][:1]:
            self._awaited.remove(each)
            self._pending_s.append(now - each[1])
            if all(name != each[0] for name, _ in self._awaited):
                self._moving.pop(each[0], None)

    def view(self, now: float, rows_left: int | None = None) -> View:
        """Return what a solution decides from."""
        plan = self._plans[-1][1]
        left = rows_left if rows_left is not None or self.config.rows is None else self.config.rows - self.learned
        return View(
            step=self._committed, now=now, batch=self.batch,
            steps_left=None if left is None else max(left, 0) // self.batch,
            workers=self.monitor.speeds("worker"), servers=self.monitor.speeds("server"), sizes=plan.sizes,
            backup=plan.backup, accumulation=plan.accumulation, since_change=max(self._committed - self._agreed + 1, 0),
            moving=frozenset(self._moving), attempts=dict(self.attempts), shares=dict(self.shares),
            long_window=self.config.monitor.long, solved_for=self._solved_for,
            pending_s=statistics.median(self._pending_s) if self._pending_s else None, lag=tuple(self.monitor.lag),
        )  # fmt: skip

    def _carry_out(self, decision: Decision, now: float) -> Decision | None:
        action, plan = decision.action, self._plans[-1][1]
        if isinstance(action, Nothing):
            if action.reason != self._idle[0] or now - self._idle[1] >= NOTHING_EVERY_S:
                self._idle = (action.reason, now)
                self._note(decision, now)
            return None
        if isinstance(action, (Restart, MoveBuckets, Add, Remove)):
            return self._order(decision, action, now)
        first = max(self._asked, self._committed) + self.config.margin
        if isinstance(action, AdjustBatch):
            self._check(action)
            self._solved_for = frozenset(action.sizes)
            if dict(action.sizes) == dict(plan.sizes) and dict(action.accumulation) == dict(plan.accumulation):
                return None
            plan = replace(plan, sizes=dict(action.sizes), accumulation=dict(action.accumulation))
        elif isinstance(action, AdjustRate):
            plan = replace(plan, rate=action.factor)
        elif isinstance(action, Backup):
            require(self.config.leaves_out or not action.count, "Backup workers", got="gradients added by all workers",
                    expected="gradients added at the head", do="Set sums='head' (--sums head).")  # fmt: skip
            names = self.monitor.nodes("worker")
            plan = replace(plan, backup=action.count, sizes=self._sizes(names, action.count, unequal=False))
        self._put(first, plan)
        return self._note(replace(decision, agree_at=first), now)

    def _check(self, action: AdjustBatch) -> None:
        names = set(self.monitor.nodes("worker"))
        require(set(action.sizes) == names, "AdjustBatch: sizes", got=sorted(action.sizes), expected=f"{sorted(names)}")
        require(sum(action.sizes.values()) == self.batch and min(action.sizes.values()) >= 0, "AdjustBatch: sizes",
                got=sum(action.sizes.values()), expected=f"{self.batch} rows in all")  # fmt: skip

    # Orders --------------------------------------------------------------------------------------------------------

    def orders(self, *kinds: type[NodeAction]) -> list[NodeAction]:
        """Return what is to be done to single nodes (of these kinds, if any is given), each once; say `done` then."""
        found = [order for order in self._orders if not kinds or isinstance(order, kinds)]
        self._orders = [order for order in self._orders if order not in found]
        return found

    def done(self, order: NodeAction, now: float, *, worked: bool = True) -> None:
        """Note that an order was carried out, or that it could not be; nodes that were started are awaited still."""
        for name in _touched(order):
            if not (worked and any(name == awaited for awaited, _ in self._awaited)):
                self._moving.pop(name, None)
            self.monitor.event(name, f"{type(order).__name__} {'done' if worked else 'failed'}", now)
        if not worked:
            self._awaited = [each for each in self._awaited if each[0] not in _touched(order)]
        if worked and isinstance(order, MoveBuckets):
            self.shares = dict(order.shares)
            self.monitor.shared_anew("server")

    def _order(self, decision: Decision, action: NodeAction, now: float) -> Decision | None:
        if any(name in self._moving for name in _touched(action)):
            return None
        for name in _touched(action):
            self._moving[name] = now
        if isinstance(action, Restart):
            self.attempts[action.node] = self.attempts.get(action.node, 0) + 1
            self._awaited.append((action.node, now))
        elif isinstance(action, Add):
            self._awaited += [("workers", now)] * action.count
        self._orders.append(action)
        return self._note(decision, now)

    def _give_up(self, now: float) -> None:
        """Wait no longer for nodes that were ordered long ago."""
        late = {name for name, since in self._moving.items() if now - since > AWAITED_S}
        for name in late:
            del self._moving[name]
            self.monitor.event(name, "never came", now)
        self._awaited = [each for each in self._awaited if each[0] not in late]

    def _note(self, decision: Decision, now: float) -> Decision:
        decision = replace(decision, time_s=now)
        self.decisions.append(decision)
        if self._log is not None:
            self._write({**decision.to_json(), "time": time.time()}, self._log)
        return decision

    def _write(self, line: Mapping[str, Any], log: Path) -> None:
        """Write a line; a full disk must not end what the decision is about."""
        self.noted.append(line)
        before = "\n" if self._torn else ""
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{before}{json.dumps(line)}\n")
            self._torn = False
        except OSError as error:
            self._torn = True  # half of it may be there
            _log.warning("decisions: %s", error)


def _touched(order: NodeAction) -> tuple[str, ...]:
    """Return the names that nothing else may be ordered for while this is under way."""
    if isinstance(order, Restart):
        return (order.node,)
    return ("buckets",) if isinstance(order, MoveBuckets) else ("workers",)


def read_decisions(log: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the decisions of a log; lines that a crash or a full disk has cut off are left out."""
    with log.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
