"""Every order of events, up to a depth: two workers, two shards, and whatever may happen to their leases.

A breadth-first search over the queue itself, not over a model of it: from each state every event is tried, states that
differ only in the numbers of fences and steps are one, and after every event all rows must be in exactly one state and
what the model has learned must be what the queue says. The search is checked by breaking the queue: without fences,
without the rule for split leases, and without the memory of steps it must find a counterexample.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from headrace.errors import LeaseLost, VersionError
from headrace.protocols import Lease
from headrace.runtime import Contribution, Grant, QueueConfig, ShardQueue
from headrace.runtime.ledger_state import capture, load

ROWS = (("a", 2), ("b", 2))
WORKERS = ("w0", "w1")
CONFIG = QueueConfig(shard_rows=2, shuffle=False, retries=2, split_rows=1, retry_s=0.0, lease_s=10.0)


class Wrong(Exception):
    pass


@dataclass
class Mind:
    """What a worker believes: the rows it works on, and the commit it sent last (it may send it again)."""

    grant: Grant | None = None
    at: int = 0
    sent: tuple[int, list[Contribution], bool] | None = None

    def rest(self) -> list[int]:
        return [] if self.grant is None else [p for lo, hi in self.grant.ranges for p in range(lo, hi)][self.at :]


@dataclass
class World:
    queue: ShardQueue
    learned: dict[tuple[str, int], int] = field(default_factory=dict)
    step: int = 0
    minds: dict[str, Mind] = field(default_factory=lambda: {worker: Mind() for worker in WORKERS})
    saved: tuple[dict, dict[tuple[str, int], int], int] | None = None

    def copy(self) -> World:
        """As if the head had died: the queue is built anew from what it wrote down."""
        queue = type(self.queue)(None, CONFIG, clock=lambda: 0.0)
        ledger = load(json.loads(json.dumps(capture(self.queue._ledger))), CONFIG)
        queue._kept.ledger = ledger
        queue._rebuild(ledger)
        queue._kept.steps = dict(self.queue._kept.steps)
        minds = {name: Mind(mind.grant, mind.at, mind.sent) for name, mind in self.minds.items()}
        return World(queue, dict(self.learned), self.step, minds, self.saved)

    def key(self) -> str:
        """The state, with fences by rank and steps by what they mean."""
        fences = sorted({*self.queue._ledger.held, *(m.grant.fence for m in self.minds.values() if m.grant)})
        rank = {fence: index for index, fence in enumerate(fences)}
        kept = capture(self.queue._ledger)
        steps = self.queue._kept.steps
        minds = [
            (mind.grant and (rank[mind.grant.fence], mind.grant.shard, mind.grant.ranges), mind.at,
             mind.sent and (mind.sent[1][0].shard, mind.sent[1][0].start, mind.sent[0] in steps, mind.sent[2],
                            mind.sent[0] - self.step if mind.sent[0] not in steps else 0))
            for mind in self.minds.values()
        ]  # fmt: skip
        held = [(rank[one[0]], one[1:]) for one in kept["held"]]
        saved = self.saved and (self.saved[0]["books"], self.saved[0]["marks"], self.step - self.saved[2])
        above = kept["fence"] >= max(fences, default=0)  # True, unless the queue is broken on purpose
        return str((kept["books"], held, [part for _, *part in kept["marks"]], kept["done"], minds, saved, above))

    # --------------------------------------------------------------------------------------------------- what happens

    def lease(self, worker: str) -> None:
        grant = self.queue.lease(worker, 0.0)
        if grant is not None:
            self.minds[worker].grant, self.minds[worker].at = grant, 0

    def commit(self, worker: str) -> None:
        mind = self.minds[worker]
        assert mind.grant is not None
        position = mind.rest()[0]
        self.send(worker, self.step + 1, [Contribution(mind.grant.shard, mind.grant.fence, position, position + 1)])
        mind.at += 1

    def again(self, worker: str) -> None:
        """The answer was lost: the same commit is sent once more, and must be answered alike, and change nothing."""
        sent = self.minds[worker].sent
        assert sent is not None
        before = capture(self.queue._ledger)
        known = sent[0] in self.queue._kept.steps and self.queue.recorded(sent[0]) == sent[1]
        try:
            answers = self.queue.commit(sent[0], sent[1])
        except VersionError:
            answers = [False]  # the step was done anew after a restore, by others
        if sent[2] and known:
            if not all(answers) or capture(self.queue._ledger) != before:
                raise Wrong(f"a commit sent again was answered {answers}")
        elif all(answers):
            self.learn(worker, sent[0], sent[1])

    def send(self, worker: str, step: int, contributions: list[Contribution]) -> None:
        holders = {grant.fence: grant.worker for grant in self.queue.held()}
        answers = self.queue.commit(step, contributions)
        if all(answers):
            for one in contributions:
                if holders.get(one.fence) != worker:
                    raise Wrong(f"{worker} committed {one}, held by {holders}")
            self.learn(worker, step, contributions)
        self.minds[worker].sent = (step, contributions, all(answers))

    def learn(self, worker: str, step: int, contributions: list[Contribution]) -> None:
        for one in contributions:
            for position in range(one.start, one.stop):
                self.count(one.shard, position)
        self.step = max(step, self.step)

    def count(self, shard: str, position: int) -> None:
        source, first = shard.split("@")[0], int(shard.split(":")[1].split("-")[0])
        row = (source, first + position)
        self.learned[row] = self.learned.get(row, 0) + 1

    def done(self, worker: str) -> None:
        """Batch inference: everything that is left is handed in at once."""
        mind = self.minds[worker]
        assert mind.grant is not None
        rest = mind.rest()
        try:
            self.queue.done(mind.grant)
        except LeaseLost:
            rest = []
        for position in rest:
            self.count(mind.grant.shard, position)
        mind.grant, mind.at = None, 0

    def fail(self, worker: str, position: int | None) -> None:
        mind = self.minds[worker]
        assert mind.grant is not None
        held = {grant.fence: grant for grant in self.queue.held()}.get(mind.grant.fence)
        if position is None or held is None or any(lo <= position < hi for lo, hi in held.ranges):
            self.queue.fail(mind.grant, position, "bad")
        mind.grant, mind.at = (None, 0) if position is None else (mind.grant, mind.at + 1)

    def silent(self, worker: str) -> None:
        """The lease runs out; the worker lives on and does not know."""
        for other in WORKERS:
            if other != worker:
                self.queue.renew(other, 100.0)
        self.queue.expire(50.0)

    def dies(self, worker: str) -> None:
        self.queue.leave(worker)
        self.minds[worker] = Mind()

    def renew(self, worker: str) -> None:
        grants = {grant.fence: grant for grant in self.queue.renew(worker, 0.0)}
        mind = self.minds[worker]
        mind.grant, mind.at = (grants.get(mind.grant.fence) if mind.grant else None), 0

    def checkpoint(self) -> None:
        state = self.queue.state()
        self.queue.saved(state)
        self.saved = (json.loads(json.dumps(state)), dict(self.learned), self.step)

    def restore(self) -> None:
        assert self.saved is not None
        self.queue.restore(self.saved[0])
        self.learned, self.step = dict(self.saved[1]), self.saved[2]

    def events(self) -> Iterator[tuple[str, ...]]:
        for worker, mind in self.minds.items():
            if mind.grant is None:
                yield "lease", worker
            else:
                if mind.rest():
                    yield "commit", worker
                    yield "fail", worker, "here"
                yield "done", worker
                yield "fail", worker, "somewhere"
                yield "renew", worker
            if mind.sent is not None:
                yield "again", worker
            yield "silent", worker
            yield "dies", worker
        yield ("checkpoint",)
        if self.saved is not None:
            yield ("restore",)

    def happen(self, event: tuple[str, ...]) -> None:
        if event[0] == "fail":
            self.fail(event[1], self.minds[event[1]].rest()[0] if event[2] == "here" else None)
        else:
            getattr(self, event[0])(*event[1:])

    # ----------------------------------------------------------------------------------------------- what must be true

    def check(self) -> None:
        ledger, seen = self.queue._ledger, {}

        def put(state: str, source: str, ranges: object) -> None:
            for lo, hi in ranges:  # type: ignore[attr-defined]
                for place in range(lo, hi):
                    if (source, place) in seen:
                        raise Wrong(f"{source} {place} is {state} and {seen[source, place]}")
                    seen[source, place] = state

        for part in self.queue._backlog.parts():
            put("todo", part.source, part.ranges)
        for held in ledger.held.values():
            put("doing", held.part.source, held.part.ranges)
        for (source, _), book in ledger.books.items():
            put("consumed", source, book.consumed)
            put("quarantined", source, [(place, place + 1) for place in book.quarantined])
        if set(seen) != {(name, row) for name, rows in ROWS for row in range(rows)}:
            raise Wrong(f"some rows are nowhere, only {sorted(seen)} are known")
        consumed = {row for row, state in seen.items() if state == "consumed"}
        if consumed != {row for row, times in self.learned.items() if times} or any(
            times > 1 for times in self.learned.values()
        ):
            raise Wrong(f"the model learned {self.learned}, the queue says {sorted(consumed)}")

    def drain(self) -> None:
        """From anywhere a healthy worker brings the work to its end."""
        self.queue.expire(1e9)
        while (grant := self.queue.lease("fresh", 0.0)) is not None:
            self.queue.done(grant)
        if not self.queue.finished:
            raise Wrong(f"the work never ends: {self.queue.counts()}")


def search(kind: type[ShardQueue], depth: int, *, drained: int = 7) -> tuple[int, int]:
    """Return how many states and events were tried; raises Wrong with the shortest way to a wrong state."""
    queue = kind(None, CONFIG, clock=lambda: 0.0)
    for name, rows in ROWS:
        queue.add(name, rows)
    first = World(queue)
    seen, events, todo = {first.key()}, 0, deque([(first, ())])
    while todo:
        world, path = todo.popleft()
        for event in world.events():
            following = world.copy()
            events += 1
            try:
                following.happen(event)
                following.check()
                key = following.key()
                if key not in seen and len(seen) % drained == 0:
                    following.copy().drain()
            except (Wrong, AssertionError) as error:
                raise Wrong(f"{error} after {(*path, event)}") from error
            if key not in seen:
                seen.add(key)
                if len(path) + 1 < depth:
                    todo.append((following, (*path, event)))
    return len(seen), events


class Unfenced(ShardQueue):
    """Takes a report for whoever holds the shard now, as a queue does that knows tasks by their number only."""

    def commit(self, step: int, contributions: list[Contribution], note: str = "") -> list[bool]:  # type: ignore[override]
        return super().commit(step, [
            Contribution(one.shard, self.newest(one.shard, one.fence), one.start, one.stop) for one in contributions
        ], note)  # fmt: skip

    def done(self, lease: Lease) -> None:
        fence = self.newest(lease.shard, lease.fence)
        super().done(next((grant for grant in self.held() if grant.fence == fence), lease))

    def newest(self, shard: str, fence: int) -> int:
        return next((grant.fence for grant in self.held() if grant.shard == shard), fence)


class Unsplit(ShardQueue):
    """Takes a lease that was split for what it once was."""

    def done(self, lease: Lease) -> None:
        super().done(next((grant for grant in self.held() if grant.fence == lease.fence), lease))


class SameFences(ShardQueue):
    """Counts fences from the beginning again when it goes back to a manifest."""

    def restore(self, state: dict) -> None:  # type: ignore[override]
        super().restore(state)
        self._ledger.fence = 0


class Forgetful(ShardQueue):
    """Does not know a commit again."""

    def commit(self, step: int, contributions: list[Contribution], note: str = "") -> list[bool]:  # type: ignore[override]
        self._kept.steps.pop(step, None)
        return super().commit(step, contributions, note)


class Lossy(ShardQueue):
    """Gives a shard up after failures, as a queue does that only writes a line about it."""

    def fail(self, lease: Lease, position: int | None, error: str) -> bool:
        held = self._ledger.held.get(lease.fence)
        if held is not None and held.part.failures:
            self._ledger._let_go(lease.fence)
            return True
        return super().fail(lease, position, error)


def test_no_order_of_events_loses_or_doubles_a_row() -> None:
    states, events = search(ShardQueue, depth=5)
    print(f"{states} states, {events} events")
    assert states > 2_000
    assert events > 5_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_longer_order_of_events_loses_or_doubles_a_row() -> None:
    states, events = search(ShardQueue, depth=7)
    print(f"{states} states, {events} events")
    assert states > 30_000
    assert events > 100_000


@pytest.mark.parametrize(
    ("broken", "depth", "found"),
    [
        (Unfenced, 4, "w0 committed"),
        (SameFences, 5, "w0 committed"),
        (Unsplit, 5, "the model learned"),
        (Forgetful, 3, "was answered"),
        (Lossy, 5, "some rows are nowhere"),
    ],
)
def test_the_search_finds_what_is_broken(broken: type[ShardQueue], depth: int, found: str) -> None:
    with pytest.raises(Wrong, match=found) as caught:
        search(broken, depth)
    print(caught.value)
