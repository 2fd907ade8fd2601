from __future__ import annotations

import time

import pytest

from headrace.data.features import CrossFeature, DenseFeature, IdFeature, MultiIdFeature, Scenario, Schema, TextFeature
from headrace.errors import SchemaError
from headrace.serve.columns import Columns
from headrace.serve.readiness import Readiness, practice_rows


def waited(readiness: Readiness) -> str:
    deadline = time.monotonic() + 10
    while readiness.reason and time.monotonic() < deadline:
        time.sleep(0.005)
    return readiness.reason


def test_made_up_requests_are_answered_before_it_is_ready(make_predictor, make_change, monkeypatch) -> None:
    predictor, asked = make_predictor(), []
    real = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda rows: asked.append(len(rows)) or real(rows))
    readiness = Readiness(predictor, Columns(predictor.request_schema), (1, 70))
    assert readiness.reason == "waiting for the first version"
    readiness.start()
    predictor.apply(make_change(0))
    assert waited(readiness) == ""
    assert asked == [1, 70]
    readiness.close()
    assert readiness.reason == "ending"


def test_it_can_end_before_there_is_a_version(make_predictor) -> None:
    readiness = Readiness(make_predictor(), Columns(make_predictor().request_schema), (1,))
    readiness.start()
    readiness.close()
    assert readiness.reason == "ending"


def test_rows_that_are_refused_do_not_keep_it_from_traffic(make_predictor, make_change, monkeypatch, caplog) -> None:
    predictor = make_predictor()
    predictor.apply(make_change(0))

    def refuse(rows: object) -> None:
        raise SchemaError("Column", got="practice", expected="other rows")

    monkeypatch.setattr(predictor, "predict", refuse)
    readiness = Readiness(predictor, Columns(predictor.request_schema), (1,))
    readiness.start()
    assert waited(readiness) == ""
    readiness.close()
    assert "without made-up requests" in caplog.text


SCHEMAS = [
    Schema(features=(IdFeature("item", 4, accepts="integer"), DenseFeature("price"))),
    Schema(features=(IdFeature("item", 4), MultiIdFeature("tags", 4, accepts="integer"), TextFeature("title", 4))),
    Schema(features=(IdFeature("a", 4), IdFeature("b", 4), CrossFeature("ab", 4, of=("a", "b"))), item="b"),
    Schema(features=(IdFeature("item", 4), MultiIdFeature("tags", 4, separator="|")),
           scenario=Scenario("where", ("home", "search"))),
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
def test_made_up_rows_fit_any_schema(schema: Schema) -> None:
    rows = practice_rows(Columns(schema), schema.item, 5)
    assert len(rows) == 5
    assert set(schema.columns) <= set(rows.names)
    schema.validate(rows, training=False)
    assert len(set(rows.column(schema.item).to_pylist())) == 5
