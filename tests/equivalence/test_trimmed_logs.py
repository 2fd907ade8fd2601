"""Logs that are trimmed behind their readers, which stop and start again, give what whole logs give, to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from headrace.data import EmbeddedLog
from headrace.errors import SourceEnded
from headrace.learn import ManifestCheckpoint
from headrace.online import (
    LogRetention,
    LogTrimmer,
    OnlineConfig,
    RunFolder,
    TrimmedExamples,
    close_events,
    keep_for,
    open_log,
    run_joiner,
    run_learner,
    run_publisher,
)
from headrace.online import roles as roles_module
from headrace.online.demo import world
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED
from headrace.publish import ChangeLog
from headrace.testing import assert_same_state
from headrace.types import State


def configuration() -> OnlineConfig:
    made = world(requests=250, log=True, batch_rows=64, publish_every=128, checkpoint_every=2, audit=True, seed=4)
    return replace(made, baselines=False)


def write_events(config: OnlineConfig, folder: RunFolder) -> None:
    assert config.player is not None
    player, log = config.player(), open_log(config, folder, EVENTS)
    while True:
        try:
            requests = player.read(4)
        except SourceEnded:
            break
        assert requests is not None
        answers = player.collect(requests, requests)
        with log.transaction() as write:
            for rows in (requests, answers):
                if rows is not None and len(rows):
                    write.append(EVENTS, rows)
    close_events(config, folder)


def after(times: int) -> Callable[[], bool]:
    """Stop when asked for the n-th time."""
    left = [times]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def learned(folder: RunFolder) -> State:
    state = ManifestCheckpoint(folder.checkpoint).load()
    assert state is not None
    return state["learner"]  # type: ignore[return-value]


def first(config: OnlineConfig, folder: RunFolder, name: str) -> tuple[int, int]:
    info = open_log(config, folder, name).topic(name)
    return info.first_offset, info.next_offset


def test_trimmed_logs_give_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, whole, trimmed = configuration(), RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "trimmed")
    write_events(config, whole)
    trimmed.root.mkdir()
    for path in whole.root.glob(f"{EVENTS}.db*"):
        shutil.copy(path, trimmed.root / path.name)
    run_joiner(config, whole, lambda: False)
    run_learner(config, whole, lambda: False)
    run_publisher(config, whole, lambda: False)

    short = replace(config, logs=LogRetention(events_s=0.0, examples_s=0.0))
    monkeypatch.setattr(roles_module, "LogTrimmer", partial(LogTrimmer, every_s=0.0))
    monkeypatch.setattr(roles_module, "TrimmedExamples", partial(TrimmedExamples, every_s=0.0))
    starts = []
    for number in range(60):  # short lives: each reader stops in the middle, again and again
        run_joiner(short, trimmed, after(3))
        run_learner(short, trimmed, after(12 + number % 5))
        run_publisher(short, trimmed, after(2))
        starts.append((first(config, trimmed, EVENTS)[0], first(config, trimmed, EXAMPLES)[0]))
        if open_log(config, trimmed, STAGED).is_closed(STAGED):
            break
    run_joiner(short, trimmed, lambda: False)
    run_learner(short, trimmed, lambda: False)
    run_publisher(short, trimmed, lambda: False)

    assert_same_state(learned(trimmed), learned(whole))
    ours, theirs = (ChangeLog(EmbeddedLog(folder.log(CHANGES))) for folder in (trimmed, whole))
    assert ours.last() == theirs.last()
    assert [ours.checksum(n) for n in range(ours.last().number)] == [
        theirs.checksum(n) for n in range(ours.last().number)
    ]
    assert starts == sorted(starts)
    assert any(events > 0 and examples > 0 for events, examples in starts[:-1]), starts
    assert first(config, trimmed, EVENTS)[0] > 0.9 * first(config, trimmed, EVENTS)[1]
    assert first(config, whole, EVENTS)[0] == first(config, whole, EXAMPLES)[0] == 0


def test_events_stay_for_a_further_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = replace(configuration(), logs=LogRetention(events_s=0.0)), RunFolder(tmp_path / "run")
    write_events(config, folder)
    monkeypatch.setattr(roles_module, "LogTrimmer", partial(LogTrimmer, every_s=0.0))
    keep_for(folder, "challenger", 30)
    run_joiner(config, folder, after(3))
    run_joiner(config, folder, after(3))
    assert first(config, folder, EVENTS)[0] == 30
