"""A worker's process: takes part in one epoch after another, each a row of steps with the same members."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.elastic.agent import Agent
from headrace.elastic.config import ElasticConfig
from headrace.elastic.dense_state import dense_state, load_dense_state, pack_state, unpack_state
from headrace.elastic.directory import Directory
from headrace.elastic.group import GlooGroup, MeetingPoint
from headrace.elastic.job import Job
from headrace.elastic.poison import bad_rows
from headrace.elastic.remote_tables import RemoteTables
from headrace.elastic.rows import AheadReader
from headrace.elastic.sync_step import Plan, Step
from headrace.elastic.table_wire import ServerClient
from headrace.errors import DataError, HeadraceError, LeaseLost, NumericError, StoreError, WorkerLost
from headrace.runtime.frames import Array
from headrace.runtime.launch import Launched
from headrace.runtime.wire import Connection, secret_of

_log = logging.getLogger(__name__)
HEAD_PATIENCE_S = 120.0
"""How long a worker waits for a head that is started again."""
FULL_S = 0.1
"""Pause before a head whose disk is full is asked again."""
AGAIN_S = 0.01
"""Pause before a worker whose step broke enters again: the head has mostly heard of the death by then."""


class Late(Exception):
    """The step was taken without this worker's part.

    Attributes:
        steps: Number, rows and sums of the steps that it missed, in order.
    """

    def __init__(self, steps: list[tuple[int, int, Tensor]]) -> None:
        super().__init__(f"{len(steps)} steps")
        self.steps = steps


class HeadSum:
    """Adds gradients at the head, in the order of workers.

    Args:
        call: Calls the head.
        worker: Name of this worker.
        epoch: Of the membership.
        step: Returns the number of the present step.
    """

    def __init__(self, call: Callable[..., Any], worker: str, epoch: int, step: Callable[[], int]) -> None:
        self._call, self._worker, self._epoch, self._step = call, worker, epoch, step

    def sum_(self, values: Tensor) -> None:
        """Replace values by their sums.

        Raises:
            Late: If the step was taken without this worker.
        """
        fields = {"worker": self._worker, "epoch": self._epoch, "step": self._step()}
        reply = self._call("add", fields, {"values": values.numpy()})
        missed = reply.fields.get("late")
        if missed is not None:
            raise Late([(step, rows, torch.from_numpy(reply.arrays[str(step)])) for step, rows in missed])
        values.copy_(torch.from_numpy(reply.arrays["values"]))

    def abort(self) -> None:
        """Do nothing: the head ends its calls itself."""


class Given:
    """Sums that are known already.

    Args:
        values: They.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def sum_(self, values: Tensor) -> None:
        """Replace values by the sums."""
        values.copy_(self._values)


