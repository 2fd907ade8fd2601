"""Raw rows are prepared for serving as they were for training: in a file, in a request, after a restart."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from headrace.data import (
    Categories,
    Category,
    Collator,
    EmbeddedLog,
    History,
    JoinConfig,
    LogBins,
    Number,
    Preparation,
    PreparedData,
    QuantileBins,
    collate,
    example_ids,
    prepare,
)
from headrace.errors import ConfigError, DataError, SchemaError, VersionError
from headrace.nn import DeepFM
from headrace.online import OnlineConfig, RunFolder, open_learner, open_serving, predict_file, request_file
from headrace.online.build import keep_preparation, with_preparation
from headrace.online.layout import CHANGES
from headrace.online.offline import evaluate_source, newest_predictor
from headrace.online.roles import open_log
from headrace.publish import LogPublisher
from headrace.serve import create_app
from headrace.types import Batch, Events, Version

PLAN = Preparation(columns=(
    Category("user", min_count=2), Category("item"), Category("age_id", column="age"),
    Number("age", log1p=True, indicator=True), LogBins("price"), QuantileBins("price_bin", column="price", bins=5),
    Number("share", scale="standard", optional=True),
    Categories("tags", min_count=2), History("seen", vocabulary="item", max_length=3),
    Category("position", serve_as=1), Number("place", column="position", log1p=True, serve_as=1.0),
    Category("hashed", column="user", buckets=64),
))  # fmt: skip


def raw(rows: int = 600, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)

    def some(values: list[object]) -> pa.Array:
        return pa.array([None if n % 13 == 5 else value for n, value in enumerate(values)])

    return pa.table({
        "label": draw.integers(0, 2, rows).astype(np.float32),
        "user": some([f"user {n}" for n in draw.zipf(1.5, rows) % 50]),
        "item": [f"i{n}" for n in draw.integers(0, 40, rows)],
        "age": some([int(n) for n in draw.integers(10, 80, rows)]),
        "price": some([float(value) for value in draw.lognormal(3, 1, rows)]),
        "share": some([float(value) for value in draw.normal(0, 1, rows)]),
        "tags": some(["|".join(f"t{n}" for n in draw.integers(0, 9, draw.integers(0, 4))) for _ in range(rows)]),
        "seen": some([[f"i{n}" for n in draw.integers(0, 60, draw.integers(0, 5))] for _ in range(rows)]),
        "position": draw.integers(1, 9, rows),
    })  # fmt: skip


def network(embed, schema, seed) -> DeepFM:
    return DeepFM(embed, schema.id_names, len(schema.dense_names), (8,), seed=seed)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    return prepare(raw(), PLAN, tmp_path_factory.mktemp("data") / "out")


@pytest.fixture(scope="module")
def config(data) -> OnlineConfig:
    return OnlineConfig(name="prepared", schema=data.schema(4), preparation=data.statistics, model=network,
                        join=JoinConfig(window_s=60.0, lateness_s=1.0))  # fmt: skip


@pytest.fixture(scope="module")
def folder(data, config, tmp_path_factory) -> RunFolder:
    """A run that learned prepared batches and published one version."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    keep_preparation(config, folder)
    learner = open_learner(config)
    for batch in data.batches("train", 64, seed=0):
        learner.learn(batch)
    with open_log(config, folder, CHANGES) as log:
        LogPublisher(log, snapshots=folder.snapshots).publish(learner.changes(Version(-1)))
    return folder


def requests(table: pa.Table, *, without: tuple[str, ...] = ("label",)) -> Events:
    columns = {name: table[name].combine_chunks() for name in table.column_names if name not in without}
    rows = table.num_rows
    return Events.from_columns({"key": [f"r{n}" for n in range(rows)], "kind": ["impression"] * rows,
                                "event_time": list(range(rows)), **columns})  # fmt: skip


def alike(found: Batch, expected: Batch) -> None:
    for name, ids in expected.ids.items():
        assert torch.equal(found.ids[name].values, ids.values), name
        assert torch.equal(found.ids[name].offsets, ids.offsets), name
    assert torch.equal(found.dense, expected.dense)


def test_training_and_serving_features_are_equal(data, config) -> None:
    predictor = open_serving(config).predictor
    expected = next(data.batches("train", 600))
    events = requests(raw())
    alike(collate(predictor.prepared(events), config.schema, serving=True, reference=False), expected)
    one = predictor.prepared(events.slice(37, 1))  # alone, as a request of one row
    alike(collate(one, config.schema, serving=True, reference=False), expected.slice(37, 38))
    served = collate(predictor.prepared(events), config.schema, serving=True)
    assert set(served.ids["position"].values.tolist()) == {config.schema.feature("position").serve_as}
    assert served.dense[:, config.schema.dense_names.index("place")].unique().tolist() == [float(np.float32(np.log(2)))]


def test_raw_requests_get_the_scores_of_prepared_rows(data, config, folder) -> None:
    predictor = newest_predictor(config, folder)
    found = predictor.predict(requests(raw().slice(0, 50)))
    model, batch = predictor.model, next(data.batches("train", 50))
    with predictor.replica.reading(), torch.no_grad():
        logged = torch.sigmoid(model(batch))
    assert found.column("score_logged").to_pylist() == pytest.approx(logged.tolist(), abs=1e-6)
    assert found.column("score").to_pylist() != pytest.approx(logged.tolist(), abs=1e-3)
    unknown = predictor.predict(requests(raw(50), without=("label", "position", "share")))
    assert unknown.column("score").null_count == 0
    assert "score_logged" not in unknown.names


