"""FwFM: its formula in float64, what it is without pair weights, and pairs whose sign FM cannot tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn.fwfm import FwFM
from headrace.nn.layers import generator, pairwise_interactions
from headrace.types import Batch, Jagged

FEATURES = ("user", "item", "place")
IDS, DIM = 8, 3


class Rows(nn.Module):
    """Embeddings as plain parameters."""

    def __init__(self, dim: int = DIM, spread: float = 0.5) -> None:
        super().__init__()
        draw = generator(1)
        self.tables = nn.ParameterDict({name: torch.randn(IDS, dim, generator=draw) * spread for name in FEATURES})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: table[batch.ids[name].values] for name, table in self.tables.items()}


def batch_of(rows: int, dense: int = 2) -> Batch:
    draw, zeros = generator(2), torch.zeros(rows, dtype=torch.int64)
    ids = {name: Jagged(torch.randint(0, IDS, (rows,), generator=draw), torch.arange(rows + 1)) for name in FEATURES}
    return Batch(
        ids=ids, dense=torch.randn(rows, dense, generator=draw), labels=zeros.float(), weights=torch.ones(rows),
        event_times=zeros, accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan),
        versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def stirred(model: FwFM) -> FwFM:
    """Give every parameter a value that is not its initial one."""
    draw = generator(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=draw) * 0.3)
    return model


def test_what_every_family_keeps(family_check) -> None:
    family_check(FwFM)


def test_it_is_the_paper_s_formula() -> None:
    model, batch = stirred(FwFM(Rows(), FEATURES, 2)), batch_of(7)
    vectors = [model.fields.embed.tables[name].detach().double().numpy()[batch.ids[name].values] for name in FEATURES]
    factors = model.fields.dense_factors.detach().double().numpy()
    vectors += [batch.dense.double().numpy()[:, [column]] * factors[column] for column in range(2)]
    weights, bias = model.linear.weight.detach().double().numpy()[0], float(model.linear.bias.detach())
    expected, pair = np.full(7, bias), 0
    for first in range(5):
        expected += vectors[first] @ weights[first * DIM : (first + 1) * DIM]
        for second in range(first + 1, 5):
            expected += float(model.pair_weights[pair].detach()) * (vectors[first] * vectors[second]).sum(1)
            pair += 1
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, atol=1e-5)


def test_it_agrees_with_fuxictr(try_it) -> None:
    theirs = try_it.Expected("fwfm")
    rows = theirs.rows({name: theirs.fuxictr("embedding_layer", name) for name in theirs.FEATURES})
    theirs.agrees(FwFM(rows, theirs.FEATURES, 2), {
        "pair_weights": theirs.weights["interaction_weight.weight"][0],
        "linear.weight": theirs.weights["linear_weight_layer.weight"],
        "linear.bias": theirs.weights["interaction_weight.bias"],
        "fields.dense_factors": theirs.numbers_of("embedding_layer"),
    })  # fmt: skip


def test_with_equal_pair_weights_and_no_linear_term_it_is_fm() -> None:
    model, batch = FwFM(Rows(), FEATURES, 2), batch_of(7)
    nn.init.zeros_(model.linear.weight)
    torch.testing.assert_close(model(batch), pairwise_interactions(model.fields(batch).fields), rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_parameter_and_every_embedding() -> None:
    model = FwFM(Rows(), FEATURES, 2)
    model(batch_of(64)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_examples_do_not_see_each_other_and_the_state_survives() -> None:
    model, batch = stirred(FwFM(Rows(), FEATURES, 2, seed=1)), batch_of(16)
    logits = model(batch)
    assert logits.shape == (16,)
    torch.testing.assert_close(model(batch.slice(3, 7)), logits[3:7], rtol=1e-5, atol=1e-6)
    assert model(batch.slice(0, 0)).shape == (0,)
    other = FwFM(Rows(), FEATURES, 2, seed=2)
    assert not torch.equal(other(batch), logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), logits)


def test_fields_may_come_in_another_order() -> None:
    turned = ("place", "user", "item")
    model, other, batch = stirred(FwFM(Rows(), FEATURES, 0)), FwFM(Rows(), turned, 0), batch_of(9, dense=0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():  # pairs (ui, up, ip) become (pu, pi, ui)
        other.pair_weights.copy_(model.pair_weights[[1, 2, 0]])
        other.linear.weight.copy_(model.linear.weight.view(3, DIM)[[2, 0, 1]].view(1, -1))
    torch.testing.assert_close(other(batch), model(batch), rtol=1e-5, atol=1e-6)


def test_the_prior_is_where_it_starts() -> None:
    low, high = (FwFM(Rows(), FEATURES, 2, prior=prior)(batch_of(5)) for prior in (0.1, 0.5))
    torch.testing.assert_close(high - low, torch.full((5,), math.log(9.0)))
    with pytest.raises(ConfigError, match="prior"):
        FwFM(Rows(), FEATURES, 2, prior=0.0)


def test_it_learns_pairs_that_pull_in_opposite_directions_with_one_number_per_id() -> None:
    """The logit is user x item - user x place: with width 1, FM can have one of the two signs, FwFM has both."""
    draw = generator(7)
    signs = {name: torch.sign(torch.randn(IDS, generator=draw)) for name in FEATURES}
    batch = batch_of(2000, dense=0)
    user, item, place = (signs[name][batch.ids[name].values] for name in FEATURES)
    labels = (user * item - user * place + 0.1 * user > 0).float()

    class FM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.bias = Rows(1), nn.Parameter(torch.zeros(()))

        def forward(self, batch: Batch) -> Tensor:
            rows = self.rows(batch)
            return self.bias + pairwise_interactions(torch.stack([rows[name] for name in FEATURES], dim=1))

    def loss_of(model: nn.Module) -> float:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    assert loss_of(FwFM(Rows(1), FEATURES, 0)) < 0.6 * loss_of(FM())
