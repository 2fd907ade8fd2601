"""Steps of the samplers of Bayesian flows: how a state gets from one time to the next, given a guess of the data.

Between two evaluations the guess is taken to stand still (first order) or to go on as it went since the evaluation
before (second order); what is linear in the equation is solved exactly. `sde_euler` and `ode_euler` do neither: they
are there to be compared with.

Source:
    Xue et al. 2024, "Unifying Bayesian Flow Networks and Diffusion Models through Stochastic Differential Equations",
    and its released code; time is turned around, as Graves et al. 2023 have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from headrace.config import require
from headrace.nn.bayesian_flow import ContinuousFlow, DiscreteFlow


class Noise(Protocol):
    """Where random numbers come from."""

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers of a tensor's shape and type."""
        ...

    def uniform(self, like: Tensor) -> Tensor:
        """Return numbers in [0, 1) of a tensor's shape and type."""
        ...


class OneNoise:
    """Random numbers of one seed for all rows: fast, and a row depends on how many others there are.

    Args:
        seed: Any integer.
    """

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers of a tensor's shape and type."""
        return torch.randn(like.shape, generator=self._draw, dtype=like.dtype).to(like.device)

    def uniform(self, like: Tensor) -> Tensor:
        """Return numbers in [0, 1) of a tensor's shape and type."""
        return torch.rand(like.shape, generator=self._draw, dtype=like.dtype).to(like.device)


