"""Worlds whose best denoiser is known in closed form: what is wrong with a sample there is the solver's fault alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from headrace.evaluate.claims import Floats
from headrace.nn import ContinuousFlow, DiscreteFlow
from headrace.serve import Move

PLACES, CLASSES = 4, 3
RATE = 1.5**2
"""Of the discrete world: beta at time 1."""


class Mixture(nn.Module):
    """Numbers from three normal components, and the exact denoiser of their flow.

    Args:
        seed: Draws weights, means and standard deviations.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        self.weights = torch.from_numpy(draw.dirichlet([4.0, 4.0, 4.0]))
        self.means = torch.tensor([-0.6, 0.0, 0.5], dtype=torch.float64) + torch.from_numpy(draw.uniform(-0.1, 0.1, 3))
        self.deviations = torch.from_numpy(draw.uniform(0.04, 0.12, 3))
        self.flow = ContinuousFlow(bound=10.0)  # the guess is exact: nothing to cut off

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        """Return the expected noise (B, 1) in states (B, 1)."""
        signal, spread = self.flow.signal(time)[:, None], self.flow.spread(time)[:, None]
        variance = (signal * self.deviations) ** 2 + spread**2
        away = inputs - signal * self.means
        shares = torch.softmax(self.weights.log() - 0.5 * variance.log() - 0.5 * away**2 / variance, dim=1)
        return (shares * spread * away / variance).sum(1, keepdim=True)

    def quantiles(self, count: int) -> Floats:
        """Return the quantiles (count,) at the middles of equal shares."""
        points = np.linspace(-2.0, 2.0, 40_001)
        scaled = (torch.from_numpy(points)[:, None] - self.means) / (self.deviations * 2.0**0.5)
        below = (self.weights * 0.5 * (1.0 + torch.erf(scaled))).sum(1).numpy()
        return np.asarray(np.interp((np.arange(count) + 0.5) / count, below, points), dtype=np.float64)

    def moments(self) -> tuple[Tensor, float]:
        """Return mean (1,) and variance."""
        mean = (self.weights * self.means).sum()
        variance = (self.weights * (self.deviations**2 + self.means**2)).sum() - mean**2
        return mean.reshape(1), float(variance)


class Markov(nn.Module):
    """Sequences of four of three classes from a Markov chain, and the exact denoiser of their flow.

    The belief about a sequence is its probability times what the inputs say of each of its classes: the state of a
    place is, up to a constant, the log-likelihood of the messages about it.

    Args:
        seed: Draws the chain.
        stay: This share of the chances stays at the class before; the rest is drawn, and more evenly if there is any.
    """

    def __init__(self, seed: int, *, stay: float = 0.0) -> None:
        super().__init__()
        draw, even = np.random.default_rng(seed), np.ones(CLASSES) * (3.0 if stay else 1.0)
        first, after = draw.dirichlet(even), draw.dirichlet(even, CLASSES)
        after = stay * np.eye(CLASSES) + (1.0 - stay) * after
        codes = np.stack(np.meshgrid(*[np.arange(CLASSES)] * PLACES, indexing="ij"), -1).reshape(-1, PLACES)
        chances = first[codes[:, 0]]
        for place in range(1, PLACES):
            chances = chances * after[codes[:, place - 1], codes[:, place]]
        self.chances = torch.from_numpy(chances)
        self.sharp = one_hot(torch.from_numpy(codes), CLASSES).double()
        self.flow = DiscreteFlow(classes=CLASSES, rate=RATE)

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        """Return the logits (B, 4, 3) of the posterior of every place, given probabilities (B, 4, 3)."""
        logs = inputs.clamp_min(1e-30).log().flatten(1) @ self.sharp.flatten(1).T.to(inputs.dtype)
        beliefs = torch.softmax(logs + self.chances.log().to(inputs.dtype), dim=1)
        guess = (beliefs @ self.sharp.flatten(1).to(inputs.dtype)).reshape(inputs.shape)
        return guess.clamp_min(1e-30).log()

    def total_variation(self, drawn: Tensor) -> float:
        """Return the distance of drawn sequences (B, 4) from the chain: half the sum of differences of shares."""
        weights = CLASSES ** torch.arange(PLACES - 1, -1, -1)
        counts = torch.bincount((drawn * weights).sum(1), minlength=len(self.chances))
        return 0.5 * float((counts / len(drawn) - self.chances).abs().sum())

    def floor(self, count: int, seed: int) -> float:
        """Return the distance of as many sequences drawn from the chain itself."""
        shares = np.random.default_rng(seed).multinomial(count, self.chances.numpy()) / count
        return 0.5 * float(np.abs(shares - self.chances.numpy()).sum())


def released_euler(flow: DiscreteFlow, move: Move) -> Tensor:
    """Return what was released as an Euler step on the discrete SDE: the guess's logits, not the state. Wrong."""
    return move.estimate.clamp_min(1e-30).log()
