"""Evolution: the next schema's learner goes on with what the old one learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam

from headrace.data import DenseFeature, IdFeature, Schema
from headrace.data.evolution import plan
from headrace.errors import ConfigError, CorruptSnapshot, RowRuleMismatch, SchemaError
from headrace.learn import LEDGER, LearnerConfig, RankLearner, evolve, times_learned
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.store import EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.testing import assert_same_state
from headrace.types import Batch, Jagged, State, Version

OLD = Schema(features=(IdFeature("user", 4), IdFeature("city", 4), IdFeature("item", 4), DenseFeature("price"),
                       DenseFeature("age")))  # fmt: skip


def learner_of(schema: Schema, *, seed: int = 0, objective: LogLoss | None = None, **config: Any) -> RankLearner:
    tables = {name: ReferenceTable(TableConfig(name=name, dim=dim)) for name, dim in schema.tables.items()}
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in schema.id_features]
    collection = EmbeddingCollection(tables, lookups)
    model = DeepFM(collection, schema.id_names, len(schema.dense_names), (6,), seed=seed)
    settings = LearnerConfig(schema=schema, **config)
    return RankLearner(model, collection, Adam(model.parameters(), lr=0.01), objective or LogLoss(), settings)


def batch_of(schema: Schema, seed: int, rows: int = 12) -> Batch:
    """Every column is drawn by its name, so that a column has the same values under every schema."""

    def draw(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * seed + sum(map(ord, name)))

    ids = {name: Jagged(torch.randint(0, 9, (rows,), generator=draw(name)), torch.arange(rows + 1))
           for name in schema.id_names}  # fmt: skip
    dense = [torch.randn(rows, generator=draw(name)) for name in schema.dense_names]
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids=ids, dense=torch.stack(dense, 1) if dense else torch.zeros(rows, 0),
        labels=(torch.rand(rows, generator=draw("label")) < 0.5).float(), weights=torch.ones(rows),
        event_times=zeros + seed + 1, accepted_times=zeros + seed + 1, example_ids=torch.arange(rows) + rows * seed,
        predictions=torch.full((rows,), math.nan), versions=zeros, sample_rates=torch.ones(rows),
    )  # fmt: skip


def learned(schema: Schema = OLD, steps: int = 4, **config: Any) -> RankLearner:
    learner = learner_of(schema, **config)
    learner.changes(Version(-1))
    for seed in range(steps):
        learner.learn(batch_of(schema, seed))
        learner.changes(Version(seed, seed - 1))
    return learner


def evolved(new: Schema, old: RankLearner | None = None, **config: Any) -> RankLearner:
    learner = learner_of(new, seed=7, **config)
    learner.restore(evolve((old or learned()).state(), plan(OLD, new), learner))
    return learner


def logits(learner: RankLearner, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = learner.model.eval()(batch)
    return result


def test_an_unchanged_schema_is_a_plain_restore_but_for_the_full_change() -> None:
    old, again = learned(), learner_of(OLD, seed=7)
    state = evolve(old.state(), plan(OLD, OLD), again)
    again.restore(state)
    states = [{name: part for name, part in learner.state().items() if name != "marks"} for learner in (again, old)]
    assert_same_state(states[0], states[1])


def test_a_reordered_model_predicts_the_same() -> None:
    order = [OLD.features[place] for place in (2, 4, 0, 3, 1)]
    new = Schema(features=tuple(order), version=2)
    old = learned()
    torch.testing.assert_close(logits(evolved(new, old), batch_of(new, 9)), logits(old, batch_of(OLD, 9)))


def test_a_reordered_model_learns_the_same() -> None:
    """Slots have moved with their weights: training goes on as if nothing had happened."""
    new = Schema(features=tuple(reversed(OLD.features)), version=2)
    old, fresh = learned(), evolved(new)
    for seed in range(20, 24):
        old.learn(batch_of(OLD, seed))
        fresh.learn(batch_of(new, seed))
    torch.testing.assert_close(logits(fresh, batch_of(new, 9)), logits(old, batch_of(OLD, 9)), rtol=1e-4, atol=1e-5)


def without_columns(learner: RankLearner, columns: Sequence[int]) -> torch.Tensor:
    weight = dict(learner.model.named_parameters())["deep.layers.0.weight"]
    return weight[:, [place for place in range(weight.shape[1]) if place not in columns]]


def test_a_dropped_feature_takes_its_table_and_columns_along() -> None:
    new = OLD.evolved(drop=["city", "price"])
    old = learned()
    fresh = evolved(new, old)
    assert sorted(fresh.tables) == ["item", "user"]
    deep = dict(fresh.model.named_parameters())["deep.layers.0.weight"]
    assert torch.equal(deep, without_columns(old, [3, 4, 5, 9]))  # city's three factors, and price
    assert torch.equal(fresh.model.dense_weight, old.model.dense_weight[1:])  # type: ignore[index, arg-type]


def test_an_added_feature_starts_fresh_and_the_others_go_on() -> None:
    new = OLD.evolved(add=[IdFeature("device", 4), DenseFeature("stars")])
    old = learned()
    fresh, initial = evolved(new, old), learner_of(new, seed=7)
    deep, drawn = (dict(part.model.named_parameters())["deep.layers.0.weight"] for part in (fresh, initial))
    old_deep = dict(old.model.named_parameters())["deep.layers.0.weight"]
    assert torch.equal(deep[:, :9], old_deep[:, :9])
    assert torch.equal(deep[:, 9:12], drawn[:, 9:12])
    assert torch.equal(deep[:, 12:14], old_deep[:, 9:])
    assert torch.equal(deep[:, 14], drawn[:, 14])
    assert len(fresh.tables["device"]) == 0  # type: ignore[arg-type]
    assert_same_state(fresh.tables["user"].state(), old.tables["user"].state())
    for seed in range(3):
        fresh.learn(batch_of(new, 30 + seed))


def test_counts_and_ledger_go_on() -> None:
    fresh = evolved(OLD.evolved(drop=["city"]), learned(audit=True), audit=True)
    assert fresh.examples == 48
    assert fresh.ledger is not None
    assert times_learned(fresh.ledger, torch.arange(50)).tolist() == [1] * 48 + [0] * 2


def test_a_ledger_may_begin_with_the_new_schema() -> None:
    fresh = evolved(OLD.evolved(drop=["city"]), audit=True)
    assert LEDGER in fresh.tables


def test_the_next_change_is_a_full_one_under_the_next_number() -> None:
    fresh = evolved(OLD.evolved(drop=["city"]))
    change = fresh.changes(Version(4, 3))
    assert (change.version, change.full, sorted(change.tables)) == (Version(5, 4), True, ["item", "user"])
    assert len(change.tables["user"].ids) == len(fresh.tables["user"])  # type: ignore[arg-type]
    assert change.notes["example_offset"].tolist() == [48]
    assert fresh.changes(Version(5, 4)).full is False


def test_times_of_examples_that_no_version_has_yet_are_kept() -> None:
    old = learned()
    old.learn(batch_of(OLD, 8))
    notes = evolved(OLD.evolved(drop=["city"]), old).changes(Version(4, 3)).notes
    assert notes["accepted_times"].tolist() + notes["negative_accepted_times"].tolist() == [9] * 12


def test_an_incompatible_change_is_refused_with_its_difference() -> None:
    new = replace(OLD, features=(IdFeature("user", 6), IdFeature("city", 6), IdFeature("item", 6)), version=2)
    with pytest.raises(SchemaError, match="dim 4 cannot become 6"):
        evolved(new)


def test_a_tensor_of_another_size_without_layout_is_refused() -> None:
    new = OLD.evolved(drop=["city"])
    learner = learner_of(new)
    wide = DeepFM(learner.collection, new.id_names, 2, (7,))
    other = RankLearner(wide, learner.collection, Adam(wide.parameters(), lr=0.01), LogLoss())
    with pytest.raises(SchemaError, match=r"deep\.layers\.0"):
        evolve(learned().state(), plan(OLD, new), other)


def test_a_plan_from_another_schema_is_refused() -> None:
    new = OLD.evolved(drop=["city"])
    with pytest.raises(RowRuleMismatch, match="the state's schema"):
        evolve(learned().state(), plan(OLD.evolved(drop=["item"]), new.evolved()), learner_of(new.evolved()))


def test_a_learner_of_another_schema_is_refused() -> None:
    with pytest.raises(RowRuleMismatch, match="the learner's schema"):
        evolve(learned().state(), plan(OLD, OLD.evolved(drop=["city"])), learner_of(OLD))


def test_another_objective_is_refused() -> None:
    new = OLD.evolved(drop=["city"])
    with pytest.raises(RowRuleMismatch, match="objective"):
        evolve(learned().state(), plan(OLD, new), learner_of(new, objective=LogLoss(negative_rate=0.5)))


def test_a_model_over_other_features_than_the_schemas_is_refused() -> None:
    new = OLD.evolved(drop=["city"])
    learner = learner_of(new)
    model = DeepFM(learner.collection, ("item", "user"), 2, (6,))
    other = RankLearner(model, learner.collection, SGD(model.parameters(), lr=0.1), LogLoss())
    with pytest.raises(ConfigError, match="in their order"):
        evolve(learned().state(), plan(OLD, new), other)


def test_something_else_than_a_learners_state_is_refused() -> None:
    nothing: State = {}
    with pytest.raises(CorruptSnapshot, match="format"):
        evolve(nothing, plan(OLD, OLD), learner_of(OLD))
