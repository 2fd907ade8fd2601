"""Settings and counts of an event-time join."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from headrace.config import require


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Settings of an event-time join.

    Attributes:
        window_s: Attribution window: an action belongs to its impression when it happens at the impression's time or
            at most this much later.
        lateness_s: How much later than the newest event another event may come in; the watermark is the newest event
            time minus this.
        positive: Kinds of actions that make an example positive; other kinds are counted and ignored.
        negative_rate: Share of negatives that is kept, chosen by a hash of (seed, example id).
        seed: Of that hash.
        memory_rows: Pending impressions held in memory; older ones go to `spill`.
        spill: Folder of the disk tier, which no other join may use; None keeps everything in memory.
        max_ahead_s: Drop (and count) events whose time is later than their `accepted_time` by more than this: one
            wrong clock would otherwise move the watermark and close every window. None trusts event times; for logs
            whose event times are not wall times.
        value: Column of the actions that becomes the label of their example: a reward, a rating, seconds watched.
            Empty: the label of a positive is 1. With it an impression that got no action gives no example (it is
            counted as sampled out), because there is nothing to say about it.
    """

    window_s: float
    lateness_s: float
    positive: tuple[str, ...] = ("click",)
    negative_rate: float = 1.0
    seed: int = 0
    memory_rows: int = 1_000_000
    spill: Path | None = None
    max_ahead_s: float | None = None
    value: str = ""

    def __post_init__(self) -> None:
        for name in ("window_s", "lateness_s"):
            value = getattr(self, name)
            require(0 <= value < 1e9, name, got=value, expected="seconds, at least 0")
        kinds = self.positive
        require(len(kinds) > 0, "positive", got=kinds, expected="at least one kind of action")
        distinct = type(kinds) is tuple and "impression" not in kinds and len(set(kinds)) == len(kinds)
        require(distinct, "positive", got=kinds, expected="a tuple of different kinds of actions")
        require(0 < self.negative_rate <= 1, "negative_rate", got=self.negative_rate, expected="more than 0, at most 1")
        require(self.memory_rows >= 1, "memory_rows", got=self.memory_rows, expected="a positive number of rows")
        ahead = self.max_ahead_s
        require(ahead is None or ahead >= 0, "max_ahead_s", got=ahead, expected="seconds, at least 0, or None")

    @property
    def window(self) -> int:
        """The attribution window in µs."""
        return round(self.window_s * 1e6)

    @property
    def lateness(self) -> int:
        """The allowed lateness in µs."""
        return round(self.lateness_s * 1e6)


@dataclass(slots=True)
class JoinCounts:
    """What a join did with every row it was given; part of its state."""

    positives: int = 0
    negatives: int = 0
    sampled_out: int = 0
    late_impressions: int = 0
    late_actions: int = 0
    orphan_actions: int = 0
    duplicate_impressions: int = 0
    duplicate_actions: int = 0
    other_rows: int = 0
    ahead_rows: int = 0
    erased: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinStats:
    """Where a join stands.

    Attributes:
        pending: Impressions whose window is open; `in_memory` and `on_disk` say how many rows each tier holds.
        waiting: Actions that wait for their impression.
        positives, negatives: Examples emitted; `sampled_out` counts the negatives left out by `negative_rate`.
        late: Impressions that came after their window had closed, and actions after the end of their window.
        orphan: Actions whose impression never came, or that precede it.
        duplicate: Repeated impressions, and actions on an example that is positive already.
        other: Rows of kinds that the join does not use, and rows from clocks that run ahead.
        erased: Pending impressions dropped because their user was erased.
        watermark, newest: Event times, µs; -1 before the first event.
        oldest_pending: Event time of the oldest pending impression, -1 when there is none.
    """

    pending: int
    in_memory: int
    on_disk: int
    waiting: int
    positives: int
    negatives: int
    sampled_out: int
    late: int
    orphan: int
    duplicate: int
    other: int
    watermark: int
    newest: int
    oldest_pending: int
    erased: int = 0

    def watermark_lag_s(self, now: int) -> float:
        """Return how far the watermark is behind `now` (µs), in seconds; NaN before the first event."""
        return (now - self.watermark) / 1e6 if self.watermark >= 0 else float("nan")

    def pending_span_s(self) -> float:
        """Return the event time between the oldest pending impression and the newest event, in seconds."""
        return (self.newest - self.oldest_pending) / 1e6 if self.oldest_pending >= 0 else 0.0