class RowNoise:
    """Random numbers of a seed per row: a row is the same whatever other rows there are.

    Args:
        seeds: One integer per row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._draws = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers of a tensor's shape and type."""
        return self._stacked(like, torch.randn)

    def uniform(self, like: Tensor) -> Tensor:
        """Return numbers in [0, 1) of a tensor's shape and type."""
        return self._stacked(like, torch.rand)

    def _stacked(self, like: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        require(len(like) == len(self._draws), "RowNoise", got=f"{len(like)} rows",
                expected=f"{len(self._draws)}, one per seed")  # fmt: skip
        shape = like.shape[1:]
        rows = [draw(shape, generator=one, dtype=like.dtype) for one in self._draws]
        return torch.stack(rows).to(like.device) if rows else torch.empty_like(like)


@dataclass(frozen=True, slots=True)
class Move:
    """What a step goes by.

    Shapes:
        state, estimate (the guess of the data at `time`) and previous (the one at `since`; None at first): (B, ...).
    """

    state: Tensor
    estimate: Tensor
    time: float
    to: float
    previous: Tensor | None
    since: float
    noise: Noise


ContinuousStep: TypeAlias = Callable[[ContinuousFlow, Move], Tensor]
DiscreteStep: TypeAlias = Callable[[DiscreteFlow, Move], Tensor]
Step: TypeAlias = ContinuousStep | DiscreteStep
"""From what is known at a moment to the state at `move.to`."""


# continuous data -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ends:
    """The continuous flow at both ends of a step; `h` is the gain in log signal-to-noise."""

    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float
    h: float

    @staticmethod
    def of(flow: ContinuousFlow, move: Move) -> _Ends:
        signal, spread = _signal(flow, move.time), _spread(flow, move.time)
        next_signal, next_spread = _signal(flow, move.to), _spread(flow, move.to)
        h = _log_ratio(flow, move.to) - _log_ratio(flow, move.time)
        return _Ends(signal, spread, next_signal, next_spread, h)


def original_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """Take the guess for the data, send a noisy message of it, and let the belief learn from the message by Bayes."""
    known, told = _accuracy(flow, move.time), _accuracy(flow, move.to) - _accuracy(flow, move.time)
    message = move.estimate + move.noise.normal(move.state) / math.sqrt(told)
    return ((1.0 + known) * move.state + told * message) / (1.0 + known + told)


def sde1_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """First order, SDE. The same as the original sampler, written in the log of signal to noise."""
    ends = _Ends.of(flow, move)
    return _sde(ends, move, move.estimate)


def sde2_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """Second order, SDE."""
    ends = _Ends.of(flow, move)
    return _sde(ends, move, _ahead(flow, move, ends.h))


def ode1_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """First order, ODE: the noise that the guess means is taken to stand still."""
    ends = _Ends.of(flow, move)
    noise = (move.state - ends.alpha * move.estimate) / ends.sigma
    return ends.next_alpha / ends.alpha * move.state - ends.next_sigma * math.expm1(ends.h) * noise


def ode2_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """Second order, ODE."""
    ends = _Ends.of(flow, move)
    guess = _ahead(flow, move, ends.h)
    return ends.next_sigma / ends.sigma * move.state - ends.next_alpha * math.expm1(-ends.h) * guess


def sde_euler_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """Euler and Maruyama on the SDE, nothing solved exactly."""
    drift, push, scale = _euler(flow, move)
    length = move.to - move.time
    return move.state - (drift + push) * length + scale * math.sqrt(length) * move.noise.normal(move.state)


def ode_euler_continuous(flow: ContinuousFlow, move: Move) -> Tensor:
    """Euler on the ODE, nothing solved exactly."""
    drift, push, _ = _euler(flow, move)
    return move.state - (drift + 0.5 * push) * (move.to - move.time)


def _sde(ends: _Ends, move: Move, guess: Tensor) -> Tensor:
    kept, fresh = math.exp(-ends.h), -math.expm1(-2.0 * ends.h)
    noise = ends.next_sigma * math.sqrt(fresh) * move.noise.normal(move.state)
    return ends.next_sigma / ends.sigma * kept * move.state + ends.next_alpha * fresh * guess + noise


def _ahead(flow: ContinuousFlow, move: Move, h: float) -> Tensor:
    """Return the guess at the middle of the step, if it goes on as it went since the last evaluation."""
    if move.previous is None:
        return move.estimate
    before = _log_ratio(flow, move.time) - _log_ratio(flow, move.since)
    return move.estimate + 0.5 * h / before * (move.estimate - move.previous)


def _euler(flow: ContinuousFlow, move: Move) -> tuple[Tensor, Tensor, float]:
    """Return drift, push of the score and size of the noise, all against time."""
    signal, spread = _signal(flow, move.time), _spread(flow, move.time)
    pace = 2.0 * math.log(flow.sigma) * (1.0 - signal)
    noise = (move.state - signal * move.estimate) / spread
    return pace / signal * move.state, -pace / spread * noise, math.sqrt(-pace)


def _signal(flow: ContinuousFlow, time: float) -> float:
    return -math.expm1(2.0 * math.log(flow.sigma) * time)


def _spread(flow: ContinuousFlow, time: float) -> float:
    return math.sqrt(_signal(flow, time)) * math.exp(math.log(flow.sigma) * time)


def _log_ratio(flow: ContinuousFlow, time: float) -> float:
    """Return the log of signal to noise, `log(gamma / (1 - gamma)) / 2`."""
    return 0.5 * math.log(_signal(flow, time)) - math.log(flow.sigma) * time


def _accuracy(flow: ContinuousFlow, time: float) -> float:
    return math.expm1(-2.0 * math.log(flow.sigma) * time)


# discrete data -------------------------------------------------------------------------------------------------------


def original_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """Draw classes from the guess, send a noisy message of them, and let the belief learn from the message by Bayes."""
    chances = move.estimate.cumsum(-1)
    point = move.noise.uniform(move.state[..., :1]) * chances[..., -1:]
    drawn = (chances <= point).sum(-1).clamp(max=flow.classes - 1)
    sharp = one_hot(drawn, flow.classes).to(move.state.dtype)
    return _messages(flow, move, sharp)


def sde1_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """First order, SDE: the original sampler with the guess itself in place of classes drawn from it."""
    return _messages(flow, move, move.estimate)


def sde2_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """Second order, SDE."""
    state = _messages(flow, move, move.estimate)
    if move.previous is None:
        return state
    length = move.to - move.time
    weight = flow.classes * flow.rate * length**2 * (move.time + 2.0 * move.to) / 3.0
    return state + weight / (move.time - move.since) * (move.estimate - move.previous)


def ode1_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """First order, ODE."""
    weight = flow.classes * flow.rate * move.to * (move.to - move.time)
    return move.to / move.time * move.state + weight * (move.estimate - 1.0 / flow.classes)


def ode2_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """Second order, ODE."""
    state = ode1_discrete(flow, move)
    if move.previous is None:
        return state
    weight = 0.5 * flow.classes * flow.rate * move.to * (move.to - move.time) ** 2
    return state + weight / (move.time - move.since) * (move.estimate - move.previous)


def sde_euler_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """Euler and Maruyama on the SDE.

    The code released with the solvers returns the denoiser's logits here and not the state, so that there every step
    begins from what the last guess was; this returns the state.
    """
    length = move.to - move.time
    push = 2.0 * flow.classes * flow.rate * move.time
    noise = math.sqrt(push * length) * move.noise.normal(move.state)
    return move.state + push * length * (move.estimate - 1.0 / flow.classes) + noise


def ode_euler_discrete(flow: DiscreteFlow, move: Move) -> Tensor:
    """Euler on the ODE, nothing solved exactly."""
    push = flow.classes * flow.rate * move.time * (move.estimate - 1.0 / flow.classes)
    return move.state + (move.state / move.time + push) * (move.to - move.time)


def _messages(flow: DiscreteFlow, move: Move, guess: Tensor) -> Tensor:
    told = flow.rate * (move.to**2 - move.time**2)
    noise = math.sqrt(flow.classes * told) * move.noise.normal(move.state)
    return move.state + told * (flow.classes * guess - 1.0) + noise


CONTINUOUS: Mapping[str, ContinuousStep] = {
    "original": original_continuous, "sde1": sde1_continuous, "sde2": sde2_continuous, "ode1": ode1_continuous,
    "ode2": ode2_continuous, "sde_euler": sde_euler_continuous, "ode_euler": ode_euler_continuous,
}  # fmt: skip
DISCRETE: Mapping[str, DiscreteStep] = {
    "original": original_discrete, "sde1": sde1_discrete, "sde2": sde2_discrete, "ode1": ode1_discrete,
    "ode2": ode2_discrete, "sde_euler": sde_euler_discrete, "ode_euler": ode_euler_discrete,
}  # fmt: skip
METHODS = tuple(CONTINUOUS)
