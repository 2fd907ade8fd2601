"""The work queue goes back to a manifest; grants, settings and sources stay what they were."""

from __future__ import annotations

import json

import pytest

from headrace.errors import ConfigError, DataError
from headrace.runtime import Grant, QueueConfig, ShardQueue


def test_restore_goes_back_to_the_step_and_raises_every_fence(queue_of, part) -> None:
    queue = queue_of(16)
    first = queue.lease("w0")
    queue.commit(1, [part(first, 0, 4)])
    state = json.loads(json.dumps(queue.state()))
    queue.saved(state)
    assert (queue.counts().done, queue.counts().pending) == (4, 0)
    queue.commit(2, [part(first, 4, 6)])
    assert (queue.counts().done, queue.counts().pending) == (4, 2)
    queue.restore(state)
    assert queue.last_step == 1
    assert queue.held() == []
    assert queue.commit(2, [part(first, 4, 6)]) == [False], "the step is forgotten, and the fence is old"
    again = queue.lease("w0")
    assert again.fence > first.fence
    assert again.ranges == ((4, 8),)
    assert queue.commit(2, [part(again, 4, 6)]) == [True]


def test_a_restore_without_the_log_raises_fences_above_what_the_log_gave_out(queue_of) -> None:
    queue = queue_of(80)
    state = queue.state()
    later = [queue.lease("w0") for _ in range(5)]
    fresh = queue_of(80)
    fresh.restore(state)
    assert fresh.lease("w1").fence > max(grant.fence for grant in later)


def test_at_most_once_drops_what_was_handed_out_after_the_manifest(queue_of, part) -> None:
    queue = queue_of(24, mode="at_most_once", epochs=2)
    state = queue.state()
    first, second = queue.lease("w0"), queue.lease("w0")
    queue.commit(0, [part(first, 0, 8), part(second, 0, 2)])
    queue.restore(state)
    counts = queue.counts()
    assert (counts.dropped, counts.todo, counts.pending + counts.done) == (16, 8, 0)


def test_rows_quarantined_since_the_manifest_stay_so(queue_of) -> None:
    queue = queue_of(8)
    state = queue.state()
    queue.fail(queue.lease("w0"), 3, "bad")
    queue.restore(state)
    assert [one.row for one in queue.quarantined()] == [3]
    assert queue.lease("w0").ranges == ((0, 3), (4, 8))


def test_a_stream_keeps_its_length_over_a_restore(queue_of) -> None:
    queue = queue_of(0)
    queue.extend("p", 8)
    state = queue.state()
    queue.extend("p", 16)
    queue.done(queue.lease("w0"))
    queue.restore(state)
    assert queue.streams()["p"].stop == 16
    assert (queue.trained_through(), queue.counts().todo) == ({"p": 0}, 16)
    assert queue.extend("p", 16) == 0


@pytest.mark.parametrize("setting", [{"seed": 9}, {"shard_rows": 9}, {"mode": "at_least_once"}, {"shuffle": True}])
def test_other_settings_are_refused_before_anything_changes(queue_of, setting, tmp_path) -> None:
    queue, other = queue_of(16, path=tmp_path / "q.db"), queue_of(16, **setting)
    before = queue.state()
    with pytest.raises(ConfigError, match="other settings"):
        queue.restore(other.state())
    with pytest.raises(DataError, match="State of a ShardQueue"):
        queue.restore({"rows": 3})
    assert queue.state() == before
    queue.shut()
    with pytest.raises(ConfigError, match="other settings"):
        queue_of(16, path=tmp_path / "q.db", **setting)


def test_grants_travel_as_json(queue_of) -> None:
    grant = queue_of(16).lease("w0")
    assert Grant.from_fields(json.loads(json.dumps(grant.to_fields()))) == grant


def test_sources_are_what_they_were(queue_of) -> None:
    queue = queue_of(16)
    queue.add("a", 16)
    with pytest.raises(DataError, match="16 rows, as before"):
        queue.add("a", 17)
    with pytest.raises(DataError, match="a file"):
        queue.extend("a", 20)
    assert not ShardQueue(None, QueueConfig()).finished, "a queue that knows of no source is not at its end"


@pytest.mark.parametrize(
    "setting",
    [{"shard_rows": 0}, {"epochs": 0}, {"retries": 0}, {"lease_s": 0}, {"retry_s": -1}, {"split_rows": 0},
     {"quarantine_limit": -1}, {"mode": "twice"}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(setting) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        QueueConfig(**setting)
