"""Bayesian flow networks: what is believed about data, as noisy messages about them come in, and who guesses the data.

A flow goes from time 0, where nothing is known, to time 1, where the data are. Between them stands a state: for
continuous data the mean of a normal belief, for discrete data the logits of a categorical one. A denoiser looks at the
belief and the time and guesses; any module or function `(inputs, time) -> outputs` will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softmax

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.layers import embedded
from headrace.types import Batch

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From what is believed, (B, ...), and the time (B,) to outputs: of continuous data the noise, same shape; of discrete
data logits (B, L, K) from probabilities (B, L, K)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuousFlow:
    """The flow of real-valued data; its state is the mean of the belief, and the denoiser foretells the noise in it.

    At time t the state of data x is `gamma x + sqrt(gamma (1 - gamma)) noise` with `gamma = 1 - sigma^(2 t)`.

    Attributes:
        sigma: Standard deviation of the belief at time 1.
        bound: Data lie in [-bound, bound], and so do guesses.
        start: The earliest time that is learned and sampled from: at 0 the noise says nothing about the data.

    Raises:
        ConfigError: If a value cannot work.

    Source:
        Graves et al. 2023, "Bayesian Flow Networks", section 4. Time runs as there; papers on solvers turn it around.

    Example:
        >>> round(float(ContinuousFlow().signal(torch.tensor(0.5))), 3)
        0.999
    """

    sigma: float = 1e-3
    bound: float = 1.0
    start: float = 0.01

    def __post_init__(self) -> None:
        require(0.0 < self.sigma < 1.0, "ContinuousFlow.sigma", got=self.sigma, expected="a number between 0 and 1")
        require(0.0 < self.bound < math.inf, "ContinuousFlow.bound", got=self.bound, expected="a positive number")
        require(0.0 < self.start < 1.0, "ContinuousFlow.start", got=self.start, expected="a time between 0 and 1")

    def signal(self, time: Tensor) -> Tensor:
        """Return gamma: the share of the data in the state."""
        return -torch.expm1(2.0 * math.log(self.sigma) * time)

    def spread(self, time: Tensor) -> Tensor:
        """Return the standard deviation of the noise in the state."""
        return (self.signal(time) * torch.exp(2.0 * math.log(self.sigma) * time)).sqrt()

    def accuracy(self, time: Tensor) -> Tensor:
        """Return beta: what all messages up to a time tell, `gamma / (1 - gamma)`."""
        return torch.expm1(-2.0 * math.log(self.sigma) * time)

    def noised(self, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return states (B, ...) of data (B, ...) at times (B,), from standard normal noise of their shape."""
        time = _beside(time, data)
        return self.signal(time) * data + self.spread(time) * noise

    def noise_like(self, data: Tensor, draw: torch.Generator | None = None) -> Tensor:
        """Return standard normal noise for `noised`."""
        return torch.randn(data.shape, generator=draw, dtype=data.dtype)

    def inputs(self, state: Tensor) -> Tensor:
        """Return what the denoiser looks at: the state as it is."""
        return state

    def estimate(self, outputs: Tensor, state: Tensor, time: Tensor) -> Tensor:
        """Return the guess of the data that the foretold noise means, within the bound."""
        time = _beside(time, state)
        guess = (state - self.spread(time) * outputs) / self.signal(time)
        return guess.clamp(-self.bound, self.bound)

    def first(self, time: float, mean: Tensor | None = None, variance: float = 0.0) -> tuple[Tensor | float, float]:
        """Return mean and standard deviation of the state at an early time.

        Args:
            time: When.
            mean: Mean of the data (...); None: zero, which is wrong by `gamma mean`.
            variance: Of the data, mean over their dimensions.
        """
        at = torch.tensor(time, dtype=torch.float64)
        signal, spread = float(self.signal(at)), float(self.spread(at))
        return (0.0 if mean is None else signal * mean), math.sqrt(spread**2 + signal**2 * variance)

    def loss(self, outputs: Tensor, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return (B,) nats per dimension: the rate at which messages at a time tell more than the guess knew.

        It is `-ln(sigma) |x - guess|² / sigma^(2 t)`, written in the noise, so that it is exact near time 1.
        """
        rate = -math.log(self.sigma) / self.signal(time)
        return rate * (outputs - noise).flatten(1).square().mean(1)

    def check(self, data: Tensor) -> Tensor:
        """Return data as they are learned; DataError if a value lies outside the bound or is NaN."""
        if not bool((data.abs() <= self.bound).all()):
            raise DataError("Flow data", got=f"values from {float(data.min()):g} to {float(data.max()):g}",
                            expected=f"numbers from {-self.bound:g} to {self.bound:g}",
                            do="Scale the data, or give the flow another bound.")  # fmt: skip
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteFlow:
    """The flow of sequences of classes; its state is the logits of the belief, and the denoiser gives better ones.

    At time t the state of class x is normal with mean `beta (K e_x - 1)` and variance `K beta`, `beta = rate t²`.

    Attributes:
        classes: How many classes (K).
        rate: What all messages up to time 1 tell (beta at 1).
        start: The earliest time that is sampled from.

    Raises:
        ConfigError: If a value cannot work.

    Source:
        Graves et al. 2023, section 6. The rate is that of their text model (0.75²).
    """

    classes: int
    rate: float = 0.5625
    start: float = 0.001

    def __post_init__(self) -> None:
        require(self.classes >= 2, "DiscreteFlow.classes", got=self.classes, expected="2 or more")
        require(self.rate > 0.0, "DiscreteFlow.rate", got=self.rate, expected="a positive number")
        require(0.0 < self.start < 1.0, "DiscreteFlow.start", got=self.start, expected="a time between 0 and 1")

    def accuracy(self, time: Tensor) -> Tensor:
        """Return beta: what all messages up to a time tell."""
        return self.rate * time.square()

    def noised(self, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return states (B, L, K) of classes (B, L) at times (B,), from standard normal noise (B, L, K)."""
        beta = _beside(self.accuracy(time), noise)
        sharp = one_hot(data, self.classes).to(noise.dtype)
        return beta * (self.classes * sharp - 1.0) + (self.classes * beta).sqrt() * noise

    def noise_like(self, data: Tensor, draw: torch.Generator | None = None) -> Tensor:
        """Return standard normal noise for `noised`."""
        return torch.randn((*data.shape, self.classes), generator=draw)

    def inputs(self, state: Tensor) -> Tensor:
        """Return what the denoiser looks at: the probabilities of the belief."""
        return softmax(state, dim=-1)

    def estimate(self, outputs: Tensor, state: Tensor, time: Tensor) -> Tensor:
        """Return the guess of the data: probabilities (B, L, K)."""
        return softmax(outputs, dim=-1)

    def first(self, time: float, mean: Tensor | None = None, variance: float = 0.0) -> tuple[Tensor | float, float]:
        """Return mean and standard deviation of the state at an early time.

        Args:
            time: When.
            mean: Shares of the classes (L, K) in the data; None: as if all were alike.
            variance: Of the one-hot classes, summed over classes, mean over places.
        """
        beta = float(self.accuracy(torch.tensor(time, dtype=torch.float64)))
        middle = 0.0 if mean is None else beta * (self.classes * mean - 1.0)
        return middle, math.sqrt(self.classes * beta + self.classes * beta**2 * variance)

    def loss(self, outputs: Tensor, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return (B,) nats per place: `K rate t |e_x - guess|²`, as published."""
        gap = one_hot(data, self.classes).to(outputs.dtype) - softmax(outputs, dim=-1)
        return self.classes * self.rate * time * gap.square().sum(-1).flatten(1).mean(1)

    def check(self, data: Tensor) -> Tensor:
        """Return classes (B, L) as int64; DataError if one is not among `classes`."""
        found = data.long()
        if not bool(((found >= 0) & (found < self.classes)).all()):
            raise DataError("Flow data", got=f"classes from {int(found.min())} to {int(found.max())}",
                            expected=f"0 to {self.classes - 1}", do="Encode them by the alphabet.")  # fmt: skip
        return found


Flow: TypeAlias = ContinuousFlow | DiscreteFlow


class BayesianFlow(nn.Module):
    """A Bayesian flow network: a flow and the denoiser that goes with it.

    Args:
        denoiser: Maps inputs (B, ...) and time (B,) to outputs; with `features` it gets (B, C) as a third argument.
        flow: The flow.
        shape: Shape of one example: dimensions of continuous data, places (L,) of discrete data.
        embed: Tables to look at requests with. A learner needs one inside, without tables if there are none.
        features: Features that what is drawn depends on; their rows, side by side, are the condition.
        moments: Mean of the data (those of `flow.first`) and their variance, for samplers that start there.

    Shapes:
        State (B, ...), time (B,) -> guess of the data (B, ...)

    Source:
        Graves et al. 2023, "Bayesian Flow Networks".

    Example:
        >>> class Nothing(nn.Module):
        ...     def forward(self, inputs, time):
        ...         return torch.zeros_like(inputs)
        >>> BayesianFlow(Nothing(), ContinuousFlow(), (3,))(torch.zeros(2, 3), torch.tensor([0.1, 0.9])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, denoiser: nn.Module, flow: Flow, shape: Sequence[int], *, embed: nn.Module | None = None,
        features: Sequence[str] = (), moments: tuple[Tensor, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require(len(shape) >= 1 and min(shape) >= 1, "BayesianFlow, shape", got=tuple(shape), expected="positive sizes")
        require(not features or embed is not None, "BayesianFlow, features", got=tuple(features),
                expected="an embed that looks them up")  # fmt: skip
        self.denoiser, self.flow, self.shape = denoiser, flow, tuple(shape)
        self.embed, self.features = embed, tuple(features)
        state = (*self.shape, flow.classes) if isinstance(flow, DiscreteFlow) else self.shape
        mean, variance = moments if moments is not None else (torch.zeros(state), 0.0)
        require(tuple(mean.shape) == state, "BayesianFlow, mean", got=tuple(mean.shape), expected=f"shape {state}")
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("variance", torch.tensor(float(variance)))
        self.knows_moments = moments is not None

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state of one example."""
        return tuple(self.get_buffer("mean").shape)

    def condition(self, batch: Batch) -> Tensor | None:
        """Return what a batch asks for, (B, C); None where the model draws without being asked."""
        if self.embed is None:
            return None
        rows = self.embed(batch)
        return torch.cat(embedded(rows, self.features, len(batch)), dim=1) if self.features else None

    def asked(self, condition: Tensor | None) -> Denoiser:
        """Return the denoiser for a condition, with the signature that samplers know."""

        def denoise(inputs: Tensor, time: Tensor) -> Tensor:
            outputs: Tensor = self.denoiser(inputs, time, *(() if condition is None else (condition,)))
            return outputs

        return denoise

    def forward(self, state: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the guess of the data at a state."""
        outputs = self.asked(condition)(self.flow.inputs(state), time)
        return self.flow.estimate(outputs, state, time)

    def losses(self, data: Tensor, time: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return nats per dimension, (B,), at given times and noise."""
        state = self.flow.noised(data, time, noise)
        return self.flow.loss(self.asked(condition)(self.flow.inputs(state), time), data, noise, time)


def _beside(time: Tensor, rows: Tensor) -> Tensor:
    """Return times (B,) so that they go with rows (B, ...)."""
    return time.reshape(-1, *(1 for _ in rows.shape[1:]))
