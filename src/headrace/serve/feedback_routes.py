"""`POST /v1/feedback`: what users did, what people prefer, what something is worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.serve.door import FEEDBACK, Door
from headrace.serve.event_writer import Written
from headrace.serve.openapi import Operation
from headrace.serve.requests import RequestReader
from headrace.types import Events

Take = Callable[[Events], Future[Written]]
"""Hands actions to the log; the future is done when they are durable."""


def routes(door: Door, reader: RequestReader, take: Take, about: Operation) -> list[Route]:
    """Return the address that takes actions.

    Args:
        door: Of the server.
        reader: Reads bodies.
        take: Takes what was read.
        about: What the OpenAPI document says.
    """
    at = _FeedbackRoutes(door, reader, take)
    return [Route("/v1/feedback", door.counted("feedback", at.feedback, FEEDBACK, about), methods=["POST"])]


class _FeedbackRoutes:
    """The endpoint of one service."""

    def __init__(self, door: Door, reader: RequestReader, take: Take) -> None:
        self.door, self.reader, self.take = door, reader, take

    async def feedback(self, request: Request) -> Response:
        """Log actions."""
        body, arrow = await self.door.body(request)
        started, reader, metrics = time.perf_counter(), self.reader, self.door.watched.metrics
        durable = await self.door.work(
            lambda: self.take(reader.feedback_arrow(body) if arrow else reader.feedback_json(body))
        )
        written = await self.door.durable(durable)
        metrics.feedback.labels("accepted").inc(written.accepted)
        metrics.feedback.labels("duplicate").inc(written.duplicates)
        metrics.latency.labels("feedback").observe(time.perf_counter() - started)
        return JSONResponse({"accepted": written.accepted, "duplicates": written.duplicates}, 202)
