"""A recorded log is played as requests and answers, resumes anywhere, and can be repeated."""

from __future__ import annotations

from headrace.data.source import MemorySource
from headrace.errors import SourceEnded
from headrace.online import Recording
from headrace.types import Events


def rows() -> Events:
    return Events.from_columns({
        "key": ["a", "a", "a", "b", "b"], "kind": ["impression", "impression", "click", "impression", "click"],
        "event_time": [10, 10, 15, 20, 30], "item": ["x", "y", "x", "x", "x"],
    })  # fmt: skip


def test_impressions_are_requests_and_the_rest_is_feedback() -> None:
    recording = Recording(lambda: MemorySource([rows()]))
    requests = recording.read(5)
    assert requests is not None
    assert requests.column("kind").to_pylist() == ["impression"] * 3
    answers = recording.collect(requests, requests)
    assert answers is not None
    assert answers.column("kind").to_pylist() == ["click", "click"]
    assert recording.collect(requests, requests) is None


def test_seek_continues_after_the_rows_read() -> None:
    recording = Recording(lambda: MemorySource([rows()]))
    recording.read(3)
    again = Recording(lambda: MemorySource([rows()]))
    again.seek(recording.position())
    rest = again.read(10)
    assert rest is not None
    assert rest.column("key").to_pylist() == ["b"]


def test_a_repeated_log_has_later_times_and_other_keys() -> None:
    recording = Recording(lambda: MemorySource([rows()]), repeat=True, span_us=100)
    recording.read(5)
    second = recording.read(5)
    assert second is not None
    assert second.times.tolist() == [110, 110, 120]
    assert second.column("key").to_pylist() == ["a~1", "a~1", "b~1"]


def test_a_log_that_is_not_repeated_ends() -> None:
    recording = Recording(lambda: MemorySource([rows()]))
    recording.read(5)
    try:
        recording.read(5)
    except SourceEnded:
        return
    raise AssertionError("the log did not end")
