"""The rank service over HTTP: `POST /v1/rank`, `POST /v1/feedback`, `GET /v1/health`, `GET /metrics`.

With a pool of examples to ask people about also `GET /v1/questions` and `POST /v1/answers`.

JSON and Arrow IPC streams are taken at the same addresses; the content type says which. Every error is a JSON object
with `what`, `got`, `expected` and `do`: 4xx when the request is wrong (nothing was logged), 503 when the server cannot
answer now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, DataError, HeadraceError
from headrace.publish.replica import ChangeSource
from headrace.serve.event_writer import Written
from headrace.serve.predictor import RankPredictor
from headrace.serve.question_bodies import asked_json, parse_annotator, parse_count, read_answers
from headrace.serve.questions import Asking, QuestionDesk
from headrace.serve.requests import RankRequest
from headrace.serve.service import Ranking, RankService
from headrace.serve.settings import ServeConfig
from headrace.types import Events

_log = logging.getLogger(__name__)
ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
Result = TypeVar("Result")
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    predictor: RankPredictor, log: EmbeddedLog, config: ServeConfig | None = None, *,
    changes: ChangeSource | None = None, sign_of_life: Callable[[], float | None] | None = None,
    asking: Asking | None = None,
) -> Starlette:  # fmt: skip
    """Return an ASGI application that answers with `predictor` and logs into `log`.

    The application follows `changes` from its start to its end, goes on answering when nothing new is published, and
    commits all that it took before it ends. The service behind it is `app.state.service`.

    Args:
        predictor: Who scores; its replica is moved by the application if `changes` is given.
        log: The event log; impressions are in it before they are answered.
        config: Settings.
        changes: Where versions come from, a `ChangeReader` of the publisher's log.
        sign_of_life: Age in seconds of the learner's last sign of life, for `/v1/health`; see `RankService`.
        asking: Examples to ask people about, and how they are chosen; None: there are no such addresses.
    """
    config = config or ServeConfig()
    service = RankService(predictor, log, config, changes=changes, sign_of_life=sign_of_life, asking=asking)
    routes = _Routes(service, ThreadPoolExecutor(config.threads, "rank"))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(service.start)
        except Exception as error:
            app.state.failure = error  # `run_server` raises it again
            raise
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)
            routes.pool.shutdown()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/v1/rank", routes.counted("rank", routes.rank), methods=["POST"]),
            Route("/v1/feedback", routes.counted("feedback", routes.feedback), methods=["POST"]),
            Route("/v1/health", routes.counted("health", routes.health), methods=["GET"]),
            Route("/metrics", routes.prometheus, methods=["GET"]),
            *([] if service.desk is None else routes.about_questions(service.desk)),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},  # type: ignore[dict-item]
    )
    app.state.service = service
    return app


class _Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, error: HeadraceError) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


class _Routes:
    """The endpoints of one service."""

    def __init__(self, service: RankService, pool: ThreadPoolExecutor) -> None:
        self.service, self.pool = service, pool

    def counted(self, name: str, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint with its errors as JSON, and counted."""
        metrics = self.service.metrics

        async def answer(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except _Refusal as refusal:
                response = _error(refusal.status, refusal.error)
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody reads it
            except Exception:
                metrics.requests.labels(name, "500").inc()
                raise
            metrics.requests.labels(name, str(response.status_code)).inc()
            return response

        return answer

    async def rank(self, request: Request) -> Response:
        """Score candidates and log them."""
        body, arrow = await self._body(request)
        started = time.perf_counter()
        flag = _flag(request, "log_impressions")
        ranking = await self._work(lambda: self._rank(body, arrow, flag))
        if ranking.durable is not None:
            await self._durable(ranking.durable)
        events = ranking.predictions
        response = Response(events.to_bytes(), media_type=ARROW) if arrow else JSONResponse(_ranked(events, self.item))
        self.service.metrics.latency.labels("rank").observe(time.perf_counter() - started)
        return response

    @property
    def item(self) -> str:
        """The column that names the candidate."""
        return self.service.predictor.schema.item

    def _rank(self, body: bytes, arrow: bool, flag: bool | None) -> Ranking:
        reader = self.service.reader
        asked = reader.rank_arrow(body) if arrow else reader.rank_json(body)
        wanted = asked.log_impressions if flag is None else flag
        return self.service.rank(RankRequest(asked.events, wanted))

    async def feedback(self, request: Request) -> Response:
        """Log actions."""
        body, arrow = await self._body(request)
        started = time.perf_counter()
        reader, service = self.service.reader, self.service
        durable = await self._work(
            lambda: service.feedback(reader.feedback_arrow(body) if arrow else reader.feedback_json(body))
        )
        written = await self._durable(durable)
        service.metrics.feedback.labels("accepted").inc(written.accepted)
        service.metrics.feedback.labels("duplicate").inc(written.duplicates)
        service.metrics.latency.labels("feedback").observe(time.perf_counter() - started)
        return JSONResponse({"accepted": written.accepted, "duplicates": written.duplicates}, 202)

    def about_questions(self, desk: QuestionDesk) -> list[Route]:
        """Return the addresses by which people are asked."""

        async def questions(request: Request) -> Response:
            query = request.query_params
            for name in query:
                if name not in ("count", "task", "annotator"):
                    raise _Refusal(400, DataError(f"Query, {name[:100]}", got="unknown", expected="count, task or "
                                                  "annotator"))  # fmt: skip
            asked, durable = await self._work(
                lambda: desk.ask(
                    parse_count(query.get("count")),
                    task=query.get("task"),
                    annotator=parse_annotator(query.get("annotator", "")),
                )
            )
            if durable is not None:
                await self._durable(durable)
            return JSONResponse(asked_json(desk, asked))

        async def answers(request: Request) -> Response:
            body, arrow = await self._body(request)
            if arrow:
                raise _Refusal(415, DataError("Content-Type", got=repr(ARROW), expected=JSON))
            taken = await self._work(lambda: desk.answer(read_answers(body, self.service.config.max_rows)))
            for one in taken.durable:
                await self._durable(one)
            return JSONResponse({"accepted": taken.accepted, "duplicates": taken.duplicates}, 202)

        return [Route("/v1/questions", self.counted("questions", questions), methods=["GET"]),
                Route("/v1/answers", self.counted("answers", answers), methods=["POST"])]  # fmt: skip

    async def health(self, request: Request) -> Response:
        """Tell how the service is; 503 until there is a version."""
        state = self.service.health()
        return JSONResponse(state, 200 if self.service.predictor.version.number >= 0 else 503)

    async def prometheus(self, request: Request) -> Response:
        """Tell Prometheus."""
        return Response(self.service.metrics.text(), headers={"content-type": METRICS})

    async def _work(self, work: Callable[[], Result]) -> Result:
        """Run it beside the event loop; what the request did wrong is 4xx, what the server cannot do now is 503."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        except (DataError, ConfigError) as error:
            raise _Refusal(400, error) from error
        except HeadraceError as error:
            raise _Refusal(503, error) from error

    async def _durable(self, future: Future[Written]) -> Written:
        try:
            return await asyncio.wrap_future(future)
        except HeadraceError as error:  # whatever it is, the request was right
            raise _Refusal(503, error) from error

    async def _body(self, request: Request) -> tuple[bytes, bool]:
        """Return the body and whether it is Arrow."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (ARROW, JSON):
            raise _Refusal(415, DataError("Content-Type", got=repr(kind), expected=f"{JSON} or {ARROW}"))
        limit = self.service.config.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_long(declared, limit)
        chunks, size = [], 0
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise _too_long(f"more than {limit}", limit)
        return b"".join(chunks), kind == ARROW


def _ranked(events: Events, item: str) -> dict[str, object]:
    """Return the answer to one JSON request; `order` lists places of candidates, best first."""
    scores = np.asarray(events.column("score").to_numpy(zero_copy_only=False))
    order = np.argsort(-scores, kind="stable")
    items = events.column(item).to_pylist()
    answer: dict[str, object] = {
        "key": events.column("key")[0].as_py(), "version": events.column("version")[0].as_py(),
        "scores": scores.tolist(), "order": order.tolist(), "items": [items[place] for place in order],
    }  # fmt: skip
    if "score_logged" in events.names:
        answer["scores_logged"] = events.column("score_logged").to_pylist()
    others = [name for name in events.names if name.startswith("score/")]
    if others:
        answer["label_scores"] = {name.removeprefix("score/"): events.column(name).to_pylist() for name in others}
    return answer


def _flag(request: Request, name: str) -> bool | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if text not in ("true", "false"):
        raise _Refusal(400, DataError(f"Query, {name}", got=repr(text[:100]), expected="true or false"))
    return text == "true"


def _too_long(got: str, limit: int) -> _Refusal:
    error = DataError("Body", got=f"{got} bytes", expected=f"at most {limit}", do="Send fewer rows at a time.")
    return _Refusal(413, error)


def _error(status: int, error: HeadraceError) -> Response:
    content = {"what": error.what, "got": error.got, "expected": error.expected, "do": error.do}
    return JSONResponse(content, status, headers={"retry-after": "1"} if status == 503 else None)


async def _http_error(request: Request, error: HTTPException) -> Response:
    expected = ("POST /v1/rank, POST /v1/feedback, GET /v1/health or GET /metrics; where people are asked also "
                "GET /v1/questions and POST /v1/answers")  # fmt: skip
    what = DataError("Request", got=f"{request.method} {request.url.path[:200]}", expected=expected, do=error.detail)
    response = _error(error.status_code, what)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    what = HeadraceError("Server", got=type(error).__name__, expected="an answer", do="Look at the server's log.")
    return _error(500, what)
