"""`GET /v1/questions` and `POST /v1/answers`: the addresses by which people are asked."""

from __future__ import annotations

from concurrent.futures import Future

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import DataError
from headrace.serve.door import ARROW, FEEDBACK, JSON, READ, Door, Refusal
from headrace.serve.event_writer import Written
from headrace.serve.openapi import COUNT, TAKEN, Operation
from headrace.serve.question_bodies import MAX_TEXT, asked_json, parse_annotator, parse_count, read_answers
from headrace.serve.question_book import Question
from headrace.serve.questions import QuestionDesk, Taken

QUESTIONS = Operation(
    summary="What to ask people next.",
    query={"count": COUNT | {"maximum": 999_999_999}, "task": {"type": "string"},
           "annotator": {"type": "string", "maxLength": MAX_TEXT}},
    answers={200: {"type": "object", "required": ["questions", "answers", "status"]}},
)  # fmt: skip


def routes(door: Door, desk: QuestionDesk) -> list[Route]:
    """Return the addresses of a server with examples to ask people about."""
    at, answers = _QuestionRoutes(door, desk), _answers(door.service.config.max_rows)
    return [
        Route("/v1/questions", door.counted("questions", at.questions, READ, QUESTIONS), methods=["GET"]),
        Route("/v1/answers", door.counted("answers", at.answers, FEEDBACK, answers), methods=["POST"]),
    ]


def _answers(most: int) -> Operation:
    text = {"type": "string", "maxLength": MAX_TEXT}
    one = {"type": "object", "required": ["key", "answer"], "additionalProperties": False,
           "properties": {"key": {**text, "minLength": 1}, "answer": {**text, "minLength": 1}, "annotator": text},
           }  # fmt: skip
    several = {"type": "array", "minItems": 1, "maxItems": most, "items": one}
    wrapped = {"type": "object", "required": ["answers"], "additionalProperties": False,
               "properties": {"answers": several}}  # fmt: skip
    return Operation(summary="Take answers of people.", body={"anyOf": [one, several, wrapped]}, answers={202: TAKEN})


class _QuestionRoutes:
    """The endpoints of one desk."""

    def __init__(self, door: Door, desk: QuestionDesk) -> None:
        self.door, self.desk = door, desk

    async def questions(self, request: Request) -> Response:
        """Tell what to ask next."""
        query = request.query_params
        asked, durable = await self.door.work(lambda: self._ask(query))
        if durable is not None:
            await self.door.durable(durable)
        return JSONResponse(asked_json(self.desk, asked))

    def _ask(self, query: QueryParams) -> tuple[list[Question], Future[Written] | None]:
        count, annotator = parse_count(query.get("count")), parse_annotator(query.get("annotator", ""))
        self.door.service.pressure.check()
        return self.desk.ask(count, task=query.get("task"), annotator=annotator)

    async def answers(self, request: Request) -> Response:
        """Take answers of people."""
        body, arrow = await self.door.body(request)
        if arrow:
            raise Refusal(415, DataError("Content-Type", got=repr(ARROW), expected=JSON))
        taken = await self.door.work(lambda: self._answer(body))
        for one in taken.durable:
            await self.door.durable(one)
        return JSONResponse({"accepted": taken.accepted, "duplicates": taken.duplicates}, 202)

    def _answer(self, body: bytes) -> Taken:
        answers = read_answers(body, self.door.service.config.max_rows)
        self.door.service.pressure.check()
        return self.desk.answer(answers)
