from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data.collate import collate
from headrace.data.features import CrossFeature, DenseFeature, IdFeature, Schema
from headrace.errors import ConfigError, GapError, NumericError, SchemaError, VersionError
from headrace.objectives import SamplingCorrection
from headrace.publish import Replica, merge
from headrace.serve import RankPredictor
from headrace.serve.predictor import BLOCK_ROWS
from headrace.testing.checks import check_predictor
from headrace.types import Batch, Change, Events, Version


def scores(events: Events, name: str = "score") -> np.ndarray:
    return np.asarray(events.column(name).to_numpy(zero_copy_only=False))


def test_the_predictor_keeps_the_contract_and_rows_do_not_depend_on_each_other_to_the_bit(
    make_predictor, make_requests, make_change
) -> None:
    changes = [make_change(number) for number in range(4)]
    full = replace(merge([replace(changes[0], full=True), *changes[1:]]))
    verdict = check_predictor(make_predictor, make_requests(10), changes, full=full, absolute=0.0)
    assert verdict.untried == ()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 33, 63, 64, 65, 100])
def test_scores_do_not_depend_on_how_rows_are_cut(make_predictor, make_requests, make_change, size: int) -> None:
    predictor, requests = make_predictor(), make_requests(230, position=True)
    predictor.apply(make_change(0))
    whole = predictor.predict(requests)
    parts = [predictor.predict(requests.slice(start, size)) for start in range(0, 230, size)]
    assert Events.concat(parts).batch.equals(whole.batch)


def test_scores_do_not_depend_on_the_order_of_rows(make_predictor, make_requests, make_change) -> None:
    predictor, requests = make_predictor(), make_requests(230)
    predictor.apply(make_change(0))
    order = np.random.default_rng(1).permutation(230)
    assert predictor.predict(requests).take(order).batch.equals(predictor.predict(requests.take(order)).batch)


def test_scores_follow_the_version(make_predictor, make_requests, make_change) -> None:
    predictor, requests = make_predictor(), make_requests(5)
    predictor.apply(make_change(0))
    first = predictor.predict(requests)
    predictor.apply(make_change(1))
    second = predictor.predict(requests)
    assert set(second.column("version").to_pylist()) == {1}
    assert not np.allclose(scores(first), scores(second))


def test_a_served_feature_is_replaced_and_its_real_value_scored_beside(
    make_predictor, make_requests, make_change
) -> None:
    predictor = make_predictor()
    predictor.apply(make_change(0))
    plain, known = make_requests(40), make_requests(40, position=True)
    answer = predictor.predict(known)
    assert scores(answer).tolist() == scores(predictor.predict(plain)).tolist()
    real = scores(answer, "score_logged")
    at_one = np.asarray(known.column("position").to_numpy()) == 1
    assert real[at_one].tolist() == scores(answer)[at_one].tolist()
    assert (real[~at_one] != scores(answer)[~at_one]).all()


def test_without_the_real_value_there_is_no_logged_score(make_predictor, make_requests, make_change) -> None:
    predictor = make_predictor()
    predictor.apply(make_change(0))
    assert "score_logged" not in predictor.predict(make_requests(4)).names


def test_a_row_without_the_real_value_has_no_logged_score(make_predictor, make_requests, make_change) -> None:
    predictor = make_predictor()
    predictor.apply(make_change(0))
    some = make_requests(3).with_columns({"position": pa.array([1, None, 4])})
    logged = predictor.predict(some).column("score_logged").to_pylist()
    assert logged[1] is None
    assert logged[0] is not None
    assert logged[2] is not None


def test_the_logged_score_is_what_a_model_without_serving_values_gives(
    make_predictor, make_requests, make_change, schema
) -> None:
    raw = replace(schema, features=tuple(
        replace(f, serve_as=None) if isinstance(f, IdFeature) else f for f in schema.features
    ))  # fmt: skip
    predictor, plain = make_predictor(), make_predictor(raw)
    predictor.apply(make_change(0))
    plain.apply(make_change(0))
    requests = make_requests(50, position=True)
    assert scores(predictor.predict(requests), "score_logged").tolist() == scores(plain.predict(requests)).tolist()


def test_serving_corrects_for_sampling_once(make_predictor, make_requests, make_change) -> None:
    plain, corrected = make_predictor(), make_predictor(negative_rate=0.1)
    sampled = SamplingCorrection(0.1, "serving").spec()
    plain.apply(make_change(0))
    corrected.apply(make_change(0, spec={"sampling": sampled}))
    p = scores(plain.predict(make_requests(30))).astype(np.float64)
    q = scores(corrected.predict(make_requests(30)))
    assert np.allclose(q, p * 0.1 / (p * 0.1 + 1 - p), rtol=1e-5)


