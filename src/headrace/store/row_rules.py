"""Row rules: how one row of a table moves when it receives a gradient.

Each rule is a frozen dataclass and its own specification: `step` is written in NumPy float32, one rounding per
written operation, and the native table repeats the same operations in the same order, so that both give equal bits.

A row is its embedding (D) followed by its slots (S), the rule's memory about this row. Slots are born with the row
and die with it; nothing about a row is kept outside it, so a row can be moved, saved and restored alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from headrace.config import require

FloatArray: TypeAlias = npt.NDArray[np.float32]

_F = np.float32


@runtime_checkable
class RowRule(Protocol):
    """What a table asks of a row rule. Rules of your own run on `ReferenceTable`."""

    def slot_count(self, dim: int) -> int:
        """Return S, the floats kept beside an embedding of `dim` floats."""
        ...

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return the slots (S,) of a row that has not learned yet."""
        ...

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray) -> None:
        """Change rows (N, D) and slots (N, S) in place by one step with gradients (N, D)."""
        ...


def _positive(what: str, value: float) -> None:
    require(0.0 < value < float("inf"), what, got=value, expected="a positive number")


def _not_negative(what: str, value: float) -> None:
    require(0.0 <= value < float("inf"), what, got=value, expected="a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Plain gradient descent: ``w -= lr * g``. No slots.

    Attributes:
        lr: Learning rate.
    """

    lr: float = 0.1

    def __post_init__(self) -> None:
        _positive("SGD.lr", self.lr)

    def slot_count(self, dim: int) -> int:
        """Return 0."""
        return 0

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return no slots."""
        return np.zeros(0, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray) -> None:
        """Change rows in place."""
        rows -= _F(self.lr) * grads


@dataclass(frozen=True, kw_only=True)
class Adagrad:
    """Adagrad per coordinate: ``n += g*g; w -= lr*g / (sqrt(n) + eps)``. Slots: n (D).

    Attributes:
        lr: Learning rate.
        initial_accumulator: n of a row that has not learned yet; the larger, the smaller the first steps.
        eps: Keeps the division defined when n is 0.

    Source:
        Duchi, Hazan, Singer 2011; as in `torch.optim.Adagrad` with `lr_decay=0`.
    """

    lr: float = 0.05
    initial_accumulator: float = 0.1
    eps: float = 1e-10

    def __post_init__(self) -> None:
        _positive("Adagrad.lr", self.lr)
        _not_negative("Adagrad.initial_accumulator", self.initial_accumulator)
        _positive("Adagrad.eps", self.eps)

    def slot_count(self, dim: int) -> int:
        """Return D."""
        return dim

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return n = `initial_accumulator` everywhere."""
        return np.full(dim, self.initial_accumulator, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray) -> None:
        """Change rows and slots in place."""
        slots += grads * grads
        rows -= (_F(self.lr) * grads) / (np.sqrt(slots) + _F(self.eps))


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam per row, bias-corrected by the row's own number of steps. Slots: m (D), v (D), beta1^t, beta2^t.

    A row's t counts the steps of this row, not of the table, so a rare id gets full-sized first steps whenever it
    comes. The two powers are kept as float32 slots, which makes them part of every snapshot and of every bit.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        eps: Added to the root of the second mean.

    Source:
        Kingma, Ba 2015, algorithm 1; as in `torch.optim.Adam` (which counts steps per tensor).
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _positive("Adam.lr", self.lr)
        _positive("Adam.eps", self.eps)
        for name, beta in (("Adam.beta1", self.beta1), ("Adam.beta2", self.beta2)):
            require(beta >= 0.0 and float(_F(beta)) < 1.0, name, got=beta, expected="a number in [0, 1)")

    def slot_count(self, dim: int) -> int:
        """Return 2 D + 2."""
        return 2 * dim + 2

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return zero means and both powers at 1."""
        slots = np.zeros(2 * dim + 2, np.float32)
        slots[2 * dim :] = 1.0
        return slots

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray) -> None:
        """Change rows and slots in place."""
        dim = rows.shape[1]
        beta1, beta2, one = _F(self.beta1), _F(self.beta2), _F(1.0)
        m, v = slots[:, :dim], slots[:, dim : 2 * dim]
        slots[:, 2 * dim] *= beta1
        slots[:, 2 * dim + 1] *= beta2
        size = _F(self.lr) / (one - slots[:, 2 * dim])
        root = np.sqrt(one - slots[:, 2 * dim + 1])
        m[:] = beta1 * m + (one - beta1) * grads
        v[:] = beta2 * v + ((one - beta2) * grads) * grads
        rows -= (size[:, None] * m) / (np.sqrt(v) / root[:, None] + _F(self.eps))


@dataclass(frozen=True, kw_only=True)
class FTRL:
    """FTRL-proximal per coordinate, with L1 that makes exact zeros. Slots: z (D), n (D).

    ``s = (sqrt(n + g*g) - sqrt(n)) / lr; n += g*g; z += g - s*w``; then
    ``w = 0 if |z| <= l1 else (sign(z)*l1 - z) / ((beta + sqrt(n))/lr + l2)``.

    The weight is a function of z and n alone, so a row's initial value is what is read before its first step and
    has no influence after it. Use it with `Zeros` for first-order weights.

    Attributes:
        lr: Learning rate (alpha in the source).
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
        beta: Makes the first steps smaller.

    Source:
        McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", algorithm 1. `sign` is -1 or +1.
    """

    lr: float = 0.05
    l1: float = 0.0
    l2: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        _positive("FTRL.lr", self.lr)
        _not_negative("FTRL.l1", self.l1)
        _not_negative("FTRL.l2", self.l2)
        _positive("FTRL.beta", self.beta)

    def slot_count(self, dim: int) -> int:
        """Return 2 D."""
        return 2 * dim

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return z = n = 0."""
        return np.zeros(2 * dim, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray) -> None:
        """Change rows and slots in place."""
        dim = rows.shape[1]
        lr, l1 = _F(self.lr), _F(self.l1)
        z, n = slots[:, :dim], slots[:, dim:]
        grown = n + grads * grads
        root = np.sqrt(grown)
        sigma = (root - np.sqrt(n)) / lr
        z += grads - sigma * rows
        n[:] = grown
        learned = (np.copysign(l1, z) - z) / ((_F(self.beta) + root) / lr + _F(self.l2))
        rows[:] = np.where(np.abs(z) <= l1, _F(0.0), learned)
