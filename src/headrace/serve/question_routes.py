"""`GET /v1/questions` and `POST /v1/answers`: the addresses by which people are asked."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import DataError
from headrace.serve.door import ARROW, FEEDBACK, JSON, READ, Door, Refusal
from headrace.serve.question_bodies import asked_json, parse_annotator, parse_count, read_answers
from headrace.serve.questions import QuestionDesk


def routes(door: Door, desk: QuestionDesk) -> list[Route]:
    """Return the addresses of a server with examples to ask people about."""
    at = _QuestionRoutes(door, desk)
    return [
        Route("/v1/questions", door.counted("questions", at.questions, READ), methods=["GET"]),
        Route("/v1/answers", door.counted("answers", at.answers, FEEDBACK), methods=["POST"]),
    ]


class _QuestionRoutes:
    """The endpoints of one desk."""

    def __init__(self, door: Door, desk: QuestionDesk) -> None:
        self.door, self.desk = door, desk

    async def questions(self, request: Request) -> Response:
        """Tell what to ask next."""
        query = request.query_params
        for name in query:
            if name not in ("count", "task", "annotator"):
                raise Refusal(400, DataError(f"Query, {name[:100]}", got="unknown", expected="count, task or "
                                             "annotator"))  # fmt: skip
        asked, durable = await self.door.work(
            lambda: self.desk.ask(
                parse_count(query.get("count")),
                task=query.get("task"),
                annotator=parse_annotator(query.get("annotator", "")),
            )
        )
        if durable is not None:
            await self.door.durable(durable)
        return JSONResponse(asked_json(self.desk, asked))

    async def answers(self, request: Request) -> Response:
        """Take answers of people."""
        body, arrow = await self.door.body(request)
        if arrow:
            raise Refusal(415, DataError("Content-Type", got=repr(ARROW), expected=JSON))
        most = self.door.service.config.max_rows
        taken = await self.door.work(lambda: self.desk.answer(read_answers(body, most)))
        for one in taken.durable:
            await self.door.durable(one)
        return JSONResponse({"accepted": taken.accepted, "duplicates": taken.duplicates}, 202)
