"""One synchronous step of a worker: its part of the gradients, their sums, and the agreement that the step counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from headrace.elastic.remote_tables import RemoteTables
from headrace.elastic.sequence import Piece
from headrace.elastic.transactions import Transaction
from headrace.errors import DataError, LeaseLost
from headrace.learn.ledger import LEDGER, record
from headrace.learn.together import Together
from headrace.store import Expiry
from headrace.types import Batch


@dataclass(frozen=True, slots=True)
class Plan:
    """A worker's part of a step.

    Attributes:
        step: Number of the step, from 1.
        rows: Rows of all workers together.
        rate: Factor on the learning rates.
        accumulation: Slices in which the worker computes its part.
        pieces: Its rows.
    """

    step: int
    rows: int
    rate: float
    accumulation: int
    pieces: tuple[Piece, ...]

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> Plan:
        """Read what the head told."""
        pieces = tuple(Piece.from_fields(piece) for piece in fields["pieces"])
        return Plan(
            int(fields["step"]), int(fields["rows"]), float(fields["rate"]), int(fields["accumulation"]), pieces
        )


class Summer(Protocol):
    """Adds over workers."""

    def sum_(self, values: Tensor) -> None:
        """Replace values by their sums over all workers of the step."""
        ...


class Step(Together):
    """What a learner shares with the other workers of a synchronous step.

    Gradients, running statistics, the loss and the flags of who had a gradient travel in one buffer. Tables take their
    updates in a transaction: prepared at the servers first, then the head is told, and its word makes the step count.

    Args:
        worker: Name of this worker.
        remote: The tables.
        vote: Tells the head that this worker's part is prepared, given its numbers; returns what was decided.
        seed: Of random numbers.

    Attributes:
        plan: The step that comes next.
        summer: Adds over workers.
        epoch: Of the membership.
        newest_time: Newest event time on any worker before this step.
        slow: Seconds to sleep for so many rows: injected slowness.
        seconds: What the last part took, sleep included.
        summed: Whether what is computed now comes from the sums, so that an error is everybody's.
    """

    knows_loss = False

    def __init__(self, worker: str, remote: RemoteTables, vote: Callable[[dict[str, Any]], Mapping[str, Any]],
                 seed: int) -> None:  # fmt: skip
        super().__init__(None)
        self.worker, self.remote, self.epoch, self.newest_time = worker, remote, -1, 0
        self._expiry = Expiry(remote.tables)
        self.plan: Plan | None = None
        self.summer: Summer | None = None
        self.slow: Callable[[int], float] = lambda rows: 0.0
        self.seconds, self.summed = 0.0, False
        self._vote, self._seed, self._rows, self._begun, self._own_newest = vote, seed, 0, 0.0, 0

    @property
    def several(self) -> bool:
        """Whether there may be other workers; a worker alone goes the same way."""
        return True

    def seed(self, seed: int) -> int:
        """Return the seed as it is: random numbers are a function of the step."""
        return seed

    def begin(self, rows: int) -> None:
        """Begin to compute a part of so many rows."""
        self._rows, self._begun, self.summed = rows, time.perf_counter(), False

    def random(self, state: Tensor) -> Tensor:
        """Return the state that this worker's random numbers of the step are drawn from; the same if it is redone."""
        assert self.plan is not None
        place = self.plan.pieces[0].start if self.plan.pieces else 0
        number = (self._seed * 1_000_003 + self.plan.step) * 1_000_003 + place
        return torch.Generator().manual_seed(number % (1 << 62)).get_state()

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def examples(self, batch: Batch) -> int:
        """Return the rows of all workers."""
        if not len(batch):
            raise DataError("Step", got="no examples", expected="at least one", do="Use `follow`.")
        assert self.plan is not None
        return self.plan.rows

    def mean(self, loss: Tensor, rows: int, examples: int) -> Tensor:
        """Return this worker's share of the mean loss."""
        return loss * (rows / examples)

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Add everything over workers in one call; return the mean loss of all."""
        assert self.plan is not None
        assert self.summer is not None
        share = self._rows / self.plan.rows
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        flags = torch.tensor([float(parameter.grad is not None) for parameter in learned])
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned] + [one * share for one in buffers]
        whole = torch.cat([*(part.reshape(-1).float() for part in parts), flags, loss.detach().reshape(1).float()])
        self.seconds = time.perf_counter() - self._begun
        extra = self.slow(self._rows)
        if extra > 0:
            time.sleep(extra)
            self.seconds += extra
        self.summer.sum_(whole)
        self.summed = True
        spread(whole, learned, buffers)
        return whole[-1].clone()

    @contextmanager
    def agreed(self, batch: Batch | None) -> Iterator[None]:
        """Prepare what tables take inside, then agree with the others that the step counts.

        Raises:
            LeaseLost: If it does not: another epoch has begun, and the step is done again there.
        """
        assert self.plan is not None
        self.summed = False  # what comes now is of this worker's rows
        if batch is None:
            yield
        else:
            self._own_newest = int(batch.event_times.max())
            with self.remote.transaction(Transaction(self.worker, self.epoch, self.plan.step)):
                yield
                if LEDGER in self.remote.tables:
                    record(self.remote.tables[LEDGER], batch)
                self._expiry.advance(self.newest_time)
        numbers = {"epoch": self.epoch, "step": self.plan.step, "rows": self._rows, "seconds": self.seconds,
                   "newest": self._own_newest}  # fmt: skip
        told = self._vote(numbers)
        if told["decision"] != "commit":
            raise LeaseLost(f"Step {self.plan.step}", got="another epoch", expected="the one it was prepared in",
                            do="It is done again.")  # fmt: skip
        self.newest_time = max(self.newest_time, int(told["newest"]))
        self.remote.after = self.plan.step

    def newest(self, times: Tensor) -> int:
        """Return 0: rows expire in the transaction of the next step, by the newest time of all workers."""
        return 0

    def average_buffers(self, model: nn.Module) -> None:
        """Do nothing: `add_gradients` has done it."""


def spread(whole: Tensor, learned: list[nn.Parameter], buffers: list[Tensor]) -> None:
    """Put sums where they belong: gradients (None where no worker had one) and running statistics."""
    sizes = [p.numel() for p in learned] + [one.numel() for one in buffers]
    *parts, flags, _ = torch.split(whole, [*sizes, len(learned), 1])
    for parameter, part, some in zip(learned, parts, flags.tolist(), strict=False):
        if not some:
            parameter.grad = None
        elif parameter.grad is None:
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)
        else:
            parameter.grad.copy_(part.reshape(parameter.shape))
    for buffer, part in zip(buffers, parts[len(learned) :], strict=True):
        buffer.copy_(part.reshape(buffer.shape))
