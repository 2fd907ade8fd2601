"""The work that every contender gets: ids, gradients and first rows, made once and read from one folder.

Ids are numbers 0..rows-1 of a feature, drawn from a bounded Zipf law and then spread by a fixed affine bijection, so
that popular ids do not lie side by side. Contenders with a static array use them as they are. Headrace takes any
int64, so it gets the same ids scrambled by `scrambled`, a bijection of all 64-bit numbers.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

PATTERNS = 4096
"""Row i of a feature starts as pattern i modulo this."""
LR, INITIAL_ACCUMULATOR, EPS = 0.05, 0.1, 1e-10


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case of the benchmark.

    Attributes:
        rows: Rows in total; every feature has rows // features.
        batch: Examples per step; an example has one id of every feature.
        features, dim: Tables, and floats per row.
        skew: Exponent of the Zipf law; 0: uniform.
        batches: Distinct batches, used in turn.
        seed: Of ids and gradients.
    """

    rows: int
    batch: int = 8192
    features: int = 26
    dim: int = 16
    skew: float = 1.1
    batches: int = 48
    seed: int = 1

    @property
    def rows_each(self) -> int:
        """Rows of one feature."""
        return self.rows // self.features

    @property
    def ids_per_step(self) -> int:
        """Ids looked up, and learned, in one step."""
        return self.features * self.batch

    def write(self, folder: Path) -> None:
        """Write what contenders read: ids (batches, features, batch), gradients (features, batch, dim), patterns."""
        random = np.random.default_rng(self.seed)
        shape = (self.batches, self.features, self.batch)
        ranks = _ranks(random, shape, self.rows_each, self.skew)
        np.save(folder / "ids.npy", _spread(ranks, self.rows_each))
        grads = random.standard_normal((self.features, self.batch, self.dim), np.float32) * np.float32(0.01)
        np.save(folder / "grads.npy", grads)
        pattern = (random.random((PATTERNS, self.dim), np.float32) - np.float32(0.5)) * np.float32(0.1)
        np.save(folder / "pattern.npy", pattern)
        (folder / "work.json").write_text(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Material:
    """What `Work.write` left, in memory."""

    work: Work
    ids: Ids
    grads: Floats
    pattern: Floats

    @staticmethod
    def read(folder: Path) -> Material:
        """Read a folder."""
        arrays = [np.load(folder / f"{name}.npy") for name in ("ids", "grads", "pattern")]
        return Material(Work(**json.loads((folder / "work.json").read_text())), *arrays)

    def rows(self, start: int, stop: int) -> Floats:
        """Return the first rows of the ids start..stop-1 of a feature."""
        return self.pattern[np.arange(start, stop) % PATTERNS]


def scrambled(ids: Ids, feature: int) -> Ids:
    """Return arbitrary int64 for the ids of a feature: a bijection (xor-shifts and odd multiplications)."""
    x = ids.astype(np.uint64) + np.uint64(feature << 40)
    for shift, odd in ((32, 0xD6E8FEB86659FD93), (29, 0xA0761D6478BD642F), (32, 0)):
        x ^= x >> np.uint64(shift)
        x = x * np.uint64(odd) if odd else x
    return x.view(np.int64)


def _ranks(random: np.random.Generator, shape: tuple[int, ...], rows: int, skew: float) -> Ids:
    """Return ranks 0..rows-1; rank r with a probability proportional to (r + 1) ** -skew."""
    if not skew:
        return random.integers(0, rows, shape)
    shares = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -skew)
    draws = random.random(math.prod(shape)) * shares[-1]
    order = np.argsort(draws)  # in order, the search reads the shares once
    ranks = np.empty(len(draws), np.int64)
    ranks[order] = np.searchsorted(shares, draws[order], side="right")
    return np.minimum(ranks, rows - 1).reshape(shape)


def _spread(ranks: Ids, rows: int) -> Ids:
    """Return rank * a + b modulo rows, a bijection as a and rows share no factor."""
    factor = int(rows * 0.6180339887) | 1
    while math.gcd(factor, rows) != 1:
        factor += 2
    return (ranks * factor + rows // 3) % rows
