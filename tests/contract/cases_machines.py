"""What runs on many machines, as contract cases: the work queue, on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from headrace.protocols import Lease
from headrace.runtime import Contribution, QueueConfig, ShardQueue
from headrace.testing import Verdict, check_resumable, check_work_queue
from headrace.types import State

CONFIG = QueueConfig(shard_rows=8, seed=4, shuffle=False)


class OneShardPerFile:
    """A queue whose shards are named as the check names them: every file is one shard, nothing is split."""

    def __init__(self, path: Path | None, shards: Sequence[str]) -> None:
        self.queue = ShardQueue(path, QueueConfig(shard_rows=8, shuffle=False, split_rows=100), clock=lambda: 5.0)
        for shard in shards:
            self.queue.add(shard, 8)

    def lease(self, worker: str) -> Lease | None:
        grant = self.queue.lease(worker)
        return None if grant is None else Lease(grant.source, worker, grant.fence, grant.expires)

    def done(self, lease: Lease) -> None:
        self.queue.done(Lease(f"{lease.shard}@0:0-8", lease.worker, lease.fence, lease.expires))

    def expire(self, now: float) -> int:
        return self.queue.expire(now)


class WithoutFence:
    """A queue's state but for the fence, which a restore is there to raise."""

    def __init__(self, path: Path | None, config: QueueConfig = CONFIG) -> None:
        self.queue = ShardQueue(path, config)

    def state(self) -> State:
        return {name: value for name, value in self.queue.state().items() if name != "fence"}

    def restore(self, state: State) -> None:
        self.queue.restore({**state, "fence": 0})


def advance(part: WithoutFence, step: int) -> object:
    """Grow a stream and a set of files, work, fail, and show what can be seen."""
    queue = part.queue
    queue.add(f"file-{step}", 20)
    queue.extend("stream", 7 * (step + 1))
    seen: list[object] = []
    while (grant := queue.lease("w0")) is not None and len(seen) < 3:
        start, stop = grant.ranges[0]
        seen.append((grant.shard, grant.ranges, queue.commit(len(seen) + 10 * step, [
            Contribution(grant.shard, grant.fence, start, stop - 1)])))  # fmt: skip
        queue.fail(grant, stop - 1, "bad row")
    queue.leave("w0", clean=True)
    counts = queue.counts()
    return [str(seen), counts.todo, counts.pending + counts.done, counts.quarantined, str(queue.streams())]


def queues() -> Iterator[tuple[object, ...]]:
    places: list[tuple[str, Callable[[Path], Path | None]]] = [
        ("memory", lambda _: None),
        ("disk", lambda tmp: tmp / "q"),
    ]
    for label, place in places:
        yield (
            "WorkQueue", ShardQueue,
            lambda tmp, place=place: check_work_queue(lambda shards: OneShardPerFile(place(tmp), shards)), (), label,
        )  # fmt: skip

    def resumed(tmp: Path) -> Verdict:
        numbers = iter(range(100))
        other = QueueConfig(shard_rows=8, seed=5, shuffle=False)
        return check_resumable(
            lambda: WithoutFence(tmp / f"{next(numbers)}.db"), advance, others=[lambda: WithoutFence(None, other)]
        )

    yield "Resumable", ShardQueue, resumed


CASES = [queues]
