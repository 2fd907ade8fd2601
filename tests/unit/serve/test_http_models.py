"""A server with two arms: who answers stands in answers and log, shares change while it serves, 409 for the old."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from headrace.data.log import EmbeddedLog
from headrace.serve import RankPredictor, create_app, run_server
from headrace.serve.arms import Experiment, ServedModel
from headrace.serve.experiment import FILE, ExperimentConfig
from headrace.types import Change, Events

PRICES = {"a": 3.0, "b": 5.0, "c": 9.0}


@dataclass
class Server:
    http: httpx.Client
    log: EmbeddedLog
    folder: Path

    def rank(self, key: str, **more: object) -> httpx.Response:
        query = more.pop("query", None)
        body = {"key": key, "user": {"user": f"u-{key}", "city": 1},
                "candidates": [{"item": item, "price": price} for item, price in PRICES.items()], **more}  # fmt: skip
        return self.http.post("/v1/rank", json=body, params=query)  # type: ignore[arg-type]

    def logged(self) -> Events:
        return Events.concat([entry.events for entry in self.log.read("events", 0, limit=100_000)])


@pytest.fixture
def start(
    tmp_path: Path, make_predictor: Callable[..., RankPredictor], make_change: Callable[..., Change]
) -> Iterator[Callable[..., Server]]:
    running: list[tuple[Server, threading.Event, threading.Thread]] = []

    def stop() -> None:
        while running:
            server, ended, thread = running.pop()
            server.http.close()
            ended.set()
            thread.join(20)

    def begin(share: float = 0.5, *, versions: tuple[int, int] = (0, 1)) -> Server:
        stop()
        predictors = make_predictor(), make_predictor()
        for predictor, last in zip(predictors, versions, strict=True):
            for number in range(last + 1):
                predictor.apply(make_change(number))
        config = ExperimentConfig(shares={"main": 1 - share, "new": share}, split_by="user", salt="t",
                                  path=tmp_path / FILE)  # fmt: skip
        log = EmbeddedLog(tmp_path / "events.db", durability="process")
        app = create_app(
            predictors[0], log, experiment=Experiment(arms={"new": ServedModel(predictors[1])}, config=config)
        )
        ready: queue.Queue[str] = queue.Queue()
        ended = threading.Event()
        thread = threading.Thread(target=run_server, args=(app,),
                                  kwargs={"port": 0, "on_ready": ready.put, "stop": ended})  # fmt: skip
        thread.start()
        server = Server(httpx.Client(base_url=ready.get(timeout=20), trust_env=False), log, tmp_path)
        running.append((server, ended, thread))
        return server

    yield begin
    stop()


def shares(answer: dict) -> dict[str, float]:
    return {arm["name"]: arm["propensity"] for arm in answer["arms"]}


def test_answers_and_log_say_which_arm(start: Callable[..., Server]) -> None:
    server = start(0.4)
    arms = {}
    for number in range(40):
        answer = server.rank(f"r{number}").json()
        arms[f"r{number}"] = answer["arm"]
        assert answer["version"] == {"main": 0, "new": 1}[answer["arm"]]
    assert set(arms.values()) == {"main", "new"}
    logged = server.logged()
    assert len(logged) == 120
    for row in logged.batch.to_pylist():
        assert row["arm"] == arms[row["key"]]
        assert row["arm_propensity"] == pytest.approx({"main": 0.6, "new": 0.4}[row["arm"]])
        assert row["version"] == {"main": 0, "new": 1}[row["arm"]]
    again = server.rank("r0", log_impressions=False).json()
    assert again["arm"] == arms["r0"]


def test_models_tells_arms_shares_and_versions(start: Callable[..., Server]) -> None:
    answer = start(0.25, versions=(2, -1)).http.get("/v1/models").json()
    assert answer["split_by"] == "user"
    main, new = answer["arms"]
    assert (main["name"], main["share"], main["propensity"], main["version"]) == ("main", 0.75, 1.0, 2)
    assert (new["name"], new["share"], new["propensity"], new["version"]) == ("new", 0.25, 0.0, -1)
    assert new["state"] == "waiting for the first version"


def test_shares_change_while_serving_and_stay_changed(start: Callable[..., Server]) -> None:
    server = start(0.01)
    before = {f"r{n}": server.rank(f"r{n}").json()["arm"] for n in range(30)}
    changed = server.http.put("/v1/models", json={"shares": {"main": 0.0, "new": 1.0}})
    assert changed.status_code == 200
    assert shares(changed.json()) == {"main": 0.0, "new": 1.0}
    assert {server.rank(f"s{n}").json()["arm"] for n in range(10)} == {"new"}
    assert list(before.values()).count("main") >= 27
    audit = [json.loads(line) for line in (server.folder / "audit.jsonl").read_text().splitlines()]
    assert audit[-1]["what"] == "PUT /v1/models"
    assert audit[-1]["details"]["shares"] == {"main": 0.0, "new": 1.0}
    assert shares(start(0.01).http.get("/v1/models").json()) == {"main": 0.0, "new": 1.0}


@pytest.mark.parametrize(
    "body", [{}, {"shares": {"main": 1.0}}, {"shares": {"main": 0.5, "new": 0.6}}, {"shares": [1]},
             {"shares": {"main": 1, "new": 0, "x": 0}}, {"shares": {"main": "1", "new": 0}}, [],
             {"shares": {"main": 1, "new": 0}, "more": 1}],
)  # fmt: skip
def test_shares_that_are_none_change_nothing(start: Callable[..., Server], body: object) -> None:
    server = start(0.25)
    refused = server.http.put("/v1/models", json=body)
    assert refused.status_code == 400
    assert shares(server.http.get("/v1/models").json()) == {"main": 0.75, "new": 0.25}


def test_an_old_version_is_409_and_logs_nothing(start: Callable[..., Server]) -> None:
    server = start(0.0, versions=(1, 5))
    assert server.rank("r1", min_version=1).status_code == 200
    for refused in (server.rank("r2", min_version=2), server.rank("r2", query={"min_version": "2"})):
        assert refused.status_code == 409
        assert (refused.json()["version"], refused.json()["arm"]) == (1, "main")
        assert refused.json()["expected"] == "at least 2"
    assert set(server.logged().column("key").to_pylist()) == {"r1"}
    for wrong in ({"min_version": -1}, {"min_version": "2"}, {"min_version": 1.5}, {"min_version": True},
                  {"query": {"min_version": "x"}}, {"query": {"min_version": "-1"}}):  # fmt: skip
        assert server.rank("r3", **wrong).status_code == 400


def test_arrow_rows_of_several_requests(start: Callable[..., Server], make_requests: Callable[..., Events]) -> None:
    server = start(0.5)
    kind = {"content-type": "application/vnd.apache.arrow.stream"}
    rows = make_requests(100)
    found = Events.from_bytes(server.http.post("/v1/rank", content=rows.to_bytes(), headers=kind).content)
    assert set(found.column("arm").to_pylist()) == {"main", "new"}
    versions = dict(zip(found.column("arm").to_pylist(), found.column("version").to_pylist(), strict=True))
    assert versions == {"main": 0, "new": 1}
    refused = server.http.post("/v1/rank?min_version=1", content=rows.to_bytes(), headers=kind)
    assert (refused.status_code, refused.json()["arm"]) == (409, "main")


def test_metrics_by_arm(start: Callable[..., Server]) -> None:
    server = start(0.5)
    for number in range(20):
        server.rank(f"r{number}")
    text = server.http.get("/metrics").text
    counts = {arm: float(text.split(f'headrace_arm_requests{{arm="{arm}"}} ')[1].split()[0]) for arm in ("main", "new")}
    assert sum(counts.values()) == 20
    assert min(counts.values()) > 0
    assert 'headrace_arm_share{arm="new"} 0.5' in text
    assert 'headrace_arm_version{arm="new"} 1.0' in text


def test_the_document_names_the_arms(start: Callable[..., Server]) -> None:
    document = start().http.get("/openapi.json").json()
    put = document["paths"]["/v1/models"]["put"]
    wanted = put["requestBody"]["content"]["application/json"]["schema"]["properties"]["shares"]
    assert wanted["required"] == ["main", "new"]
    assert "409" in document["paths"]["/v1/rank"]["post"]["responses"]
