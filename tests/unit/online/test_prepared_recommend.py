"""Where raw rows are prepared, retrieval prepares them too: the same ids, whatever else a row lacks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import Categories, Category, EmbeddedLog, JoinConfig, Number, Preparation, prepare
from headrace.nn import DeepFM, StreamingFrequencies, TowerInputs, TwoStage, TwoTower
from headrace.objectives import TwoStageLoss
from headrace.online import OnlineConfig, open_learner, open_recommender, open_serving
from headrace.serve import Greedy, RecommendConfig, Wish
from headrace.types import Events, Version

PLAN = Preparation(columns=(
    Category("user", min_count=1), Category("item"), Category("maker", column="brand"),
    Number("price", scale="standard"), Categories("tags", min_count=1),
))  # fmt: skip


def raw(rows: int = 400) -> pa.Table:
    draw = np.random.default_rng(0)
    items = draw.integers(0, 30, rows)
    return pa.table({
        "label": draw.integers(0, 2, rows).astype(np.float32), "user": [f"u{n}" for n in draw.integers(0, 20, rows)],
        "item": [f"i{n}" for n in items], "brand": [f"b{n % 4}" for n in items],
        "price": [float(n) for n in items], "tags": ["|".join(f"t{n % 3}" for _ in range(2)) for n in items],
    })  # fmt: skip


@pytest.fixture(params=["towers", "rows"])
def shop(request, tmp_path):
    data = prepare(raw(), PLAN, tmp_path / "data")

    def network(embed, schema, seed):
        return TwoStage(
            embed,
            lambda once: DeepFM(once, schema.id_names, len(schema.dense_names), (8,), seed=seed),
            lambda once: TwoTower(
                once, TowerInputs(("user",)), TowerInputs(("item", "maker", "tags"), (0,)), (8,), width=4,
                frequencies=StreamingFrequencies(64),
            ),
        )  # fmt: skip

    config = OnlineConfig(
        name="prepared", schema=data.schema(4), preparation=data.statistics, model=network, objective=TwoStageLoss(),
        join=JoinConfig(window_s=60, lateness_s=1),
        recommend=RecommendConfig(vectors=request.param, explore=Greedy(), candidates=10, most=10),
    )  # fmt: skip
    learner, serving = open_learner(config), open_serving(config)
    for batch in data.batches("train", 64, seed=0):
        learner.learn(batch)
    events, items = (EmbeddedLog(tmp_path / f"{name}.db", durability="process") for name in ("events", "items"))
    recommender = open_recommender(config, events, items, {"main": serving.predictor})
    serving.predictor.apply(learner.changes(Version(-1)))
    rows = [{"item": f"i{n}", "brand": f"b{n % 4}", "price": float(n), "tags": f"t{n % 3}|t{n % 3}"} for n in range(30)]
    recommender.catalogue.put(pa.RecordBatch.from_pylist([*rows, {"item": "unseen", "brand": "b1", "price": 3.0}]))
    return serving, recommender


def ask(recommender, user: str, n: int = 10):
    return recommender.recommend(Wish(key="k", event_time=1, about={"user": pa.array([user])}, n=n))


def test_scores_are_those_of_the_ranker_on_raw_rows(shop) -> None:
    serving, recommender = shop
    answer = ask(recommender, "u3")
    plain = Events(answer.rows.batch.select(["key", "kind", "event_time", "user", "item", "brand", "price", "tags"]))
    scores = serving.predictor.predict(plain).column("score").to_pylist()
    assert answer.rows.column("score").to_pylist() == pytest.approx(scores, rel=1e-6)


def test_users_are_known_by_their_prepared_ids(shop) -> None:
    _, recommender = shop
    assert ask(recommender, "u3").known_user
    assert not ask(recommender, "a stranger").known_user


def test_every_item_has_a_vector_and_items_that_were_never_learned_too(shop) -> None:
    _, recommender = shop
    view = recommender.stages["main"].retriever.view
    assert view.vectors.shape[0] == len(view.shelf) == 31
    assert torch.allclose(view.vectors.norm(dim=1), torch.ones(31), atol=1e-5)
