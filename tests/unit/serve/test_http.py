from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.serve import ServeConfig
from headrace.types import Events

ARROW = "application/vnd.apache.arrow.stream"
REQUEST = {
    "key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "event_time": 5_000_000,
    "candidates": [{"item": "a", "tags": ["x", "y"]}, {"item": "b", "price": 99.5}, {"item": "c"}],
}  # fmt: skip


def post(house, path: str, body: object, **more: object) -> httpx.Response:
    return house.http.post(path, json=body, **more)


def test_candidates_are_scored_and_ordered(house) -> None:
    answer = post(house, "/v1/rank", REQUEST)
    content = answer.json()
    assert answer.status_code == 200
    assert (content["key"], content["version"]) == ("r1", 0)
    assert len(content["scores"]) == 3
    assert all(0 < score < 1 for score in content["scores"])
    assert content["order"] == sorted(range(3), key=lambda place: -content["scores"][place])
    assert content["items"] == [REQUEST["candidates"][place]["item"] for place in content["order"]]


def test_an_impression_is_in_the_log_before_it_is_answered(house) -> None:
    content = post(house, "/v1/rank", REQUEST).json()
    rows = house.logged()
    assert rows.column("item").to_pylist() == ["a", "b", "c"]
    assert set(rows.column("key").to_pylist()) == {"r1"}
    assert set(rows.column("kind").to_pylist()) == {"impression"}
    assert set(rows.column("event_time").to_pylist()) == {5_000_000}
    assert rows.column("score").to_pylist() == pytest.approx(content["scores"], abs=0)
    assert set(rows.column("version").to_pylist()) == {0}
    assert rows.column("price").to_pylist() == [10.0, 99.5, 10.0]  # the candidate's own value goes first
    assert rows.column("tags").to_pylist() == [["x", "y"], None, None]
    assert abs(rows.column("accepted_time")[0].as_py() - time.time() * 1e6) < 10e6


def test_json_and_arrow_give_the_same_scores(house, make_requests) -> None:
    requests = make_requests(5)
    arrow = house.client.rank_events(requests)
    rows = requests.batch.select(["item", "user", "city", "tags", "price"]).to_pylist()
    content = post(house, "/v1/rank", {"key": "other", "candidates": rows}).json()
    assert arrow.column("score").to_pylist() == pytest.approx(content["scores"], abs=0)


def test_arrow_rows_of_several_requests_are_answered_in_order(house, make_requests) -> None:
    requests = make_requests(50, position=True)
    answer = house.client.rank_events(requests)
    assert answer.column("key").equals(requests.column("key"))
    assert answer.column("item").equals(requests.column("item"))
    assert {"score", "version", "score_logged"} <= set(answer.names)
    logged = house.logged()
    assert logged.column("score_logged").equals(answer.column("score_logged"))
    assert logged.column("position").equals(requests.column("position"))


def test_columns_that_the_schema_does_not_name_are_left_out(house, make_requests) -> None:
    requests = make_requests(3).with_columns({"secret": pa.array(["x"] * 3), "label": pa.array([1.0] * 3)})
    assert len(house.client.rank_events(requests)) == 3
    assert not {"secret", "label"} & set(house.logged().names)


@pytest.mark.parametrize("way", ["field", "query", "arrow", "config"])
def test_a_shadow_read_leaves_no_trace(make_house, make_requests, way: str) -> None:
    house = make_house(ServeConfig(log_impressions=way != "config"))
    if way == "field":
        post(house, "/v1/rank", REQUEST | {"log_impressions": False})
    elif way == "query":
        post(house, "/v1/rank?log_impressions=false", REQUEST)
    elif way == "arrow":
        house.client.rank_events(make_requests(3), log_impressions=False)
    else:
        post(house, "/v1/rank", REQUEST)
    assert house.log.end("events") == 0


def test_a_request_without_key_and_time_gets_them(house) -> None:
    body = {name: value for name, value in REQUEST.items() if name not in ("key", "event_time")}
    keys = {post(house, "/v1/rank", body).json()["key"] for _ in range(2)}
    assert len(keys) == 2
    rows = house.logged()
    assert set(rows.column("key").to_pylist()) == keys
    assert all(abs(moment - time.time() * 1e6) < 10e6 for moment in rows.column("event_time").to_pylist())


def test_the_shown_place_is_filled_in_where_it_is_not_known(make_house) -> None:
    house = make_house(ServeConfig(position="position"))
    order = post(house, "/v1/rank", REQUEST).json()["order"]
    places = house.logged().column("position").to_pylist()
    assert [places[place] for place in order] == [1, 2, 3]


