"""How a server is: `GET /v1/live`, `GET /v1/ready`, `GET /v1/health`, `GET /metrics` and `GET /openapi.json`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import VersionError
from headrace.serve.door import READ, Door, Refusal
from headrace.serve.openapi import Json, Operation

METRICS = "text/plain; version=0.0.4; charset=utf-8"
_STATUS: Json = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
LIVE = Operation(summary="Whether the process runs.", description="Restart it when this does not answer.",
                 answers={200: _STATUS})  # fmt: skip
READY = Operation(summary="Whether to send traffic here.", answers={200: _STATUS},
                  errors={503: "Not now: no version yet, warming up, or ending."})  # fmt: skip
HEALTH = Operation(
    summary="How the server is.", description="Which version answers, how old it is, and what it follows.",
    answers={200: _STATUS, 503: {"type": "object", "description": "No version yet, or an error."}},
)  # fmt: skip
PROMETHEUS = Operation(summary="Metrics for Prometheus.", answers={200: None}, text=True)
DOCUMENT = Operation(summary="This document.", answers={200: {"type": "object", "required": ["openapi", "paths"]}})


def routes(door: Door, document: Callable[[], Json]) -> list[Route]:
    """Return the addresses by which a server is watched.

    Args:
        door: Of the server.
        document: Returns the OpenAPI document.
    """
    at = _StateRoutes(door, document)
    return [
        Route("/v1/live", door.counted("live", at.live, None, LIVE), methods=["GET"]),
        Route("/v1/ready", door.counted("ready", at.ready, None, READY), methods=["GET"]),
        Route("/v1/health", door.counted("health", at.health, READ, HEALTH), methods=["GET"]),
        Route("/metrics", door.counted("metrics", at.prometheus, READ, PROMETHEUS), methods=["GET"]),
        Route("/openapi.json", door.counted("openapi", at.openapi, READ, DOCUMENT), methods=["GET"]),
    ]


class _StateRoutes:
    """The endpoints of one service."""

    def __init__(self, door: Door, document: Callable[[], Json]) -> None:
        self.service, self._document = door.watched, document

    async def live(self, request: Request) -> Response:
        """Tell that the process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Tell whether traffic may come."""
        if reason := self.service.readiness.reason:
            raise Refusal(503, VersionError("Server", got=reason, expected="a version that answers"))
        return JSONResponse({"status": "ok"})

    async def health(self, request: Request) -> Response:
        """Tell how the service is; 503 until there is a version."""
        state = self.service.health()
        return JSONResponse(state, 200 if self.service.answering.version.number >= 0 else 503)

    async def prometheus(self, request: Request) -> Response:
        """Tell Prometheus."""
        return Response(self.service.metrics.text(), headers={"content-type": METRICS})

    async def openapi(self, request: Request) -> Response:
        """Tell what can be asked, exactly for this model."""
        return JSONResponse(self._document())
