"""The rank service over HTTP: `/v1/rank`, `/v1/feedback`, and how the server is.

With a pool of examples to ask people about also `GET /v1/questions` and `POST /v1/answers`.

JSON and Arrow IPC streams are taken at the same addresses; the content type says which. Every error is a JSON object
with `what`, `got`, `expected` and `do`: 4xx when the request is wrong (nothing was logged), 503 when the server cannot
answer now. `GET /openapi.json` says all of it in detail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import headrace
from headrace.data.log import EmbeddedLog
from headrace.errors import DataError, HeadraceError
from headrace.publish.acknowledgements import Acknowledger
from headrace.publish.replica import ChangeSource
from headrace.serve import (
    completion_routes,
    erase_routes,
    feedback_routes,
    models_routes,
    preference_routes,
    question_routes,
    rank_routes,
    recommend_routes,
    state_routes,
)
from headrace.serve.access import AccessConfig
from headrace.serve.arms import Experiment
from headrace.serve.audit import FILE, AuditLog
from headrace.serve.door import Door, Refusal, refused
from headrace.serve.erasures import ErasureDesk
from headrace.serve.language_service import LanguageService
from headrace.serve.openapi import TAKEN, Address, Json, ModelSchemas, Operation, document
from headrace.serve.predictor import RankPredictor
from headrace.serve.questions import Asking
from headrace.serve.recommend import Recommender
from headrace.serve.recommend_desk import RecommendDesk
from headrace.serve.service import RankService
from headrace.serve.settings import ServeConfig

_log = logging.getLogger(__name__)


def create_app(
    predictor: RankPredictor, log: EmbeddedLog, config: ServeConfig | None = None, *,
    changes: ChangeSource | None = None, sign_of_life: Callable[[], float | None] | None = None,
    asking: Asking | None = None, access: AccessConfig | None = None, backlog: Callable[[], int | None] | None = None,
    acknowledger: Acknowledger | None = None, experiment: Experiment | None = None,
    recommender: Recommender | None = None, erasures: ErasureDesk | None = None,
) -> Starlette:  # fmt: skip
    """Return an ASGI application that answers with `predictor` and logs into `log`.

    The application follows `changes` from its start to its end, goes on answering when nothing new is published, and
    commits all that it took before it ends. The service behind it is `app.state.service`. What administrators do is
    written into `audit.jsonl` beside the event log.

    Args:
        predictor: Who scores; its replica is moved by the application if `changes` is given.
        log: The event log; impressions are in it before they are answered.
        config: Settings.
        changes: Where versions come from, a `ChangeReader` of the publisher's log.
        sign_of_life: Age in seconds of the learner's last sign of life, for `/v1/health`; see `RankService`.
        asking: Examples to ask people about, and how they are chosen; None: there are no such addresses.
        access: Who may enter; None: everybody who reaches the server, which `run_server` then keeps to loopback.
        backlog: Returns how many logged rows wait to be joined, for `ServeConfig.max_backlog_rows`.
        acknowledger: Tells the publisher which version is served here; None: nobody is told.
        experiment: Further arms that answer a share of the requests; None: `predictor` answers all.
        recommender: Finds candidates itself, for `POST /v1/recommend`; None: there is no such address.
        erasures: Forgets users, for `DELETE /v1/users/{id}`; None: there is no such address.
    """
    config = config or ServeConfig()
    service = RankService(predictor, log, config, changes=changes, sign_of_life=sign_of_life, asking=asking,
                          acknowledger=acknowledger, experiment=experiment)  # fmt: skip
    service.pressure.backlog, service.recommender = backlog, recommender
    if erasures is not None:
        service.forget_with(erasures)
    door = Door(service, ThreadPoolExecutor(config.threads, "rank"), access=access,
                audit=AuditLog(log.path.parent / FILE))  # fmt: skip
    return _application(door, service, _rank_routes(door))


def create_language_app(service: LanguageService, *, access: AccessConfig | None = None) -> Starlette:
    """Return an ASGI application of a language model; it starts and closes the service with itself.

    Args:
        service: Writes, logs and takes votes; `app.state.service` is this.
        access: Who may enter; None: everybody who reaches the server, which `run_server` then keeps to loopback.
    """
    door = Door(service, ThreadPoolExecutor(service.config.threads, "language"), access=access,
                audit=AuditLog(service.log.path.parent / FILE))  # fmt: skip
    schemas = ModelSchemas(service.actions.schema, service.actions.columns, max_rows=service.config.max_rows)
    about = Operation(
        summary="Take what people prefer, or what completions are worth; once each, however often it is sent.",
        description="`prefer` names the choice of two, `0` or `1`, or `tie`. `reward` names a choice, and has a value.",
        body=schemas.feedback(), arrow="Rows of key, kind, item, event_time and value.", answers={202: TAKEN},
    )  # fmt: skip
    return _application(door, service, [
        *completion_routes.routes(door, service), *preference_routes.routes(door, service),
        *feedback_routes.routes(door, service.actions, service.feedback, about),
        *models_routes.routes(door, service.models),
    ])  # fmt: skip


def _application(door: Door, service: RankService | LanguageService, groups: Sequence[Route]) -> Starlette:
    """Return the application of a service with these addresses, and those by which every server is watched."""

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
            door.pool.shutdown()

    app = Starlette(
        lifespan=lifespan,
        routes=_described(door, groups),
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},  # type: ignore[dict-item]
    )
    app.state.service, app.state.door = service, door
    return app


def _rank_routes(door: Door) -> list[Route]:
    """Collect the addresses of a server that ranks."""
    desk, recommender = door.service.desk, door.service.recommender
    return [
        *rank_routes.routes(door),
        *models_routes.routes(door),
        *([] if desk is None else question_routes.routes(door, desk)),
        *([] if door.service.erasures is None else erase_routes.routes(door, door.service.erasures)),
        *([] if recommender is None else recommend_routes.routes(door, RecommendDesk(door.service, recommender))),
    ]


def _described(door: Door, groups: Sequence[Route]) -> list[Route]:
    """Return addresses with those by which every server is watched, and the document about all of them."""
    found = list(groups)
    made: list[Json] = []  # made when it is first asked for, and kept: it cannot change while the server runs

    def described() -> Json:
        if not made:
            made.append(document(addresses_of(found), version=headrace.__version__, guarded=door.keeper.guarded))
        return made[0]

    found += state_routes.routes(door, described)
    return found


def addresses_of(routes: Sequence[Route]) -> list[Address]:
    """Return what is known about every address, by what `Door.counted` was told."""
    found = []
    for route in routes:
        name, scope, operation = vars(route.endpoint)["said"]
        said = operation or Operation(summary=name)
        found += [Address(method, route.path_format, name, scope, said) for method in sorted(route.methods or ())
                  if method != "HEAD"]  # fmt: skip
    return found


async def _http_error(request: Request, error: HTTPException) -> Response:
    known = [f"{one.method} {one.path}" for one in addresses_of(request.app.routes)]
    what = DataError("Request", got=f"{request.method} {request.url.path[:200]}", expected=", ".join(known),
                     do=error.detail)  # fmt: skip
    headers = dict(error.headers or {})
    path = getattr(request.scope.get("route"), "path", None)
    if error.status_code == 405 and path is not None:  # several routes may share it; the framework names one's methods
        ways = {method for route in request.app.routes if route.path == path for method in route.methods or ()}
        headers["Allow"] = ", ".join(sorted(ways))
    return refused(Refusal(error.status_code, what, headers))


async def _unexpected(request: Request, error: Exception) -> Response:
    # The pattern, not the path: that may name a user who is erased here.
    where = getattr(request.scope.get("route"), "path_format", "a request")
    _log.error("%s %s failed", request.method, where, exc_info=error)
    what = HeadraceError("Server", got=type(error).__name__, expected="an answer", do="Look at the server's log.")
    return refused(Refusal(500, what))
