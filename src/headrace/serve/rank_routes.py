"""`POST /v1/rank`, `POST /v1/feedback`, `GET /v1/health` and `GET /metrics`."""

from __future__ import annotations

import time

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.serve.door import ARROW, FEEDBACK, READ, Door, flag
from headrace.serve.requests import RankRequest
from headrace.serve.service import Ranking
from headrace.types import Events

METRICS = "text/plain; version=0.0.4; charset=utf-8"


def routes(door: Door) -> list[Route]:
    """Return the addresses that every server has."""
    at = _RankRoutes(door)
    return [
        Route("/v1/rank", door.counted("rank", at.rank, READ), methods=["POST"]),
        Route("/v1/feedback", door.counted("feedback", at.feedback, FEEDBACK), methods=["POST"]),
        Route("/v1/health", door.counted("health", at.health, READ), methods=["GET"]),
        Route("/metrics", door.counted("metrics", at.prometheus, READ), methods=["GET"]),
    ]


class _RankRoutes:
    """The endpoints of one service."""

    def __init__(self, door: Door) -> None:
        self.door, self.service = door, door.service

    async def rank(self, request: Request) -> Response:
        """Score candidates and log them."""
        body, arrow = await self.door.body(request)
        started = time.perf_counter()
        wanted = flag(request, "log_impressions")
        ranking = await self.door.work(lambda: self._rank(body, arrow, wanted))
        if ranking.durable is not None:
            await self.door.durable(ranking.durable)
        events = ranking.predictions
        item = self.service.predictor.schema.item
        response = Response(events.to_bytes(), media_type=ARROW) if arrow else JSONResponse(ranked_json(events, item))
        self.service.metrics.latency.labels("rank").observe(time.perf_counter() - started)
        return response

    def _rank(self, body: bytes, arrow: bool, wanted: bool | None) -> Ranking:
        reader = self.service.reader
        asked = reader.rank_arrow(body) if arrow else reader.rank_json(body)
        return self.service.rank(RankRequest(asked.events, asked.log_impressions if wanted is None else wanted))

    async def feedback(self, request: Request) -> Response:
        """Log actions."""
        body, arrow = await self.door.body(request)
        started = time.perf_counter()
        reader, service = self.service.reader, self.service
        durable = await self.door.work(
            lambda: service.feedback(reader.feedback_arrow(body) if arrow else reader.feedback_json(body))
        )
        written = await self.door.durable(durable)
        service.metrics.feedback.labels("accepted").inc(written.accepted)
        service.metrics.feedback.labels("duplicate").inc(written.duplicates)
        service.metrics.latency.labels("feedback").observe(time.perf_counter() - started)
        return JSONResponse({"accepted": written.accepted, "duplicates": written.duplicates}, 202)

    async def health(self, request: Request) -> Response:
        """Tell how the service is; 503 until there is a version."""
        state = self.service.health()
        return JSONResponse(state, 200 if self.service.predictor.version.number >= 0 else 503)

    async def prometheus(self, request: Request) -> Response:
        """Tell Prometheus."""
        return Response(self.service.metrics.text(), headers={"content-type": METRICS})


def ranked_json(events: Events, item: str) -> dict[str, object]:
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
