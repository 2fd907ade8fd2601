"""Tokens, limits, audit lines, readiness and the document, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.data.log import EmbeddedLog
from headrace.errors import DataError
from headrace.serve import (
    AccessConfig,
    AuditLog,
    Client,
    ClientConfig,
    ServeConfig,
    TokenBook,
    create_app,
    make_token,
)
from headrace.serve.door import ADMIN, Refusal
from headrace.serve.openapi import Operation

REQUEST = {"key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "candidates": [{"item": "a"}]}
CLICK = {"key": "r1", "kind": "click", "item": "a"}


@dataclass
class Guarded:
    """A server in this process, and headers for each kind of bearer."""

    app: object
    log: EmbeddedLog
    audit: AuditLog
    bearers: dict[str, dict[str, str]]

    @asynccontextmanager
    async def client(self, *, raising: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 5), raise_app_exceptions=raising)
        outside = httpx.AsyncClient(transport=transport, base_url="http://test")
        async with self.app.router.lifespan_context(self.app), outside as client:
            yield client


@pytest.fixture
def guard(tmp_path: Path, make_predictor, make_change):
    def make(config: ServeConfig | None = None, **access: object) -> Guarded:
        made = {name: make_token(name, scopes.split()) for name, scopes in {
            "reader": "read", "web": "read feedback", "ops": "admin"}.items()}  # fmt: skip
        log = EmbeddedLog(tmp_path / "run" / "events.db", durability="process")
        predictor = make_predictor()
        predictor.apply(make_change(0))
        book = TokenBook([token for _, token in made.values()])
        app = create_app(predictor, log, config, access=AccessConfig(tokens=book, **access))
        bearers = {name: {"authorization": f"Bearer {secret}"} for name, (secret, _) in made.items()}
        return Guarded(app, log, AuditLog(tmp_path / "run" / "audit.jsonl"), {"nobody": {}, **bearers})

    return make


WAYS = [("GET", "/v1/live", None), ("GET", "/v1/ready", None), ("GET", "/v1/health", None), ("GET", "/metrics", None),
        ("GET", "/openapi.json", None), ("POST", "/v1/rank", REQUEST), ("POST", "/v1/feedback", CLICK)]  # fmt: skip
ALLOWED = {
    "nobody": {"/v1/live", "/v1/ready"},
    "reader": {"/v1/live", "/v1/ready", "/v1/health", "/metrics", "/openapi.json", "/v1/rank"},
    "web": {path for _, path, _ in WAYS},
    "ops": {"/v1/live", "/v1/ready"},
}


async def ready(client: httpx.AsyncClient) -> None:
    for _ in range(400):
        if (await client.get("/v1/ready")).status_code == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never ready")


def test_every_address_opens_to_its_scope_only(guard) -> None:
    house = guard()

    async def ask() -> None:
        async with house.client() as client:
            await ready(client)
            for bearer, headers in house.bearers.items():
                for method, path, body in WAYS:
                    answer = await client.request(method, path, json=body, headers=headers)
                    refused = 401 if bearer == "nobody" else 403
                    wanted = {200, 202} if path in ALLOWED[bearer] else {refused}
                    assert answer.status_code in wanted, (bearer, path, answer.text)
                    assert answer.headers["cache-control"] == "no-store"
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    if answer.status_code == refused:
                        assert set(answer.json()) == {"what", "got", "expected", "do"}

    asyncio.run(ask())
    assert house.log.rows("events") == 3  # a ranking of the reader, one of the web, and its click


def test_a_token_is_asked_for_before_the_body_is_read(guard) -> None:
    house, sent = guard(), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 1000

    async def ask() -> int:
        async with house.client() as client:
            return (await client.post("/v1/rank", content=endless())).status_code

    assert asyncio.run(ask()) == 401


def test_no_token_reaches_a_log_or_an_answer(guard, caplog) -> None:
    house = guard()
    secret = house.bearers["web"]["authorization"].removeprefix("Bearer ")

    async def boom(request: Request) -> Response:
        raise RuntimeError("boom")

    house.app.router.routes.append(Route("/boom", house.app.state.door.counted("boom", boom, "read")))

    async def ask() -> list[httpx.Response]:
        async with house.client(raising=False) as client:
            headers = house.bearers["web"]
            answers = [await client.get("/boom", headers=headers), await client.get("/nope", headers=headers)]
            answers.append(await client.get("/metrics", headers=headers))
            answers.append(await client.get("/v1/health", headers={"authorization": f"Bearer x{secret}"}))
            return answers

    with caplog.at_level(logging.DEBUG):
        answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [500, 404, 200, 401]
    assert "boom" in caplog.text
    for answer in answers:
        assert secret not in answer.text + str(answer.headers)
    assert secret not in caplog.text


def test_too_many_requests_are_told_when_to_come_again(guard) -> None:
    house = guard(requests_per_s=0.5, burst=2)

    async def ask() -> list[httpx.Response]:
        async with house.client() as client:
            return [await client.post("/v1/feedback", json=CLICK, headers=house.bearers["web"]) for _ in range(3)]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    assert house.log.rows("events") == 1


def admin_routes(door) -> list[Route]:
    async def change(request: Request) -> Response:
        door.note(request, {"to": 3})
        if request.query_params.get("wrong"):
            raise Refusal(400, DataError("Query", got="wrong", expected="right"))
        if request.query_params.get("crash"):
            raise RuntimeError("crash")
        return JSONResponse({})

    about = Operation(summary="Change it.", query={"wrong": {"type": "string"}, "crash": {"type": "string"}})
    return [Route("/v1/users/{id}", door.counted("change", change, ADMIN, about), methods=["DELETE", "GET"])]


def test_what_an_administrator_changes_is_audited_without_names_of_users(guard) -> None:
    house = guard()
    house.app.router.routes.extend(admin_routes(house.app.state.door))
    path, headers = "/v1/users/alice", house.bearers["ops"]

    async def ask() -> list[int]:
        async with house.client(raising=False) as client:
            calls = [("DELETE", path), ("DELETE", path + "?wrong=1"), ("DELETE", path + "?crash=1"), ("GET", path)]
            answers = [await client.request(method, where, headers=headers) for method, where in calls]
            answers.append(await client.delete(path, headers=house.bearers["web"]))
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 400, 500, 200, 403]
    lines = list(house.audit.lines())
    assert [line["state"] for line in lines] == ["begun", "200", "begun", "400", "begun", "failed"]
    assert {line["what"] for line in lines} == {"DELETE /v1/users/{id}"}
    assert {line["who"] for line in lines} == {"ops"}
    assert lines[0]["details"] == {"from": "192.0.2.7"}
    assert lines[1]["details"] == {"to": 3}
    assert "alice" not in house.audit.path.read_text()
    assert house.audit.check() == 6


def test_what_cannot_be_audited_is_not_done(guard) -> None:
    house, done = guard(), []
    door = house.app.state.door

    async def change(request: Request) -> Response:
        done.append(1)
        return JSONResponse({})

    house.app.router.routes.append(Route("/x", door.counted("x", change, ADMIN), methods=["POST"]))
    house.audit.path.mkdir()

    async def ask() -> httpx.Response:
        async with house.client() as client:
            return await client.post("/x", headers=house.bearers["ops"])

    answer = asyncio.run(ask())
    assert (answer.status_code, done) == (503, [])
    assert answer.json()["what"].startswith("Audit file")


def test_a_full_disk_refuses_what_would_be_logged_and_answers_the_rest(guard) -> None:
    house = guard(ServeConfig(min_free_bytes=1 << 60))

    async def ask() -> list[httpx.Response]:
        async with house.client() as client:
            headers = house.bearers["web"]
            return [
                await client.post("/v1/feedback", json=CLICK, headers=headers),
                await client.post("/v1/rank", json=REQUEST, headers=headers),
                await client.post("/v1/rank?log_impressions=false", json=REQUEST, headers=headers),
            ]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert [answer.headers.get("retry-after") for answer in answers] == ["30", "30", None]
    assert "Nothing of this request was taken" in answers[0].json()["do"]
    assert house.log.rows("events") == 0


def test_bodies_may_hold_so_much_memory_and_come_so_slowly(guard) -> None:
    house = guard(ServeConfig(max_held_bytes=2000, body_timeout_s=0.2))

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async def ask() -> list[httpx.Response]:
        async with house.client() as client:
            headers = house.bearers["web"] | {"content-type": "application/json"}
            return [
                await client.post("/v1/feedback", content=b"x" * 3000, headers=headers),
                await client.post("/v1/feedback", content=slow(), headers=headers),
                await client.post("/v1/feedback", json=CLICK, headers=headers),
            ]

    assert [answer.status_code for answer in asyncio.run(ask())] == [503, 408, 202]
    assert (house.app.state.door.in_flight, house.app.state.door.held_bytes) == (0, 0)


def test_so_many_requests_may_be_under_way(guard, monkeypatch) -> None:
    house = guard(ServeConfig(max_in_flight=1))
    held, go = threading.Event(), threading.Event()
    real = house.app.state.service.rank

    def wait(request: object) -> object:
        held.set()
        assert go.wait(10)
        return real(request)

    monkeypatch.setattr(house.app.state.service, "rank", wait)

    async def ask() -> list[int]:
        async with house.client() as client:
            headers = house.bearers["web"]
            first = asyncio.ensure_future(client.post("/v1/rank", json=REQUEST, headers=headers))
            await asyncio.to_thread(held.wait, 10)
            others = [await client.get(path, headers=headers) for path in ("/v1/health", "/v1/live")]
            go.set()
            return [(await first).status_code, *(answer.status_code for answer in others)]

    assert asyncio.run(ask()) == [200, 503, 200]


UNKNOWN = ["/v1/live?a=1", "/v1/health?verbose=1", "/metrics?x", "/v1/rank?log=true", "/v1/feedback?dry=1"]


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_query_parameter_that_is_not_known_is_refused(shared, path: str) -> None:
    method = "POST" if path.startswith(("/v1/rank", "/v1/feedback")) else "GET"
    answer = shared.http.request(method, path, json=REQUEST if method == "POST" else None)
    assert answer.status_code == 400
    assert "unknown" in answer.json()["got"]


def test_a_query_parameter_twice_is_refused(shared) -> None:
    answer = shared.http.post("/v1/rank?log_impressions=true&log_impressions=false", json=REQUEST)
    assert answer.status_code == 400


def test_a_server_is_live_before_it_is_ready_and_ready_with_a_version(make_house, make_change) -> None:
    house = make_house(first=False)
    assert house.http.get("/v1/live").status_code == 200
    answer = house.http.get("/v1/ready")
    assert (answer.status_code, answer.json()["got"]) == (503, "waiting for the first version")
    assert answer.headers["retry-after"] == "1"
    house.publisher.publish(make_change(0))
    deadline = time.monotonic() + 10
    while house.http.get("/v1/ready").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert house.http.get("/v1/ready").json() == {"status": "ok"}
    assert house.log.rows("events") == 0  # what it practised with is logged nowhere


def test_a_server_that_ends_is_not_ready(guard) -> None:
    house = guard()

    async def ask() -> None:
        async with house.client() as client:
            await ready(client)

    asyncio.run(ask())
    assert house.app.state.service.readiness.reason == "ending"


def test_the_document_names_the_features_of_this_model(shared) -> None:
    document = shared.http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {"/v1/rank", "/v1/feedback", "/v1/health", "/v1/ready", "/v1/live", "/metrics"} <= set(document["paths"])
    rank = document["paths"]["/v1/rank"]["post"]
    body = rank["requestBody"]["content"]["application/json"]["schema"]
    candidate = body["properties"]["candidates"]["items"]
    assert set(candidate["properties"]) == {"item", "user", "city", "tags", "position", "price"}
    assert candidate["required"] == ["item"]
    assert not candidate["additionalProperties"]
    kinds = {name: [kind["type"] for kind in one["anyOf"]] for name, one in candidate["properties"].items()
             if "anyOf" in one}  # fmt: skip
    assert kinds == {"user": ["string", "null"], "city": ["string", "integer", "null"], "tags": ["array", "null"],
                     "position": ["integer", "null"], "price": ["number", "null"]}  # fmt: skip
    assert "user, item, city, price" in body["description"]
    assert set(rank["responses"]) >= {"200", "400", "409", "413", "415", "429", "503"}
    assert "security" not in rank


def test_a_document_that_is_guarded_says_so(guard) -> None:
    house = guard()

    async def ask() -> dict[str, object]:
        async with house.client() as client:
            return (await client.get("/openapi.json", headers=house.bearers["reader"])).json()

    document = asyncio.run(ask())
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/v1/feedback"]["post"]["security"] == [{"token": ["feedback"]}]
    assert "security" not in document["paths"]["/v1/live"]["get"]


def test_every_address_is_described(shared) -> None:
    document = shared.http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            assert " " in about["summary"], f"{method} {path} has no Operation"


def test_a_repeated_action_of_many_at_a_time_counts_once(shared) -> None:
    before = shared.log.rows("events")
    action = {"key": "same", "kind": "click", "item": "same"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared.client.feedback(action), range(40)))
    assert sum(answer["accepted"] for answer in answers) == 1
    assert sum(answer["duplicates"] for answer in answers) == 39
    assert shared.log.rows("events") == before + 1


def test_what_a_slow_disk_refuses_was_not_taken_and_what_it_accepts_was(make_house, monkeypatch) -> None:
    house = make_house(ServeConfig(max_waiting=2))
    real = EmbeddedLog.transaction

    def slow(log: EmbeddedLog) -> object:
        time.sleep(0.02)
        return real(log)

    monkeypatch.setattr(EmbeddedLog, "transaction", slow)
    keys = [f"k{n}" for n in range(120)]

    def send(key: str) -> int:
        answer = house.http.post("/v1/feedback", json={"key": key, "kind": "click", "item": "a"})
        assert answer.status_code == 202 or answer.headers["retry-after"] == "1"
        return answer.status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = dict(zip(keys, pool.map(send, keys), strict=True))
    assert set(statuses.values()) == {202, 503}
    assert sorted(house.logged().column("key").to_pylist()) == sorted(key for key in keys if statuses[key] == 202)
    client = Client(house.client.url, config=ClientConfig(retries=50, wait_s=0.01))
    monkeypatch.setattr("headrace.serve.client.time.sleep", lambda s, wait=time.sleep: wait(min(s, 0.02)))
    with ThreadPoolExecutor(16) as pool:  # a client that waits and asks again gets all of them in, each once
        list(pool.map(lambda key: client.feedback({"key": key, "kind": "click", "item": "a"}), keys))
    client.close()
    assert sorted(house.logged().column("key").to_pylist()) == sorted(keys)


def test_a_learner_that_is_too_far_behind_is_waited_for(guard) -> None:
    house = guard(ServeConfig(max_backlog_rows=10))
    waiting = 11
    house.app.state.service.pressure.backlog = lambda: waiting

    async def ask() -> list[httpx.Response]:
        nonlocal waiting
        async with house.client() as client:
            first = await client.post("/v1/feedback", json=CLICK, headers=house.bearers["web"])
            waiting = 9
            await asyncio.sleep(0.3)  # it looks four times a second
            return [first, await client.post("/v1/feedback", json=CLICK, headers=house.bearers["web"])]

    first, second = asyncio.run(ask())
    assert (first.status_code, first.headers["retry-after"], second.status_code) == (503, "5", 202)
    assert second.json() == {"accepted": 1, "duplicates": 0}


def test_the_document_is_json(shared) -> None:
    json.dumps(shared.http.get("/openapi.json").json(), allow_nan=False)
