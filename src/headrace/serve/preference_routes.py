"""`GET /preferences`, a plain page where people choose between two completions, and `POST /v1/comparisons`."""

from __future__ import annotations

import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.data.text import jagged
from headrace.errors import DataError
from headrace.serve.completion_routes import logged
from headrace.serve.door import ARROW, JSON, READ, Door, Endpoint, Refusal
from headrace.serve.json_values import fields_of, json_of
from headrace.serve.language_service import Begun, LanguageService
from headrace.serve.openapi import Json, Operation

PAGES = Path(__file__).parent / "pages"
FILES = {
    "/preferences": ("preferences.html", "text/html; charset=utf-8"),
    "/preferences/page.js": ("preferences.js", "text/javascript; charset=utf-8"),
    "/preferences/page.css": ("preferences.css", "text/css; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page may load and ask nothing but this server, and nobody may show it inside another page."""
SAFE = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin"}  # fmt: skip


def routes(door: Door, service: LanguageService) -> list[Route]:
    """Return the page's addresses and the one that it asks; the page itself holds nothing and asks for no token."""
    found = [Route(path, door.counted(f"page_{name.replace('.', '_')}", _file(name, kind), None, _page(name)),
                   methods=["GET"]) for path, (name, kind) in FILES.items()]  # fmt: skip
    at = _ComparisonRoutes(door, service)
    return [*found, Route("/v1/comparisons", door.counted("comparisons", at.compare, READ, COMPARE), methods=["POST"])]


def _page(name: str) -> Operation:
    return Operation(summary=f"A part of the page on which people choose: {name}.", answers={200: None})


def _file(name: str, kind: str) -> Endpoint:
    content = (PAGES / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, headers={"content-type": kind, **SAFE})

    return answer


_TEXT: Json = {"type": "string"}
_ONE: Json = {"type": "object", "required": ["item", "text"], "properties": {"item": _TEXT, "text": _TEXT}}
COMPARE = Operation(
    summary="Write two completions of one prompt for a person to choose from.",
    description="Without a prompt the server takes one of its own. The choice goes to `POST /v1/feedback`, as "
    '`{"key": ..., "kind": "prefer", "item": "0"}`, `"1"` or `"tie"`; the first one of a key counts.',
    body={"type": "object", "additionalProperties": False, "properties": {
        "prompt": {"type": ["string", "null"]}, "messages": {"type": ["array", "null"]}}},
    answers={200: {"type": "object", "required": ["key", "version", "prompt", "completions"], "properties": {
        "key": _TEXT, "version": {"type": "integer"}, "prompt": _TEXT,
        "completions": {"type": "array", "minItems": 2, "maxItems": 2, "items": _ONE}}}},
)  # fmt: skip


class _ComparisonRoutes:
    """The endpoint of one service."""

    def __init__(self, door: Door, service: LanguageService) -> None:
        self.door, self.service = door, service

    async def compare(self, request: Request) -> Response:
        """Write two completions, log them, and return them."""
        body, arrow = await self.door.body(request)
        if arrow:
            raise Refusal(415, DataError("Content-Type", got=repr(ARROW), expected=JSON))
        started = time.perf_counter()
        begun = await logged(self.door, lambda: self._begun(body))
        self.service.metrics.latency.labels("comparisons").observe(time.perf_counter() - started)
        return JSONResponse(self._told(begun))

    def _begun(self, body: bytes) -> Begun:
        content = fields_of(json_of(body), "Body", ("prompt", "messages"))
        return self.service.compare(content.get("prompt"), content.get("messages"))

    def _told(self, begun: Begun) -> dict[str, object]:
        order, codec = begun.order, self.service.codec
        completions = [{"item": str(place), "text": one.text.text} for place, one in enumerate(order.writings)]
        return {"key": begun.saying.key, "version": order.version.number, "completions": completions,
                "prompt": codec.decode(jagged([order.writings[0].task.prompt]))[0]}  # fmt: skip
