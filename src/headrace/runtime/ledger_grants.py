"""What a work queue hands out and takes back: grants, contributions, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.protocols import Lease
from headrace.runtime.ledger import Ledger
from headrace.runtime.ledger_parts import Held
from headrace.runtime.ledger_ranges import Range, RangeSet
from headrace.runtime.shuffle import row_numbers

Listed: TypeAlias = tuple[str, int, int, int]
"""A contribution as it stands in the log: shard, fence, start, stop."""


@dataclass(frozen=True, slots=True)
class Grant(Lease):
    """A lease with everything needed to read its rows; `ranges` are the positions in the shard still to do.

    The shard is the rows `first .. last` of `source`; position p of it is row `rows_of(grant, p, p + 1)`.
    """

    source: str
    epoch: int
    first: int
    last: int
    seed: int
    shuffled: bool
    ranges: tuple[Range, ...]

    @property
    def rows(self) -> int:
        """Rows still to do."""
        return sum(stop - start for start, stop in self.ranges)

    def to_fields(self) -> dict[str, Any]:
        """Return the grant as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> Grant:
        """Read what `to_fields` returned, also after a journey through JSON."""
        return Grant(**{**fields, "ranges": tuple((start, stop) for start, stop in fields["ranges"])})


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a step takes from a lease: positions `start .. stop` of the shard."""

    shard: str
    fence: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Rows by state, over all open epochs; the first six add up to `total`.

    `pending` rows are consumed by a step that no manifest holds yet. `repeated` counts rows that at-least-once handed
    out again after they had been committed once.
    """

    todo: int
    doing: int
    pending: int
    done: int
    quarantined: int
    dropped: int
    total: int
    repeated: int
    epochs: int
    leases: int


def rows_of(grant: Grant, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return the row numbers of `grant.source` at positions `start .. stop` of the shard, (stop - start,) int64."""
    return row_numbers(
        grant.seed, grant.source, grant.epoch, grant.first, grant.last - grant.first, grant.shuffled, start, stop
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProgress:
    """How far a stream partition is: all rows before `trained_through` are settled, and those of `ahead` beyond it.

    Settled is consumed, quarantined or dropped; `lag` counts what is there (up to `stop`) and not settled.
    """

    stop: int
    trained_through: int
    lag: int
    ahead: tuple[Range, ...]
    closed: bool


def grant_of(ledger: Ledger, held: Held, expires: float) -> Grant:
    """Return a lease as its worker is told of it."""
    part = held.part
    shuffled = ledger.config.shuffle and not ledger.sources[part.source].stream
    return Grant(
        shard=part.shard, worker=held.worker, fence=held.fence, expires=expires, source=part.source, epoch=part.epoch,
        first=part.first, last=part.last, seed=ledger.config.seed, shuffled=shuffled,
        ranges=tuple((start - part.first, stop - part.first) for start, stop in part.ranges),
    )  # fmt: skip


def judged(ledger: Ledger, listed: Sequence[Listed]) -> list[bool]:
    """Say of every contribution (shard, fence, start, stop) whether it may be recorded, together with those before it.

    It may if its fence is that of a living lease on the shard, which has all of the positions, one at least, to do.
    """
    answers, taken = list[bool](), dict[int, RangeSet]()
    for shard, fence, start, stop in listed:
        held = ledger.held.get(fence)
        good = held is not None and held.part.shard == shard and 0 <= start < stop
        if held is not None and good:
            place, end = held.part.first + start, held.part.first + stop
            before = taken.setdefault(fence, RangeSet())
            good = held.part.ranges.covers(place, end) and not before.meets(place, end)
            if good:
                before.add(place, end)
        answers.append(good)
    return answers


def counted(ledger: Ledger, todo: int) -> Counts:
    """Return the rows by state, given how many are free."""
    doing = sum(held.part.ranges.rows + held.progress.rows for held in ledger.held.values())
    sources = ledger.sources.values()
    total = sum((one.stop - one.start) * (1 if one.stream else ledger.epochs) for one in sources)
    return Counts(
        todo=todo, doing=doing, pending=ledger.consumed_rows - ledger.done_rows, done=ledger.done_rows,
        quarantined=ledger.quarantined_rows, dropped=ledger.dropped_rows, total=total, repeated=ledger.repeated_rows,
        epochs=ledger.epochs, leases=len(ledger.held),
    )  # fmt: skip


def streams(ledger: Ledger) -> dict[str, StreamProgress]:
    """Return how far every stream partition is."""
    found = {}
    for entry in [entry for entry in ledger.sources.values() if entry.stream]:
        settled = ledger.books[entry.name, 0].settled
        reached = settled.reach(entry.start)
        found[entry.name] = StreamProgress(
            stop=entry.stop, trained_through=reached, lag=entry.stop - entry.start - settled.rows,
            ahead=tuple(pair for pair in settled if pair[0] > reached), closed=entry.closed,
        )  # fmt: skip
    return found
