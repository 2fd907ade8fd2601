"""What is read of an experiment from a server's log: every impression once, with what came of it in its window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.log import EmbeddedLog
from headrace.errors import DataError
from headrace.evaluate import Exposures
from headrace.online import RunFolder, arm_log
from headrace.online.arm_log import ArmLogConfig, read_arms
from headrace.types import Events

SECOND = 1_000_000


def shown(key: str, items: str, at: int, arm: str | None, share: float = 0.5, **more: object) -> Events:
    count = len(items)
    columns: dict[str, object] = {
        "key": [key] * count, "kind": ["impression"] * count, "event_time": [at * SECOND] * count, "item": list(items),
        "accepted_time": pa.array([at * SECOND] * count, pa.int64()),
    }  # fmt: skip
    if arm is not None:
        columns |= {"arm": [arm] * count, "arm_propensity": pa.array([share] * count, pa.float32())}
    columns |= {name: pa.array([value] * count, pa.string()) for name, value in more.items()}
    return Events.from_columns(columns)


def acted(key: str, item: str, at: int, kind: str = "click") -> Events:
    return Events.from_columns({"key": [key], "kind": [kind], "event_time": [at * SECOND], "item": [item],
                                "accepted_time": pa.array([at * SECOND], pa.int64())})  # fmt: skip


def heartbeat(at: int) -> Events:
    return acted("end", "end", at, "heartbeat")


@pytest.fixture
def write(tmp_path: Path):
    def make(*events: Events, experiment: dict | None = None) -> RunFolder:
        with EmbeddedLog(tmp_path / "events.db", durability="process") as log:
            for one in events:
                log.append("events", one)
        if experiment is not None:
            (tmp_path / "experiment.json").write_text(json.dumps(experiment))
        return RunFolder(tmp_path)

    return make


def table(found: Exposures) -> dict[tuple[int, str], tuple[float, ...]]:
    """Return rows by (time in s, arm): impressions, then actions of each kind."""
    return {
        (int(found.times[row] // SECOND), found.names[found.arms[row]]): (
            float(found.rows[row]), *(float(counts[row]) for counts in found.actions.values()))
        for row in range(len(found.arms))
    }  # fmt: skip


CLICKS = ArmLogConfig(window_s=10, kinds=("click",))


def test_actions_count_in_their_window(write) -> None:
    folder = write(
        shown("a", "xyz", 100, "main"), acted("a", "x", 100), acted("a", "x", 105), acted("a", "y", 111),
        acted("a", "z", 99), shown("b", "xy", 120, "new"), acted("b", "y", 130), acted("c", "y", 121), heartbeat(200),
    )  # fmt: skip
    assert table(read_arms(folder, CLICKS)) == {(100, "main"): (3.0, 1.0), (120, "new"): (2.0, 1.0)}


def test_open_windows_are_left_out_with_what_was_clicked_in_them(write) -> None:
    """At 131 s the window of the second list is open: its click must not count while other lists may yet be clicked."""
    folder = write(shown("a", "x", 100, "main"), shown("b", "x", 125, "new"), acted("b", "x", 126), heartbeat(131))
    found = read_arms(folder, CLICKS)
    assert table(found) == {(100, "main"): (1.0, 0.0)}
    assert any("1 impressions left out: whose window is still open" in note for note in found.notes)
    late = ArmLogConfig(window_s=10, lateness_s=30, kinds=("click",))
    with pytest.raises(DataError, match="window is still open"):
        read_arms(folder, late)


def test_what_was_logged_twice_counts_once(write, monkeypatch) -> None:
    first = shown("a", "xy", 100, "main")
    folder = write(first, first, acted("a", "x", 101), heartbeat(200))
    for rows in (50_000, 1):  # in one piece, and in many
        monkeypatch.setattr(arm_log, "CHUNK_ROWS", rows)
        found = read_arms(folder, CLICKS)
        assert table(found) == {(100, "main"): (2.0, 1.0)}
        assert any("2 impressions left out: logged twice" in note for note in found.notes)


def test_rows_without_an_arm_are_counted_and_left_out(write) -> None:
    folder = write(
        shown("old", "xy", 50, None), shown("a", "x", 100, "main"), shown("b", "x", 100, "new"), heartbeat(200)
    )
    found = read_arms(folder, CLICKS)
    assert found.rows.sum() == 2
    assert any("2 impressions left out: logged without an arm" in note for note in found.notes)


def test_only_times_count_in_which_all_arms_had_a_share(write) -> None:
    history = [
        {"time": 0, "shares": {"main": 0.5, "new": 0.5}, "salt": "an earlier experiment"},
        {"time": 50 * SECOND, "shares": {"main": 1.0, "new": 0.0}},
        {"time": 100 * SECOND, "shares": {"main": 0.9, "new": 0.1}},
        {"time": 150 * SECOND, "shares": {"main": 0.5, "new": 0.5}},
        {"time": 200 * SECOND, "shares": {"main": 1.0, "new": 0.0}},
    ]  # fmt: skip
    said = {"shares": {"main": 1.0, "new": 0.0}, "history": history, "split_by": "user", "window_s": 10.0,
            "kinds": ["click"], "salt": "s"}  # fmt: skip
    folder = write(
        shown("a", "x", 99, "main", 1.0, user="u"), shown("b", "x", 100, "main", 0.9, user="u"),
        shown("c", "x", 199, "new", 0.5, user="v"), shown("d", "x", 200, "main", 1.0, user="v"), heartbeat(900),
        experiment=said,
    )  # fmt: skip
    found = read_arms(folder)
    assert sorted(table(found)) == [(100, "main"), (199, "new")]
    assert found.unit == "user"
    narrow = read_arms(folder, ArmLogConfig(since=150 * SECOND, until=200 * SECOND))
    assert sorted(table(narrow)) == [(199, "new")]


def test_without_a_file_requests_that_could_have_no_other_arm_are_left_out(write) -> None:
    folder = write(
        shown("a", "x", 90, "main", 1.0), shown("b", "x", 100, "main"), shown("c", "x", 100, "new"), heartbeat(200)
    )
    found = read_arms(folder, CLICKS)
    assert len(found.arms) == 2
    assert any("no experiment file" in note for note in found.notes)


def test_units(write) -> None:
    folder = write(
        shown("a", "x", 100, "main", user="u"), shown("b", "x", 101, "main", user="u"),
        shown("c", "x", 102, "new", user=None), shown("d", "x", 103, "new", user="v"), heartbeat(200),
    )  # fmt: skip
    by_user = read_arms(folder, ArmLogConfig(window_s=10, kinds=("click",), unit="user"))
    assert len(np.unique(by_user.units)) == 3
    assert by_user.units[by_user.times == 100 * SECOND] == by_user.units[by_user.times == 101 * SECOND]
    assert len(np.unique(read_arms(folder, CLICKS).units)) == 4


def test_kinds_of_the_log_the_most_frequent_first(write) -> None:
    folder = write(shown("a", "xyz", 100, "main"), acted("a", "x", 101, "buy"), acted("a", "y", 101),
                   acted("a", "x", 102), acted("a", "q", 103), heartbeat(200))  # fmt: skip
    found = read_arms(folder, ArmLogConfig(window_s=10))
    assert next(iter(found.actions)) == "click"
    assert found.actions["buy"].tolist() == [1.0]
    assert found.actions["click"].tolist() == [2.0]


def test_a_trimmed_log_is_read_from_where_it_begins(write) -> None:
    folder = write(shown("a", "x", 100, "main"), shown("b", "x", 101, "new"), heartbeat(200))
    with EmbeddedLog(folder.log("events")) as log:
        log.trim("events", 1)
    assert table(read_arms(folder, CLICKS)) == {(101, "new"): (1.0, 0.0)}


def test_it_agrees_with_a_plain_loop(write, monkeypatch) -> None:
    monkeypatch.setattr(arm_log, "CHUNK_ROWS", 64)
    draw = np.random.default_rng(0)
    events, truth = [], {"main": [0, 0], "new": [0, 0]}
    for number in range(120):
        arm, at, items = ["main", "new"][draw.integers(2)], int(draw.integers(0, 500)), "abcde"[: draw.integers(1, 6)]
        events.append((at, shown(f"r{number}", items, at, arm)))
        for item in "abcde":
            clicks = [int(at + draw.integers(-5, 20)) for _ in range(draw.integers(0, 3))]
            events += [(when, acted(f"r{number}", item, when)) for when in clicks]
            if item in items and at <= 500 - 10:
                truth[arm][0] += 1
                truth[arm][1] += any(at <= when <= at + 10 for when in clicks)
    order = draw.permutation(len(events))
    folder = write(*(events[place][1] for place in order), acted("end", "e", 500))
    newest = max(500, max(int(when) for when, _ in events))
    found = read_arms(folder, ArmLogConfig(window_s=10, kinds=("click",), lateness_s=newest - 500))
    for code, name in enumerate(found.names):
        mine = found.arms == code
        assert [found.rows[mine].sum(), found.actions["click"][mine].sum()] == truth[name]


def test_nothing_to_read(tmp_path: Path, write) -> None:
    with pytest.raises(DataError, match="no event log"):
        read_arms(RunFolder(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no actions"):
        read_arms(write(shown("a", "x", 100, "main")), ArmLogConfig(window_s=10))
