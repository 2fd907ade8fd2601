"""The joiner between two logs: exactly once, the same examples however often it starts again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace.data import join_log as module
from headrace.data.join import EventJoin, JoinConfig
from headrace.data.join_log import JoinProgress, join_log, retained_from
from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, JoinError, StaleError
from headrace.types import Events

SECOND = 1_000_000


def fill(log: EmbeddedLog, entries: int = 60, *, odd: int = -1, close: bool = True) -> None:
    """Write entries of impressions and a click; the items of entry `odd` have other names."""
    rng = np.random.default_rng(0)
    for number in range(entries):
        shown = [f"{'j' if number == odd else 'i'}{item}" for item in range(4)]
        columns: dict[str, list[object]] = {
            "key": [f"r{number}"] * 4, "kind": ["impression"] * 4, "item": shown, "event_time": [number * SECOND] * 4,
        }  # fmt: skip
        if number > 2:
            asked, item = int(rng.integers(max(number - 12, 0), number)), f"i{rng.integers(4)}"
            columns["key"] = [*columns["key"], f"r{asked}"]
            columns["kind"] = [*columns["kind"], "click"]
            columns["item"] = [*columns["item"], item]
            columns["event_time"] = [*columns["event_time"], number * SECOND]
        log.append("events", Events.from_columns(columns))
    if close:
        log.close_topic("events")


def fresh(**more: object) -> EventJoin:
    return EventJoin(JoinConfig(**({"window_s": 10, "lateness_s": 2} | more)))  # type: ignore[arg-type]


def emitted(log: EmbeddedLog) -> list[tuple[int, float]]:
    parts = [entry.events for entry in log.read("examples", 0, limit=10**6)]
    if not parts:
        return []
    rows = Events.concat(parts)
    return list(zip(rows.column("example_id").to_pylist(), rows.column("label").to_pylist(), strict=True))


@pytest.fixture
def events(tmp_path: Path) -> EmbeddedLog:
    log = EmbeddedLog(tmp_path / "events.db", durability="process")
    fill(log)
    return log


@pytest.fixture
def examples(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "examples.db", durability="process")


def after(calls: int) -> Callable[[], bool]:
    left = iter([False] * calls)
    return lambda: next(left, True)


def straight(events: EmbeddedLog, folder: Path) -> list[tuple[int, float]]:
    log = EmbeddedLog(folder / "straight.db", durability="process")
    join_log(events, "events", log, "examples", fresh())
    return emitted(log)


def test_every_impression_becomes_one_example_and_the_topic_is_closed(
    events: EmbeddedLog, examples: EmbeddedLog
) -> None:
    progress = join_log(events, "events", examples, "examples", fresh())
    rows = emitted(examples)
    assert progress.ended
    assert (progress.examples, len({identity for identity, _ in rows})) == (240, 240)
    assert sum(label for _, label in rows) > 20
    assert examples.is_closed("examples")
    assert examples.committed("joiner", "events", 0) == 60


@pytest.mark.parametrize("snapshot_every", [1, 7, 1000])
def test_stops_and_restarts_give_the_same_examples_in_the_same_order(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot_every: int
) -> None:
    whole = straight(events, tmp_path)
    monkeypatch.setattr(module, "GROUP_ENTRIES", 3)
    starts = 0
    while not examples.is_closed("examples"):
        starts += 1
        join_log(events, "events", examples, "examples", fresh(), snapshot_every=snapshot_every, stop=after(2))
    assert starts > 5
    assert emitted(examples) == whole


@pytest.mark.parametrize("snapshot_every", [1, 7, 1000])
def test_a_death_between_any_two_transactions_changes_nothing(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot_every: int
) -> None:
    class Killed(BaseException):
        pass

    def die(_: JoinProgress) -> None:
        raise Killed

    whole = straight(events, tmp_path)
    monkeypatch.setattr(module, "GROUP_ENTRIES", 5)
    deaths = 0
    while not examples.is_closed("examples"):
        with pytest.raises(Killed):
            join_log(events, "events", examples, "examples", fresh(), snapshot_every=snapshot_every, on_progress=die)
        deaths += 1
    assert deaths == 13
    assert emitted(examples) == whole


def test_the_entries_of_the_example_log_are_a_function_of_the_event_log(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_log(events, "events", examples, "examples", fresh())
    monkeypatch.setattr(module, "GROUP_ENTRIES", 2)
    other = EmbeddedLog(tmp_path / "other.db", durability="process")
    join_log(events, "events", other, "examples", fresh(memory_rows=5, spill=tmp_path / "spill"))
    sizes = [[entry.rows for entry in log.read("examples", 0, limit=1000)] for log in (examples, other)]
    assert sizes[0] == sizes[1]


def test_a_finished_joiner_does_nothing_more(events: EmbeddedLog, examples: EmbeddedLog) -> None:
    first = join_log(events, "events", examples, "examples", fresh())
    before = emitted(examples)
    assert join_log(events, "events", examples, "examples", fresh()) == first
    assert emitted(examples) == before


def test_it_waits_for_more_while_the_topic_is_open(tmp_path: Path, examples: EmbeddedLog) -> None:
    events = EmbeddedLog(tmp_path / "open.db", durability="process")
    fill(events, 30, close=False)
    seen = []

    def more(progress: JoinProgress) -> None:
        seen.append(progress.offset)
        if len(seen) == 3:
            events.close_topic("events")

    progress = join_log(events, "events", examples, "examples", fresh(), on_progress=more, idle_s=0.001)
    assert progress.ended
    assert seen[:3] == [30, 30, 30]


def test_examples_have_the_accepted_time_of_their_entry(events: EmbeddedLog, examples: EmbeddedLog) -> None:
    join_log(events, "events", examples, "examples", fresh())
    accepted = {entry.accepted_time for entry in events.read("events", 0, limit=1000)}
    rows = Events.concat([entry.events for entry in examples.read("examples", 0, limit=1000)])
    assert set(rows.column("accepted_time").to_pylist()) <= accepted


@pytest.mark.parametrize("odd", [0, 20])
def test_a_changed_event_log_is_found(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    monkeypatch.setattr(module._JoinerProcess, "pause", lambda self: None)  # died before it kept a state
    join_log(events, "events", examples, "examples", fresh(), stop=after(1))
    other = EmbeddedLog(tmp_path / "other.db", durability="process")
    fill(other, odd=odd)
    with pytest.raises(JoinError, match="read again"):
        join_log(other, "events", examples, "examples", fresh())


def test_an_event_log_that_was_cut_is_found(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._JoinerProcess, "pause", lambda self: None)
    join_log(events, "events", examples, "examples", fresh(), stop=after(1))
    other = EmbeddedLog(tmp_path / "other.db", durability="process")
    fill(other, 10)
    with pytest.raises(JoinError, match="up to entry 10"):
        join_log(other, "events", examples, "examples", fresh())


def test_other_settings_of_the_join_are_found(events: EmbeddedLog, examples: EmbeddedLog) -> None:
    join_log(events, "events", examples, "examples", fresh(), stop=after(1))
    with pytest.raises(ConfigError, match="settings"):
        join_log(events, "events", examples, "examples", fresh(window_s=11))


def test_somebody_elses_rows_in_the_example_topic_are_found(events: EmbeddedLog, examples: EmbeddedLog) -> None:
    join_log(events, "events", examples, "examples", fresh(), stop=after(1))
    examples.append("examples", events.read("events", 0)[0].events)
    with pytest.raises(JoinError, match="its own topic"):
        join_log(events, "events", examples, "examples", fresh())


def test_a_second_joiner_under_the_same_name_is_stopped(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_ENTRIES", 5)
    second = EmbeddedLog(examples.path, durability="process")
    whole, starts = straight(events, tmp_path), []

    def start_another(_: JoinProgress) -> None:
        if not starts:
            starts.append(1)
            join_log(events, "events", second, "examples", fresh(), stop=after(1))

    with pytest.raises(JoinError, match="one joiner per name"):
        join_log(events, "events", examples, "examples", fresh(), on_progress=start_another)
    join_log(events, "events", examples, "examples", fresh())
    assert emitted(examples) == whole


def test_an_event_that_cannot_be_joined_is_named_with_its_entry(tmp_path: Path, examples: EmbeddedLog) -> None:
    events = EmbeddedLog(tmp_path / "bad.db", durability="process")
    fill(events, 3, close=False)
    events.append("events", Events.from_columns({"key": ["r"], "kind": ["impression"], "event_time": [1]}))
    with pytest.raises(JoinError, match="'events', entry 3: Impressions, column 'item'"):
        join_log(events, "events", examples, "examples", fresh())


def test_the_event_log_may_be_trimmed_below_the_last_state(
    events: EmbeddedLog, examples: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = straight(events, tmp_path)
    monkeypatch.setattr(module, "GROUP_ENTRIES", 5)
    assert retained_from(examples) == 0
    join_log(events, "events", examples, "examples", fresh(), snapshot_every=5, stop=after(5))
    assert 0 < retained_from(examples) <= 25
    events.trim("events", retained_from(examples))
    join_log(events, "events", examples, "examples", fresh())
    assert emitted(examples) == whole
    assert retained_from(examples) == 60


def test_needed_entries_that_were_trimmed_are_stale(events: EmbeddedLog, examples: EmbeddedLog) -> None:
    events.trim("events", 3)
    with pytest.raises(StaleError):
        join_log(events, "events", examples, "examples", fresh())


def test_states_wait_until_as_many_rows_were_read_as_are_pending(
    events: EmbeddedLog, examples: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_ENTRIES", 1)
    written, put = [], module._JoinerProcess._keep_state
    monkeypatch.setattr(
        module._JoinerProcess, "_keep_state", lambda self, write: (written.append(self.progress.rows), put(self, write))
    )
    join = fresh(window_s=1000)
    join_log(events, "events", examples, "examples", join, snapshot_every=1, stop=after(60))
    gaps = np.diff(written)
    assert len(written) < 12
    assert gaps[-2] > gaps[0]


def test_snapshot_every_has_to_be_positive(events: EmbeddedLog, examples: EmbeddedLog) -> None:
    with pytest.raises(ConfigError, match="snapshot_every"):
        join_log(events, "events", examples, "examples", fresh(), snapshot_every=0)
