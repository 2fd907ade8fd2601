"""`POST /v1/recommend`, and the catalogue behind it: `GET` and `PUT /v1/items`, `POST /v1/items/remove`."""

from __future__ import annotations

import time

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import SchemaError
from headrace.serve.arms import ARM
from headrace.serve.arrow_body import read_table
from headrace.serve.door import ADMIN, ARROW, READ, Door, flag
from headrace.serve.json_values import array_of, check_names, fields_of, json_of, repeated, short, text_of
from headrace.serve.openapi import BEHIND, COUNT, NAME, TIME, Json, ModelSchemas, Operation
from headrace.serve.rank_routes import version_of
from headrace.serve.recommend import PLACE, POLICY, PROPENSITY
from headrace.serve.recommend_desk import Answered, RecommendDesk
from headrace.serve.seen import SEEN_RULES
from headrace.serve.wishes import MAX_EXCLUDED, with_version
from headrace.types import Events

_FLAG: Json = {"type": "string", "enum": ["true", "false"]}
_CATALOGUE: Json = {"type": "object", "required": ["items"], "properties": {"items": COUNT, "removed": COUNT}}


def routes(door: Door, desk: RecommendDesk) -> list[Route]:
    """Return the addresses of a server that recommends."""
    at, about = _RecommendRoutes(door, desk), _operations(door, desk)
    return [
        Route("/v1/recommend", door.counted("recommend", at.recommend, READ, about["recommend"]), methods=["POST"]),
        Route("/v1/items", door.counted("items", at.items, READ, about["items"]), methods=["GET"]),
        Route("/v1/items", door.counted("put_items", at.put, ADMIN, about["put"]), methods=["PUT"]),
        Route("/v1/items/remove", door.counted("remove_items", at.remove, ADMIN, about["remove"]), methods=["POST"]),
    ]


class _RecommendRoutes:
    """The endpoints of one desk."""

    def __init__(self, door: Door, desk: RecommendDesk) -> None:
        self.door, self.desk = door, desk
        self.catalogue = desk.recommender.catalogue

    async def recommend(self, request: Request) -> Response:
        """Choose what is shown, log it, and return it."""
        body, arrow = await self.door.body(request)
        started = time.perf_counter()
        oldest = request.query_params.get("min_version")
        answers = await self.door.work(lambda: self._answers(body, arrow, oldest))
        for one in answers:
            if one.durable is not None:
                await self.door.durable(one.durable)
        if arrow:
            response: Response = Response(_rows(answers, self.item).to_bytes(), media_type=ARROW)
        else:
            response = JSONResponse(recommended_json(answers[0], self.item))
        self.door.service.metrics.latency.labels("recommend").observe(time.perf_counter() - started)
        return response

    @property
    def item(self) -> str:
        """The column that names the item."""
        return self.catalogue.schema.item

    def _answers(self, body: bytes, arrow: bool, oldest: str | None) -> list[Answered]:
        reader = self.desk.reader
        wishes = reader.arrow(body) if arrow else [reader.json(body)]
        least = None if oldest is None else version_of(oldest)
        return [self.desk.answer(with_version(wish, least)) for wish in wishes]

    async def items(self, request: Request) -> Response:
        """Tell how many items there are, and which attributes they have."""
        shelf = self.catalogue.shelf
        columns = {field.name: str(field.type) for field in shelf.columns.schema}
        return JSONResponse({"items": len(shelf), "attributes": columns})

    async def put(self, request: Request) -> Response:
        """Add items, or put them in place of those of the same name."""
        body, arrow = await self.door.body(request)
        replace = flag(request, "replace") or False
        config = self.door.service.config
        name = self.item if "item" not in self.catalogue.columns.names else ""  # the schema may call it otherwise
        batch = await self.door.work(lambda: _item_rows(body, arrow, config.max_rows, name))
        count = await self.door.work(lambda: self.catalogue.put(batch, replace=replace))
        self.door.note(request, {"put": batch.num_rows, "replace": replace, "items": count})
        return JSONResponse({"items": count})

    async def remove(self, request: Request) -> Response:
        """Remove items."""
        body, arrow = await self.door.body(request)
        config = self.door.service.config
        names = await self.door.work(lambda: _item_names(body, arrow, self.item, config.max_rows))
        gone = await self.door.work(lambda: self.catalogue.remove(names))
        self.door.note(request, {"removed": gone, "items": len(self.catalogue.shelf)})
        return JSONResponse({"items": len(self.catalogue.shelf), "removed": gone})


