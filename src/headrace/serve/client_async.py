"""A small client of the server for `asyncio`: `headrace.AsyncClient`, call by call the same as `headrace.Client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import pyarrow.compute as pc

from headrace.errors import WorkerLost
from headrace.serve import client_calls as calls
from headrace.serve.client_calls import Call, ClientConfig, Newest, Ranked
from headrace.types import Events


class AsyncClient:
    """Talks to a server without blocking the event loop.

    Args:
        url: The server, `http://127.0.0.1:8000`.
        timeout_s: How long one try may take; in place of `config.timeout_s`.
        transport: Another way to reach the application, for tests.
        token: The bearer token; in place of `config.token`.
        config: How often to try again, which certificates to trust, and more.

    Raises:
        ConfigError: If the token would go over an unencrypted connection to another machine.

    Thread-safety: belongs to one event loop; any number of its tasks may call at a time.
    """

    def __init__(
        self, url: str, *, timeout_s: float | None = None, transport: httpx.AsyncBaseTransport | None = None,
        token: str | None = None, config: ClientConfig | None = None,
    ) -> None:  # fmt: skip
        self.url, self.config = url, calls.adjusted(config or ClientConfig(), timeout_s, token)
        self._http = httpx.AsyncClient(transport=transport, **self.config.options(url))
        self._newest = Newest(self.config.monotonic)

    async def rank(
        self, candidates: Sequence[Mapping[str, object]], *, user: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None, key: str | None = None, event_time: int | None = None,
        log_impressions: bool | None = None, min_version: int | None = None,
    ) -> Ranked:  # fmt: skip
        """Rank candidates, each `{"item": ..., features}`, for one user."""
        call = calls.rank_call(candidates, {
            "user": user, "context": context, "key": key, "event_time": event_time, "log_impressions": log_impressions,
            "min_version": self._newest.least(min_version),
        })  # fmt: skip
        answer = calls.ranked((await self._send(call)).json())
        self._newest.saw(answer.version, answer.arm)
        return answer

    async def rank_events(
        self, requests: Events, *, log_impressions: bool | None = None, min_version: int | None = None
    ) -> Events:
        """Score impression rows of any number of requests; returns predictions row by row."""
        query = {"log_impressions": log_impressions, "min_version": self._newest.least(min_version)}
        answer = Events.from_bytes((await self._send(calls.rows_call("/v1/rank", requests, query))).content)
        if "version" in answer.names:
            arms = answer.column("arm").unique().to_pylist() if "arm" in answer.names else []
            self._newest.saw(pc.min(answer.column("version")).as_py(), *arms)
        return answer

    async def recommend(self, user: Mapping[str, object] | None = None, n: int = 10, **more: object) -> dict[str, Any]:
        """Return the best `n` items of the whole catalogue for one user, as `POST /v1/recommend` answers.

        Args:
            user: Features of the user.
            n: How many items.
            more: Further fields of the request: `context`, `exclude`, `filters`, `explore`, `key`, ...
        """
        content = calls.recommend_content(user, n, more, self._newest)
        answer = dict((await self._send(calls.json_call("POST", "/v1/recommend", content))).json())
        self._newest.saw(int(answer.get("version", -1)))
        return answer

    async def put_items(self, items: Sequence[Mapping[str, object]], *, replace: bool = False) -> int:
        """Add items to the catalogue, each `{"item": ..., attributes}`, or put them in place of those of the same name.

        Args:
            items: The items, whole; attributes that are not given are null.
            replace: Remove every other item in the same step.

        Returns:
            How many items there are then. Needs the scope `admin`.
        """
        call = calls.items_call("PUT", "/v1/items", {"items": [dict(one) for one in items]}, replace=replace)
        return int((await self._send(call)).json()["items"])

    async def remove_items(self, *items: str | int) -> int:
        """Remove items from the catalogue; returns how many were there. Needs the scope `admin`."""
        call = calls.items_call("POST", "/v1/items/remove", {"items": list(items)})
        return int((await self._send(call)).json()["removed"])

    async def feedback(self, *actions: Mapping[str, object]) -> dict[str, int]:
        """Send actions, each `{"key", "kind", "item", "event_time"?, "value"?}`; returns how many were new."""
        return calls.counts((await self._send(calls.json_call("POST", "/v1/feedback", list(actions)))).json())

    async def feedback_events(self, actions: Events) -> dict[str, int]:
        """Send actions as rows; returns how many were new."""
        return calls.counts((await self._send(calls.rows_call("/v1/feedback", actions, {}))).json())

    async def questions(self, count: int = 1, *, task: str | None = None, annotator: str = "") -> dict[str, Any]:
        """Return `{"questions": [...], "answers": [...], "status": {...}}`: what to ask next, and what may be said."""
        query = {"count": str(count), "annotator": annotator} | ({} if task is None else {"task": task})
        return dict((await self._send(Call("GET", "/v1/questions", query=query))).json())

    async def answer(self, *answers: Mapping[str, object]) -> dict[str, int]:
        """Send answers, each `{"key", "answer", "annotator"?}`; returns how many were new."""
        return calls.counts((await self._send(calls.json_call("POST", "/v1/answers", list(answers)))).json())

    async def erase(self, user: str | int) -> dict[str, Any]:
        """Erase a user everywhere, as `DELETE /v1/users/{id}` does; needs the scope `admin`."""
        return dict((await self._send(calls.erase_call(user))).json())

    async def erasure(self, number: int) -> dict[str, Any]:
        """Return how far an erasure is, by the number that `erase` told; needs the scope `admin`."""
        return dict((await self._send(Call("GET", f"/v1/erasures/{number}"))).json())

    async def consent(self, user: str | int) -> dict[str, Any]:
        """Take an erased user as a new one from now on; needs the scope `admin`."""
        return dict((await self._send(calls.consent_call(user))).json())

    async def models(self) -> dict[str, Any]:
        """Return the served models, their versions and shares of the traffic."""
        return dict((await self._send(Call("GET", "/v1/models"))).json())

    async def change_shares(self, shares: Mapping[str, float]) -> dict[str, Any]:
        """Give every arm another share of the traffic, durably; returns what `models` does. Needs the scope `admin`."""
        return dict((await self._send(calls.shares_call(shares))).json())

    async def health(self) -> dict[str, Any]:
        """Return how the server is, also while it waits for its first version; asks once."""
        return calls.health(await self._once(Call("GET", "/v1/health")))

    async def metrics(self) -> str:
        """Return the text for Prometheus."""
        return (await self._send(Call("GET", "/metrics"))).text

    async def wait_ready(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the server has a version, and return its health.

        Raises:
            WorkerLost: If it has none by then; says what it told last.
        """
        deadline, last = time.monotonic() + timeout_s, "no answer"
        while time.monotonic() < deadline:
            try:
                state = await self.health()
                if int(state.get("version", -1)) >= 0:
                    return state
                last = str(state.get("status"))
            except WorkerLost as error:
                last = error.got
            await asyncio.sleep(0.05)
        raise calls.not_ready(self.url, last, timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _once(self, call: Call) -> httpx.Response:
        try:
            return await self._http.request(
                call.method, call.path, content=call.body, headers=call.headers, params=call.query
            )
        except httpx.TransportError as error:
            raise calls.lost(self.url, error) from error

    async def _send(self, call: Call) -> httpx.Response:
        """Send it, as often as the settings say."""
        tried = 0
        while True:
            tried += 1
            response, error = None, None
            try:
                response = await self._once(call)
                if response.status_code < 400:
                    return response
            except WorkerLost as caught:
                error = caught
            pause = calls.pause_s(response, tried, self.config)
            if pause is None:
                raise error or calls.error_of(response)  # type: ignore[arg-type]  # one of the two is there
            await asyncio.sleep(pause)
