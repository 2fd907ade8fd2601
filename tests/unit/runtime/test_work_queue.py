"""The work queue: leases and fences, modes, the tail, time."""

from __future__ import annotations

import time

import pytest

from headrace.errors import ConfigError, LeaseLost, VersionError
from headrace.runtime import Contribution, rows_of


def test_a_late_commit_is_refused_and_the_new_owners_is_taken(queue_of, part) -> None:
    queue = queue_of(8)
    zombie = queue.lease("w0", 0.0)
    assert queue.expire(11.0) == 1
    owner = queue.lease("w1", 11.0)
    assert (owner.shard, owner.ranges) == (zombie.shard, zombie.ranges)
    assert owner.fence > zombie.fence
    assert queue.commit(1, [part(zombie, 0, 8)]) == [False]
    assert queue.commit(1, [part(owner, 0, 8)]) == [True]
    assert queue.finished


def test_one_stale_contribution_keeps_the_whole_step_out(queue_of, part) -> None:
    queue = queue_of(16)
    lost, kept = queue.lease("w0"), queue.lease("w1")
    queue.leave("w0")
    assert queue.commit(5, [part(lost, 0, 2), part(kept, 0, 2)]) == [False, True]
    assert queue.counts().pending == 0
    assert queue.last_step == -1
    assert queue.commit(5, [part(kept, 0, 2)]) == [True]
    assert (queue.counts().pending, queue.last_step) == (2, 5)


def test_only_what_is_still_to_do_is_taken(queue_of, part) -> None:
    queue = queue_of(8)
    grant = queue.lease("w0")
    assert queue.commit(0, [part(grant, 2, 4)]) == [True]
    for start, stop in ((1, 3), (2, 4), (3, 5), (0, 9), (5, 4), (-1, 1)):
        assert queue.commit(1, [part(grant, start, stop)]) == [False], (start, stop)
    assert queue.commit(1, [part(grant, 4, 6), part(grant, 5, 7)]) == [True, False], "twice within one step"
    assert queue.commit(1, [part(grant, 4, 6), part(grant, 0, 2)]) == [True, True]
    assert queue.renew("w0")[0].ranges == ((6, 8),)
    assert queue.commit(2, [Contribution("b@0:0-8", grant.fence, 6, 7)]) == [False]
    assert queue.commit(2, []) == []
    assert queue.last_step == 2


def test_what_is_lost_comes_back_in_its_place(queue_of, part) -> None:
    """So the order of rows does not depend on who lost what."""
    queue = queue_of(24)
    first, second = queue.lease("w0"), queue.lease("w1")
    queue.commit(0, [part(first, 0, 3), part(second, 0, 2)])
    queue.leave("w1")
    queue.leave("w0")
    again = [queue.lease("w2") for _ in range(3)]
    assert [(one.first, one.ranges) for one in again] == [(0, ((3, 8),)), (8, ((2, 8),)), (16, ((0, 8),))]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_sees_the_same_order(queue_of, workers) -> None:
    queue, seen = queue_of(64, shuffle=True, epochs=2), []
    turn = 0
    while (grant := queue.lease(f"w{turn % workers}")) is not None:
        seen += [(grant.epoch, row) for lo, hi in grant.ranges for row in rows_of(grant, lo, hi).tolist()]
        queue.done(grant)
        turn += 1
    assert sorted(seen) == [(epoch, row) for epoch in range(2) for row in range(64)]
    orders = [[row for epoch, row in seen if epoch == one] for one in range(2)]
    assert orders[0] != orders[1] != sorted(orders[1])
    alone = queue_of(64, shuffle=True, epochs=2)
    expected = []
    while (grant := alone.lease("x")) is not None:
        expected += [(grant.epoch, row) for row in rows_of(grant, 0, grant.last - grant.first).tolist()]
        alone.done(grant)
    assert seen == expected


def test_a_decided_step_keeps_its_contributions(queue_of, part) -> None:
    queue = queue_of(8)
    grant = queue.lease("w0")
    assert queue.commit(3, [part(grant, 0, 2)], note="applied by 1,2") == [True]
    queue.leave("w0")
    assert queue.commit(3, [part(grant, 0, 2)]) == [True], "the answer was lost; the fence is old by now"
    with pytest.raises(VersionError, match=r"Step 3.*other contributions"):
        queue.commit(3, [part(grant, 2, 4)])
    assert queue.recorded(3) == [part(grant, 0, 2)]
    assert queue.recorded(4) is None
    assert queue.decided(0) == [(3, "applied by 1,2")]
    with pytest.raises(ConfigError, match="note"):
        queue.commit(4, [], note="x" * 65_537)
    with pytest.raises(ConfigError, match="step"):
        queue.commit(-4, [])


def test_done_is_the_rest_of_a_lease_and_may_be_said_twice(queue_of, part) -> None:
    queue = queue_of(8)
    grant = queue.lease("w0")
    queue.commit(0, [part(grant, 0, 5)])
    queue.done(grant)
    queue.done(grant)
    assert queue.counts().pending == 8
    assert queue.last_step == 0
    assert queue.decided(0) == [(0, "")]


def test_exactly_once_hands_out_the_rest_of_a_lost_lease(queue_of, part) -> None:
    queue = queue_of(8)
    grant = queue.lease("w0")
    queue.commit(0, [part(grant, 0, 3)])
    queue.leave("w0")
    assert queue.lease("w1").ranges == ((3, 8),)
    assert (queue.counts().repeated, queue.counts().dropped) == (0, 0)


