"""Bodies that nobody should send: no answer is a 5xx, nothing breaks, and what was refused has changed nothing."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.data import JoinConfig
from headrace.data.log import EmbeddedLog
from headrace.nn import DeepFM
from headrace.online import OnlineConfig
from headrace.online.recommending import open_recommender
from headrace.serve import ServeConfig, create_app
from headrace.serve.recommend_config import RecommendConfig
from headrace.types import Events

ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
RANK = {
    "key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "event_time": 5_000_000,
    "log_impressions": True, "candidates": [{"item": "a", "tags": ["x", "y"]}, {"item": "b", "price": 99.5}],
}  # fmt: skip
FEEDBACK = [
    {"key": "r", "kind": "click", "item": "a", "value": 1.5, "event_time": 6}, {"key": "r", "kind": "x", "item": "b"},
]  # fmt: skip
WISH = {
    "key": "w1", "user": {"user": "u1"}, "context": {"city": 7}, "n": 3, "exclude": ["i2"],
    "filters": {"price": {"min": 1}}, "log_impressions": True,
}  # fmt: skip
ITEMS = {"items": [{"item": "i1", "price": 1.5, "tags": ["x"]}, {"item": "i90", "price": 2.5, "tags": []}]}
GONE = {"items": ["i1", "i4"]}
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400,
    "", " ", "a", "item", "key", "\x00", "\u202e", "\ud800", "é" * 600, "x" * 2000, "'; DROP TABLE entries; --",
    "../../etc", "${jndi:x}", "NaN", "1", [], {}, [[]], [None], [{}], {"": ""}, {"item": {}}, ["x"] * 50, [1, "a"],
    [0.5, None],
]  # fmt: skip
NAMES = [
    "item", "key", "kind", "user", "context", "candidates", "events", "event_time", "value", "price", "city", "tags",
    "position", "log_impressions", "min_version", "score", "version", "arm", "accepted_time", "__class__", "",
    "\ud800", "n", "exclude", "filters", "explore", "seen", "items", "min", "max", "in",
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


GOOD_STATUS = {"/v1/rank": 200, "/v1/feedback": 202, "/v1/recommend": 200, "/v1/items": 200, "/v1/items/remove": 200}


async def fuzz(app: Any, log: EmbeddedLog, requests: Events, count: int, seed: int) -> Counter[tuple[str, str, int]]:
    """Send `count` bodies; returns how often which address and content gave which status."""
    draw, call = random.Random(seed), Caller(app)
    actions = Events.from_columns({"key": ["1"] * 2, "kind": ["click"] * 2, "event_time": [1, 2], "item": ["a", "b"]})
    good: dict[tuple[str, str, str], Any] = {
        ("POST", "/v1/rank", JSON): RANK, ("POST", "/v1/feedback", JSON): FEEDBACK,
        ("POST", "/v1/rank", ARROW): requests.to_bytes(), ("POST", "/v1/feedback", ARROW): actions.to_bytes(),
        ("POST", "/v1/recommend", JSON): WISH, ("PUT", "/v1/items", JSON): ITEMS,
        ("POST", "/v1/items/remove", JSON): GONE,
    }  # fmt: skip
    shelf = app.state.service.recommender.catalogue.shelf
    seen: Counter[tuple[str, str, int]] = Counter()
    for number in range(count):
        if number % 500 == 0:  # so that there is always something to recommend
            await call("PUT", "/v1/items", b"", JSON.encode(), json.dumps(CATALOGUE).encode())
        method, path, kind = draw.choice(list(good))
        seed_body = good[method, path, kind]
        if kind == JSON:
            body = bent(draw, seed_body) if draw.random() < 0.7 else broken(draw, json.dumps(seed_body).encode())
        else:
            body = broken(draw, seed_body)
        asks = path in ("/v1/rank", "/v1/recommend")
        query = draw.choice(QUERIES) if asks else draw.choice((b"", b"", b"", b"a=b"))
        before, items = log.rows("events"), len(shelf)
        status, answer = await call(method, path, query, kind.encode(), body)
        seen[path, kind, status] += 1
        assert status in (GOOD_STATUS[path], 400, 409, 413), (status, path, kind, query, body, answer)
        if status >= 400:
            assert {"what", "got", "expected", "do"} <= set(json.loads(answer)), (body, answer)
            assert (log.rows("events"), len(shelf)) == (before, items), (path, kind, query, body)
        elif path == "/v1/feedback":
            assert log.rows("events") == before + json.loads(answer)["accepted"], body
    return seen


CATALOGUE = {"items": [{"item": f"i{n}", "price": float(n), "tags": [f"t{n % 3}"]} for n in range(12)]}


@pytest.fixture
def fuzzed(tmp_path: Path, schema, make_predictor, make_change, make_requests) -> Callable[[int, int], Counter[Any]]:
    def run(count: int, seed: int) -> Counter[Any]:
        log, predictor = EmbeddedLog(tmp_path / "events.db", durability="process"), make_predictor()
        predictor.apply(make_change(0))
        config = OnlineConfig(name="fuzz", schema=schema, join=JoinConfig(window_s=60, lateness_s=1),
                              model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 1, (16, 8), seed=4),
                              recommend=RecommendConfig())  # fmt: skip
        items = EmbeddedLog(tmp_path / "items.db", durability="process")
        recommender = open_recommender(config, log, items, {"main": predictor})
        settings = ServeConfig(max_body_bytes=100_000, threads=1)
        app = create_app(predictor, log, settings, recommender=recommender)
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
    for path, good in GOOD_STATUS.items():
        for kind in (JSON, ARROW) if path in ("/v1/rank", "/v1/feedback") else (JSON,):
            assert seen[path, kind, good] > 10, seen
            assert seen[path, kind, 400] > 50, seen


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_million_bodies_break_nothing(fuzzed) -> None:
    count = int(os.environ.get("HEADRACE_FUZZ_BODIES", "1000000"))
    assert sum(fuzzed(count, int(os.environ.get("HEADRACE_FUZZ_SEED", "2"))).values()) == count
