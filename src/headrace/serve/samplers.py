"""Samplers of Bayesian flows: the original one, and solvers of the flow's SDE and ODE of first and second order.

All of them walk from an early time towards 1 and ask the denoiser once per evaluation: the last evaluation gives the
answer, every one before it a step (`headrace.serve.solver_steps`). Any function `(inputs, time) -> outputs` can be
sampled from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from headrace.config import known_name, require
from headrace.errors import ConfigError
from headrace.nn.bayesian_flow import ContinuousFlow, Denoiser, DiscreteFlow, Flow
from headrace.serve.solver_steps import CONTINUOUS, DISCRETE, METHODS, Move, Noise, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """How to sample.

    Attributes:
        method: One of `METHODS`: `original`, or `sde` or `ode` with the order 1 or 2, or with `_euler`. `ode2` is the
            best with few evaluations, `original` and `sde2` with many.
        evaluations: How often the denoiser is asked.
        start: The time of the first evaluation; None: the flow's own.
        matched: Begin with the mean and spread that the state of the data has at the start, where they are known,
            and not with those of data around zero.

    Raises:
        ConfigError: If a value cannot work.
    """

    method: str = "ode2"
    evaluations: int = 20
    start: float | None = None
    matched: bool = False

    def __post_init__(self) -> None:
        known_name("SamplerConfig.method", self.method, METHODS)
        require(self.evaluations >= 1, "SamplerConfig.evaluations", got=self.evaluations, expected="1 or more")
        require(self.start is None or 0.0 < self.start < 1.0, "SamplerConfig.start", got=self.start,
                expected="a time between 0 and 1, or None")  # fmt: skip

    def times(self, flow: Flow) -> list[float]:
        """Return the times of the evaluations: evenly spaced, 1 itself left out."""
        start = flow.start if self.start is None else self.start
        return [start + (1.0 - start) * place / self.evaluations for place in range(self.evaluations)]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a sampler drew.

    Attributes:
        values: The last guess (B, ...): numbers, or classes (B, L) int64.
        settled: (B,) in [0, 1]: 1 minus the mean distance between the last two guesses (total variation; or half the
            difference, over the bound). Near 1, more evaluations would change little. One evaluation has settled 0.
        evaluations: How often the denoiser was asked.
    """

    values: Tensor
    settled: Tensor
    evaluations: int


@dataclass(slots=True)
class _Counted:
    denoiser: Denoiser
    calls: int = 0

    def __call__(self, inputs: Tensor, time: Tensor) -> Tensor:
        self.calls += 1
        return self.denoiser(inputs, time)


def step_of(flow: Flow, method: str) -> Step:
    """Return the step of a method for a flow.

    Raises:
        ConfigError: If there is no such method.
    """
    known_name("method", method, METHODS)
    return CONTINUOUS[method] if isinstance(flow, ContinuousFlow) else DISCRETE[method]


def first_state(
    flow: Flow, shape: Sequence[int], time: float, noise: Noise, *, moments: tuple[Tensor, float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Return states (B, ...) to begin with.

    Args:
        flow: The flow.
        shape: Shape of the states, B first.
        time: When.
        noise: Random numbers.
        moments: Mean and variance of the data, as `flow.first` takes them; None: data around zero.
        dtype: Type of the states.
    """
    mean, spread = flow.first(time, *(moments or (None, 0.0)))
    return mean + spread * noise.normal(torch.empty(tuple(shape), dtype=dtype))


@torch.no_grad()
def walk(
    denoiser: Denoiser, flow: Flow, state: Tensor, times: Sequence[float], step: Step, noise: Noise
) -> tuple[Tensor, Tensor | None]:
    """Bring states from the first time to the last with one evaluation per step.

    Args:
        denoiser: Guesses.
        flow: The flow.
        state: States at the first time, (B, ...).
        times: Rising times, at least one.
        step: One of `CONTINUOUS` or `DISCRETE`, or your own.
        noise: Random numbers for steps that need some.

    Returns:
        The states at the last time, and the last guess on the way there (None without a step).

    Raises:
        ConfigError: If the times do not rise.
    """
    rising = all(late > early for early, late in pairwise(times))
    require(len(times) >= 1 and rising and times[0] > 0.0, "walk, times", got=list(times),
            expected="rising times above 0")  # fmt: skip
    previous, since = None, 0.0
    for time, to in pairwise(times):
        estimate = guess(denoiser, flow, state, time)
        state = step(flow, Move(state, estimate, time, to, previous, since, noise))  # type: ignore[arg-type]
        previous, since = estimate, time
    return state, previous


def guess(denoiser: Denoiser, flow: Flow, state: Tensor, time: float) -> Tensor:
    """Return the denoiser's guess of the data at a state."""
    at = torch.full((len(state),), time, dtype=state.dtype, device=state.device)
    return flow.estimate(denoiser(flow.inputs(state), at), state, at)


@torch.no_grad()
def sample(
    denoiser: Denoiser, flow: Flow, shape: Sequence[int], noise: Noise, config: SamplerConfig | None = None, *,
    moments: tuple[Tensor, float] | None = None, step: Step | None = None,
) -> Drawn:  # fmt: skip
    """Draw samples from a denoiser.

    Args:
        denoiser: Any `(inputs, time) -> outputs`.
        flow: The flow that it was learned with.
        shape: Shape of the states, rows first: (B, D), or (B, L, K) for sequences of classes.
        noise: Random numbers.
        config: Settings.
        moments: Mean and variance of the data; needed for `matched`.
        step: A step of your own in place of the method's.

    Raises:
        ConfigError: If `matched` is set and the moments are not known.

    Cost:
        `config.evaluations` calls of the denoiser.

    Example:
        >>> from headrace.serve import OneNoise
        >>> flow = ContinuousFlow()
        >>> drawn = sample(lambda inputs, time: inputs, flow, (2, 3), OneNoise(0), SamplerConfig(evaluations=4))
        >>> drawn.values.shape, drawn.evaluations
        (torch.Size([2, 3]), 4)
    """
    config, counted = config or SamplerConfig(), _Counted(denoiser)
    if config.matched and moments is None:
        raise ConfigError("SamplerConfig.matched", got="no moments of the data", expected="mean and variance",
                          do="Build the model with `moments`, or sample without.")  # fmt: skip
    times = config.times(flow)
    state = first_state(flow, shape, times[0], noise, moments=moments if config.matched else None)
    state, before = walk(counted, flow, state, times, step or step_of(flow, config.method), noise)
    last = guess(counted, flow, state, times[-1])
    apart = torch.ones_like(last) if before is None else (last - before).abs()
    if isinstance(flow, DiscreteFlow):
        moved = 0.5 * apart.sum(-1) if before is not None else apart[..., 0]
        return Drawn(last.argmax(-1), 1.0 - moved.flatten(1).mean(1), counted.calls)
    moved = apart if before is None else 0.5 * apart / flow.bound
    return Drawn(last, (1.0 - moved.flatten(1).mean(1)).clamp(0.0, 1.0), counted.calls)
