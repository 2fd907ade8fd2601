from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.data.log import EmbeddedLog
from headrace.errors import CapacityError, StoreError
from headrace.serve import EventWriter, Written
from headrace.types import Events


def clicks(*names: str, kind: str = "click") -> Events:
    """One action per name, written `key/item`."""
    pairs = [name.split("/") for name in names]
    return Events.from_columns({
        "key": [pair[0] for pair in pairs], "kind": [kind] * len(pairs), "event_time": [1] * len(pairs),
        "item": [pair[1] for pair in pairs],
    })  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "events.db", durability="process")


@pytest.fixture
def writer(log: EmbeddedLog) -> Iterator[EventWriter]:
    one = EventWriter(log, "events")
    one.start()
    yield one
    one.close()


def rows(log: EmbeddedLog) -> list[tuple[str, str]]:
    entries = log.read("events", 0, limit=10_000)
    return [(row["key"], row["item"]) for entry in entries for row in entry.events.batch.to_pylist()]


def test_rows_are_durable_when_the_future_is_done(log, writer) -> None:
    assert writer.submit(clicks("a/1", "b/2")).result(5) == Written(2, 0)
    assert rows(EmbeddedLog(log.path, durability="process")) == [("a", "1"), ("b", "2")]


def test_an_action_is_taken_once_per_key_item_and_kind(log, writer) -> None:
    assert writer.submit(clicks("a/1", "a/2", "a/1")).result(5) == Written(2, 1)
    assert writer.submit(clicks("a/1", "b/1")).result(5) == Written(1, 1)
    assert writer.submit(clicks("a/1", kind="buy")).result(5) == Written(1, 0)
    assert rows(log) == [("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")]


def test_impressions_are_never_duplicates(log, writer) -> None:
    for _ in range(2):
        assert writer.submit(clicks("a/1", kind="impression")).result(5) == Written(1, 0)


def test_nothing_but_duplicates_makes_no_entry(log, writer) -> None:
    writer.submit(clicks("a/1")).result(5)
    end = log.end("events")
    assert writer.submit(clicks("a/1")).result(5) == Written(0, 1)
    assert log.end("events") == end


def test_actions_of_the_log_are_known_after_a_restart(log, writer) -> None:
    writer.submit(clicks("a/1")).result(5)
    writer.close()
    again = EventWriter(log, "events")
    again.start()
    assert again.submit(clicks("a/1", "a/2")).result(5) == Written(1, 1)
    again.close()


def test_only_the_newest_actions_are_remembered(log) -> None:
    writer = EventWriter(log, "events", remember=2)
    writer.start()
    for name in ("a/1", "a/2", "a/3"):
        writer.submit(clicks(name)).result(5)
    assert writer.submit(clicks("a/3")).result(5).duplicates == 1
    assert writer.submit(clicks("a/1")).result(5).duplicates == 0
    writer.close()


def test_accepted_times_never_go_back(log, writer) -> None:
    times = iter([500, 300, 900])
    for name in ("a/1", "a/2", "a/3"):
        writer.last_accepted = max(writer.last_accepted, 4_000_000_000_000_000 + next(times))
        writer.submit(clicks(name)).result(5)
    taken = [entry.events.column("accepted_time")[0].as_py() for entry in log.read("events", 0)]
    assert taken == sorted(taken)
    assert taken[1] == taken[0] == 4_000_000_000_000_500  # a clock that went back does not count


class Slow:
    """A log whose transactions wait until they are let go."""

    def __init__(self, log: EmbeddedLog) -> None:
        self.log, self.entered, self.go, self.fail = log, threading.Event(), threading.Event(), False

    def __getattr__(self, name: str) -> object:
        return getattr(self.log, name)

    @contextmanager
    def transaction(self) -> Iterator[object]:
        self.entered.set()
        assert self.go.wait(10)
        if self.fail:
            raise StoreError("Log", got="a full disk")
        with self.log.transaction() as write:
            yield write


def test_requests_that_wait_share_one_commit(log) -> None:
    slow = Slow(log)
    writer = EventWriter(slow, "events")
    writer.start()
    first = writer.submit(clicks("a/0"))
    assert slow.entered.wait(5)
    others = [writer.submit(clicks(f"a/{n}")) for n in range(1, 20)]
    slow.go.set()
    assert all(future.result(5) == Written(1, 0) for future in [first, *others])
    assert writer.commits == 2
    assert log.end("events") == 2  # neighbours of equal columns make one entry
    assert [item for _, item in rows(log)] == [str(n) for n in range(20)]
    writer.close()


def test_rows_of_other_columns_keep_their_place(log) -> None:
    slow = Slow(log)
    writer = EventWriter(slow, "events")
    writer.start()
    first = writer.submit(clicks("a/0"))
    assert slow.entered.wait(5)
    wide = clicks("b/1").with_columns({"value": pa.array([1.0])})
    futures = [writer.submit(events) for events in (clicks("a/1"), wide, clicks("a/2"))]
    slow.go.set()
    for future in [first, *futures]:
        future.result(5)
    assert [key for key, _ in rows(log)] == ["a", "a", "b", "a"]
    writer.close()


def test_too_many_waiting_requests_are_refused(log) -> None:
    slow = Slow(log)
    writer = EventWriter(slow, "events", max_waiting=3)
    writer.start()
    writer.submit(clicks("a/0"))
    assert slow.entered.wait(5)
    for n in range(1, 4):
        writer.submit(clicks(f"a/{n}"))
    with pytest.raises(CapacityError, match="wait for the disk"):
        writer.submit(clicks("a/9"))
    slow.go.set()
    writer.close()
    assert len(rows(log)) == 4


def test_a_failed_commit_is_told_to_everybody_in_it_and_forgotten(log) -> None:
    slow = Slow(log)
    slow.fail = True
    slow.go.set()
    writer = EventWriter(slow, "events")
    writer.start()
    with pytest.raises(StoreError, match="full disk"):
        writer.submit(clicks("a/1")).result(5)
    slow.fail = False
    assert writer.submit(clicks("a/1")).result(5) == Written(1, 0)
    writer.close()


def test_an_unexpected_failure_does_not_end_the_writer(log, monkeypatch, caplog) -> None:
    writer = EventWriter(log, "events")
    writer.start()
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_stamped", lambda events: 1 / 0)
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            writer.submit(clicks("a/1")).result(5)
    assert writer.submit(clicks("a/1")).result(5) == Written(1, 0)
    assert "could not write events" in caplog.text
    writer.close()


def test_a_client_that_goes_away_does_not_take_its_rows_back(log) -> None:
    slow = Slow(log)
    writer = EventWriter(slow, "events")
    writer.start()
    future = writer.submit(clicks("a/1"))
    assert not future.cancel()
    slow.go.set()
    assert future.result(5) == Written(1, 0)
    writer.close()


def test_closing_commits_all_that_was_taken_and_takes_no_more(log) -> None:
    slow = Slow(log)
    writer = EventWriter(slow, "events")
    writer.start()
    futures = [writer.submit(clicks(f"a/{n}")) for n in range(50)]
    slow.go.set()
    writer.close()
    assert all(future.done() for future in futures)
    assert len(rows(log)) == 50
    with pytest.raises(StoreError, match="after the end"):
        writer.submit(clicks("a/99"))
    writer.close()  # once more does no harm
