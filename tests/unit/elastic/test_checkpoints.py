"""Checkpoints of servers, dense part and queue at one step, and the way back to them."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from headrace.elastic.applier import Applier
from headrace.elastic.buckets import Move
from headrace.elastic.checkpoints import ElasticCheckpoint
from headrace.elastic.directory import carry_out
from headrace.elastic.recovery import Recovery
from headrace.errors import CorruptSnapshot, StaleError, StoreError
from headrace.runtime.work_queue import Contribution, QueueConfig, ShardQueue

from .tables_world import CONFIGS, dense_part, named, part, wired

IDS = np.arange(100)


def learn(world, number: int, dense=()) -> None:
    world.remote.prepare(named(number), part(IDS, dense=dense))
    world.remote.apply(number, [named(number)])


def rows(world) -> list[float]:
    return np.unique(world.remote.fetch({"user": IDS})["user"]).tolist()


def test_everything_comes_back_at_the_step_of_the_plan(tmp_path) -> None:
    checkpoint = ElasticCheckpoint(tmp_path)
    checkpoint.tables.mkdir(parents=True)
    with wired(2, checkpoint.tables, dense=True) as world:
        learn(world, 1, dense=[1.0, 0.0])
        checkpoint.plan(world.directory, 2)  # before the step
        for number in (2, 3):
            learn(world, number, dense=[1.0, 0.0])
        assert checkpoint.finish(world.directory, 2, queue={"at": 2}, dense={"mine": 5}, more={"why": "test"}) > 0
        saved = ElasticCheckpoint(tmp_path).newest()
        assert (saved.step, saved.queue, saved.dense, saved.more) == (2, {"at": 2}, {"mine": 5}, {"why": "test"})
        assert world.servers[0].dense.pull()[1].tolist() == [-3.0, 0.0]
        buckets = checkpoint.restore_servers(saved, world.directory, world.record, [0, 1])
        assert buckets.version > saved.map.version
        assert (rows(world), [server.applied for server in world.servers]) == ([2.0], [2, 2])
        assert world.servers[0].dense.pull()[1].tolist() == [-2.0, 0.0]
        assert [server.marks() for server in world.servers] == [{"user": 2, "item": 0}] * 2
        assert world.remote.open() == 2
        learn(world, 3)
        assert rows(world) == [3.0]


@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_servers_share_it_anew(tmp_path, count) -> None:
    checkpoint = ElasticCheckpoint(tmp_path)
    checkpoint.tables.mkdir(parents=True)
    with wired(2, checkpoint.tables) as world:
        learn(world, 1)
        own = np.flatnonzero(world.record.map.mask(0))
        carry_out([Move(0, 1, tuple(own[::2].tolist()))], world.record, world.directory, tidy=False)  # still untidy
        learn(world, 2)
        checkpoint.plan(world.directory, 2)
        checkpoint.finish(world.directory, 2, queue={})
    with wired(count, checkpoint.tables) as world:
        checkpoint.restore_servers(checkpoint.newest(), world.directory, world.record, range(count))
        assert rows(world) == [2.0]
        assert sum(server.stats()["tables"]["user"]["rows"] for server in world.servers) == len(IDS)
        assert sum(server.stats()["tables"]["user"]["admitted"] for server in world.servers) == len(IDS)
        learn(world, 3)
        assert rows(world) == [3.0]


def test_a_new_run_restores_nothing(tmp_path) -> None:
    checkpoint = ElasticCheckpoint(tmp_path)
    assert checkpoint.newest() is None
    with wired(2, tmp_path, dense=True) as world:
        learn(world, 1, dense=[1.0, 1.0])
        checkpoint.restore_servers(None, world.directory, world.record, [0, 1])
        assert rows(world) == [0.0]
        assert world.servers[0].dense.pull()[1].tolist() == [0.0, 0.0]


def test_what_is_past_cannot_be_planned_and_what_was_not_cannot_be_collected(tmp_path) -> None:
    checkpoint = ElasticCheckpoint(tmp_path)
    checkpoint.tables.mkdir(parents=True)
    with wired(1, checkpoint.tables) as world:
        learn(world, 1)
        with pytest.raises(StaleError, match="step 0, expected step 1 or later"):
            checkpoint.plan(world.directory, 0)
        with pytest.raises(StoreError, match="got none"):
            checkpoint.finish(world.directory, 1, queue={})
        checkpoint.plan(world.directory, 1)
        checkpoint.plan(world.directory, 1)
    with wired(1) as world, pytest.raises(StoreError, match="no folder"):
        checkpoint.plan(world.directory, 1)


def test_buckets_that_moved_between_are_noticed(tmp_path) -> None:
    checkpoint = ElasticCheckpoint(tmp_path)
    checkpoint.tables.mkdir(parents=True)
    with wired(2, checkpoint.tables) as world:
        learn(world, 1)
        world.servers[0].copies.plan(1)
        world.servers[0].copies.gather(1)  # a move has to wait for the files
        own = np.flatnonzero(world.record.map.mask(0)).tolist()
        carry_out([Move(0, 1, tuple(own[:5]))], world.record, world.directory)
        world.servers[1].copies.plan(1)
        with pytest.raises(StoreError, match="buckets that moved"):
            checkpoint.finish(world.directory, 1, queue={})
        assert checkpoint.newest() is None


def test_only_the_kept_remain_and_a_damaged_file_is_refused_whole(tmp_path) -> None:
    checkpoint = ElasticCheckpoint(tmp_path, keep=2)
    checkpoint.tables.mkdir(parents=True)
    with wired(1, checkpoint.tables) as world:
        for number in range(1, 5):
            learn(world, number)
            checkpoint.plan(world.directory, number)
            checkpoint.finish(world.directory, number, queue={})
        assert sorted(int(path.name) for path in checkpoint.tables.iterdir()) == [3, 4]
        saved = checkpoint.newest()
        path = checkpoint.tables / saved.copies[0]["holdings"][0]["tables"]["user"]["file"]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        learn(world, 5)
        with pytest.raises(CorruptSnapshot):
            world.servers[0].copies.restore(world.record.map, 4, saved.copies)
        assert rows(world) == [5.0]  # it went on as it was


class Side:
    """What `Recovery` knows as the head's side of the servers."""

    def __init__(self, world) -> None:
        self.directory, self.record, self.applier = world.directory, world.record, Applier(world.directory)

    def start_applier(self, last: int) -> None:
        self.applier.reset(last)


