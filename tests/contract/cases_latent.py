"""Latent recommenders in the roles that they fill: objective, learner and predictor of a VAE with a user prior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from headrace.data import DenseFeature, IdFeature, Schema, SequenceFeature, collate
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import MultVAE, VAESettings
from headrace.objectives.elbo import ELBO
from headrace.optim import Warmup
from headrace.publish import Replica
from headrace.serve import RankPredictor
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, NativeTable, ReferenceTable, TableConfig
from headrace.testing import Verdict, check_learner, check_objective, check_predictor
from headrace.types import Change, Events, Version

SCHEMA = Schema(
    features=(SequenceFeature("history", 8, "item", pooling="none", accepts="integer"), DenseFeature("age"),
              IdFeature("item", 8, "item", accepts="integer"))
)  # fmt: skip
ITEMS = 20


def rows(step: int, count: int = 24, *, kind: str = "example") -> Events:
    """Choices with the history before them; some users have none."""
    draw = np.random.default_rng(step)
    past = [draw.permutation(ITEMS)[: draw.integers(0, 5)] for _ in range(count)]
    return Events.from_columns({
        "key": [f"{step}-{row}" for row in range(count)], "kind": [kind] * count, "event_time": [step + 1] * count,
        "history": pa.array(past, pa.list_(pa.int64())), "age": draw.normal(size=count),
        "item": draw.integers(0, ITEMS + 3, count), "label": (draw.random(count) < 0.7).astype(np.float32),
    })  # fmt: skip


def model_over(tables: dict, *, prior: str = "user") -> tuple[MultVAE, EmbeddingCollection]:
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in SCHEMA.id_features]
    collection = EmbeddingCollection(tables, lookups)
    settings = VAESettings(latent=4, prior=prior)  # type: ignore[arg-type]
    return MultVAE(collection, SCHEMA.id_names, 1, catalogue=range(ITEMS), settings=settings), collection


def learner(part: type = ReferenceTable, *, prior: str = "user", beta: float = 0.5):
    def make() -> RankLearner:
        model, collection = model_over({"item": part(TableConfig(name="item", dim=8, rule=Adagrad()))}, prior=prior)
        objective = ELBO(beta=beta, annealing=Warmup(steps=3))
        return RankLearner(model, collection, torch.optim.Adam(model.parameters()), objective, LearnerConfig())

    return make


def objectives() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        first, second = (collate(rows(step), SCHEMA) for step in (0, 1))
        return check_objective(ELBO(), learner()().model.eval(), first, other=second)

    yield "Objective", ELBO, run


def learners() -> Iterator[tuple]:
    for part in (ReferenceTable, NativeTable):

        def run(_: Path, part=part) -> Verdict:
            batches = [collate(rows(step), SCHEMA) for step in range(6)]
            return check_learner(learner(part), batches, others=[learner(part, prior="standard")])

        yield "Learner", RankLearner, run, (), f"latent-{part.__name__}"


def learned() -> tuple[list[Change], Change]:
    """The changes of a learner version by version, and the whole of it as one full change."""
    source, whole = learner()(), learner()()
    changes = [source.changes(Version(-1))]
    for number in range(6):
        batch = collate(rows(number), SCHEMA)
        source.learn(batch)
        whole.learn(batch)
        changes.append(source.changes(Version(number, number - 1)))
    return changes, replace(whole.changes(Version(-1)), version=changes[-1].version, full=True)


def predictors() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        def make() -> RankPredictor:
            tables = {"item": ReferenceTable(TableConfig(name="item", dim=8, rule=Adagrad()), serving=True)}
            model, _ = model_over(tables)
            return RankPredictor(model, Replica(tables, model), SCHEMA)

        changes, full = learned()
        asked = rows(9, 100, kind="impression")
        asked = Events(asked.batch.select([name for name in asked.names if name != "label"]))
        return check_predictor(make, asked, changes, full=full, absolute=0.0)

    yield "Predictor", RankPredictor, run, (), "latent"


CASES = [objectives, learners, predictors]
