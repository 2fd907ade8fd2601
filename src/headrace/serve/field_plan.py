"""From a schema and a network to what native code computes for rank requests, where it can."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from headrace.data.feature_kinds import DenseFeature, Feature, IdFeature
from headrace.data.features import Schema
from headrace.data.hashing import hash_text
from headrace.nn import FM, DeepFM, LogisticRegression
from headrace.serve.predictor import RankPredictor
from headrace.store.field_scores import ColumnKind, FieldPlan, PlanColumn, PlanId, PlanNumber

_KINDS: dict[str, ColumnKind] = {"string": "text", "integer": "integer", "any": "any"}


def field_plan(predictor: RankPredictor) -> tuple[FieldPlan | None, str]:
    """Return what native code has to compute for this predictor's answers, or None and the reason why it cannot.

    It can for `LogisticRegression`, `FM` and `DeepFM` with rectified layers, over features of one id each and dense
    columns, with one label. Answers agree with the predictor's to about a millionth: sums are taken in another order.

    Args:
        predictor: Schema, network and sampling rate are taken from it.
    """
    schema, model = predictor.schema, predictor.model
    if reason := _unfit(predictor):
        return None, reason
    names, dense = _features(model), len(schema.dense_features)
    columns = _Columns(schema)
    ids = tuple(_id(schema.feature(name), columns) for name in names)
    numbers = tuple(_number(feature, columns) for feature in schema.dense_features)
    dims = {schema.tables[one.table] for one in ids}
    if len(dims) != 1:
        return None, f"its tables have rows of different widths, {sorted(dims)}"
    weights, factors, bias, layers = _tensors(model, dense)
    if layers is None:
        return None, "its deep network has other layers than linear and rectified ones"
    plan = FieldPlan(
        columns=tuple(columns.found), item=columns.item, ids=ids, numbers=numbers, dim=dims.pop(),
        interactions=not isinstance(model, LogisticRegression), bias=bias, number_weights=weights,
        number_factors=factors, layers=layers, negative_rate=predictor.negative_rate,
    )  # fmt: skip
    return plan, ""


def _features(model: nn.Module) -> tuple[str, ...]:
    owner = model.fields if isinstance(model, FM) else model
    return tuple(getattr(owner, "features", ()))


def _unfit(predictor: RankPredictor) -> str:
    schema, model = predictor.schema, predictor.model
    if type(model) not in (LogisticRegression, FM, DeepFM):
        return f"a {type(model).__name__} has no native form"
    if predictor.preparation is not None:
        return "its requests are prepared first"
    if schema.extra_labels or schema.scenario is not None:
        return "it has several labels, or scenarios"
    for feature in schema.features:
        if not isinstance(feature, (IdFeature, DenseFeature)):
            return f"feature '{feature.name}' is a {type(feature).__name__}"
    if set(_features(model)) != set(schema.id_names) or not schema.id_names:
        return "it does not read every feature with a table"
    if schema.dense_names and isinstance(model, FM) and not hasattr(model.fields, "dense_factors"):
        return "its dense columns are no fields"
    return ""


class _Columns:
    """Collects the columns of requests, each once."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.found = schema, list[PlanColumn]()
        self._places: dict[str, int] = {}
        kinds = {feature.column for feature in schema.features if not isinstance(feature, DenseFeature)
                 for feature in [feature] if isinstance(feature, IdFeature)}  # fmt: skip
        self.item = -1 if schema.item in kinds else self.place(schema.item, "text")

    def place(self, column: str, kind: ColumnKind, *, refused: bool = False) -> int:
        """Return the place of a column; features that read one column as different things narrow it."""
        if column not in self._places:
            # Where no column is called `item`, requests call the column of items so.
            known = {name for feature in self.schema.features for name in feature.columns}
            name = "item" if column == self.schema.item and "item" not in known else column
            self._places[column] = len(self.found)
            self.found.append(PlanColumn(name=name, column=column, kind=kind, refused=refused))
        place = self._places[column]
        held = self.found[place]
        narrow = kind if held.kind == "any" else held.kind
        self.found[place] = PlanColumn(name=held.name, column=column, kind=narrow, refused=held.refused or refused)
        if column == self.schema.item:
            self.item = place
        return place


def _id(feature: Feature, columns: _Columns) -> PlanId:
    assert isinstance(feature, IdFeature)  # `_unfit` looked
    served = feature.serve_as is not None  # a real value asks for a second score: the general way
    place = columns.place(feature.column, _KINDS[feature.accepts], refused=served)
    value = feature.serve_as if served else feature.default
    constant = hash_text(value) if isinstance(value, str) else value
    # A null takes the default; a column that is absent may only be so if the feature is optional or served otherwise.
    absent = served or feature.optional
    return PlanId(table=feature.table, column=-1 if served else place, constant=constant if absent else None,
                  optional=absent)  # fmt: skip


def _number(feature: DenseFeature, columns: _Columns) -> PlanNumber:
    served = feature.serve_as is not None
    place = columns.place(feature.column, "number", refused=served)
    standard = feature.transform == "standard"
    absent = feature.serve_as if feature.serve_as is not None else feature.default
    return PlanNumber(
        column=-1 if served else place, absent=absent, optional=served or feature.optional,
        mean=feature.mean if standard else 0.0, std=feature.std if standard else 1.0,
        log1p=feature.transform == "log1p",
    )  # fmt: skip


def _tensors(model: nn.Module, dense: int) -> tuple[str, str, str, tuple[tuple[str, str], ...] | None]:
    """Return the names of number weights, number factors and bias, and of the layers; None: they are others."""
    if isinstance(model, LogisticRegression):
        return "dense_weight" if dense else "", "", "bias", ()
    if isinstance(model, FM):
        return "fields.dense_weight" if dense else "", "fields.dense_factors" if dense else "", "bias", ()
    assert isinstance(model, DeepFM)
    layers = _layers(list(model.deep.layers))
    return "dense_weight" if dense else "", "dense_factors" if dense else "", "", layers


def _layers(layers: Sequence[nn.Module]) -> tuple[tuple[str, str], ...] | None:
    names, linear_next = [], True
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Dropout):
            continue
        kind = nn.Linear if linear_next else nn.ReLU
        if type(layer) is not kind:
            return None
        if isinstance(layer, nn.Linear):
            names.append((f"deep.layers.{place}.weight", f"deep.layers.{place}.bias"))
        linear_next = not linear_next
    return tuple(names) if len(names) > 1 and not linear_next else None
