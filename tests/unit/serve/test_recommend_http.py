from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from headrace.data import DenseFeature, IdFeature, JoinConfig, Schema
from headrace.data.collate import collate
from headrace.data.log import EmbeddedLog
from headrace.nn import DeepFM
from headrace.online import OnlineConfig, open_learner, open_serving
from headrace.online.recommending import open_recommender
from headrace.serve import Client, RankPredictor, ServeConfig, create_app, run_server
from headrace.serve.arms import Experiment, ServedModel
from headrace.serve.experiment import ExperimentConfig
from headrace.serve.explore import EpsilonGreedy, Greedy
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.service import RankService
from headrace.types import Events, Version

ARROW = "application/vnd.apache.arrow.stream"
SCHEMA = Schema(features=(
    IdFeature("user", 6, accepts="string"), IdFeature("item", 6, accepts="string"), IdFeature("brand", 6),
    IdFeature("position", 6, accepts="integer", serve_as=1), DenseFeature("price"),
))  # fmt: skip
CONFIG = OnlineConfig(
    name="shop", schema=SCHEMA, join=JoinConfig(window_s=60, lateness_s=1), position="position",
    model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 1, (8,), seed=seed),
    recommend=RecommendConfig(candidates=30, most=25, explore=EpsilonGreedy(epsilon=0.2)),
)  # fmt: skip


@dataclass
class House:
    http: httpx.Client
    client: Client
    log: EmbeddedLog
    service: RankService
    thread: threading.Thread
    stop: threading.Event

    def logged(self) -> Events:
        return Events.concat([entry.events for entry in self.log.read("events", 0, limit=100_000)])

    def ask(self, **body: object) -> httpx.Response:
        return self.http.post("/v1/recommend", json=body)

    def close(self) -> None:
        self.http.close()
        self.client.close()
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def predictor(seed: int = 0) -> RankPredictor:
    config = replace(CONFIG, seed=seed)
    serving = open_serving(config)
    serving.predictor.apply(open_learner(config).changes(Version(-1)))
    return serving.predictor


def open_house(folder: Path, *, config: OnlineConfig = CONFIG, items: int = 20, arms: dict[str, float] | None = None):
    log = EmbeddedLog(folder / "events.db", durability="process")
    catalogue = EmbeddedLog(folder / "items.db", durability="process")
    predictors = {"main": predictor(), **{name: predictor() for name in arms or {}}}
    recommender = open_recommender(config, log, catalogue, predictors)
    experiment = None
    if arms:
        shares = {"main": 1 - sum(arms.values()), **arms}
        models = {name: ServedModel(predictors[name]) for name in arms}
        experiment = Experiment(arms=models, config=ExperimentConfig(shares=shares, salt="s"))
    app = create_app(predictors["main"], log, ServeConfig(position="position"), recommender=recommender,
                     experiment=experiment)  # fmt: skip
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(target=run_server, args=(app,), kwargs={"port": 0, "on_ready": ready.put, "stop": stop})
    thread.start()
    url = ready.get(timeout=20)
    house = House(httpx.Client(base_url=url, trust_env=False), Client(url), log, app.state.service, thread, stop)
    if items and not len(recommender.catalogue.shelf):
        rows = [{"item": f"i{n}", "brand": f"b{n % 3}", "price": float(n)} for n in range(items)]
        assert house.http.put("/v1/items", json={"items": rows}).json() == {"items": items}
    return house


@pytest.fixture
def house(tmp_path) -> Iterator[House]:
    made = open_house(tmp_path)
    yield made
    made.close()


def test_an_answer_has_items_in_their_places(house) -> None:
    answer = house.ask(user={"user": "ann"}, n=4, key="r1")
    content = answer.json()
    assert answer.status_code == 200
    assert content["key"] == "r1"
    assert content["places"] == [1, 2, 3, 4]
    assert len(set(content["items"])) == 4
    assert all(0 < share <= 1 for share in content["scores"] + content["propensities"])
    assert (content["version"], content["arm"], content["policy"]) == (0, "main", "epsilon-greedy 0.2")
    assert (content["candidates"], content["allowed"], content["known_user"]) == (20, 20, False)


def test_what_is_shown_is_in_the_log_with_place_and_propensity_before_the_answer(house) -> None:
    content = house.ask(user={"user": "ann"}, n=4, key="r1", event_time=5_000_000).json()
    rows = house.logged()
    assert rows.column("item").to_pylist() == content["items"]
    assert rows.column("place").to_pylist() == rows.column("position").to_pylist() == [1, 2, 3, 4]
    assert rows.column("propensity").to_pylist() == pytest.approx(content["propensities"])
    assert rows.column("propensity").type == rows.column("arm_propensity").type == pa.float32()
    assert set(rows.column("policy").to_pylist()) == {"epsilon-greedy 0.2"}
    assert set(rows.column("arm").to_pylist()) == {"main"}
    assert rows.column("score").to_pylist() == pytest.approx(content["scores"])
    assert set(rows.column("kind").to_pylist()) == {"impression"}
    assert set(rows.column("event_time").to_pylist()) == {5_000_000}


