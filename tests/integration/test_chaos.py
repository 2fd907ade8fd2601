"""Kill -9 of learner, publisher and one of two replicas under load, while clients ask both replicas.

What must hold: nobody's request fails but those that were sent to the killed replica while it was away; for one client
versions never go backward, whichever replica answers; and every answer is, to the bit, what the learner knew at the
version that the answer names.
"""

from __future__ import annotations

import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from headrace.data import EmbeddedLog
from headrace.feedback import World, WorldConfig
from headrace.learn import PipelineConfig
from headrace.online import (
    Feeder,
    OnlineConfig,
    RunFolder,
    Supervisor,
    build,
    close_events,
    find_recipe,
    open_serving,
    run_learner,
)
from headrace.online import roles as roles_module
from headrace.online.layout import CHANGES, EXAMPLES, STAGED
from headrace.online.server import free_port
from headrace.publish import AcknowledgementFolder, ChangeLog, ChangeReader, LogPublisher
from headrace.serve import Client
from headrace.serve.client_calls import ClientConfig
from headrace.types import Events

RECIPE = "headrace.online.demo:world"
STEADY, KILLED = "steady", "killed"
ROWS = 8
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


def settings(requests: int) -> list[str]:
    return [f"requests={requests}", "publish_every=64", "batch_rows=64", "checkpoint_every=4", "seed=5"]


@dataclass
class Answer:
    """What a replica said: which client asked, which replica answered, when (monotonic s), and what it said."""

    client: int
    replica: str
    asked: float
    said: float
    status: int
    version: int = -1
    scores: tuple[float, ...] = ()


@dataclass
class Asking:
    """Clients that ask both replicas the same rows, now this one and now that; each wants what it saw at least."""

    urls: dict[str, str]
    rows: Events
    answers: list[Answer] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask_for_ever(self, client: int) -> None:
        chance, seen = random.Random(client), -1
        body = self.rows.to_bytes()
        with httpx.Client(timeout=20.0, trust_env=False) as http:
            while not self.ended.wait(0.03):
                replica = chance.choice([STEADY, KILLED])
                answer = self.ask(http, client, replica, body, seen)
                self.answers.append(answer)
                seen = max(seen, answer.version)

    def ask(self, http: httpx.Client, client: int, replica: str, body: bytes, seen: int) -> Answer:
        query = {"log_impressions": "false"} | ({} if seen < 0 else {"min_version": str(seen)})
        asked = time.monotonic()
        try:
            found = http.post(f"{self.urls[replica]}/v1/rank", content=body, headers=ARROW, params=query)
        except httpx.TransportError:
            return Answer(client, replica, asked, time.monotonic(), 0)
        said = time.monotonic()
        if found.status_code != 200:
            return Answer(client, replica, asked, said, found.status_code)
        rows = Events.from_bytes(found.content)
        versions = set(rows.column("version").to_pylist())
        assert len(versions) == 1, f"one answer from versions {versions}"
        return Answer(client, replica, asked, said, 200, versions.pop(), tuple(rows.column("score").to_pylist()))


def commands(folder: RunFolder, requests: int, ports: dict[str, int]) -> dict[str, list[str]]:
    start, place = [sys.executable, "-m", "headrace"], ["--folder", str(folder.root)]
    made = {role: [*start, "run", RECIPE, *settings(requests), "--role", role, *place]
            for role in ("joiner", "learner", "publisher")}  # fmt: skip
    return made | {
        name: [*start, "serve", RECIPE, *settings(requests), *place, "--port", str(port), "--replica", name]
        for name, port in ports.items()
    }


def probe(count: int = ROWS) -> Events:
    """Return the first impressions of another world with the same users and items."""
    world = World(WorldConfig(seed=77, requests=4, candidates=10))
    rows = world.read(count)
    assert rows is not None
    return rows


@dataclass
class Chaos:
    """What came of it: when the killed replica was away, what was asked, and what was acknowledged."""

    answers: list[Answer]
    away: list[tuple[float, float]]
    kills: Counter[str]
    acknowledged: dict[str, list[int]]


