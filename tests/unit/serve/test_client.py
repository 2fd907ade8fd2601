from __future__ import annotations

import asyncio
import inspect
import json

import httpx
import pyarrow as pa
import pytest

from headrace.errors import ConfigError, DataError, VersionError, WorkerLost
from headrace.serve import AsyncClient, Client, ClientConfig
from headrace.types import Events


def answering(
    *answers: httpx.Response | Exception, seen: list[httpx.Request] | None = None, config: ClientConfig | None = None
) -> Client:
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, Exception):
            raise one
        return one

    settings = config or ClientConfig(wait_s=0.001)
    return Client("http://test", transport=httpx.MockTransport(answer), config=settings)


def test_a_ranking_comes_back_typed() -> None:
    seen: list[httpx.Request] = []
    content = {"key": "k", "version": 3, "scores": [0.1, 0.9], "order": [1, 0], "items": ["b", "a"]}
    client = answering(httpx.Response(200, json=content), seen=seen)
    ranked = client.rank([{"item": "a"}, {"item": "b"}], user={"user": "u"})
    assert (ranked.key, ranked.version, ranked.order, ranked.items) == ("k", 3, [1, 0], ["b", "a"])
    sent = json.loads(seen[0].content)
    assert sent.pop("key")  # so that a repeated call is the same request
    assert sent == {"candidates": [{"item": "a"}, {"item": "b"}], "user": {"user": "u"}}


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


TAKEN = httpx.Response(202, json={"accepted": 1, "duplicates": 0})
LATER = httpx.Response(503, json={"what": "Event log", "got": "much", "expected": "less", "do": "Again."})


@pytest.mark.parametrize("first", [httpx.ConnectError("no"), LATER, httpx.Response(429, json={})])
def test_a_call_is_repeated_while_the_server_is_behind(first: httpx.Response | Exception) -> None:
    seen: list[httpx.Request] = []
    assert answering(first, first, TAKEN, seen=seen).feedback({"key": "k"}) == {"accepted": 1, "duplicates": 0}
    assert len(seen) == 3
    assert len({request.content for request in seen}) == 1


def test_a_ranking_is_repeated_under_one_key() -> None:
    seen: list[httpx.Request] = []
    content = {"key": "k", "version": 3, "scores": [0.1], "order": [0], "items": ["a"]}
    answering(LATER, httpx.Response(200, json=content), seen=seen).rank([{"item": "a"}])
    assert json.loads(seen[0].content)["key"] == json.loads(seen[1].content)["key"]


def test_tries_end() -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(WorkerLost, match="much"):
        answering(LATER, seen=seen, config=ClientConfig(retries=2, wait_s=0.001)).feedback({"key": "k"})
    assert len(seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500])
def test_what_will_not_change_is_not_repeated(status: int) -> None:
    seen: list[httpx.Request] = []
    with pytest.raises((DataError, WorkerLost)):
        answering(httpx.Response(status, json={}), seen=seen).feedback({"key": "k"})
    assert len(seen) == 1


def test_what_the_server_says_to_wait_is_waited(monkeypatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("headrace.serve.client.time.sleep", waited.append)
    late = httpx.Response(503, json={}, headers={"retry-after": "7"})
    answering(late, TAKEN).feedback({"key": "k"})
    answering(httpx.Response(503, json={}, headers={"retry-after": "9999"}), TAKEN).feedback({"key": "k"})
    assert waited[0] == pytest.approx(7, abs=0.01)
    assert waited[1] <= 31


def ranking(version: int) -> httpx.Response:
    content = {"key": "k", "version": version, "scores": [0.1], "order": [0], "items": ["a"], "arm": "main"}
    return httpx.Response(200, json=content)


def test_a_version_that_is_not_there_yet_is_an_error_of_its_own() -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(VersionError):
        answering(httpx.Response(409, json={}), seen=seen).rank([{"item": "a"}], min_version=4)
    assert json.loads(seen[0].content)["min_version"] == 4
    assert len(seen) == 1


def test_a_monotonic_client_never_goes_back() -> None:
    seen: list[httpx.Request] = []
    config = ClientConfig(monotonic=True, wait_s=0.001)
    client = answering(ranking(5), httpx.Response(409, json={}), ranking(6), seen=seen, config=config)
    assert [client.rank([{"item": "a"}]).version for _ in range(2)] == [5, 6]
    asked = [json.loads(request.content).get("min_version") for request in seen]
    assert asked == [None, 5, 5]


def test_a_token_is_sent_and_shown_nowhere(monkeypatch) -> None:
    seen: list[httpx.Request] = []
    answering(TAKEN, seen=seen, config=ClientConfig(token="secret", plain_http=True)).feedback({"key": "k"})
    monkeypatch.setenv("HEADRACE_TOKEN", "other")
    answering(TAKEN, seen=seen, config=ClientConfig(plain_http=True)).feedback({"key": "k"})
    assert [request.headers["authorization"] for request in seen] == ["Bearer secret", "Bearer other"]
    client = Client("https://example.test", token="secret")
    assert "secret" not in repr(client) + repr(client.config) + str(vars(client))


def test_a_token_does_not_go_over_an_open_line() -> None:
    with pytest.raises(ConfigError, match="https"):
        Client("http://example.test", token="secret")
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://example.test"):
        Client(url, token="secret").close()


def test_further_labels_come_back() -> None:
    content = {"key": "k", "version": 3, "scores": [0.1], "order": [0], "items": ["a"], "label_scores": {"buy": [0.2]},
               "scores_logged": [None]}  # fmt: skip
    ranked = answering(httpx.Response(200, json=content)).rank([{"item": "a"}])
    assert (ranked.label_scores, ranked.scores_logged, ranked.arm) == ({"buy": [0.2]}, [None], "")


def test_a_user_is_named_in_the_path_whatever_the_name() -> None:
    seen: list[httpx.Request] = []
    answering(httpx.Response(202, json={"number": 1}), seen=seen).erase("a/b?c%ü")
    assert seen[0].method == "DELETE"
    assert seen[0].url.raw_path == b"/v1/users/a%2Fb%3Fc%25%C3%BC"


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, str]:
        found = {name: member for name, member in vars(kind).items() if callable(member) and name[0] != "_"}
        return {name: str(inspect.signature(member)) for name, member in found.items()}

    assert calls(Client) == calls(AsyncClient)
    assert all(inspect.iscoroutinefunction(getattr(AsyncClient, name)) for name in calls(AsyncClient))


def test_the_asynchronous_client_repeats_and_types_as_the_other() -> None:
    healthy = httpx.Response(200, json={"version": 3})
    left = [httpx.ConnectError("no"), httpx.Response(503, json={}), ranking(3), healthy]

    def answer(request: httpx.Request) -> httpx.Response:
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    async def ask() -> None:
        config = ClientConfig(wait_s=0.001)
        async with AsyncClient("http://test", transport=httpx.MockTransport(answer), config=config) as client:
            assert (await client.rank([{"item": "a"}])).version == 3
            assert await client.wait_ready(1.0) == {"version": 3}
            left.append(httpx.Response(400, json={"what": "Field", "got": "x"}))
            with pytest.raises(DataError, match="Field"):
                await client.feedback({"key": "k"})

    asyncio.run(ask())
