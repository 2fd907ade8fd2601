"""What every address of a server has in common: bodies, errors as JSON, counting, and work beside the event loop.

Each group of addresses is a module `*_routes.py` with a function `routes(door, ...)` that returns them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from headrace.errors import ConfigError, DataError, HeadraceError
from headrace.serve.event_writer import Written
from headrace.serve.service import RankService

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
READ, FEEDBACK, ADMIN = "read", "feedback", "admin"
Result = TypeVar("Result")
Endpoint = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        error: What is wrong, in four parts.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, error: HeadraceError, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.status, self.error, self.headers = status, error, headers or {}


class Door:
    """How requests come in and answers go out, the same for every address of a server.

    Args:
        service: What answers.
        pool: Threads for the work of requests.
    """

    def __init__(self, service: RankService, pool: ThreadPoolExecutor) -> None:
        self.service, self.pool = service, pool

    def counted(self, name: str, endpoint: Endpoint, scope: str | None) -> Endpoint:
        """Return the endpoint with its errors as JSON, counted, and open only to tokens with the scope.

        Args:
            name: The endpoint in metrics.
            endpoint: Answers a request, or raises `Refusal`.
            scope: `read`, `feedback` or `admin`; None: open to everybody.
        """
        metrics = self.service.metrics

        async def answer(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except Refusal as refusal:
                response = refused(refusal)
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody reads it
            except Exception:
                metrics.requests.labels(name, "500").inc()
                raise
            metrics.requests.labels(name, str(response.status_code)).inc()
            return response

        return answer

    async def work(self, work: Callable[[], Result]) -> Result:
        """Run it beside the event loop.

        Raises:
            Refusal: 400 for what the request did wrong, 503 for what the server cannot do now.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        except (DataError, ConfigError) as error:
            raise Refusal(400, error) from error
        except HeadraceError as error:
            raise Refusal(503, error) from error

    async def durable(self, future: Future[Written]) -> Written:
        """Wait until rows are on disk.

        Raises:
            Refusal: 503 if they cannot be written.
        """
        try:
            return await asyncio.wrap_future(future)
        except HeadraceError as error:  # whatever it is, the request was right
            raise Refusal(503, error) from error

    async def body(self, request: Request) -> tuple[bytes, bool]:
        """Return the body and whether it is Arrow.

        Raises:
            Refusal: 415 for another content type, 413 for a body that is too long.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (ARROW, JSON):
            raise Refusal(415, DataError("Content-Type", got=repr(kind[:100]), expected=f"{JSON} or {ARROW}"))
        limit = self.service.config.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_long(declared[:20], limit)
        chunks, size = [], 0
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise _too_long(f"more than {limit}", limit)
        return b"".join(chunks), kind == ARROW


def flag(request: Request, name: str) -> bool | None:
    """Return a query parameter that is `true` or `false`; None where it is not given.

    Raises:
        Refusal: 400 for anything else.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    if text not in ("true", "false"):
        raise Refusal(400, DataError(f"Query, {name}", got=repr(text[:100]), expected="true or false"))
    return text == "true"


def refused(refusal: Refusal) -> Response:
    """Return a refusal as an answer: a JSON object with `what`, `got`, `expected` and `do`."""
    error = refusal.error
    content = {"what": error.what, "got": error.got, "expected": error.expected, "do": error.do}
    again = {"retry-after": "1"} if refusal.status == 503 else {}
    return JSONResponse(content, refusal.status, headers=again | refusal.headers)


def _too_long(got: str, limit: int) -> Refusal:
    error = DataError("Body", got=f"{got} bytes", expected=f"at most {limit}", do="Send fewer rows at a time.")
    return Refusal(413, error)