def test_a_known_place_stays(make_house, make_requests) -> None:
    house = make_house(ServeConfig(position="position"))
    requests = make_requests(20, position=True)
    house.client.rank_events(requests)
    assert house.logged().column("position").equals(requests.column("position"))


def test_feedback_is_durable_when_it_is_accepted(house) -> None:
    answer = post(house, "/v1/feedback", {"key": "r1", "kind": "click", "item": "a", "event_time": 6, "value": 2.5})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0})
    [row] = house.logged().batch.to_pylist()
    assert abs(row.pop("accepted_time") - time.time() * 1e6) < 10e6
    assert row == {"key": "r1", "kind": "click", "event_time": 6, "item": "a", "value": 2.5}


def test_repeated_feedback_is_taken_once(house) -> None:
    click = {"key": "r1", "kind": "click", "item": "a"}
    assert house.client.feedback(click, click) == {"accepted": 1, "duplicates": 1}
    assert house.client.feedback(click, click | {"kind": "buy"}) == {"accepted": 1, "duplicates": 1}
    assert len(house.logged()) == 2


def test_feedback_is_recognised_after_a_restart(make_house) -> None:
    first = make_house(name="same")
    first.client.feedback({"key": "r1", "kind": "click", "item": "a"})
    first.close()
    again = make_house(name="same")
    assert again.client.feedback({"key": "r1", "kind": "click", "item": "a"}) == {"accepted": 0, "duplicates": 1}


def test_feedback_comes_as_one_as_a_list_as_an_object_and_as_arrow(house) -> None:
    click = {"kind": "click", "item": "a"}
    assert post(house, "/v1/feedback", click | {"key": "1"}).json()["accepted"] == 1
    assert post(house, "/v1/feedback", [click | {"key": "2"}, click | {"key": "3"}]).json()["accepted"] == 2
    assert post(house, "/v1/feedback", {"events": [click | {"key": "4"}]}).json()["accepted"] == 1
    rows = Events.from_columns({"key": ["5", "6"], "kind": ["click"] * 2, "event_time": [1, 2], "item": ["a", "b"],
                                "price": [1, 2]})  # fmt: skip
    assert house.client.feedback_events(rows) == {"accepted": 2, "duplicates": 0}
    assert house.logged().column("key").to_pylist() == ["1", "2", "3", "4", "5", "6"]
    assert "price" not in house.logged().names


def test_before_the_first_version_the_server_says_so(make_house) -> None:
    house = make_house(first=False)
    health = house.http.get("/v1/health")
    assert (health.status_code, health.json()["version"]) == (503, -1)
    answer = post(house, "/v1/rank", REQUEST)
    assert answer.status_code == 503
    assert "no version yet" in answer.json()["got"]
    assert house.log.end("events") == 0
    assert post(house, "/v1/feedback", {"key": "r", "kind": "click", "item": "a"}).status_code == 202


