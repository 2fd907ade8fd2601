"""The heart of a synchronous run: who takes part in a step, when it counts, and what the next ones learn from.

A step counts once every worker it needs has prepared its part and holds the summed gradients: then, and only then,
the queue records its rows as consumed, and everybody takes it. Whatever fails before leaves nothing behind: the epoch
rises, leases and prepared parts of the old one are void, and the step is done again by those who are there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headrace.elastic.gathering import WAKE_S, Gathering, heals
from headrace.elastic.membership import Membership
from headrace.elastic.sequence import RowSequence, StepWork
from headrace.elastic.turns import Result, Tables, Turn, Vote, merged
from headrace.errors import ClusterError, DataError, HeadraceError, LeaseLost, NonFiniteLoss, StoreError
from headrace.runtime.balance import share_batch
from headrace.runtime.controller import Controller
from headrace.runtime.frames import Array
from headrace.runtime.work_queue import ShardQueue

_log = logging.getLogger(__name__)
AHEAD = 2
"""Steps beyond the next one whose rows workers know already, so that they can read them."""
TRIES = 3
"""How often one worker may fail at a step, with no row at fault, before the run ends."""
SUMS_KEPT = 16
"""Steps by which a worker may lag before it has to begin anew."""


class Conductor(Gathering):
    """Plans and commits of a synchronous run, whose members gather epoch by epoch.

    Args:
        queue: Where the rows are.
        members: Who takes part; epochs.
        controller: Says how many rows each worker takes.
        tables: The table servers.
        begin_with: Workers that the first epoch waits for, at most `begin_s`.
        begin_s: See there.
        on_commit: Told of every committed step, under the lock: log, checkpoints.

    Thread-safety: every method may be called from any thread; those that wait hold no lock meanwhile.
    """

    def __init__(
        self, queue: ShardQueue, members: Membership, controller: Controller, tables: Tables, *, begin_with: int = 1,
        begin_s: float = 60.0, on_commit: Callable[[Result], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(members, controller, tables, max(queue.last_step, 0), begin_with, begin_s)
        self.queue, self.sequence = queue, RowSequence(queue)
        self.results: dict[int, Result] = {}
        self.works: dict[int, StepWork] = {}
        self._on_commit = on_commit
        self._step, self._anew, self._tries = Turn(), -1, (0, 0)

    def void(self) -> None:
        """Forget what was said of the present step."""
        self._step = Turn()

    def begin_work(self, epoch: int) -> None:
        """Cut the first steps of an epoch."""
        self.works.clear()
        self.sequence.begin(f"group-{epoch}")
        self._plan_ahead()

    def forget_results(self) -> None:
        """Forget what was committed: it will be again."""
        self.results.clear()

    # Steps ---------------------------------------------------------------------------------------------------------

    def add(self, worker: str, epoch: int, step: int, values: Array) -> dict[str, Any] | Array:
        """Take a worker's gradients; return their sums once all that the step waits for are here.

        Returns:
            The sums, or `{"late": steps}` with what the worker missed: the step was taken without it.

        Raises:
            LeaseLost: If another epoch has begun, or the worker lags too far.
        """
        with self.turn:
            present = epoch == self._formed == self.members.epoch and worker in self.members
            if present and step == self.committed + 1 and not self._step.chosen and len(values):
                self._step.parts[worker] = values
                self._choose(step)
            while True:
                self._raise_failure()
                self._require_epoch(worker, epoch)
                if step <= self.committed or (self._step.chosen and worker not in self._step.chosen):
                    if step <= self.committed:
                        return self._missed(step)
                elif self._step.sums is not None:
                    return self._step.sums
                self.turn.wait(WAKE_S)

    def _choose(self, step: int) -> None:
        """Close the step's list once enough have come; those who come later are left out."""
        here, names = self._step.parts, self.members.names
        backup = self._backup(step)
        if len(here) < len(names) - backup:
            return
        self._step.chosen = tuple(name for name in names if name in here)
        total = np.array(here[self._step.chosen[0]], copy=True)
        for name in self._step.chosen[1:]:
            total += here[name]
        self._step.sums = total
        self.turn.notify_all()

    def _missed(self, step: int) -> dict[str, Any]:
        missed = [self.results.get(number) for number in range(step, self.committed + 1)]
        if any(result is None or result.sums is None for result in missed):
            raise LeaseLost(f"Step {step}", got=f"{self.committed} committed", expected=f"a lag below {SUMS_KEPT}",
                            do="Enter again with the state of another worker.")  # fmt: skip
        return {"late": [result for result in missed if result is not None]}

    def vote(self, worker: str, epoch: int, step: int, vote: Vote, known: int) -> dict[str, Any]:
        """Say that a worker's part of a step is prepared; return what was decided, once it is.

        A worker that got no answer asks again: what was decided stays decided, in any later epoch.

        Args:
            worker: Who.
            epoch: In which it was prepared.
            step: Which.
            vote: Its numbers.
            known: The newest step whose plan it has.
        """
        with self.turn:
            while True:
                self._raise_failure()
                if step <= self.committed:
                    return self._decided(worker, step, known)
                if epoch != self.members.epoch or epoch != self._formed or worker not in self.members:
                    return {"decision": "redo"}
                self._step.votes[worker] = vote
                if self._step.votes.keys() >= set(self._step.chosen or self.members.names):
                    try:
                        self._commit(step)
                        continue
                    except HeadraceError as error:  # nothing was recorded
                        if not heals(error):
                            self.fail(error)
                            continue
                        _log.warning("step %d is not durable yet: %s", step, error)
                self.turn.wait(WAKE_S)

    def _decided(self, worker: str, step: int, known: int) -> dict[str, Any]:
        result = self.results.get(step)
        newest = 0 if result is None else result.newest
        return {"decision": "commit", "newest": newest, "epoch": self.members.epoch, "end": self.ended,
                "plans": self.told(worker, known), "anew": self.committed == self._anew}  # fmt: skip

    def _commit(self, step: int) -> None:
        """Record the step durably, then let everybody take it."""
        turn, work, epoch = self._step, self.works[step], self.members.epoch
        workers = turn.chosen or tuple(self.members.names)
        active = tuple(name for name in workers if work.parts.get(name))
        with self.queue.together():
            self._record(step, work, epoch, active)
        rows = sum(piece.rows for name in active for piece in work.parts[name])
        result = Result(step, epoch, rows, active, max(vote.newest for vote in turn.votes.values()), turn.sums)
        self.committed, self.results[step], self._step = step, result, Turn()
        self.turn.notify_all()
        try:
            self.tables.committed(step, epoch, active)
            self._after(result, work, turn)
        except HeadraceError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the step counts: the run must not go on with half of this done
            self.fail(ClusterError(f"Step {step}, after its commit", got=f"{type(error).__name__}: {error}"))

    def _after(self, result: Result, work: StepWork, turn: Turn) -> None:
        """Do what follows a commit: what was left out goes back, speeds are noted, the next step is cut."""
        step, now = result.step, time.monotonic()
        self.results.pop(step - SUMS_KEPT, None)
        out = [piece for name, own in work.parts.items() if name not in result.workers for piece in own]
        self.sequence.give_back(out)
        del self.works[step]
        for name, vote in turn.votes.items():
            if vote.rows:
                self.controller.record_step(name, step, vote.rows, vote.seconds)
        everybody = turn.votes.keys() >= set(self.members.names)  # and so nobody has begun the next step
        made = self.controller.tick(now, step, anew=everybody)
        if any(decision.agree_at in self.works for decision in made):
            self._cut_anew(step)
        if self._on_commit is not None:
            self._on_commit(result)
        try:
            self._plan_ahead()
        except StoreError as error:  # leases are not durable: they are taken anew
            self._changed("disk", "", str(error), now)

    def _cut_anew(self, step: int) -> None:
        """Take back the rows of the steps that were told already: a change must not wait until they are learned."""
        told = [piece for number in sorted(self.works) for own in self.works[number].parts.values() for piece in own]
        self.works.clear()
        self.sequence.give_back(told)
        self._anew = step

    def _record(self, step: int, work: StepWork, epoch: int, active: Sequence[str]) -> None:
        """Let the queue record what the step consumes; an error is the run's: workers ask again until it is durable."""
        note = f"{epoch} {' '.join(active)}"
        answers = self.queue.commit(step, merged(work.contributions(active)), note)
        if not all(answers):
            self.fail(ClusterError(f"Step {step}", got="a fenced lease of the head's own", expected="valid leases",
                                   do="This is an error of the library; the step was not applied."))  # fmt: skip
            self._raise_failure()

    def _plan_ahead(self) -> None:
        """Cut the next steps; note the end when there is nothing left."""
        for step in range(self.committed + 1, self.committed + 2 + AHEAD):
            if step in self.works:
                continue
            work = self.sequence.take(step, self._sizes(step))
            if work is None:
                self.ended = not self.works and bool(self.queue.finished)
                self.finishers = set(self.members.names)
                return
            self.works[step] = work

    def _backup(self, step: int) -> int:
        """Return how many workers a step does not wait for: none where it has fewer rows than usual."""
        backup, work = min(self.controller.plan(step).backup, len(self.members) - 1), self.works.get(step)
        return backup if work is not None and work.rows == sum(self._sizes(step).values()) else 0

    def _sizes(self, step: int) -> dict[str, int]:
        plan, names = self.controller.plan(step), self.members.names
        if plan.backup:  # equal parts, so that a step has as many rows whoever is left out
            share = max(self.controller.batch // max(len(names) - plan.backup, 1), 1)
            return dict.fromkeys(names, share)
        if plan.sizes.keys() != set(names):  # of members before: the run went back behind a change of them
            return dict(zip(names, share_batch(self.controller.batch, [1.0] * len(names)), strict=True))
        return {name: plan.sizes[name] for name in names}

    def plans(self, worker: str, epoch: int, known: int) -> dict[str, Any]:
        """Return the plans after a known one, and whether the run has ended.

        Raises:
            LeaseLost: If another epoch has begun.
        """
        with self.turn:
            self._raise_failure()
            self._require_epoch(worker, epoch)
            return {"plans": self.told(worker, known), "end": self.ended}

    def nudge(self) -> None:
        """Look for work again where there was none: rows may have become free.

        Raises:
            HeadraceError: If the queue cannot be asked.
        """
        with self.turn:
            if self._formed == self.members.epoch and not self.works and not self.ended:
                self._plan_ahead()
                self.turn.notify_all()

    def told(self, worker: str, known: int) -> list[dict[str, Any]]:
        """Return the plans of steps after a known one, as a worker gets them; all of them, where they are new ones."""
        told, known = [], self.committed if self.committed == self._anew else known
        for step in sorted(number for number in self.works if number > known):
            plan, work, backup = self.controller.plan(step), self.works[step], self._backup(step)
            rows = work.rows if not backup else work.rows * (len(self.members) - backup) // len(self.members)
            told.append({"step": step, "rows": rows, "rate": plan.rate,
                         "accumulation": plan.accumulation.get(worker, 1),
                         "pieces": [piece.to_fields() for piece in work.parts.get(worker, ())]})  # fmt: skip
        return told

    # Errors --------------------------------------------------------------------------------------------------------

    def poison(self, worker: str, epoch: int, step: int, rows: Sequence[tuple[str, int, int, str]], error: str, *,
               own: bool = False) -> None:  # fmt: skip
        """Quarantine rows that cannot be read or learned, given as shard, fence, position and error; others go on.

        A worker whose rows are all right says so too, because a loss that is not finite is everybody's, and waits for
        the others; where nobody finds a row at fault, the error ends the run.

        Args:
            worker: Who found it.
            epoch: In which.
            step: Which step could not be taken.
            rows: Those at fault.
            error: What was raised.
            own: Whether this worker alone raised it, so that the others wait for it: then the step is done again where
                no row is at fault, and a few times running end the run.
        """
        with self.turn:
            if epoch != self.members.epoch or step != self.committed + 1:
                return
            if own and not rows:
                self._puzzled(worker, step, error)
                return
            self._step.fine.add(worker)
            if not rows and self._step.fine >= set(self._step.chosen or self.members.names):
                self.fail(NonFiniteLoss(f"Step {step}", got=error, expected="finite numbers",
                                        do="No single row is at fault: lower the learning rates."))  # fmt: skip
            while not rows and epoch == self.members.epoch and self.failed is None:
                self.turn.wait(WAKE_S)  # somebody else is still looking
            if not rows:
                return
            grants = {(piece.grant.shard, piece.grant.fence): piece.grant
                      for work in self.works.values() for part in work.parts.values() for piece in part}  # fmt: skip
            for shard, fence, position, error in rows:
                if (shard, fence) in grants:
                    self.queue.fail(grants[shard, fence], position, error)
            self._changed("poison", worker, f"{len(rows)} rows were quarantined", time.monotonic())

    def _puzzled(self, worker: str, step: int, error: str) -> None:
        """Do a step again that one worker could not take for no row's fault; not for ever."""
        self._tries = (step, self._tries[1] + 1 if self._tries[0] == step else 1)
        if self._tries[1] < TRIES:
            self._changed("again", worker, error, time.monotonic())
        else:
            self.fail(DataError(f"Step {step}, rows of {worker}", got=error, expected="rows to learn from",
                                do="No single row is at fault: look at the data, and at its log."))  # fmt: skip
