"""What the head knows of single steps: votes, sums, results; and what it tells the table servers of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.runtime.frames import Array
from headrace.runtime.work_queue import Contribution


class Tables(Protocol):
    """What the head tells the table servers.

    Attributes:
        ready: Whether they hold what was committed; workers wait while they do not.
    """

    ready: bool

    def committed(self, step: int, epoch: int, workers: Sequence[str]) -> None:
        """Let the servers take a step: what these workers have prepared in this epoch, in this order."""
        ...

    def fence(self, epoch: int) -> None:
        """Let the servers drop what older epochs have prepared."""
        ...


@dataclass(slots=True)
class Vote:
    """A worker's word that it has prepared its part of a step and holds the sums."""

    rows: int
    seconds: float
    newest: int


@dataclass(frozen=True, slots=True)
class Result:
    """A committed step."""

    step: int
    epoch: int
    rows: int
    workers: tuple[str, ...]
    newest: int
    sums: Array | None = None


@dataclass(slots=True)
class Turn:
    """What is known of the step that is being learned."""

    votes: dict[str, Vote] = field(default_factory=dict)
    parts: dict[str, Array] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    sums: Array | None = None
    fine: set[str] = field(default_factory=set)


def merged(contributions: Sequence[Contribution]) -> list[Contribution]:
    """Return contributions with those that follow each other in one shard put together."""
    found: list[Contribution] = []
    for one in contributions:
        last = found[-1] if found else None
        if last is not None and (last.shard, last.fence, last.stop) == (one.shard, one.fence, one.start):
            found[-1] = Contribution(one.shard, one.fence, last.start, one.stop)
        else:
            found.append(one)
    return found
