"""`POST /v1/completions` and `POST /v1/chat/completions`, as clients of the OpenAI protocol expect them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.errors import DataError, HeadraceError
from headrace.serve.arms import check_min_version
from headrace.serve.door import ARROW, JSON, READ, Door, Refusal
from headrace.serve.language_service import Begun, LanguageService
from headrace.serve.language_settings import MOST_TEMPERATURE
from headrace.serve.openai_answers import error_json, event
from headrace.serve.openai_bodies import MOST_STOPS, MOST_TOP, WritingRequest
from headrace.serve.openapi import COUNT, Json, Operation
from headrace.serve.rank_routes import version_of
from headrace.serve.refusals import again_after

_log = logging.getLogger(__name__)
EVENTS = "text/event-stream"
Read = Callable[[bytes], WritingRequest]


def routes(door: Door, service: LanguageService) -> list[Route]:
    """Return the addresses that write."""
    at, about = _CompletionRoutes(door, service), _operations(service)
    return [
        Route(path, door.counted(name, endpoint, READ, about[name], refusal=refused), methods=["POST"])
        for path, name, endpoint in (("/v1/completions", "completions", at.completions),
                                     ("/v1/chat/completions", "chat", at.chat))
    ]  # fmt: skip


async def logged(door: Door, begin: Callable[[], Begun]) -> Begun:
    """Begin to write, and return when it is in the log; whoever leaves before ends the writing.

    Raises:
        Refusal: 400 for what the request did wrong, 503 for what the server cannot do now.
    """
    begun = await door.work(begin)
    try:
        await door.durable(begun.durable)
    except asyncio.CancelledError:
        begun.order.cancel()
        raise
    return begun


def refused(refusal: Refusal) -> Response:
    """Return a refusal in the form of the protocol: an object `error` with message, type, param and code."""
    again = again_after(1.0) if refusal.status == 503 else {}
    return JSONResponse(error_json(refusal), refusal.status, headers=again | refusal.headers)


@dataclass(slots=True, eq=False)
class _Pieces:
    """What the writing thread says, handed over to the event loop."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[tuple[int, str, int] | None] = field(default_factory=asyncio.Queue)

    def told(self, place: int, text: str, until: int) -> None:
        """Take a step; called from the writing thread."""
        self.loop.call_soon_threadsafe(self.queue.put_nowait, (place, text, until))

    def ended(self, _: object) -> None:
        """Take the end; called from whichever thread it comes from."""
        self.loop.call_soon_threadsafe(self.queue.put_nowait, None)


class _CompletionRoutes:
    """The endpoints of one service."""

    def __init__(self, door: Door, service: LanguageService) -> None:
        self.door, self.service = door, service

    async def completions(self, request: Request) -> Response:
        """Continue texts."""
        return await self._answer(request, "completions", self.service.bodies.completion)

    async def chat(self, request: Request) -> Response:
        """Say what comes next in a conversation."""
        return await self._answer(request, "chat", self.service.bodies.chat)

    async def _answer(self, request: Request, name: str, read: Read) -> Response:
        body, arrow = await self.door.body(request)
        if arrow:
            raise Refusal(415, DataError("Content-Type", got=repr(ARROW), expected=JSON))
        started, oldest = time.perf_counter(), request.query_params.get("min_version")
        wanted = await self.door.work(lambda: self._read(body, oldest, read))
        if wanted.stream:
            pieces = _Pieces(asyncio.get_running_loop())
            begun = await self.door.work(lambda: self.service.begin(wanted, pieces.told))
            begun.durable.add_done_callback(pieces.ended)
            return StreamingResponse(_streamed(begun, pieces), media_type=EVENTS)
        begun = await logged(self.door, lambda: self.service.begin(wanted))
        self.service.metrics.latency.labels(name).observe(time.perf_counter() - started)
        return JSONResponse(begun.saying.whole(begun.order))

    def _read(self, body: bytes, oldest: str | None, read: Read) -> WritingRequest:
        if oldest is not None:
            check_min_version(self.service.predictor.version.number, version_of(oldest))
        return read(body)


async def _streamed(begun: Begun, pieces: _Pieces) -> AsyncIterator[bytes]:
    """Yield an answer piece by piece; its end comes when it is in the log. Whoever leaves early ends the writing."""
    saying, order = begun.saying, begun.order
    told, opened = [0] * len(order.writings), False
    try:
        while (piece := await pieces.queue.get()) is not None:
            if not opened:  # only now it is known which version writes
                opened = True
                for line in saying.opening(order):
                    yield line
            place, text, until = piece
            if text or saying.request.top is not None:
                yield saying.piece(order, place, text, told[place], until)
                told[place] = until
        error = begun.durable.exception()
        if error is not None:
            yield event(error_json(_failed(error)))
            return
        for line in saying.ending(order):
            yield line
    finally:
        order.cancel()


def _failed(error: BaseException) -> Refusal:
    """Return what a client hears of a failure; of one that nobody foresaw the log tells more."""
    if isinstance(error, HeadraceError):
        return Refusal(503, error)
    _log.error("a completion failed", exc_info=error)
    return Refusal(500, HeadraceError("Server", got=type(error).__name__, expected="an answer",
                                      do="Look at the server's log."))  # fmt: skip


def _operations(service: LanguageService) -> dict[str, Operation]:
    """Return what the OpenAPI document says."""
    settings = service.offer.settings
    longest: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": settings.max_tokens}
    stop: Json = {"type": "string", "minLength": 1}
    shared: Json = {
        "model": {"type": "string", "enum": [service.offer.name]}, "max_tokens": longest,
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": MOST_TEMPERATURE},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": settings.max_choices},
        "seed": {"type": ["integer", "null"]}, "stream": {"type": ["boolean", "null"]},
        "stop": {"anyOf": [stop, {"type": "array", "items": stop, "maxItems": MOST_STOPS}, {"type": "null"}]},
        "stream_options": {"type": ["object", "null"], "additionalProperties": False,
                           "properties": {"include_usage": {"type": "boolean"}}},
        "user": {"type": ["string", "null"], "description": "Taken and not kept."},
    }  # fmt: skip
    text = {"type": "string"}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["system", "developer", "user", "assistant"]}, "content": text},
    }
    chat: Json = {**shared, "messages": {"type": "array", "minItems": 1, "items": message},
                  "max_completion_tokens": longest, "logprobs": {"type": ["boolean", "null"]},
                  "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": MOST_TOP}}  # fmt: skip
    tokens = {"type": "array", "items": COUNT, "minItems": 1}
    plain: Json = {
        **shared,
        "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 5},
        "prompt": {"anyOf": [text, tokens, {"type": "array", "items": {"anyOf": [text, tokens]}}]},
    }
    also = "Fields that are not followed (penalties, tools, formats) are refused, unless they ask for nothing."
    return {
        "completions": _operation("Continue texts.", plain, ["model", "prompt"], also),
        "chat": _operation("Say what comes next in a conversation.", chat, ["model", "messages"], also),
    }


def _operation(summary: str, fields: Json, needed: list[str], also: str) -> Operation:
    answer: Json = {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"]}
    return Operation(
        summary=summary, description=f"As in the OpenAI protocol; with `stream` as server-sent events. {also}",
        query={"min_version": COUNT}, answers={200: answer}, protocol=True,
        errors={404: "Another model.", 409: "An older version."},
        body={"type": "object", "required": needed, "properties": fields},
    )  # fmt: skip