def recommended_json(answer: Answered, item: str) -> dict[str, object]:
    """Return the answer to one JSON request, best place first."""
    found = answer.found
    lists: dict[str, list[object]] = {"items": [], "scores": [], "places": [], "propensities": []}
    if found.rows is not None:
        for name, column in zip(lists, (item, "score", PLACE, PROPENSITY), strict=True):
            lists[name] = found.rows.column(column).to_pylist()
    content: dict[str, object] = {
        "key": answer.wish.key, "version": found.version, "arm": answer.arm, **lists, "sources": list(found.sources),
        "policy": found.policy, "propensity_error": found.error, "candidates": found.candidates,
        "allowed": found.allowed, "known_user": found.known_user,
    }  # fmt: skip
    names = [] if found.rows is None else [name for name in found.rows.names if name.startswith("score/")]
    if names and found.rows is not None:
        content["label_scores"] = {name.removeprefix("score/"): found.rows.column(name).to_pylist() for name in names}
    return content


def _rows(answers: list[Answered], item: str) -> Events:
    """Return what is shown to every wish of an Arrow body, one row per item."""
    names = ["key", "kind", "event_time", item, "score", PLACE, PROPENSITY, POLICY, "version"]
    parts = []
    for answer in answers:
        if answer.found.rows is not None:
            rows = Events(answer.found.rows.batch.select(names))
            parts.append(rows.with_columns({ARM: repeated(answer.arm, len(rows))}))
    if parts:
        return Events.concat(parts)
    kinds = (pa.string(), pa.string(), pa.int64(), pa.string(), pa.float32(), pa.int64(), pa.float32(), pa.string(),
             pa.int64())  # fmt: skip
    return Events.from_columns({name: pa.array([], kind) for name, kind in zip(names, kinds, strict=True)})


def _item_rows(body: bytes, arrow: bool, most: int, item: str) -> pa.RecordBatch:
    """Read `{"items": [{"item": ..., attributes}, ...]}`, the list alone, or Arrow rows; `item` renames that field."""
    if arrow:
        table = read_table(body, max_rows=most)
        batches = table.to_batches()
        if not batches:
            raise SchemaError("Arrow body", got="no rows", expected="one row for each item")
        return batches[0]
    rows: list[dict[str, object]] = []
    for place, row in enumerate(_listed(body, most)):
        if not isinstance(row, dict):
            raise SchemaError(f"Item {place}", got=short(row), expected="an object of attributes")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        text_of("name of an attribute", name)
    columns = [_attribute(name, [row.get(name) for row in rows]) for name in names]
    names = [item if item and name == "item" else name for name in names]
    if len(set(names)) != len(names):
        raise SchemaError("Items", got=f"both 'item' and '{item}'", expected="one name for each item")
    return pa.RecordBatch.from_arrays(columns, names=names)


def _attribute(name: str, values: list[object]) -> pa.Array:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    return array_of(name, values)


def _item_names(body: bytes, arrow: bool, item: str, most: int) -> pa.Array:
    """Read `{"items": ["a", ...]}`, the list alone, or an Arrow column."""
    if arrow:
        table = read_table(body, max_rows=most)
        if item not in table.column_names:
            raise SchemaError(f"Column '{item}'", got="no such column", expected="the items to be removed")
        names = table.column(item).combine_chunks()
        names = names.chunk(0) if isinstance(names, pa.ChunkedArray) else names
    else:
        names = array_of(item, _listed(body, most))
    check_names(item, names)
    return names


