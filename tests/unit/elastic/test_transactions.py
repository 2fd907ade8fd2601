"""Transactions: their names, sums, cuts by bucket, and the way over the wire; what waits at a server."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.elastic.buckets import BucketMap, mask_of
from headrace.elastic.prepared import PreparedParts
from headrace.elastic.transactions import Part, Transaction, pack, summed, unpack
from headrace.errors import ClusterError
from headrace.store import bucket_of
from headrace.testing.equivalence import first_difference

from .tables_world import named, part

DIMS = {"user": 2, "item": 1}


def both(value: float = -1.0) -> Part:
    """Return a part of two tables."""
    user, item = part(range(40), value), part(range(10, 60), value, table="item")
    return Part({**user.steps, **item.steps}, {"user": 3}, np.array([1.0, 2.0], np.float32))


def test_a_name_is_read_back_and_nothing_else_is_taken() -> None:
    assert Transaction.parse(named(3, "w-1", 9).text) == named(3, "w-1", 9)
    for bad in ("", "w/1", "w/1/x", "/1/2", "w/1/2/3"):
        with pytest.raises(ClusterError, match="worker/epoch/number"):
            Transaction.parse(bad)


def test_a_part_travels_bit_by_bit() -> None:
    for one in (both(), Part(), part([])):
        fields, arrays = pack(one)
        assert len(arrays) <= 5
        assert first_difference(unpack(fields, arrays), one) is None
    fields, arrays = pack(both())
    for bad in ({}, fields | {"tables": [["user", 90, 2]]}, fields | {"evict": 3}):
        with pytest.raises(ClusterError):
            unpack(bad, arrays)


def test_sums_are_taken_in_the_order_of_names() -> None:
    small, large = part([1], 1e-8), part([1], 1.0)
    one, other = summed([small, small, large], DIMS), summed([large, small, small], DIMS)
    assert one.steps["user"][1][0, 0] == np.float32(1e-8) + np.float32(1e-8) + np.float32(1.0)
    assert other.steps["user"][1][0, 0] == np.float32(1.0)
    whole = summed([both(), part([5, 99])], DIMS)
    assert whole.steps["user"][2].sum() == 42
    assert (whole.evict, whole.dense.tolist()) == ({"user": 3}, [1.0, 2.0])
    assert summed([both(), both()], DIMS).dense.tolist() == [2.0, 4.0]


def test_a_cut_by_bucket_loses_nothing() -> None:
    mask = mask_of(range(0, 4096, 3))
    here, rest = both().split(mask)
    assert mask[bucket_of(here.steps["user"][0])].all()
    assert not mask[bucket_of(rest.steps["item"][0])].any()
    again = summed([here, rest], DIMS)
    assert first_difference(Part(again.steps, {"user": 3}, rest.dense), both()) is None
    assert (here.evict, len(here.dense)) == ({"user": 3}, 0)


def test_owners_get_theirs_and_one_gets_the_dense_part() -> None:
    buckets = BucketMap.even([0, 1, 5])
    shares = both().by_owner(buckets.owners, buckets.servers, dense_server=5)
    assert [len(shares[server].dense) for server in (0, 1, 5)] == [0, 0, 2]
    for server, share in shares.items():
        assert share.steps.keys() == {"user", "item"}
        assert (buckets.of(share.steps["user"][0]) == server).all()
    assert sum(len(share.steps["user"][0]) for share in shares.values()) == 40


def test_parts_that_moved_belong_to_their_attempt() -> None:
    waiting = PreparedParts("server", 1 << 20, 16)
    waiting.adopt(named(1), 2, part([8]))  # it had come to the former owner
    waiting.add(named(1), 2, part([7]))
    assert len(waiting.parts_of([named(1)])[0]) == 2
    waiting.add(named(1), 3, part([7, 8]))  # sent anew by the new map: all of it
    assert len(waiting.parts_of([named(1)])[0]) == 1
    waiting.adopt(named(1), 2, part([8]))  # late
    assert len(waiting.parts_of([named(1)])[0]) == 1
    assert waiting.parts_of([named(2)]) == ([], named(2))


def test_what_is_done_is_remembered_for_a_while() -> None:
    waiting = PreparedParts("server", 1 << 20, 2)
    assert waiting.known_since is None
    for number in range(1, 5):
        waiting.add(named(number), 1, part([7]))
        assert waiting.decide(number, (named(number),))
        waiting.settle(number, (named(number),), number)
    assert waiting.applied_since(3) == [(4, (named(4),))]
    assert (waiting.known_since, waiting.evicted(4), waiting.evicted(1)) == (2, 4, 0)
    waiting.adopt(named(4), 1, part([7]))
    waiting.add(named(3), 1, part([7]))
    assert len(waiting) == 0