def test_rows_can_be_read_together_with_those_of_rank_and_learned_from(house) -> None:
    house.ask(user={"user": "ann"}, n=4)
    house.client.rank([{"item": "i1", "brand": "b1", "price": 2.0}], user={"user": "ann"})
    rows = house.logged()
    assert len(rows) == 5
    batch = collate(rows.with_columns({"label": pa.array(np.zeros(5))}), SCHEMA)
    assert batch.ids["position"].values.tolist()[:4] == [1, 2, 3, 4]


def test_a_click_takes_the_item_out_at_once(house) -> None:
    first = house.client.recommend({"user": "ann"}, 20, explore=False)
    house.client.feedback({"key": first["key"], "kind": "click", "item": first["items"][0]})
    after = house.client.recommend({"user": "ann"}, 20, explore=False)
    assert after["items"] == first["items"][1:]
    assert house.client.recommend({"user": "bob"}, 20, explore=False)["items"] == first["items"]
    everything = house.client.recommend({"user": "ann"}, 20, explore=False, seen="none")
    assert everything["items"] == first["items"]
    assert house.client.recommend({"user": "ann"}, 20, seen="shown")["items"] == []


def test_what_users_saw_and_the_catalogue_survive_a_restart(tmp_path) -> None:
    house = open_house(tmp_path)
    first = house.client.recommend({"user": "ann"}, 20, explore=False)
    house.client.feedback({"key": first["key"], "kind": "click", "item": first["items"][2]})
    house.http.post("/v1/items/remove", json=["i7"])
    house.close()
    again = open_house(tmp_path)
    answer = again.client.recommend({"user": "ann"}, 20, explore=False)
    assert answer["items"] == [item for item in first["items"] if item not in ("i7", first["items"][2])]
    again.close()


def test_a_repeated_request_is_the_same_and_counts_once(house) -> None:
    first, again = (house.ask(user={"user": "ann"}, n=5, key="same").json() for _ in range(2))
    assert first == again
    pairs = set(zip(*(house.logged().column(name).to_pylist() for name in ("key", "item")), strict=True))
    assert len(pairs) == 5


def test_a_shadow_read_leaves_no_trace(house) -> None:
    assert len(house.ask(user={"user": "ann"}, log_impressions=False).json()["items"]) == 10
    assert house.log.end("events") == 0


