from __future__ import annotations

import json
import random

import httpx
import pyarrow as pa
import pytest

from headrace.serve import ServeConfig
from headrace.types import Events

ARROW = "application/vnd.apache.arrow.stream"
REQUEST = {
    "key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "event_time": 5_000_000,
    "candidates": [{"item": "a", "tags": ["x", "y"]}, {"item": "b", "price": 99.5}, {"item": "c"}],
}  # fmt: skip


def post(house, path: str, body: object, **more: object) -> httpx.Response:
    return house.http.post(path, json=body, **more)


WRONG_RANK = {
    "no JSON": b"{",
    "not an object": b"[1, 2]",
    "text": b'"rank"',
    "NaN": b'{"candidates": [{"item": "a", "price": NaN}]}',
    "too large a number": b'{"candidates": [{"item": "a", "user": "u", "city": 1, "price": 1e999}]}',
    "too large an integer": b'{"candidates": [{"item": "a", "city": 99999999999999999999, "price": 1}]}',
    "half a surrogate": b'{"candidates": [{"item": "\\ud800"}]}',
    "half a surrogate as key": b'{"key": "\\ud800", "candidates": [{"item": "a"}]}',
    "not UTF-8": b'{"key": "\xff\xfe"}',
    "nested too deep": b"[" * 100_000,
    "unknown field": {"candidate": []},
    "no candidates": {"user": {}},
    "empty candidates": {"candidates": []},
    "candidate is text": {"candidates": ["a"]},
    "user is a list": REQUEST | {"user": []},
    "unknown feature": REQUEST | {"user": {"usr": "u1"}},
    "item missing": REQUEST | {"candidates": [{"price": 1.0}]},
    "item null": REQUEST | {"candidates": [{"item": None}]},
    "item empty": REQUEST | {"candidates": [{"item": ""}]},
    "item twice": REQUEST | {"candidates": [{"item": "a"}, {"item": "a"}]},
    "item is a number": REQUEST | {"candidates": [{"item": 1}]},
    "items of two kinds": REQUEST | {"candidates": [{"item": 1}, {"item": "a"}]},
    "feature of another type": REQUEST | {"context": {"city": 1.5, "price": 1}},
    "feature is an object": REQUEST | {"context": {"city": {"a": 1}, "price": 1}},
    "feature is true": REQUEST | {"context": {"city": True, "price": 1}},
    "lists in lists": REQUEST | {"candidates": [{"item": "a", "tags": [["x"]]}]},
    "tags of two kinds": REQUEST | {"candidates": [{"item": "a", "tags": ["x", 1]}]},
    "a required feature missing": {"candidates": [{"item": "a"}], "user": {"user": "u"}},
    "key is a number": REQUEST | {"key": 5},
    "key too long": REQUEST | {"key": "k" * 2000},
    "time is text": REQUEST | {"event_time": "now"},
    "time is negative": REQUEST | {"event_time": -1},
    "time is in the future": REQUEST | {"event_time": 2**62},
    "log_impressions is text": REQUEST | {"log_impressions": "no"},
}


