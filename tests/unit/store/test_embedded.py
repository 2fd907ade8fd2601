"""Rows of several features as one tensor: the same rows, and the same step, as when they are taken one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, NativeTable, TableConfig, Uniform
from headrace.store.embedded import Embedded, in_rows, side_by_side
from headrace.types import Batch, Jagged

POOLINGS = {"a": "sum", "b": "mean", "c": "none", "d": "sum", "wide": "sum"}
DRAW = torch.randn(64, 3, 4, generator=torch.Generator().manual_seed(3))


def collection() -> EmbeddingCollection:
    dims = {"a": 4, "b": 4, "c": 4, "d": 4, "wide": 8}
    rule, init = Adagrad(lr=0.1), Uniform(0.5)
    tables = {n: NativeTable(TableConfig(name=n, dim=d, rule=rule, init=init)) for n, d in dims.items()}
    return EmbeddingCollection(tables, [FeatureLookup(feature=n, table=n, pooling=p) for n, p in POOLINGS.items()])


def batch(rows: int = 64) -> Batch:
    draw = torch.Generator().manual_seed(rows)
    ids = {}
    for name in POOLINGS:
        lengths = torch.ones(rows, dtype=torch.int64) if name in ("a", "wide") else torch.arange(rows) % 3
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        ids[name] = Jagged(torch.randint(0, 20, (int(offsets[-1]),), generator=draw), offsets)
    floats, whole = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=floats, weights=floats + 1, event_times=whole, accepted_times=whole,
        example_ids=torch.arange(rows), predictions=floats, versions=whole, sample_rates=floats + 1,
    )  # fmt: skip


def apart(rows: Embedded) -> Tensor:
    return torch.stack([rows[name] for name in ("a", "b", "d")], 1)


def joined(rows: Embedded) -> Tensor:
    found = rows.joint(("a", "b", "d"))
    assert found is not None
    return found


def both(rows: Embedded) -> Tensor:
    return joined(rows) + rows["b"].unsqueeze(1)


def both_apart(rows: Embedded) -> Tensor:
    return apart(rows) + rows["b"].unsqueeze(1)


def learned(way: Callable[[Embedded], Tensor], steps: int = 4) -> dict[str, Tensor]:
    embed, seen = collection(), batch()
    for _ in range(steps):
        (way(embed(seen)) * DRAW).square().sum().backward()
        embed.apply_gradients(seen)
    return {name: table.rows().rows for name, table in embed.tables.items()}  # type: ignore[attr-defined]


def test_a_joint_has_the_rows_of_its_features() -> None:
    embed = collection()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            rows = embed(batch())
        assert torch.equal(joined(rows), apart(rows))
        assert rows["c"].shape[1] == 4
    embed.discard()


@pytest.mark.parametrize(("one", "other"), [(apart, joined), (both_apart, both)])
def test_a_step_is_the_same_to_the_bit(one: Callable[..., Tensor], other: Callable[..., Tensor]) -> None:
    first, second = learned(one), learned(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(first["a"])
    assert not len(first["wide"])  # what the loss does not depend on has not learned


def test_other_features_or_another_order_have_no_joint() -> None:
    rows = collection()(batch())
    assert rows.joint(("a", "d", "b")) is None
    assert rows.joint(("a", "b")) is None
    assert rows.joint(("wide",)) is None


def test_groups_are_of_one_width_and_pooled() -> None:
    groups = side_by_side([("x", "sum"), ("y", "mean"), ("z", "sum"), ("one", "sum")], [2, 3, 2, 5])
    assert [(group.features, group.places, group.dim) for group in groups] == [(("x", "z"), (0, 2), 2)]


@pytest.mark.parametrize("grad", [torch.ones(1, 1).expand(5, 3), torch.ones(3, 5).T, torch.ones(1, 3).expand(5, 3)])
def test_gradients_that_overlap_or_stand_on_end_are_copied(grad: Tensor) -> None:
    assert in_rows(grad).is_contiguous()
    assert torch.equal(in_rows(grad), grad)
    whole = torch.ones(5, 2, 3)
    assert in_rows(whole[:, 1]).data_ptr() == whole[:, 1].data_ptr()


def test_a_batch_of_nothing_goes_through() -> None:
    embed, nothing = collection(), batch(0)
    rows = embed(nothing)
    (joined(rows).sum() + rows["wide"].sum()).backward()
    embed.apply_gradients(nothing)
    assert all(table.stats().rows == 0 for table in embed.tables.values())  # type: ignore[attr-defined]
