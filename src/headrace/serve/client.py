"""A small client of the rank server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import pyarrow as pa

from headrace.errors import DataError, HeadraceError, WorkerLost
from headrace.types import Events

ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answer to one request.

    Attributes:
        key: The request's key; feedback names it.
        version: The version that answered.
        scores: Probability of every candidate, in the order in which they were sent.
        order: Places of the candidates, best first.
        items: The candidates' items, best first.
    """

    key: str
    version: int
    scores: list[float]
    order: list[int]
    items: list[str]


class Client:
    """Talks to a rank server. Every call may be repeated: feedback counts once per (key, item, kind), an example once.

    Args:
        url: The server, `http://127.0.0.1:8000`.
        timeout_s: How long one call may take.
        transport: Another way to reach the application, for tests.

    Raises (all calls):
        DataError: If the server finds the request wrong (4xx); carries its four parts.
        WorkerLost: If the server cannot be reached, or cannot answer now (5xx); the call may be repeated.

    Thread-safety: may be used from several threads.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, transport: httpx.BaseTransport | None = None) -> None:
        # The environment's proxies are for the internet, not for a server that was named by its address.
        self._http = httpx.Client(base_url=url, timeout=timeout_s, transport=transport, trust_env=False)
        self.url = url

    def rank(
        self, candidates: Sequence[Mapping[str, object]], *, user: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None, key: str | None = None, event_time: int | None = None,
        log_impressions: bool | None = None,
    ) -> Ranked:  # fmt: skip
        """Rank candidates, each `{"item": ..., features}`, for one user."""
        content: dict[str, object] = {"candidates": list(candidates)}
        optional = {"user": user, "context": context, "key": key, "event_time": event_time,
                    "log_impressions": log_impressions}  # fmt: skip
        content |= {name: value for name, value in optional.items() if value is not None}
        answer = self._json("POST", "/v1/rank", content)
        return Ranked(answer["key"], answer["version"], answer["scores"], answer["order"], answer["items"])

    def rank_events(self, requests: Events, *, log_impressions: bool | None = None) -> Events:
        """Score impression rows of any number of requests; returns predictions row by row."""
        query = {} if log_impressions is None else {"log_impressions": "true" if log_impressions else "false"}
        content = self._send("POST", "/v1/rank", _plain(requests).to_bytes(), ARROW, query).content
        return Events.from_bytes(content)

    def feedback(self, *actions: Mapping[str, object]) -> dict[str, int]:
        """Send actions, each `{"key", "kind", "item", "event_time"?, "value"?}`; returns how many were new."""
        answer = self._json("POST", "/v1/feedback", list(actions))
        return {name: int(answer[name]) for name in ("accepted", "duplicates")}

    def feedback_events(self, actions: Events) -> dict[str, int]:
        """Send actions as rows; returns how many were new."""
        answer = self._send("POST", "/v1/feedback", _plain(actions).to_bytes(), ARROW, {}).json()
        return {name: int(answer[name]) for name in ("accepted", "duplicates")}

    def questions(self, count: int = 1, *, task: str | None = None, annotator: str = "") -> dict[str, Any]:
        """Return `{"questions": [...], "answers": [...], "status": {...}}`: what to ask next, and what may be said."""
        query = {"count": str(count), "annotator": annotator} | ({} if task is None else {"task": task})
        return dict(self._send("GET", "/v1/questions", None, "", query).json())

    def answer(self, *answers: Mapping[str, object]) -> dict[str, int]:
        """Send answers, each `{"key", "answer", "annotator"?}`; returns how many were new."""
        taken = self._json("POST", "/v1/answers", list(answers))
        return {name: int(taken[name]) for name in ("accepted", "duplicates")}

    def health(self) -> dict[str, Any]:
        """Return how the server is, also while it waits for its first version."""
        response = self._call("GET", "/v1/health", None, "", {})
        if response.status_code not in (200, 503):
            raise _error(response)
        return dict(response.json())

    def metrics(self) -> str:
        """Return the text for Prometheus."""
        return self._send("GET", "/metrics", None, "", {}).text

    def wait_ready(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the server has a version, and return its health.

        Raises:
            WorkerLost: If it has none by then; says what it told last.
        """
        deadline, last = time.monotonic() + timeout_s, "no answer"
        while time.monotonic() < deadline:
            try:
                state = self.health()
                if int(state.get("version", -1)) >= 0:
                    return state
                last = str(state.get("status"))
            except WorkerLost as error:
                last = error.got
            time.sleep(0.05)
        raise WorkerLost(f"Server {self.url}", got=last, expected=f"a served version within {timeout_s:.0f} s")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _json(self, method: str, path: str, content: object) -> dict[str, Any]:
        return dict(self._send(method, path, json.dumps(content).encode(), "application/json", {}).json())

    def _send(self, method: str, path: str, body: bytes | None, kind: str, query: dict[str, str]) -> httpx.Response:
        response = self._call(method, path, body, kind, query)
        if response.status_code >= 400:
            raise _error(response)
        return response

    def _call(self, method: str, path: str, body: bytes | None, kind: str, query: dict[str, str]) -> httpx.Response:
        headers = {"content-type": kind} if kind else {}
        try:
            return self._http.request(method, path, content=body, headers=headers, params=query)
        except httpx.TransportError as error:
            raise WorkerLost(f"Server {self.url}", got=f"{type(error).__name__}: {error}", expected="an answer",
                             do="Is it running? Repeating the call is safe.") from error  # fmt: skip


def _error(response: httpx.Response) -> HeadraceError:
    try:
        parts = dict(response.json())
    except ValueError:
        parts = {"what": "Server", "got": f"status {response.status_code}"}
    kind = DataError if response.status_code < 500 else WorkerLost
    return kind(str(parts.get("what")), got=parts.get("got", ""), expected=str(parts.get("expected", "")),
                do=str(parts.get("do", "")))  # fmt: skip


def _plain(events: Events) -> Events:
    """Return the rows with dictionary-encoded columns written out, as the server wants them."""
    packed = [name for name in events.names if pa.types.is_dictionary(events.column(name).type)]
    return events.with_columns({name: events.column(name).dictionary_decode() for name in packed}) if packed else events
