"""A server that recommends is killed without warning: items, clicks and what users saw are there again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.data.log import EmbeddedLog
from headrace.online import RunFolder, open_learner
from headrace.publish import LogPublisher
from headrace.serve import Client
from headrace.types import Version

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
from headrace.data import IdFeature, JoinConfig, Schema
from headrace.nn import DeepFM
from headrace.online import OnlineConfig
from headrace.serve import RecommendConfig


def shop() -> OnlineConfig:
    return OnlineConfig(
        name="shop", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))),
        model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 0, (4,), seed=seed),
        join=JoinConfig(window_s=60, lateness_s=1), recommend=RecommendConfig(seen="acted"),
    )
"""


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    """A folder with version 0 of a shop."""
    (tmp_path / "shop_recipe.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from shop_recipe import shop

    folder = RunFolder(tmp_path / "run")
    changes = EmbeddedLog(folder.log("changes"), durability="process")
    LogPublisher(changes, folder.snapshots).publish(open_learner(shop()).changes(Version(-1)))
    return folder


def started(folder: RunFolder, port: int, *more: str) -> subprocess.Popen[bytes]:
    paths = [str(ROOT / "src"), str(folder.root.parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "headrace", "serve", "shop_recipe:shop", "--folder", str(folder.root), "--port",
               str(port), *more]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_nothing_that_was_acknowledged_is_lost(run, free_port, tmp_path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps({"item": f"i{n}"}) + "\n" for n in range(10)))
    server, clicked = started(run, free_port, "--items", str(file)), dict[str, set[str]]()
    try:
        with Client(f"http://127.0.0.1:{free_port}") as client:
            client.wait_ready(60)
            client.put_items([{"item": f"late-{n}"} for n in range(5)])
            assert client.remove_items("i3") == 1
            for user in ("ann", "bob"):
                answer = client.recommend({"user": user}, 3)
                client.feedback(*({"key": answer["key"], "kind": "click", "item": item} for item in answer["items"]))
                clicked[user] = set(answer["items"])
            server.send_signal(signal.SIGKILL)
            server.wait(10)
            server = started(run, free_port, "--items", str(file))
            client.wait_ready(60)
            everything = {f"i{n}" for n in range(10) if n != 3} | {f"late-{n}" for n in range(5)}
            for user, items in clicked.items():
                assert set(client.recommend({"user": user}, 50)["items"]) == everything - items
            assert set(client.recommend({"user": "eve"}, 50)["items"]) == everything
    finally:
        server.terminate()
        deadline = time.monotonic() + 15
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        server.kill()
