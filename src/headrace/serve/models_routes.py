"""`GET /v1/models` tells which arms answer, and `PUT /v1/models` changes their shares of traffic."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import SchemaError
from headrace.serve.door import ADMIN, ARROW, JSON, READ, Door, Refusal
from headrace.serve.openapi import Json, Operation

_SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}


def routes(door: Door, more: Callable[[], dict[str, object]] | None = None) -> list[Route]:
    """Return the addresses of a server's arms.

    Args:
        door: Of the server.
        more: Returns further fields of the answer.
    """
    at, (models, change) = _ModelRoutes(door, more), _operations(door)
    return [
        Route("/v1/models", door.counted("models", at.models, READ, models), methods=["GET"]),
        Route("/v1/models", door.counted("shares", at.change, ADMIN, change), methods=["PUT"]),
    ]


def _operations(door: Door) -> tuple[Operation, Operation]:
    names = door.watched.arms.names
    arm = {
        "type": "object", "required": ["name", "share", "propensity", "version", "state"],
        "properties": {
            "name": {"type": "string", "enum": names}, "share": _SHARE, "propensity": _SHARE,
            "version": {"type": "integer", "minimum": -1}, "parent": {"type": "integer", "minimum": -1},
            "state": {"type": "string"}, "published": {"type": "integer", "minimum": -1},
            "lag_versions": {"type": "integer", "minimum": 0}, "error": {"type": "string"},
            "held_back": {"type": "object"},
        },
    }  # fmt: skip
    answer = {"type": "object", "required": ["split_by", "arms"],
              "properties": {"split_by": {"type": "string"}, "arms": {"type": "array", "items": arm}}}  # fmt: skip
    models = Operation(
        summary="The arms that answer.", answers={200: answer},
        description="`share` is what was asked for, `propensity` what holds: arms without a version take no traffic.",
    )  # fmt: skip
    shares = {"type": "object", "required": names, "additionalProperties": False,
              "properties": dict.fromkeys(names, _SHARE),
              "description": "Every arm; they add up to 1."}  # fmt: skip
    change = Operation(
        summary="Change the arms' shares of traffic, durably.", answers={200: answer},
        description="Units move only as far as the shares ask for; who stays in an arm keeps it.",
        body={"type": "object", "required": ["shares"], "additionalProperties": False,
              "properties": {"shares": shares}},
    )  # fmt: skip
    return models, change


class _ModelRoutes:
    """The endpoints of one service."""

    def __init__(self, door: Door, more: Callable[[], dict[str, object]] | None = None) -> None:
        self._more = more
        self.door, self.arms = door, door.watched.arms

    async def models(self, request: Request) -> Response:
        """Tell which arms there are."""
        return JSONResponse(await self.door.work(self._described))

    def _described(self) -> dict[str, object]:
        return {**({} if self._more is None else self._more()), **self.arms.describe()}

    async def change(self, request: Request) -> Response:
        """Change shares."""
        body, arrow = await self.door.body(request)
        if arrow:
            raise Refusal(415, SchemaError("Content-Type", got=repr(ARROW), expected=JSON))
        shares = await self.door.work(lambda: self.arms.book.change(_shares(body)))
        self.door.note(request, {"shares": shares})
        return JSONResponse(await self.door.work(self._described))


def _shares(body: bytes) -> dict[str, object]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SchemaError("Body", got=str(error)[:200], expected="JSON") from error
    if not isinstance(content, dict) or set(content) != {"shares"} or not isinstance(content["shares"], dict):
        raise SchemaError("Body", got=json.dumps(content)[:100], expected='{"shares": {arm: share}}')
    return content["shares"]
