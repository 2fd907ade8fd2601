"""One call for all tables, and calls of their own for each: the same rows, gradients and updates, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from headrace.errors import NonFiniteLoss, StoreError
from headrace.store import SGD, Adagrad, Adam, AdmitCount, EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.types import Batch, Jagged

LOOKUPS = (
    FeatureLookup(feature="user", table="user"), FeatureLookup(feature="seen", table="item", pooling="mean"),
    FeatureLookup(feature="item", table="item"), FeatureLookup(feature="past", table="item", pooling="none"),
    FeatureLookup(feature="shop", table="shop"),
)  # fmt: skip
"""Two tables with a feature each, and one that three features share, pooled in three ways."""


def collection(packed: bool, seed: int = 0) -> EmbeddingCollection:
    tables = {
        "user": open_table(TableConfig(name="user", dim=5, rule=Adagrad(lr=0.1), seed=seed)),
        "item": open_table(TableConfig(name="item", dim=8, rule=Adam(lr=0.1), seed=seed)),
        "shop": open_table(TableConfig(name="shop", dim=3, rule=SGD(lr=0.1), admission=AdmitCount(2), seed=seed)),
    }
    return EmbeddingCollection(tables, LOOKUPS, packed=packed)


def batch(seed: int, rows: int = 50) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids = {}
    for lookup in LOOKUPS:
        lengths = torch.randint(0, 4, (rows,), generator=draw)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        ids[lookup.feature] = Jagged(torch.randint(0, 40, (int(offsets[-1]),), generator=draw), offsets)
    ones, whole = torch.ones(rows), torch.zeros(rows, dtype=torch.int64)
    times = torch.randint(0, 10**6, (rows,), generator=draw)
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=ones, weights=ones, event_times=times, accepted_times=whole,
        example_ids=whole, predictions=ones, versions=whole, sample_rates=ones,
    )  # fmt: skip


def learn(embed: EmbeddingCollection, one: Batch, scale: float = 1.0) -> Mapping[str, torch.Tensor]:
    rows = embed(one)
    (scale * sum((value * value + value).sum() for value in rows.values())).backward()
    embed.apply_gradients(one)
    return {name: value.detach().clone() for name, value in rows.items()}


def test_training_in_one_call_and_in_calls_for_every_table_gives_the_same_bits() -> None:
    packed, unpacked = collection(packed=True), collection(packed=False)
    for step in range(8):
        one, other = learn(packed, batch(step)), learn(unpacked, batch(step))
        assert all(torch.equal(one[name], other[name]) for name in one)
    ids = torch.arange(40)
    for name, table in packed.tables.items():
        assert torch.equal(table.lookup(ids), unpacked.tables[name].lookup(ids))
        assert table.state().keys() == unpacked.tables[name].state().keys()
    with torch.no_grad():
        one, other = packed(batch(99)), unpacked(batch(99))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_several_forward_passes_are_summed_alike() -> None:
    packed, unpacked = collection(packed=True), collection(packed=False)
    for embed in (packed, unpacked):
        one = batch(1)
        for _ in range(2):
            sum(value.sum() for value in embed(one).values()).backward()
        embed.apply_gradients(one)
    ids = torch.arange(40)
    assert all(torch.equal(table.lookup(ids), unpacked.tables[name].lookup(ids))
               for name, table in packed.tables.items())  # fmt: skip


@pytest.mark.parametrize(("packed", "calls"), [(True, 3), (False, 9)])
def test_calls_are_counted(packed: bool, calls: int) -> None:
    embed = collection(packed)
    learn(embed, batch(0))
    assert embed.calls == calls


def test_a_gradient_that_is_not_finite_stops_the_step_in_both() -> None:
    with pytest.raises(NonFiniteLoss):
        learn(collection(packed=True), batch(0), scale=float("inf"))
    with pytest.raises(NonFiniteLoss):
        learn(collection(packed=False), batch(0), scale=float("inf"))


def test_unpacked_a_later_table_that_refuses_is_told_as_a_torn_step() -> None:
    embed, one = collection(packed=False), batch(0)
    rows = embed(one)
    (rows["user"].sum() + float("inf") * rows["item"].sum()).backward()
    with pytest.raises(StoreError, match="restore a checkpoint"):
        embed.apply_gradients(one)
