"""Asking and answering over HTTP: the bodies, the refusals, and the addresses that are there or not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pyarrow as pa
import pytest

from headrace.data.log import EmbeddedLog
from headrace.errors import SchemaError
from headrace.feedback import QueryBudget
from headrace.serve import Asking, Client, QuestionConfig, QuestionPool, create_app, run_server
from headrace.serve.question_bodies import parse_count, read_answers

ARROW = "application/vnd.apache.arrow.stream"


def table(rows: int) -> pa.Table:
    return pa.table({
        "item": [f"i{row}" for row in range(rows)], "user": ["u1"] * rows, "city": [7] * rows,
        "price": [1.0 * row for row in range(rows)], "photo": [f"{row}.jpg" for row in range(rows)],
    })  # fmt: skip


@contextmanager
def serving(app) -> Iterator[str]:
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(target=run_server, args=(app,), kwargs={"port": 0, "on_ready": ready.put, "stop": stop})
    thread.start()
    yield ready.get(timeout=20)
    stop.set()
    thread.join(20)


@pytest.fixture
def opened(make_predictor, make_change, schema, tmp_path):
    predictor = make_predictor()
    predictor.apply(make_change(0))
    log = EmbeddedLog(tmp_path / "events.db", durability="process")
    asking = Asking(QuestionPool(table(6), schema, ("photo",)), QuestionConfig(strategy="top", answers=("cat", "dog")))
    app = create_app(predictor, log, asking=asking)
    with serving(app) as url, Client(url) as client, httpx.Client(base_url=url, trust_env=False) as http:
        yield http, client, log


def test_questions_are_asked_and_answered(opened) -> None:
    http, client, log = opened
    asked = http.get("/v1/questions", params={"count": 2, "annotator": "ann"}).json()
    assert asked["answers"] == ["cat", "dog", "skip"]
    assert asked["status"]["open"] == 2
    first, second = asked["questions"]
    assert set(first) == {"key", "item", "task", "shown", "score", "chance", "version"}
    assert (set(first["shown"]), first["version"], first["task"]) == ({"photo"}, 0, "all")
    response = http.post("/v1/answers", json={"key": first["key"], "answer": "cat"})
    assert (response.status_code, response.json()) == (202, {"accepted": 1, "duplicates": 0})
    bodies = [{"key": first["key"], "answer": "cat"}, {"key": second["key"], "answer": "dog", "annotator": "bob"}]
    assert client.answer(*bodies) == {"accepted": 1, "duplicates": 1}
    assert http.post("/v1/answers", json={"answers": bodies}).json() == {"accepted": 0, "duplicates": 2}
    rows = [row for entry in log.read("events", 0, limit=99) for row in entry.events.batch.to_pylist()]
    assert [(row["kind"], row["key"] == first["key"]) for row in rows if row["kind"] != "question"] == [
        ("impression", True), ("click", True), ("impression", False),
    ]  # fmt: skip
    assert client.health()["questions"]["answered"] == 2
    assert 'headrace_questions{state="answered"} 2.0' in client.metrics()
    assert 'headrace_requests_total{endpoint="answers",status="202"}' in client.metrics()


QUERIES = [{"count": "0"}, {"count": "-1"}, {"count": "many"}, {"count": "9" * 30}, {"task": "other"}, {"tusk": "a"},
           {"annotator": "a" * 2000}, {"annotator": "\n"}]  # fmt: skip
BODIES = [
    b"{", b"[]", b'"yes"', b"[1]", b'{"key": "k"}', b'{"key": "k", "answer": 1}', b'{"key": "k", "answer": "cat"}',
    b'{"key": "k", "answer": "cat", "who": "x"}', b'{"answers": {}}', b'{"key": "\\ud800", "answer": "cat"}',
    b'{"key": "' + b"k" * 2000 + b'", "answer": "cat"}', b"[" * 100_000,
]  # fmt: skip


def test_what_is_wrong_is_refused_whole(opened) -> None:
    http, client, _ = opened
    before, json = client.health()["questions"], {"content-type": "application/json"}
    responses = [http.get("/v1/questions", params=query) for query in QUERIES]
    responses += [http.post("/v1/answers", content=body, headers=json) for body in BODIES]
    assert [response.status_code for response in responses] == [400] * len(responses)
    assert all(set(response.json()) == {"what", "got", "expected", "do"} for response in responses)
    assert client.health()["questions"] == before


def test_answers_come_as_json(opened) -> None:
    http = opened[0]
    assert http.post("/v1/answers", content=b"", headers={"content-type": ARROW}).status_code == 415
    assert http.get("/v1/answers").status_code == 405
    assert http.post("/v1/questions").status_code == 405


def test_without_a_pool_nobody_is_asked(house) -> None:
    assert house.http.get("/v1/questions").status_code == 404
    assert house.http.post("/v1/answers", json={"key": "k", "answer": "yes"}).status_code == 404
    assert "questions" not in house.client.health()


def test_without_a_version_nobody_can_be_asked_yet(make_predictor, schema, tmp_path) -> None:
    asking = Asking(QuestionPool(table(1), schema), QuestionConfig(budget=QueryBudget(questions=1)))
    app = create_app(make_predictor(), EmbeddedLog(tmp_path / "e.db", durability="process"), asking=asking)
    with serving(app) as url:
        response = httpx.get(f"{url}/v1/questions", trust_env=False)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_bodies_are_read_without_a_server() -> None:
    assert [parse_count(text) for text in (None, "3")] == [1, 3]
    assert read_answers(b'{"key": "k", "answer": "yes"}', 1)[0].annotator == ""
    with pytest.raises(SchemaError, match="1 to 1"):
        read_answers(b'[{"key": "k", "answer": "yes"}, {"key": "l", "answer": "yes"}]', 1)
