"""What the method is tried on: the mean of a Gaussian, a Bayesian logistic regression, digits."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from headrace.errors import DataError
from headrace.nn.layers import generator, linear

PIXELS, HIDDEN, LATENTS, SPREAD, TRAINED = 64, 24, 6, 0.1, 1500
Rows = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def divergence(mean: Tensor, log_sd: Tensor, prior_sd: float = 1.0) -> Tensor:
    """Return KL of a mean-field normal from a normal prior around zero, summed over the last dimension."""
    squares = ((2 * log_sd).exp() + mean.square()) / prior_sd**2
    return (math.log(prior_sd) - log_sd + (squares - 1) / 2).sum(-1)


class MeanField(nn.Module):
    """A mean-field normal q over a vector. Shapes: noise (S, D) -> z (S, D)."""

    def __init__(self, many: int, sd: Tensor | float = 1.0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(many, dtype=torch.float64))
        self.log_sd = nn.Parameter(torch.as_tensor(sd, dtype=torch.float64).log().expand(many).clone())

    def forward(self, noise: Tensor) -> Tensor:
        """Return draws."""
        return self.mean + self.log_sd.exp() * noise


class GaussianMean(nn.Module):
    """The mean of a bivariate normal from 100 points of known correlation; q starts at its best spread, but at zero.

    Noise (±1, ±1) has the moments that matter, so that the ELBO over its four points is exact.
    """

    def __init__(self, correlation: float, seed: int, *, points: int = 100, prior_sd: float = 10.0) -> None:
        super().__init__()
        covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
        self.precision, self.prior_sd = points * torch.linalg.inv(covariance), prior_sd
        self.root = torch.linalg.cholesky(self.precision)
        self.hessian = self.precision + torch.eye(2, dtype=torch.float64) / prior_sd**2
        self.seen = torch.randn(2, generator=generator(seed), dtype=torch.float64)
        self.optimum = torch.linalg.solve(self.hessian, self.precision @ self.seen)
        self.q = MeanField(2, self.hessian.diagonal().rsqrt())
        self.noise = torch.cartesian_prod(*torch.tensor([[1.0, -1.0]] * 2, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Return the predicted sufficient statistic (4, 2), whitened: its outcomes have unit variance."""
        return torch.matmul(self.q(self.noise), self.root)

    def loss(self, outputs: Tensor) -> Tensor:
        """Return the negative ELBO up to a constant."""
        missed: Tensor = (outputs - self.seen @ self.root).square().sum(1).mean() / 2
        return missed + divergence(self.q.mean, self.q.log_sd, self.prior_sd)

    def error(self) -> float:
        """Return how far the mean still is, as a part of how far it was."""
        return float((self.q.mean.detach() - self.optimum).norm() / self.optimum.norm())


def regression(correlation: float, seed: int, *, rows: int = 200, width: int = 10, prior_sd: float = 5.0) -> Rows:
    """Draw equicorrelated inputs (N, D), weights that sum to zero, and labels (N,): 200 rows, and 1,000 to test."""
    draw, kind = generator(seed), torch.float64
    weights = prior_sd * torch.randn(width, generator=draw, dtype=kind)
    shared, own = (torch.randn(rows + 1000, many, generator=draw, dtype=kind) for many in (1, width))
    inputs = correlation**0.5 * shared + (1 - correlation) ** 0.5 * own
    chances = torch.sigmoid(inputs @ (weights - weights.mean()))
    labels = (torch.rand(len(inputs), generator=draw, dtype=kind) < chances).to(kind)
    return (inputs[:rows], labels[:rows]), (inputs[rows:], labels[rows:])


class DigitsVAE(nn.Module):
    """A small variational autoencoder of binary 8 x 8 images, 64-24-6 and back; rectifiers and first weights as theirs.

    Shapes: images (B, 64) and noise (B, S, L) -> q's means and log deviations (B, 2L), logits of pixels (B, S, 64).
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw, sizes = generator(seed), ((PIXELS, HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN, PIXELS))
        self.encoder, self.decoder = (
            nn.Sequential(linear(given, hidden, draw, gain=SPREAD * given**0.5), nn.ReLU(),
                          linear(hidden, out, draw, gain=SPREAD * hidden**0.5)) for given, hidden, out in sizes
        )  # fmt: skip

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return q and the logits of S draws from it."""
        mean, raw = cast(Tensor, self.encoder(images)).chunk(2, dim=1)
        sd = softplus(raw)
        return torch.cat([mean, sd.log()], dim=1), self.decoder(mean[:, None] + sd[:, None] * noise)

    def loss(self, images: Tensor, q: Tensor, logits: Tensor) -> Tensor:
        """Return the negative ELBO per image, in nats."""
        targets = images[:, None].expand_as(logits)
        missed = binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(2).mean(1)
        return (missed + divergence(q[:, :LATENTS], q[:, LATENTS:])).mean()


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, binarised at half, as 1,500 images to learn from and 297 to test on.

    Raises:
        DataError: If scikit-learn, which brings the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as lacking:
        raise DataError("Digits", got="no scikit-learn", expected="its bundled images",
                        do="pip install 'headrace[bench]'") from lacking  # fmt: skip
    images = (torch.from_numpy(load_digits().data) >= 8).to(torch.float32)
    images = images[torch.randperm(len(images), generator=generator(1000 + seed))]
    return images[:TRAINED], images[TRAINED:]
