"""What the work queue is fed with: streams that grow, rows that fail."""

from __future__ import annotations

import pytest

from headrace.errors import DataError
from headrace.runtime import ShardQueue, rows_of


def test_a_stream_grows_and_no_range_is_handed_out_twice(queue_of) -> None:
    queue, seen = queue_of(0), []
    for stop in (5, 5, 3, 20, 20, 21):
        queue.extend("topic/0", stop, start=2)
        while (grant := queue.lease("w0")) is not None:
            seen += [row for lo, hi in grant.ranges for row in rows_of(grant, lo, hi).tolist()]
            queue.done(grant)
    assert seen == list(range(2, 21))
    assert not queue.finished
    queue.close("topic/0")
    assert queue.finished
    with pytest.raises(DataError, match="after it was closed"):
        queue.extend("topic/0", 30)
    with pytest.raises(DataError, match="no such source"):
        queue.close("topic/1")


def test_trained_through_is_the_unbroken_run_and_lag_counts_all_that_is_left(queue_of, part) -> None:
    queue = queue_of(0)
    queue.extend("p", 24)
    first, second, third = (queue.lease(f"w{number}") for number in range(3))
    assert queue.commit(0, [part(second, 0, 8), part(third, 0, 4)]) == [True, True]
    assert (queue.trained_through(), queue.lag()) == ({"p": 0}, {"p": 12})
    assert queue.streams()["p"].ahead == ((8, 20),)
    queue.commit(1, [part(first, 0, 7)])
    assert queue.trained_through() == {"p": 7}
    queue.fail(first, 7, "bad")
    assert queue.trained_through() == {"p": 20}, "a quarantined row does not hold the rest up"


def test_small_arrivals_make_one_shard_until_somebody_takes_it(queue_of) -> None:
    queue = queue_of(0)
    for stop in range(1, 11):
        queue.extend("p", stop)
    assert [queue.lease("w0").ranges, queue.lease("w0").ranges] == [((0, 8),), ((0, 2),)]
    queue.extend("p", 12)
    assert queue.lease("w0").first == 10, "a shard that somebody has does not grow"


def test_partitions_are_served_in_the_order_of_arrival(queue_of) -> None:
    queue = queue_of(0)
    queue.extend("old", 1_000_000 + 8, start=1_000_000)
    queue.extend("young", 8)
    queue.extend("old", 1_000_000 + 16)
    assert [queue.lease("w0").source for _ in range(3)] == ["old", "young", "old"]


def work_through(queue: ShardQueue, bad: set[int], clock) -> int:
    """Work as one that only notices that a batch fails; return the number of failures."""
    failures = 0
    while not queue.finished:
        grant = queue.lease("w0")
        if grant is None:
            clock.now += 1.0
            continue
        rows = [row for lo, hi in grant.ranges for row in rows_of(grant, lo, hi).tolist()]
        if bad & set(rows):
            queue.fail(grant, None, f"cannot parse one of {len(rows)} rows")
            failures += 1
        else:
            queue.done(grant)
    return failures


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_poison_shard_is_halved_down_to_the_row(queue_of, clock, shuffle) -> None:
    queue = queue_of(64, shard_rows=32, shuffle=shuffle, retries=3, retry_s=0.5)
    failures = work_through(queue, {5, 40}, clock)
    found = queue.quarantined()
    assert sorted(one.row for one in found) == [5, 40]
    assert {one.error for one in found} == {"cannot parse one of 1 rows"}
    assert {one.failures for one in found} == {3}
    counts = queue.counts()
    assert (counts.pending, counts.quarantined, counts.todo, counts.doing) == (62, 2, 0, 0)
    assert failures == 2 * (3 + 4 + 3), "the shard three times, halves of 16, 8, 4, 2 once each, the row three times"


def test_a_row_that_is_known_to_fail_is_taken_out_and_the_lease_goes_on(queue_of, part) -> None:
    queue = queue_of(8, shuffle=True, seed=5)
    grant = queue.lease("w0")
    assert queue.fail(grant, 3, "label is 'x'")
    assert queue.renew("w0")[0].ranges == ((0, 3), (4, 8))
    assert queue.renew("w0")[0].fence == grant.fence
    assert [(one.row, one.error) for one in queue.quarantined()] == [(int(rows_of(grant, 3, 4)[0]), "label is 'x'")]
    with pytest.raises(DataError, match="position 3"):
        queue.fail(grant, 3, "again")
    assert queue.commit(0, [part(grant, 0, 3), part(grant, 4, 8)]) == [True, True]
    assert not queue.fail(grant, 5, "too late")
    assert queue.finished


def test_a_shard_that_kills_its_workers_is_poison_too(queue_of) -> None:
    queue, deaths = queue_of(8, retries=3, split_rows=100), 0
    while not queue.finished:
        grant = queue.lease("w0")
        if 5 in [row for lo, hi in grant.ranges for row in rows_of(grant, lo, hi).tolist()]:
            queue.leave("w0")
            deaths += 1
        else:
            queue.done(grant)
    (found,) = queue.quarantined()
    assert found.row == 5
    assert "lost 3 times in a row" in found.error
    assert deaths == 3 * 4


def test_deaths_between_which_work_goes_on_are_nobodys_fault(queue_of, part) -> None:
    queue = queue_of(8, retries=2)
    for step in range(7):
        grant = queue.lease("w0")
        start = grant.ranges[0][0]
        assert queue.commit(step, [part(grant, start, start + 1)]) == [True]
        queue.leave("w0")
    assert queue.lease("w0").ranges == ((7, 8),)
    assert queue.quarantined() == []


def test_a_failed_part_rests_longer_with_every_failure(queue_of, clock) -> None:
    queue = queue_of(8, retries=10, retry_s=1.0)
    for wait in (1.0, 2.0, 4.0, 8.0):
        grant = queue.lease("w0")
        queue.fail(grant, None, "the store does not answer")
        clock.now += wait - 0.01
        assert queue.lease("w0") is None
        assert not queue.finished
        clock.now += 0.02
    assert queue.lease("w0") is not None


def test_too_many_quarantined_rows_stop_the_queue(queue_of) -> None:
    queue = queue_of(8, quarantine_limit=2)
    grant = queue.lease("w0")
    for position in range(3):
        queue.fail(grant, position, "column 'price' is missing")
    with pytest.raises(DataError, match=r"3 quarantined rows.*column 'price' is missing"):
        queue.lease("w1")


def test_a_row_quarantined_in_one_epoch_stays_so_in_the_next(queue_of) -> None:
    queue = queue_of(16, shuffle=True, epochs=3, quarantine_limit=1)
    grant = queue.lease("w0")
    bad = int(rows_of(grant, 2, 3)[0])
    queue.fail(grant, 2, "bad")
    seen = []
    while (grant := queue.lease("w0")) is not None or not queue.finished:
        if grant is None:
            break
        seen += [row for lo, hi in grant.ranges for row in rows_of(grant, lo, hi).tolist()]
        queue.done(grant)
    for held in queue.held():
        seen += [row for lo, hi in held.ranges for row in rows_of(held, lo, hi).tolist()]
    assert bad not in seen
    assert [(one.epoch, one.row) for one in queue.quarantined()] == [(0, bad), (1, bad), (2, bad)]
