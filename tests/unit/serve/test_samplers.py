"""Drawing samples: counts of evaluations, where walks begin, seeds, settings that cannot work."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn import ContinuousFlow, DiscreteFlow
from headrace.serve import METHODS, Move, OneNoise, RowNoise, SamplerConfig, sample, walk
from headrace.serve.samplers import first_state, step_of

FLOW, WORDS = ContinuousFlow(), DiscreteFlow(classes=3, rate=9.0)


class Asked:
    """Data that are always 0.4, and how often somebody asked."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, inputs: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        self.times.append(float(time[0]))
        return (inputs - FLOW.signal(time)[:, None] * 0.4) / FLOW.spread(time)[:, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("evaluations", [1, 2, 7])
def test_the_denoiser_is_asked_as_often_as_was_said(method: str, evaluations: int) -> None:
    asked = Asked()
    drawn = sample(asked, FLOW, (3, 2), OneNoise(0), SamplerConfig(method=method, evaluations=evaluations))
    assert drawn.evaluations == len(asked.times) == evaluations
    assert asked.times == sorted(set(asked.times))
    assert asked.times[0] == pytest.approx(0.01)
    assert asked.times[-1] < 1.0
    assert torch.allclose(drawn.values, torch.full((3, 2), 0.4), atol=1e-4)
    assert float(drawn.settled.min()) == (0.0 if evaluations == 1 else pytest.approx(1.0, abs=1e-4))


@pytest.mark.parametrize("method", METHODS)
def test_classes_come_out_as_classes(method: str) -> None:
    drawn = sample(lambda inputs, time: inputs.log() * 50, WORDS, (4, 5, 3), OneNoise(0),
                   SamplerConfig(method=method, evaluations=9))  # fmt: skip
    assert drawn.values.shape == (4, 5)
    assert drawn.values.dtype == torch.int64
    assert bool(((drawn.settled >= 0) & (drawn.settled <= 1)).all())


def test_any_function_can_be_sampled_from_and_any_step_taken() -> None:
    def still(flow: ContinuousFlow, move: Move) -> torch.Tensor:
        return move.state

    drawn = sample(lambda inputs, time: torch.zeros_like(inputs), FLOW, (2, 2), RowNoise([1, 2]),
                   SamplerConfig(evaluations=3), step=still)  # fmt: skip
    first = first_state(FLOW, (2, 2), 0.01, RowNoise([1, 2]))
    last = torch.tensor(SamplerConfig(evaluations=3).times(FLOW)[-1])
    assert torch.allclose(drawn.values, (first / FLOW.signal(last)).clamp(-1, 1))


def test_equal_seeds_draw_equal_samples_and_the_global_generator_stays() -> None:
    before = torch.random.get_rng_state()
    config = SamplerConfig(method="sde2", evaluations=3)
    drawn = [sample(lambda inputs, time: torch.zeros_like(inputs), FLOW, (3, 2), OneNoise(seed), config).values
             for seed in (1, 1, 2)]  # fmt: skip
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_walk_may_begin_with_the_moments_of_the_data() -> None:
    moments = (torch.tensor([2.0, -1.0]), 0.25)
    states = first_state(ContinuousFlow(sigma=0.02), (20_000, 2), 0.1, OneNoise(0), moments=moments)
    signal = 1.0 - 0.02**0.2
    assert torch.allclose(states.mean(0), signal * moments[0], atol=0.02)
    assert float(states.var()) > 0
    assert float(states.var(0).mean()) == pytest.approx(signal * (1 - signal) + signal**2 * 0.25, rel=0.03)
    with pytest.raises(ConfigError, match="no moments"):
        sample(Asked(), FLOW, (1, 2), OneNoise(0), SamplerConfig(matched=True))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="ode2"):
        SamplerConfig(method="ode3")
    with pytest.raises(ConfigError, match="evaluations"):
        SamplerConfig(evaluations=0)
    with pytest.raises(ConfigError, match="start"):
        SamplerConfig(start=0.0)
    with pytest.raises(ConfigError, match="rising"):
        walk(Asked(), FLOW, torch.zeros(1, 2), [0.5, 0.2], step_of(FLOW, "ode1"), OneNoise(0))