def test_many_wishes_come_as_rows_and_are_answered_as_rows(house) -> None:
    rows = pa.RecordBatch.from_pydict({
        "key": ["r1", "r2", "r3"], "user": ["ann", "bob", None], "n": [2, 3, 1], "exclude": [["i1"], [], None],
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    answer = house.http.post("/v1/recommend", content=sink.getvalue().to_pybytes(), headers={"content-type": ARROW})
    found = Events.from_bytes(answer.content)
    assert answer.status_code == 200
    assert found.column("key").to_pylist() == ["r1"] * 2 + ["r2"] * 3 + ["r3"]
    assert found.column("place").to_pylist() == [1, 2, 1, 2, 3, 1]
    assert {"score", "propensity", "policy", "version", "arm"} <= set(found.names)
    assert len(house.logged()) == 6


def test_items_come_as_rows_too_and_may_replace_all(house) -> None:
    rows = pa.RecordBatch.from_pydict({"item": ["x", "y"], "brand": ["b", "b"], "price": [1.0, 2.0], "stock": [1, 2]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    answer = house.http.put("/v1/items", params={"replace": "true"}, content=sink.getvalue().to_pybytes(),
                            headers={"content-type": ARROW})  # fmt: skip
    assert answer.json() == {"items": 2}
    about = house.http.get("/v1/items").json()
    assert about["items"] == 2
    assert about["attributes"]["stock"] == "int64"
    assert sorted(house.ask().json()["items"]) == ["x", "y"]
    assert house.ask(filters={"stock": {"above": 1}}).json()["items"] == ["y"]


def test_an_old_server_says_so(house) -> None:
    answer = house.ask(min_version=5)
    assert (answer.status_code, answer.json()["version"]) == (409, 0)
    again = house.http.post("/v1/recommend?min_version=1", json={})
    assert again.status_code == 409, again.text
    assert house.ask(min_version=0).status_code == 200
    assert house.log.rows("events") == 10


@pytest.mark.parametrize("body", [
    {"n": 0}, {"n": 26}, {"n": "5"}, {"n": True}, {"user": "ann"}, {"user": {"item": "i1"}}, {"user": {"nobody": 1}},
    {"filters": {"colour": 1}}, {"filters": []}, {"exclude": "i1"}, {"exclude": [1]}, {"exclude": [None]},
    {"seen": "all"}, {"seen": 1}, {"explore": "yes"}, {"key": ""}, {"key": 5}, {"event_time": -1}, {"extra": 1},
    {"filters": {"price": {"min": 10**400}}}, {"filters": {"price": [[1]]}}, {"filters": {"brand": None}},
    {"filters": {"price": {"min": {"a": 1}}}}, {"exclude": [10**400]}, {"user": {"user": [1]}}, {"n": 10**30},
    {"min_version": -1}, {"log_impressions": 1}, [], "x", {"filters": {"price": {"min": "1"}}},
])  # fmt: skip
def test_what_is_wrong_is_refused_with_reasons_and_logs_nothing(house, body) -> None:
    answer = house.http.post("/v1/recommend", json=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"what", "got", "expected", "do"}
    assert house.log.end("events") == 0


@pytest.mark.parametrize("body", [
    {}, [], {"items": []}, {"items": [1]}, [{"brand": "b"}], [{"item": 5}], [{"item": "a", "price": "cheap"}],
    [{"item": "a", "user": "ann"}], [{"item": "a", "position": 1}], [{"item": "a", "": 1}],
    [{"item": "a", "x": 10**400}], [{"item": "a", "x": {"y": 1}}], [{"item": "a", "kind": "x"}],
    [{"item": ""}], {"items": [{"item": "a"}], "more": 1},
])  # fmt: skip
def test_items_that_cannot_be_are_refused_and_change_nothing(house, body) -> None:
    answer = house.http.put("/v1/items", json=body)
    assert answer.status_code == 400
    assert house.http.get("/v1/items").json()["items"] == 20


def test_the_document_tells_of_all_of_it(house) -> None:
    paths = house.http.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/items"]) == {"get", "put"}
    fields = paths["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"user", "context", "n", "filters", "exclude", "seen", "explore", "key", "min_version"} <= set(fields)
    answer = house.ask(user={"user": "ann"}).json()
    said = paths["/v1/recommend"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer) <= set(said["properties"])
    assert set(said["required"]) <= set(answer)


def test_health_tells_what_can_be_recommended(house) -> None:
    for _ in range(2):  # the second one reads what the first one logged
        house.ask(user={"user": "ann"})
    state = house.client.health()["recommend"]
    assert (state["items"], state["policy"], state["seen"]["users"]) == (20, "epsilon-greedy 0.2", 1)


def test_prometheus_is_told_too(house) -> None:
    house.ask(user={"user": "ann"})
    text = house.client.metrics()
    assert "headrace_items 20.0" in text
    assert 'headrace_seen{of="users"}' in text
    assert 'headrace_latency_seconds_count{endpoint="recommend"} 1.0' in text


def test_arms_recommend_with_their_own_models_and_are_logged(tmp_path) -> None:
    config = replace(CONFIG, recommend=RecommendConfig(explore=Greedy()))
    house = open_house(tmp_path, config=config, arms={"other": 0.5})
    answers = [house.ask(user={"user": "ann"}, key=f"r{n}").json() for n in range(40)]
    rows = house.logged()
    told = dict(zip(rows.column("key").to_pylist(), rows.column("arm").to_pylist(), strict=True))
    assert told == {answer["key"]: answer["arm"] for answer in answers}
    assert set(told.values()) == {"main", "other"}
    assert set(rows.column("arm_propensity").to_pylist()) == {0.5}
    house.close()


def test_actions_of_administrators_are_written_down(house, tmp_path) -> None:
    house.http.post("/v1/items/remove", json=["i1"])
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert any("/v1/items/remove" in line for line in lines)
    assert any("/v1/items" in line and "PUT" in line for line in lines)


SURROGATE = "\\ud800"  # half of a letter, as JSON can write it


@pytest.mark.parametrize(("path", "body"), [
    ("recommend", '{"filters": {"%s": 1}}'), ("recommend", '{"filters": {"brand": "%s"}}'),
    ("recommend", '{"exclude": ["%s"]}'), ("recommend", '{"key": "%s"}'), ("recommend", '{"user": {"user": "%s"}}'),
    ("recommend", '{"user": {"%s": 1}}'), ("items/remove", '["%s"]'), ("items", '[{"item": "%s"}]'),
    ("items", '[{"item": "a", "%s": 1}]'), ("items", '[{"item": "a", "x": "%s"}]'),
    ("recommend", '{"filters": {"a": ' + "[" * 900 + "]" * 900 + "}}"),
    ("recommend", '{"filters": {"a": ' + '{"a": ' * 300 + "1" + "}" * 300 + "}}"),
])  # fmt: skip
def test_text_that_is_none_and_bodies_that_are_nested_are_refused(house, path, body) -> None:
    send = house.http.put if path == "items" else house.http.post
    answer = send(f"/v1/{path}", content=body.replace("%s", SURROGATE), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert house.http.get("/v1/items").json()["items"] == 20
