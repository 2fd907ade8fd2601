"""Flows and Bayesian flow networks: states of data, guesses, losses."""

from __future__ import annotations

import math

import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.nn import BayesianFlow, ContinuousFlow, DiscreteFlow, ResidualDenoiser, SequenceDenoiser

CONTINUOUS, DISCRETE = ContinuousFlow(sigma=0.02), DiscreteFlow(classes=5, rate=2.0)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("time", [0.05, 0.5, 0.95])
def test_a_continuous_state_is_what_bayes_makes_of_the_messages(time: float) -> None:
    """Many weak messages about x = 0.3, learned one by one, leave the belief that `noised` draws at once."""
    data, random = torch.full((20_000,), 0.3, dtype=torch.float64), draw()
    known, mean = 0.0, torch.zeros_like(data)
    for place in range(1, 21):
        accuracy = float(CONTINUOUS.accuracy(torch.tensor(time * place / 20, dtype=torch.float64)))
        told = accuracy - known
        message = data + torch.randn(data.shape, generator=random, dtype=data.dtype) / math.sqrt(told)
        mean = ((1.0 + known) * mean + told * message) / (1.0 + known + told)
        known = accuracy
    at = torch.tensor(time, dtype=torch.float64)
    assert float(mean.mean()) == pytest.approx(0.3 * float(CONTINUOUS.signal(at)), abs=0.01)
    assert float(mean.std()) == pytest.approx(float(CONTINUOUS.spread(at)), rel=0.03)
    drawn = CONTINUOUS.noised(data, at.expand(len(data)), torch.randn(data.shape, generator=random, dtype=data.dtype))
    assert float(drawn.std()) == pytest.approx(float(mean.std()), rel=0.03)


def test_a_discrete_state_has_the_published_mean_and_variance() -> None:
    data, time = torch.full((20_000, 1), 3), torch.full((20_000,), 0.5)
    states = DISCRETE.noised(data, time, DISCRETE.noise_like(data, draw()))[:, 0]
    beta = 2.0 * 0.25
    assert torch.allclose(states.mean(0), beta * (5.0 * torch.eye(5)[3] - 1.0), atol=0.04)
    assert torch.allclose(states.var(0), torch.full((5,), 5.0 * beta), rtol=0.04)


def test_true_noise_gives_the_data_back() -> None:
    data, time = torch.rand(8, 6, generator=draw()) * 2 - 1, torch.linspace(0.05, 0.99, 8)
    noise = CONTINUOUS.noise_like(data, draw(1))
    state = CONTINUOUS.noised(data, time, noise)
    assert torch.allclose(CONTINUOUS.estimate(noise, state, time), data, atol=1e-4)
    assert float(CONTINUOUS.loss(noise, data, noise, time).sum()) == 0.0


def test_guesses_stay_within_the_bound() -> None:
    state, time = torch.full((2, 3), 0.5), torch.tensor([0.02, 0.5])
    assert float(CONTINUOUS.estimate(torch.full((2, 3), -9.0), state, time).max()) == 1.0


def test_the_continuous_loss_is_the_published_one() -> None:
    """`-ln(sigma) |x - guess|² / sigma^(2 t)`, here computed from the guess; ours is written in the noise."""
    flow = ContinuousFlow(sigma=0.02, bound=1e6)
    data, time = torch.rand(8, 6, generator=draw(), dtype=torch.float64), torch.linspace(0.1, 0.9, 8).double()
    noise, outputs = (torch.randn(8, 6, generator=draw(seed), dtype=torch.float64) for seed in (1, 2))
    state = flow.noised(data, time, noise)
    gap = (data - flow.estimate(outputs, state, time)).square().mean(1)
    published = -math.log(0.02) * gap / 0.02 ** (2 * time)
    assert torch.allclose(flow.loss(outputs, data, noise, time), published)


def test_the_discrete_loss_is_the_published_one() -> None:
    data, time = torch.tensor([[0, 4]]), torch.tensor([0.5])
    sure = torch.tensor([[[99.0, 0, 0, 0, 0], [0, 0, 0, 0, 99.0]]])
    assert float(DISCRETE.loss(sure, data, torch.zeros(1, 2, 5), time)) == pytest.approx(0.0, abs=1e-6)
    even = torch.zeros(1, 2, 5)
    assert float(DISCRETE.loss(even, data, even, time)) == pytest.approx(5 * 2.0 * 0.5 * (0.8**2 + 4 * 0.2**2))


@torch.no_grad()
def test_an_untrained_network_over_classes_believes_what_it_is_told() -> None:
    inputs = torch.softmax(torch.randn(3, 4, 5, generator=draw()) * 4, -1)
    for denoiser in (ResidualDenoiser((4, 5), (4, 5), probabilities=True), SequenceDenoiser(4, 5, width=16)):
        model = BayesianFlow(denoiser, DISCRETE, (4,))
        guess = model(inputs.log(), torch.full((3,), 0.5))
        assert float((guess - inputs).abs().max()) < 0.1
        assert torch.equal(guess.argmax(-1), inputs.argmax(-1))


def test_equal_seeds_make_equal_networks_and_the_global_generator_stays() -> None:
    before = torch.random.get_rng_state()
    one, two, other = (ResidualDenoiser((3,), (3,), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_condition_reaches_the_denoiser() -> None:
    model = BayesianFlow(ResidualDenoiser((3,), (3,), condition=2), ContinuousFlow(), (3,))
    state, time = torch.zeros(1, 3), torch.tensor([0.5])
    asked = [model(state, time, torch.tensor([[one, 0.0]])) for one in (0.0, 5.0)]
    assert not torch.equal(*asked)


def test_moments_are_kept_with_the_weights() -> None:
    moments = (torch.tensor([0.1, 0.2]), 0.5)
    model = BayesianFlow(ResidualDenoiser((2,), (2,)), ContinuousFlow(), (2,), moments=moments)
    assert torch.equal(model.state_dict()["mean"], moments[0])
    mean, spread = CONTINUOUS.first(0.1, *moments)
    signal = 1.0 - 0.02**0.2
    assert torch.allclose(torch.as_tensor(mean), signal * moments[0])
    assert spread == pytest.approx(math.sqrt(signal * (1 - signal) + signal**2 * 0.5))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="sigma"):
        ContinuousFlow(sigma=1.5)
    with pytest.raises(ConfigError, match="classes"):
        DiscreteFlow(classes=1)
    with pytest.raises(ConfigError, match="embed"):
        BayesianFlow(ResidualDenoiser((2,), (2,)), ContinuousFlow(), (2,), features=("digit",))
    with pytest.raises(DataError, match=r"-1 to 1"):
        ContinuousFlow().check(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(DataError, match="0 to 4"):
        DISCRETE.check(torch.tensor([[5]]))
