"""Moves of buckets while others look up and learn, over sockets; refusals, failures, and putting tables in order."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from headrace.elastic.buckets import BucketMap, Move
from headrace.elastic.directory import carry_out
from headrace.elastic.transactions import Part
from headrace.errors import ClusterError, ConfigError, HeadraceError, StaleError, StoreError, WorkerLost
from headrace.store import bucket_of

from .tables_world import named, part, wired

IDS = np.arange(200)


def learn(world, number: int) -> None:
    with world.remote.transaction(named(number)):
        world.remote.tables["user"].update(*(torch.from_numpy(np.ascontiguousarray(array))
                                             for array in part(IDS).steps["user"]))  # fmt: skip
    world.remote.apply(number, [named(number)])


@contextmanager
def learning(world, steps: int):
    """Learn in another thread, and look up after every step; raise what went wrong there."""
    problems: list[Exception] = []

    def run() -> None:
        try:
            for number in range(1, steps + 1):
                learn(world, number)
                world.remote.after = number
                rows = world.remote.fetch({"user": IDS})["user"]
                assert (rows == number).all(), number
        except (AssertionError, HeadraceError) as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if problems:
        raise problems[0]


def test_nobody_stops_and_nothing_is_lost_while_buckets_move(tmp_path) -> None:
    with wired(3, tmp_path) as world:
        with learning(world, 40):
            while not all(server.applied for server in world.servers):
                time.sleep(0.001)  # an id that is new while its bucket is on its way is counted on both sides
            for turn in range(6):
                source, target = turn % 3, (turn + 1) % 3
                own = np.flatnonzero(world.record.map.mask(source))
                moves = [Move(source, target, tuple(own[: len(own) // 2].tolist()))]
                assert carry_out(moves, world.record, world.directory) == len(own) // 2
        assert world.record.map.version == 6
        assert [server.marks()["user"] for server in world.servers] == [40, 40, 40]
        assert world.remote.tables["user"].rows().ids.tolist() == IDS.tolist()
        held = [server.stats()["tables"]["user"]["rows"] for server in world.servers]
        assert sum(held) == len(IDS)  # what has moved away is gone where it was
        assert sum(server.stats()["tables"]["user"]["admitted"] for server in world.servers) == len(IDS)
        assert [server.stats()["holdings"] for server in world.servers] == [1, 1, 1]


def test_a_server_can_be_emptied_and_go(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        learn(world, 1)
        everything = tuple(np.flatnonzero(world.record.map.mask(0)).tolist())
        carry_out([Move(0, 1, everything)], world.record, world.directory)
        world.wires[0].close()
        del world.record._servers[0]
        learn(world, 2)
        assert (world.remote.fetch({"user": IDS})["user"] == 2).all()


def test_what_was_prepared_before_a_move_is_applied_after_it(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        world.remote.prepare(named(1), part(IDS))
        own = np.flatnonzero(world.record.map.mask(0)).tolist()
        carry_out([Move(0, 1, tuple(own[:1000]))], world.record, world.directory, tidy=False)
        world.remote.prepare(named(2, "w1"), part(IDS))  # by the old map first
        world.remote.apply(1, [named(1), named(2, "w1")])
        world.remote.after = 1
        assert (world.remote.fetch({"user": IDS})["user"] == 2).all()
        assert world.servers[0].holdings[0].dirty
        assert world.servers[0].rows("user").ids.tolist() == [
            one for one in IDS.tolist() if int(world.record.map.of(np.array([one]))[0]) == 0]  # fmt: skip


def test_only_the_owner_can_move_and_only_to_another(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        theirs = np.flatnonzero(world.record.map.mask(1)).tolist()
        with pytest.raises(StaleError):
            world.servers[0].departures.move(theirs[:3], 1, world.servers[1].arrivals)
        with pytest.raises(ConfigError, match="another server"):
            world.servers[1].departures.move(theirs[:3], 1, world.servers[1].arrivals)
        assert not world.servers[0].departures.busy


def test_a_target_that_dies_before_the_hand_over_changes_nothing(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        learn(world, 1)
        own = np.flatnonzero(world.record.map.mask(0)).tolist()
        client = world.directory.client(1)
        world.wires[1].close()
        with pytest.raises(WorkerLost):
            world.servers[0].departures.move(own[:10], 1, client.arrivals)
        assert world.servers[0].map.version == 0
        assert world.servers[0].stats()["buckets"] == len(own)
        assert not world.servers[0].departures.busy


class Dying:
    """A peer that is lost at the last moment, or has forgotten the move."""

    def __init__(self, peer, error=WorkerLost) -> None:
        self._peer, self._error = peer, error

    def __getattr__(self, name: str):
        return getattr(self._peer, name)

    def end(self, move: str, buckets: BucketMap) -> None:
        raise self._error("peer")


@pytest.mark.parametrize("error", [WorkerLost, ClusterError])
def test_a_target_that_dies_in_the_hand_over_is_told_as_a_loss(tmp_path, error) -> None:
    with wired(2, tmp_path) as world:
        own = np.flatnonzero(world.record.map.mask(0)).tolist()
        with pytest.raises(WorkerLost, match="given up"):
            world.servers[0].departures.move(own[:10], 1, Dying(world.servers[1].arrivals, error))
        with pytest.raises(StaleError):  # nobody has them now: a checkpoint has to be restored
            world.servers[0].lookup(0, 0, {"user": IDS[np.isin(bucket_of(IDS), own[:10])]} | {"item": _in(own[:10])})


class Twice:
    """A peer that every call reaches twice; steps are taken while rows are on their way."""

    def __init__(self, peer, meanwhile) -> None:
        self._peer, self._meanwhile = peer, meanwhile

    def __getattr__(self, name: str):
        def call(*arguments):
            if name == "rows" and self._meanwhile is not None:
                self._meanwhile()
                self._meanwhile = None
            found = getattr(self._peer, name)(*arguments)
            assert getattr(self._peer, name)(*arguments) == found
            return found

        return call


def test_calls_of_a_move_that_arrive_twice_count_once(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        learn(world, 1)
        world.remote.prepare(named(4), part(IDS))

        def meanwhile() -> None:
            learn(world, 2)
            learn(world, 3)

        own = np.flatnonzero(world.record.map.mask(0)).tolist()
        world.record.moved(world.servers[0].departures.move(own, 1, Twice(world.servers[1].arrivals, meanwhile)))
        world.remote.apply(4, [named(4)])
        world.remote.after = 4
        assert (world.remote.fetch({"user": IDS})["user"] == 4).all()
        assert world.remote.tables["user"].rows().ids.tolist() == IDS.tolist()


@pytest.mark.parametrize("what", ["move", "tidy"])
def test_a_restore_in_the_middle_ends_a_move_and_changes_no_owner(tmp_path, what) -> None:
    with wired(2, tmp_path) as world:
        learn(world, 1)
        source, target = world.servers
        own = np.flatnonzero(world.record.map.mask(0)).tolist()
        if what == "tidy":
            world.record.moved(source.departures.move(own[:10], 1, target.arrivals))
        usual, later = source.departures._catch_up, world.record.map.moved([], 0)

        def catch_up(send, known) -> None:
            usual(send, known)
            for server in world.servers:
                server.copies.restore(later, 0, [])

        source.departures._catch_up = catch_up
        with pytest.raises(StoreError, match="a restore"):
            source.departures.tidy() if what == "tidy" else source.departures.move(own[:10], 1, target.arrivals)
        assert (source.map.version, target.map.version) == (later.version, later.version)
        assert source.stats()["buckets"] + target.stats()["buckets"] == 4096
        assert source.stats()["tables"]["user"]["rows"] == 0


def _in(buckets: list[int]) -> np.ndarray:
    many = np.arange(100_000)
    return many[np.isin(bucket_of(many), buckets)][:5]


def test_there_is_nothing_to_put_in_order_without_a_move(tmp_path) -> None:
    with wired(1, tmp_path) as world:
        assert world.servers[0].departures.tidy() is False
        world.servers[0].prepare(named(1), 1, 0, Part())
