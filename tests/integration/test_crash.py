"""Kill -9, again and again, over joiner, learner, publisher and server: every example is learned exactly once.

The oracle is threefold: a ledger table inside the model counts how often each example was learned; an uninterrupted run
over the same event log must give the same bits; and a replica that follows the published versions must hold the
learner's rows.
"""

from __future__ import annotations

import random
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.data import EmbeddedLog, collate
from headrace.learn import ManifestCheckpoint
from headrace.learn.ledger import LEDGER, times_learned
from headrace.online import (
    ROLES,
    Feeder,
    OnlineConfig,
    RunFolder,
    Supervisor,
    build,
    close_events,
    find_recipe,
    open_serving,
    run_joiner,
    run_learner,
    run_publisher,
)
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES
from headrace.online.server import free_port
from headrace.publish import LogPublisher
from headrace.serve import Client
from headrace.testing import assert_same_state

RECIPE = "headrace.online.demo:world"


def settings(requests: int) -> list[str]:
    return [f"requests={requests}", "audit=true", "publish_every=256", "batch_rows=128", "checkpoint_every=4", "seed=7"]


def commands(folder: RunFolder, requests: int, port: int) -> dict[str, list[str]]:
    start = [sys.executable, "-m", "headrace"]
    place = ["--folder", str(folder.root)]
    made = {role: [*start, "run", RECIPE, *settings(requests), "--role", role, *place]
            for role in ROLES if role != "server"}  # fmt: skip
    made["server"] = [*start, "serve", RECIPE, *settings(requests), *place, "--port", str(port)]
    return made


def run_with_kills(folder: RunFolder, config: OnlineConfig, requests: int, kills: int, seed: int) -> dict[str, int]:
    """Play the world into the four processes while killing them; returns the kills per role."""
    port, chance = free_port(), random.Random(seed)
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    supervisor = Supervisor(commands(folder, requests, port), folder.root / "logs", one_thread, give_up_after=1000)
    supervisor.start()
    stop = threading.Event()
    feeder = Feeder(config, Client(f"http://127.0.0.1:{port}"), folder, speed=None, read_rows=64)
    feeding = threading.Thread(target=feeder.run, args=(stop.is_set,), daemon=True)
    feeding.start()
    counts = dict.fromkeys(ROLES, 0)
    deadline = time.monotonic() + 1500
    try:
        while supervisor.running() != ["server"]:
            assert time.monotonic() < deadline, f"stuck: {supervisor.running()}, kills {counts}"
            supervisor.poll()
            if not feeding.is_alive() and sum(counts.values()) >= kills:
                close_events(config, folder)
            if sum(counts.values()) < kills and chance.random() < 0.1:
                role = chance.choice(ROLES)
                counts[role] += supervisor.kill(role)
            time.sleep(0.05)
        return counts
    finally:
        stop.set()
        supervisor.stop()


def learned_example_ids(config: OnlineConfig, folder: RunFolder) -> np.ndarray:
    log = EmbeddedLog(folder.log(EXAMPLES))
    parts, offset = [], 0
    while entries := log.read(EXAMPLES, offset):
        parts += [collate(entry.events, config.schema).example_ids.numpy() for entry in entries if entry.rows]
        offset = entries[-1].offset + 1
    return np.concatenate(parts)


def check_everything(config: OnlineConfig, folder: RunFolder, straight: RunFolder) -> None:
    ids = learned_example_ids(config, folder)
    assert len(np.unique(ids)) == len(ids), "an example stands twice in the example log"

    # the same event log, joined, learned and published without an interruption
    straight.root.mkdir(parents=True)
    for name in folder.root.glob(f"{EVENTS}.db*"):
        shutil.copy(name, straight.root / name.name)
    run_joiner(config, straight, lambda: False)
    run_learner(config, straight, lambda: False)
    run_publisher(config, straight, lambda: False)
    assert np.array_equal(ids, learned_example_ids(config, straight)), "the example logs differ"
    ours, theirs = ManifestCheckpoint(folder.checkpoint).load(), ManifestCheckpoint(straight.checkpoint).load()
    assert ours is not None
    assert theirs is not None
    assert_same_state(ours["learner"], theirs["learner"])

    # a replica that follows the published versions
    publisher = LogPublisher(EmbeddedLog(folder.log(CHANGES)), snapshots=folder.snapshots,
                             snapshot_every=config.snapshot_every)  # fmt: skip
    serving = open_serving(config)
    serving.replica.catch_up(publisher)
    ledger = serving.replica.tables[LEDGER]
    counts = times_learned(ledger, torch.from_numpy(ids)).numpy()
    assert (counts == 1).all(), f"learned {np.unique(counts, return_counts=True)} times"
    assert len(ledger) == len(ids), "the ledger has examples that the log has not"


def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    """The short form: one kill of each of two roles, on every push."""
    requests = 300
    config = build(find_recipe(RECIPE), settings(requests))
    folder = RunFolder(tmp_path / "killed")
    kills = run_with_kills(folder, config, requests, kills=4, seed=1)
    assert sum(kills.values()) >= 4
    check_everything(config, folder, RunFolder(tmp_path / "straight"))


@pytest.mark.slow
def test_fifty_random_kills_lose_nothing(tmp_path: Path) -> None:
    requests = 6000
    config = build(find_recipe(RECIPE), settings(requests))
    folder = RunFolder(tmp_path / "killed")
    kills = run_with_kills(folder, config, requests, kills=60, seed=2)
    assert sum(kills.values()) >= 50, kills
    assert min(kills.values()) >= 5, kills
    check_everything(config, folder, RunFolder(tmp_path / "straight"))
