"""A server of several processes over one copy of the model: same answers, nothing lost, and kill -9 of any of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from headrace.data import EmbeddedLog
from headrace.online import build, find_recipe, open_serving
from headrace.online.server import free_port
from headrace.publish import LogPublisher
from headrace.serve import ServeConfig
from headrace.serve.requests import RequestReader
from headrace.types import Change, Events, RowChange, Version

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from serve_contenders import model  # noqa: E402

RECIPE = "serve_contenders.model:ranker"
IDS = 300


class Server:
    """`headrace serve --workers 2` on a run folder, and a client."""

    def __init__(self, folder: Path, published: LogPublisher, *more: str) -> None:
        self.folder, self.published, self.port = folder, published, free_port()
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "headrace", "serve", RECIPE, "--folder", str(folder), "--port",
                   str(self.port), "--workers", "2", "--batch-window-ms", "0.5", *more]  # fmt: skip
        path = os.pathsep.join([str(BENCHMARKS), *sys.path])
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=output,
                                            stderr=output)  # fmt: skip
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)

    def wait(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if done():
                    return
            except httpx.TransportError:
                self.http.close()
                self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def ready(self) -> None:
        self.wait(lambda: self.http.get("/v1/health").status_code == 200)

    def children(self) -> list[int]:
        """Return the owner and the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def rank(self, body: bytes, **query: str) -> httpx.Response:
        return self.http.post("/v1/rank", content=body, params=query, headers={"content-type": "application/json"})

    def end(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests: each leaves it as it should be."""
    folder = tmp_path_factory.mktemp("workers")
    publisher = model.publish(folder, IDS)
    made = Server(folder, publisher)
    try:
        made.ready()
        yield made
    finally:
        if made.process.poll() is None:
            made.end()


def publish(publisher: LogPublisher) -> int:
    """Publish a version in which item 0's row, and the output's bias, are others; returns its number."""
    number = publisher.last().number + 1
    rows = RowChange(torch.tensor([0]), torch.full((1, model.DIM), 0.01 * number), torch.tensor([IDS - 1]))
    bias = "deep.layers.6.bias"
    publisher.publish(Change(version=Version(number, number - 1), tables={"c0": rows},
                             dense={bias: torch.full((1,), 0.1 * number)}))  # fmt: skip
    return number


def logged(folder: Path) -> list[Events]:
    with EmbeddedLog(folder / "events.db", durability="process") as log:
        return [entry.events for entry in log.read("events", 0, limit=100_000)]


def test_answers_are_those_of_one_process_and_everything_else_works(server: Server):
    alone = open_serving(build(find_recipe(RECIPE), [])).predictor
    alone.replica.catch_up(server.published)
    reader = RequestReader(model.SCHEMA, ServeConfig())
    for body in model.bodies(4, 30, IDS, seed=3):
        answer = server.rank(body).json()
        wanted = alone.predict(reader.rank_json(body).events).column("score").to_numpy()
        assert np.abs(np.array(answer["scores"], np.float32) - wanted).max() < 2e-6
        assert (answer["version"], answer["arm"], len(answer["order"])) == (server.published.last().number, "main", 30)
        odd = server.rank(body.replace(b'{"user"', b'{"key":"\\u0061b","user"')).json()  # an escape: not the fast way
        assert np.abs(np.array(odd["scores"], np.float32) - wanted).max() < 2e-6
        assert odd["key"] == "ab"
    assert not logged(server.folder)

    content = json.loads(model.bodies(1, 5, IDS)[0]) | {"key": "seen"}
    assert server.rank(json.dumps(content).encode(), log_impressions="true").status_code == 200
    rows = Events.concat(logged(server.folder))
    assert rows.column("item").to_pylist() == [one["item"] for one in content["candidates"]]
    assert set(rows.column("key").to_pylist()) == {"seen"}
    assert {"score", "version", "arm", "arm_propensity", "accepted_time", "u3", "c4"} <= set(rows.names)

    wrong = server.rank(json.dumps(content | {"usr": {}}).encode())
    assert wrong.status_code == 400
    assert "usr" in wrong.json()["what"]
    assert server.http.get("/nowhere").status_code == 404
    assert server.http.head("/v1/health").status_code in (200, 405)
    action = {"key": "seen", "kind": "click", "item": content["candidates"][0]["item"]}
    assert server.http.post("/v1/feedback", json=action).json() == {"accepted": 1, "duplicates": 0}
    assert server.http.post("/v1/feedback", json=action).json() == {"accepted": 0, "duplicates": 1}
    assert server.rank(b"x" * (9 << 20)).status_code == 413
    server.wait(lambda: 'headrace_requests_total{endpoint="rank",status="200"} 9.0' in server.http.get("/metrics").text)


def test_versions_come_to_every_worker_and_never_go_back(server: Server):
    body = model.bodies(1, 20, IDS)[0]
    clients = [httpx.Client(base_url=server.http.base_url, trust_env=False) for _ in range(4)]
    seen = [0] * len(clients)
    for _ in range(15):
        number = publish(server.published)
        deadline = time.monotonic() + 20
        while min(seen) < number and time.monotonic() < deadline:
            for place, client in enumerate(clients):
                answer = client.post("/v1/rank", content=body, headers={"content-type": "application/json"})
                version = answer.json()["version"]
                assert version >= seen[place]
                seen[place] = version
        assert min(seen) == number
    for client in clients:
        client.close()


def test_a_killed_worker_is_started_again_and_fails_nobody_else(server: Server):
    body = model.bodies(1, 20, IDS)[0]
    before = server.children()
    os.kill(before[-1], signal.SIGKILL)
    server.wait(lambda: len(server.children()) == 3 and server.children() != before)
    for _ in range(3):  # its places are free again: versions go on
        number = publish(server.published)
    server.wait(lambda: server.rank(body).json()["version"] == number)


def test_without_the_process_that_writes_the_log_answers_go_on(server: Server):
    body = model.bodies(1, 20, IDS)[0]
    owner, *workers = server.children()
    assert server.rank(body).status_code == 200
    os.kill(owner, signal.SIGKILL)
    answered = 0
    while server.children()[:1] == [owner] or answered < 20:
        assert server.rank(body).status_code == 200
        answered += 1
    assert server.rank(body, log_impressions="true").status_code in (200, 503)
    server.wait(lambda: server.rank(body, log_impressions="true").status_code == 200)
    number = publish(server.published)
    server.wait(lambda: server.rank(body).json()["version"] == number)
    server.wait(lambda: not set(workers) & set(server.children()))
    assert len(logged(server.folder)) >= 1


def test_all_processes_and_all_memory_go_with_the_server(server: Server):
    children = server.children()
    spaces = [folder for folder in Path("/dev/shm").glob("headrace-space-*") if holds(folder, children)]
    assert len(children) == 3
    assert len(spaces) == 1
    server.end()
    assert not any(folder.exists() for folder in spaces)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def holds(folder: Path, pids: list[int]) -> bool:
    return any(str(folder) in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
