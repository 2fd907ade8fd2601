"""Models over histories through the learner: rows of a shared table, auxiliary loss, and exact continuation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.optim import Adam

from headrace.data import IdFeature, Schema, SequenceFeature, collate
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import BST, DIEN, DIN
from headrace.objectives import LogLoss, WithAuxiliary
from headrace.protocols import Objective
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.testing import assert_same_state
from headrace.types import Batch, Events

PAIRS: Mapping[str, str] = {"past": "item"}
SCHEMA = Schema(features=(
    IdFeature("user", 4), SequenceFeature("past", 4, "item", pooling="none", max_length=3), IdFeature("item", 4),
))  # fmt: skip
MODELS: dict[str, tuple[Callable[..., nn.Module], Objective]] = {
    "DIN": (DIN, LogLoss()), "DIEN": (DIEN, WithAuxiliary(LogLoss(), 0.5)), "BST": (BST, LogLoss()),
}  # fmt: skip


def batches() -> list[Batch]:
    """Five batches of four rows; histories of no, one, and more entries than are kept."""
    rows, draw = 20, torch.Generator().manual_seed(0)
    past = [[f"i{int(i)}" for i in torch.randint(0, 9, (row % 6,), generator=draw)] for row in range(rows)]
    events = Events.from_columns({
        "key": [f"r{row}" for row in range(rows)], "kind": ["example"] * rows, "event_time": list(range(rows)),
        "user": [f"u{row % 5}" for row in range(rows)], "item": [f"i{row % 9}" for row in range(rows)], "past": past,
        "label": [float(row % 3 == 0) for row in range(rows)],
    })  # fmt: skip
    return list(collate(events, SCHEMA).split(4))


def learner_of(name: str) -> RankLearner:
    tables = {table: open_table(TableConfig(name=table, dim=dim)) for table, dim in SCHEMA.tables.items()}
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in SCHEMA.id_features]
    embed = EmbeddingCollection(tables, lookups)
    family, objective = MODELS[name]
    model = family(embed, SCHEMA.id_names, 0, (8,), pairs=PAIRS, seed=1)
    config = LearnerConfig(schema=SCHEMA)
    return RankLearner(model, embed, Adam(model.parameters(), lr=0.01), objective, config)


@pytest.mark.parametrize("name", MODELS)
def test_a_learner_goes_on_from_its_state_exactly(name: str) -> None:
    straight, first, second = learner_of(name), learner_of(name), learner_of(name)
    for batch in batches():
        straight.learn(batch)
    for batch in batches()[:2]:
        first.learn(batch)
    second.restore(first.state())
    for batch in batches()[2:]:
        loss = second.learn(batch)
    assert_same_state(second.state(), straight.state())
    assert ("auxiliary" in loss.parts) == (name == "DIEN")


@pytest.mark.parametrize("name", MODELS)
def test_history_and_target_learn_the_same_rows(name: str) -> None:
    learner, batch = learner_of(name), batches()[0]
    learner.learn(batch)
    ids = torch.cat([batch.ids["past"].values, batch.ids["item"].values]).unique()
    assert learner.tables["item"].rows().ids.tolist() == ids.tolist()