def test_queue_and_servers_go_back_together(tmp_path) -> None:
    queue = ShardQueue(None, QueueConfig(shard_rows=10, shuffle=False))
    queue.add("rows", 50)
    with wired(2, tmp_path / "tables") as world:
        (tmp_path / "tables").mkdir()
        side = Side(world)
        recovery = Recovery(tmp_path, side, queue, 2)
        grants = [queue.lease("w0") for _ in range(5)]
        for number in range(1, 6):
            world.remote.prepare(named(number), part(IDS))
            grant = grants[number - 1]
            assert queue.commit(number, [Contribution(grant.shard, grant.fence, 0, 10)], named(number).text) == [True]
            side.applier.committed(number, [named(number)])
            recovery.committed(number)
            if recovery.wanted(number):
                from headrace.elastic.dense_state import pack_state

                recovery.deliver(number, *pack_state({"step": number}))
                recovery.wait()
        side.applier.flush()
        assert (recovery.saved, rows(world), queue.finished) == (4, [5.0], True)
        step, fields, _ = recovery.restore([0, 1])
        assert (step, '"step"' in fields["tree"] or "step" in fields["tree"]) == (4, True)
        assert (rows(world), queue.last_step, queue.counts().todo) == ([4.0], 4, 10)
        side.applier.close()


def test_without_a_checkpoint_all_begins_again(tmp_path) -> None:
    queue = ShardQueue(tmp_path / "queue.db", QueueConfig(shard_rows=10, shuffle=False))
    queue.add("rows", 20)
    with wired(1, tmp_path) as world:
        side = Side(world)
        Recovery(tmp_path, side, queue, 0)
        grant = queue.lease("w0")
        world.remote.prepare(named(1), part(IDS))
        queue.commit(1, [Contribution(grant.shard, grant.fence, 0, 10)], "x")
        side.applier.committed(1, [named(1)])
        side.applier.flush()
        assert Recovery(tmp_path, side, queue, 0).restore([0]) == (0, {}, {})  # also that of a later head
        assert (rows(world), queue.last_step, queue.counts().todo) == ([0.0], -1, 20)
        side.applier.close()
    queue.shut()


def test_the_dense_part_of_another_optimiser_is_refused() -> None:
    with pytest.raises(CorruptSnapshot):
        dense_part().restore({"dense": {}})
    assert CONFIGS[0].name == "user"


class Quiet:
    """A recovery whose checkpoints are planned and finished at once, in lists."""

    def __init__(self, folder, every: int) -> None:
        queue = ShardQueue(None, QueueConfig(shard_rows=10, shuffle=False))
        queue.add("rows", 50)
        applier = SimpleNamespace(flush=lambda: None)
        self.recovery = Recovery(folder, SimpleNamespace(directory=None, applier=applier), queue, every)
        self.planned, self.finished, self.gate = [], [], threading.Event()
        self.gate.set()
        self.recovery.checkpoint.plan = self.plan
        self.recovery.checkpoint.finish = lambda directory, step, **parts: self.finished.append(step)

    def plan(self, directory, step: int) -> None:
        assert self.gate.wait(10)
        self.planned.append(step)

    def bring(self, step: int) -> None:
        from headrace.elastic.dense_state import pack_state

        assert self.recovery.wanted(step)
        self.recovery.deliver(step, *pack_state({"step": step}))
        self.recovery.wait()


def test_a_server_that_does_not_answer_holds_up_no_step(tmp_path) -> None:
    quiet = Quiet(tmp_path, 5)
    quiet.gate.clear()
    begun = time.monotonic()
    for step in range(1, 6):
        quiet.recovery.committed(step)
    assert time.monotonic() - begun < 2
    assert quiet.finished == []
    threading.Timer(0.1, quiet.gate.set).start()
    quiet.bring(5)  # waits for the plan
    assert (quiet.planned, quiet.finished) == ([5], [5])


@pytest.mark.parametrize("every", [2, 6])
def test_a_checkpoint_that_nobody_finishes_makes_room_for_the_next(tmp_path, every) -> None:
    quiet = Quiet(tmp_path, every)
    for step in range(1, 4 * every + 1):
        quiet.recovery.committed(step)
        if step in (3 * every, 4 * every):  # of those before nobody brings the dense part
            quiet.bring(step)
    assert quiet.finished == [3 * every, 4 * every]


def test_a_checkpoint_that_cannot_be_planned_is_left_out(tmp_path) -> None:
    quiet = Quiet(tmp_path, 2)

    def refuse(directory, step: int) -> None:
        raise StaleError("Copy", got=f"step {step}")

    quiet.recovery.checkpoint.plan = refuse
    for step in range(1, 4):
        quiet.recovery.committed(step)
        while quiet.recovery._pending is not None:
            time.sleep(0.001)
    quiet.recovery.checkpoint.plan = quiet.plan
    for step in range(4, 7):
        quiet.recovery.committed(step)
    quiet.bring(6)
    assert quiet.finished == [6]
