"""Layers: initial weights from the caller's seed alone, and the sum-square trick against the double loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headrace.errors import ConfigError, DataError
from headrace.nn import MLP, embedded, generator, linear, pairwise_interactions


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(0, 4), fields=st.integers(1, 6), width=st.integers(1, 5), seed=st.integers(0, 1000))
def test_interactions_equal_the_double_loop(batch: int, fields: int, width: int, seed: int) -> None:
    factors = torch.randn(batch, fields, width, generator=generator(seed), dtype=torch.float64)
    pairs = torch.zeros(batch, dtype=torch.float64)
    for i in range(fields):
        for j in range(i + 1, fields):
            pairs += (factors[:, i] * factors[:, j]).sum(1)
    torch.testing.assert_close(pairwise_interactions(factors), pairs)


def test_one_field_interacts_with_nothing() -> None:
    factors = torch.randn(5, 1, 3, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(pairwise_interactions(factors), torch.zeros(5, dtype=torch.float64))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first = MLP(4, (8,), 1, generator(3)).state_dict()
    torch.manual_seed(99)
    second = MLP(4, (8,), 1, generator(3)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], MLP(4, (8,), 1, generator(4)).state_dict()["layers.0.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    MLP(4, (8,), 1, generator(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_linear_keeps_the_variance_it_promises() -> None:
    outputs = linear(400, 400, generator(0))(torch.randn(200, 400, generator=generator(1)))
    assert outputs.var().item() == pytest.approx(1.0, rel=0.05)


def test_rectified_layers_keep_the_mean_square() -> None:
    inputs = torch.randn(200, 400, generator=generator(1))
    outputs = MLP(400, (400, 400, 400), 400, generator(0)).layers[:-1](inputs)
    assert outputs.square().mean().item() == pytest.approx(1.0, rel=0.2)


def test_no_hidden_layer_makes_a_linear_layer() -> None:
    assert [type(layer) for layer in MLP(3, (), 2, generator(0)).layers] == [nn.Linear]


def test_dropout_acts_in_training_only() -> None:
    mlp, inputs = MLP(8, (64,), 1, generator(0), dropout=0.5), torch.ones(1, 8)
    assert torch.equal(mlp.eval()(inputs), mlp(inputs))
    assert not torch.equal(mlp.train()(inputs), mlp(inputs))


@pytest.mark.parametrize(("hidden", "dropout"), [((0,), 0.0), ((4,), 1.0), ((4,), -0.1)])
def test_impossible_sizes_are_refused(hidden: tuple[int, ...], dropout: float) -> None:
    with pytest.raises(ConfigError):
        MLP(4, hidden, 1, generator(0), dropout=dropout)


def test_a_feature_without_embedding_names_the_nearest() -> None:
    with pytest.raises(DataError, match="expected one of 'user'"):
        embedded({"user": torch.zeros(2, 3)}, ["usr"], 2)


def test_an_unpooled_feature_is_refused() -> None:
    with pytest.raises(DataError, match="pooling 'sum' or 'mean'"):
        embedded({"words": torch.zeros(7, 3)}, ["words"], 2)


def test_a_linear_layer_may_have_no_bias_and_the_same_weights() -> None:
    with_bias, without = linear(3, 2, generator(1)), linear(3, 2, generator(1), bias=False)
    assert without.bias is None
    assert torch.equal(with_bias.weight, without.weight)
