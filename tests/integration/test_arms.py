"""A server with two arms as a process: killed and started again it splits the same way; both arms learn of one log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.cli.main import main
from headrace.data.log import EmbeddedLog
from headrace.errors import SourceEnded
from headrace.feedback import WorldConfig
from headrace.online import RunFolder, run_joiner
from headrace.online.demo import world
from headrace.online.trimming import needed_from
from headrace.online.worlds import WorldPlayer
from headrace.serve import Client

RECIPE, SETTINGS = "headrace.online.demo:world", ["requests=120", "log=true", "publish_every=256"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("arms")
    for name in ("main", "new"):
        own = [] if name == "main" else ["dim=5"]
        assert main(["run", RECIPE, *SETTINGS, *own, "--folder", str(root / name), "--json"]) == 0
    return root


@pytest.fixture
def serve(runs: Path, free_port: int) -> Iterator:
    running: list[subprocess.Popen[bytes]] = []

    def start() -> Client:
        words = [sys.executable, "-m", "headrace", "serve", RECIPE, *SETTINGS, "--folder", str(runs / "main"), "--port",
                 str(free_port), "--arm", f"new={runs / 'new'}:0.2", "--arm", f"old={runs / 'main'}@0:0.1",
                 "--arm-settings", "new", "dim=5", "--split-by", "user"]  # fmt: skip
        running.append(subprocess.Popen(words, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}))
        client = Client(f"http://127.0.0.1:{free_port}")
        client.wait_ready(60)
        return client

    def kill() -> None:
        running[-1].send_signal(signal.SIGKILL)
        running[-1].wait(20)

    yield start, kill
    for process in running:
        process.kill()
        process.wait(20)


def arms_of(client: Client, requests: int, seed: int) -> dict[str, str]:
    """Play a world's requests and clicks; return which arm each user had."""
    player, found = WorldPlayer(WorldConfig(seed=seed, requests=requests, users=150)), {}
    while True:
        try:
            rows = player.read(1000)
        except SourceEnded:
            return found
        answers = client.rank_events(rows) if len(rows) else rows
        if len(rows):
            users, arms = rows.column("user").to_pylist(), answers.column("arm").to_pylist()
            found |= dict(zip(users, arms, strict=True))
        clicks = player.collect(rows, answers)
        if clicks is not None:
            client.feedback_events(clicks)


def test_an_experiment_survives_a_killed_server(runs: Path, serve, capsys: pytest.CaptureFixture[str]) -> None:
    start, kill = serve
    client = start()
    before = arms_of(client, 250, seed=1)
    assert set(before.values()) == {"main", "new", "old"}
    versions = {arm["name"]: arm["version"] for arm in client.models()["arms"]}
    assert versions["old"] == 0 < versions["main"]
    shares = {"main": 0.3, "new": 0.5, "old": 0.2}
    client.change_shares(shares)
    changed = arms_of(client, 250, seed=2)
    kill()
    client = start()
    again = arms_of(client, 250, seed=3)
    assert all(again[user] == arm for user, arm in changed.items() if user in again)
    assert not any(before[user] == "new" != arm for user, arm in changed.items() if user in before)
    kill()

    capsys.readouterr()
    assert main(["inspect", "experiment", str(runs / "main"), "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)
    assert {arm["name"] for arm in said["arms"]} == {"main", "new", "old"}
    assert sum(arm["rows"] for arm in said["arms"]) > 6_000
    assert said["unit"] == "user"
    assert said["ratio_p"] > 1e-3
    assert any("shares changed" in note for note in said["notes"])

    # the challenger's own joiner reads the same events, and the main run keeps them for it
    config = world(requests=120, log=True, dim=5)
    ends = time.monotonic() + 60
    with EmbeddedLog(runs / "main" / "events.db") as events:
        events.close_topic("events")
    run_joiner(config, RunFolder(runs / "new"), lambda: time.monotonic() > ends, events_of=RunFolder(runs / "main"))
    with EmbeddedLog(runs / "new" / "examples.db") as examples:
        assert examples.rows("examples") >= 2_500  # the other worlds begin again at the same hour: too late to join
    assert needed_from(RunFolder(runs / "main"), 3600.0) == 0


def test_an_arm_that_cannot_be_served_says_why(runs: Path) -> None:
    words = ["serve", RECIPE, *SETTINGS, "--folder", str(runs / "main"), "--port", "0"]
    assert main([*words, "--arm", f"new={runs / 'nowhere'}:0.1"]) == 2
    assert main([*words, "--arm", "new:0.1"]) == 2
    assert main([*words, "--arm", f"new={runs / 'new'}:1.1"]) == 2
    assert main([*words, "--arm", f"old={runs / 'main'}@999:0.1"]) == 2
    assert main([*words, "--split-by", "user"]) == 2
