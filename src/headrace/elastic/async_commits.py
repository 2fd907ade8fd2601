"""The heart of an asynchronous run: which rows a worker takes next, and which of its pushes count, in which order.

A push is prepared at all table servers before it comes here. It counts once the queue has recorded its rows, durably
and with the push's name; that makes it the next step for every server. A worker that dies leaves rows that others take,
and pushes that nobody hears of, or steps that the servers are told all the same.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace.elastic.attendance import Attendance
from headrace.elastic.membership import Membership
from headrace.elastic.sequence import Piece
from headrace.elastic.transactions import Transaction
from headrace.elastic.turns import Result
from headrace.errors import ClusterError, HeadraceError, LeaseLost, NonFiniteLoss
from headrace.runtime.controller import Controller
from headrace.runtime.work_queue import Contribution, ShardQueue

REMEMBERED = 4096
"""Pushes whose answer is given again."""
WAKE_S = 0.25
TRIES = 3
"""How often a worker may find no row at fault for an error of its own before the run ends."""


class Tables(Protocol):
    """What is told to the table servers."""

    ready: bool
    """Whether they are all there."""

    def took(self, step: int, transactions: Sequence[Transaction]) -> None:
        """Let the servers take a step."""
        ...

    def fence(self, epoch: int, worker: str = "") -> None:
        """Let the servers refuse older epochs of a worker."""
        ...


class AsyncCommits(Attendance):
    """Members, rows and commits of an asynchronous run.

    Bounded staleness: with `max_staleness` s, a push waits while, after it, the others could not push one after
    another, those with the oldest parameters first, without one of them coming more than s steps after its parameters.
    So nobody learns from parameters that are older than s steps, and nothing is computed in vain; the fast wait for
    the slow, as far as it must be. With n workers the last of them lags n - 1 steps at least: a lower bound counts as
    that. Who has no rows is not waited for. Without a bound nobody waits.

    Args:
        queue: Where the rows are.
        members: Who takes part; epochs. A worker's epoch is that of its own entry.
        controller: Says how many rows each worker takes at once.
        tables: The table servers.
        begin_with: Workers that there are to be; they share the batch where the controller knows no shares.
        max_staleness: See above; None: no bound.
        on_commit: Told of every step, under the lock.

    Thread-safety: every method may be called from any thread; those that wait hold no lock meanwhile.
    """

    def __init__(
        self, queue: ShardQueue, members: Membership, controller: Controller, tables: Tables, *, begin_with: int = 1,
        max_staleness: int | None = None, on_commit: Callable[[Result], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(members, controller, max(queue.last_step, 0))
        self.queue, self.tables = queue, tables
        self.staleness: dict[int, int] = {}
        self._begin_with, self._bound, self._on_commit = begin_with, max_staleness, on_commit
        self._epochs: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._newest = 0
        self._puzzled: dict[str, int] = {}
        self._reported: dict[str, tuple[int, int]] = {}
        self._answers: OrderedDict[str, tuple[int, int]] = OrderedDict()
        for step, note in queue.decided(max(1, queue.last_step - REMEMBERED)):
            self._answers[note] = (step, -1)

    # Members -------------------------------------------------------------------------------------------------------

    def enter(self, worker: str, told: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Take part, from now on in a new epoch of this worker's own; what it had begun before is void."""
        with self.turn:
            self._raise_failure()
            self._leave(worker, clean=True)  # it lives, so its rows have not killed it
            self.join(worker, told, time.monotonic())
            self._epochs[worker] = self.members.epoch
            self._seen[worker] = self.committed
            self.tables.fence(self.members.epoch, worker)
            return {"epoch": self.members.epoch, "committed": self.committed, "end": self._over(),
                    "members": self.members.names}  # fmt: skip

    def gone(self, worker: str) -> None:
        """Free the rows of a worker that is gone; what it has prepared is void."""
        self.tables.fence(self.members.epoch, worker)
        self._leave(worker, clean=False)
        self.turn.notify_all()

    def _leave(self, worker: str, *, clean: bool) -> None:
        self.queue.leave(worker, clean=clean)
        self._epochs.pop(worker, None)
        self._seen.pop(worker, None)
        self._reported.pop(worker, None)

    def is_news(self, epoch: int) -> bool:
        """Return False: the epochs of others are nothing to a worker."""
        return False

    def nudge(self) -> None:
        """Free the rows of leases that have ended, and notice the end of the run."""
        with self.turn:
            self.queue.expire(time.monotonic())
            if self._over():
                self.turn.notify_all()

    def go_back(self, step: int, fields: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, at which servers and queue stand already: every worker has to enter again."""
        with self.turn:
            self.committed, self.ended = step, False
            self._epochs.clear()
            self._seen.clear()
            self._answers.clear()
            self.members.raise_epoch("restored", "", f"everything is at step {step}", time.monotonic())
            self.tables.fence(self.members.epoch)
            self.turn.notify_all()

    def homeless(self) -> bool:
        """Return False: no worker holds what a server does not."""
        return False

    def _require(self, worker: str, epoch: int) -> None:
        self._raise_failure()
        if self._epochs.get(worker) != epoch or not self.tables.ready:
            raise LeaseLost(f"Worker {worker}", got=f"epoch {epoch}", expected=f"epoch {self._epochs.get(worker)}",
                            do="Enter again.")  # fmt: skip

    def _over(self) -> bool:
        self.ended = self.ended or self.queue.finished
        return self.ended

    # Work ----------------------------------------------------------------------------------------------------------

    def work(self, worker: str, epoch: int) -> dict[str, Any]:
        """Return the pieces of a worker's next batch: as many rows as its share, or what there is; none at the end.

        Beside them stands what an equal share would be (`usual`), by which gradients are weighed.
        """
        with self.turn:
            self._require(worker, epoch)
            sizes = self.controller.plan(self.committed).sizes
            wanted = sizes.get(worker) or max(1, self.controller.config.batch // self._begin_with)
            usual = max(1, round(self.controller.batch / len(sizes))) if sizes else wanted
            with self.queue.together():
                pieces = self._pieces(worker, wanted)
            if pieces:
                self._seen.setdefault(worker, self.committed)
            elif self._seen.pop(worker, None) is not None:  # it reads parameters anew before it learns again
                self.turn.notify_all()
            return {"pieces": [piece.to_fields() for piece in pieces], "end": not pieces and self._over(),
                    "committed": self.committed, "newest": self._newest, "rows": self._learned(),
                    "usual": usual}  # fmt: skip

    def _learned(self) -> int:
        counts = self.queue.counts()
        return counts.pending + counts.done

    def _pieces(self, worker: str, wanted: int) -> list[Piece]:
        found, grants = list[Piece](), list(self.queue.renew(worker))
        while wanted > 0:
            for grant in grants:
                for start, stop in grant.ranges:
                    if wanted > 0:
                        found.append(Piece(grant, start, min(stop, start + wanted)))
                        wanted -= found[-1].rows
            more = self.queue.lease(worker) if wanted > 0 else None
            if more is None:
                break
            grants = [more]
        return found

    def push(
        self, transaction: Transaction, contributions: Sequence[Contribution], pulled: int, seconds: float, newest: int
    ) -> dict[str, Any]:
        """Make a prepared push count, once: the same push again gets the same answer.

        Args:
            transaction: What was prepared.
            contributions: The rows it learned from.
            pulled: The step of the parameters that it was computed with.
            seconds: What computing took.
            newest: Newest event time in it.

        Returns:
            `step`, or None where a row is not the worker's any more: then nothing counts, and the worker asks for
            work again; `staleness`: steps between `pulled` and this one.

        Raises:
            LeaseLost: If the worker's epoch is over.
        """
        with self.turn:
            if transaction.text not in self._answers:
                self._wait_for_the_slow(transaction)
            known = self._answers.get(transaction.text)  # the same push, asked again, may have waited beside this one
            if known is not None:
                return {"step": known[0], "staleness": known[1]}
            self._require(transaction.worker, transaction.epoch)
            step = self.committed + 1
            if not all(self.queue.commit(step, contributions, note=transaction.text)):
                return {"step": None, "staleness": -1}
            self.committed, staleness = step, step - 1 - pulled
            self._remember(transaction.text, step, staleness)
            self.staleness[staleness] = self.staleness.get(staleness, 0) + 1
            self._newest = max(self._newest, newest)
            self._seen[transaction.worker] = step  # it waits for its own step before it reads parameters again
            self._puzzled.pop(transaction.worker, None)
            self.turn.notify_all()
            try:
                self.tables.took(step, [transaction])
                self._tell(transaction, sum(one.stop - one.start for one in contributions), seconds)
            except HeadraceError as error:
                self.fail(error)
            except Exception as error:  # noqa: BLE001 - the step counts: the run must not go on with half of this done
                self.fail(ClusterError(f"Step {step}, after its commit", got=f"{type(error).__name__}: {error}"))
            return {"step": step, "staleness": staleness}

    def _wait_for_the_slow(self, transaction: Transaction) -> None:
        worker = transaction.worker
        while (
            self._epochs.get(worker) == transaction.epoch
            and transaction.text not in self._answers
            and self.failed is None
            and self._too_early(worker)
        ):
            self.turn.wait(WAKE_S)

    def _too_early(self, worker: str) -> bool:
        """Return whether, after a push now, somebody's parameters would be too old before it can push."""
        if self._bound is None or worker == min(self._seen, key=lambda name: self._seen[name], default=worker):
            return False  # the oldest need not wait for anybody: somebody can always push
        bound = max(self._bound, len(self._epochs) - 1)
        others = sorted(seen for other, seen in self._seen.items() if other != worker)
        return any(self.committed + place - seen > bound for place, seen in enumerate(others, 1))

    def _remember(self, text: str, step: int, staleness: int) -> None:
        self._answers[text] = (step, staleness)
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    def _tell(self, transaction: Transaction, rows: int, seconds: float) -> None:
        now = time.monotonic()
        self.controller.record_step(transaction.worker, self.committed, rows, seconds)
        self.controller.tick(now, self.committed)
        if self._on_commit is not None:
            self._on_commit(Result(self.committed, transaction.epoch, rows, (transaction.worker,), self._newest))

    # What cannot be learned ----------------------------------------------------------------------------------------

    def poison(self, worker: str, epoch: int, step: int, rows: Sequence[tuple[str, int, int, str]], error: str) -> None:
        """Quarantine rows that cannot be read or learned, given as shard, fence, position and error.

        What was told already, of the same step of the same worker, is not counted again. A worker that finds no row at
        fault several times running ends the run.
        """
        with self.turn:
            self._require(worker, epoch)
            if self._reported.get(worker) == (epoch, step):
                return
            self._reported[worker] = (epoch, step)
            grants = {(grant.shard, grant.fence): grant for grant in self.queue.renew(worker)}
            for shard, fence, position, why in rows:
                if (shard, fence) in grants:
                    self.queue.fail(grants[shard, fence], position, why)
            if rows:
                return
            self._puzzled[worker] = self._puzzled.get(worker, 0) + 1
            if self._puzzled[worker] >= TRIES:
                self.fail(NonFiniteLoss(f"Worker {worker}", got=error, expected="finite numbers",
                                        do="No single row is at fault: lower the learning rates."))  # fmt: skip
