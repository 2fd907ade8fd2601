"""Who learns now: the members of a run, and the epoch, a number that rises with every change of them.

What belongs to an epoch (a group of workers that add their gradients, leases, prepared updates) is void in the next
one; so a process that was taken for dead, and was not, can do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import StoreError
from headrace.publish.durable_files import write_whole

RESERVED = 64
"""Epochs in one note on disk; a head that starts again goes on above all of them."""


@dataclass(slots=True)
class Member:
    """A worker that takes part.

    Attributes:
        name: Unique in the run.
        index: Its number; members are ordered by it.
        told: What it says of itself: process id, host, where its store is, how often it was replaced.
        joined: When it came.
        seen: When it was last heard of (monotonic).
    """

    name: str
    index: int
    told: Mapping[str, Any] = field(default_factory=dict)
    joined: float = 0.0
    seen: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the members: what happened, to whom, why, and in which epoch it resulted."""

    time: float
    epoch: int
    kind: str
    worker: str
    reason: str


class Membership:
    """Members and epoch; the epoch is durable before anybody learns of it.

    Args:
        path: File with the epoch; a head that starts again goes on above it.
        silence_s: After so long without a sign of life a member is lost.
        sync: Whether the epoch has to outlive a power cut.

    Thread-safety: none; the head calls it under its lock.

    Example:
        >>> from tempfile import mkdtemp
        >>> members = Membership(Path(mkdtemp(), "epoch.json"), silence_s=1.0)
        >>> members.join("worker-1", {}, now=0.0), members.join("worker-0", {}, now=0.5)
        (True, True)
        >>> members.names, members.epoch, members.silent(now=1.2)
        (['worker-0', 'worker-1'], 3, ['worker-1'])
    """

    def __init__(self, path: Path, silence_s: float, *, sync: bool = False) -> None:
        self._path, self._silence_s, self._sync = path, silence_s, sync
        self._members: dict[str, Member] = {}
        self.events: list[Event] = []
        self.epoch = int(json.loads(path.read_text())["epoch"]) if path.is_file() else 0
        self._reserved = self.epoch
        self.raise_epoch("start", "", "the head started", 0.0)

    @property
    def names(self) -> list[str]:
        """Names of the members, in the order of their numbers."""
        return [member.name for member in sorted(self._members.values(), key=lambda one: (one.index, one.name))]

    def __contains__(self, worker: object) -> bool:
        return worker in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, worker: str) -> Member:
        return self._members[worker]

    def join(self, worker: str, told: Mapping[str, Any], now: float) -> bool:
        """Take a worker in, or in place of its former self; return whether the epoch rose."""
        index = int(worker.rpartition("-")[2]) if worker.rpartition("-")[2].isdigit() else 1 << 30
        self.raise_epoch("joined", worker, "", now)
        self._members[worker] = Member(worker, index, dict(told), now, now)
        return True

    def leave(self, worker: str, reason: str, now: float) -> bool:
        """Drop a worker; return whether it was a member, and so the epoch rose."""
        if worker not in self._members:
            return False
        self.raise_epoch("left", worker, reason, now)
        del self._members[worker]
        return True

    def seen(self, worker: str, now: float) -> bool:
        """Note a sign of life; return whether it is a member."""
        member = self._members.get(worker)
        if member is not None:
            member.seen = now
        return member is not None

    def silent(self, now: float) -> list[str]:
        """Return the members that have been silent for too long."""
        return [member.name for member in self._members.values() if now - member.seen > self._silence_s]

    def forgive(self, now: float) -> None:
        """Count every member as seen: after the head itself stood still, silence says nothing."""
        for member in self._members.values():
            member.seen = now

    def raise_epoch(self, kind: str, worker: str, reason: str, now: float) -> int:
        """Begin the next epoch and return it.

        Epochs are reserved on disk many at a time, so that a disk that is full now stops nobody from leaving.

        Raises:
            StoreError: If they cannot be reserved; nothing has changed.
        """
        if self.epoch >= self._reserved:
            try:
                write_whole(self._path, json.dumps({"epoch": self.epoch + RESERVED}).encode(), sync=self._sync)
            except OSError as error:
                raise StoreError(f"Epochs in {self._path}", got=str(error), expected="a file that can be written",
                                 do="Look at the free space and the rights of its folder.") from error  # fmt: skip
            self._reserved = self.epoch + RESERVED
        self.epoch += 1
        self.events.append(Event(now, self.epoch, kind, worker, reason))
        return self.epoch
