"""A slow table server gives buckets away while training goes on, and what is learned stays the same."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from headrace.elastic.buckets import BucketMap
from headrace.elastic.relief import Relief
from headrace.elastic.server_side import ServerSide
from headrace.elastic.transactions import Transaction
from headrace.errors import WorkerLost
from headrace.runtime.actions import MoveBuckets
from headrace.runtime.controller import Controller, ControllerConfig, read_decisions
from headrace.runtime.solutions import Static, solution_json
from headrace.runtime.solutions_nd import AntDtNd

from .cluster import cluster
from .tables_world import CONFIGS, SECRET, named, part, wired


def test_a_slow_server_gives_buckets_away_and_nothing_else_changes(tmp_path) -> None:
    found = []
    for name, slow in (("plain", False), ("relieved", True)):
        folder = tmp_path / name
        settings = {"solution": solution_json(AntDtNd())} if slow else {}
        with cluster(folder, workers=2, servers=2, arguments={"rows": 2000}, silence_s=30.0, **settings) as run:
            if slow:
                for number, (_, server) in run.servers.items():
                    factor = 6.0 if number else 1.0
                    server.delay = lambda rows, factor=factor: rows * 2e-4 * factor
            run.start("worker-0", "worker-1")
            run.wait()
            if slow:
                until = time.monotonic() + 20
                while not run.head.controller.shares and time.monotonic() < until:
                    time.sleep(0.05)  # the last move may still be under way
                shares, version = dict(run.head.controller.shares), run.head.servers.record.map.version
            found.append(run.weights())
    moves = [line for line in read_decisions(tmp_path / "relieved" / "decisions.jsonl")
             if line["order"]["action"] == MoveBuckets.__name__]  # fmt: skip
    assert moves, "the slow server was not noticed"
    assert shares["server-0"] > 0.7
    assert version > 1
    plain, relieved = found
    assert plain.keys() == relieved.keys()
    for name, value in plain.items():
        torch.testing.assert_close(relieved[name], value, rtol=1e-3, atol=1e-4)


@contextmanager
def watched(folder):
    """Two servers with a head's view of them, and what moves buckets between them; give also how often all was lost."""
    with wired(2, folder) as world:
        side, lost = ServerSide(2, CONFIGS, SECRET), []
        for number, wire in enumerate(world.wires):
            side.set_server(number, wire.address)
        side.record.moved(world.record.map)
        side.directory.refresh()
        side.give(side.record.map, 0)
        side.ready = True
        controller = Controller(Static(), ControllerConfig(batch=10))
        try:
            yield world, side, Relief(side, controller, nullcontext, lost=lambda: lost.append(1)), lost
        finally:
            side.close()


def mine(side) -> list[int]:
    return np.flatnonzero(side.record.map.mask(0)).tolist()


def test_a_move_whose_answer_was_lost_is_learned_of(tmp_path) -> None:
    with watched(tmp_path) as (world, side, relief, lost):
        world.servers[0].departures.move(mine(side)[:10], 1, world.servers[1].arrivals)
        assert side.record.map.version == 0
        for _ in range(3):
            relief.look()
        assert side.record.map.version == 1
        assert int(side.record.map.mask(1).sum()) == world.servers[1].stats()["buckets"]
        assert (lost, side.directory.map.version) == ([], 1)


def test_buckets_that_nobody_has_are_noticed(tmp_path) -> None:
    with watched(tmp_path) as (world, side, relief, lost):
        arrivals = world.servers[1].arrivals

        def end(move, buckets) -> None:
            arrivals.abort(move)
            raise WorkerLost("peer")

        arrivals.end = end
        with pytest.raises(WorkerLost, match="given up"):
            world.servers[0].departures.move(mine(side)[:10], 1, arrivals)
        relief.look()
        assert lost == []  # it may be between two answers
        relief.look()
        assert lost == [1]


def test_an_order_that_fails_in_whatever_way_is_answered(tmp_path) -> None:
    with watched(tmp_path) as (_, _, relief, _):
        done = []
        relief._controller.done = lambda order, now, worked: done.append((order, worked))
        order = MoveBuckets({"server-0": 0.5, "server-1": 0.5})
        for error in (KeyError("server-7"), WorkerLost("server-1")):

            def fails(shares, error=error):
                raise error

            relief.move = fails
            relief._orders.append(order)
            relief.relieve()
        assert done == [(order, False), (order, False)]


def test_after_going_back_servers_refuse_what_older_epochs_send(tmp_path) -> None:
    with watched(tmp_path) as (world, side, _, _):
        side.ready = False  # as it is until everybody is back
        side.fence(3)
        side.applier.flush()
        for server in world.servers:
            assert server.prepared._fences == {"": 3}


def test_a_server_without_buckets_hears_of_steps_from_another_head_too(tmp_path) -> None:
    with watched(tmp_path) as (world, side, _, _):
        everything = mine(side)
        side.record.moved(world.servers[0].departures.move(everything, 1, world.servers[1].arrivals))
        again = ServerSide(2, CONFIGS, SECRET)
        for number, wire in enumerate(world.wires):
            again.set_server(number, wire.address)
        world.servers[1].prepare(named(1), 1, 1, part([1]))
        again.record.moved(BucketMap.even([0, 1]))  # all that another head knows at first
        assert again._meet(_Queue(), 0)
        again.applier.flush()
        assert [server.applied for server in world.servers] == [1, 1]
        again.close()


class _Queue:
    """A queue that has decided one step."""

    last_step = 1

    def decided(self, first: int):
        return [(1, Transaction("w0", 0, 1).text)]
