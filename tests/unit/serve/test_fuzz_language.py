"""Bodies that nobody should send to a language model: no answer is a 5xx, and what was refused is not in the log."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from typing import Any

import pytest

from headrace.serve import ServeConfig
from headrace.testing.bodies import Caller, bent, broken
from headrace.types import Events

ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
CHAT = {
    "model": "tiny", "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}], "n": 2,
    "max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "seed": 5, "stop": ["x", "the"], "logprobs": True,
    "top_logprobs": 2, "stream": False, "user": "u", "frequency_penalty": 0,
}  # fmt: skip
PLAIN = {"model": "tiny", "prompt": ["the cat", [5, 6, 7]], "max_tokens": 2, "logprobs": 1, "stream": True,
         "stream_options": {"include_usage": True}}  # fmt: skip
VOTES = {
    "events": [{"key": "k", "kind": "prefer", "item": "1"}, {"key": "k", "kind": "reward", "item": "0", "value": 1}]
}
COMPARE = {"prompt": "the cat"}
NAMES = [*CHAT, *PLAIN, "key", "kind", "item", "value", "events", "event_time", "role", "content", "tools", "echo",
         "logit_bias", "best_of", "suffix", "max_completion_tokens", "__class__", "", "\ud800"]  # fmt: skip
QUERIES = [b"", b"", b"", b"min_version=0", b"min_version=9", b"min_version=-1", b"a=b", b"%", b"\xff=\x00"]


async def fuzz(study: Any, count: int, seed: int) -> Counter[tuple[str, int]]:
    draw, call, log = random.Random(seed), Caller(study.app), study.log
    good = {("/v1/chat/completions", JSON): CHAT, ("/v1/completions", JSON): PLAIN, ("/v1/feedback", JSON): VOTES,
            ("/v1/comparisons", JSON): COMPARE}  # fmt: skip
    rows = Events.from_columns({"key": ["1"], "kind": ["prefer"], "event_time": [1], "item": ["0"]}).to_bytes()
    seen: Counter[tuple[str, int]] = Counter()
    for _ in range(count):
        path, kind = draw.choice(list(good))
        if path == "/v1/feedback" and draw.random() < 0.3:
            kind, body = ARROW, broken(draw, rows)
        elif draw.random() < 0.1:
            body = json.dumps(good[path, kind]).encode()
        elif draw.random() < 0.7:
            body = bent(draw, good[path, kind], NAMES)
        else:
            body = broken(draw, json.dumps(good[path, kind]).encode())
        query, before = draw.choice(QUERIES), log.rows("events")
        status, answer = await call("POST", path, query, kind.encode(), body)
        seen[path, status] += 1
        assert status in (200, 202, 400, 404, 409, 413), (status, path, query, body, answer)
        if status >= 400:
            told = json.loads(answer)
            assert "error" in told if "completions" in path else "what" in told, (body, answer)
            assert log.rows("events") == before, (path, body)
        elif status == 202:
            assert log.rows("events") == before + json.loads(answer)["accepted"]
        else:
            assert b'"error":' not in answer, (path, body, answer)
            assert log.rows("events") > before or b'"finish_reason":"' not in answer, (path, body, answer)
    return seen


def fuzzed(study: Any, count: int, seed: int) -> Counter[tuple[str, int]]:
    async def ask() -> Counter[tuple[str, int]]:
        async with study.app.router.lifespan_context(study.app):
            seen = await fuzz(study, count, seed)
            status, _ = await Caller(study.app)("GET", "/v1/health", b"", b"", b"")
            assert status == 200
            assert (study.service.desk.running, study.service.desk.waiting) == (0, 0)
            return seen

    seen = asyncio.run(ask())
    assert (study.app.state.door.in_flight, study.app.state.door.held_bytes) == (0, 0)
    return seen


def test_a_thousand_bodies_break_nothing(make_study) -> None:
    seen = fuzzed(make_study(config=ServeConfig(max_body_bytes=100_000, threads=1)), 1000, 1)
    assert sum(seen.values()) == 1000
    for path, good in (("/v1/chat/completions", 200), ("/v1/completions", 200), ("/v1/feedback", 202),
                       ("/v1/comparisons", 200)):  # fmt: skip
        assert seen[path, good] > 5, seen
        assert seen[path, 400] > 50, seen


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_many_bodies_break_nothing(make_study) -> None:
    count = int(os.environ.get("HEADRACE_FUZZ_BODIES", "1000000")) // 10
    seed = int(os.environ.get("HEADRACE_FUZZ_SEED", "2"))
    assert sum(fuzzed(make_study(config=ServeConfig(threads=1)), count, seed).values()) == count
