"""The stateful work queue: fenced leases on shards of rows, and what became of every row, durably.

A worker leases a part of a shard, works, and the *step commit* says which of its rows the model has learned. A lease
has a fence, a number that only grows; once the lease ends, whatever comes with its fence is refused. The states
To do, doing, pending, done, quarantined and dropped divide the rows of the open epochs between them at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headrace.config import require
from headrace.errors import DataError, LeaseLost, nearest
from headrace.protocols import Lease
from headrace.runtime.ledger import Ledger
from headrace.runtime.ledger_backlog import Backlog
from headrace.runtime.ledger_clock import LeaseClock
from headrace.runtime.ledger_file import Durability
from headrace.runtime.ledger_grants import Contribution, Counts, Grant, StreamProgress, counted, grant_of, rows_of
from headrace.runtime.ledger_grants import streams as progress_of
from headrace.runtime.ledger_kept import KeptLedger
from headrace.runtime.ledger_parts import Held, Quarantined, QueueConfig
from headrace.runtime.ledger_state import check_state, manifest, restored
from headrace.types import State

__all__ = ["Contribution", "Counts", "Grant", "Quarantined", "QueueConfig", "ShardQueue", "StreamProgress", "rows_of"]

NOTE_CHARACTERS = 65_536


class ShardQueue:
    """Leases on shards of files and of growing streams; fills the role `WorkQueue`.

    Everything that changes the queue is durable before the call returns. A process that dies at any instant is
    followed by another one that opens the same path: leases live on (for `lease_s` from then), decisions are known.

    Args:
        path: The log's file; None keeps everything in memory (tests, a single process that may start over).
        config: Settings; the pinned ones must be those the log was made with.
        clock: Seconds, monotonic; used where a method is given no `now`.
        durability: See `LedgerFile`.

    Thread-safety: every method may be called from any thread; writes of threads that come together share one sync.

    Cost: O(log n) per lease, renewal and expiry, n shards or leases; no method but `state`, `held` and `quarantined`
        looks at all of anything.

    Raises:
        ConfigError: If the log was made with other pinned settings.
        StoreError: If the log cannot be written; the queue is then back at its last durable moment.
        LeaseLost: If another process has opened the log since.

    Example:
        >>> queue = ShardQueue(None, QueueConfig(shard_rows=4, shuffle=False))
        >>> queue.add("a.csv", 6)
        >>> grant = queue.lease("w0")
        >>> queue.commit(0, [Contribution(grant.shard, grant.fence, 0, 3)])
        [True]
        >>> queue.leave("w0"), queue.counts().todo
        (1, 3)
        >>> queue.commit(1, [Contribution(grant.shard, grant.fence, 3, 4)])
        [False]
    """

    def __init__(
        self, path: Path | str | None, config: QueueConfig, *, clock: Callable[[], float] = time.monotonic,
        durability: Durability = "power",
    ) -> None:  # fmt: skip
        self.config, self._clock = config, clock
        self._kept = KeptLedger(path, config, durability, self._rebuild)

    def _rebuild(self, ledger: Ledger) -> None:
        """Work out what is not kept: the backlog, and fresh deadlines."""
        self._backlog = Backlog(ledger)
        self._leases = LeaseClock(ledger.held, self._clock() + self.config.lease_s)

    @property
    def _ledger(self) -> Ledger:
        return self._kept.ledger

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make the changes of a block durable with one write, at its end; other threads wait meanwhile.

        Answers got inside are not durable before the block has ended: send them afterwards.
        """
        with self._kept.together():
            yield

    def add(self, source: str, rows: int) -> None:
        """Add a file of `rows` rows; adding it again changes nothing.

        Raises:
            DataError: If a source of this name is there and is not such a file.
        """
        require(rows >= 0, f"rows of '{source}'", got=rows, expected="0 or more")
        with self.together():
            entry = self._ledger.sources.get(source)
            if entry is not None:
                if entry.stream or entry.stop != rows:
                    raise DataError(f"Source '{source}'", got=f"{rows} rows", expected=f"{entry.stop} rows, as before",
                                    do="A file that changed is another source: give it another name.")  # fmt: skip
                return
            self._kept.do("source", source, False, 0, rows, True)
            for epoch in range(self._ledger.epochs):
                self._backlog.grow(self._ledger.sources[source], epoch, 0)

    def extend(self, source: str, stop: int, *, start: int = 0) -> int:
        """Let a stream partition reach to row `stop`; return how many rows are there that were not before.

        What was said before, or comes late, changes nothing: no row is ever handed out a second time by it.

        Args:
            source: Name of the partition; the first call makes it known.
            stop: Its end now.
            start: Where it begins; counts in the first call only.

        Raises:
            DataError: If the source is a file, or was closed.
        """
        require(stop >= start >= 0, f"stream '{source}'", got=(start, stop), expected="0 <= start <= stop")
        with self.together():
            entry = self._ledger.sources.get(source)
            before = start if entry is None else entry.stop
            if entry is not None and not entry.stream:
                raise DataError(f"Source '{source}'", got="a file", expected="a stream partition")
            if entry is not None and stop <= before:
                return 0
            if entry is not None and entry.closed:
                raise DataError(
                    f"Source '{source}'", got=f"row {stop} after it was closed", expected=f"at most {before}"
                )
            self._kept.do("source", source, True, start, stop, False)
            self._backlog.grow(self._ledger.sources[source], 0, before)
            return stop - before

    def close(self, source: str) -> None:
        """Say that a stream partition will not grow any more."""
        with self.together():
            entry = self._ledger.sources.get(source)
            if entry is None:
                known = nearest(source, self._ledger.sources)
                raise DataError(f"Source '{source}'", got="no such source", expected=known)
            if not entry.closed:
                self._kept.do("source", source, True, entry.start, entry.stop, True)

    def lease(self, worker: str, now: float | None = None) -> Grant | None:
        """Lease the free part that comes first; at the tail, the back half of the largest rest of another worker.

        Returns:
            None when nothing can be had now: all is done, or held in pieces too small to split, or resting.

        Raises:
            DataError: If more rows are quarantined than `quarantine_limit`.
        """
        with self.together():
            if len(self._ledger.bad_rows) > self.config.quarantine_limit:
                last = self.quarantined()[-1]
                raise DataError(
                    "Work queue", got=f"{len(self._ledger.bad_rows)} quarantined rows, the last one: {last.error}",
                    expected=f"at most {self.config.quarantine_limit} (quarantine_limit)",
                    do="See why rows fail; `quarantined()` lists them.",
                )  # fmt: skip
            time_now = self._clock() if now is None else now
            self._backlog.wake(time_now)
            if not self._backlog.ready and self._ledger.epochs and self._ledger.epochs < self.config.epochs:
                epoch = self._ledger.epochs
                self._kept.do("epoch", epoch)
                self._backlog.open(epoch)
            part, fence = self._backlog.pop(), self._ledger.fence + 1
            if part is not None:
                history = [part.failures, part.losses, part.mark]
                borders, ranges = [part.first, part.last], part.ranges.pairs()
                self._kept.do("lease", fence, worker, part.source, part.epoch, borders, ranges, history)
            elif not self._steal(fence, worker):
                return None
            self._leases.start(fence, time_now + self.config.lease_s)
            return self._grant(self._ledger.held[fence])

    def _steal(self, fence: int, worker: str) -> bool:
        """Split the largest rest that another worker holds."""
        victim = self._leases.largest(2 * self.config.least_split, worker)
        if victim is None:
            return False
        rows = victim.part.ranges.rows
        front = victim.part.ranges.first(rows - rows // 2)
        self._kept.do("steal", victim.fence, fence, worker, front[-1][1])
        return True

    def _grant(self, held: Held) -> Grant:
        return grant_of(self._ledger, held, self._leases.deadlines[held.fence])

    def renew(self, worker: str, now: float | None = None) -> tuple[Grant, ...]:
        """Prolong all leases of a worker; return them as they are now (a split may have made them shorter)."""
        with self.together():
            deadline = (self._clock() if now is None else now) + self.config.lease_s
            found = self._ledger.by_worker.get(worker, {})
            for fence in found:
                self._leases.renew(fence, deadline)
            return tuple(self._grant(held) for held in found.values())

    def expire(self, now: float) -> int:
        """End the leases that were not renewed before `now`; return how many. Their fences are refused from now on."""
        with self.together():
            count = 0
            for fence in self._leases.over(now):
                self._end(fence, lost=True, reason="its lease ran out")
                count += 1
            return count

    def leave(self, worker: str, *, clean: bool = False) -> int:
        """End all leases of a worker, which left or died; return how many.

        Args:
            worker: Its name.
            clean: The worker itself says that the model has learned nothing of it but what was committed; then
                at-most-once need not drop the rest, and it counts as no loss.
        """
        with self.together():
            fences = list(self._ledger.by_worker.get(worker, {}))
            for fence in fences:
                self._end(fence, lost=not clean, reason=f"worker '{worker}' left")
            return len(fences)

    def _end(self, fence: int, *, lost: bool, reason: str) -> None:
        for part in self._kept.do("back", fence, lost, reason):
            self._backlog.put(part)
        self._leases.stop(fence)

    def commit(self, step: int, contributions: Sequence[Contribution], note: str = "") -> list[bool]:
        """Record what a step has learned: all of it, durably, if every contribution is True; else nothing.

        A contribution is False when its fence is not that of a living lease, or its positions are not among those the
        lease still has to do (consumed, or split off). Leave it out and commit the step again without it; only then
        apply it to the model.

        Args:
            step: Number of the step, 0 or more; the same commit again gets the same answer.
            contributions: What the step took, from any number of leases.
            note: Kept with the step in the same record; see `decided`.

        Raises:
            VersionError: If this step was committed with other contributions: apply what `recorded` says.
        """
        require(step >= 0, "step", got=step, expected="0 or more")
        require(len(note) <= NOTE_CHARACTERS, "note", got=f"{len(note)} characters", expected=f"<= {NOTE_CHARACTERS}")
        with self.together():
            return self._commit(step, contributions, note)

    def _commit(self, step: int, contributions: Sequence[Contribution], note: str) -> list[bool]:
        listed = [(one.shard, one.fence, one.start, one.stop) for one in contributions]
        answers = self._kept.commit(step, listed, note)
        for fence in {one.fence for one in contributions}:
            if fence not in self._ledger.held:
                self._leases.stop(fence)
        return answers

    def done(self, lease: Lease) -> None:
        """Record all that is left of a lease as done; the same again changes nothing.

        Raises:
            LeaseLost: If the lease ended before, or is shorter than the one handed in, because its back was split off:
                hand in what `renew` returns, with the results of those rows only.
        """
        with self.together():
            if -lease.fence in self._kept.steps:
                return
            held = self._ledger.held.get(lease.fence)
            if held is None or held.part.shard != lease.shard:
                raise LeaseLost(f"Shard '{lease.shard}'", got=f"fence {lease.fence}", expected="that of a living lease",
                                do="It belongs to somebody else now; drop what was made of it.")  # fmt: skip
            now = self._grant(held)
            if held.split and getattr(lease, "ranges", None) != now.ranges:
                raise LeaseLost(f"Shard '{lease.shard}'", got="more than is left of a lease that was split",
                                expected=f"positions {now.ranges}", do="Renew, and hand in the lease got.")  # fmt: skip
            rest = [Contribution(lease.shard, lease.fence, start, stop) for start, stop in now.ranges]
            self._commit(-lease.fence, rest, "")

    def fail(self, lease: Lease, position: int | None, error: str) -> bool:
        """Record that work on a lease failed; False (and nothing is changed) if the lease is not alive.

        Args:
            lease: The lease.
            position: The position whose row is known to fail: that row is quarantined, the lease goes on. None: it is
                not known which; the lease ends. After `retries` failures the part is halved, and its halves with
                every further one, until a single row is left, which is quarantined after `retries` failures alone.
            error: The reason, as the list of quarantined rows will show it.

        Raises:
            DataError: If the position is not among those the lease has to do.
        """
        with self.together():
            held = self._ledger.held.get(lease.fence)
            if held is None or held.part.shard != lease.shard:
                return False
            part, place = held.part, None
            if position is not None:
                place = part.first + position
                if not part.ranges.covers(place, place + 1):
                    raise DataError(f"Shard '{lease.shard}'", got=f"position {position}",
                                    expected=f"one of {self._grant(held).ranges}")  # fmt: skip
            until = self._clock() + self.config.retry_s * 2.0 ** min(part.failures, 6)
            for freed in self._kept.do("fail", lease.fence, place, error[:2000]):
                self._backlog.put(freed, until)
            if lease.fence not in self._ledger.held:
                self._leases.stop(lease.fence)
            return True

    @property
    def last_step(self) -> int:
        """The highest step that was committed, -1 before the first."""
        return self._ledger.last_step

    def recorded(self, step: int) -> list[Contribution] | None:
        """Return what a step was committed with, None if it was not (so many are remembered)."""
        with self._kept.lock:
            found = self._kept.decision(step)
        return None if found is None else [Contribution(*one) for one in found[0]]

    def decided(self, since: int) -> list[tuple[int, str]]:
        """Return the remembered steps from `since` on with their notes, ascending."""
        with self._kept.lock:
            steps = sorted(step for step in self._kept.steps if step >= since)
            return [(step, found[1]) for step in steps if (found := self._kept.decision(step))]

    @property
    def finished(self) -> bool:
        """Whether every row of every epoch is consumed, quarantined or dropped, and no stream is open."""
        with self._kept.lock:
            ledger = self._ledger
            files = not ledger.epochs or ledger.epochs >= self.config.epochs
            closed = all(entry.closed for entry in ledger.sources.values())
            return bool(ledger.sources) and files and closed and not ledger.held and not self._backlog.rows

    def counts(self) -> Counts:
        """Return the rows by state."""
        with self._kept.lock:
            return counted(self._ledger, self._backlog.rows)

    def quarantined(self) -> list[Quarantined]:
        """Return the rows that were given up, with their reasons."""
        with self._kept.lock:
            return [row for book in self._ledger.books.values() for row in book.quarantined.values()]

    def held(self) -> list[Grant]:
        """Return all living leases."""
        with self._kept.lock:
            return [self._grant(held) for held in self._ledger.held.values()]

    def trained_through(self) -> dict[str, int]:
        """Return for every stream the row up to which all is settled: consumed, quarantined or dropped."""
        return {name: one.trained_through for name, one in self.streams().items()}

    def lag(self) -> dict[str, int]:
        """Return for every stream how many of its rows are not settled."""
        return {name: one.lag for name, one in self.streams().items()}

    def streams(self) -> dict[str, StreamProgress]:
        """Return how far every stream partition is, with what is settled beyond the unbroken run."""
        with self._kept.lock:
            return progress_of(self._ledger)

    def state(self) -> State:
        """Return what the manifest of a step keeps; take it between the commits of that step and of the next one.

        Nobody holds anything in it, and its rows count as done once `saved` was told.
        """
        with self._kept.lock:
            return manifest(self._ledger)

    def saved(self, state: State) -> None:
        """Say that a manifest with this state is durable: what it holds as consumed is DONE, not PENDING."""
        consumed = sum(stop - start for book in check_state(state, self.config)["books"] for start, stop in book[2])
        with self.together():
            self._kept.do("saved", min(consumed, self._ledger.consumed_rows))

    def restore(self, state: State) -> None:
        """Go back (or on) to a state: what was consumed since is free again, every lease ends, every fence is raised.

        Steps decided since are forgotten: they will be done again. Streams keep the length they have reached, and
        rows that were quarantined since stay quarantined. At-most-once drops what was handed out since.

        Raises:
            DataError: If it is no state of a queue; nothing is changed.
            ConfigError: If it belongs to other pinned settings; nothing is changed.
        """
        found = check_state(state, self.config)
        with self.together():
            self._kept.replace(restored(found, self._ledger))

    def shut(self) -> None:
        """Close the log's file."""
        self._kept.close()