@pytest.mark.parametrize("name", WRONG_RANK)
def test_a_wrong_request_is_refused_in_four_parts_and_nothing_is_logged(shared, name: str) -> None:
    body = WRONG_RANK[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    before = shared.log.end("events")
    answer = shared.http.post("/v1/rank", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"what", "got", "expected", "do"}
    assert answer.json()["what"]
    assert answer.json()["expected"]
    assert shared.log.end("events") == before


def test_a_misspelt_feature_names_the_nearest(shared) -> None:
    assert "'user'" in post(shared, "/v1/rank", REQUEST | {"user": {"usr": "u1"}}).json()["expected"]


WRONG_FEEDBACK = {
    "no JSON": b"click",
    "empty list": [],
    "number": 5,
    "no key": {"kind": "click", "item": "a"},
    "no item": {"key": "r", "kind": "click"},
    "no kind": {"key": "r", "item": "a"},
    "kind of a row": {"key": "r", "kind": "impression", "item": "a"},
    "unknown field": {"key": "r", "kind": "click", "item": "a", "user": "u"},
    "value is text": {"key": "r", "kind": "click", "item": "a", "value": "5"},
    "value too large": {"key": "r", "kind": "click", "item": "a", "value": 1e300},
    "time is a fraction": {"key": "r", "kind": "click", "item": "a", "event_time": 1.5},
    "one of many is wrong": [{"key": "r", "kind": "click", "item": "a"}, {"key": "r", "kind": "click"}],
}


@pytest.mark.parametrize("name", WRONG_FEEDBACK)
def test_wrong_feedback_is_refused_and_nothing_is_logged(shared, name: str) -> None:
    body = WRONG_FEEDBACK[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    before = shared.log.end("events")
    answer = shared.http.post("/v1/feedback", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"what", "got", "expected", "do"}
    assert shared.log.end("events") == before


def mutated(draw: random.Random, content: bytes) -> bytes:
    way = draw.randrange(5)
    body = bytearray(content)
    if way == 0:
        return bytes(body[: draw.randrange(len(body))])
    if way == 1:
        return bytes(draw.randrange(256) for _ in range(draw.randrange(300)))
    if way == 2:
        place = draw.randrange(len(body))
        return bytes(body[:place] + body[place : place + 40] * 3 + body[place:])
    for _ in range(draw.randrange(1, 10)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return bytes(body)


@pytest.mark.parametrize("kind", ["application/json", ARROW])
@pytest.mark.parametrize("path", ["/v1/rank", "/v1/feedback"])
def test_malformed_bodies_never_break_the_server(shared, make_requests, kind: str, path: str) -> None:
    draw = random.Random(f"{kind}{path}")
    actions = Events.from_columns({"key": ["1"] * 2, "kind": ["click"] * 2, "event_time": [1, 2], "item": ["a", "b"]})
    good = {
        ("application/json", "/v1/rank"): json.dumps(REQUEST).encode(),
        ("application/json", "/v1/feedback"): b'[{"key": "r", "kind": "click", "item": "a", "value": 1.5}]',
        (ARROW, "/v1/rank"): make_requests(4).to_bytes(),
        (ARROW, "/v1/feedback"): actions.to_bytes(),
    }[kind, path]
    refused = 0
    for _ in range(150):
        before = shared.log.end("events")
        answer = shared.http.post(path, content=mutated(draw, good), headers={"content-type": kind})
        assert answer.status_code in (200, 202, 400), answer.text
        if answer.status_code == 400:
            refused += 1
            assert set(answer.json()) == {"what", "got", "expected", "do"}
            assert shared.log.end("events") == before
    assert refused > 75
    assert shared.http.get("/v1/health").status_code == 200


ARROW_WRONG = {
    "no rows": lambda events: Events(events.batch.slice(0, 0)).to_bytes(),
    "no key": lambda events: stream(pa.Table.from_batches([events.batch]).drop_columns(["key"])),
    "key is a number": lambda events: stream(replaced(events, "key", pa.array(range(len(events))))),
    "null key": lambda events: stream(replaced(events, "key", pa.array([None] * len(events), pa.string()))),
    "time is a float": lambda events: stream(replaced(events, "event_time", pa.array([1.0] * len(events)))),
    "null time": lambda events: stream(replaced(events, "event_time", pa.array([None] * len(events), pa.int64()))),
    "pair twice": lambda events: Events.concat([events, events]).to_bytes(),
    "price is text": lambda events: stream(replaced(events, "price", pa.array(["1"] * len(events)))),
    "price is NaN": lambda events: stream(replaced(events, "price", pa.array([float("nan")] * len(events)))),
    "price beyond a float": lambda events: stream(replaced(events, "price", pa.array([2**60 + 1] * len(events)))),
    "no price": lambda events: stream(pa.Table.from_batches([events.batch]).drop_columns(["price"])),
    "user is a struct": lambda events: stream(replaced(events, "user", pa.array([{"a": 1}] * len(events)))),
    "dictionary": lambda events: stream(replaced(events, "user", events.column("user").dictionary_encode())),
    "compressed": lambda events: stream(pa.Table.from_batches([events.batch]), compression="zstd"),
    "no stream": lambda events: b"ARROW1",
    "empty": lambda events: b"",
}


def replaced(events: Events, name: str, column: pa.Array) -> pa.Table:
    table = pa.Table.from_batches([events.batch])
    return table.set_column(table.column_names.index(name), name, column)


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", ARROW_WRONG)
def test_wrong_arrow_is_refused_and_nothing_is_logged(shared, make_requests, name: str) -> None:
    before = shared.log.end("events")
    body = ARROW_WRONG[name](make_requests(6))
    answer = shared.http.post("/v1/rank", content=body, headers={"content-type": ARROW})
    assert answer.status_code == 400
    assert set(answer.json()) == {"what", "got", "expected", "do"}
    assert shared.log.end("events") == before


def test_one_column_is_logged_with_one_type(house) -> None:
    """`city` accepts strings and integers; what was logged first decides, else the log could not be joined."""
    post(house, "/v1/rank", REQUEST)
    other = REQUEST | {"key": "r2", "context": {"city": "seven", "price": 1.0}}
    answer = post(house, "/v1/rank", other)
    assert answer.status_code == 400
    assert "city" in answer.json()["what"]
    assert len(house.logged()) == 3
    assert post(house, "/v1/rank", other | {"log_impressions": False}).status_code == 400


def test_the_type_of_a_column_is_known_after_a_restart(make_house) -> None:
    first = make_house(name="same")
    post(first, "/v1/rank", REQUEST)
    first.close()
    again = make_house(name="same")
    other = REQUEST | {"key": "r2", "context": {"city": "seven", "price": 1.0}}
    assert post(again, "/v1/rank", other).status_code == 400


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_long_is_refused(make_house, declared: bool) -> None:
    house = make_house(ServeConfig(max_body_bytes=1000))
    body = b" " * 5000

    def pieces():
        yield from (body[start : start + 500] for start in range(0, 5000, 500))

    answer = house.http.post(
        "/v1/rank", content=body if declared else pieces(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["expected"] == "at most 1000"


def test_too_many_rows_are_refused(make_house, make_requests) -> None:
    house = make_house(ServeConfig(max_rows=10))
    content = make_requests(11).to_bytes()
    assert house.http.post("/v1/rank", content=content, headers={"content-type": ARROW}).status_code == 400
    candidates = [{"item": str(n)} for n in range(11)]
    assert post(house, "/v1/rank", REQUEST | {"candidates": candidates}).status_code == 400
    clicks = [{"key": str(n), "kind": "click", "item": "a"} for n in range(11)]
    assert post(house, "/v1/feedback", clicks).status_code == 400
    assert house.log.end("events") == 0


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/v1/rank", "text/plain", 415), ("POST", "/v1/rank", "", 415), ("GET", "/v1/rank", "", 405),
        ("POST", "/v1/health", "application/json", 405), ("GET", "/nothing", "", 404),
        ("POST", "/v1/rank?log_impressions=maybe", "application/json", 400),
    ],
)  # fmt: skip
def test_other_mistakes_have_the_same_four_parts(shared, method: str, path: str, kind: str, status: int) -> None:
    content = json.dumps(REQUEST).encode() if method == "POST" else None
    answer = shared.http.request(method, path, content=content, headers={"content-type": kind} if kind else {})
    assert answer.status_code == status
    assert set(answer.json()) == {"what", "got", "expected", "do"}
