"""The roles: what the parts of the loop must be able to do, and nothing more.

Every published method is one small part plugged into one of these roles. `headrace.testing.checks` holds the contract
of each role as a function that any part, ours or yours, can be put through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from headrace.types import Batch, Change, Events, Loss, Position, RowChange, State, Version


@runtime_checkable
class Resumable(Protocol):
    """Anything whose state goes into the manifest: `restore(state())` in a fresh instance continues exactly."""

    def state(self) -> State:
        """Return everything needed to continue, as plain values, bytes and tensors."""
        ...

    def restore(self, state: State) -> None:
        """Continue from what `state` returned; refuses state of another configuration before changing anything."""
        ...


@runtime_checkable
class Source(Protocol):
    """Events, resumable. Lost calls: `read` may be repeated after `seek(position())` and returns the same rows."""

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` next rows; None means nothing yet. Never blocks for long.

        Raises:
            SourceEnded: When a finite source has no more rows.
        """
        ...

    def position(self) -> Position:
        """Return where reading resumes: after the last row that `read` returned."""
        ...

    def seek(self, position: Position) -> None:
        """Resume at a position that `position` returned earlier; `{}` is the beginning."""
        ...


@runtime_checkable
class Feedback(Protocol):
    """Whoever answers a prediction: users, a reward model, annotators. Answers may be late or none."""

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Take notice of new predictions and return the answers that have arrived by now (to any earlier one)."""
        ...


@runtime_checkable
class Joiner(Resumable, Protocol):
    """Events to examples, in event time.

    Repeating an `add` with the same rows adds nothing, except for a joiner over rows that are examples already, which
    its source gives once.
    """

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        """Add rows and return the examples that are complete now, or None.

        `predictions`, when given, is row-aligned with `requests` and has `score` and `version` columns.
        """
        ...

    def flush(self) -> Batch | None:
        """End of stream: return what is still pending, as if the watermark had passed everything."""
        ...


@runtime_checkable
class Table(Resumable, Protocol):
    """One collisionless embedding table of dimension D; any int64 is an id."""

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D) float32 for ids (N,) int64; an id without a row reads its initial row. No side effect."""
        ...

    def update(self, ids: Tensor, grads: Tensor, counts: Tensor, times: Tensor) -> None:
        """Learn one step: unique ids (N,), summed gradients (N, D), occurrences (N,) int64, event times (N,) µs.

        Counts towards admission, inserts ids that reach the threshold and applies the row rule to admitted ones;
        gradients of ids that are not admitted are dropped and counted as filtered.
        """
        ...

    def changes(self, since: int) -> RowChange:
        """Return rows put and ids removed after mark `since` (0 = from the beginning; see `mark`).

        Raises:
            StaleError: If changes that old are no longer kept.
        """
        ...

    def mark(self) -> int:
        """Return the current position in the table's own history, to be passed to `changes` later."""
        ...

    def evict(self, before: int) -> int:
        """Remove every row, and forget every count, last touched before time `before` (µs); return rows removed."""
        ...


@runtime_checkable
class Objective(Protocol):
    """A method's loss; stateless."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch."""
        ...


@runtime_checkable
class Learner(Resumable, Protocol):
    """Owns a model's training state. Learning is deterministic: same state and batches, same bits."""

    def learn(self, batch: Batch) -> Loss:
        """Learn one step from the batch.

        Raises:
            NonFiniteLoss: If the loss or a gradient is not finite; nothing was changed.
            DataError: If the objective refuses the batch; nothing was changed.
        """
        ...

    def changes(self, since: Version) -> Change:
        """Return what was learned after version `since`, as a change whose version is `since.number + 1`."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """Makes versions durable and ordered."""

    def publish(self, change: Change) -> Change:
        """Return the change once it is durable. A repeated one is recognised by (number, checksum) and kept once.

        Raises:
            GapError: If the number is not the next one, or its content differs from what was published under it.
        """
        ...

    def last(self) -> Version:
        """Return the last durable version; number -1 when there is none."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """Scores, ranks, generates or retrieves: answers requests with the version that it has."""

    def predict(self, requests: Events) -> Events:
        """Return one row per request row: key, kind `prediction`, event_time, item, score, version."""
        ...

    def apply(self, change: Change) -> None:
        """Move to the change's version. Idempotent; a version already passed is ignored.

        Raises:
            GapError: If the change's parent is not the version held; nothing was changed.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """Judges predictions as they were made, before anything is learned from the batch."""

    def update(self, batch: Batch) -> None:
        """Take a batch into account."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the numbers so far; NaN where there is not enough data."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one shard until `expires` (seconds, monotonic clock of the queue); `fence` only grows."""

    shard: str
    worker: str
    fence: int
    expires: float


@runtime_checkable
class WorkQueue(Protocol):
    """Leases on shards of work, for training and for batch inference."""

    def lease(self, worker: str) -> Lease | None:
        """Return a lease on a free shard, or None when none is free now."""
        ...

    def done(self, lease: Lease) -> None:
        """Record a shard as finished; LeaseLost if the lease ran out and the shard went to somebody else."""
        ...

    def expire(self, now: float) -> int:
        """Free the shards of leases that ended before `now`; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class Placement:
    """Which role runs on which processes and devices; data only."""

    processes: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)


class RowTransform(Protocol):
    """A change of row gradients before the row rule (CowClip and its like); a frozen dataclass.

    It may have `over(rows, grads, counts) -> (N,) bool`, which rows count as clipped (without it: those whose gradient
    it changes), and `lost_when_missed`, the part of a row, times the rate, that an update takes which the row misses.
    """

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return new gradients (N, D) from rows (N, D), summed gradients (N, D) and occurrence counts (N,)."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """A factor on a learning rate, by the number of the update; stateless, a frozen dataclass."""

    def __call__(self, step: int) -> float:
        """Return the factor, finite and at least 0, of update `step` (1, 2, ...)."""
        ...


class Cadence(Protocol):
    """Says when a new version is due."""

    def due(self, batch: Batch | None) -> bool:
        """Return whether to publish now, after `batch` was learned (None: an empty step)."""
        ...


class Checkpoint(Protocol):
    """Keeps states atomically; the loop uses it, a manifest directory implements it."""

    def save(self, state: State) -> None:
        """Make the state durable; a crash leaves either the earlier state or this one."""
        ...

    def load(self) -> State | None:
        """Return the newest whole state, or None."""
        ...