class Worker:
    """One worker of a run.

    Args:
        config: The run.
        me: Name, host and how often this worker was replaced.
        head: Address of the head.
        secret: Of the run.
    """

    def __init__(self, config: ElasticConfig, me: Launched, head: str, secret: bytes) -> None:
        self.config, self.me, self.name, self.secret = config, me, me.name, secret
        self.index = int(me.name.rpartition("-")[2])
        self._connection = Connection(head, secret, 600.0, name="head")
        self.job = Job(config)
        self.directory: Directory[Any] = Directory(lambda: self.call("buckets").fields,
                                                   lambda address: ServerClient(address, secret))  # fmt: skip
        self.remote = RemoteTables(self.job.tables, self.directory, name=me.name)
        self.step: Any = self.together()
        self.step.slow = self._slow
        self.learner = self.job.learner(self.remote.tables, self.step)
        self.rates = [float(group["lr"]) for group in self.learner.optimizer.param_groups]
        self.ahead = AheadReader(self.job.reader)
        self.rows_all = len(self.job.reader) * self.job.fit.epochs
        self.taken, self.learned, self.ended = 0, 0, False
        self._plans: dict[int, Plan] = {}
        self._known, self._group = 0, GlooGroup("", 0, 0, 1)
        meets = config.mode == "sync" and config.sums == "gloo"
        self._meeting = MeetingPoint(me.host, remote=config.remote) if meets else None
        self.agent = Agent(head, secret, me.name, config.silence_s, self._numbers)

    def together(self) -> Any:
        """Return what the learner shares with the other workers."""
        return Step(self.name, self.remote, self._vote, self.job.fit.seed)

    def call(self, method: str, fields: Mapping[str, Any] | None = None, arrays: Mapping[str, Array] | None = None,
             timeout_s: float | None = None) -> Any:  # fmt: skip
        """Call the head; patiently, because a call that was done already has the same answer.

        A head whose disk is full refuses what it cannot record: then it is asked again until there is room.
        """
        end = time.monotonic() + HEAD_PATIENCE_S
        while True:
            try:
                return self._connection.call(method, fields, arrays, timeout_s=timeout_s, retry_s=HEAD_PATIENCE_S)
            except StoreError as error:
                if time.monotonic() > end:
                    raise
                _log.info("%s: the head could not do it: %s", method, error)
                time.sleep(FULL_S)

    def _numbers(self) -> dict[str, Any]:
        return {"step": self.taken, "learned": self.learned, "pid": os.getpid()}

    def _slow(self, rows: int) -> float:
        pattern = self.config.pattern
        if pattern is None:
            return 0.0
        progress = min(self.learned / max(self.rows_all, 1), 1.0)
        return pattern.worker_s(self.index, rows, progress, self.me.generation)

    def run(self) -> None:
        """Learn until the run has ended.

        Raises:
            HeadraceError: What ended the run.
        """
        self.agent.epoch = -1
        while not self.ended:
            told = {"meeting": self._meeting.address if self._meeting else "", "pid": os.getpid(),
                    "host": self.me.host, "rows": len(self.job.reader), "generation": self.me.generation}  # fmt: skip
            fields = {"worker": self.name, "told": told, "step": self.taken}
            try:
                place = self.call("enter", fields).fields
            except LeaseLost as error:
                _log.info("%s was taken for dead while it waited: %s", self.name, error)
                time.sleep(AGAIN_S)
                continue
            if place["end"] and not place.get("members"):
                break
            try:
                self.remote.open()  # servers with other tables would take what they must not
                self._begin(place)
                while not self.ended:
                    self._learn_next()
            except (LeaseLost, WorkerLost) as error:
                _log.info("%s: epoch %s ended at step %d: %s", self.name, place.get("epoch"), self.taken, error)
                if isinstance(error, WorkerLost):
                    time.sleep(AGAIN_S)
            finally:
                self._group.abort()

    def _begin(self, place: Mapping[str, Any]) -> None:
        """Join the group of an epoch, and give or take the dense state where somebody lacks it."""
        epoch, size = int(place["epoch"]), len(place["members"])
        self.step.epoch, self.ended = epoch, bool(place["end"])
        self._plans.clear()
        self.ahead.clear()
        self._known = int(place["committed"])
        self._take_plans(place["plans"])
        committed, lacking = int(place["committed"]), list(place["lacking"])
        if lacking and place["donor"] == self.name:
            fields, arrays = pack_state(dense_state(self.learner))
            self.call("hand_over", {"epoch": epoch, "newest": self.step.newest_time, **fields}, arrays)
        if self.name in lacking and committed == 0:
            self._begin_anew()
        elif self.name in lacking:
            reply = self.call("handed", {"epoch": epoch})
            load_dense_state(self.learner, unpack_state(reply.fields, reply.arrays))
            self.step.newest_time = int(reply.fields.get("newest", 0))
            self.taken = committed
        self.remote.after = committed
        if self.config.sums == "gloo":
            self._group = GlooGroup(str(place["meeting"]), epoch, int(place["rank"]), size, self.me.host)
            self.step.summer = self._group
            self.agent.watch(epoch, self._group.abort)
        else:
            self.step.summer = HeadSum(self.call, self.name, epoch, lambda: self.taken + 1)

    def _begin_anew(self) -> None:
        """Forget what was learned: the run begins again."""
        self.learner = self.job.learner(self.remote.tables, self.step)
        self.step.newest_time, self.taken, self.learned = 0, 0, 0

    def _take_plans(self, told: list[Mapping[str, Any]]) -> None:
        for fields in told:
            plan = Plan.from_fields(fields)
            self._plans[plan.step] = plan
            self._known = max(self._known, plan.step)
            self.ahead.want(plan.step, plan.pieces)

    def _vote(self, numbers: dict[str, Any]) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.call("vote", {"worker": self.name, "known": self._known, **numbers}).fields
        if told["decision"] == "commit":
            if told["anew"]:  # those that were told before hold no more
                self._known = self.taken + 1
                self._plans = {step: plan for step, plan in self._plans.items() if step <= self._known}
            self._take_plans(told["plans"])
            self.ended = bool(told["end"])
        return told

    def _learn_next(self) -> None:
        plan = self._plans.get(self.taken + 1)
        if plan is None:
            self._without_plan()
            return
        self.step.plan = plan
        for group, rate in zip(self.learner.optimizer.param_groups, self.rates, strict=True):
            if self.job.fit.dense.schedule is None:
                group["lr"] = rate * plan.rate
        try:
            batch = self.ahead.get(plan.step)
            self.step.begin(0 if batch is None else len(batch))
            self.learner.micro_batches = plan.accumulation
            if batch is None:
                self.learner.follow(plan.rows)
            else:
                self.learner.learn(batch)
        except Late as late:
            self._catch_up(late)
            return
        except (DataError, NumericError) as error:
            self._report_bad(plan, error)
            return
        self.taken = plan.step
        self.learned += plan.rows
        del self._plans[plan.step]
        self._save_if_due(plan.step)

    def _without_plan(self) -> None:
        """Wait for the next plan; or catch up, where the others took that step already."""
        if self._known <= self.taken + 1 or self.config.sums != "head":
            self._wait_for_plan()
            return
        try:
            HeadSum(self.call, self.name, self.step.epoch, lambda: self.taken + 1).sum_(torch.zeros(0))
        except Late as late:
            self._catch_up(late)

    def _wait_for_plan(self) -> None:
        """Ask for the next plan: the queue may have nothing just now."""
        time.sleep(AGAIN_S)
        told = self.call("plans", {"worker": self.name, "epoch": self.step.epoch, "known": self._known}).fields
        self._take_plans(told["plans"])
        self.ended = bool(told["end"])

    def _save_if_due(self, step: int) -> None:
        """Give the head the dense part after a step, for a checkpoint, where this worker is the one to do it."""
        if not self.config.checkpoint_every or step % self.config.checkpoint_every:
            return
        if self.call("saves", {"worker": self.name, "step": step}).fields["save"]:
            fields, arrays = pack_state(dense_state(self.learner))
            self.call("save", {"step": step, **fields}, arrays)

    def _catch_up(self, late: Late) -> None:
        """Take the steps that were taken without this worker, from the sums of the others."""
        usual = self.step.summer
        for step, rows, sums in late.steps:
            self.step.summer, self.step.plan = Given(sums), Plan(step, rows, 1.0, 1, ())
            self.step.begin(0)
            self.learner.follow(rows)
            self.taken = step
            self._plans.pop(step, None)
            self._save_if_due(step)
        self.step.summer = usual

    def _report_bad(self, plan: Plan, error: HeadraceError) -> None:
        """Find out which rows cannot be read or learned, and have them quarantined; others' rows are not our affair.

        Raises:
            LeaseLost: The step is done again.
            HeadraceError: If no row is at fault, here or elsewhere.
        """
        own = isinstance(error, DataError) or not self.step.summed
        rows = bad_rows(self.job.reader, self.learner, plan, error)
        fields = {"worker": self.name, "epoch": self.step.epoch, "step": plan.step, "rows": rows, "own": own,
                  "error": f"{type(error).__name__}: {error}"}  # fmt: skip
        self.call("bad", fields)
        raise LeaseLost(f"Step {plan.step}", got=str(error), expected="finite numbers", do="It is done again.")


def run_worker(folder: Path, me: Launched, head: str, kind: type[Worker] = Worker) -> None:
    """Run a worker until the run has ended.

    Args:
        folder: Of the run.
        me: What this process knows of itself.
        head: Address of the head.
        kind: The class of the worker: that of the run's mode.
    """
    from headrace.elastic.finish import finish  # the end only: what it imports would make starts slow

    worker = kind(ElasticConfig.read(folder), me, head, secret_of(folder))
    try:
        worker.run()
        finish(worker)
    finally:
        worker.agent.stop()
        worker.ahead.close()
