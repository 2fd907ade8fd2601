"""The states of the work queue divide the epoch between them, whatever happens, in every mode, and across crashes.

The queue writes its real log; the clock is virtual; a crash drops the queue without closing anything. Beside it goes
the smallest model there can be: how often each row was learned, rolled back with the checkpoints.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import LeaseLost, VersionError
from headrace.runtime import Contribution, Grant, QueueConfig, ShardQueue, rows_of
from headrace.runtime.shuffle import row_numbers

WORKERS = st.sampled_from(["w0", "w1", "w2"])
Row = tuple[str, int, int]


class Shards(RuleBasedStateMachine):
    """Files and streams, three workers of which any may be dead and not know it, one log."""

    @initialize(
        mode=st.sampled_from(["exactly_once", "exactly_once", "at_least_once", "at_most_once"]),
        shard_rows=st.integers(1, 7), shuffle=st.booleans(), retries=st.integers(1, 3), epochs=st.integers(1, 2),
        files=st.lists(st.integers(0, 16), min_size=2, max_size=3), split=st.integers(1, 3),
    )  # fmt: skip
    def begin(self, mode, shard_rows, shuffle, retries, epochs, files, split) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.now, self.step, self.manifest = 0.0, 0, None
        self.config = QueueConfig(
            mode=mode, shard_rows=shard_rows, shuffle=shuffle, retries=retries, epochs=epochs, seed=3,
            split_rows=split, lease_s=10.0, retry_s=1.0,
        )  # fmt: skip
        self.learned: dict[Row, int] = {}  # by the model, as it is now
        self.ever: dict[Row, int] = {}  # by any model that there ever was
        self.stops: dict[str, int] = {}
        self.minds: list[tuple[Grant, list[int]]] = []  # what workers believe they hold, zombies and all
        self.sent: list[tuple[int, list[Contribution]]] = []
        self.open()
        for number, rows in enumerate(files):
            self.queue.add(f"file-{number}", rows)

    def open(self) -> None:
        self.queue = ShardQueue(
            Path(self.folder.name) / "q.db", self.config, clock=lambda: self.now, durability="process"
        )

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.queue.shut()
            self.folder.cleanup()

    # ------------------------------------------------------------------------------------------------------- sources

    @rule(name=st.sampled_from(["p0", "p1"]), more=st.integers(-2, 6))
    def extend(self, name, more) -> None:
        before = self.stops.get(name, 3)
        stop = max(3, before + more)
        assert self.queue.extend(name, stop, start=3) == max(0, stop - before)
        self.stops[name] = max(stop, before)

    @rule(number=st.integers(3, 4), rows=st.integers(1, 5))
    def add(self, number, rows) -> None:
        self.queue.add(f"file-{number}-{rows}", rows)

    # -------------------------------------------------------------------------------------------------------- leases

    @rule(worker=WORKERS)
    def lease(self, worker) -> None:
        before = self.queue._ledger.fence
        grant = self.queue.lease(worker, self.now)
        if grant is not None:
            assert grant.fence > before
            assert grant.rows > 0
            self.minds.append((grant, [p for lo, hi in grant.ranges for p in range(lo, hi)]))

    @rule(worker=WORKERS)
    def renew(self, worker) -> None:
        grants = self.queue.renew(worker, self.now)
        assert {grant.fence for grant in grants} == {one.fence for one in self.queue.held() if one.worker == worker}

    @rule(worker=WORKERS, clean=st.booleans())
    def leave(self, worker, clean) -> None:
        self.queue.leave(worker, clean=clean)
        assert self.queue.renew(worker, self.now) == ()

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0]))
    def time_goes_by(self, seconds) -> None:
        self.now += seconds
        late = [grant for grant in self.queue.held() if grant.expires < self.now]
        assert self.queue.expire(self.now) == len(late)

    # ------------------------------------------------------------------------------------------------------- commits

    @rule(worker=WORKERS, rows=st.integers(1, 6), leases=st.integers(1, 2))
    def work(self, worker, rows, leases) -> None:
        """What workers do most of the time: lease, and commit from the front."""
        grants = list(self.queue.renew(worker, self.now))
        while len(grants) < leases and (grant := self.queue.lease(worker, self.now)) is not None:
            grants.append(grant)
            self.minds.append((grant, [p for lo, hi in grant.ranges for p in range(lo, hi)]))
        parts = [Contribution(one.shard, one.fence, one.ranges[0][0], min(one.ranges[0][1], one.ranges[0][0] + rows))
                 for one in grants]  # fmt: skip
        assert self.queue.commit(self.step + 1, parts) == [True] * len(parts)
        self.took(parts, {grant.fence: grant for grant in grants})

    def took(self, parts: list[Contribution], held: dict[int, Grant]) -> None:
        """Note what a commit that was taken has taught the model."""
        self.step += 1
        self.sent.append((self.step, parts))
        for one in parts:
            self.count(held[one.fence], one.start, one.stop)
            for grant, rest in self.minds:
                if grant.fence == one.fence:
                    rest[:] = [position for position in rest if not one.start <= position < one.stop]

    @precondition(lambda self: self.minds)
    @rule(data=st.data(), together=st.integers(1, 3))
    def commit(self, data, together) -> None:
        """A step takes some rows of some leases, of which any may have ended long ago."""
        parts = []
        for _ in range(together):
            grant, rest = data.draw(st.sampled_from(self.minds))
            count = data.draw(st.integers(0, min(3, len(rest))))
            if count and rest[count - 1] - rest[0] == count - 1 and not any(one.fence == grant.fence for one in parts):
                parts.append(Contribution(grant.shard, grant.fence, rest[0], rest[0] + count))
        held = {grant.fence: grant for grant in self.queue.held()}
        good = [
            one.fence in held and any(lo <= one.start and one.stop <= hi for lo, hi in held[one.fence].ranges)
            for one in parts
        ]
        assert self.queue.commit(self.step + 1, parts) == good
        if all(good):
            self.took(parts, held)

    def count(self, grant: Grant, start: int, stop: int) -> None:
        for row in rows_of(grant, start, stop).tolist():
            for ledger in (self.learned, self.ever):
                key = (grant.source, grant.epoch, row)
                ledger[key] = ledger.get(key, 0) + 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def commit_again(self, data) -> None:
        """An answer got lost: the same step comes again."""
        step, parts = data.draw(st.sampled_from(self.sent))
        before = self.queue.counts()
        assert self.queue.recorded(step) == parts
        assert self.queue.commit(step, parts) == [True] * len(parts)
        assert self.queue.counts() == before
        try:
            self.queue.commit(step, [*parts, Contribution("file-0@0:0-1", 1, 0, 1)])
        except VersionError:
            return
        raise AssertionError("a decided step took other contributions")

    @precondition(lambda self: self.minds)
    @rule(data=st.data())
    def done(self, data) -> None:
        grant, rest = data.draw(st.sampled_from(self.minds))
        held = {one.fence: one for one in self.queue.held()}.get(grant.fence)
        decided = self.queue.recorded(-grant.fence) is not None
        try:
            self.queue.done(grant)
        except LeaseLost:
            assert held is None or held.ranges != grant.ranges
            return
        assert held is not None or decided
        if held is not None:
            for start, stop in held.ranges:
                self.count(held, start, stop)
            rest.clear()

    # -------------------------------------------------------------------------------------------------- what goes wrong

    @precondition(lambda self: self.minds)
    @rule(data=st.data(), known=st.booleans())
    def fail(self, data, known) -> None:
        grant, rest = data.draw(st.sampled_from(self.minds))
        held = {one.fence: one for one in self.queue.held()}.get(grant.fence)
        position = None
        if known and held is not None:
            position = data.draw(st.sampled_from([p for lo, hi in held.ranges for p in range(lo, hi)]))
        before = len(self.queue.quarantined())
        assert self.queue.fail(grant, position, "bad row") == (held is not None)
        if position is not None:
            assert len(self.queue.quarantined()) == before + 1
            if position in rest:
                rest.remove(position)

    @rule()
    def crash(self) -> None:
        """The process is gone at once; another one opens the log."""
        before = self.queue.counts(), self.sets(), self.queue.state(), self.queue.held()
        frozen, self.queue = self.queue, None
        self.open()
        after = self.queue.counts(), self.sets(), self.queue.state()
        assert after == before[:3]
        assert [(g.fence, g.worker, g.ranges) for g in self.queue.held()] == [
            (g.fence, g.worker, g.ranges) for g in before[3]
        ]
        try:  # the one that was frozen wakes up: it must not write
            frozen.add("late", 1)
        except LeaseLost:
            frozen.shut()
            return
        raise AssertionError("a queue that was taken over went on writing")

    @rule()
    def compact(self) -> None:
        with self.queue.together():
            self.queue._kept.snapshot(forget=False)

    @rule()
    def checkpoint(self) -> None:
        state = self.queue.state()
        self.queue.saved(state)
        assert self.queue.counts().pending == 0
        self.manifest = json.dumps(state), dict(self.learned), self.step

    @precondition(lambda self: self.manifest)
    @rule(lost=st.booleans())
    def restore(self, lost) -> None:
        """Back to the manifest; also on a machine that has nothing but the manifest."""
        fences = [grant.fence for grant, _ in self.minds]
        if lost and self.config.mode != "at_most_once":
            self.queue.shut()
            for path in Path(self.folder.name).iterdir():
                path.unlink()
            self.open()
        self.queue.restore(json.loads(self.manifest[0]))
        self.learned, self.step, self.sent = dict(self.manifest[1]), self.manifest[2], []
        for name in self.stops:
            self.stops[name] = self.queue.streams()[name].stop if name in self.queue.streams() else 3
        assert self.queue._ledger.fence > max(fences, default=0)
        assert self.queue.held() == []

    # ----------------------------------------------------------------------------------------------- what must be true

    def sets(self) -> dict[str, set[Row]]:
        """Every row of every open epoch, by its state; fails if one has two."""
        ledger, found, seen = self.queue._ledger, {}, set[Row]()

        def put(state: str, source: str, epoch: int, places: object) -> None:
            for lo, hi in places:  # type: ignore[attr-defined]
                for place in range(lo, hi):
                    row = (source, epoch, self.row(source, epoch, place))
                    assert row not in seen, f"{row} is {state} and something else"
                    seen.add(row)
                    found.setdefault(state, set()).add(row)

        for part in self.queue._backlog.parts():
            put("todo", part.source, part.epoch, part.ranges)
        for held in ledger.held.values():
            put("doing", held.part.source, held.part.epoch, held.part.ranges)
            put("doing", held.part.source, held.part.epoch, held.progress)
        for (source, epoch), book in ledger.books.items():
            put("consumed", source, epoch, book.consumed)
            put("dropped", source, epoch, book.dropped)
            put("quarantined", source, epoch, [(place, place + 1) for place in book.quarantined])
        return found

    def row(self, source: str, epoch: int, place: int) -> int:
        entry = self.queue._ledger.sources[source]
        if entry.stream:
            return place
        first, last = self.queue._ledger.shard_at(source, place)
        at = place - first
        return int(row_numbers(3, source, epoch, first, last - first, self.config.shuffle, at, at + 1)[0])

    @invariant()
    def the_states_divide_the_epoch(self) -> None:
        if not hasattr(self, "queue"):
            return
        sets, counts, ledger = self.sets(), self.queue.counts(), self.queue._ledger
        whole = {
            (entry.name, epoch, row)
            for entry in ledger.sources.values()
            for epoch in range(1 if entry.stream else ledger.epochs)
            for row in range(entry.start, entry.stop)
        }
        assert set().union(*sets.values()) == whole if sets else not whole
        sizes = {state: len(rows) for state, rows in sets.items()}
        assert (counts.todo, counts.doing) == (sizes.get("todo", 0), sizes.get("doing", 0))
        assert counts.pending + counts.done == sizes.get("consumed", 0)
        assert (counts.quarantined, counts.dropped) == (sizes.get("quarantined", 0), sizes.get("dropped", 0))
        parts = (counts.todo, counts.doing, counts.pending, counts.done, counts.quarantined, counts.dropped)
        assert sum(parts) == counts.total == len(whole)
        assert min(parts) >= 0
        listed = {(one.source, one.epoch, one.row) for one in self.queue.quarantined()}
        assert listed == sets.get("quarantined", set())
        self.learned_is_what_the_queue_says(sets)

    def learned_is_what_the_queue_says(self, sets: dict[str, set[Row]]) -> None:
        consumed = sets.get("consumed", set())
        if self.config.mode == "exactly_once":
            assert set(self.learned) == consumed
            assert set(self.learned.values()) <= {1}
        elif self.config.mode == "at_most_once":
            assert set(self.ever.values()) <= {1}
            assert set(self.learned) <= consumed
        else:
            assert consumed <= set(self.learned)

    @invariant()
    def a_stream_is_trained_through_what_is_settled(self) -> None:
        if not hasattr(self, "queue"):
            return
        sets = self.sets()
        for name, progress in self.queue.streams().items():
            settled = {row for state in ("consumed", "dropped", "quarantined") for source, _, row in sets.get(state, ())
                       if source == name}  # fmt: skip
            end = 3
            while end in settled:
                end += 1
            assert (progress.trained_through, progress.lag) == (end, progress.stop - 3 - len(settled))
            ahead = {row for lo, hi in progress.ahead for row in range(lo, hi)}
            assert ahead == {row for row in settled if row > end}


class ManyShards(Shards):
    """The same, for minutes."""


EVERYTHING = list(HealthCheck)
Shards.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=EVERYTHING
)
ManyShards.TestCase.settings = settings(
    max_examples=500, stateful_step_count=60, deadline=None, suppress_health_check=EVERYTHING
)
TestShards = Shards.TestCase
TestManyShards = pytest.mark.timeout(1200)(pytest.mark.slow(ManyShards.TestCase))
