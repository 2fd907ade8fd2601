"""Prepare, apply, order, fences and refusals of a table server, without sockets."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from headrace.elastic.buckets import BucketMap
from headrace.elastic.config import ElasticConfig
from headrace.elastic.server import limits_of
from headrace.elastic.server_parts import ServerLimits
from headrace.elastic.table_server import TableServer
from headrace.elastic.transactions import Part
from headrace.errors import (
    CapacityError,
    ConfigError,
    LeaseLost,
    NonFiniteLoss,
    RowRuleMismatch,
    StaleError,
    StoreError,
    WorkerLost,
)
from headrace.store import Disk, Storage, TableConfig

from .tables_world import CONFIGS, alone, dense_part, named, part, values


def test_prepared_changes_nothing_and_applied_is_one_update() -> None:
    server = alone()
    server.prepare(named(1), 1, 0, part([7, 8]))
    assert values(server, [7]) == [0.0]
    server.apply(1, [named(1)])
    assert values(server, [7, 8, 9]) == [1.0, 1.0, 0.0]
    assert server.marks() == {"user": 1, "item": 0}
    assert server.stats()["prepared"] == 0


def test_workers_are_added_and_the_table_learns_once() -> None:
    server = alone()
    server.prepare(named(1, "w0"), 1, 0, part([7]))
    server.prepare(named(1, "w1"), 1, 0, part([7, 9], -2.0))
    server.apply(1, [named(1, "w0"), named(1, "w1")])
    assert values(server, [7, 9]) == [3.0, 2.0]
    assert server.marks()["user"] == 1


def test_a_step_that_comes_twice_or_early_is_taken_once_and_in_turn() -> None:
    server = alone()
    for number in (1, 2):
        server.prepare(named(number), 1, 0, part([7]))
    server.apply(2, [named(2)])
    assert (server.applied, values(server, [7])) == (0, [0.0])
    server.apply(1, [named(1)])
    server.apply(1, [named(1)])
    server.apply(2, [named(2)])
    assert (server.applied, values(server, [7])) == (2, [2.0])
    server.prepare(named(2), 1, 0, part([7]))  # late, and done already
    assert server.stats()["prepared"] == 0


def test_a_table_that_nobody_touched_here_counts_the_update_all_the_same() -> None:
    server = alone()
    server.prepare(named(1), 1, 0, part([]))
    server.apply(1, [named(1)])
    assert server.marks() == {"user": 1, "item": 0}


def test_a_later_attempt_replaces_an_earlier_one() -> None:
    server = alone()
    server.prepare(named(1), 2, 0, part([7]))
    server.prepare(named(1), 1, 0, part([8]))  # was on its way for long
    server.apply(1, [named(1)])
    assert values(server, [7, 8]) == [1.0, 0.0]


def test_a_fence_drops_what_is_not_decided_and_refuses_what_comes_late() -> None:
    server = alone()
    for number in (1, 2):
        server.prepare(named(number, epoch=3), 1, 0, part([7]))
    server.prepare(named(1, "w1", epoch=3), 1, 0, part([7]))
    server.apply(2, [named(2, epoch=3)])  # decided, and waits for step 1
    server.fence(4, "w0")
    assert server.stats()["prepared"] == 2
    with pytest.raises(LeaseLost, match="epoch 3, expected epoch 4"):
        server.prepare(named(5, epoch=3), 1, 0, part([7]))
    server.apply(1, [named(1, "w1", epoch=3)])
    assert (server.applied, values(server, [7])) == (2, [2.0])
    server.fence(9)
    with pytest.raises(LeaseLost):
        server.prepare(named(5, "w7", epoch=8), 1, 0, part([7]))


def test_discarded_is_gone() -> None:
    server = alone()
    server.prepare(named(1), 1, 0, part([7]))
    server.discard([named(1)])
    assert server.stats()["prepared"] == 0


def test_a_decision_for_what_was_never_prepared_tears_the_server() -> None:
    server = alone()
    with pytest.raises(StoreError, match="not prepared here"):
        server.apply(1, [named(1)])
    for refused in (lambda: values(server, [1]), lambda: server.prepare(named(2), 1, 0, part([1])),
                    lambda: server.rows("user")):  # fmt: skip
        with pytest.raises(StoreError, match="newest checkpoint"):
            refused()
    server.copies.restore(server.map, 0, [])
    assert values(server, [1]) == [0.0]


def test_two_decisions_for_one_step_tear_the_server() -> None:
    server = alone()
    server.apply(2, [named(2)])
    with pytest.raises(StoreError, match="different transactions"):
        server.apply(2, [named(3)])


@pytest.mark.parametrize(("bad", "error"), [
    (float("nan"), NonFiniteLoss), (float("inf"), NonFiniteLoss), (1e36, NonFiniteLoss),
])  # fmt: skip
def test_gradients_that_may_not_add_up_are_refused_before_anything(bad, error) -> None:
    server = alone()
    with pytest.raises(error, match="'user'"):
        server.prepare(named(1), 1, 0, part([7], bad))
    with pytest.raises(error, match="dense"):
        server.prepare(named(1), 1, 0, part([7], dense=[bad]))
    assert server.stats()["prepared"] == 0


def test_wrong_parts_are_refused() -> None:
    server, (ids, grads, counts, times) = alone(), part([7, 8]).steps["user"]
    for step in (
        (ids[::-1], grads, counts, times),
        (ids, grads[:, :1], counts, times),
        (ids, grads, counts * 0, times),
    ):
        with pytest.raises(StoreError, match="ids that ascend"):
            server.prepare(named(1), 1, 0, Part({"user": step}))
    with pytest.raises(StoreError, match="not served"):
        server.prepare(named(1), 1, 0, Part({}, {"nobody": 3}))


def test_too_much_that_waits_is_refused() -> None:
    server = alone(limits=ServerLimits(prepared_bytes=100))
    server.prepare(named(1), 1, 0, part([7]))
    with pytest.raises(CapacityError, match="at most 100"):
        server.prepare(named(2), 1, 0, part([7, 8, 9]))


def test_a_run_says_what_its_servers_wait_for_and_hold(tmp_path) -> None:
    assert limits_of(ElasticConfig(recipe="a:b", folder=tmp_path)) == ServerLimits()
    config = ElasticConfig(recipe="a:b", folder=tmp_path, lookup_wait_s=0.5, prepared_bytes=10)
    config.write()
    assert limits_of(ElasticConfig.read(tmp_path)) == ServerLimits(wait_s=0.5, prepared_bytes=10)
    for wrong in ({"lookup_wait_s": 0.0}, {"prepared_bytes": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ElasticConfig(recipe="a:b", folder=tmp_path, **wrong)


def test_a_look_up_waits_for_its_step_but_not_for_ever() -> None:
    server = alone(limits=ServerLimits(wait_s=5.0))
    server.prepare(named(1), 1, 0, part([7]))
    later = threading.Timer(0.05, server.apply, (1, [named(1)]))
    later.start()
    assert values(server, [7], after=1) == [1.0]
    later.join()
    impatient = alone(limits=ServerLimits(wait_s=0.01))
    with pytest.raises(WorkerLost, match="step 0, expected step 1"):
        values(impatient, [7], after=1)


def test_a_step_of_the_history_before_a_restore_is_not_waited_for() -> None:
    server = alone()
    server.prepare(named(1), 0, server.map.version, part([1]))
    server.apply(1, [named(1)])
    before = server.map
    server.copies.restore(replace(before, version=before.version + 1), 0, [])
    begun = time.monotonic()
    with pytest.raises(LeaseLost, match="restore to step 0"):
        server.lookup(before.version, 1, {"user": np.array([1])})
    assert time.monotonic() - begun < 1.0  # of five
    assert server.lookup(before.version, 0, {"user": np.array([1])})["user"][:, 0].tolist() == [0.0]


def test_who_has_an_old_map_is_told() -> None:
    buckets = BucketMap.even([0, 1])
    server = TableServer(0, CONFIGS, BucketMap(3, buckets.owners.copy()))
    here = np.array([number for number in range(50) if buckets.of(np.array([number]))[0] == 0])
    there = np.setdiff1d(np.arange(50), here)
    server.lookup(2, 0, {"user": here})  # what it still owns can be read
    with pytest.raises(StaleError, match="version 2, expected version 3"):
        server.lookup(2, 0, {"user": there})
    with pytest.raises(StaleError):
        server.prepare(named(1), 1, 2, part(here))
    with pytest.raises(StaleError):
        server.advance(BucketMap(4, np.zeros(4096, np.int64)))
    server.advance(BucketMap(4, buckets.owners.copy()))
    assert server.map.version == 4


def test_rows_are_evicted_with_the_step() -> None:
    server = alone()
    server.prepare(named(1), 1, 0, part([7]))
    server.prepare(named(2), 1, 0, Part({}, {"user": 2}))
    server.apply(1, [named(1)])
    assert server.apply(2, [named(2)]) == 1
    assert (values(server, [7]), server.marks()["user"]) == ([0.0], 2)
    assert server.changes("user", 1).removed.tolist() == [7]


def test_the_dense_part_takes_the_step_as_well() -> None:
    server = alone(dense=dense_part())
    server.prepare(named(1), 1, 0, part([7], dense=[1.0, 2.0]))
    server.apply(1, [named(1)])
    step, found = server.pull_dense(-1, 1)
    assert (step, found.tolist()) == (1, [-1.0, -2.0])
    assert server.pull_dense(1, 0) == (1, None)
    with pytest.raises(StoreError, match="no dense part"):
        alone().pull_dense(-1, 0)


def test_a_dense_gradient_that_does_not_fit_is_refused_before_it_tears_the_server() -> None:
    for server, dense in ((alone(dense=dense_part()), [1.0, 1.0, 1.0]), (alone(), [1.0, 1.0])):
        with pytest.raises(StoreError, match="dense gradient"):
            server.prepare(named(1), 1, 0, part([7], dense=dense))
        assert server.stats()["prepared"] == 0


def test_dense_part_and_tables_are_restored_between_the_same_two_steps() -> None:
    server, held = alone(dense=dense_part()), []

    def restore(state) -> None:
        def look() -> None:
            held.append(server.order.acquire(blocking=False))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    server.dense.restore = restore
    server.copies.restore(server.map, 0, [])
    assert held == [False]


def test_other_tables_are_noticed_at_once() -> None:
    with pytest.raises(RowRuleMismatch, match="'item'"):
        alone().open({"user": "0"})
    with pytest.raises(ConfigError, match=r"storage\.disk"):
        TableServer(0, [TableConfig(name="user", dim=2, storage=Storage(disk=Disk(folder="x", memory_bytes=1 << 26)))],
                    BucketMap.even([0]))  # fmt: skip


def test_load_is_counted_by_bucket() -> None:
    server = alone()
    for _ in range(8):
        values(server, [7, 7, 8])
    loads = server.load.buckets()
    assert (int(loads.sum()), int(loads.max()), int(server.load.buckets().sum())) == (24, 16, 0)
    found = server.stats()
    assert (found["lookups"], found["rows"]) == (8, 24)
    assert found["request_s"] > 0


def test_injected_slowness_sleeps_by_rows() -> None:
    server = alone()
    server.delay = lambda rows: 0.01 * rows
    values(server, [7, 8])
    assert server.stats()["busy_s"] >= 0.02
