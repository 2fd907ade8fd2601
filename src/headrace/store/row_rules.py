"""Row rules: how one row of a table moves when it receives a gradient.

Each rule is a frozen dataclass and its own specification: `step` is written in NumPy float32, one rounding per
written operation, and the native table repeats the same operations in the same order, so that both give equal bits.
Rules that look at a row as a whole (row-wise Adagrad, group FTRL) are in `row_rules_whole`, Adam in
`row_rules_adam`.

A row is its embedding (D) followed by its slots (S), the rule's memory about this row. Slots are born with the row
and die with it; nothing about a row is kept outside it, so a row can be moved, saved and restored alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from headrace.config import require

FloatArray: TypeAlias = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", np.float32, np.float64)
NativeForm: TypeAlias = tuple[int, tuple[float, ...]]
"""Kind and parameters of a rule, as csrc/rules/row_rule.h lists them."""

_F = np.float32
_SMALLEST, _LARGEST = 2.0**-149, float(np.finfo(np.float32).max)


@runtime_checkable
class RowRule(Protocol):
    """What a table asks of a row rule. Rules of your own run on `ReferenceTable`."""

    @property
    def lr(self) -> float:
        """Learning rate of a table without a schedule."""
        ...

    def slot_count(self, dim: int) -> int:
        """Return S, the floats kept beside an embedding of `dim` floats."""
        ...

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return the slots (S,) of a row that has not learned yet."""
        ...

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows (N, D) and slots (N, S) in place by one step with gradients (N, D) at rate `lr`, at least 0."""
        ...


@runtime_checkable
class PacedRule(RowRule, Protocol):
    """A row rule whose steps depend on how many updates of the table a row has missed, where `paced` is true."""

    @property
    def paced(self) -> bool:
        """Whether it does; if not, `step` is called."""
        ...

    def step_paced(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32, pace: Pace) -> None:
        """Change rows (N, D) and slots (N, S) in place."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Where a step stands: the number of its update, and the updates (N,) that each row has missed since its last."""

    update: int
    missed: npt.NDArray[np.int64]


def powers(base: Scalar, exponents: npt.NDArray[np.int64]) -> npt.NDArray[Scalar]:
    """Return base^n (N,) for n (N,) of at least 0, by squaring, each product rounded to the type of the base.

    Example:
        >>> powers(np.float32(0.5), np.array([0, 1, 3])).tolist()
        [1.0, 0.5, 0.125]
    """
    power, left = np.ones(len(exponents), base.dtype), exponents.copy()
    while left.any():
        odd = (left & 1) != 0
        power[odd] *= base
        base = type(base)(base * base)
        left >>= 1
    return power


def positive(what: str, value: float) -> None:
    """Require a number that is positive and finite as float32 too."""
    require(_SMALLEST <= value <= _LARGEST, what, got=value, expected="a positive number that float32 can hold")


def not_negative(what: str, value: float) -> None:
    """Require a number of at least 0 that is finite as float32 too."""
    require(0.0 <= value <= _LARGEST, what, got=value, expected="a number of at least 0 that float32 can hold")


def fraction(what: str, value: float) -> None:
    """Require a number of at least 0 that is below 1 as float32 too."""
    require(value >= 0.0 and float(_F(value)) < 1.0, what, got=value, expected="a number in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Plain gradient descent: ``w -= lr * g``. No slots.

    Attributes:
        lr: Learning rate.
    """

    lr: float = 0.1

    def __post_init__(self) -> None:
        positive("SGD.lr", self.lr)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 0, ()

    def slot_count(self, dim: int) -> int:
        """Return 0."""
        return 0

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return no slots."""
        return np.zeros(0, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows in place."""
        rows -= lr * grads


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """Gradient descent with momentum: ``m = momentum*m + g; w -= lr * m``. Slots: m (D).

    With `nesterov`, ``w -= lr * (g + momentum*m)`` with the m after its step. A row that gets no gradient stands
    still: its m waits for the next one.

    Attributes:
        lr: Learning rate.
        momentum: Decay of the running sum of gradients; the step of a steady gradient grows by 1 / (1 - momentum).
        nesterov: Whether to look ahead.

    Source:
        Sutskever et al. 2013, section 2; as in `torch.optim.SGD` with `dampening=0`.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        positive("Momentum.lr", self.lr)
        fraction("Momentum.momentum", self.momentum)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 4, (self.momentum, float(self.nesterov))

    def slot_count(self, dim: int) -> int:
        """Return D."""
        return dim

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return m = 0."""
        return np.zeros(dim, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        momentum = _F(self.momentum)
        slots[:] = momentum * slots + grads
        rows -= lr * (grads + momentum * slots if self.nesterov else slots)


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
        positive("Adagrad.lr", self.lr)
        not_negative("Adagrad.initial_accumulator", self.initial_accumulator)
        positive("Adagrad.eps", self.eps)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 1, (self.initial_accumulator, self.eps)

    def slot_count(self, dim: int) -> int:
        """Return D."""
        return dim

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return n = `initial_accumulator` everywhere."""
        return np.full(dim, self.initial_accumulator, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        slots += grads * grads
        rows -= (lr * grads) / (np.sqrt(slots) + _F(self.eps))


@dataclass(frozen=True, kw_only=True)
class FTRL:
    """FTRL-proximal per coordinate, with L1 that makes exact zeros. Slots: z (D), n (D).

    ``s = (sqrt(n + g*g) - sqrt(n)) / lr; n += g*g; z += g - s*w``; then
    ``w = 0 if |z| <= l1 else (sign(z)*l1 - z) / ((beta + sqrt(n))/lr + l2)``.

    The weight is a function of z, n and the rate, so a row's initial value is what is read before its first step and
    little of it is left after. Use it with `Zeros` for first-order weights. The rate falls by n on its own; under a
    schedule a row is also rescaled by the change of the rate when it next learns, and at rate 0 it does not change.

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
        positive("FTRL.lr", self.lr)
        not_negative("FTRL.l1", self.l1)
        not_negative("FTRL.l2", self.l2)
        positive("FTRL.beta", self.beta)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 3, (self.l1, self.l2, self.beta)

    def slot_count(self, dim: int) -> int:
        """Return 2 D."""
        return 2 * dim

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return z = n = 0."""
        return np.zeros(2 * dim, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        if lr == 0.0:
            return
        dim, l1 = rows.shape[1], _F(self.l1)
        z, n = slots[:, :dim], slots[:, dim:]
        grown = n + grads * grads
        root = np.sqrt(grown)
        sigma = (root - np.sqrt(n)) / lr
        z += grads - sigma * rows
        n[:] = grown
        learned = (np.copysign(l1, z) - z) / ((_F(self.beta) + root) / lr + _F(self.l2))
        rows[:] = np.where(np.abs(z) <= l1, _F(0.0), learned)
