"""A work queue over one file in shards of 8, on a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.runtime import Contribution, Grant, QueueConfig, ShardQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue_of(clock: Clock) -> Callable[..., ShardQueue]:
    def made(rows: int = 20, *, path: Path | None = None, **settings: object) -> ShardQueue:
        chosen = {"shard_rows": 8, "shuffle": False, "retry_s": 0.0, "lease_s": 10.0, **settings}
        queue = ShardQueue(path, QueueConfig(**chosen), clock=clock, durability="process")  # type: ignore[arg-type]
        queue.add("a", rows)
        return queue

    return made


@pytest.fixture
def part() -> Callable[[Grant, int, int], Contribution]:
    return lambda grant, start, stop: Contribution(grant.shard, grant.fence, start, stop)
