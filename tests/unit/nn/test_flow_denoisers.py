"""Denoisers that are exact where data are simple, and networks that begin from them."""

from __future__ import annotations

import itertools

import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn import ContinuousFlow, MarkovDenoiser, NormalDenoiser, ResidualDenoiser, SequenceDenoiser

FLOW = ContinuousFlow(sigma=0.05, bound=9.0)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normal_data_are_guessed_as_bayes_does() -> None:
    """Against the textbook formula with matrices, in the pixels' own axes."""
    root = torch.randn(3, 3, generator=draw(), dtype=torch.float64) * 0.4
    covariance, mean = root @ root.T, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    denoiser = NormalDenoiser(FLOW, mean, covariance)
    state, time = torch.randn(5, 3, generator=draw(1), dtype=torch.float64), torch.linspace(0.1, 0.9, 5).double()
    guess = FLOW.estimate(denoiser(state, time), state, time)
    for row in range(5):
        signal, spread = FLOW.signal(time[row]), FLOW.spread(time[row])
        weights = signal * covariance @ torch.linalg.inv(signal**2 * covariance + spread**2 * torch.eye(3))
        expected = mean + weights @ (state[row] - signal * mean)
        assert torch.allclose(guess[row], expected, atol=1e-5)


def test_a_network_adds_to_the_guess_for_normal_data() -> None:
    mean, covariance = torch.zeros(4), torch.diag(torch.tensor([0.4, 0.3, 0.2, 0.1]))

    class Nothing(torch.nn.Module):
        def forward(self, rows: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(rows)

    state, time = torch.randn(6, 4, generator=draw()), torch.full((6,), 0.3)
    plain = NormalDenoiser(FLOW, mean, covariance)(state, time)
    same = NormalDenoiser(FLOW, mean, covariance, network=Nothing(), axes=2)(state, time)
    other = NormalDenoiser(FLOW, mean, covariance, network=ResidualDenoiser((2,), (2,)), axes=2)(state, time)
    assert torch.allclose(plain, same)
    assert not torch.allclose(plain[:, :2], other[:, :2])
    assert torch.allclose(plain[:, 2:], other[:, 2:], atol=1e-6)
    with pytest.raises(ConfigError, match="axes"):
        NormalDenoiser(FLOW, mean, covariance, axes=2)


@pytest.mark.parametrize("places", [2, 3, 5])
def test_a_markov_chain_is_guessed_as_enumeration_does(places: int) -> None:
    pairs = torch.rand(3, 3, generator=draw(), dtype=torch.float64)
    after = torch.rand(3, 3, 3, generator=draw(1), dtype=torch.float64)
    pairs, after = pairs / pairs.sum(), after / after.sum(2, keepdim=True)
    inputs = torch.softmax(2 * torch.randn(4, places, 3, generator=draw(2), dtype=torch.float64), -1)
    found = MarkovDenoiser(pairs, after)(inputs, torch.zeros(4)).exp()
    expected = torch.zeros_like(inputs)
    for codes in itertools.product(range(3), repeat=places):
        weight = pairs[codes[0], codes[1]]
        for place in range(2, places):
            weight = weight * after[codes[place - 2 : place + 1]]
        weight = weight * torch.stack([inputs[:, place, code] for place, code in enumerate(codes)]).prod(0)
        for place, code in enumerate(codes):
            expected[:, place, code] += weight
    assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-6)


def test_chances_are_counted_from_a_text() -> None:
    counted = MarkovDenoiser.counted(torch.tensor([0, 1, 2] * 200), 3, smoothing=1e-6)
    unsure = torch.full((1, 4, 3), 1 / 3)
    unsure[0, 0] = torch.tensor([0.0, 1.0, 0.0])
    assert counted(unsure, torch.zeros(1)).exp().argmax(-1).tolist() == [[1, 2, 0, 1]]


def test_networks_begin_from_their_prior() -> None:
    prior = MarkovDenoiser.counted(torch.tensor([0, 1, 2] * 50), 3)
    inputs = torch.softmax(torch.randn(2, 6, 3, generator=draw()), -1)
    network = SequenceDenoiser(6, 3, width=16, prior=prior)
    with torch.no_grad():
        apart = (network(inputs, torch.full((2,), 0.5)).softmax(-1) - prior(inputs, torch.zeros(2)).exp()).abs()
        assert 0 < float(apart.max()) < 0.3
