"""Scores of native code against the predictor's, and which models have a native form."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from headrace.data.features import CrossFeature, DenseFeature, IdFeature, MultiIdFeature, Schema
from headrace.errors import NumericError, StaleError
from headrace.nn import FM, DeepFM, LogisticRegression
from headrace.nn.layers import Hidden
from headrace.publish.shared_replica import SharedReplica, SharedView, space_tables
from headrace.serve import RankPredictor, ServeConfig
from headrace.serve.field_plan import field_plan
from headrace.serve.requests import RequestReader
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig
from headrace.store.field_scores import FieldScores
from headrace.store.shared_memory import SharedReader, SharedSpace
from headrace.types import Change, RowChange, Version

SCHEMA = Schema(features=(
    IdFeature("user", 5, accepts="string"), IdFeature("item", 5), IdFeature("city", 5, "user", default="nowhere",
                                                                           optional=True),
    IdFeature("device", 5, optional=True), IdFeature("position", 5, accepts="integer", serve_as=1),
    DenseFeature("price", transform="log1p"), DenseFeature("age", transform="standard", mean=30.0, std=9.0,
                                                           default=25.0, optional=True),
))  # fmt: skip
MODELS = {
    "DeepFM": lambda embed: DeepFM(embed, SCHEMA.id_names, 2, (16, 8), dim=5, seed=4),
    "FM": lambda embed: FM(embed, SCHEMA.id_names, 2, dim=5),
    "LogisticRegression": lambda embed: LogisticRegression(embed, SCHEMA.id_names, 2),
}


class Served:
    """One model in a shared space, seen by its writer and by a worker."""

    def __init__(self, tmp_path, build, rate: float = 1.0) -> None:
        configs = {name: TableConfig(name=name, dim=dim, seed=1) for name, dim in SCHEMA.tables.items()}
        lookups = [FeatureLookup(feature=f.name, table=f.table) for f in SCHEMA.id_features]
        pattern = build(torch.nn.Identity())
        self.space = SharedSpace(configs, pattern.state_dict(), parent=tmp_path)
        tables = space_tables(self.space)
        model = build(EmbeddingCollection(tables, lookups))
        self.replica = SharedReplica(self.space, tables, model)
        self.predictor = RankPredictor(model, self.replica, SCHEMA, negative_rate=rate)
        readers = [SharedReader(self.space.folder, place=place) for place in (1, 2)]
        seen = build(EmbeddingCollection(readers[0].tables, lookups))
        self.view = RankPredictor(seen, SharedView(*readers, seen), SCHEMA, negative_rate=rate)
        self.reader = readers[0]
        self.scores = FieldScores(plan_of(self.view), self.reader)

    def apply(self, number: int, *, full: bool = False, spread: float = 0.5) -> None:
        draw = torch.Generator().manual_seed(number)
        ids = torch.arange(40)
        rows = {name: RowChange(ids, torch.randn(40, 5, generator=draw) * spread, torch.zeros(0, dtype=torch.int64))
                for name in SCHEMA.tables}  # fmt: skip
        dense = {name: torch.randn(value.shape, generator=draw) * spread for name, value in self.replica.dense.items()}
        self.replica.apply(Change(version=Version(number, number - 1), tables=rows, dense=dense, full=full))


def plan_of(predictor: RankPredictor):
    plan, reason = field_plan(predictor)
    assert plan is not None, reason
    return plan


@pytest.fixture(params=MODELS)
def served(request, tmp_path):
    made = Served(tmp_path, MODELS[request.param], rate=0.5)
    yield made
    made.space.close()


BODIES = [
    {"key": "r", "user": {"user": "ann", "city": "rome", "age": 20}, "context": {"device": 3, "price": 5},
     "candidates": [{"item": 3}, {"item": 900}]},
    {"candidates": [{"item": "a", "user": "x", "price": 1.5, "city": "oslo"}, {"item": "b", "user": "y", "price": -2,
                                                                             "city": "bonn"}]},
    {"user": {"user": "é"}, "candidates": [{"item": n, "price": n / 3} for n in range(30)]},
]  # fmt: skip


def predicted(predictor: RankPredictor, body: bytes) -> np.ndarray:
    events = RequestReader(SCHEMA, ServeConfig()).rank_json(body).events
    return predictor.predict(events).column("score").to_numpy()


def test_scores_are_those_of_the_predictor_alone_and_together(served):
    for number in (0, 1):
        served.apply(number, full=number == 0)
        bodies = [json.dumps(body, ensure_ascii=False).encode() for body in BODIES]
        asked = [served.scores.read(body) for body in bodies]
        assert served.scores.score(asked) == number
        for body, one in zip(bodies, asked, strict=True):
            wanted = predicted(served.predictor, body)
            assert np.abs(one.scores - wanted).max() < 2e-6
            assert np.array_equal(predicted(served.view, body), wanted)  # the worker's predictor: to the bit
            alone = served.scores.read(body)
            served.scores.score([alone])
            assert np.array_equal(alone.scores, one.scores)


def test_columns_for_the_log_are_what_the_reader_makes(served):
    for content in BODIES:
        body = json.dumps(content, ensure_ascii=False).encode()
        events = RequestReader(SCHEMA, ServeConfig()).rank_json(body).events
        columns = served.scores.read(body).columns()
        assert set(columns) == set(events.names) - {"key", "kind", "event_time"}
        for name, column in columns.items():
            column.validate(full=True)
            assert column.equals(events.column(name)), name


def test_what_needs_the_general_way_is_not_read(served):
    whole = BODIES[0]
    for wrong in (
        {**whole, "unknown": 1}, {**whole, "user": {"user": "ann", "position": 3}}, {**whole, "candidates": []},
        {**whole, "candidates": [{"item": 1}, {"item": 1}]}, {**whole, "user": None}, {**whole, "user": {"user": 'a"'}},
        {**whole, "candidates": [{"item": 1}, {"item": "1"}]}, {**whole, "candidates": [{"item": 1, "age": None}]},
    ):  # fmt: skip
        assert served.scores.read(json.dumps(wrong).encode()) is None


def test_no_version_and_scores_that_are_not_finite_are_told(tmp_path):
    served = Served(tmp_path, MODELS["DeepFM"])
    asked = [served.scores.read(json.dumps(BODIES[0]).encode())]
    with pytest.raises(StaleError):
        served.scores.score(asked)
    served.apply(0, full=True, spread=1e30)
    with pytest.raises(NumericError):
        served.scores.score(asked)
    assert not served.reader.native.inside
    served.space.close()


@pytest.mark.parametrize(("model", "features", "reason"), [
    (lambda e, n: DeepFM(e, n, 0, Hidden((4,), batch_norm=True), dim=3), (IdFeature("item", 3),), "other layers"),
    (lambda e, n: DeepFM(e, n, 0, Hidden((4,), activation="gelu"), dim=3), (IdFeature("item", 3),), "other layers"),
    (lambda e, n: torch.nn.Linear(1, 1), (IdFeature("item", 3),), "a Linear"),
    (lambda e, n: FM(e, n, 0, dim=3), (IdFeature("item", 3), MultiIdFeature("tags", 3)), "MultiIdFeature"),
    (lambda e, n: FM(e, n, 0, dim=3), (IdFeature("item", 3), IdFeature("b", 3), CrossFeature("c", 3, ("item", "b"))),
     "CrossFeature"),
    (lambda e, n: LogisticRegression(e, n, 0), (IdFeature("item", 3), IdFeature("b", 4)), "different widths"),
    (lambda e, n: FM(e, n[:1], 0, dim=3), (IdFeature("item", 3), IdFeature("b", 3)), "every feature"),
])  # fmt: skip
def test_other_models_say_why_they_have_no_native_form(model, features, reason):
    schema = Schema(features=features)
    net = model(torch.nn.Identity(), schema.id_names)
    plan, why = field_plan(RankPredictor(net, FakeReplica(), schema))  # type: ignore[arg-type]
    assert plan is None
    assert reason in why


class FakeReplica:
    def add_check(self, judge: object) -> None:
        pass