def test_at_least_once_hands_out_a_lost_lease_whole(queue_of, part) -> None:
    queue = queue_of(8, mode="at_least_once")
    grant = queue.lease("w0")
    assert queue.commit(0, [part(grant, 0, 3)]) == [True]
    assert (queue.counts().pending, queue.counts().doing) == (0, 8)
    queue.leave("w0")
    again = queue.lease("w1")
    assert again.ranges == ((0, 8),)
    assert queue.counts().repeated == 3
    queue.done(again)
    assert queue.counts().pending == 8


def test_at_most_once_drops_the_rest_of_a_lost_lease_and_counts_it(queue_of, part) -> None:
    queue = queue_of(8, mode="at_most_once")
    grant = queue.lease("w0")
    queue.commit(0, [part(grant, 0, 3)])
    queue.leave("w0")
    assert queue.lease("w1") is None
    counts = queue.counts()
    assert (counts.pending, counts.dropped, counts.repeated) == (3, 5, 0)
    assert queue.finished


def test_a_worker_that_leaves_cleanly_loses_nothing_in_any_mode(queue_of) -> None:
    queue = queue_of(8, mode="at_most_once", retries=1)
    queue.lease("w0")
    assert queue.leave("w0", clean=True) == 1
    assert queue.lease("w1").rows == 8


def test_at_the_tail_the_largest_rest_is_halved(queue_of, part) -> None:
    queue = queue_of(16, shard_rows=16, split_rows=2)
    slow = queue.lease("slow")
    queue.commit(0, [part(slow, 0, 4)])
    fast = queue.lease("fast")
    assert (fast.shard, fast.ranges) == (slow.shard, ((10, 16),))
    assert queue.renew("slow")[0].ranges == ((4, 10),)
    assert queue.commit(1, [part(slow, 9, 11)]) == [False], "it reaches into what was given away"
    assert queue.commit(1, [part(slow, 4, 10), part(fast, 10, 16)]) == [True, True]
    assert queue.finished


def test_a_lease_that_was_split_is_not_done_whole(queue_of) -> None:
    queue = queue_of(16, shard_rows=16, split_rows=2)
    slow = queue.lease("slow")
    fast = queue.lease("fast")
    with pytest.raises(LeaseLost, match="was split"):
        queue.done(slow)
    queue.done(queue.renew("slow")[0])
    queue.done(fast)
    assert queue.counts().pending == 16


def test_nobody_is_split_for_itself_nor_into_crumbs(queue_of, part) -> None:
    queue = queue_of(8, split_rows=3)
    grant = queue.lease("w0")
    assert queue.lease("w0") is None
    queue.commit(0, [part(grant, 0, 3)])
    assert queue.lease("w1") is None, "five rows cannot give three to both"


def test_a_slow_worker_does_not_hold_up_the_end(queue_of, part) -> None:
    """Six times slower than three others, virtual time: within 15 % of the ideal share of work."""
    queue = queue_of(4096, shard_rows=1024, split_rows=16)
    speed = {"w0": 1, "w1": 6, "w2": 6, "w3": 6}
    ticks = step = 0
    while not queue.finished:
        ticks += 1
        for worker, rows in speed.items():
            left = rows * 4
            while left:
                grants = queue.renew(worker)
                grant = grants[0] if grants else queue.lease(worker)
                if grant is None:
                    break
                start, stop = grant.ranges[0]
                take = min(left, stop - start)
                assert queue.commit(step, [part(grant, start, start + take)]) == [True]
                step, left = step + 1, left - take
    assert ticks <= 1.15 * 4096 / (4 * sum(speed.values()))


def test_renewing_puts_the_end_off(queue_of, part, clock) -> None:
    queue = queue_of(
        16,
    )
    first, second = queue.lease("w0"), queue.lease("w1")
    clock.now = 9.0
    assert [grant.fence for grant in queue.renew("w0")] == [first.fence]
    assert queue.expire(15.0) == 1
    assert [grant.fence for grant in queue.held()] == [first.fence]
    assert queue.renew("w1") == ()
    assert queue.commit(0, [part(second, 0, 1)]) == [False]
    assert queue.expire(18.9) == 0
    assert queue.expire(19.1) == 1


def test_a_thousand_workers_cost_microseconds_each(queue_of) -> None:
    """Per call, with 1,000 leases held against 10: nothing may grow with their number (5 times allowed)."""

    def seconds(workers: int) -> float:
        queue = queue_of(8 * 4000)
        for number in range(workers):
            queue.lease(f"w{number}")
        best = []
        for _ in range(5):
            start = time.process_time()
            for number in range(200):
                grant = queue.lease(f"x{number}")
                queue.renew(f"w{number % workers}")
                queue.expire(1.0)
                queue.done(grant)
            best.append(time.process_time() - start)
        return min(best)

    assert seconds(1000) < 5 * seconds(10)


def test_a_contribution_of_nothing_is_refused(queue_of, part) -> None:
    queue = queue_of(8)
    grant = queue.lease("w0")
    parts = [part(grant, 0, 8), part(grant, 8, 8)]
    assert queue.commit(0, parts) == [True, False]
    assert queue.counts().pending == 0
    assert queue.commit(0, parts[:1]) == [True]
