"""Tables at servers as a worker sees them: transactions, patience, refusals; what is learned: tests/equivalence."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.elastic.buckets import BucketMap
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.elastic.remote_tables import RemoteTables
from headrace.errors import ClusterError, NonFiniteLoss, RowRuleMismatch, StoreError, WorkerLost

from .tables_world import CONFIGS, SECRET, named, wired

ONE = torch.ones(1, dtype=torch.int64)


def update(table, ids, value: float = -1.0) -> None:
    known = torch.tensor(ids)
    ones = torch.ones(len(known), dtype=torch.int64)
    table.update(known, torch.full((len(known), table.config.dim), value), ones, ones)


def test_alone_an_update_is_a_step() -> None:
    with wired(2) as world:
        user, item = world.remote.tables["user"], world.remote.tables["item"]
        update(user, [5, 3, 9])
        update(item, [1])
        assert user.lookup(torch.tensor([3, 3, 4]))[:, 0].tolist() == [1.0, 1.0, 0.0]
        assert (user.mark(), item.mark(), world.remote.after) == (1, 1, 2)
        assert world.remote.marks() == {"user": 1, "item": 1}
        assert user.changes(0).ids.tolist() == [3, 5, 9]
        assert user.evict(2) == 3
        assert user.changes(1).removed.tolist() == [3, 5, 9]


def test_a_transaction_is_one_step_of_all_tables() -> None:
    with wired(2) as world:
        with world.remote.transaction(named(1)):
            update(world.remote.tables["user"], [5, 3])
            update(world.remote.tables["item"], [1])
            update(world.remote.tables["item"], [1, 2])
            assert world.remote.tables["user"].evict(-5) == 0
        assert [server.applied for server in world.servers] == [0, 0]
        world.remote.apply(1, [named(1)])
        world.remote.after = 1
        assert world.remote.tables["item"].lookup(torch.tensor([1, 2]))[:, 0].tolist() == [2.0, 1.0]
        assert world.remote.marks() == {"user": 2, "item": 1}


def test_what_goes_wrong_inside_sends_nothing() -> None:
    with wired(1) as world:
        with pytest.raises(ValueError, match="mine"), world.remote.transaction(named(1)):
            update(world.remote.tables["user"], [5])
            raise ValueError("mine")
        with pytest.raises(NonFiniteLoss), world.remote.transaction(named(1)):
            world.remote.tables["user"].remote.take(_bad())
        with pytest.raises(StoreError, match="one at a time"), world.remote.transaction(named(1)):
            world.remote.transaction(named(2)).__enter__()
        assert world.servers[0].stats()["prepared"] == 0
        world.remote.prepare(named(3), _bad(0.0))
        world.remote.discard([named(3)])
        assert world.servers[0].stats()["prepared"] == 0


def _bad(value: float = float("nan")):
    from .tables_world import part

    return part([1], value)


def test_updates_are_checked_before_they_travel() -> None:
    with wired(1) as world:
        user = world.remote.tables["user"]
        with pytest.raises(StoreError, match="more than once"):
            update(user, [3, 3])
        with pytest.raises(StoreError):
            user.update(ONE, torch.zeros(1, 5), ONE, ONE)


def test_other_tables_than_the_servers_are_noticed() -> None:
    with wired(1) as world:
        other = RemoteTables([replace(CONFIGS[0], seed=9), CONFIGS[1]], world.directory)
        with pytest.raises(RowRuleMismatch, match="'user'"):
            other.open()
        other.close()


def test_a_dead_server_is_told_at_once_and_a_replaced_one_is_found() -> None:
    with wired(2) as world, wired(2) as spare:
        world.wires[1].close()
        with pytest.raises(WorkerLost):
            world.remote.fetch({"user": np.arange(20)})
        world.record.set_server(1, spare.wires[1].address)
        assert (world.remote.fetch({"user": np.arange(20)})["user"] == 0).all()


def test_steps_from_before_a_restore_are_not_waited_for_at_the_server_in_its_place() -> None:
    with wired(1) as world, wired(1) as spare:
        world.remote.fetch({"user": np.arange(20)})
        world.remote.after = 20
        world.wires[0].close()
        world.record.set_server(0, spare.wires[0].address)
        world.record.moved(BucketMap(world.record.map.version + 1, world.record.map.owners.copy()), restored=True)
        begun = time.monotonic()
        with pytest.raises(WorkerLost):
            world.remote.fetch({"user": np.arange(20)})
        assert time.monotonic() - begun < 4.0  # two are for a connection that may come back, none for step 20


def test_the_history_goes_now_and_then() -> None:
    with wired(1) as world:
        table = world.remote.tables["user"]
        for _ in range(3):
            update(table, [1])
            table.forget(table.mark())
        assert table.changes(0).ids.tolist() == [1]  # three updates are not worth a call
        table.forget(10_000_000 if table.mark() > 256 else table.mark())


def test_a_record_knows_nothing_at_first() -> None:
    record = BucketDirectory()
    with pytest.raises(ClusterError, match="none yet"):
        record.fields()
    record.moved(BucketMap.even([0], version=3))
    record.moved(BucketMap.even([1], version=2))  # older
    assert record.map.servers == (0,)
    record.set_server(0, "a:1")
    directory = Directory(record.fields, lambda address: address)
    assert (directory.client(0), directory.servers) == ("a:1", (0,))
    assert not directory.refresh()
    record.set_server(0, "a:2")
    assert directory.refresh()
    assert directory.client(0) == "a:2"
    del record._servers[0]
    directory.refresh()
    with pytest.raises(WorkerLost, match="no address"):
        directory.client(0)
    assert SECRET
