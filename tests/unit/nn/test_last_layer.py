from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn import LastLayerPosterior
from headrace.types import Batch


def batch(inputs: Tensor, labels: Tensor | None = None) -> Batch:
    rows = len(inputs)
    zeros, ints = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    return Batch(ids={}, dense=inputs, labels=zeros if labels is None else labels, weights=torch.ones(rows),
                 event_times=ints, accepted_times=ints, example_ids=ints, predictions=zeros, versions=ints,
                 sample_rates=torch.ones(rows))  # fmt: skip


class Plain(nn.Module):
    """Logits from a hidden layer, with a last layer of its own."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1, bias=bias)

    def forward(self, batch: Batch) -> Tensor:
        return self.last(torch.tanh(self.first(batch.dense))).squeeze(1)


def made(**settings: object) -> LastLayerPosterior:
    model = Plain()
    return LastLayerPosterior(model, model.last, **settings)  # type: ignore[arg-type]


def test_answers_are_those_of_the_model() -> None:
    posterior, rows = made(), batch(torch.randn(5, 3))
    assert torch.equal(posterior(rows), posterior.model(rows))


def test_the_evidence_is_that_of_a_logistic_regression_on_the_last_inputs() -> None:
    posterior, rows = made(), batch(torch.randn(40, 3))
    logits = posterior(rows)
    inputs = torch.cat([torch.tanh(posterior.model.first(rows.dense)), torch.ones(40, 1)], 1).detach()
    chances = torch.sigmoid(logits.detach())
    wanted = (inputs * (chances * (1 - chances)).unsqueeze(1)).T @ inputs
    assert torch.allclose(posterior.evidence, wanted, atol=1e-5)
    assert torch.allclose(posterior.features(rows), inputs)


def test_nothing_is_learned_in_evaluation_or_without_gradients() -> None:
    posterior, rows = made(), batch(torch.randn(4, 3))
    with torch.no_grad():
        posterior(rows)
    posterior.eval()(rows)
    posterior.features(rows)
    assert not posterior.evidence.any()


def test_draws_have_the_covariance_of_the_posterior() -> None:
    posterior, rows = made(prior=2.0), batch(torch.randn(60, 3))
    posterior(rows)
    features = posterior.features(batch(torch.randn(3, 3)))
    precision = posterior.evidence.double() + 2.0 * torch.eye(5, dtype=torch.float64)
    wanted = features.double() @ torch.linalg.inv(precision) @ features.double().T
    spread = posterior.spread(features)
    assert torch.allclose((spread @ spread.T).double(), wanted, atol=1e-5)


def test_what_was_seen_often_is_more_certain() -> None:
    posterior = made()
    seen, unseen = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[-1.0, 2.0, -2.0]])
    for _ in range(50):
        posterior(batch(seen.repeat(20, 1)))
    spread = [float(posterior.spread(posterior.features(batch(rows))).norm()) for rows in (seen, unseen)]
    assert spread[0] < 0.3 * spread[1]


def test_old_examples_count_half_after_their_half_life() -> None:
    posterior = made(half_life=10.0)
    posterior(batch(torch.randn(10, 3)))
    first = posterior.evidence.clone()
    rows = batch(torch.randn(10, 3))
    posterior(rows)
    other = made()
    other(rows)
    assert torch.allclose(posterior.evidence, first / 2 + other.evidence, atol=1e-5)


def test_the_layer_is_saved_under_one_name_and_evidence_with_it() -> None:
    names = set(made().state_dict())
    assert names == {"evidence", "model.first.weight", "model.first.bias", "model.last.weight", "model.last.bias"}


def test_a_layer_without_bias_has_no_column_of_ones() -> None:
    model = Plain(bias=False)
    posterior = LastLayerPosterior(model, model.last)
    assert posterior.features(batch(torch.randn(2, 3))).shape == (2, 4)


def test_threads_do_not_hear_each_other() -> None:
    posterior = made().eval()
    draws = [torch.full((3, 3), float(n)) for n in range(8)]
    wanted = [posterior.features(batch(rows)) for rows in draws]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(100):
            if not torch.equal(posterior.features(batch(draws[number])), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_layer_of_another_model_or_of_several_outputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="layer"):
        LastLayerPosterior(Plain(), nn.Linear(4, 1))
    model = Plain()
    with pytest.raises(ConfigError, match="layer"):
        LastLayerPosterior(model, model.first)


def test_a_layer_that_is_called_twice_is_refused() -> None:
    class Twice(Plain):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch) + super().forward(batch)

    model = Twice()
    with pytest.raises(ConfigError, match="called 2 times"):
        LastLayerPosterior(model, model.last).features(batch(torch.from_numpy(np.zeros((1, 3), np.float32))))
