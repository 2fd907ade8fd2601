"""Bodies that nobody should send: no answer is a 5xx, nothing breaks, and what was refused has changed nothing."""

from __future__ import annotations

import asyncio
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
from headrace.testing.bodies import Caller, bent, broken
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
NAMES = [
    "item", "key", "kind", "user", "context", "candidates", "events", "event_time", "value", "price", "city", "tags",
    "position", "log_impressions", "min_version", "score", "version", "arm", "accepted_time", "__class__", "",
    "\ud800", "n", "exclude", "filters", "explore", "seen", "items", "min", "max", "in",
]  # fmt: skip
QUERIES = [
    b"", b"", b"", b"log_impressions=false", b"log_impressions=1", b"min_version=0", b"min_version=-1", b"a=b", b"%",
    b"min_version=99999999999999999999", b"log_impressions=true&log_impressions=true", b"\xff=\x00",
]  # fmt: skip


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
            body = bent(draw, seed_body, NAMES) if draw.random() < 0.7 else broken(draw, json.dumps(seed_body).encode())
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
