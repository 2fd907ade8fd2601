"""A server that has nothing of the run but a folder of changes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest
import torch

from headrace.data import JoinConfig
from headrace.data.features import IdFeature, Schema
from headrace.nn import DeepFM
from headrace.online import Following, OnlineConfig, RunFolder, open_learner, run_server
from headrace.publish import ChangeFolderWriter
from headrace.types import Version

CONFIG = OnlineConfig(
    name="shop", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))),
    model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 0, (8,), seed=seed),
    join=JoinConfig(window_s=600, lateness_s=5),
)  # fmt: skip
ASKED = {"user": {"user": "u1"}, "candidates": [{"item": "a"}, {"item": "b"}]}


@pytest.mark.parametrize("mode", ["consistent", "eventual"])
def test_a_server_follows_a_folder_of_changes(tmp_path: Path, free_port: int, mode: str) -> None:
    learner, writer = open_learner(CONFIG), ChangeFolderWriter(tmp_path / "far", "run", sync=False)
    writer.append(learner.changes(Version(-1)))
    stop, url = threading.Event(), f"http://127.0.0.1:{free_port}"
    following = Following(changes=str(tmp_path / "far"), replica="paris-1", mode=mode)  # type: ignore[arg-type]
    thread = threading.Thread(
        target=run_server, args=(CONFIG, RunFolder(tmp_path / "here")),
        kwargs={"port": free_port, "stop": stop.is_set, "following": following},
    )  # fmt: skip
    thread.start()
    try:
        with httpx.Client(base_url=url, trust_env=False) as http:
            assert _until(lambda: http.post("/v1/rank", json=ASKED).json()["version"] == 0)
            with torch.no_grad():
                for value in learner.model.parameters():
                    value += 0.1
            writer.append(learner.changes(Version(0, -1)))
            assert _until(lambda: http.post("/v1/rank", json=ASKED).json()["version"] == 1)
            health = http.get("/v1/health").json()
    finally:
        stop.set()
        thread.join(20)
    assert (health["replica"], health["published"], health["lag_versions"]) == ("paris-1", 1, 0)
    assert health["learner"]["alive"]  # by the age of the newest version: the learner's own folder is not here
    assert writer.acknowledgements.newest()["paris-1"].version == 1
    assert (tmp_path / "here" / "events.db").exists()
    assert not (tmp_path / "here" / "changes.db").exists()


def _until(done, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if done():
                return True
        except (httpx.TransportError, KeyError, ValueError):
            pass
        time.sleep(0.02)
    return False
