from __future__ import annotations

import time
from pathlib import Path

import pytest

from headrace.data import EmbeddedLog
from headrace.errors import ConfigError, StaleError
from headrace.learn import ManifestCheckpoint
from headrace.online import LogRetention, LogTrimmer, RunFolder, TrimmedExamples, keep_for
from headrace.online.trimming import needed_from
from headrace.types import Events

SECOND = 1_000_000


def filled(folder: Path, entries: int) -> EmbeddedLog:
    log = EmbeddedLog(folder / "log.db", durability="process")
    for number in range(entries):
        rows = {"key": [f"k{number}", "x"], "kind": ["click"] * 2, "event_time": [number] * 2}
        log.append("events", Events.from_columns(rows))
    return log


def later(seconds: float) -> int:
    return time.time_ns() // 1000 + int(seconds * SECOND)


def test_nothing_goes_unless_a_time_is_set(tmp_path: Path) -> None:
    log = filled(tmp_path, 5)
    assert LogTrimmer(log, "events", None, lambda: 5, now=lambda: later(1e6)).trim() == (0, True)
    assert log.topic("events").first_offset == 0


def test_an_entry_goes_when_it_is_old_and_nobody_needs_it(tmp_path: Path) -> None:
    log, needed, now = filled(tmp_path, 10), [3], [later(50)]
    trimmer = LogTrimmer(log, "events", 100.0, lambda: needed[0], now=lambda: now[0])
    assert trimmer.trim() == (0, True)  # too young
    now[0] = later(150)
    assert trimmer.trim() == (3, True)  # the reader may still ask for the others
    needed[0] = 10
    assert trimmer.trim() == (7, True)
    assert (log.topic("events").first_offset, log.end("events"), trimmer.dropped) == (10, 10, 10)


def test_a_long_backlog_goes_a_little_at_a_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("headrace.online.trimming.TRIM_ENTRIES", 4)
    log, needed = filled(tmp_path, 10), [10]
    trimmer = LogTrimmer(log, "events", 0.0, lambda: needed[0], work_s=0.0, now=lambda: later(1))
    assert trimmer.trim() == (0, False)
    trimmer.work_s = 60.0
    assert trimmer.trim() == (10, True)
    assert trimmer.trim() == (0, True)


def test_it_looks_only_now_and_then(tmp_path: Path) -> None:
    log, asked = filled(tmp_path, 3), [0]

    def needed() -> int:
        asked[0] += 1
        return 0

    trimmer = LogTrimmer(log, "events", 0.0, needed, every_s=60, now=lambda: later(1))
    for _ in range(5):
        trimmer.if_due()
    assert asked[0] == 1


def test_what_fails_stops_no_reader(tmp_path: Path, caplog) -> None:
    def needed() -> int:
        raise StaleError("somewhere")

    trimmer = LogTrimmer(filled(tmp_path, 3), "events", 0.0, needed, now=lambda: later(1))
    assert trimmer.if_due() == 0
    assert "was not trimmed" in caplog.text


def test_further_readers_hold_the_events_until_they_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert needed_from(folder, 60) is None
    keep_for(folder, "challenger", 7)
    keep_for(folder, "another", 9)
    assert needed_from(folder, 60) == 7
    keep_for(folder, "challenger", 12)
    assert needed_from(folder, 60) == 9
    time.sleep(0.02)
    assert needed_from(folder, 0.01) is None


def state(row: int) -> dict:
    return {"position": {"events/0": row}, "learner": {"row": row}}


def test_examples_stay_as_long_as_a_kept_checkpoint_needs_them(tmp_path: Path) -> None:
    log, kept = filled(tmp_path, 20), ManifestCheckpoint(tmp_path / "checkpoint", keep=2)
    time.sleep(0.01)
    saving = TrimmedExamples(kept, kept.keep, log, "events", 0.0, every_s=0.0)
    saving.save(state(11))  # row 11 lies in entry 5; but an earlier process may have saved another one
    assert log.topic("events").first_offset == 0
    saving.save(state(30))
    assert log.topic("events").first_offset == 5
    saving.save(state(40))  # the end of the log
    assert log.topic("events").first_offset == 15
    again = TrimmedExamples(kept, kept.keep, log, "events", 0.0, every_s=0.0)
    assert again.load()["learner"] == {"row": 40}
    again.save(state(40))
    assert log.topic("events").first_offset == 15


def test_a_state_without_a_place_in_the_log_drops_nothing(tmp_path: Path) -> None:
    log, kept = filled(tmp_path, 20), ManifestCheckpoint(tmp_path / "checkpoint", keep=1)
    saving = TrimmedExamples(kept, 1, log, "events", 0.0, every_s=0.0)
    saving.save({"position": {"other/0": 30}})
    saving.save({"something": 1})
    assert log.topic("events").first_offset == 0


@pytest.mark.parametrize(("name", "value"), [("events_s", -1.0), ("examples_s", -0.1), ("forget_after_s", 0.0)])
def test_a_setting_that_cannot_work_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        LogRetention(**{name: value})
