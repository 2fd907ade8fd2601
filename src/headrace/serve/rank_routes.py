"""`POST /v1/rank` and `POST /v1/feedback`."""

from __future__ import annotations

import time

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.serve import feedback_routes
from headrace.serve.arms import ARM
from headrace.serve.door import ARROW, READ, Door, flag
from headrace.serve.openapi import BEHIND, COUNT, TAKEN, ModelSchemas, Operation
from headrace.serve.requests import RankRequest, wanted_version
from headrace.serve.service import Ranking
from headrace.types import Events


def routes(door: Door) -> list[Route]:
    """Return the addresses that every server has."""
    at, about = _RankRoutes(door), _operations(door)
    return [
        Route("/v1/rank", door.counted("rank", at.rank, READ, about["rank"]), methods=["POST"]),
        *feedback_routes.routes(door, door.service.reader, door.service.feedback, about["feedback"]),
    ]


def _operations(door: Door) -> dict[str, Operation]:
    """Return what the OpenAPI document says, exactly for this model."""
    service = door.service
    schemas = ModelSchemas(service.reader.schema, service.reader.columns, max_rows=service.config.max_rows,
                           labels=service.predictor.schema)  # fmt: skip
    rank = Operation(
        summary="Score candidates, log them as shown, and return them best first.",
        query={"log_impressions": {"type": "string", "enum": ["true", "false"]}, "min_version": COUNT},
        body=schemas.rank(),
        arrow="Impression rows of any number of requests: key, the item, features, event_time.",
        answers={200: schemas.ranked(), 409: BEHIND}, arrow_answer=True,
    )  # fmt: skip
    feedback = Operation(
        summary="Take what users did. An action counts once per key, item and kind, however often it is sent.",
        body=schemas.feedback(), arrow="Rows of key, kind, the item, event_time and value.", answers={202: TAKEN},
    )  # fmt: skip
    return {"rank": rank, "feedback": feedback}


class _RankRoutes:
    """The endpoints of one service."""

    def __init__(self, door: Door) -> None:
        self.door, self.service = door, door.service

    async def rank(self, request: Request) -> Response:
        """Score candidates and log them."""
        body, arrow = await self.door.body(request)
        started = time.perf_counter()
        wanted, oldest = flag(request, "log_impressions"), request.query_params.get("min_version")
        ranking = await self.door.work(lambda: self._rank(body, arrow, wanted, oldest))
        if ranking.durable is not None:
            await self.door.durable(ranking.durable)
        events = ranking.predictions
        item = self.service.predictor.schema.item
        response = Response(events.to_bytes(), media_type=ARROW) if arrow else JSONResponse(ranked_json(events, item))
        self.service.metrics.latency.labels("rank").observe(time.perf_counter() - started)
        return response

    def _rank(self, body: bytes, arrow: bool, wanted: bool | None, oldest: str | None) -> Ranking:
        reader = self.service.reader
        asked = reader.rank_arrow(body) if arrow else reader.rank_json(body)
        log = asked.log_impressions if wanted is None else wanted
        version = asked.min_version if oldest is None else version_of(oldest)
        return self.service.rank(RankRequest(asked.events, log, version))


def version_of(text: str) -> int:
    """Return the `min_version` of a query; SchemaError if it is none.

    Example:
        >>> version_of("12")
        12
    """
    return wanted_version(int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else text)


def ranked_json(events: Events, item: str) -> dict[str, object]:
    """Return the answer to one JSON request; `order` lists places of candidates, best first."""
    scores = np.asarray(events.column("score").to_numpy(zero_copy_only=False))
    order = np.argsort(-scores, kind="stable")
    items = events.column(item).to_pylist()
    answer: dict[str, object] = {
        "key": events.column("key")[0].as_py(), "version": events.column("version")[0].as_py(),
        "arm": events.column(ARM)[0].as_py(),
        "scores": scores.tolist(), "order": order.tolist(), "items": [items[place] for place in order],
    }  # fmt: skip
    if "score_logged" in events.names:
        answer["scores_logged"] = events.column("score_logged").to_pylist()
    others = [name for name in events.names if name.startswith("score/")]
    if others:
        answer["label_scores"] = {name.removeprefix("score/"): events.column(name).to_pylist() for name in others}
    return answer
