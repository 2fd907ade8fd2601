"""Families over the same features in another order: learned weights move by `input_axes`, and answers stay."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from headrace.data import DenseFeature, IdFeature, Schema
from headrace.data.evolution import plan
from headrace.errors import SchemaError
from headrace.learn import LearnerConfig, RankLearner, evolve
from headrace.nn import DCN as CrossNetwork
from headrace.nn import FFM, FM, AutoInt, CrossSettings, DCNv2, DeepFM, Hidden, WideDeep, XDeepFM
from headrace.objectives import LogLoss
from headrace.store import EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.types import Batch

Maker = Callable[..., nn.Module]
OLD = Schema(features=(IdFeature("user", 4), IdFeature("item", 4), DenseFeature("price"), DenseFeature("age")))
TURNED = Schema(
    version=2, features=(IdFeature("item", 4), IdFeature("user", 4), DenseFeature("age"), DenseFeature("price"))
)
WIDER = Schema(version=2, features=(*OLD.features, IdFeature("place", 4)))
DEEP = Hidden((6,), batch_norm=True)

FAMILIES: dict[str, Maker] = {
    "FM": FM,
    "WideDeep": lambda *inputs, **others: WideDeep(*inputs, DEEP, **others),
    "DeepFM": lambda *inputs, **others: DeepFM(*inputs, DEEP, **others),
    "DCN": lambda *inputs, **others: CrossNetwork(*inputs, DEEP, **others),
    "DCNv2, mixture": lambda *inputs, **others: DCNv2(*inputs, DEEP, cross=CrossSettings(rank=3), **others),
    "DCNv2": lambda *inputs, **others: DCNv2(*inputs, DEEP, **others),
    "XDeepFM": lambda *inputs, **others: XDeepFM(*inputs, DEEP, cin=(3, 9), **others),
    "AutoInt": lambda *inputs, **others: AutoInt(*inputs, DEEP, **others),
}


def learner_of(make: Maker, schema: Schema, seed: int) -> RankLearner:
    tables = {name: ReferenceTable(TableConfig(name=name, dim=dim)) for name, dim in schema.tables.items()}
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in schema.id_features]
    model = make(EmbeddingCollection(tables, lookups), schema.id_names, len(schema.dense_names), seed=seed)
    collection = next(module for module in model.modules() if isinstance(module, EmbeddingCollection))
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    return RankLearner(model, collection, adam, LogLoss(), LearnerConfig(schema=schema))


def batch_of(try_it: SimpleNamespace, schema: Schema) -> Batch:
    draw = torch.Generator().manual_seed(3)
    ids = {name: torch.randint(0, 6, (24,), generator=draw) for name in ("item", "place", "user")}
    columns = {name: torch.randn(24, generator=draw) for name in ("age", "price")}
    dense = torch.stack([columns[name] for name in schema.dense_names], 1)
    labels = (torch.rand(24, generator=draw) < 0.5).float()
    batch: Batch = try_it.batch_of({name: ids[name] for name in schema.id_names}, dense, labels)
    return batch


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_answers_stay_when_features_change_places(try_it: SimpleNamespace, make: Maker) -> None:
    old, turned = learner_of(make, OLD, 1), learner_of(make, TURNED, 2)
    for _ in range(3):
        old.learn(batch_of(try_it, OLD))
    turned.restore(evolve(old.state(), plan(OLD, TURNED), turned))
    with torch.no_grad():
        before, after = old.model.eval()(batch_of(try_it, OLD)), turned.model.eval()(batch_of(try_it, TURNED))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    turned.learn(batch_of(try_it, TURNED))  # optimiser slots moved along


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_an_added_feature_leaves_what_was_learned_about_the_others(try_it: SimpleNamespace, make: Maker) -> None:
    old, wider = learner_of(make, OLD, 1), learner_of(make, WIDER, 2)
    old.learn(batch_of(try_it, OLD))
    state = evolve(old.state(), plan(OLD, WIDER), wider)
    wider.restore(state)
    wider.learn(batch_of(try_it, WIDER))


def test_both_axes_of_a_matrix_over_pairs_of_inputs_move(try_it: SimpleNamespace) -> None:
    old, wider = learner_of(DCNv2, OLD, 1), learner_of(DCNv2, WIDER, 2)
    old.learn(batch_of(try_it, OLD))
    fresh = wider.model.cross[0].linear.weight.detach().clone()
    wider.restore(evolve(old.state(), plan(OLD, WIDER), wider))
    was, now = old.model.cross[0].linear.weight, wider.model.cross[0].linear.weight
    kept = [*range(8), 12, 13]  # user and item, four wide, and two numbers behind the new feature
    assert torch.equal(now[kept][:, kept], was)
    assert torch.equal(now[8:12], fresh[8:12])
    assert torch.equal(now[:, 8:12], fresh[:, 8:12])


@pytest.mark.parametrize(("make", "dims"), [(FFM, (5, 5)), (CrossNetwork, (5, 3))], ids=["FFM", "uneven widths"])
def test_places_of_features_that_cannot_be_moved_are_refused(
    try_it: SimpleNamespace, make: Maker, dims: tuple[int, int]
) -> None:
    features = (IdFeature("user", dims[0]), IdFeature("item", dims[1]), *OLD.features[2:])
    before, after = Schema(features=features), Schema(version=2, features=(*features[1::-1], *features[2:]))
    old, again = learner_of(make, before, 1), learner_of(make, before, 2)
    old.learn(batch_of(try_it, before))
    again.restore(evolve(old.state(), plan(before, before), again))
    with pytest.raises(SchemaError, match="another order"):
        evolve(old.state(), plan(before, after), learner_of(make, after, 1))
