from __future__ import annotations

import json

import httpx
import pyarrow as pa
import pytest

from headrace.errors import DataError, WorkerLost
from headrace.serve import Client
from headrace.types import Events


def answering(*answers: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> Client:
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, Exception):
            raise one
        return one

    return Client("http://test", transport=httpx.MockTransport(answer))


def test_a_ranking_comes_back_typed() -> None:
    seen: list[httpx.Request] = []
    content = {"key": "k", "version": 3, "scores": [0.1, 0.9], "order": [1, 0], "items": ["b", "a"]}
    client = answering(httpx.Response(200, json=content), seen=seen)
    ranked = client.rank([{"item": "a"}, {"item": "b"}], user={"user": "u"})
    assert (ranked.key, ranked.version, ranked.order, ranked.items) == ("k", 3, [1, 0], ["b", "a"])
    assert json.loads(seen[0].content) == {"candidates": [{"item": "a"}, {"item": "b"}], "user": {"user": "u"}}


def test_a_refusal_carries_its_four_parts() -> None:
    parts = {"what": "Field 'usr'", "got": "a field", "expected": "one of 'user'", "do": "Check the spelling."}
    with pytest.raises(DataError) as caught:
        answering(httpx.Response(400, json=parts)).feedback({"usr": 1})
    error = caught.value
    assert (error.what, error.got, error.expected, error.do) == tuple(parts.values())


AWAY = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.Response(503, json={})]


@pytest.mark.parametrize("answer", AWAY)
def test_a_server_that_cannot_answer_is_lost(answer: httpx.Response | Exception) -> None:
    with pytest.raises(WorkerLost):
        answering(answer).feedback({"key": "k"})


def test_an_error_that_is_no_json_is_told_by_its_status() -> None:
    with pytest.raises(WorkerLost, match="status 502"):
        answering(httpx.Response(502, text="<html>")).metrics()


def test_health_is_readable_before_the_first_version() -> None:
    assert answering(httpx.Response(503, json={"version": -1})).health() == {"version": -1}


def test_waiting_ends_with_the_first_version() -> None:
    states = [httpx.Response(503, json={"version": -1}), httpx.Response(200, json={"version": 0})]
    client = answering(httpx.ConnectError("no"), *states)
    assert client.wait_ready(5.0) == {"version": 0}


def test_waiting_in_vain_says_what_was_told_last() -> None:
    client = answering(httpx.Response(503, json={"version": -1, "status": "waiting for the first version"}))
    with pytest.raises(WorkerLost, match="waiting for the first version"):
        client.wait_ready(0.1)


def test_dictionary_columns_are_written_out() -> None:
    seen: list[httpx.Request] = []
    items = pa.array(["x"]).dictionary_encode()
    rows = Events.from_columns({"key": ["a"], "kind": ["click"], "event_time": [1], "item": items})
    answering(httpx.Response(202, json={"accepted": 1, "duplicates": 0}), seen=seen).feedback_events(rows)
    assert Events.from_bytes(seen[0].content).column("item").type == pa.string()


def test_a_shadow_read_is_asked_for_in_the_query() -> None:
    seen: list[httpx.Request] = []
    rows = Events.from_columns({"key": ["a"], "kind": ["x"], "event_time": [1]})
    answering(httpx.Response(200, content=rows.to_bytes()), seen=seen).rank_events(rows, log_impressions=False)
    assert seen[0].url.query == b"log_impressions=false"
