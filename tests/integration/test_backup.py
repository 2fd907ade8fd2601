"""A copy of a run that is going on is a run that can be gone on with, to the same bits."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from headrace.cli import main as cli
from headrace.data import EmbeddedLog
from headrace.errors import ConfigError, SourceEnded, StoreError
from headrace.learn import ManifestCheckpoint
from headrace.online import OnlineConfig, RunFolder, close_events, open_log, run_joiner, run_learner, run_publisher
from headrace.online.backup import back_up
from headrace.online.demo import world
from headrace.online.layout import CHANGES, EVENTS
from headrace.testing import assert_same_state
from headrace.types import Events, State


def configuration() -> OnlineConfig:
    return world(requests=100, log=True, batch_rows=128, publish_every=256, checkpoint_every=3, audit=True, seed=3)


def played(config: OnlineConfig) -> list[Events]:
    """The rows of the events log, in order, as a server would have written them."""
    assert config.player is not None
    player, rows = config.player(), []
    while True:
        try:
            requests = player.read(256)
        except SourceEnded:
            return rows
        assert requests is not None
        answers = player.collect(requests, requests)
        rows += [part for part in (requests, answers) if part is not None and len(part)]


def until_ended(config: OnlineConfig, folder: RunFolder) -> State:
    run_joiner(config, folder, lambda: False)
    run_learner(config, folder, lambda: False)
    run_publisher(config, folder, lambda: False)
    state = ManifestCheckpoint(folder.checkpoint).load()
    assert state is not None
    learner = state["learner"]
    assert isinstance(learner, dict)
    return {name: part for name, part in learner.items() if name not in ("positives", "negatives", "marks")}


def test_a_copy_made_in_the_middle_ends_as_the_run_itself(tmp_path: Path) -> None:
    config, run = configuration(), RunFolder(tmp_path / "run")
    rows, stop, copies = played(config), threading.Event(), []
    log = open_log(config, run, EVENTS)
    roles = [threading.Thread(target=role, args=(config, run, stop.is_set)) for role in
             (run_joiner, run_learner, run_publisher)]  # fmt: skip
    for role in roles:
        role.start()
    for place, part in enumerate(rows):
        log.append(EVENTS, part)
        if place in (len(rows) // 3, 2 * len(rows) // 3):
            copies.append((place, back_up(run, tmp_path / f"copy-{place}")))
        time.sleep(0.002)
    stop.set()
    for role in roles:
        role.join()
    close_events(config, run)
    straight = until_ended(config, run)

    for place, made in copies:
        folder = RunFolder(made.folder)
        restored = open_log(config, folder, EVENTS)
        assert made.events == sum(len(part) for part in rows[: place + 1]) == restored.rows(EVENTS)
        for part in rows[place + 1 :]:
            restored.append(EVENTS, part)
        close_events(config, folder)
        assert_same_state(until_ended(config, folder), straight)
        theirs, ours = (EmbeddedLog(one.log(CHANGES)).end(CHANGES) for one in (run, folder))
        assert theirs == ours


@pytest.fixture
def small(tmp_path: Path) -> RunFolder:
    config, folder = configuration(), RunFolder(tmp_path / "run")
    with open_log(config, folder, EVENTS) as log:
        for part in played(config)[:3]:
            log.append(EVENTS, part)
    run_joiner(config, folder, iter([False] * 3 + [True] * 1000).__next__)
    (folder.root / "run.json").write_text("{}")
    folder.write_status("joiner", {})
    return folder


def test_the_command_copies_what_is_needed_and_leaves_the_rest(small: RunFolder, tmp_path: Path, capsys) -> None:
    target = tmp_path / "copy"
    assert cli.main(["backup", str(small.root), str(target)]) == 0
    assert "rows of events" in capsys.readouterr().out
    assert {"events.db", "examples.db", "run.json"} <= {path.name for path in target.iterdir()}
    assert not (target / "status").exists()
    assert target.stat().st_mode & 0o077 == 0  # it holds what users did
    assert cli.main(["backup", str(small.root), str(target)]) == 2
    assert "which exists" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a run"):
        back_up(RunFolder(tmp_path), tmp_path / "copy")


def test_a_damaged_log_is_told_and_leaves_nothing_behind(small: RunFolder, tmp_path: Path) -> None:
    path = small.log(EVENTS)
    with EmbeddedLog(path) as log:
        log.append(EVENTS, played(configuration())[0])
    for leftover in ("-wal", "-shm"):
        Path(f"{path}{leftover}").unlink(missing_ok=True)
    content = bytearray(path.read_bytes())
    for place in range(8192 * 2, len(content), 8192):
        content[place : place + 200] = os.urandom(200)
    path.write_bytes(content)
    with pytest.raises(StoreError):
        back_up(small, tmp_path / "copy")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_disk_that_is_full_leaves_nothing_behind(small: RunFolder, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(StoreError, match="No space left"):
        back_up(small, tmp_path / "copy")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
