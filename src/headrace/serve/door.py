"""What every address of a server has in common: who may enter, bodies, errors as JSON, counting, and work off the loop.

Each group of addresses is a module `*_routes.py` with a function `routes(door, ...)` that returns them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from headrace.errors import CapacityError, ConfigError, DataError, HeadraceError, StoreError, nearest
from headrace.serve.access import AccessConfig, Doorkeeper
from headrace.serve.audit import AuditLog
from headrace.serve.event_writer import Written
from headrace.serve.openapi import ARROW, JSON, Operation
from headrace.serve.refusals import Refusal, again_after
from headrace.serve.service import RankService
from headrace.serve.tokens import ADMIN, FEEDBACK, READ
from headrace.serve.watched import Watched

__all__ = ["ADMIN", "ARROW", "FEEDBACK", "JSON", "READ", "Door", "Endpoint", "Refusal", "flag", "refused"]

Result = TypeVar("Result")
Endpoint = Callable[[Request], Awaitable[Response]]
Refused = Callable[[Refusal], Response]
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Answers are about somebody, and are data only: nobody keeps them, nobody guesses their type."""


class Door:
    """How requests come in and answers go out, the same for every address of a server.

    Args:
        service: What answers.
        pool: Threads for the work of requests.
        access: Who may enter; None: everybody.
        audit: Where actions of administrators are written down; None: nowhere.
    """

    def __init__(
        self, service: Watched, pool: ThreadPoolExecutor, *, access: AccessConfig | None = None,
        audit: AuditLog | None = None,
    ) -> None:  # fmt: skip
        self.watched, self.pool, self.audit = service, pool, audit
        self.keeper = Doorkeeper(access or AccessConfig())
        self.in_flight = self.held_bytes = 0

    @property
    def service(self) -> RankService:
        """The service of a server that ranks."""
        return cast(RankService, self.watched)

    def counted(
        self, name: str, endpoint: Endpoint, scope: str | None, operation: Operation | None = None,
        *, refusal: Refused | None = None,
    ) -> Endpoint:  # fmt: skip
        """Return the endpoint with its errors as JSON, counted, and open only to tokens with the scope.

        What needs the scope `admin` and changes something is written into the audit file before and after it is done.

        Args:
            name: The endpoint in metrics.
            endpoint: Answers a request, or raises `Refusal`.
            scope: `read`, `feedback` or `admin`; None: open to everybody.
            operation: What the OpenAPI document says about it. Query parameters that it does not name are refused.
            refusal: Returns a refusal as an answer, where its form is not that of all others.
        """
        metrics, said = self.watched.metrics, refusal or refused

        async def answer(request: Request) -> Response:
            request.state.held = 0
            self.in_flight += 1
            try:
                self._admit(request, scope, operation)
                response = await self._done(name, endpoint, request, scope)
            except Refusal as reason:
                response = said(reason)
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody reads it
            except Exception:
                metrics.requests.labels(name, "500").inc()
                raise
            finally:
                self.in_flight -= 1
                self.held_bytes -= request.state.held
            metrics.requests.labels(name, str(response.status_code)).inc()
            response.headers.update(HEADERS)
            return response

        answer.said = (name, scope, operation)  # type: ignore[attr-defined]  # `create_app` makes the document of these
        return answer

    def note(self, request: Request, details: Mapping[str, object]) -> None:
        """Add to what the audit file says about this request; never what a user may be known by."""
        request.state.details = {**getattr(request.state, "details", {}), **details}

    async def work(self, work: Callable[[], Result]) -> Result:
        """Run it beside the event loop.

        Raises:
            Refusal: 400 for what the request did wrong, 503 for what the server cannot do now.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        except (DataError, ConfigError) as error:
            raise Refusal(400, error) from error
        except CapacityError as error:
            raise Refusal(503, error, again_after(self.watched.pressure.retry_s)) from error
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
            Refusal: 415 for another content type, 413 for a body that is too long, 408 for one that does not come,
                503 while other bodies fill the memory that is set apart for them.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (ARROW, JSON):
            raise Refusal(415, DataError("Content-Type", got=repr(kind[:100]), expected=f"{JSON} or {ARROW}"))
        limit = self.watched.config.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_long(declared[:20], limit)
        seconds = self.watched.config.body_timeout_s
        try:
            async with asyncio.timeout(seconds):
                return await self._received(request, limit), kind == ARROW
        except TimeoutError as error:
            what = DataError("Body", got=f"only a part within {seconds:g} s", expected="all of it")
            raise Refusal(408, what, {"connection": "close"}) from error

    async def _received(self, request: Request, limit: int) -> bytes:
        chunks, most = [], self.watched.config.max_held_bytes
        async for chunk in request.stream():
            chunks.append(chunk)
            request.state.held += len(chunk)
            self.held_bytes += len(chunk)
            if request.state.held > limit:
                raise _too_long(f"more than {limit}", limit)
            if self.held_bytes > most:
                raise Refusal(503, CapacityError("Server", got=f"bodies of more than {most} bytes at a time",
                                                 expected="fewer", do="Try again in a second."))  # fmt: skip
        return b"".join(chunks)

    def _admit(self, request: Request, scope: str | None, operation: Operation | None) -> None:
        """Refuse whoever may not enter, and what is not asked as it should be; cheap things first."""
        if self.in_flight > self.watched.config.max_in_flight and scope is not None:
            raise Refusal(503, CapacityError("Server", got=f"{self.in_flight} requests at a time", expected="fewer",
                                             do="Try again in a second."))  # fmt: skip
        address = request.client.host if request.client is not None else ""
        request.state.visitor = self.keeper.admit(request.headers.get("authorization"), address, scope)
        if operation is None:
            return
        for name in request.query_params:
            if name not in operation.query:
                raise Refusal(400, DataError(f"Query, {name[:100]}", got="unknown",
                                             expected=nearest(name, operation.query)))  # fmt: skip
        names = [name for name, _ in request.query_params.multi_items()]
        if len(set(names)) != len(names):
            raise Refusal(400, DataError("Query", got="a parameter more than once", expected="every one once"))

    async def _done(self, name: str, endpoint: Endpoint, request: Request, scope: str | None) -> Response:
        """Answer; what an administrator changes is written down before and after."""
        if scope != ADMIN or request.method in ("GET", "HEAD") or self.audit is None:
            return await endpoint(request)
        visitor, loop, audit = request.state.visitor, asyncio.get_running_loop(), self.audit
        # The pattern, not the path: that may name a user who is erased here.
        what = f"{request.method} {getattr(request.scope.get('route'), 'path_format', name)}"
        try:
            action = await loop.run_in_executor(self.pool, audit.begin, visitor.name, what, {"from": visitor.address})
        except StoreError as error:
            raise Refusal(503, error) from error
        state = "failed"
        try:
            response = await endpoint(request)
            state = str(response.status_code)
        except Refusal as refusal:
            state = str(refusal.status)
            raise
        finally:
            details = getattr(request.state, "details", {})
            await asyncio.shield(loop.run_in_executor(self.pool, audit.end, action, state, details))
        return response


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
    parts = {"what": error.what, "got": error.got, "expected": error.expected, "do": error.do}
    # A message may quote half of a surrogate pair, which JSON can write and UTF-8 cannot.
    said = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in parts.items()}
    content = {**said, **refusal.more}
    again = again_after(1.0) if refusal.status == 503 else {}
    return JSONResponse(content, refusal.status, headers=HEADERS | again | refusal.headers)


def _too_long(got: str, limit: int) -> Refusal:
    error = DataError("Body", got=f"{got} bytes", expected=f"at most {limit}", do="Send fewer rows at a time.")
    return Refusal(413, error)
