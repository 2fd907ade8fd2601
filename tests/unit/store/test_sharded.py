"""Sharded tables on one rank, and what is refused; several ranks are in tests/equivalence/test_ranks.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, NonFiniteLoss, StoreError, WorkerLost
from headrace.store import (
    SGD,
    EmbeddingCollection,
    FeatureLookup,
    NativeTable,
    Ranks,
    ReferenceTable,
    ShardedTable,
    TableConfig,
    Uniform,
    open_table,
)
from headrace.testing import Toy, ToyConfig

TOY = Toy(ToyConfig(users=16, items=16))


def config(name: str = "user", dim: int = 3) -> TableConfig:
    return TableConfig(name=name, dim=dim, rule=SGD(lr=0.5), init=Uniform(0.1), seed=4)


def collection(kind) -> EmbeddingCollection:
    tables = {"user": kind(config("user", 3)), "item": kind(config("item", 2))}
    lookups = [FeatureLookup(feature="user", table="user"), FeatureLookup(feature="item", table="item", pooling="none")]
    return EmbeddingCollection(tables, lookups)


def alone(config: TableConfig) -> ShardedTable:
    return ShardedTable(open_table(config), Ranks.alone())


def learn(embed: EmbeddingCollection) -> list[np.ndarray]:
    for batch in TOY.batches(32, 3):
        found = embed(batch)
        (found["user"].square().sum() + found["item"].sum()).backward()
        embed.apply_gradients(batch)
    with torch.no_grad():
        return [value.numpy().copy() for value in embed(next(iter(TOY.batches(32, 1)))).values()]


def test_on_one_rank_a_sharded_collection_is_a_plain_one() -> None:
    for one, other in zip(learn(collection(alone)), learn(collection(ReferenceTable)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_tables_are_sharded_or_none() -> None:
    tables = {"user": alone(config()), "item": NativeTable(config("item"))}
    lookups = [FeatureLookup(feature=name, table=name) for name in tables]
    with pytest.raises(ConfigError, match="1 sharded"):
        EmbeddingCollection(tables, lookups)


def test_the_collection_knows_its_ranks() -> None:
    assert collection(NativeTable).ranks is None
    assert collection(alone).ranks.size == 1


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    embed = collection(alone)
    batch = next(iter(TOY.batches(8, 1)))
    before = [table.mark() for table in embed.tables.values()]
    (embed(batch)["user"] * float("nan")).sum().backward()
    with pytest.raises(NonFiniteLoss, match="'user'"):
        embed.apply_gradients(batch)
    assert [table.mark() for table in embed.tables.values()] == before


def test_a_table_that_no_gradient_reached_is_left_alone() -> None:
    embed = collection(alone)
    batch = next(iter(TOY.batches(8, 1)))
    embed(batch)["user"].sum().backward()
    embed.apply_gradients(batch)
    assert embed.tables["user"].mark() == 1
    assert embed.tables["item"].mark() == 0


def test_a_repeated_id_is_refused() -> None:
    twice, ones = torch.tensor([1, 1]), torch.ones(2, dtype=torch.int64)
    with pytest.raises(StoreError, match="more than once"):
        alone(config()).update(twice, torch.zeros(2, 3), ones, ones)


def test_the_state_of_another_shard_is_refused() -> None:
    table = alone(config())
    with pytest.raises(ConfigError, match=r"got \(1, 2\), expected \(0, 1\)"):
        table.restore({**table.state(), "rank": 1, "ranks": 2})


def test_the_wire_is_known() -> None:
    with pytest.raises(ConfigError, match="float32"):
        Ranks(wire="float23")


def test_alone_everything_is_the_identity() -> None:
    ranks, values = Ranks.alone(), torch.tensor([1.0, 2.0])
    assert ranks.sum(values).tolist() == ranks.max(values).tolist() == [1.0, 2.0]
    assert ranks.any([True, False]) == [True, False]
    assert ranks.agree(7)
    assert ranks.exchange([np.arange(3)])[0].tolist() == [0, 1, 2]
    assert ranks.traffic.bytes == 0
    ranks.leave()


def test_ranks_that_do_not_come_are_told(tmp_path) -> None:
    with pytest.raises(WorkerLost, match="last checkpoint"):
        Ranks.join(f"file://{tmp_path / 'meet'}", rank=0, size=2, timeout_s=0.5)