def _listed(body: bytes, most: int) -> list[object]:
    content = json_of(body)
    if isinstance(content, dict):
        content = fields_of(content, "Body", ("items",)).get("items")
    if not isinstance(content, list) or not 1 <= len(content) <= most:
        got = f"{len(content)} items" if isinstance(content, list) else short(content)
        raise SchemaError("Body, items", got=got, expected=f"a list of 1 to {most}", do="Send more another time.")
    return content


def _operations(door: Door, desk: RecommendDesk) -> dict[str, Operation]:
    """Return what the OpenAPI document says, exactly for this model."""
    service, config = door.service, desk.recommender.config
    schemas = ModelSchemas(service.reader.schema, service.reader.columns, max_rows=service.config.max_rows,
                           labels=service.predictor.schema)  # fmt: skip
    item = schemas.item()
    optional = {"type": ["boolean", "null"]}
    body: Json = {
        "type": "object", "additionalProperties": False,
        "properties": {
            "key": {"anyOf": [NAME, {"type": "null"}]},
            "user": {"anyOf": [schemas.features("Features of the user."), {"type": "null"}]},
            "context": {"anyOf": [schemas.features("Features of the situation."), {"type": "null"}]},
            "n": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": config.most}, {"type": "null"}]},
            "filters": {"type": ["object", "null"], "description": "What items have to fit, by attribute."},
            "exclude": {"anyOf": [{"type": "array", "maxItems": MAX_EXCLUDED, "items": item}, {"type": "null"}]},
            "seen": {"enum": [*SEEN_RULES, None]}, "explore": optional, "log_impressions": optional,
            "event_time": {"anyOf": [TIME, {"type": "null"}]}, "min_version": {"anyOf": [COUNT, {"type": "null"}]},
        },
    }  # fmt: skip
    return {
        "recommend": Operation(
            summary="Choose items for a user, log them as shown, and return them.", body=body,
            arrow="One wish per row: key, columns of user and context, and n, seen, exclude and event_time if given.",
            query={"min_version": COUNT}, answers={200: _answer(item), 409: BEHIND}, arrow_answer=True,
        ),
        "items": Operation(summary="How many items there are, and their attributes.", answers={200: {
            "type": "object", "required": ["items", "attributes"], "properties": {
                "items": COUNT, "attributes": {"type": "object", "additionalProperties": {"type": "string"}}}}}),
        "put": Operation(
            summary="Add items, or put them in place of those of the same name, whole.", query={"replace": _FLAG},
            body=_items_body(schemas.candidate() | {"additionalProperties": True}, service.config.max_rows),
            arrow="One row per item.", answers={200: _CATALOGUE},
            description="With `replace=true` every other item is removed in the same step.",
        ),
        "remove": Operation(
            summary="Remove items.", body=_items_body(item, service.config.max_rows), arrow="A column of items.",
            answers={200: _CATALOGUE},
        ),
    }  # fmt: skip


def _items_body(one: Json, most: int) -> Json:
    several = {"type": "array", "minItems": 1, "maxItems": most, "items": one}
    wrapped = {"type": "object", "required": ["items"], "additionalProperties": False, "properties": {"items": several}}
    return {"anyOf": [several, wrapped]}


def _answer(item: Json) -> Json:
    share: Json = {"type": "number", "minimum": 0, "maximum": 1}
    properties: Json = {
        "key": {"type": "string"}, "version": {"type": "integer"}, "arm": {"type": "string"},
        "items": {"type": "array", "items": item}, "scores": {"type": "array", "items": share},
        "places": {"type": "array", "items": COUNT}, "propensities": {"type": "array", "items": share},
        "sources": {"type": "array", "items": {"type": "string"}}, "policy": {"type": "string"},
        "propensity_error": share, "candidates": COUNT, "allowed": COUNT, "known_user": {"type": "boolean"},
        "label_scores": {"type": "object"},
    }  # fmt: skip
    needed = [name for name in properties if name != "label_scores"]
    return {"type": "object", "required": needed, "properties": properties}