def wait_for(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_new_versions_are_served_and_measured(house, make_change) -> None:
    now = int(time.time() * 1e6)
    positives, negatives = torch.tensor([now - 2_000_000] * 10), torch.tensor([now - 60_000_000])
    notes = {"accepted_times": positives, "negative_accepted_times": negatives}
    house.publisher.publish(make_change(1, notes=notes))
    wait_for(lambda: house.client.health()["version"] == 1)
    health = house.client.health()
    assert (health["published"], health["lag_versions"], health["status"]) == (1, 0, "ok")
    assert health["learner"]["alive"] is True
    fresh = health["freshness"]["positives"]
    assert fresh["count"] == 10
    assert 2.0 <= fresh["p50_s"] <= fresh["p99_s"] < 8.0
    assert 60.0 <= health["freshness"]["negatives"]["p50_s"] < 70.0
    assert post(house, "/v1/rank", REQUEST).json()["version"] == 1


def test_metrics_tell_what_happened(house, make_change) -> None:
    now = int(time.time() * 1e6)
    house.publisher.publish(make_change(1, notes={"accepted_times": torch.tensor([now])}))
    wait_for(lambda: house.client.health()["version"] == 1)
    post(house, "/v1/rank", REQUEST)
    post(house, "/v1/rank", {"wrong": 1})
    house.client.feedback({"key": "r1", "kind": "click", "item": "a"}, {"key": "r1", "kind": "click", "item": "a"})
    text = house.client.metrics()
    for line in (
        'headrace_requests_total{endpoint="rank",status="200"} 1.0',
        'headrace_requests_total{endpoint="rank",status="400"} 1.0',
        "headrace_rows_scored_total 3.0", "headrace_version 1.0", "headrace_version_lag 0.0",
        'headrace_feedback_total{outcome="accepted"} 1.0', 'headrace_feedback_total{outcome="duplicate"} 1.0',
        'headrace_latency_seconds_count{endpoint="rank"} 1.0', "headrace_freshness_seconds_count 1.0",
        'headrace_table_rows{table="user"} 8.0', "headrace_logged_rows 4.0",
    ):  # fmt: skip
        assert line in text, line
    assert 'headrace_table_bytes{table="user"}' in text
    assert 'headrace_freshness_seconds_bucket{le="10.0"} 1.0' in text


def test_serving_goes_on_while_the_learner_is_dead(make_house) -> None:
    house = make_house(ServeConfig(learner_timeout_s=0.05))
    time.sleep(0.1)
    assert house.client.health()["learner"]["alive"] is False
    assert post(house, "/v1/rank", REQUEST).status_code == 200
    assert house.client.health()["status"] == "ok"


def test_a_version_that_cannot_be_served_leaves_the_old_one_serving(house, make_change) -> None:
    house.publisher.publish(make_change(1, spec={"schema": "another"}))
    wait_for(lambda: "error" in house.client.health())
    health = house.client.health()
    assert (health["status"], health["version"], health["lag_versions"]) == ("serving an old version", 0, 1)
    assert "another" in health["error"]
    assert post(house, "/v1/rank", REQUEST).json()["version"] == 0


def test_concurrent_requests_share_commits_and_all_are_logged(house, make_requests) -> None:
    parts = [make_requests(10, seed=seed).with_columns({"key": pa.array([f"k{seed}"] * 10)}) for seed in range(120)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(house.client.rank_events, parts))
    rows = house.logged()
    assert len(rows) == 1200
    stored = {(r["key"], r["item"]): r["score"] for r in rows.batch.select(["key", "item", "score"]).to_pylist()}
    for answer in answers:
        for row in answer.batch.select(["key", "item", "score"]).to_pylist():
            assert stored[row["key"], row["item"]] == row["score"]
    assert house.service.writer.commits < 120
    times = np.asarray(rows.column("accepted_time").to_numpy())
    assert (np.diff(times) >= 0).all()


def test_a_shutdown_loses_nothing_that_was_answered(make_house, make_requests) -> None:
    house = make_house()
    answered: list[str] = []
    begun = threading.Event()

    def ask(seed: int) -> None:
        for turn in range(200):
            key = f"{seed}-{turn}"
            try:
                house.client.rank_events(make_requests(5).with_columns({"key": pa.array([key] * 5)}))
            except Exception:  # noqa: BLE001  the server is gone
                return
            answered.append(key)
            if len(answered) > 20:
                begun.set()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    house.stop.set()
    house.thread.join(20)
    for thread in threads:
        thread.join(20)
    assert not house.thread.is_alive()
    reopened = EmbeddedLog(house.log.path, durability="process")
    keys = {key for entry in reopened.read("events", 0, limit=10_000) for key in entry.events.column("key").to_pylist()}
    assert len(answered) > 20
    assert set(answered) <= keys


def test_a_full_disk_is_503_and_nothing_is_half_done(house) -> None:
    post(house, "/v1/rank", REQUEST)
    house.log.limit_bytes(1)
    answer = post(house, "/v1/rank", REQUEST | {"key": "r2"})
    while answer.status_code == 200:  # pages that are free already take a little
        answer = post(house, "/v1/rank", REQUEST | {"key": "r2", "user": {"user": "u" * 5000}})
    assert answer.status_code == 503
    assert set(answer.json()) == {"what", "got", "expected", "do"}
    assert answer.headers["retry-after"] == "1"
    house.log.limit_bytes(1 << 40)
    assert post(house, "/v1/rank", REQUEST | {"key": "r3"}).status_code == 200


def test_the_event_log_can_be_joined(house, make_requests) -> None:
    """Everything that is logged has one type per column, whatever body it came in."""
    house.client.rank_events(make_requests(5))
    post(house, "/v1/rank", REQUEST)
    post(house, "/v1/feedback", {"key": "r1", "kind": "click", "item": "a", "value": 1})
    kinds: dict[str, pa.DataType] = {}
    for entry in house.log.read("events", 0):
        for field in entry.events.batch.schema:
            assert kinds.setdefault(field.name, field.type) == field.type
    assert {"key", "kind", "event_time", "item", "score", "version", "accepted_time", "value"} <= set(kinds)
