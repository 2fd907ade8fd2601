"""Two towers: of length one, apart from each other, and refused where they cannot be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.layers import generator
from headrace.nn.two_tower import TowerInputs, TwoTower
from headrace.types import Batch, Jagged


class Rows(nn.Module):
    """Embeddings as plain parameters; needs every feature, as an embedding collection does."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(0)
        self.tables = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(9, 4, generator=draw)) for name in ("user", "city", "item", "brand")}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows = {}
        for name, table in self.tables.items():
            jagged = batch.ids[name]
            rows[name] = torch.zeros(len(batch), 4).index_add(
                0, torch.repeat_interleave(torch.arange(len(batch)), jagged.offsets.diff()), table[jagged.values]
            )
        return rows


def batch_of(*names: str, rows: int = 5) -> Batch:
    draw, zeros = generator(1), torch.zeros(rows, dtype=torch.int64)
    ids = {name: Jagged(torch.randint(0, 9, (rows,), generator=draw), torch.arange(rows + 1)) for name in names}
    return Batch(
        ids=ids, dense=torch.randn(rows, 3, generator=draw), labels=torch.ones(rows), weights=torch.ones(rows),
        event_times=zeros, accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan),
        versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


ALL = ("user", "city", "item", "brand")


def model_of(**settings: object) -> TwoTower:
    user, item = TowerInputs(("user", "city"), dense=(0, 2)), TowerInputs(("item", "brand"), dense=(1,))
    return TwoTower(Rows(), user, item, (8,), width=6, **settings)  # type: ignore[arg-type]


def test_logits_are_cosines_over_the_temperature() -> None:
    model, batch = model_of(temperature=0.25), batch_of(*ALL)
    found = model.towers(batch)
    torch.testing.assert_close(found.users.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(found.items.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(model(batch), (found.users * found.items).sum(1) / 0.25)
    assert torch.equal(found.item_ids, batch.ids["item"].values)


def test_each_tower_can_be_called_without_the_features_of_the_other() -> None:
    model, batch = model_of(), batch_of(*ALL)
    found, ids = model.towers(batch), batch.ids
    alone = {"user": {name: ids[name] for name in ("user", "city")}, "item": {n: ids[n] for n in ("item", "brand")}}
    for name, expected in (("user", found.users), ("item", found.items)):
        object.__setattr__(batch, "ids", alone[name])
        torch.testing.assert_close(getattr(model, name)(batch), expected)


def test_a_tower_that_lacks_its_own_feature_is_an_error() -> None:
    with pytest.raises(KeyError, match="city"):
        model_of().user(batch_of("user"))


def test_gradients_reach_every_parameter_and_each_tower_its_own_dense_columns() -> None:
    model, batch = model_of(), batch_of(*ALL)
    model(batch).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    users = model.user(batch)
    batch.dense[:, 1] += 1.0
    assert torch.equal(model.user(batch), users)
    batch.dense[:, 2] += 1.0
    assert not torch.equal(model.user(batch), users)


def test_weights_follow_the_seed_alone() -> None:
    first, second, other = model_of(seed=1), model_of(seed=1), model_of(seed=2)
    batch = batch_of(*ALL)
    assert torch.equal(first(batch), second(batch))
    assert not torch.equal(first(batch), other(batch))


def test_examples_do_not_depend_on_their_neighbours() -> None:
    model, batch = model_of(), batch_of(*ALL)
    torch.testing.assert_close(model(batch)[1:3], model(batch.slice(1, 3)))


def test_an_example_has_to_have_one_item() -> None:
    batch = batch_of(*ALL)
    batch.ids["item"] = Jagged(batch.ids["item"].values, torch.tensor([0, 2, 2, 3, 4, 5]))
    with pytest.raises(DataError, match="exactly one id"):
        model_of().towers(batch)


def test_towers_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        model_of(temperature=0.0)
    with pytest.raises(ConfigError, match="both towers"):
        TwoTower(Rows(), TowerInputs(("user", "item")), TowerInputs(("item",)))
    with pytest.raises(ConfigError, match="distinct names"):
        TowerInputs(())
    with pytest.raises(ConfigError, match="distinct names"):
        TowerInputs("user")  # type: ignore[arg-type]
