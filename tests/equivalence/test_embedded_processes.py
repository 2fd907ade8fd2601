"""One process or four joined by logs: the same log gives the same model, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headrace.data import EmbeddedLog
from headrace.errors import SourceEnded
from headrace.learn import ManifestCheckpoint
from headrace.online import (
    Embedded,
    OnlineConfig,
    RunFolder,
    close_events,
    newest_predictor,
    open_log,
    run_joiner,
    run_learner,
    run_publisher,
)
from headrace.online.demo import world
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES
from headrace.online.versions import list_versions
from headrace.publish import ChangeReader, GuardConfig
from headrace.testing import assert_same_state
from headrace.types import State


def configuration() -> OnlineConfig:
    return world(requests=300, log=True, batch_rows=128, publish_every=256, checkpoint_every=3, audit=True, seed=3)


def write_events(config: OnlineConfig, folder: RunFolder, read_rows: int) -> None:
    """Put the played log into the event log as a server would, without scores."""
    assert config.player is not None
    player, log = config.player(), open_log(config, folder, EVENTS)
    while True:
        try:
            requests = player.read(read_rows)
        except SourceEnded:
            break
        assert requests is not None
        answers = player.collect(requests, requests)
        for rows in (requests, answers):
            if rows is not None and len(rows):
                log.append(EVENTS, rows)
    close_events(config, folder)


def run_roles(config: OnlineConfig, folder: RunFolder) -> State:
    run_joiner(config, folder, lambda: False)
    run_learner(config, folder, lambda: False)
    run_publisher(config, folder, lambda: False)
    state = ManifestCheckpoint(folder.checkpoint).load()
    assert state is not None
    return state


def weights(state: State) -> State:
    """Return what was learned; accepted times are wall times and belong to each run alone."""
    learner = state["learner"]
    assert isinstance(learner, dict)
    return {name: part for name, part in learner.items() if name not in ("positives", "negatives", "marks")}


@pytest.fixture
def processes(tmp_path: Path) -> tuple[OnlineConfig, RunFolder, State]:
    config, folder = configuration(), RunFolder(tmp_path / "processes")
    write_events(config, folder, read_rows=1024)
    return config, folder, run_roles(config, folder)


def test_one_process_learns_the_same_bits_as_the_roles(
    tmp_path: Path, processes: tuple[OnlineConfig, RunFolder, State]
) -> None:
    config, _, theirs = processes
    embedded = Embedded(config, RunFolder(tmp_path / "embedded"))
    embedded.run()
    assert_same_state(weights({"learner": embedded.learner.state()}), weights(theirs))


def test_an_embedded_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = configuration()
    straight = Embedded(config, RunFolder(tmp_path / "straight"))
    straight.run()
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps > 2

    folder = RunFolder(tmp_path / "stopped")
    first = Embedded(config, folder, stop=stop)
    first.run()
    assert first.loop.source.position() != straight.loop.source.position(), "it was not stopped in the middle"
    second = Embedded(config, folder)
    second.run()
    assert_same_state(weights({"learner": second.learner.state()}), weights({"learner": straight.learner.state()}))


def test_the_replica_of_the_last_version_scores_like_the_learner(
    processes: tuple[OnlineConfig, RunFolder, State],
) -> None:
    config, folder, _ = processes
    predictor = newest_predictor(config, folder)
    with EmbeddedLog(folder.log(EXAMPLES)) as log:
        rows = log.read(EXAMPLES, 0)[0].events
    from headrace.data import collate
    from headrace.online import open_learner

    learner = open_learner(config)
    state = ManifestCheckpoint(folder.checkpoint).load()
    assert state is not None
    learner.restore(state["learner"])  # type: ignore[arg-type]
    with torch.no_grad():
        expected = torch.sigmoid(learner.model(collate(rows, config.schema, serving=True)).double())
    scores = torch.tensor(predictor.predict(rows).column("score").to_pylist())
    assert torch.allclose(scores.double(), expected, atol=1e-6)


def test_a_learner_that_finds_nothing_left_still_reports_all_that_was_learned(
    processes: tuple[OnlineConfig, RunFolder, State],
) -> None:
    config, folder, _ = processes
    before = folder.read_status("learner")
    run_learner(config, folder, lambda: False)
    after = folder.read_status("learner")
    assert after["examples"] == before["examples"] == 3000
    assert after["version"] == before["version"]


def published(folder: RunFolder) -> list[str]:
    """Checksums of all versions after the first, without the wall times of their actions.

    The first one may be gone already: the snapshot that is written of it beside publishing stands for it.
    """
    reader = ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots)
    return [replace(change, notes={}).checksum() for change in reader.read_since(0)]


def test_a_guard_that_refuses_nothing_lets_the_same_versions_out(
    tmp_path: Path, processes: tuple[OnlineConfig, RunFolder, State]
) -> None:
    config, plain, _ = processes
    folder = RunFolder(tmp_path / "guarded")
    guarded = replace(config, guard=GuardConfig(rows=4096, min_rows=64, min_positives=1, auc_margin=0.99,
                                                calibration=None))  # fmt: skip
    write_events(guarded, folder, read_rows=1024)
    run_roles(guarded, folder)
    assert published(folder) == published(plain)
    found = list_versions(folder, count=100)
    assert [record.version for record in found.records] == list(range(found.newest + 1))
    values = [
        check["value"] for record in found.records for check in record.verdict["checks"] if check["name"] == "auc"
    ]
    assert len(values) > found.newest // 2
    assert all(0 <= value <= 1 for value in values)
