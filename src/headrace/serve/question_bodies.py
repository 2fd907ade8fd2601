"""What clients send and get about questions, as JSON; without any framework."""

from __future__ import annotations

import json
from collections.abc import Sequence

from headrace.errors import SchemaError, nearest
from headrace.serve.question_book import Question
from headrace.serve.questions import Answer, QuestionDesk

_FIELDS = ("key", "answer", "annotator")
MAX_TEXT = 1024


def parse_count(text: str | None) -> int:
    """Return how many questions are wanted; 1 where nothing is said.

    Raises:
        SchemaError: If it is no number.
    """
    if text is None:
        return 1
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise SchemaError("Query, count", got=repr(text[:100]), expected="a positive integer")
    return int(text)


def parse_annotator(text: str) -> str:
    """Return the name of who asks for questions; empty where nothing is said.

    Raises:
        SchemaError: If it is too long for a name, or cannot be printed.
    """
    if len(text) > MAX_TEXT or not text.isprintable():
        raise SchemaError("Query, annotator", got=repr(text[:100]), expected=f"text of at most {MAX_TEXT} letters")
    return text


def asked_json(desk: QuestionDesk, asked: Sequence[Question]) -> dict[str, object]:
    """Return questions for people: what they see, which answers there are, and where the desk stands."""
    pool = desk.pool
    questions = [
        {"key": one.key, "item": pool.name_of(one.row), "task": pool.task_of(one.row), "shown": pool.told(one.row),
         "score": one.score, "chance": one.chance, "version": one.version}
        for one in asked
    ]  # fmt: skip
    return {"questions": questions, "answers": list(desk.answers), "status": desk.status()}


def read_answers(body: bytes, most: int) -> list[Answer]:
    """Read `{"key", "answer", "annotator"?}`, a list of them, or `{"answers": [...]}`.

    Raises:
        SchemaError: If the body is anything else; names the place.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SchemaError("Body", got=str(error)[:200], expected="JSON", do="Check quotes and commas.") from error
    if isinstance(content, dict) and set(content) == {"answers"}:
        content = content["answers"]
    rows = content if isinstance(content, list) else [content]
    if not 1 <= len(rows) <= most:
        raise SchemaError("Body", got=f"{len(rows)} answers", expected=f"1 to {most}")
    return [_answer(row, f"Answer {place}") for place, row in enumerate(rows)]


def _answer(row: object, what: str) -> Answer:
    if not isinstance(row, dict):
        raise SchemaError(what, got=type(row).__name__, expected=f"an object with {', '.join(_FIELDS)}")
    for name in row:
        if name not in _FIELDS:
            raise SchemaError(f"{what}, field {name[:100]!r}", got="unknown", expected=nearest(name, _FIELDS))
    key, said, annotator = (row.get(name, "") for name in _FIELDS)
    for name, value in zip(_FIELDS, (key, said, annotator), strict=True):
        fits = isinstance(value, str) and len(value) <= MAX_TEXT and (bool(value) or name == "annotator")
        if not fits or not value.isprintable():
            raise SchemaError(f"{what}, {name}", got=repr(value)[:100], expected=f"text of at most {MAX_TEXT} letters")
    return Answer(key, said, annotator)
