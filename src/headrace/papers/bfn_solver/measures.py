"""How good samples are: digits by what a small network trained on real ones makes of them, text by its words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from headrace.evaluate.claims import Floats
from headrace.nn import generator, linear
from headrace.papers.bfn_solver.sets import ALPHABET

FEATURES = 32


class DigitFeatures(nn.Module):
    """A small classifier of digits; its last hidden layer is what images are compared in.

    Args:
        width: Width of the first hidden layer.
        seed: Seed of the initial weights.
    """

    def __init__(self, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        draw = generator(seed)
        self.body = nn.Sequential(linear(196, width, draw, gain=1.4), nn.ReLU(),
                                  linear(width, FEATURES, draw, gain=1.4), nn.ReLU())  # fmt: skip
        self.head = linear(FEATURES, 10, draw)

    def fit(self, images: Tensor, labels: npt.NDArray[np.int64], *, steps: int, seed: int = 0) -> float:
        """Learn, and return the accuracy on the last hundred batches."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        draw, wanted, right = np.random.default_rng(seed), torch.from_numpy(labels), []
        for _ in range(steps):
            rows = torch.from_numpy(draw.integers(0, len(images), 128))
            logits = self.head(self.body(images[rows]))
            optimizer.zero_grad()
            cross_entropy(logits, wanted[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            right.append(float((logits.argmax(1) == wanted[rows]).float().mean()))
        return float(np.mean(right[-100:]))

    @torch.no_grad()
    def of(self, images: Tensor) -> Floats:
        """Return features (N, 32)."""
        return np.asarray(self.body(images).double().numpy(), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Mean and covariance of real features. Shapes: mean (F,); covariance (F, F)."""

    mean: Floats
    covariance: Floats

    @staticmethod
    def of(features: Floats) -> Reference:
        """Return those of features (N, F)."""
        return Reference(features.mean(0), np.cov(features, rowvar=False))

    def distance(self, features: Floats) -> float:
        """Return the Fréchet distance of features (N, F): both taken to be normal. 0: the same mean and covariance."""
        other = Reference.of(features)
        root = _root(self.covariance)
        cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other.covariance @ root), 0.0, None)).sum()
        apart = float(((self.mean - other.mean) ** 2).sum())
        return apart + float(np.trace(self.covariance) + np.trace(other.covariance) - 2.0 * cross)


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T)


def share_of_words(windows: list[str], known: set[str]) -> float:
    """Return the share of whole words in windows of text, those with a blank on both sides, that are known."""
    words = [word for window in windows for word in window.split(" ")[1:-1] if word]
    return sum(word in known for word in words) / max(len(words), 1)


def written(drawn: Tensor) -> list[str]:
    """Return classes (B, L) as text."""
    return ["".join(ALPHABET[code] for code in row) for row in drawn.tolist()]