@contextmanager
def watching(folder: RunFolder, seen: dict[str, list[int]]) -> Iterator[None]:
    """Write down what replicas acknowledge."""
    ended, told = threading.Event(), AcknowledgementFolder(folder.acknowledgements)

    def watch() -> None:
        while not ended.wait(0.02):
            for name, one in told.newest().items():
                if seen.setdefault(name, [-1])[-1] != one.version:
                    seen[name].append(one.version)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def play(folder: RunFolder, config: OnlineConfig, requests: int, strikes: list[tuple[str, ...]], clients: int) -> Chaos:
    """Feed a world to the steady replica, kill victims again and again, and ask both replicas meanwhile."""
    ports = {STEADY: free_port(), KILLED: free_port()}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    supervisor = Supervisor(commands(folder, requests, ports), folder.root / "logs", one_thread, give_up_after=1000)
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    asking, done = Asking(urls, probe()), Chaos([], [], Counter(), {})
    stop = threading.Event()
    supervisor.start()
    threads: list[threading.Thread] = []
    try:
        ready = {name: Client(url, config=ClientConfig(retries=0)) for name, url in urls.items()}
        with watching(folder, done.acknowledged):
            for one in ready.values():
                _until(lambda one=one: _is_ready(one), supervisor)
            feeder = Feeder(
                config, Client(urls[STEADY], config=ClientConfig(retries=0)), folder, speed=None, read_rows=32
            )
            feeding = threading.Thread(target=feeder.run, args=(stop.is_set,), daemon=True)
            threads = [threading.Thread(target=asking.ask_for_ever, args=(n,)) for n in range(clients)]
            for thread in [feeding, *threads]:
                thread.start()
            for victims in strikes:
                _kill(victims, supervisor, ready, done)
            _until(lambda: not feeding.is_alive(), supervisor)
            close_events(config, folder)
            _until(lambda: set(supervisor.running()) == set(ports), supervisor)
            newest = LogPublisher(EmbeddedLog(folder.log(CHANGES)), folder.snapshots).last().number
            for one in ready.values():
                _until(lambda one=one: int(one.health()["version"]) == newest, supervisor)
            time.sleep(0.6)  # the last acknowledgement
            asking.ended.set()
            for thread in threads:
                thread.join()
    finally:
        stop.set()
        asking.ended.set()
        supervisor.stop()
    done.answers = asking.answers
    return done


def _kill(victims: tuple[str, ...], supervisor: Supervisor, ready: dict[str, Client], done: Chaos) -> None:
    """Kill processes at one instant, and wait until they are at work again."""
    time.sleep(0.2)
    began = time.monotonic()
    for victim in victims:
        done.kills[victim] += supervisor.kill(victim)
    for victim in victims:
        _until(
            lambda victim=victim: supervisor.pid(victim) is not None or victim not in supervisor.running(), supervisor
        )
    if KILLED in victims:
        _until(lambda: _is_ready(ready[KILLED]), supervisor)
        done.away.append((began, time.monotonic()))


