"""Bodies that nobody should send: no answer is a 5xx, nothing breaks, and what was refused has changed nothing."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.data.log import EmbeddedLog
from headrace.serve import ServeConfig, create_app
from headrace.types import Events

ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
RANK = {
    "key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "event_time": 5_000_000,
    "log_impressions": True, "candidates": [{"item": "a", "tags": ["x", "y"]}, {"item": "b", "price": 99.5}],
}  # fmt: skip
FEEDBACK = [
    {"key": "r", "kind": "click", "item": "a", "value": 1.5, "event_time": 6}, {"key": "r", "kind": "x", "item": "b"},
]  # fmt: skip
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400,
    "", " ", "a", "item", "key", "\x00", "\u202e", "\ud800", "é" * 600, "x" * 2000, "'; DROP TABLE entries; --",
    "../../etc", "${jndi:x}", "NaN", "1", [], {}, [[]], [None], [{}], {"": ""}, {"item": {}}, ["x"] * 50, [1, "a"],
    [0.5, None],
]  # fmt: skip
NAMES = [
    "item", "key", "kind", "user", "context", "candidates", "events", "event_time", "value", "price", "city", "tags",
    "position", "log_impressions", "min_version", "score", "version", "arm", "accepted_time", "__class__", "",
]  # fmt: skip
QUERIES = [
    b"", b"", b"", b"log_impressions=false", b"log_impressions=1", b"min_version=0", b"min_version=-1", b"a=b", b"%",
    b"min_version=99999999999999999999", b"log_impressions=true&log_impressions=true", b"\xff=\x00",
]  # fmt: skip


def places(tree: object) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        found.append((tree, key))
        found += places(value)
    return found


def bent(draw: random.Random, tree: object) -> bytes:
    """A JSON body with some of its parts replaced, dropped, renamed or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 2, 3))):
        found = places(tree)
        if not found:
            break
        where, key = draw.choice(found)
        way = draw.randrange(5)
        if way < 2:
            where[key] = copy.deepcopy(draw.choice(NASTY))
        elif way == 2:
            del where[key]
        elif way == 3 and isinstance(where, dict):
            where[draw.choice(NAMES)] = where.pop(key)
        elif isinstance(where, list):
            where.extend([copy.deepcopy(where[key])] * draw.choice((1, 3, 40)))
        else:
            where[draw.choice(NAMES)] = copy.deepcopy(draw.choice(NASTY))
    if draw.random() < 0.02:
        tree = draw.choice(NASTY)
    text = json.dumps(tree)
    if draw.random() < 0.05:
        text = text.replace(":", draw.choice([": NaN,", ":", "::", ": Infinity"]), 1)
    return text.encode(draw.choice(["utf-8"] * 20 + ["utf-16", "utf-32", "utf-8-sig"]))


