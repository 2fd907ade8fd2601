"""The OpenAPI document of a server, made from the model's schema, so that it is exact for this model.

What JSON Schema cannot say (that a feature stands in one of three places, that no candidate comes twice) is said in
words and refused with 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from headrace.data.features import DenseFeature, Schema
from headrace.serve.columns import Columns

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
Json = dict[str, Any]
INT64: Json = {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
TIME: Json = {"type": ["integer", "null"], "format": "int64", "minimum": 0, "maximum": 2**63 - 1,
              "description": "Microseconds since the epoch (UTC). Absent: now."}  # fmt: skip
NAME: Json = {"type": "string", "minLength": 1, "maxLength": 1024}
NUMBER: Json = {"type": "number", "minimum": -3e38, "maximum": 3e38}
COUNT: Json = {"type": "integer", "minimum": 0}
TAKEN: Json = {"type": "object", "required": ["accepted", "duplicates"], "additionalProperties": False,
               "properties": {"accepted": COUNT, "duplicates": COUNT}}  # fmt: skip
ERROR: Json = {
    "type": "object", "required": ["what", "got", "expected", "do"], "additionalProperties": False,
    "properties": {name: {"type": "string"} for name in ("what", "got", "expected", "do")},
}  # fmt: skip
PROTOCOL_ERROR: Json = {
    "type": "object", "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"], "properties": {
        "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]}}}},
}  # fmt: skip
BEHIND: Json = {
    **ERROR, "required": [*ERROR["required"], "version", "arm"],
    "properties": {**ERROR["properties"], "version": {"type": "integer"}, "arm": {"type": "string"}},
    "description": "The version that answers is older than `min_version`; nothing was logged.",
}  # fmt: skip
REASONS = {
    400: "The request is wrong; nothing was taken.", 401: "No token, or one that is not known.",
    403: "The token lacks the scope.", 408: "The body did not come in time.", 413: "The body is too long.",
    415: "The body is of another type.", 429: "Too many requests; `Retry-After` says when to come again.",
    503: "The server cannot answer now; `Retry-After` says when to come again.",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is told about one address.

    Attributes:
        summary: One line.
        description: More lines.
        query: Query parameters by name, each a JSON schema; with `required` true where one must be given. Others are
            refused.
        path: Path parameters by name, each a JSON schema.
        body: JSON schema of the body; None: there is none.
        arrow: What rows of an Arrow body hold; empty: Arrow is not taken.
        answers: JSON schema (None: no JSON) by status.
        arrow_answer: Whether an Arrow body is answered with one.
        text: Whether the answer is plain text.
        protocol: Whether errors have the form of the OpenAI protocol.
        errors: Further statuses and their reasons.
    """

    summary: str
    description: str = ""
    query: Mapping[str, Json] = field(default_factory=dict)
    path: Mapping[str, Json] = field(default_factory=dict)
    body: Json | None = None
    arrow: str = ""
    answers: Mapping[int, Json | None] = field(default_factory=lambda: {200: {"type": "object"}})
    arrow_answer: bool = False
    text: bool = False
    protocol: bool = False
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a server: where, how, for whom, and what is told about it."""

    method: str
    path: str
    name: str
    scope: str | None
    operation: Operation


def document(addresses: Iterable[Address], *, version: str, guarded: bool, model: str = "") -> Json:
    """Return the OpenAPI 3.1 document.

    Args:
        addresses: Every address.
        version: Of Headrace.
        guarded: Whether tokens are asked for.
        model: What is served, for people.
    """
    paths: dict[str, Json] = {}
    for one in addresses:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, guarded)
    answer: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": version,
                 "description": f"Ranks, logs what it ranked, and takes feedback. {model}".strip()},
        "paths": paths, "components": {"schemas": {"Error": ERROR, "OpenAIError": PROTOCOL_ERROR}},
    }  # fmt: skip
    if guarded:
        answer["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return answer


def _operation(one: Address, guarded: bool) -> Json:
    said = one.operation
    about: Json = {"operationId": f"{one.name}_{one.method.lower()}", "summary": said.summary, "responses": {}}
    if said.description:
        about["description"] = said.description
    parameters = [
        {"name": name, "in": place, "required": place == "path" or bool(kind.get("required")),
         "schema": {key: value for key, value in kind.items() if key != "required"}}
        for place, kinds in (("path", said.path), ("query", said.query)) for name, kind in kinds.items()
    ]  # fmt: skip
    if parameters:
        about["parameters"] = parameters
    errors = {400, 429, 503}
    if said.body is not None:
        content: Json = {JSON: {"schema": said.body}}
        if said.arrow:
            content[ARROW] = {"schema": {"type": "string", "format": "binary", "description": said.arrow}}
        about["requestBody"] = {"required": True, "content": content}
        errors |= {408, 413, 415}
    if guarded and one.scope is not None:
        about["security"] = [{"token": [one.scope]}]
        errors |= {401, 403}
    for status, schema in said.answers.items():
        about["responses"][str(status)] = _answer(said, schema)
    form = "OpenAIError" if said.protocol else "Error"
    for status in sorted(errors | set(said.errors)):
        reason = said.errors.get(status, REASONS.get(status, "Refused."))
        about["responses"].setdefault(str(status), {
            "description": reason, "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{form}"}}},
        })  # fmt: skip
    return about


def _answer(said: Operation, schema: Json | None) -> Json:
    content: Json = {} if schema is None else {JSON: {"schema": schema}}
    if said.arrow_answer:
        content[ARROW] = {"schema": {"type": "string", "format": "binary"}}
    if said.text:
        content["text/plain"] = {"schema": {"type": "string"}}
    return {"description": said.summary, **({"content": content} if content else {})}


class ModelSchemas:
    """JSON schemas of what a model reads.

    Args:
        schema: What requests look like.
        columns: The types in which they are logged.
        max_rows: Most candidates or actions in one body.
        labels: The schema that names the labels, where rows are prepared; None: `schema`.
    """

    def __init__(self, schema: Schema, columns: Columns, *, max_rows: int, labels: Schema | None = None) -> None:
        self.schema, self.columns, self.max_rows, self.labels = schema, columns, max_rows, labels or schema
        self._numbers = {f.column for f in schema.features if isinstance(f, DenseFeature)}

    def feature(self, name: str) -> Json:
        """Return what a column of a request may hold."""
        scenario = self.schema.scenario
        if scenario is not None and name == scenario.column and scenario.default is None:
            return {"enum": list(scenario.values)}
        if name in self._numbers:
            return {"anyOf": [{"type": "number"}, {"type": "null"}]}
        kinds = [_kind(kind) for kind in self.columns.choices(name)]
        return {"anyOf": [*kinds, {"type": "null"}]}

    def item(self) -> Json:
        """Return what the name of a candidate may be."""
        kinds = [NAME if pa.types.is_string(kind) else _kind(kind) for kind in self.columns.choices(self.schema.item)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}

    def features(self, description: str) -> Json:
        """Return an object of features without the candidate's name."""
        names = [name for name in self.columns.names if name != self.schema.item]
        return {"type": "object", "additionalProperties": False, "description": description,
                "properties": {name: self.feature(name) for name in names}}  # fmt: skip

    def candidate(self) -> Json:
        """Return one candidate: its name, and features of its own."""
        shown = self.features("A candidate; its own value of a feature goes before the context's and the user's.")
        shown["properties"] = {"item": self.item()} | shown["properties"]
        if "item" in self.columns.names and self.schema.item != "item":
            shown["properties"]["item"] = self.feature("item")  # a feature called `item` that names no candidate
        name = "item" if "item" not in self.columns.names else self.schema.item
        shown["properties"][name] = self.item()
        return shown | {"required": [name]}

    def rank(self) -> Json:
        """Return the body of `POST /v1/rank`."""
        return {
            "type": "object", "required": ["candidates"], "additionalProperties": False,
            "description": f"Needed of every candidate, in one of the three places: {', '.join(self._needed())}.",
            "properties": {
                "key": {**NAME, "type": ["string", "null"],
                        "description": "Names the request; feedback repeats it. Absent: the server makes one."},
                "user": {"anyOf": [self.features("Features of the user."), {"type": "null"}]},
                "context": {"anyOf": [self.features("Features of the situation."), {"type": "null"}]},
                "candidates": {"type": "array", "minItems": 1, "maxItems": self.max_rows, "items": self.candidate()},
                "event_time": TIME, "log_impressions": {"type": ["boolean", "null"]},
                "min_version": COUNT,
            },
        }  # fmt: skip

    def action(self) -> Json:
        """Return one action of a user."""
        kind = {**NAME, "examples": list(self.labels.label.positive)}
        value = {"anyOf": [NUMBER, {"type": "null"}]}
        return {
            "type": "object", "required": ["key", "kind", "item"], "additionalProperties": False,
            "properties": {"key": NAME, "kind": kind, "item": self.item(), "event_time": TIME, "value": value},
        }  # fmt: skip

    def feedback(self) -> Json:
        """Return the body of `POST /v1/feedback`: one action, several, or several in an object."""
        several = {"type": "array", "minItems": 1, "maxItems": self.max_rows, "items": self.action()}
        wrapped = {"type": "object", "required": ["events"], "additionalProperties": False,
                   "properties": {"events": several}}  # fmt: skip
        return {"anyOf": [self.action(), several, wrapped]}

    def ranked(self) -> Json:
        """Return the answer of `POST /v1/rank`."""
        scores = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
        labels = [label.name for label in self.labels.extra_labels]
        properties: Json = {
            "key": {"type": "string"}, "version": {"type": "integer"}, "arm": {"type": "string"}, "scores": scores,
            "order": {"type": "array", "items": COUNT}, "items": {"type": "array", "items": self.item()},
            "scores_logged": {"type": "array", "items": {"type": ["number", "null"]}},
        }  # fmt: skip
        if labels:
            properties["label_scores"] = {"type": "object", "properties": dict.fromkeys(labels, scores)}
        return {"type": "object", "required": ["key", "version", "scores", "order", "items"], "properties": properties}

    def _needed(self) -> list[str]:
        names = [column for feature in self.schema.features for column in feature.columns
                 if not feature.optional and getattr(feature, "serve_as", None) is None]  # fmt: skip
        return list(dict.fromkeys([*names, *([self.schema.scenario.column] if self.schema.scenario else [])]))


def _kind(kind: pa.DataType) -> Json:
    if pa.types.is_list(kind):
        return {"type": "array", "items": {"anyOf": [_kind(kind.value_type), {"type": "null"}]}}
    if pa.types.is_string(kind):
        return {"type": "string"}
    return INT64 if pa.types.is_integer(kind) else {"type": "number"}