def _until(ready, supervisor: Supervisor, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"stuck: {supervisor.running()}"
        supervisor.poll()
        time.sleep(0.02)


def _is_ready(client: Client) -> bool:
    try:
        return int(client.health().get("version", -1)) >= 0
    except Exception:  # noqa: BLE001  it is not there yet, whatever it says
        return False


def learner_at_every_version(config: OnlineConfig, folder: RunFolder, straight: RunFolder, monkeypatch) -> dict:
    """Learn the same examples without an interruption; returns the scores of the probe at every version.

    On the way every version is applied to a replica, which must then hold the learner's rows and dense tensors.
    """
    straight.root.mkdir(parents=True)
    for name in folder.root.glob(f"{EXAMPLES}.db*"):
        shutil.copy(name, straight.root / name.name)
    learner, serving, scores = [], open_serving(config), {}
    real_learner, real_publisher = roles_module.open_learner, roles_module.StagingPublisher

    def opened(given: OnlineConfig):
        learner.append(real_learner(given))
        return learner[-1]

    class Compared(real_publisher):  # type: ignore[misc,valid-type]
        def publish(self, change):
            serving.replica.apply(change)
            for name, table in learner[-1].tables.items():
                mine, theirs = serving.replica.tables[name].rows(), table.rows()
                assert mine.ids.equal(theirs.ids)
                assert mine.rows.equal(theirs.rows)
            for name, value in learner[-1].model.state_dict().items():
                assert serving.replica.dense[name].equal(value)
            answer = serving.predictor.predict(probe())
            scores[change.version.number] = tuple(answer.column("score").to_pylist())
            return super().publish(change)

    with monkeypatch.context() as patch:
        patch.setattr(roles_module, "open_learner", opened)
        patch.setattr(roles_module, "StagingPublisher", Compared)
        # versions are made while the learner stands still, so that both can be compared; it changes no result
        run_learner(replace(config, pipeline=PipelineConfig(depth=0)), straight, lambda: False)
    return scores


def check(done: Chaos, truth: dict[int, tuple[float, ...]], folder: RunFolder, straight: RunFolder) -> None:
    failed = [one for one in done.answers if one.status not in (200, 409)]
    assert not [one for one in failed if one.replica == STEADY], "the steady replica failed a request"
    for one in failed:
        assert any(began <= one.said and one.asked <= ended for began, ended in done.away), (
            f"failed without a kill: {one}"
        )
    seen: dict[int, int] = {}
    for one in done.answers:
        if one.status == 200:
            assert one.version >= seen.get(one.client, -1), f"backward for a client: {one}"
            seen[one.client] = one.version
            assert one.scores == truth[one.version], f"not what the learner knew: {one}"
    versions = {one.version for one in done.answers if one.status == 200}
    assert len(versions) > 2, f"hardly anything moved: {versions}"
    assert {one.replica for one in done.answers if one.status == 200} == {STEADY, KILLED}

    newest = max(truth)
    for name in (STEADY, KILLED):
        told = done.acknowledged[name]
        assert set(told) - {-1} <= set(truth), "a version was acknowledged that the learner never had"
        assert told[-1] == newest, f"{name} did not come to the end: {told[-5:]} of {newest}"
    assert done.acknowledged[STEADY] == sorted(done.acknowledged[STEADY])

    ours, theirs = ChangeLog(EmbeddedLog(folder.log(CHANGES))), ChangeLog(EmbeddedLog(straight.log(STAGED)), STAGED)
    assert [ours.checksum(n) for n in range(newest + 1)] == [theirs.checksum(n) for n in range(newest + 1)]


def test_one_kill_of_each_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form."""
    requests = 120
    config = build(find_recipe(RECIPE), settings(requests))
    folder, straight = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "straight")
    done = play(folder, config, requests, [("learner", "publisher", KILLED)], clients=2)
    assert done.kills == {"learner": 1, "publisher": 1, KILLED: 1}
    check(done, learner_at_every_version(config, folder, straight, monkeypatch), folder, straight)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kills_fail_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = 4000
    chance = random.Random(3)
    roles = ["learner", "publisher", KILLED]
    strikes = [tuple(sorted(chance.sample(roles, chance.choice([1, 1, 2, 3])))) for _ in range(16)]
    config = build(find_recipe(RECIPE), settings(requests))
    folder, straight = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "straight")
    done = play(folder, config, requests, strikes, clients=4)
    assert min(done.kills[name] for name in ("learner", "publisher", KILLED)) >= 4, done.kills
    check(done, learner_at_every_version(config, folder, straight, monkeypatch), folder, straight)
    fresh = open_serving(config)
    fresh.replica.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots))
    assert np.array_equal(
        torch.tensor(fresh.predictor.predict(probe()).column("score").to_pylist()).numpy(),
        torch.tensor(max(done.answers, key=lambda one: one.version).scores).numpy(),
    )
