"""The bucket map, its way over the wire, and plans that relieve servers."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.elastic.buckets import BucketMap, mask_of, of_runs, relief_plan, runs_of
from headrace.errors import ClusterError, ConfigError
from headrace.store import shard_of


def carried(plan, loads, owners: BucketMap) -> dict[int, float]:
    """Return the load by server after a plan."""
    owner = owners.owners.copy()
    for move in plan:
        assert (owner[list(move.buckets)] == move.source).all()
        owner[list(move.buckets)] = move.target
    return {server: float(loads[owner == server].sum()) for server in range(4)}


def test_an_even_map_is_that_of_the_shards() -> None:
    ids = np.arange(1000)
    assert (BucketMap.even(range(3)).of(ids) == shard_of(ids, 3)).all()


def test_a_move_makes_the_next_map_and_changes_nothing_else() -> None:
    before = BucketMap.even([4, 9])
    after = before.moved([0, 5], 9)
    assert (before.version, after.version, before.servers) == (0, 1, (4, 9))
    assert np.flatnonzero(before.owners != after.owners).tolist() == [0, 5]
    assert after.moved(range(4096), 9).servers == (9,)
    with pytest.raises(ValueError, match="read-only"):
        after.owners[0] = 3


def test_a_map_travels() -> None:
    one = BucketMap.even(range(3)).moved([7], 2)
    other = BucketMap.read(one.fields())
    assert (other.version, other.owners.tolist()) == (1, one.owners.tolist())
    assert of_runs(runs_of(mask_of([1, 2, 9]))).nonzero()[0].tolist() == [1, 2, 9]
    for bad in ({}, {"version": 1, "runs": [[0, 5]]}, {"version": 1, "runs": 3}):
        with pytest.raises((ClusterError, ConfigError)):
            BucketMap.read(bad)


def test_a_mask_needs_buckets() -> None:
    for bad in ([], [-1], [4096]):
        with pytest.raises(ConfigError, match="buckets"):
            mask_of(bad)


def test_a_hot_server_is_relieved_with_few_buckets() -> None:
    owners = BucketMap.even(range(4))
    loads = np.ones(4096)
    loads[:1024] = 5.0  # server 0 has five times the others' load
    plan = relief_plan(loads, owners, dict.fromkeys(range(4), 1.0), margin=0.1)
    after = carried(plan, loads, owners)
    assert max(after.values()) <= loads.sum() / 4 * 1.1 + 5
    assert {move.source for move in plan} == {0}
    assert after[0] <= loads.sum() / 4 * 1.005  # who gives gives enough
    assert sum(len(move.buckets) for move in plan) <= 620


def test_the_lightest_that_is_enough_goes_where_all_are_too_heavy() -> None:
    owners, loads = BucketMap.even([0, 1]), np.full(4096, 1e-3)
    loads[:2] = [300, 200]
    loads[2048] = 100
    plan = relief_plan(loads, owners, {0: 1.0, 1: 1.0})
    assert 1 in plan[0].buckets
    assert 0 not in plan[0].buckets


def test_a_slow_server_keeps_what_it_can_carry() -> None:
    owners, loads = BucketMap.even(range(4)), np.ones(4096)
    after = carried(relief_plan(loads, owners, {0: 1.0, 1: 6.0, 2: 6.0, 3: 6.0}, margin=0.0), loads, owners)
    assert after[0] == pytest.approx(4096 / 19, abs=3)
    assert max(after[1], after[2], after[3]) <= 4096 * 6 / 19 + 3


def test_a_server_that_shall_have_nothing_gives_everything_away() -> None:
    owners, loads = BucketMap.even(range(4)), np.zeros(4096)
    assert carried(relief_plan(loads, owners, {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0}), loads + 1, owners)[0] == 0
    plan = relief_plan(loads, BucketMap.even([0, 1]), {0: 0.0, 1: 1.0, 7: 1.0})  # to its successor too
    assert {move.target for move in plan} == {7}


def test_a_bucket_that_is_too_hot_stays_where_it_is() -> None:
    owners, loads = BucketMap.even([0, 1]), np.zeros(4096)
    loads[3] = 100.0
    plan = relief_plan(loads, owners, {0: 1.0, 1: 1.0})
    assert all(3 not in move.buckets for move in plan)


def test_what_is_even_enough_stays() -> None:
    assert relief_plan(np.ones(4096), BucketMap.even(range(4)), dict.fromkeys(range(4), 1.0)) == []


def test_wrong_shares_are_refused() -> None:
    for shares in ({0: 1.0}, {0: 1.0, 1: -1.0}, {0: 0.0, 1: 0.0}):
        with pytest.raises(ConfigError, match="shares"):
            relief_plan(np.ones(4096), BucketMap.even([0, 1]), shares)
