"""What clients send and read, the same whether they wait or not: bodies, answers, errors, and when to try again."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pyarrow as pa

from headrace.config import require
from headrace.errors import DataError, HeadraceError, VersionError, WorkerLost
from headrace.types import Events

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
TOKEN = "HEADRACE_TOKEN"
AGAIN = (429, 503)
_MOST_S = 30.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answer to one request.

    Attributes:
        key: The request's key; feedback names it.
        version: The version that answered.
        scores: Probability of every candidate, in the order in which they were sent.
        order: Places of the candidates, best first.
        items: The candidates' items, best first.
        arm: The served model that answered; empty where the server does not say.
        scores_logged: With the real value of features that are served at a reference value (a position), where the
            request had it; None where it had not.
        label_scores: Probabilities of the model's other labels, by name.
    """

    key: str
    version: int
    scores: list[float]
    order: list[int]
    items: list[str]
    arm: str = ""
    scores_logged: list[float | None] | None = None
    label_scores: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """How a client calls.

    Attributes:
        token: The bearer token. None: the variable `HEADRACE_TOKEN`, if it is set.
        timeout_s: How long one try may take.
        retries: Further tries when the server cannot be reached, is behind (503), or asks for fewer requests (429).
            Every call may be repeated: feedback counts once, and a ranking without a key gets one here.
        wait_s: Pause before the first further try; it doubles, and is drawn at random up to that. What the server
            says in `Retry-After` goes before it.
        authority: PEM file of who signed the server's certificate; None: whom the system trusts.
        certificate: PEM file of a certificate and its key, where the server asks clients for one.
        monotonic: Never take an answer from an older version than an earlier answer; the server refuses it (409), and
            the call is repeated. For clients of several servers of one model: where several arms answer, each has
            versions of its own, and nothing is asked for any more once a second arm was seen.
        plain_http: Send the token over an unencrypted connection to another machine. Whoever is in between can read
            it.

    Raises:
        ConfigError: If a value cannot work.
    """

    token: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    retries: int = 3
    wait_s: float = 0.1
    authority: Path | None = None
    certificate: Path | None = None
    monotonic: bool = False
    plain_http: bool = False

    def __post_init__(self) -> None:
        require(self.timeout_s > 0, "timeout_s", got=self.timeout_s, expected="a positive number of seconds")
        require(self.retries >= 0, "retries", got=self.retries, expected="0 or more")
        require(self.wait_s > 0, "wait_s", got=self.wait_s, expected="a positive number of seconds")

    def options(self, url: str) -> dict[str, Any]:
        """Return the options of an httpx client.

        Raises:
            ConfigError: If a token would go over an unencrypted connection to another machine.
        """
        token = os.environ.get(TOKEN) if self.token is None else self.token
        parts = urlsplit(url)
        require(not token or parts.scheme == "https" or self.plain_http or _is_here(parts.hostname or ""), "url",
                got=f"{parts.scheme}://{parts.hostname} with a token", expected="https",
                do="Anybody in between could read the token; `plain_http=True` sends it all the same.")  # fmt: skip
        verify: Any = True
        if self.authority is not None or self.certificate is not None:
            verify = httpx.create_ssl_context(verify=str(self.authority) if self.authority is not None else True)
            if self.certificate is not None:
                verify.load_cert_chain(self.certificate)
        # The environment's proxies are for the internet, not for a server that was named by its address.
        return {"base_url": url, "timeout": self.timeout_s, "trust_env": False, "verify": verify,
                "headers": {"authorization": f"Bearer {token}"} if token else {}}  # fmt: skip


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Call:
    """One call, ready to be sent, and as often as wanted."""

    method: str
    path: str
    body: bytes | None = None
    kind: str = ""
    query: dict[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the call."""
        return {"content-type": self.kind} if self.kind else {}


def json_call(method: str, path: str, content: object) -> Call:
    """Return a call with a JSON body."""
    return Call(method, path, json.dumps(content).encode(), JSON)


def rank_call(candidates: Sequence[Mapping[str, object]], optional: Mapping[str, object]) -> Call:
    """Return the call that ranks candidates; with a key, so that repeating it is the same request."""
    content: dict[str, object] = {"candidates": list(candidates), "key": uuid.uuid4().hex}
    return json_call(
        "POST", "/v1/rank", content | {name: value for name, value in optional.items() if value is not None}
    )


def rows_call(path: str, rows: Events, query: Mapping[str, object]) -> Call:
    """Return the call that sends rows as Arrow."""
    said = {name: str(value).lower() for name, value in query.items() if value is not None}
    return Call("POST", path, plain_rows(rows).to_bytes(), ARROW, said)


def shares_call(shares: Mapping[str, float]) -> Call:
    """Return the call that changes the arms' shares of traffic."""
    return json_call("PUT", "/v1/models", {"shares": dict(shares)})


def erase_call(user: str | int) -> Call:
    """Return the call that erases a user."""
    return Call("DELETE", f"/v1/users/{quote(str(user), safe='')}")


def consent_call(user: str | int) -> Call:
    """Return the call that takes an erased user as a new one."""
    return Call("PUT", erase_call(user).path)


def items_call(method: str, path: str, content: object, *, replace: bool = False) -> Call:
    """Return a call that changes the catalogue."""
    call = json_call(method, path, content)
    return Call(call.method, call.path, call.body, call.kind, {"replace": "true"} if replace else {})


def recommend_content(
    user: Mapping[str, object] | None, n: int, more: Mapping[str, object], newest: Newest
) -> dict[str, object]:
    """Return the body that asks for recommendations; with a key, so that repeating it is the same request."""
    content: dict[str, object] = {"n": n, "key": uuid.uuid4().hex, **more}
    if user is not None:
        content["user"] = dict(user)
    asked = content.get("min_version")
    least = newest.least(asked if isinstance(asked, int) else None)
    return content if least is None else content | {"min_version": least}


def adjusted(config: ClientConfig, timeout_s: float | None, token: str | None) -> ClientConfig:
    """Return the settings with what was given beside them."""
    given = {"timeout_s": timeout_s, "token": token}
    return replace(config, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def health(response: httpx.Response) -> dict[str, Any]:
    """Return how the server is, also while it waits for its first version."""
    if response.status_code not in (200, 503):
        raise error_of(response)
    return dict(response.json())


def ranked(answer: Mapping[str, Any]) -> Ranked:
    """Return what the server answered."""
    return Ranked(
        answer["key"], answer["version"], answer["scores"], answer["order"], answer["items"], answer.get("arm", ""),
        answer.get("scores_logged"), answer.get("label_scores", {}),
    )  # fmt: skip


def counts(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return how many rows were new, and how many were known."""
    return {name: int(answer[name]) for name in ("accepted", "duplicates")}


def pause_s(response: httpx.Response | None, tried: int, config: ClientConfig) -> float | None:
    """Return how long to wait before the next try; None: there is none.

    Args:
        response: What came; None: nothing.
        tried: How many tries there were.
        config: How often, and how long at first.
    """
    stale = response is not None and response.status_code == 409 and config.monotonic
    if tried > config.retries or (response is not None and response.status_code not in AGAIN and not stale):
        return None
    drawn = random.uniform(0, min(config.wait_s * 2 ** (tried - 1), _MOST_S))
    said = "" if response is None else response.headers.get("retry-after", "")
    return min(float(said), _MOST_S) + drawn if said.isascii() and said.isdigit() else drawn


def error_of(response: httpx.Response) -> HeadraceError:
    """Return the error that an answer is."""
    try:
        parts = dict(response.json())
    except (ValueError, TypeError):
        parts = {"what": "Server", "got": f"status {response.status_code}"}
    kind: type[HeadraceError] = DataError if response.status_code < 500 else WorkerLost
    if response.status_code == 409:
        kind = VersionError
    elif response.status_code == 429:
        kind = WorkerLost
    return kind(str(parts.get("what")), got=parts.get("got", ""), expected=str(parts.get("expected", "")),
                do=str(parts.get("do", "")))  # fmt: skip


def lost(url: str, error: httpx.TransportError) -> WorkerLost:
    """Return the error for a server that cannot be reached."""
    return WorkerLost(f"Server {url}", got=f"{type(error).__name__}: {error}", expected="an answer",
                      do="Is it running? Repeating the call is safe.")  # fmt: skip


def not_ready(url: str, last: str, timeout_s: float) -> WorkerLost:
    """Return the error for a server that has no version in time."""
    return WorkerLost(f"Server {url}", got=last, expected=f"a served version within {timeout_s:.0f} s")


def plain_rows(events: Events) -> Events:
    """Return the rows with dictionary-encoded columns written out, as the server wants them."""
    packed = [name for name in events.names if pa.types.is_dictionary(events.column(name).type)]
    return events.with_columns({name: events.column(name).dictionary_decode() for name in packed}) if packed else events


class Newest:
    """The newest version that a client has seen."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.version, self.arms = wanted, -1, set[str]()

    def least(self, asked: int | None) -> int | None:
        """Return the version that a call asks for at least."""
        if not self.wanted or self.version < 0 or len(self.arms) > 1:
            return asked
        return max(self.version, -1 if asked is None else asked)

    def saw(self, version: int, *arms: str) -> None:
        """Remember an answer's version, and which arms gave it."""
        self.version = max(self.version, version)
        self.arms.update(arms)
