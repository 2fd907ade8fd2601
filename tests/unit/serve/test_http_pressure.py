"""What a server does when too much comes at a time: it refuses with a time to come again, and loses nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from headrace.data.log import EmbeddedLog
from headrace.serve import Client, ClientConfig, ServeConfig

REQUEST = {"key": "r1", "user": {"user": "u1"}, "context": {"city": 7, "price": 10.0}, "candidates": [{"item": "a"}]}
CLICK = {"key": "r1", "kind": "click", "item": "a"}


def test_too_many_requests_are_told_when_to_come_again(guard) -> None:
    house = guard(requests_per_s=0.5, burst=2)

    async def ask() -> list[httpx.Response]:
        async with house.client() as client:
            return [await client.post("/v1/feedback", json=CLICK, headers=house.bearers["web"]) for _ in range(3)]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    assert house.log.rows("events") == 1


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
