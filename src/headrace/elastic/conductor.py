"""The heart of a synchronous run: who takes part in a step, when it counts, and what the next ones learn from.

A step counts once every worker it needs has prepared its part and holds the summed gradients: then, and only then,
the queue records its rows as consumed, and everybody takes it. Whatever fails before leaves nothing behind: the epoch
rises, leases and prepared parts of the old one are void, and the step is done again by those who are there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.elastic.membership import Membership
from headrace.elastic.sequence import RowSequence, StepWork
from headrace.elastic.turns import Result, Tables, Turn, Vote, merged
from headrace.errors import ClusterError, HeadraceError, LeaseLost, NonFiniteLoss, StoreError
from headrace.runtime.controller import Controller
from headrace.runtime.frames import Array
from headrace.runtime.work_queue import ShardQueue

_log = logging.getLogger(__name__)
State = tuple[Mapping[str, Any], Mapping[str, Array]]
AHEAD = 2
"""Steps beyond the next one whose rows workers know already, so that they can read them."""
SUMS_KEPT = 16
"""Steps by which a worker may lag before it has to begin anew."""
WAKE_S = 0.5


class Conductor:
    """Members, epochs, plans and commits of a synchronous run.

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
        self.queue, self.members, self.controller, self.tables = queue, members, controller, tables
        self.turn = threading.Condition(threading.RLock())
        self.sequence = RowSequence(queue)
        self.committed = max(queue.last_step, 0)
        self.results: dict[int, Result] = {}
        self.works: dict[int, StepWork] = {}
        self.failed: HeadraceError | None = None
        self.ended = False
        self._begin_with, self._begin_s, self._on_commit = begin_with, begin_s, on_commit
        self._open, self._born = False, time.monotonic()
        self._entered: dict[str, int] = {}
        self._formed = self._adrift = self._basis = 0
        self._holders: list[str] = []
        self._step = Turn()
        self._states: dict[int, State] = {}
        self._restored: tuple[int, State] | None = None

    # Members -------------------------------------------------------------------------------------------------------

    def enter(self, worker: str, told: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Take part in the next epoch; returns once all its members are here.

        Args:
            worker: Who.
            told: What it says of itself.
            step: The newest step that its dense part has taken; -1: it has none.

        Raises:
            HeadraceError: What ended the run.
        """
        with self.turn:
            now = time.monotonic()
            if worker not in self.members:
                self._joined(worker, told, now)
            elif self._formed == self.members.epoch and not self.ended:
                self._changed("broken", worker, "its group is broken", now)
            while True:
                self._raise_failure()
                if self.ended:
                    return {"end": True, "committed": self.committed}
                if worker not in self.members:
                    self._joined(worker, told, time.monotonic())
                self._entered[worker] = step
                if self._complete():
                    try:
                        if self._formed != self.members.epoch:
                            self._form()
                        if self._formed == self.members.epoch:
                            return self._place(worker)
                    except StoreError as error:
                        _log.warning("epoch %d does not begin yet: %s", self.members.epoch, error)
                        self._formed = 0
                self.turn.wait(WAKE_S)

    def _joined(self, worker: str, told: Mapping[str, Any], now: float) -> None:
        self.members.join(worker, told, now)
        self.controller.join(worker, "worker", now)
        self._void()

    def left(self, worker: str, reason: str) -> None:
        """Note that a worker is gone."""
        with self.turn:
            now = time.monotonic()
            if worker in self.members:
                self.members.leave(worker, reason, now)
                self.controller.leave(worker, now, reason)
                self._void()

    def changed(self, kind: str, worker: str, reason: str) -> None:
        """Begin another epoch with the same members: the step is done again."""
        with self.turn:
            self._changed(kind, worker, reason, time.monotonic())

    def _changed(self, kind: str, worker: str, reason: str, now: float) -> None:
        self.members.raise_epoch(kind, worker, reason, now)
        self._void()

    def _void(self) -> None:
        """Forget what belonged to the former epoch."""
        self._entered.clear()
        self._step = Turn()
        self._states.clear()
        self.tables.fence(self.members.epoch)
        self.turn.notify_all()

    def _complete(self) -> bool:
        """Return whether all members of this epoch have entered, and enough are here to begin."""
        if not self._open:
            late = time.monotonic() - self._born > self._begin_s
            if len(self.members) < self._begin_with and not late:
                return False
            self._open = True
        here = bool(self._entered) and set(self.members.names) == self._entered.keys()
        return here and self.tables.ready and not self.homeless()

    def _form(self) -> None:
        """Begin the work of an epoch, behind what is committed; not where nobody holds the dense state."""
        epoch, names = self.members.epoch, self.members.names
        self._basis = self.committed
        self._holders = [name for name in names if self._entered[name] == self._basis]
        if not self._holders and self._restored is not None and self._restored[0] == self._basis:
            self._states[epoch] = self._restored[1]
        elif not self._holders and self._basis:
            self._adrift = epoch
            return
        self._formed = epoch
        self.works.clear()
        self.sequence.begin(f"group-{epoch}")
        self._plan_ahead()
        self.turn.notify_all()

    def _place(self, worker: str) -> dict[str, Any]:
        names, basis, holders = self.members.names, self._basis, self._holders
        return {
            "end": self.ended, "epoch": self.members.epoch, "members": names, "rank": names.index(worker),
            "meeting": self.members[names[0]].told.get("meeting", ""), "committed": basis,
            "donor": holders[0] if holders else "",
            "lacking": [name for name in names if name not in holders], "plans": self._told(worker, basis),
        }  # fmt: skip

    def go_back(self, step: int, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Go on from a checkpoint: servers and queue stand there already, workers get its dense state.

        Args:
            step: Of the checkpoint.
            fields: The dense state, packed; empty for step 0, which workers can make themselves.
            arrays: The same.
        """
        with self.turn:
            self.committed, self.ended = step, False
            self._restored = (step, (dict(fields), dict(arrays)))
            self.results.clear()
            self._changed("restored", "", f"everything is at step {step}", time.monotonic())

    def homeless(self) -> bool:
        """Return whether an epoch has begun in which nobody holds the dense state: then all must go back."""
        with self.turn:
            return self._adrift == self.members.epoch and not self.ended

    def hand_over(self, epoch: int, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Keep the dense state that a donor gives to those who lack it."""
        with self.turn:
            if epoch == self.members.epoch:
                self._states[epoch] = (dict(fields), dict(arrays))
                self.turn.notify_all()

    def handed(self, epoch: int) -> State:
        """Return what was handed over in an epoch, waiting for it.

        Raises:
            LeaseLost: If another epoch has begun.
        """
        with self.turn:
            while epoch not in self._states:
                self._raise_failure()
                if epoch != self.members.epoch:
                    raise _over(epoch, self.members.epoch)
                self.turn.wait(WAKE_S)
            return self._states[epoch]

    def wait_for_change(self, epoch: int, timeout_s: float) -> int:
        """Return the epoch once it is another one, or the run has ended, or after a time."""
        end = time.monotonic() + timeout_s
        with self.turn:
            while self.members.epoch == epoch and not self.ended and self.failed is None:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self.turn.wait(left)
            return self.members.epoch

    # Steps ---------------------------------------------------------------------------------------------------------

    def add(self, worker: str, epoch: int, step: int, values: Array) -> dict[str, Any] | Array:
        """Take a worker's gradients; return their sums once all that the step waits for are here.

        Returns:
            The sums, or `{"late": steps}` with what the worker missed: the step was taken without it.

        Raises:
            LeaseLost: If another epoch has begun, or the worker lags too far.
        """
        with self.turn:
            if step == self.committed + 1 and epoch == self._formed and not self._step.chosen and len(values):
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
                    except StoreError as error:  # a full disk, say; nothing was recorded
                        _log.warning("step %d is not durable yet: %s", step, error)
                self.turn.wait(WAKE_S)

    def _decided(self, worker: str, step: int, known: int) -> dict[str, Any]:
        result = self.results.get(step)
        newest = 0 if result is None else result.newest
        return {"decision": "commit", "newest": newest, "epoch": self.members.epoch, "end": self.ended,
                "plans": self._told(worker, known)}  # fmt: skip

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
        self.controller.tick(now, step)
        if self._on_commit is not None:
            self._on_commit(result)
        try:
            self._plan_ahead()
        except StoreError as error:  # leases are not durable: they are taken anew
            self._changed("disk", "", str(error), now)

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
        return {name: plan.sizes.get(name, 0) for name in names}

    def plans(self, worker: str, epoch: int, known: int) -> dict[str, Any]:
        """Return the plans after a known one, and whether the run has ended.

        Raises:
            LeaseLost: If another epoch has begun.
        """
        with self.turn:
            self._raise_failure()
            self._require_epoch(worker, epoch)
            return {"plans": self._told(worker, known), "end": self.ended}

    def nudge(self) -> None:
        """Look for work again where there was none: rows may have become free."""
        with self.turn:
            if self._formed == self.members.epoch and not self.works and not self.ended:
                self._plan_ahead()
                self.turn.notify_all()

    def _told(self, worker: str, known: int) -> list[dict[str, Any]]:
        """Return the plans of steps after a known one, as a worker gets them."""
        told = []
        for step in sorted(number for number in self.works if number > known):
            plan, work, backup = self.controller.plan(step), self.works[step], self._backup(step)
            rows = work.rows if not backup else work.rows * (len(self.members) - backup) // len(self.members)
            told.append({"step": step, "rows": rows, "rate": plan.rate,
                         "accumulation": plan.accumulation.get(worker, 1),
                         "pieces": [piece.to_fields() for piece in work.parts.get(worker, ())]})  # fmt: skip
        return told

    # Errors --------------------------------------------------------------------------------------------------------

    def poison(self, worker: str, epoch: int, step: int, rows: Sequence[tuple[str, int, int, str]], error: str) -> None:
        """Quarantine rows that cannot be read or learned, given as shard, fence, position and error; others go on.

        A worker whose rows are all right says so too, because a loss that is not finite is everybody's, and waits for
        the others; where nobody finds a row at fault, the error ends the run.
        """
        with self.turn:
            if epoch != self.members.epoch or step != self.committed + 1:
                return
            self._step.fine.add(worker)
            if not rows and self._step.fine >= set(self.members.names):
                self.fail(NonFiniteLoss(f"Step {step}", got=error, expected="finite numbers",
                                        do="No single row is at fault: lower the learning rates."))  # fmt: skip
            while not rows and epoch == self.members.epoch and self.failed is None:
                self.turn.wait(WAKE_S)  # somebody else is still looking
            if not rows:
                return
            grants = {(piece.grant.shard, piece.grant.fence): piece.grant
                      for work in self.works.values() for own in work.parts.values() for piece in own}  # fmt: skip
            for shard, fence, position, error in rows:
                if (shard, fence) in grants:
                    self.queue.fail(grants[shard, fence], position, error)
            self._changed("poison", worker, f"{len(rows)} rows were quarantined", time.monotonic())

    def fail(self, error: HeadraceError) -> None:
        """End the run with an error."""
        with self.turn:
            self.failed = self.failed or error
            self.turn.notify_all()

    def _raise_failure(self) -> None:
        if self.failed is not None:
            raise self.failed

    def _require_epoch(self, worker: str, epoch: int) -> None:
        if epoch != self.members.epoch or worker not in self.members:
            raise _over(epoch, self.members.epoch)


def _over(epoch: int, now: int) -> LeaseLost:
    return LeaseLost(f"Epoch {epoch}", got=f"epoch {now}", expected="the present one", do="Enter again.")
