"""What the ledger of a work queue is made of: parts of shards, leases held, and the book of one source and epoch.

Every row of a source has one *place* per epoch, a whole number: a shard is the run of places `[first, last)`, and
`shuffle.row_numbers` says which row stands where. The ledger counts places, never rows, so it holds ranges only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from headrace.config import known_name, require
from headrace.runtime.ledger_ranges import Range, RangeSet

Mode: TypeAlias = Literal["exactly_once", "at_least_once", "at_most_once"]
MODES = ("exactly_once", "at_least_once", "at_most_once")


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """How work is cut, ordered, leased and given up.

    Args:
        shard_rows: Rows of a shard, a few global batches.
        seed: Of the two-level shuffle.
        epochs: How often the rows of files are handed out; streams are handed out once.
        mode: `exactly_once`: what a lost lease had not committed is handed out again, and a restore takes the queue
            back to the model's step. `at_least_once`: a lost lease is handed out again whole (rows committed by it
            are done twice, counted as `repeated`). `at_most_once`: the rest of a lost lease, and whatever was handed
            out after the step that is restored, is dropped and counted.
        lease_s: A lease ends this long after it was given or renewed.
        retries: Failures (or losses in a row without progress) before a part is halved, and before a single row is
            quarantined.
        shuffle: False hands shards and rows out in file order. Streams are always in order.
        split_rows: When nothing is free, a worker gets the back half of the largest rest; neither side then keeps
            fewer rows than this. None: an eighth of `shard_rows`.
        retry_s: A failed part rests this long (doubled with every failure, at most 64-fold) before it is handed out
            again, so that an outage of the data does not pass for bad rows.
        quarantine_limit: More quarantined rows than this stop the queue: the data, not the rows, is at fault.

    Raises:
        ConfigError: If a setting cannot work.
    """

    shard_rows: int = 4096
    seed: int = 0
    epochs: int = 1
    mode: Mode = "exactly_once"
    lease_s: float = 10.0
    retries: int = 3
    shuffle: bool = True
    split_rows: int | None = None
    retry_s: float = 0.25
    quarantine_limit: int = 1000

    def __post_init__(self) -> None:
        known_name("mode", self.mode, MODES)
        for name, value in (("shard_rows", self.shard_rows), ("epochs", self.epochs), ("retries", self.retries)):
            require(value >= 1, name, got=value, expected="1 or more")
        require(self.lease_s > 0, "lease_s", got=self.lease_s, expected="more than 0 seconds")
        require(self.retry_s >= 0, "retry_s", got=self.retry_s, expected="0 seconds or more")
        require(self.least_split >= 1, "split_rows", got=self.split_rows, expected="1 or more")
        require(self.quarantine_limit >= 0, "quarantine_limit", got=self.quarantine_limit, expected="0 or more")

    @property
    def least_split(self) -> int:
        """Rows that either side of a split keeps at least."""
        return self.split_rows if self.split_rows is not None else max(1, self.shard_rows // 8)

    def pinned(self) -> dict[str, object]:
        """Return the settings that a log and a state are bound to: with others, their records would mean other rows."""
        return {"shard_rows": self.shard_rows, "seed": self.seed, "mode": self.mode, "retries": self.retries,
                "shuffle": self.shuffle}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that was given up: which one, after how many failures, and what the last of them said."""

    source: str
    epoch: int
    row: int
    failures: int
    error: str


@dataclass(slots=True)
class Part:
    """Places of one shard that go together: all of it, what is left of it, or a piece of it.

    `failures` and `losses` say what happened to it; `mark` numbers a part that has such a history (0: it has none, and
    can be found again as what is left when everything else is taken away).
    """

    source: str
    epoch: int
    first: int
    last: int
    ranges: RangeSet
    failures: int = 0
    losses: int = 0
    mark: int = 0

    @property
    def shard(self) -> str:
        """The shard's name."""
        return f"{self.source}@{self.epoch}:{self.first}-{self.last}"


@dataclass(slots=True)
class Held:
    """A part that somebody works on: `part.ranges` is what is still to do, `progress` what at-least-once has of it.

    `moved` says that something of it was committed, `split` that another worker was given the back of it.
    """

    fence: int
    worker: str
    part: Part
    progress: RangeSet = field(default_factory=RangeSet)
    moved: bool = False
    split: bool = False


@dataclass(slots=True)
class Book:
    """What became of the places of one source in one epoch; the three are disjoint and only grow (until a restore)."""

    consumed: RangeSet = field(default_factory=RangeSet)
    dropped: RangeSet = field(default_factory=RangeSet)
    quarantined: dict[int, Quarantined] = field(default_factory=dict)
    settled: RangeSet = field(default_factory=RangeSet)

    def consume(self, start: int, stop: int) -> None:
        """Put places among the consumed."""
        self.consumed.add(start, stop)
        self.settled.add(start, stop)

    def drop(self, start: int, stop: int) -> None:
        """Put places among the dropped."""
        self.dropped.add(start, stop)
        self.settled.add(start, stop)

    def quarantine(self, place: int, row: Quarantined) -> None:
        """Put one place among the quarantined."""
        self.settled.add(place, place + 1)
        self.quarantined[place] = row


@dataclass(slots=True)
class SourceEntry:
    """A file part (`stream` False: rows 0 .. stop, once per epoch) or a stream partition (start .. stop, growing).

    `cuts` holds, for a stream, where each arrival ended and its number, so that partitions are served in the order in
    which their rows came.
    """

    name: str
    ordinal: int
    stream: bool
    start: int
    stop: int
    closed: bool
    cuts: list[Range] = field(default_factory=list)
