"""Bodies that nobody should send, and a way to send them: for tests that throw a million of them at a server."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Sequence
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400,
    "", " ", "a", "item", "key", "\x00", "\u202e", "\ud800", "é" * 600, "x" * 2000, "'; DROP TABLE entries; --",
    "../../etc", "${jndi:x}", "NaN", "1", [], {}, [[]], [None], [{}], {"": ""}, {"item": {}}, ["x"] * 50, [1, "a"],
    [0.5, None],
]  # fmt: skip


def places(tree: object) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        found.append((tree, key))
        found += places(value)
    return found


def bent(draw: random.Random, tree: Any, names: Sequence[str]) -> bytes:
    """Return a JSON body with some of its parts replaced, dropped, renamed or repeated.

    Args:
        draw: Random choices.
        tree: A body as it should be.
        names: Names that parts may get.
    """
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
            where[draw.choice(names)] = where.pop(key)
        elif isinstance(where, list):
            where.extend([copy.deepcopy(where[key])] * draw.choice((1, 3, 40)))
        else:
            where[draw.choice(names)] = copy.deepcopy(draw.choice(NASTY))
    if draw.random() < 0.02:
        tree = draw.choice(NASTY)
    text = json.dumps(tree)
    if draw.random() < 0.05:
        text = text.replace(":", draw.choice([": NaN,", ":", "::", ": Infinity"]), 1)
    return text.encode(draw.choice(["utf-8"] * 20 + ["utf-16", "utf-32", "utf-8-sig"]))


def broken(draw: random.Random, content: bytes) -> bytes:
    """Return bytes that were cut, repeated, exchanged or made up."""
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
    """Calls an ASGI application without a network in between.

    Args:
        app: The application, started.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, method: str, path: str, query: bytes, kind: bytes, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to one request."""
        status, parts, given = 0, [], False

        async def receive() -> dict[str, object]:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # stays connected until the answer has ended
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
