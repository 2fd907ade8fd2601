"""A worker's process of an asynchronous run: batch after batch of its own, until no rows are left."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from headrace.elastic.async_step import AsyncStep
from headrace.elastic.config import ElasticConfig
from headrace.elastic.poison import bad_rows
from headrace.elastic.sequence import Piece
from headrace.elastic.sync_step import Plan
from headrace.elastic.transactions import Transaction
from headrace.elastic.worker import AGAIN_S, Worker
from headrace.errors import DataError, HeadraceError, LeaseLost, NumericError, WorkerLost
from headrace.runtime.launch import Launched

_log = logging.getLogger(__name__)
IDLE_S = 0.02
"""Between two questions for rows while others have the last ones."""


class AsyncWorker(Worker):
    """One worker of an asynchronous run; arguments as for `Worker`."""

    def __init__(self, config: ElasticConfig, me: Launched, head: str, secret: bytes) -> None:
        self._own: AsyncStep | None = None
        super().__init__(config, me, head, secret)
        self._pushes, self._idle = 0, False

    def together(self) -> Any:
        """Return what the learner shares with others: nothing but the servers."""
        self._own = AsyncStep(self.name, self.remote, self._push, self.job.fit.seed)
        return self._own

    @property
    def own(self) -> AsyncStep:
        """What happens to the gradients of a batch."""
        assert self._own is not None
        return self._own

    def run(self) -> None:
        """Learn until the run has ended; then hold its final parameters.

        Raises:
            HeadraceError: What ended the run.
        """
        while not self.ended:
            told = {"pid": os.getpid(), "host": self.me.host, "rows": len(self.job.reader),
                    "generation": self.me.generation}  # fmt: skip
            place = self.call("enter", {"worker": self.name, "told": told, "step": self.taken}).fields
            self.own.epoch, self.own.pulled = int(place["epoch"]), -1
            self.remote.after = self.taken = int(place["committed"])
            try:
                self.remote.open()  # servers with other tables would take what they must not
                while not self.ended:
                    self._next()
            except (LeaseLost, WorkerLost) as error:
                _log.info("%s: epoch %s ended: %s", self.name, place["epoch"], error)
                time.sleep(AGAIN_S)
        self.remote.after = self.taken
        self.own.begin(self.learner.model)

    def _next(self) -> None:
        work = self.call("work", {"worker": self.name, "epoch": self.own.epoch}).fields
        self.taken, self.ended = int(work["committed"]), bool(work["end"])
        self.own.newest_time, self.learned = int(work["newest"]), int(work["rows"])
        self.own.usual = int(work["usual"])
        pieces = tuple(Piece.from_fields(piece) for piece in work["pieces"])
        if not pieces:
            self._idle = True
            time.sleep(0 if self.ended else IDLE_S)
            return
        if self._idle:  # nobody waited for it meanwhile: its next parameters are not older than its rows
            self._idle, self.remote.after = False, max(self.remote.after, self.taken)
        self._pushes += 1
        plan = Plan(self._pushes, sum(piece.rows for piece in pieces), 1.0, 1, pieces)
        self.own.plan, self.own.answer = plan, {}
        try:
            batch = self.job.reader.read(pieces)
            assert batch is not None
            self.own.begin(self.learner.model)
            self.learner.learn(batch)
        except (DataError, NumericError) as error:
            self._report_bad(plan, error)
        except LeaseLost:
            if not self.own.answer:
                raise  # not the rows: this worker was taken for dead
            return

    def _report_bad(self, plan: Plan, error: HeadraceError) -> None:
        rows = bad_rows(self.job.reader, self.learner, plan, error)
        fields = {"worker": self.name, "epoch": self.own.epoch, "step": plan.step, "rows": rows,
                  "error": f"{type(error).__name__}: {error}"}  # fmt: skip
        self.call("bad", fields)

    def _push(self, transaction: Transaction, plan: Plan, numbers: dict[str, Any]) -> Mapping[str, Any]:
        contributions = [[one.shard, one.fence, one.start, one.stop]
                         for one in (piece.contribution for piece in plan.pieces)]  # fmt: skip
        told: Mapping[str, Any] = self.call("push", {"transaction": transaction.text, "contributions": contributions,
                                                     **numbers}).fields  # fmt: skip
        return told
