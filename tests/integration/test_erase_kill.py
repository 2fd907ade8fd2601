"""A user is erased from four processes at work, while each of them is killed: it is finished, and no trace is left."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
import torch

from headrace.data import EmbeddedLog
from headrace.data.rewrite import entries_of
from headrace.learn import ManifestCheckpoint
from headrace.online import ROLES, Feeder, RunFolder, Supervisor, build, close_events, find_recipe, open_serving
from headrace.online.erase import open_book, user_columns
from headrace.online.layout import CHANGES, EVENTS
from headrace.online.server import free_port
from headrace.online.traces import find_traces, rows_held
from headrace.publish import ChangeReader
from headrace.serve import Client

RECIPE = "headrace.online.demo:world"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def settings(requests: int) -> list[str]:
    return [f"requests={requests}", "publish_every=256", "batch_rows=128", "checkpoint_every=4", "seed=11"]


def commands(folder: RunFolder, requests: int, port: int) -> dict[str, list[str]]:
    start, place = [sys.executable, "-m", "headrace"], ["--folder", str(folder.root)]
    made = {role: [*start, "run", RECIPE, *settings(requests), "--role", role, *place]
            for role in ROLES if role != "server"}  # fmt: skip
    made["server"] = [*start, "serve", RECIPE, *settings(requests), *place, "--port", str(port)]
    return made


def shown(folder: RunFolder) -> Counter[str]:
    """Impressions per user in the event log."""
    counts: Counter[str] = Counter()
    with EmbeddedLog(folder.log(EVENTS), durability="process") as log:
        for entry in entries_of(log, EVENTS):
            if "user" in entry.events.names:
                counts.update(name for name in entry.events.column("user").to_pylist() if name)
    return counts


def asked_to_forget(url: str, name: str, deadline: float) -> int:
    while time.monotonic() < deadline:
        try:
            answer = httpx.delete(f"{url}/v1/users/{name}", timeout=5.0, trust_env=False)
            if answer.status_code == 202:
                return int(answer.json()["number"])
        except httpx.HTTPError:
            pass  # the server may just have been killed
        time.sleep(0.1)
    raise AssertionError("nobody took the erasure")


def erase_under_kills(folder: RunFolder, requests: int, kills: int, seed: int, limit_s: float) -> Counter[str]:
    """Play a world, erase its most active user in the middle, and kill roles until that is finished."""
    config, port, chance = build(find_recipe(RECIPE), settings(requests)), free_port(), random.Random(seed)
    supervisor = Supervisor(commands(folder, requests, port), folder.root / "logs", ONE_THREAD, give_up_after=1000)
    supervisor.start()
    stop, url, done = threading.Event(), f"http://127.0.0.1:{port}", Counter[str]()
    feeder = Feeder(config, Client(url), folder, speed=None, read_rows=64)
    feeding = threading.Thread(target=feeder.run, args=(stop.is_set,), daemon=True)
    feeding.start()
    deadline = time.monotonic() + limit_s
    try:
        while ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots).last().number < 3:
            assert time.monotonic() < deadline, "no versions"
            supervisor.poll()
            time.sleep(0.1)
        name = shown(folder).most_common(1)[0][0]
        number, book = asked_to_forget(url, name, deadline), open_book(folder)
        while not book.erasure(number).finished or sum(done.values()) < kills:
            assert time.monotonic() < deadline, (book.erasure(number), done)
            supervisor.poll()
            if sum(done.values()) < kills and chance.random() < 0.2:
                role = chance.choice(ROLES)
                done[role] += supervisor.kill(role)
            time.sleep(0.05)
        while supervisor.running() != ["server"]:
            assert time.monotonic() < deadline, supervisor.running()
            supervisor.poll()
            if not feeding.is_alive():
                close_events(config, folder)
            time.sleep(0.05)
    finally:
        stop.set()
        supervisor.stop()
    check(folder, config, name)
    return done


def check(folder: RunFolder, config, name: str) -> None:
    users = user_columns(config)
    assert shown(folder)[name] == 0
    scan = find_traces(folder.root, name, users)
    feed = str(folder.feed)
    assert [trace for trace in scan.traces if not trace.path.startswith(feed)] == []
    serving = open_serving(config)
    serving.replica.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots))
    assert rows_held(serving.replica.tables, users, name) == []
    state = ManifestCheckpoint(folder.checkpoint).load()
    assert state is not None
    for table, held in serving.replica.tables.items():  # what is served is what the learner knows, to the bit
        rows, learned = held.rows(), state["learner"]["tables"][table]
        assert torch.equal(rows.ids, learned["ids"]), table
        assert torch.equal(rows.rows, learned["rows"]), table


def test_an_erasure_is_finished_although_processes_are_killed(tmp_path: Path) -> None:
    assert sum(erase_under_kills(RunFolder(tmp_path), requests=200, kills=2, seed=3, limit_s=170).values()) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(4))
def test_an_erasure_is_finished_although_every_process_is_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    kills = erase_under_kills(RunFolder(tmp_path), requests=1500, kills=24, seed=seed, limit_s=600)
    assert sum(kills.values()) >= 24
    assert min(kills[role] for role in ROLES) >= 1, kills
