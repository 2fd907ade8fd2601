"""Batch normalisation in deep parts: batches, single examples, and the same answers served as learned."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from headrace.errors import ConfigError, NonFiniteLoss
from headrace.learn import RankLearner
from headrace.nn import MLP, BatchNorm, DeepFM, Hidden, generator, hidden_layers
from headrace.objectives import LogLoss
from headrace.publish import Replica
from headrace.store import EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.types import Version

NORMED = Hidden((8, 4), batch_norm=True)


def test_layers_come_in_the_order_linear_norm_activation_dropout() -> None:
    layers = hidden_layers(3, Hidden((4,), batch_norm=True, activation="tanh"), generator(0), dropout=0.5)
    assert [type(layer) for layer in layers] == [nn.Linear, BatchNorm, nn.Tanh, nn.Dropout]


def test_plain_widths_and_hidden_without_options_are_one_and_the_same() -> None:
    plain, named = MLP(3, (4, 2), 1, generator(1)), MLP(3, Hidden((4, 2)), 1, generator(1))
    assert all(torch.equal(value, named.state_dict()[name]) for name, value in plain.state_dict().items())
    assert list(Hidden((4, 2))) == [4, 2]
    assert (Hidden((4, 2))[-1], Hidden((4, 2))[:1], len(Hidden(()))) == (2, (4,), 0)


def test_normalising_changes_no_initial_weight() -> None:
    plain, normed = MLP(3, (4, 2), 1, generator(1)), MLP(3, Hidden((4, 2), batch_norm=True), 1, generator(1))
    assert torch.equal(plain.layers[0].weight, normed.layers[0].weight)
    assert torch.equal(plain.output.weight, normed.output.weight)


def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'relu'"):
        Hidden((4,), activation="rleu")


def test_training_normalises_by_the_batch_and_evaluation_by_what_was_seen() -> None:
    norm, inputs = BatchNorm(3), torch.randn(50, 3, generator=generator(0)) * 4 + 2
    outputs = norm.train()(inputs)
    torch.testing.assert_close(outputs.mean(0), torch.zeros(3), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(outputs.var(0, correction=0), torch.ones(3), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(norm.running_mean, 0.1 * inputs.mean(0))
    served = norm.eval()(inputs)
    torch.testing.assert_close(served, (inputs - norm.running_mean) / (norm.running_var + 1e-5).sqrt())


def test_one_example_alone_is_normalised_by_what_was_seen() -> None:
    norm = BatchNorm(3)
    norm(torch.randn(50, 3, generator=generator(0)))
    before, alone = norm.running_mean.clone(), torch.randn(1, 3, generator=generator(1))
    trained = norm.train()(alone)
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(trained, norm.eval()(alone))
    assert norm.train()(torch.zeros(0, 3)).shape == (0, 3)


def test_leading_axes_are_examples() -> None:
    inputs = torch.randn(4, 5, 3, generator=generator(0))
    assert torch.equal(BatchNorm(3)(inputs).flatten(0, 1), BatchNorm(3)(inputs.flatten(0, 1)))


def served_model(try_it: SimpleNamespace) -> tuple[DeepFM, EmbeddingCollection]:
    tables = {name: ReferenceTable(TableConfig(name=name, dim=4)) for name in try_it.features}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in try_it.features])
    return DeepFM(collection, try_it.features, 2, NORMED, seed=1), collection


def test_what_is_served_is_what_was_learned(try_it: SimpleNamespace) -> None:
    model, collection = served_model(try_it)
    learner = RankLearner(model, collection, torch.optim.Adam(model.parameters(), lr=0.01), LogLoss())
    batch = replace(try_it.small_batch(64), labels=(torch.rand(64, generator=generator(3)) < 0.3).float())
    for piece in [*batch.split(20), batch.slice(0, 1)]:
        learner.learn(piece)
    change = learner.changes(Version(-1))
    other, copies = served_model(try_it)
    Replica(copies.tables, other).apply(change)
    with torch.no_grad():
        served = other.eval()(batch)
        torch.testing.assert_close(served, model.eval()(batch), rtol=0.0, atol=0.0)
        assert not torch.equal(served, model.train()(batch))


def test_a_refused_step_leaves_the_running_statistics_alone(try_it: SimpleNamespace) -> None:
    model, collection = served_model(try_it)
    learner = RankLearner(model, collection, torch.optim.Adam(model.parameters(), lr=0.01), LogLoss())
    learner.learn(try_it.small_batch())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spoiled = try_it.small_batch()
    spoiled.dense[3, 1] = torch.inf
    with pytest.raises(NonFiniteLoss):
        learner.learn(spoiled)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
