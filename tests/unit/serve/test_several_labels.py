"""Several labels the whole way: schema, batch, loss, learner, published change, and a score per label."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import nn

from headrace.data import Collator, DenseFeature, IdFeature, Label, Schema
from headrace.data.log import EmbeddedLog
from headrace.errors import VersionError
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DeepFM
from headrace.nn.esmm import ESMM
from headrace.nn.multi_task import MMoE
from headrace.nn.position import PositionTower
from headrace.nn.tasks import GatedTasks
from headrace.objectives import ESMMLoss, LogLoss, MultiTask
from headrace.publish import Replica
from headrace.serve import RankPredictor, create_app
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.testing import Toy, ToyConfig
from headrace.types import Events, Version

SCHEMA = Schema(
    features=(IdFeature("user", 8), IdFeature("item", 8)),
    extra_labels=(Label("buy", ("buy",)), Label("like", ("like",))),
)
CLICK, OTHER = (Toy(ToyConfig(seed=seed, users=16, items=16, signs=2, strength=3.0)) for seed in (1, 2))
Floats = npt.NDArray[np.float64]


def rows_of(first: int, rows: int) -> Events:
    """Examples with a click, a purchase after some clicks, and a like that wants other pairs and is often unknown."""
    events, own = CLICK.events(first, rows), CLICK.columns(first, rows)
    draw = np.random.default_rng(first)
    likes = draw.random(rows) < OTHER.probability(own["users"], own["items"])  # type: ignore[arg-type]
    buys = (own["labels"] > 0) & likes
    return events.with_columns({
        "buy": pa.array(buys.astype(np.float32)),
        "like": pa.array(likes.astype(np.float32), mask=draw.random(rows) < 0.3),
    })  # fmt: skip


def network(kind: str, embed: nn.Module) -> nn.Module:
    names = SCHEMA.id_names
    if kind == "mmoe":
        return MMoE(embed, names, 0, (32,), tasks=GatedTasks(priors=(0.5, 0.25, 0.5), experts=4))
    return ESMM(embed, names, 0, (32,), priors=(0.5, 0.5, 0.5)) if kind == "esmm" else DeepFM(embed, names, 0, (8,))


def collection(*, serving: bool = False) -> EmbeddingCollection:
    tables = {name: open_table(TableConfig(name=name, dim=8, seed=2), serving=serving) for name in SCHEMA.id_names}
    return EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in SCHEMA.id_names])


def serving_of(kind: str, schema: Schema = SCHEMA) -> RankPredictor:
    embed = collection(serving=True)
    model = network(kind, embed)
    return RankPredictor(model, Replica(dict(embed.tables), model), schema)


def learned(kind: str, objective: MultiTask | LogLoss, rows: int) -> RankLearner:
    embed = collection()
    model = network(kind, embed)
    learner = RankLearner(
        model, embed, torch.optim.Adam(model.parameters(), lr=0.02), objective, LearnerConfig(schema=SCHEMA)
    )
    collator = Collator(SCHEMA, 256)
    for first in range(0, rows, 2_048):
        batch = collator.add(rows_of(first, 2_048))
        assert batch is not None
        for part in batch.split(256):
            learner.learn(part)
    return learner


def column(events: Events, name: str) -> Floats:
    return np.asarray(events.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)


def auc(scores: Floats, labels: Floats) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1.0
    positives = labels.sum()
    return float((ranks[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))


@pytest.fixture(scope="module")
def mmoe() -> RankLearner:
    return learned("mmoe", MultiTask(("buy", "like")), 20_480)


def test_every_label_is_learned_published_and_served(mmoe: RankLearner) -> None:
    predictor = serving_of("mmoe")
    predictor.apply(mmoe.changes(Version(-1)))
    test = rows_of(100_000, 4_000)
    answer = predictor.predict(test)
    assert answer.names[-4:] == ["score", "score/buy", "score/like", "version"]
    known = np.asarray(test.column("like").is_valid())
    own = {name: column(test, name) for name in ("label", "buy")}
    assert auc(column(answer, "score"), own["label"]) > 0.8
    assert auc(column(answer, "score/buy"), own["buy"]) > 0.78
    assert auc(column(answer, "score/like")[known], column(test, "like")[known]) > 0.73
    assert auc(column(answer, "score"), (column(test, "like") > 0).astype(float)) < 0.65  # they are different labels


def test_what_is_served_is_what_the_learner_would_say(mmoe: RankLearner) -> None:
    predictor, rows = serving_of("mmoe"), rows_of(0, 64)
    predictor.apply(mmoe.changes(Version(-1)))
    answer, batch = predictor.predict(rows), Collator(SCHEMA, 64).add(rows)
    assert batch is not None
    loss = MultiTask(("buy", "like"))(mmoe.model.eval(), batch)
    mmoe.collection.discard()
    assert loss.logits is not None
    np.testing.assert_allclose(column(answer, "score"), torch.sigmoid(loss.logits).numpy(), atol=1e-6)


def test_parts_of_the_loss_name_every_label(mmoe: RankLearner) -> None:
    batch = Collator(SCHEMA, 64).add(rows_of(0, 64))
    assert batch is not None
    loss = MultiTask(("buy", "like"))(mmoe.model.eval(), batch)
    mmoe.collection.discard()
    assert set(loss.parts) == {"log_loss", "log_loss/buy", "log_loss/like"}
    assert torch.isnan(batch.extra["label/like"]).any()


def test_a_chain_serves_probabilities_that_never_rise() -> None:
    learner = learned("esmm", ESMMLoss(("buy", "like")), 2_048)
    predictor = serving_of("esmm")
    predictor.apply(learner.changes(Version(-1)))
    answer = predictor.predict(rows_of(0, 200))
    click, buy, like = (column(answer, name) for name in ("score", "score/buy", "score/like"))
    assert (buy <= click).all()
    assert (like <= buy).all()


def test_a_model_of_the_main_label_alone_serves_one_score() -> None:
    predictor = serving_of("plain")
    predictor.apply(learned("plain", LogLoss(), 2_048).changes(Version(-1)))
    assert [name for name in predictor.predict(rows_of(0, 3)).names if name.startswith("score")] == ["score"]


def test_a_model_of_other_labels_than_the_schemas_is_refused(mmoe: RankLearner) -> None:
    fewer = Schema(features=SCHEMA.features, extra_labels=SCHEMA.extra_labels[:1])
    predictor, change = serving_of("mmoe", fewer), mmoe.changes(Version(-1))
    change = type(change)(version=change.version, tables=change.tables, dense=change.dense, full=change.full)
    predictor.apply(change)
    with pytest.raises(VersionError, match=r"\(64, 3\), expected logits of shape \(64,\) or \(64, 2\)"):
        predictor.predict(rows_of(0, 3))


def test_over_http_every_label_has_its_scores(mmoe: RankLearner, tmp_path: Path) -> None:
    predictor = serving_of("mmoe")
    predictor.apply(mmoe.changes(Version(-1)))
    app = create_app(predictor, EmbeddedLog(tmp_path / "events.db", durability="process"))

    async def ask() -> dict[str, object]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        ):
            body = {"key": "r1", "user": {"user": "u1"}, "candidates": [{"item": "i1"}, {"item": "i2"}]}
            answer: dict[str, object] = json.loads((await client.post("/v1/rank", json=body)).content)
            return answer

    answer = asyncio.run(ask())
    others = answer["label_scores"]
    assert isinstance(others, dict)
    assert set(others) == {"buy", "like"}
    assert all(len(values) == 2 and 0 < min(values) <= max(values) < 1 for values in others.values())


def test_a_position_tower_is_learned_with_the_place_and_served_without() -> None:
    """Place 2 halves the clicks of everything; requests are scored at place 1, and logged ones at theirs."""
    placed = Schema(features=(*SCHEMA.features, DenseFeature("position", serve_as=1.0)))

    def build(*, serving: bool = False) -> tuple[EmbeddingCollection, PositionTower]:
        embed = collection(serving=serving)
        return embed, PositionTower(DeepFM(embed, placed.id_names, 1, (8,)), 0, 2)

    def shown(first: int, rows: int) -> Events:
        events, draw = CLICK.events(first, rows), np.random.default_rng(first)
        places = draw.integers(1, 3, size=rows).astype(np.float32)
        labels = column(events, "label") * ((places == 1) | (draw.random(rows) < 0.5))
        return events.with_columns({"position": pa.array(places), "label": pa.array(labels.astype(np.float32))})

    embed, model = build()
    learner = RankLearner(
        model, embed, torch.optim.Adam(model.parameters(), lr=0.1), LogLoss(), LearnerConfig(schema=placed)
    )
    collator = Collator(placed, 256)
    for first in range(0, 10_240, 256):
        batch = collator.add(shown(first, 256))
        assert batch is not None
        learner.learn(batch)
    assert model.effect()[0].tolist() == pytest.approx([1.0, 0.5], abs=0.1)

    served_embed, served = build(serving=True)
    predictor = RankPredictor(served, Replica(dict(served_embed.tables), served), placed)
    predictor.apply(learner.changes(Version(-1)))
    answer, rows = predictor.predict(shown(50_000, 200)), shown(50_000, 200)
    score, logged = column(answer, "score"), column(answer, "score_logged")
    at_one = column(rows, "position") == 1.0
    assert score[at_one].tolist() == logged[at_one].tolist()
    np.testing.assert_allclose(logged[~at_one] / score[~at_one], float(model.effect()[0, 1]), atol=1e-5)
