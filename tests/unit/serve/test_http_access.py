"""Tokens, limits, audit lines, readiness and the document, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import DataError
from headrace.serve.door import ADMIN, Refusal
from headrace.serve.openapi import Operation

REQUEST = {"key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "candidates": [{"item": "a"}]}
CLICK = {"key": "r1", "kind": "click", "item": "a"}


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


def test_the_document_is_json(shared) -> None:
    json.dumps(shared.http.get("/openapi.json").json(), allow_nan=False)
