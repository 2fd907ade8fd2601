"""Tables of fewer bits learn what tables of float32 learn, and serve what the learner knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.publish import Replica
from headrace.store import SGD, Adagrad, EmbeddingCollection, FeatureLookup, ReferenceTable, Storage, TableConfig
from headrace.store import open_table as opened
from headrace.store.table import load_native
from headrace.testing import Toy, ToyConfig
from headrace.types import Batch, Change, Version

TOY = Toy(ToyConfig(users=64, items=64))
BATCH, BATCHES = 64, 500
MARGIN = 0.005
"""How much AUC rows of fewer bits may cost, at most."""

NAMES = ("user", "item")


def config(name: str, **settings: Any) -> TableConfig:
    return TableConfig(name=name, dim=8, **settings)


def learner(**settings: Any) -> RankLearner:
    tables = {name: opened(config(name, **settings)) for name in NAMES}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in NAMES])
    model = DeepFM(collection, NAMES, 0, (16,), seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return RankLearner(model, collection, optimizer, LogLoss(), LearnerConfig(row_gradients="sum"))


def area(model: torch.nn.Module, batch: Batch) -> float:
    model.eval()
    with torch.no_grad():
        scores = model(batch)
    positive, negative = scores[batch.labels == 1], scores[batch.labels == 0]
    return float((positive.unsqueeze(1) > negative).double().mean())


def trained(**settings: Any) -> RankLearner:
    one = learner(**settings)
    for batch in TOY.batches(BATCH, BATCHES):
        one.learn(batch)
    return one


@pytest.fixture(scope="module")
def full() -> RankLearner:
    """A learner whose tables are float32."""
    return trained()


@pytest.fixture(scope="module")
def change(full: RankLearner) -> Change:
    """All that it knows, as a replica takes it over."""
    return full.changes(Version(-1))


@pytest.fixture(scope="module")
def unseen() -> Batch:
    """Examples that nobody learned from."""
    return TOY.batch(BATCH * BATCHES, 4000)


@pytest.mark.skipif(load_native() is None, reason="the native module is not built")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rows_of_sixteen_bits_learn_as_well(full: RankLearner, unseen: Batch, precision: Any) -> None:
    half = trained(storage=Storage(precision=precision))
    best = area(full.model, unseen)
    assert best > TOY.best_auc() - 0.03
    assert area(half.model, unseen) > best - MARGIN


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_steps_below_the_grid_add_up_in_sixteen_bits(precision: Any) -> None:
    """Near 1, bfloat16 has a grid of 2^-7: 2000 steps of 2^-12 each would all be lost without random rounding."""
    table = opened(config("t", rule=SGD(lr=2.0**-12), storage=Storage(precision=precision)))
    ids = torch.arange(200)
    ones = torch.ones_like(ids)
    table.assign(ids, torch.ones(200, 8))
    for _ in range(2000):
        table.update(ids, -torch.ones(200, 8), ones, ones)
    assert abs(float(table.lookup(ids).mean()) - (1 + 2000 / 4096)) < 0.01


@pytest.mark.parametrize("kind", [opened, ReferenceTable])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_replica_of_fewer_bits_ranks_as_the_learner(
    full: RankLearner, change: Change, unseen: Batch, kind: Any, precision: Any
) -> None:
    storage = Storage(serving_precision=precision)
    tables = {name: kind(config(name, storage=storage), serving=True) for name in NAMES}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in NAMES])
    model = DeepFM(collection, NAMES, 0, (16,), seed=1)
    Replica(tables, model).apply(change)
    model.load_state_dict(full.model.state_dict())
    best, served = area(full.model, unseen), area(model, unseen)
    assert abs(served - best) <= (0.0 if precision == "float32" else MARGIN)


def test_a_learner_with_half_rows_resumes_bit_by_bit() -> None:
    settings = {"storage": Storage(precision="bfloat16"), "rule": Adagrad()}
    straight, stopped = learner(**settings), learner(**settings)
    for number, batch in enumerate(TOY.batches(16, 12)):
        if number == 5:
            state, stopped = stopped.state(), learner(**settings)
            stopped.restore(state)
        straight.learn(batch)
        stopped.learn(batch)
    for name in NAMES:
        one, other = straight.tables[name].rows(), stopped.tables[name].rows()  # type: ignore[attr-defined]
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.ids, other.ids)
