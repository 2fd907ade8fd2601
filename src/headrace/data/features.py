"""The schema: which columns of the events a model reads, and as what.

A schema is data: it is stored with the model as JSON, compared by fingerprint, and changed by making a new one
(`headrace.data.evolution` says what becomes of the learned state).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

from headrace.config import require
from headrace.data.feature_kinds import (
    Accepts,
    CrossFeature,
    DenseFeature,
    EmbeddedFeature,
    Feature,
    IdFeature,
    Label,
    MultiIdFeature,
    Pooling,
    Scenario,
    SequenceFeature,
    TextFeature,
    Transform,
)
from headrace.data.hashing import example_ids, hash_strings, hash_text
from headrace.data.validation import check_columns, check_labels
from headrace.errors import ConfigError, SchemaError, nearest
from headrace.types import Events

__all__ = [
    "Accepts",
    "CrossFeature",
    "DenseFeature",
    "EmbeddedFeature",
    "Feature",
    "IdFeature",
    "Label",
    "MultiIdFeature",
    "Pooling",
    "Scenario",
    "Schema",
    "SequenceFeature",
    "TextFeature",
    "Transform",
    "example_ids",
    "hash_strings",
    "hash_text",
]

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (IdFeature, MultiIdFeature, SequenceFeature, TextFeature, CrossFeature, DenseFeature, Label, Scenario)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a model reads from events and what it predicts.

    Attributes:
        features: In the order in which models see them: embedded ones among themselves, dense ones among themselves.
        label: The main label.
        item: Column that names the candidate; with `key` it makes the example id.
        scenario: Which of a few known situations a row belongs to, or None.
        extra_labels: Further labels, for models with several tasks; `Batch.extra["label/<name>"]` holds them. Null is
            a label that is not known (yet); it becomes NaN.
        weight: Column with the weight of an example, or None for 1.
        version: Grows with every change (see `evolved`).
        preparation: Fingerprint of the statistics that made the columns out of raw ones (`PreparedStatistics`), or
            empty for columns as they come. Other statistics give ids another meaning, so it is part of the schema.

    Raises:
        ConfigError: If names are not unique, tables disagree about their width, or a cross names unknown parts.

    Example:
        >>> schema = Schema(features=(IdFeature("user_id", 8), IdFeature("item", 8), DenseFeature("price")))
        >>> schema.dense_names, schema.tables
        (('price',), {'user_id': 8, 'item': 8})
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    features: tuple[Feature, ...]
    label: Label = field(default_factory=Label)
    item: str = "item"
    scenario: Scenario | None = None
    extra_labels: tuple[Label, ...] = ()
    weight: str | None = None
    version: int = 1
    preparation: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        _check_parts(self)
        require(bool(self.features), "Schema, features", got=self.features, expected="at least one feature")
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "Schema, features", got=f"{twice} more than once", expected="unique names",
                do="Give one of them another name and set `column` to what it reads.")  # fmt: skip
        labels = [label.name for label in (self.label, *self.extra_labels)]
        require(len(set(labels)) == len(labels), "Schema, labels", got=labels, expected="unique names")
        leaked = sorted(set(labels) & {column for feature in self.features for column in feature.columns})
        require(not leaked, "Schema, features", got=f"label columns {leaked} among the inputs",
                expected="features that are known before the label", do="Remove them from the features.")  # fmt: skip
        require(self.version >= 1, "Schema, version", got=self.version,
                expected="a positive integer")  # fmt: skip
        self._check_tables()
        self._check_crosses()

    def _check_tables(self) -> None:
        owner: dict[str, EmbeddedFeature] = {}
        for feature in self.id_features:
            first = owner.setdefault(feature.table, feature)
            require(
                first.dim == feature.dim, f"Schema, table '{feature.table}'",
                got=f"dim {first.dim} from '{first.name}' and dim {feature.dim} from '{feature.name}'",
                expected="one width per table", do="Give both features the same dim, or different tables.",
            )  # fmt: skip

    def _check_crosses(self) -> None:
        singles = [feature.name for feature in self.features if isinstance(feature, IdFeature)]
        for feature in self.features:
            for part in feature.of if isinstance(feature, CrossFeature) else ():
                if part not in singles:
                    raise ConfigError(f"Feature '{feature.name}', of", got=repr(part), expected=nearest(part, singles),
                                      do="A cross combines id features of the same schema.")  # fmt: skip

    @property
    def id_features(self) -> tuple[EmbeddedFeature, ...]:
        """Features with a table, in order."""
        return tuple(feature for feature in self.features if not isinstance(feature, DenseFeature))

    @property
    def dense_features(self) -> tuple[DenseFeature, ...]:
        """Features that are numbers, in the order of the columns of `Batch.dense`."""
        return tuple(feature for feature in self.features if isinstance(feature, DenseFeature))

    @property
    def id_names(self) -> tuple[str, ...]:
        """Names of the features with a table, in order."""
        return tuple(feature.name for feature in self.id_features)

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the dense features, in the order of the columns of `Batch.dense`."""
        return tuple(feature.name for feature in self.dense_features)

    @property
    def tables(self) -> dict[str, int]:
        """Table names and widths, in order of first use."""
        return {feature.table: feature.dim for feature in self.id_features}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that features and scenario read, each once, in order."""
        read = [column for feature in self.features for column in feature.columns]
        if self.scenario is not None:
            read.append(self.scenario.column)
        return tuple(dict.fromkeys(read))

    @property
    def text_types(self) -> dict[str, str]:
        """Arrow type names of the columns that are not text, for the `types` of a text file's `Layout`."""
        types = {feature.column: "float64" for feature in self.dense_features}
        integers = (f for f in self.features if isinstance(f, IdFeature) and f.accepts == "integer")
        return types | {feature.column: "int64" for feature in integers}

    def feature(self, name: str) -> Feature:
        """Return a feature by name; SchemaError lists the nearest names when there is none."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SchemaError("Feature", got=repr(name), expected=nearest(name, [f.name for f in self.features]))

    def validate(self, events: Events, *, training: bool = True, only_known: bool = False) -> None:
        """Check that events can be read with this schema. Cost: no row is copied; O(rows) scans for NaN.

        Args:
            events: Rows to learn from, or to score.
            training: Labels and the real value of every feature are needed. When False, labels are not, nor is a
                feature with `serve_as`.
            only_known: Refuse columns that the schema does not name; for requests typed by people.

        Raises:
            SchemaError: For a missing or unknown column (with the nearest names), a column of another type, a label
                that is null, NaN or infinite, or a dense value that is NaN or infinite (with the row's number).
        """
        check_columns(self.features, self.scenario, events, training=training)
        if only_known:
            self._refuse_unknown(events)
        if training:
            check_labels(events, self.label.name)
            for label in self.extra_labels:
                check_labels(events, label.name, unknown=True)
            if self.weight is not None:
                check_labels(events, self.weight)

    def _refuse_unknown(self, events: Events) -> None:
        known = {*self.columns, *RESERVED, self.item, self.label.name, *(item.name for item in self.extra_labels)}
        known |= {self.weight} if self.weight else set()
        for name in events.names:
            if name not in known:
                raise SchemaError(f"Column '{name}'", got="a column that the schema does not name",
                                  expected=nearest(name, known), do="Check the spelling, or leave it out.")  # fmt: skip

    def evolved(self, *, drop: Sequence[str] = (), add: Sequence[Feature] = (), version: int | None = None) -> Schema:
        """Return the next version of this schema, without some features and with others.

        A name that is dropped and added at once is re-typed in its place.
        """
        for name in drop:
            self.feature(name)
        fresh = {feature.name: feature for feature in add}
        kept = [fresh.pop(f.name, None) if f.name in drop else f for f in self.features]
        features = (*(feature for feature in kept if feature is not None), *fresh.values())
        return dataclasses.replace(self, features=features, version=version or self.version + 1)

    def to_json(self) -> str:
        """Return the schema as JSON text; equal schemas give equal text."""
        return json.dumps(_plain(self), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes | Mapping[str, object]) -> Schema:
        """Read what `to_json` wrote.

        Raises:
            SchemaError: If it is not JSON, names an unknown feature type or field (with the nearest names), lacks a
                field, or holds a value that the field cannot have.
        """
        if isinstance(text, Mapping):
            return _schema(text)
        try:
            content = json.loads(text)
        except ValueError as error:
            raise SchemaError(
                "Schema", got=f"text that is not JSON ({error})", expected="what `to_json` wrote"
            ) from error
        if not isinstance(content, dict):
            raise SchemaError("Schema", got=type(content).__name__, expected="a JSON object")
        return _schema(content)

    def fingerprint(self) -> str:
        """Return 16 hex digits that are equal exactly when the schemas are."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _check_parts(schema: Schema) -> None:
    """Refuse parts of another type; from JSON they may be anything."""
    for feature in schema.features:
        _check_part("features", feature, get_args(Feature))
    for label in (schema.label, *schema.extra_labels):
        _check_part("label", label, (Label,))
    _check_part("scenario", schema.scenario, (Scenario, type(None)))
    _check_part("item", schema.item, (str,))
    _check_part("weight", schema.weight, (str, type(None)))
    _check_part("version", schema.version, (int,))
    _check_part("preparation", schema.preparation, (str,))


def _check_part(name: str, part: object, kinds: tuple[type, ...]) -> None:
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    require(isinstance(part, kinds), f"Schema, {name}", got=part, expected=expected)


RESERVED = (
    "key", "kind", "event_time", "item", "accepted_time", "score", "version", "score_logged", "example_id",
    "sample_rate", "action_time", "value", "arm", "arm_propensity", "place", "propensity", "policy",
)  # fmt: skip
"""Columns of the data contract that any event may have."""


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        if not isinstance(value, Schema):
            return {"type": type(value).__name__, **content}
        return content if value.preparation else {name: item for name, item in content.items() if name != "preparation"}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _schema(content: Mapping[str, object]) -> Schema:
    read = {name: _value(value, f"Schema, {name}") for name, value in content.items()}
    return cast(Schema, _build(Schema, read, "Schema"))


def _value(value: object, what: str) -> object:
    if isinstance(value, list):
        return tuple(_value(item, f"{what}[{row}]") for row, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    name = value.get("type")
    if not isinstance(name, str) or name not in KINDS:
        raise SchemaError(f"{what}, type", got=repr(name), expected=nearest(str(name), KINDS),
                          do="It was written by a newer version, or misspelt.")  # fmt: skip
    fields = {key: _value(item, f"{what}, {key}") for key, item in value.items() if key != "type"}
    return _build(KINDS[name], fields, f"{what} ({name})")


def _build(kind: type, fields: dict[str, object], what: str) -> object:
    known = {item.name: item for item in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise SchemaError(what, got=f"unknown field {name!r}", expected=nearest(name, known))
    try:
        return kind(**fields)
    except (TypeError, AttributeError) as error:
        raise SchemaError(what, got=str(error), expected="what `to_json` wrote") from error
    except ConfigError as error:
        raise SchemaError(f"{what}: {error.what}", got=error.got, expected=error.expected, do=error.do) from error