def broken(draw: random.Random, content: bytes) -> bytes:
    """Bytes that were cut, repeated, exchanged or made up."""
    body, way = bytearray(content), draw.randrange(6)
    if way == 0:
        return bytes(body[: draw.randrange(len(body) + 1)])
    if way == 1:
        return draw.randbytes(draw.randrange(300))
    if way == 2:
        place = draw.randrange(len(body))
        return bytes(body[:place] + body[place : place + 40] * 3 + body[place:])
    if way == 3:  # a length or an offset in an Arrow header
        place = draw.randrange(max(len(body) - 8, 1))
        size = draw.choice((1, 2, 4, 8))
        body[place : place + size] = draw.choice((b"\xff" * size, b"\x00" * size, b"\x7f" + b"\xff" * (size - 1)))
        return bytes(body)
    for _ in range(draw.randrange(1, 10)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return bytes(body)


class Caller:
    """Calls an ASGI application without a network in between."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, method: str, path: str, query: bytes, kind: bytes, body: bytes) -> tuple[int, bytes]:
        status, parts, given = 0, [], False

        async def receive() -> dict[str, object]:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "", "client": ("192.0.2.1", 1),
            "headers": [(b"content-type", kind)], "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        await self.app(scope, receive, send)
        return status, b"".join(parts)


def digest(predictor: Any) -> str:
    """One number for all that is served."""
    sums = hashlib.sha256(str(predictor.version).encode())
    for name, table in sorted(predictor.replica.tables.items()):
        rows = table.rows()
        sums.update(name.encode() + rows.ids.numpy().tobytes() + rows.rows.numpy().tobytes())
    for name, value in sorted(predictor.model.state_dict().items()):
        sums.update(name.encode() + value.numpy().tobytes())
    return sums.hexdigest()


async def fuzz(app: Any, log: EmbeddedLog, requests: Events, count: int, seed: int) -> Counter[tuple[str, str, int]]:
    """Send `count` bodies; returns how often which address and content gave which status."""
    draw, call = random.Random(seed), Caller(app)
    actions = Events.from_columns({"key": ["1"] * 2, "kind": ["click"] * 2, "event_time": [1, 2], "item": ["a", "b"]})
    good: dict[tuple[str, str], Any] = {("/v1/rank", JSON): RANK, ("/v1/feedback", JSON): FEEDBACK,
                                        ("/v1/rank", ARROW): requests.to_bytes(),
                                        ("/v1/feedback", ARROW): actions.to_bytes()}  # fmt: skip
    seen: Counter[tuple[str, str, int]] = Counter()
    for _ in range(count):
        path, kind = draw.choice(list(good))
        seed_body = good[path, kind]
        if kind == JSON:
            body = bent(draw, seed_body) if draw.random() < 0.7 else broken(draw, json.dumps(seed_body).encode())
        else:
            body = broken(draw, seed_body)
        query = draw.choice(QUERIES) if path == "/v1/rank" else draw.choice((b"", b"", b"", b"a=b"))
        before = log.rows("events")
        status, answer = await call("POST", path, query, kind.encode(), body)
        seen[path, kind, status] += 1
        assert status in (200, 202, 400, 409, 413), (status, path, kind, query, body, answer)
        if status >= 400:
            assert {"what", "got", "expected", "do"} <= set(json.loads(answer)), (body, answer)
            assert log.rows("events") == before, (path, kind, query, body)
        elif path == "/v1/feedback":
            assert log.rows("events") == before + json.loads(answer)["accepted"], body
    return seen


@pytest.fixture
def fuzzed(tmp_path: Path, make_predictor, make_change, make_requests) -> Callable[[int, int], Counter[Any]]:
    def run(count: int, seed: int) -> Counter[Any]:
        log, predictor = EmbeddedLog(tmp_path / "events.db", durability="process"), make_predictor()
        predictor.apply(make_change(0))
        app = create_app(predictor, log, ServeConfig(max_body_bytes=100_000, threads=1))
        before = digest(predictor)

        async def ask() -> Counter[Any]:
            async with app.router.lifespan_context(app):
                seen = await fuzz(app, log, make_requests(4), count, seed)
                status, _ = await Caller(app)("GET", "/v1/health", b"", b"", b"")
                assert status == 200
                return seen

        seen = asyncio.run(ask())
        assert digest(predictor) == before
        assert (app.state.door.in_flight, app.state.door.held_bytes) == (0, 0)
        log.close()
        rows = 0
        with EmbeddedLog(tmp_path / "events.db", durability="process") as again:  # every entry is whole
            for offset in range(0, again.end("events"), 64):
                rows += sum(len(entry.events) for entry in again.read("events", offset, limit=64))
            assert rows == again.rows("events")
        return seen

    return run


def test_a_few_thousand_bodies_break_nothing(fuzzed) -> None:
    seen = fuzzed(3000, 1)
    assert sum(seen.values()) == 3000
    for path, good in (("/v1/rank", 200), ("/v1/feedback", 202)):
        for kind in (JSON, ARROW):
            assert seen[path, kind, good] > 10, seen
            assert seen[path, kind, 400] > 100, seen


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_million_bodies_break_nothing(fuzzed) -> None:
    assert sum(fuzzed(1_000_000, 2).values()) == 1_000_000
