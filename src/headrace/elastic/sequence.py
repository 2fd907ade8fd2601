"""Which rows a synchronous step learns, and which of them every worker takes: cut from one order that all runs share.

The examples of an epoch stand in one order: shards as the queue hands them out, rows as they stand in their shard. Step
after step takes the next rows of it, and the workers of a step take consecutive parts of those. So how many workers
there are, how much each takes, and who died on the way does not change what a step learns from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.runtime.work_queue import Contribution, Grant, ShardQueue


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions `start .. stop` of a leased shard."""

    grant: Grant
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    @property
    def contribution(self) -> Contribution:
        """The piece as a step's commit names it."""
        return Contribution(self.grant.shard, self.grant.fence, self.start, self.stop)

    def to_fields(self) -> dict[str, Any]:
        """Return the piece as plain values."""
        return {"grant": self.grant.to_fields(), "start": self.start, "stop": self.stop}

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> Piece:
        """Read what `to_fields` returned."""
        return Piece(Grant.from_fields(fields["grant"]), int(fields["start"]), int(fields["stop"]))


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a step learns from.

    Attributes:
        step: Its number, from 1.
        rows: Rows of all workers together.
        parts: Pieces by worker; a worker that is not named has none.
    """

    step: int
    rows: int
    parts: Mapping[str, tuple[Piece, ...]]

    def contributions(self, workers: Sequence[str]) -> list[Contribution]:
        """Return what these workers bring."""
        return [piece.contribution for worker in workers for piece in self.parts.get(worker, ())]


class RowSequence:
    """Cuts steps from the order of examples, leasing shards as they are needed.

    Args:
        queue: Whose shards.

    Thread-safety: none; the head calls it under its lock.

    Example:
        >>> from headrace.runtime.work_queue import QueueConfig
        >>> queue = ShardQueue(None, QueueConfig(shard_rows=4, shuffle=False, split_rows=4))
        >>> queue.add("a", 10)
        >>> rows = RowSequence(queue)
        >>> rows.begin("group-1")
        >>> work = rows.take(1, {"worker-0": 4, "worker-1": 2})
        >>> [(name, piece.start, piece.stop, piece.grant.first) for name, own in work.parts.items() for piece in own]
        [('worker-0', 0, 4, 0), ('worker-1', 0, 2, 4)]
    """

    def __init__(self, queue: ShardQueue) -> None:
        self._queue, self._holder = queue, ""
        for holder in {grant.worker for grant in queue.held()}:  # of a head that died
            queue.leave(holder, clean=True)
        self._ready: deque[Piece] = deque()

    def begin(self, holder: str) -> None:
        """Start anew behind what is committed, with leases of another holder; those of the former one end."""
        self._ready.clear()
        if self._holder:
            self._queue.leave(self._holder, clean=True)  # what was not committed was not learned
        self._holder = holder

    def give_back(self, pieces: Sequence[Piece]) -> None:
        """Put pieces that were not learned before all others."""
        self._ready.extendleft(reversed(pieces))

    def take(self, step: int, sizes: Mapping[str, int]) -> StepWork | None:
        """Return the work of the next step; None when there is none left.

        A step does not reach over the end of an epoch: the last one of it has fewer rows, shared in proportion.

        Args:
            step: Its number.
            sizes: Rows by worker, in the order of workers.
        """
        wanted = sum(sizes.values())
        pieces, rows = self._gather(wanted)
        if not rows:
            return None
        shares = dict(sizes) if rows == wanted else _in_proportion(sizes, rows)
        return StepWork(step, rows, _dealt(pieces, shares))

    def _gather(self, wanted: int) -> tuple[list[Piece], int]:
        found: list[Piece] = []
        rows = 0
        while rows < wanted:
            if not self._ready and not self._lease():
                break
            piece = self._ready[0]
            if found and piece.grant.epoch != found[0].grant.epoch:
                break
            self._ready.popleft()
            if piece.rows > wanted - rows:
                cut = piece.start + wanted - rows
                self._ready.appendleft(Piece(piece.grant, cut, piece.stop))
                piece = Piece(piece.grant, piece.start, cut)
            found.append(piece)
            rows += piece.rows
        return found, rows

    def _lease(self) -> bool:
        grant = self._queue.lease(self._holder)
        if grant is None:
            return False
        self._ready.extend(Piece(grant, start, stop) for start, stop in grant.ranges)
        return True


def _in_proportion(sizes: Mapping[str, int], rows: int) -> dict[str, int]:
    """Share fewer rows in the proportion of sizes: rounded down, what is left to the largest remainders.

    Example:
        >>> _in_proportion({"a": 6, "b": 3, "c": 3}, 6)
        {'a': 3, 'b': 2, 'c': 1}
    """
    total = sum(sizes.values())
    shares = {name: rows * size // total for name, size in sizes.items()}
    rests = sorted(sizes, key=lambda name: -(rows * sizes[name] % total))
    for name in rests[: rows - sum(shares.values())]:
        shares[name] += 1
    return shares


def _dealt(pieces: Sequence[Piece], shares: Mapping[str, int]) -> dict[str, tuple[Piece, ...]]:
    """Give every worker its rows, one worker after the other."""
    rest = deque(pieces)
    parts: dict[str, tuple[Piece, ...]] = {}
    for name, share in shares.items():
        own: list[Piece] = []
        left = share
        while left:
            piece = rest.popleft()
            if piece.rows > left:
                rest.appendleft(Piece(piece.grant, piece.start + left, piece.stop))
                piece = Piece(piece.grant, piece.start, piece.start + left)
            own.append(piece)
            left -= piece.rows
        if own:
            parts[name] = tuple(own)
    return parts
