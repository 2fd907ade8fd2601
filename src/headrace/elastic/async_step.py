"""One asynchronous step of a worker: parameters from the servers, gradients to them, the head's word that it counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from headrace.elastic.dense_server import gradients, load_flat
from headrace.elastic.remote_tables import RemoteTables
from headrace.elastic.sync_step import Plan
from headrace.elastic.transactions import Transaction
from headrace.errors import LeaseLost
from headrace.learn.ledger import LEDGER, record
from headrace.learn.together import Together
from headrace.store import Expiry
from headrace.types import Batch


class AsyncStep(Together):
    """What a learner does with the gradients of a batch that is its own: hands them to the servers, dense ones too.

    Args:
        worker: Name of this worker.
        remote: The tables.
        push: Tells the head that a transaction is prepared at all servers, with its numbers; returns its answer.
        seed: Of random numbers.

    Attributes:
        plan: The batch that comes next.
        epoch: Of this worker.
        newest_time: Newest event time that is known of any worker.
        pulled: The step of the parameters here; -1: none.
        slow: Seconds to sleep for so many rows: injected slowness.
        answer: What the head said to the last push.
        usual: Rows of an equal share of the global batch; 0: those of the batch.
    """

    def __init__(self, worker: str, remote: RemoteTables, push: Callable[[Transaction, Plan, dict[str, Any]],
                 Mapping[str, Any]], seed: int) -> None:  # fmt: skip
        super().__init__(None)
        self.worker, self.remote, self.epoch, self.newest_time, self.pulled = worker, remote, -1, 0, -1
        self.plan: Plan | None = None
        self.slow: Callable[[int], float] = lambda rows: 0.0
        self.answer: Mapping[str, Any] = {}
        self.usual, self.model = 0, cast("nn.Module | None", None)
        self._expiry, self._push, self._seed, self._begun = Expiry(remote.tables), push, seed, 0.0

    def begin(self, model: nn.Module) -> None:
        """Get the newest parameters into the model; from here on time counts as computing."""
        self.model = model
        self.pulled, values = self.remote.pull_dense(self.pulled)
        if values is not None:
            load_flat(model, values)
        self._begun = time.perf_counter()

    def seed(self, seed: int) -> int:
        """Return the seed as it is: random numbers are a function of the rows."""
        return seed

    def examples(self, batch: Batch) -> int:
        """Return the rows by which the gradient of a batch is divided: an equal share's, whatever this one has.

        So every row weighs the same. Pushes of few rows, of a worker that is slow, would else move the weights as far
        as those of many rows do, and with more noise.
        """
        return self.usual or super().examples(batch)

    def random(self, state: Tensor) -> Tensor:
        """Return the state that the random numbers of this batch are drawn from."""
        assert self.plan is not None
        place = self.plan.pieces[0].grant.first + self.plan.pieces[0].start if self.plan.pieces else 0
        return torch.Generator().manual_seed((self._seed * 1_000_003 + place) % (1 << 62)).get_state()

    @contextmanager
    def agreed(self, batch: Batch | None) -> Iterator[None]:
        """Prepare everything at the servers, then have the head make it count.

        Raises:
            LeaseLost: If it does not: rows have gone to somebody else, or this worker was taken for dead.
        """
        assert self.plan is not None
        assert self.model is not None
        assert batch is not None
        transaction = Transaction(self.worker, self.epoch, self.plan.step)
        self.remote.dense = gradients(self.model)
        self.model.zero_grad(set_to_none=True)  # the dense optimiser is at the server; the one here has nothing to do
        extra = self.slow(len(batch))
        if extra > 0:
            time.sleep(extra)
        seconds = time.perf_counter() - self._begun
        with self.remote.transaction(transaction):
            yield
            if LEDGER in self.remote.tables:
                record(self.remote.tables[LEDGER], batch)
            self._expiry.advance(self.newest_time)
        newest = int(batch.event_times.max())
        self.answer = self._push(transaction, self.plan, {"pulled": self.pulled, "seconds": seconds, "newest": newest})
        step = self.answer["step"]
        if step is None:
            self.remote.discard([transaction])
            raise LeaseLost(f"Push {transaction.text}", got="rows that are somebody else's now",
                            expected="a living lease", do="Ask for work again.")  # fmt: skip
        self.remote.after = int(step)

    def newest(self, times: Tensor) -> int:
        """Return 0: rows expire in the transaction of a later batch, by the newest time of all workers."""
        return 0