class Recorder(torch.nn.Module):
    """Gives zeros, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        self.batches.append(batch)
        return torch.zeros(len(batch))


def test_the_logged_score_reads_all_that_depends_on_the_real_values(make_requests) -> None:
    """Served ids and numbers, and crosses of them; everything else is as it is served."""
    schema = Schema(features=(
        IdFeature("user", 2), IdFeature("position", 2, serve_as=1), CrossFeature("both", 2, of=("position", "user")),
        CrossFeature("home", 2, of=("user", "city")), IdFeature("city", 2, serve_as=5), DenseFeature("price"),
        DenseFeature("place", column="position", transform="log1p", serve_as=1.0),
    ))  # fmt: skip
    raw = replace(schema, features=tuple(
        replace(f, serve_as=None) if isinstance(f, (IdFeature, DenseFeature)) else f for f in schema.features
    ))  # fmt: skip
    model, requests = Recorder(), make_requests(20, position=True)
    predictor = RankPredictor(model, Replica({}), schema, block_rows=20)
    predictor.apply(Change(version=Version(0)))
    predictor.predict(requests)
    served, logged = model.batches
    wanted = [collate(requests, one, serving=True) for one in (schema, raw)]
    for got, expected in zip((served, logged), wanted, strict=True):
        assert torch.equal(got.dense, expected.dense)
        assert {name: ids.values.tolist() for name, ids in got.ids.items()} == {
            name: ids.values.tolist() for name, ids in expected.ids.items()
        }
    assert not torch.equal(served.dense, logged.dense)


@pytest.mark.parametrize(("trained", "rate"), [("training", 0.1), ("serving", 1.0), ("serving", 0.2)])
def test_a_version_whose_sampling_is_corrected_twice_or_never_is_refused(
    make_predictor, make_change, trained, rate: float
) -> None:
    predictor = make_predictor(negative_rate=rate)
    with pytest.raises(ConfigError, match="Sampling correction"):
        predictor.apply(make_change(0, spec={"sampling": SamplingCorrection(0.1, trained).spec()}))
    assert predictor.version.number == -1


def test_a_version_of_another_schema_is_refused(make_predictor, make_change, schema) -> None:
    predictor = make_predictor()
    with pytest.raises(VersionError, match="schema"):
        predictor.apply(make_change(0, spec={"schema": schema.evolved(version=9).fingerprint()}))
    predictor.apply(make_change(0, spec={"schema": schema.fingerprint()}))
    assert predictor.version.number == 0


def test_a_gap_is_refused(make_predictor, make_change) -> None:
    predictor = make_predictor()
    with pytest.raises(GapError):
        predictor.apply(make_change(2))


def test_no_version_no_answer(make_predictor, make_requests) -> None:
    with pytest.raises(VersionError, match="no version yet"):
        make_predictor().predict(make_requests(1))


def test_no_rows_no_scores(make_predictor, make_requests, make_change) -> None:
    predictor = make_predictor()
    predictor.apply(make_change(0))
    answer = predictor.predict(make_requests(3).slice(0, 0))
    assert len(answer) == 0
    assert answer.names[:6] == ["key", "kind", "event_time", "item", "score", "version"]


def test_a_missing_column_is_named(make_predictor, make_requests, make_change) -> None:
    predictor = make_predictor()
    predictor.apply(make_change(0))
    requests = make_requests(3)
    without = Events(requests.batch.drop_columns(["price"]))
    with pytest.raises(SchemaError, match="'price'"):
        predictor.predict(without)


class Constant(torch.nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, batch: object) -> object:
        return self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_not_given(make_requests, value: float) -> None:
    model, schema = Constant(torch.full((BLOCK_ROWS,), value)), Schema(features=(IdFeature("user", 2),))
    predictor = RankPredictor(model, Replica({}), schema)
    predictor.apply(Change(version=Version(0)))
    with pytest.raises(NumericError, match="Version 0"):
        predictor.predict(make_requests(3))


@pytest.mark.parametrize("value", [torch.zeros(BLOCK_ROWS, 1), torch.zeros(3), {"logits": 1}])
def test_a_model_that_gives_something_else_than_logits_is_refused(make_requests, value: object) -> None:
    predictor = RankPredictor(Constant(value), Replica({}), Schema(features=(IdFeature("user", 2),)))
    predictor.apply(Change(version=Version(0)))
    with pytest.raises(VersionError, match="logits"):
        predictor.predict(make_requests(3))


@pytest.mark.parametrize(("name", "value"), [("block_rows", 0), ("negative_rate", 0.0), ("negative_rate", 1.5)])
def test_settings_that_cannot_work_are_refused(make_predictor, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        make_predictor(**{name: value})


def test_answers_are_of_one_version_while_versions_pass(make_predictor, make_requests, make_change) -> None:
    """More rows than a block, so that a version could change between two forward passes of one request."""
    requests, changes = make_requests(150, position=True), [make_change(number) for number in range(12)]
    known, reference = {}, make_predictor()
    for change in changes:
        reference.apply(change)
        known[change.version.number] = reference.predict(requests).batch
    predictor, answers, stop = make_predictor(), [], threading.Event()
    predictor.apply(changes[0])

    def ask() -> None:
        while not stop.is_set():
            answers.append(predictor.predict(requests).batch)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for change in changes[1:]:
        reached = len(answers) + 3
        while len(answers) < reached:
            stop.wait(0.001)
        predictor.apply(change)
    stop.set()
    for thread in threads:
        thread.join()
    for answer in answers:
        assert answer.equals(known[answer.column("version")[0].as_py()])
    assert len({answer.column("version")[0].as_py() for answer in answers}) > 5
