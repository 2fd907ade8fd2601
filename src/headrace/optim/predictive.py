"""What a model predicts: families of outcomes around its outputs, and draws of them for a Fisher matrix.

A score is the gradient of one example's log-probability by all parameters, at an outcome that the *model* draws, never
at the observed one. The Fisher matrix is the mean of ``score score^T``. A family says how outcomes scatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from headrace.config import require


class Family(Protocol):
    """How outcomes scatter around outputs, by the natural parameters of an exponential family or as close to them."""

    def sample(self, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Draw outcomes from the model and return the gradient of their log-probability by the outputs, (B, ..., K)."""
        ...

    def root(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return noise of unit covariance, (B, ..., K), as noise whose covariance is the Fisher matrix of outputs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Independent yes or no; outputs are log-odds, of any shape from (B,).

    Attributes:
        shift: Added to the log-odds; where negatives are sampled and the loss corrects for it, the same number
            (`SamplingCorrection.training_shift`).
    """

    shift: float = 0.0

    def sample(self, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Return outcome minus probability."""
        chances = torch.sigmoid(outputs + self.shift)
        drawn = torch.rand(chances.shape, generator=draw, dtype=chances.dtype, device=chances.device) < chances
        return drawn.to(chances.dtype) - chances

    def root(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return noise times ``sqrt(p (1 - p))``."""
        chances = torch.sigmoid(outputs + self.shift)
        return (chances * (1 - chances)).sqrt() * noise


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """One of K classes, or `trials` draws of them (multinomial); outputs are logits (B, ..., K)."""

    trials: int = 1

    def __post_init__(self) -> None:
        require(self.trials >= 1, "Categorical.trials", got=self.trials, expected="at least 1")

    def sample(self, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Return counts minus expected counts."""
        chances = torch.softmax(outputs, dim=-1)
        flat = chances.reshape(-1, chances.shape[-1])
        drawn = torch.multinomial(flat, self.trials, replacement=True, generator=draw)
        counts = torch.zeros_like(flat).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=flat.dtype))
        return counts.reshape(chances.shape) - self.trials * chances

    def root(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return noise with covariance ``trials (diag(p) - p p^T)``."""
        roots = torch.softmax(outputs, dim=-1).sqrt()
        # with u = sqrt(p), a unit vector: diag(u) (I - u u^T) is a root, as I - u u^T is a projection
        across: Tensor = noise - roots * (roots * noise).sum(-1, keepdim=True)
        return math.sqrt(self.trials) * roots * across


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Independent normal outcomes of one standard deviation; outputs are their means."""

    sd: float = 1.0

    def __post_init__(self) -> None:
        require(self.sd > 0, "Gaussian.sd", got=self.sd, expected="a positive number")

    def sample(self, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Return ``(outcome - mean) / sd^2``."""
        return _normal(outputs, draw) / self.sd

    def root(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return noise over sd."""
        return noise / self.sd


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Independent counts; outputs are logarithms of rates."""

    def sample(self, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Return count minus rate."""
        rates = outputs.exp()
        return torch.poisson(rates, generator=draw) - rates

    def root(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return noise times the root of the rate."""
        return (outputs / 2).exp() * noise


@dataclass(frozen=True, kw_only=True)
class NormalPosterior:
    """A mean-field normal q(z); outputs (B, ..., 2L) are L means, then L logarithms of standard deviations.

    Observed at the end of an encoder this gives the ordinary natural gradient of variational inference: it knows how
    uncertain each latent is, and nothing of how the model couples them.

    Attributes:
        log_variance: The second half are logarithms of variances.
    """

    log_variance: bool = False

    def sample(self, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Return the gradient of log q(z) at z drawn from q."""
        means, scales, unit = self._parts(outputs)
        noise = _normal(means, draw)
        return torch.cat([noise / scales, unit * (noise.square() - 1)], dim=-1)

    def root(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return noise with variances ``1/sd^2`` and 2 (1/2 for logarithms of variances)."""
        _, scales, unit = self._parts(outputs)
        first, second = noise.chunk(2, dim=-1)
        return torch.cat([first / scales, unit * math.sqrt(2) * second], dim=-1)

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, float]:
        means, spreads = outputs.chunk(2, dim=-1)
        require(means.shape == spreads.shape, "NormalPosterior, outputs", got=tuple(outputs.shape),
                expected="an even last dimension: means, then logarithms of spreads")  # fmt: skip
        return means, (spreads / 2 if self.log_variance else spreads).exp(), 0.5 if self.log_variance else 1.0


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How the expectation over outcomes is taken.

    Attributes:
        kind: `signs`: the root of the outputs' own Fisher matrix times random signs, which has no variance from
            outcomes where there is one output per example; `sample`: outcomes drawn from the model, as in the paper;
            `exact`: every output in turn, without any chance, at one backward pass per output.
        many: Draws per example, for `signs` and `sample`.
    """

    kind: Literal["signs", "sample", "exact"] = "signs"
    many: int = 1

    def __post_init__(self) -> None:
        require(self.kind in ("signs", "sample", "exact"), "Draws.kind", got=self.kind,
                expected="'signs', 'sample' or 'exact'")  # fmt: skip
        require(self.many >= 1, "Draws.many", got=self.many, expected="at least 1")

    def residuals(self, family: Family, outputs: Tensor, draw: torch.Generator | None) -> Tensor:
        """Return D residuals (D, B, ..., K); the sum of their squares is, in expectation, the outputs' Fisher matrix.

        It is that of an example's outputs, averaged over the positions between the first and the last dimension.
        """
        positions = outputs[0, ..., 0].numel() if outputs.dim() > 2 and outputs.numel() else 1
        if self.kind == "exact":
            width = outputs[0].numel()
            units = torch.eye(width, dtype=outputs.dtype, device=outputs.device).reshape(width, 1, *outputs.shape[1:])
            drawn = [family.root(outputs, unit.expand_as(outputs)) for unit in units]
        elif self.kind == "sample":
            drawn = [family.sample(outputs, draw) for _ in range(self.many)]
        else:
            drawn = [family.root(outputs, _signs(outputs, draw)) for _ in range(self.many)]
        total = 1 if self.kind == "exact" else self.many
        return torch.stack(drawn) / math.sqrt(positions * total)


def _normal(like: Tensor, draw: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=draw, dtype=like.dtype, device=like.device)


def _signs(like: Tensor, draw: torch.Generator | None) -> Tensor:
    return 2 * torch.randint(0, 2, like.shape, generator=draw, device=like.device).to(like.dtype) - 1
