"""Which table server owns which virtual bucket, and which buckets to move when a server is slow or hot.

Ids fall into 4096 buckets (`headrace.store.bucket_of`). A map gives each bucket to one server and has a version: a
move makes the next one. Servers refuse what an older map sends them, so that nobody learns at a server that has given
a bucket away.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import ClusterError
from headrace.store import BUCKETS, bucket_of
from headrace.store.hashing import IdArray

CLOSE = 1.005
"""By how much a server that gives may stay above its share: enough not to move buckets that nobody asks for."""
RARE = 2.0
"""Load of a bucket, in units of the least there is, up to which it says nothing of that bucket alone."""
Mask = npt.NDArray[np.bool_]
"""(4096,): which buckets."""


@dataclass(frozen=True, slots=True, eq=False)
class BucketMap:
    """Who owns what.

    Attributes:
        version: Counts the moves.
        owners: (4096,) number of the server that owns each bucket.

    Thread-safety: never changes.

    Example:
        >>> before = BucketMap.even([0, 1])
        >>> after = before.moved(range(10), 1)
        >>> before.of(np.array([0])).tolist(), after.of(np.array([0])).tolist(), after.version
        ([0], [1], 1)
    """

    version: int
    owners: IdArray

    def __post_init__(self) -> None:
        require(self.owners.shape == (BUCKETS,), "BucketMap.owners", got=self.owners.shape, expected=f"({BUCKETS},)")
        require(self.version >= 0, "BucketMap.version", got=self.version, expected="a number from 0")
        self.owners.setflags(write=False)

    @staticmethod
    def even(servers: Sequence[int], version: int = 0) -> BucketMap:
        """Return a map that gives every server about as many buckets, in one stretch each."""
        require(0 < len(servers) <= BUCKETS, "servers", got=len(servers), expected=f"1 to {BUCKETS}")
        places = np.arange(BUCKETS) * len(servers) // BUCKETS
        return BucketMap(version, np.asarray(np.array(servers, np.int64)[places]))

    @property
    def servers(self) -> tuple[int, ...]:
        """The servers that own a bucket, ascending."""
        return tuple(np.unique(self.owners).tolist())

    def of(self, ids: IdArray) -> IdArray:
        """Return the server (N,) of each id (N,)."""
        return np.asarray(self.owners[bucket_of(ids)], dtype=np.int64)

    def mask(self, server: int) -> Mask:
        """Return which buckets a server owns."""
        return np.asarray(self.owners == server)

    def moved(self, buckets: Sequence[int] | range, target: int) -> BucketMap:
        """Return the next map, in which these buckets are the target's."""
        owners = self.owners.copy()
        owners[np.fromiter(buckets, np.int64)] = target
        return BucketMap(self.version + 1, owners)

    def fields(self) -> dict[str, Any]:
        """Return the map as plain values."""
        return {"version": self.version, "runs": runs_of(self.owners)}

    @staticmethod
    def read(fields: Mapping[str, Any]) -> BucketMap:
        """Return the map that `fields` told.

        Raises:
            ClusterError: If it is not one.
        """
        try:
            return BucketMap(int(fields["version"]), of_runs(fields["runs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ClusterError("Bucket map", got=str(error), expected="a version and runs of owners") from error


def runs_of(values: IdArray | Mask) -> list[list[int]]:
    """Return an array as runs of [value, length]."""
    return [[int(value), len(list(run))] for value, run in itertools.groupby(values.tolist())]


def of_runs(runs: Sequence[Sequence[int]]) -> IdArray:
    """Return the (4096,) array that `runs_of` told."""
    values = np.array([value for value, _ in runs], np.int64)
    return np.repeat(values, np.array([length for _, length in runs], np.int64))


def mask_of(buckets: Sequence[int] | range) -> Mask:
    """Return buckets as a mask.

    Raises:
        ConfigError: If there is none, or one is not from 0 to 4095.
    """
    places = np.fromiter(buckets, np.int64)
    good = bool(len(places)) and int(places.min()) >= 0 and int(places.max()) < BUCKETS
    require(good, "buckets", got=list(buckets)[:5], expected=f"numbers from 0 to {BUCKETS - 1}")
    mask = np.zeros(BUCKETS, np.bool_)
    mask[places] = True
    return mask


@dataclass(frozen=True, slots=True)
class Move:
    """Buckets that should go from one server to another."""

    source: int
    target: int
    buckets: tuple[int, ...]


def relief_plan(
    loads: npt.NDArray[Any], owners: BucketMap, shares: Mapping[int, float], margin: float = 0.1
) -> list[Move]:
    """Return the moves after which every server carries about its share of the load.

    The busiest server, measured against its share, gives buckets to the one that has most room, until it is not above
    its share any more: everybody waits for the slowest, so a little too much there costs more than a little too much
    elsewhere. Nobody gives who is not above by more than the margin. As few buckets as can be: the heaviest that fit
    go first. A single bucket that is heavier than a server's share stays where it is; it cannot be cut.

    Args:
        loads: (4096,) load of every bucket, in any unit (rows looked up since the last time).
        owners: The map now.
        shares: By server, how much of the load it should carry, in any unit: its speed. 0: it shall own nothing.
        margin: By how much a server may be above its share before it gives, as a part of it.

    Raises:
        ConfigError: If an owner has no share, a share is negative, or all are 0.

    Example:
        >>> plan = relief_plan(np.ones(4096), BucketMap.even([0, 1]), {0: 1.0, 1: 3.0})
        >>> [(move.source, move.target, len(move.buckets)) for move in plan]
        [(0, 1, 1019)]
    """
    require(set(owners.servers) <= set(shares), "shares", got=sorted(shares), expected=f"one for {owners.servers}")
    good = min(shares.values()) >= 0 < sum(shares.values())
    require(good, "shares", got=dict(shares), expected="none below 0, one above")
    weights = np.maximum(np.asarray(loads, np.float64), 1e-9)  # a bucket without load moves last, but it can move
    rare = weights <= RARE * weights[weights > 1e-9].min(initial=np.inf)
    weights[rare] = weights[rare].mean()  # which of them were met was chance: the next rows meet others, as many in all
    total = sum(shares.values())
    goal = {server: float(weights.sum()) * share / total for server, share in shares.items()}
    held = {server: weights[owners.mask(server)].sum() for server in shares}
    plan = _Relief(weights, owners.owners.copy(), goal, held, margin)
    for source in sorted(shares, key=lambda server: goal[server] - held[server]):
        if held[source] > goal[source] * (1.0 + margin) or not goal[source]:
            plan.give(source)
    return [Move(source, target, tuple(sorted(buckets))) for (source, target), buckets in sorted(plan.chosen.items())]


@dataclass
class _Relief:
    """What relief has planned so far: owners, and loads held, as they would be."""

    weights: npt.NDArray[np.float64]
    owner: IdArray
    goal: Mapping[int, float]
    held: dict[int, float]
    margin: float
    chosen: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def give(self, source: int) -> None:
        """Let a server give buckets until it carries its share, or nothing where it shall own nothing.

        The heaviest that are not more than what is too much go first, the light ones fill up. Only where that leaves
        it above its share by more than the margin, one that is more goes too: the lightest of those.
        """
        own = np.flatnonzero(self.owner == source)
        falling = own[np.argsort(-self.weights[own], kind="stable")]
        for bucket in falling.tolist():
            if self.goal[source] and self.held[source] <= self.goal[source] * CLOSE:
                return
            if not self.goal[source] or self.weights[bucket] <= self.held[source] - self.goal[source]:
                self._move(source, bucket)
        for bucket in falling[::-1].tolist():
            if self.held[source] <= self.goal[source] * (1.0 + self.margin):
                return
            if self.owner[bucket] == source:
                self._move(source, bucket)

    def _move(self, source: int, bucket: int) -> None:
        target = max(self.goal, key=lambda server: (self.goal[server] - self.held[server], -server))
        room = self.goal[target] * (1.0 + self.margin) - self.held[target]
        if target == source or (self.goal[source] > 0 and self.weights[bucket] > room):
            return
        self.chosen.setdefault((source, target), []).append(bucket)
        self.owner[bucket] = target
        self.held[source] -= self.weights[bucket]
        self.held[target] += self.weights[bucket]