def test_unseen_and_missing_values_are_scored(config, folder) -> None:
    predictor = newest_predictor(config, folder)
    rows = raw(3).set_column(1, "user", pa.array(["nobody", None, ""])).set_column(2, "item", pa.array(["x", "y", "z"]))
    assert predictor.predict(requests(rows)).column("score").null_count == 0


@pytest.mark.parametrize(("name", "values", "said"), [
    ("user", [1.5] * 3, "text or whole numbers"), ("price", ["cheap"] * 3, "numbers"), ("tags", [1] * 3, "lists"),
    ("price", [1.0, float("nan"), 2.0], "row 1: got nan"), ("user", None, "no such column"),
])  # fmt: skip
def test_rows_that_cannot_be_prepared_are_refused(config, folder, name, values, said) -> None:
    rows = raw(3)
    at = rows.column_names.index(name)
    rows = rows.remove_column(at) if values is None else rows.set_column(at, name, pa.array(values))
    with pytest.raises(SchemaError, match=rf"'{name}'.*{said}"):
        newest_predictor(config, folder).predict(requests(rows))


def test_over_http_the_scores_are_the_same(config, folder, tmp_path: Path) -> None:
    predictor = newest_predictor(config, folder)
    rows = raw(4).drop_columns("label")
    expected = predictor.predict(requests(rows)).column("score").to_pylist()
    app = create_app(predictor, EmbeddedLog(tmp_path / "events.db", durability="process"))

    async def ask(*bodies: object) -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as client
        ):  # fmt: skip
            return [await client.post("/v1/rank", json=body) for body in bodies]

    candidates = [{name: value for name, value in row.items() if value is not None} for row in rows.to_pylist()]
    for name in ("user", "age", "price", "tags", "seen"):
        candidates[0].setdefault(name, None)
    wrong = [{**candidate, "price": "cheap"} for candidate in candidates]
    good, refused, unknown = asyncio.run(ask({"key": "r1", "candidates": candidates},
                                             {"key": "r2", "candidates": wrong},
                                             {"key": "r3", "candidates": [{**candidates[0], "usr": "a"}]}))  # fmt: skip
    assert json.loads(good.content)["scores"] == pytest.approx(expected, abs=0)
    assert (refused.status_code, unknown.status_code) == (400, 400)
    assert "price" in refused.text
    assert "'user'" in unknown.text
    logged = EmbeddedLog(tmp_path / "events.db").read("events", 0, limit=10)
    assert (
        logged[0].events.column("user").to_pylist() == rows["user"].to_pylist()
    )  # raw, so that it can be prepared anew


def test_files_are_predicted_and_judged_raw(config, folder, tmp_path) -> None:
    rows = raw(120)
    keys = pa.array([f"r{n}" for n in range(120)])
    pq.write_table(rows.append_column("key", keys), tmp_path / "rows.parquet")
    predict_file(
        config, folder, request_file(tmp_path / "rows.parquet", config.request_schema), tmp_path / "out.parquet"
    )
    scores = pq.read_table(tmp_path / "out.parquet")["score"].to_pylist()
    assert scores == newest_predictor(config, folder).predict(requests(rows)).column("score").to_pylist()
    report, _ = evaluate_source(config, folder, request_file(tmp_path / "rows.parquet", config.request_schema))
    assert report.figures["rows"].value == 120


def test_after_a_restart_the_statistics_beside_the_model_are_used(config, folder) -> None:
    expected = newest_predictor(config, folder).predict(requests(raw(20)))
    again = replace(config, preparation=None)  # knows only their fingerprint, in the schema
    assert newest_predictor(again, folder).predict(requests(raw(20))).batch.equals(expected.batch)
    with pytest.raises(DataError, match="no such file"):
        with_preparation(again, RunFolder(folder.root / "elsewhere"))


def test_statistics_of_other_data_are_refused(config, folder, tmp_path) -> None:
    other = prepare(raw(seed=9), PLAN, tmp_path / "other")
    with pytest.raises(ConfigError, match="which the schema was made for"):
        open_serving(replace(config, preparation=other.statistics))
    with pytest.raises(ConfigError, match=config.schema.preparation):
        open_serving(replace(config, preparation=None))
    theirs = replace(config, preparation=other.statistics, schema=other.schema(4))
    with pytest.raises(VersionError, match=rf"preparation: got {config.schema.preparation}.*Load the statistics"):
        newest_predictor(theirs, folder)
    with pytest.raises(ConfigError, match="Preparation"):
        keep_preparation(theirs, folder)


def test_joined_raw_rows_are_prepared_before_they_are_learned(data, config) -> None:
    rows = raw().slice(0, 64)
    examples = requests(rows, without=()).with_columns({"kind": pa.array(["example"] * 64)})
    batch = Collator(config.schema, 32, config.preparation).add(examples)
    assert batch is not None
    alike(batch, next(data.batches("train", 64)))
    assert batch.example_ids.tolist() == example_ids(examples.column("key"), examples.column("item")).tolist()
    with pytest.raises(ConfigError, match="Preparation"):
        Collator(config.schema, 32)
