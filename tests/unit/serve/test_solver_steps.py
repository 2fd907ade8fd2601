"""Steps of the samplers: orders, what coincides with the original update, and what the released code got wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn import ContinuousFlow, DiscreteFlow
from headrace.serve import METHODS, Move, OneNoise, RowNoise, walk
from headrace.serve.solver_steps import CONTINUOUS, DISCRETE, original_continuous, original_discrete

FLOW, WORDS = ContinuousFlow(bound=50.0), DiscreteFlow(classes=3, rate=2.25)


def move(like: torch.Tensor, *, time: float = 0.2, to: float = 0.3, since: float = 0.15, seed: int = 0) -> Move:
    parts = [torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + k), dtype=like.dtype)
             for k in range(3)]  # fmt: skip
    if like.dim() == 3:
        parts[1:] = [torch.softmax(part, -1) for part in parts[1:]]
    return Move(parts[0], parts[1], time, to, parts[2], since, OneNoise(seed))


@pytest.mark.parametrize(("time", "to"), [(0.01, 0.5), (0.2, 0.3), (0.9, 0.95), (0.01, 0.011)])
def test_first_order_on_the_continuous_sde_is_the_original_update(time: float, to: float) -> None:
    """The house proof: Bayes in terms of messages, and the solver in terms of signal to noise, are one formula."""
    given = move(torch.empty(64, 2, dtype=torch.float64), time=time, to=to)
    ours = CONTINUOUS["sde1"](FLOW, given)
    original = CONTINUOUS["original"](FLOW, replace(given, noise=OneNoise(0)))
    assert float((ours - original).abs().max()) < 1e-9


def test_first_order_on_the_discrete_sde_is_the_original_update_where_the_guess_is_sure() -> None:
    like = torch.empty(64, 4, 3, dtype=torch.float64)
    sure = torch.nn.functional.one_hot(torch.randint(3, (64, 4), generator=torch.Generator().manual_seed(1)), 3)
    given = replace(move(like), estimate=sure.double())

    class Same:
        """Noise that ends at the same normal numbers, whether uniform ones were asked for before or not."""

        def normal(self, like: torch.Tensor) -> torch.Tensor:
            return OneNoise(3).normal(like)

        def uniform(self, like: torch.Tensor) -> torch.Tensor:
            return OneNoise(4).uniform(like)

    given = replace(given, noise=Same())
    assert torch.equal(DISCRETE["sde1"](WORDS, given), DISCRETE["original"](WORDS, given))


def test_the_original_discrete_update_has_the_first_order_step_as_its_mean() -> None:
    estimate = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).expand(40_000, 1, 3)
    given = replace(move(torch.empty(40_000, 1, 3, dtype=torch.float64)), estimate=estimate)
    original, first = DISCRETE["original"](WORDS, given), DISCRETE["sde1"](WORDS, replace(given, noise=OneNoise(9)))
    assert torch.allclose((original - given.state).mean(0), (first - given.state).mean(0), atol=0.02)
    assert float((original - given.state).var(0).sum()) > float((first - given.state).var(0).sum())


@pytest.mark.parametrize("method", ["sde2", "ode2"])
@pytest.mark.parametrize(("table", "flow", "shape"), [(CONTINUOUS, FLOW, (8, 2)), (DISCRETE, WORDS, (8, 4, 3))])
def test_second_order_is_first_order_where_the_guess_stands_still(method: str, table, flow, shape) -> None:
    given = move(torch.empty(shape, dtype=torch.float64))
    first = table[method[:3] + "1"](flow, replace(given, noise=OneNoise(0)))
    for previous in (None, given.estimate):
        second = table[method](flow, replace(given, previous=previous, noise=OneNoise(0)))
        assert float((first - second).abs().max()) < 1e-12
    assert float((first - table[method](flow, replace(given, noise=OneNoise(0)))).abs().max()) > 1e-3


class Gauss:
    """The exact denoiser of normal data; the flow's ODE then has a solution that can be written down."""

    mean, deviation = 0.4, 0.3

    def __call__(self, inputs: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        signal, spread = FLOW.signal(time)[:, None], FLOW.spread(time)[:, None]
        return spread * (inputs - signal * self.mean) / ((signal * self.deviation) ** 2 + spread**2)

    def solved(self, state: torch.Tensor, time: float, to: float) -> torch.Tensor:
        """Standardised states do not move."""
        ends = []
        for at in (time, to):
            signal, spread = (f(torch.tensor(at, dtype=torch.float64)) for f in (FLOW.signal, FLOW.spread))
            ends.append((signal * self.mean, ((signal * self.deviation) ** 2 + spread**2).sqrt()))
        return ends[1][0] + (state - ends[0][0]) / ends[0][1] * ends[1][1]


def errors(method: str) -> list[float]:
    start = torch.linspace(-0.5, 0.9, 9, dtype=torch.float64)[:, None]
    known = Gauss().solved(start, 0.1, 0.8)
    found = []
    for steps in (20, 40, 80, 160):
        end, _ = walk(Gauss(), FLOW, start, np.linspace(0.1, 0.8, steps + 1).tolist(), CONTINUOUS[method], OneNoise(0))
        found.append(float((end - known).abs().mean()))
    return found


@pytest.mark.parametrize(("method", "low", "high"), [("ode_euler", 0.8, 1.2), ("ode1", 0.8, 1.2), ("ode2", 1.7, 2.4)])
def test_orders_on_an_ode_whose_solution_is_known(method: str, low: float, high: float) -> None:
    found = errors(method)
    slopes = np.log2(np.array(found[:-1]) / np.array(found[1:]))
    assert low < slopes.min() <= slopes.max() < high


@pytest.mark.parametrize("method", ["original", "sde1", "sde2", "sde_euler"])
def test_sde_steps_keep_the_state_at_its_own_mean_and_spread(method: str) -> None:
    """States drawn at a time, brought to a later one, are like states drawn there."""
    data = 0.4 + 0.3 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def state(time: float) -> torch.Tensor:
        at = torch.full((len(data),), time, dtype=torch.float64)
        return FLOW.noised(data, at, FLOW.noise_like(data, torch.Generator().manual_seed(2)))

    end, _ = walk(Gauss(), FLOW, state(0.05), np.linspace(0.05, 0.6, 81).tolist(), CONTINUOUS[method], OneNoise(3))
    assert float(end.mean()) == pytest.approx(float(state(0.6).mean()), abs=0.02)
    assert float(end.std()) == pytest.approx(float(state(0.6).std()), rel=0.05)


def independent(inputs: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """The exact denoiser of places that are drawn each by itself with these chances: softmax(state + log chances)."""
    return inputs.log() + torch.tensor([0.7, 0.2, 0.1], dtype=inputs.dtype).log()


@pytest.mark.parametrize("method", METHODS)
def test_discrete_steps_end_at_the_right_shares_of_classes(method: str) -> None:
    noise = OneNoise(5)
    start = math.sqrt(3 * WORDS.rate) * 0.001 * noise.normal(torch.empty(4000, 2, 3))
    end, _ = walk(independent, WORDS, start, np.linspace(0.001, 1.0, 81).tolist(), DISCRETE[method], noise)
    guess = torch.softmax(end + torch.tensor([0.7, 0.2, 0.1]).log(), -1)
    assert torch.allclose(guess.mean((0, 1)), torch.tensor([0.7, 0.2, 0.1]), atol=0.03)


def test_an_euler_step_returns_the_state_and_not_the_logits_as_the_released_code_does() -> None:
    given = move(torch.empty(4, 2, 3, dtype=torch.float64))
    push = 2.0 * 3 * WORDS.rate * 0.2 * 0.1
    noise = math.sqrt(push) * OneNoise(0).normal(given.state)
    expected = given.state + push * (given.estimate - 1.0 / 3.0) + noise
    found = DISCRETE["sde_euler"](WORDS, given)
    assert float((found - expected).abs().max()) < 1e-12
    assert float((found - given.estimate.log()).abs().max()) > 0.1
    # two walks from far-apart states stay apart; with logits of the guess in place of the state they would not
    ends = [walk(lambda inputs, time: torch.zeros_like(inputs), WORDS, given.state + shift, [0.2, 0.3, 0.4],
                 DISCRETE["sde_euler"], OneNoise(0))[0] for shift in (0.0, torch.tensor([3.0, 0.0, 0.0]))]  # fmt: skip
    assert float((ends[1] - ends[0])[..., 0].min()) == pytest.approx(3.0)


def test_many_short_steps_of_euler_come_to_the_exact_step() -> None:
    given = move(torch.empty(4, 2, 3, dtype=torch.float64))
    for euler, exact in (("ode_euler", "ode1"),):
        state = given.state
        for time, to in zip(np.linspace(0.2, 0.3, 2001)[:-1], np.linspace(0.2, 0.3, 2001)[1:], strict=True):
            state = DISCRETE[euler](WORDS, replace(given, state=state, time=float(time), to=float(to)))
        assert float((state - DISCRETE[exact](WORDS, given)).abs().max()) < 1e-3


def test_rows_with_a_seed_each_are_the_same_alone() -> None:
    like = torch.empty(3, 2)
    together, alone = RowNoise([7, 8, 9]), RowNoise([8])
    for _ in range(2):
        assert torch.equal(together.normal(like)[1], alone.normal(like[:1])[0])
        assert torch.equal(together.uniform(like)[1], alone.uniform(like[:1])[0])
    with pytest.raises(ConfigError, match="one per seed"):
        alone.normal(like)


def test_classes_are_drawn_as_often_as_the_guess_says() -> None:
    estimate = torch.tensor([0.0, 0.25, 0.75]).expand(20_000, 1, 3)
    given = Move(torch.zeros(20_000, 1, 3), estimate, 0.2, 0.9, None, 0.0, OneNoise(1))
    told = WORDS.rate * (0.9**2 - 0.2**2)
    shares = ((original_discrete(WORDS, given) / told).mean((0, 1)) + 1.0) / 3.0
    assert torch.allclose(shares, torch.tensor([0.0, 0.25, 0.75]), atol=0.02)


def test_the_original_update_needs_no_log_of_signal_to_noise() -> None:
    given = move(torch.empty(4, 2, dtype=torch.float64), time=1e-12, to=1.0)
    assert bool(torch.isfinite(original_continuous(FLOW, given)).all())
