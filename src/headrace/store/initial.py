"""Initial rows: what an id reads before it has a row, and what its row starts from.

A row's initial value is a pure function of (seed, table name, id). It is therefore the same in training, evaluation
and every replica, after every restart, and in whatever order ids arrive. All arithmetic is on integers and exact
float32 values with one last rounding, so it is the same bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from headrace.config import require
from headrace.store.hashing import IdArray, draws, streams
from headrace.store.row_rules import FloatArray


@runtime_checkable
class InitialRow(Protocol):
    """Draws initial rows. Initialisers of your own run on `ReferenceTable`."""

    def __call__(self, key: int, ids: IdArray, dim: int) -> FloatArray:
        """Return rows (N, dim) for ids (N,); `key` is the 64-bit key of seed and table name."""
        ...


@dataclass(frozen=True)
class Zeros:
    """All rows start at zero."""

    def __call__(self, key: int, ids: IdArray, dim: int) -> FloatArray:
        """Return zeros (N, dim)."""
        return np.zeros((len(ids), dim), np.float32)


@dataclass(frozen=True)
class Constant:
    """All rows start at one value.

    Attributes:
        value: The value.
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        require(abs(self.value) < float("inf"), "Constant.value", got=self.value, expected="a finite number")

    def __call__(self, key: int, ids: IdArray, dim: int) -> FloatArray:
        """Return `value` (N, dim)."""
        return np.full((len(ids), dim), self.value, np.float32)


@dataclass(frozen=True)
class Uniform:
    """Uniform in [-scale, scale): 2^24 equally likely values.

    Attributes:
        scale: Half the width.
    """

    scale: float = 0.05

    def __post_init__(self) -> None:
        require(0.0 <= self.scale < float("inf"), "Uniform.scale", got=self.scale, expected="a number of at least 0")

    def __call__(self, key: int, ids: IdArray, dim: int) -> FloatArray:
        """Return rows (N, dim)."""
        bits = draws(streams(key, ids), dim) >> np.uint64(40)
        return (bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)) * np.float32(self.scale)


@dataclass(frozen=True)
class Normal:
    """Nearly normal with mean 0: the Irwin-Hall sum of twelve 16-bit uniform integers, which is portable to the bit.

    Its variance is std^2 (to 10 digits), its kurtosis 2.9 instead of 3, and it never exceeds 6 std.

    Attributes:
        std: Standard deviation.
    """

    std: float = 0.01

    def __post_init__(self) -> None:
        require(0.0 <= self.std < float("inf"), "Normal.std", got=self.std, expected="a number of at least 0")

    def __call__(self, key: int, ids: IdArray, dim: int) -> FloatArray:
        """Return rows (N, dim)."""
        words = draws(streams(key, ids), 3 * dim).reshape(len(ids), dim, 3)
        total = np.zeros((len(ids), dim), np.int64)
        for shift in (0, 16, 32, 48):
            total += ((words >> np.uint64(shift)) & np.uint64(0xFFFF)).sum(axis=2).astype(np.int64)
        centred = (total - 6 * 0xFFFF).astype(np.float32)
        return (centred * np.float32(2.0**-16)) * np.float32(self.std)
