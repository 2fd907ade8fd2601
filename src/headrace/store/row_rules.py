"""Row rules: how one row of a table moves when it receives a gradient.

Each rule is a frozen dataclass and its own specification: `step` is written in NumPy float32, one rounding per
written operation, and the native table repeats the same operations in the same order, so that both give equal bits.
Rules that look at a row as a whole (row-wise Adagrad, group FTRL) are in `row_rules_whole`.

A row is its embedding (D) followed by its slots (S), the rule's memory about this row. Slots are born with the row
and die with it; nothing about a row is kept outside it, so a row can be moved, saved and restored alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from headrace.config import require

FloatArray: TypeAlias = npt.NDArray[np.float32]
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


def positive(what: str, value: float) -> None:
    """Require a number that is positive and finite as float32 too."""
    require(_SMALLEST <= value <= _LARGEST, what, got=value, expected="a positive number that float32 can hold")


def not_negative(what: str, value: float) -> None:
    """Require a number of at least 0 that is finite as float32 too."""
    require(0.0 <= value <= _LARGEST, what, got=value, expected="a number of at least 0 that float32 can hold")


def _fraction(what: str, value: float) -> None:
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
        _fraction("Momentum.momentum", self.momentum)

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


Correction: TypeAlias = Literal["row", "none"]


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam per row, bias-corrected by the row's own number of steps. Slots: m (D), v (D), beta1^t, beta2^t.

    A row's t counts the steps of this row, not of the table, so a rare id gets full-sized first steps whenever it
    comes. The two powers are kept as float32 slots, which makes them part of every snapshot and of every bit.
    Without correction (the lazy form) the powers are not kept and the first steps of a row are
    larger, by up to (1 - beta1) / sqrt(1 - beta2): about three times with the usual betas.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        eps: Added to the root of the second mean.
        correction: `row` corrects the bias by the steps of the row, `none` leaves it.

    Source:
        Kingma, Ba 2015, algorithm 1; as in `torch.optim.Adam` (which counts steps per tensor).
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    correction: Correction = "row"

    def __post_init__(self) -> None:
        _check_adam("Adam", self)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 2, (self.beta1, self.beta2, self.eps, 0.0, float(self.correction == "row"))

    def slot_count(self, dim: int) -> int:
        """Return 2 D + 2, without correction 2 D."""
        return len(_fresh_adam(self, dim))

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return zero means and both powers at 1."""
        return _fresh_adam(self, dim)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        rows -= _adam_move(self, slots, grads, lr)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with weight decay apart from the gradient: ``w *= 1 - lr*weight_decay``, then Adam. Slots as Adam.

    Rows decay when they learn: an id that does not come keeps its row. A rare id therefore decays less often than
    in a dense optimiser, which shrinks every row in every step.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        eps: Added to the root of the second mean.
        weight_decay: Part of the row that is lost per step, times the rate.
        correction: `row` corrects the bias by the steps of the row, `none` leaves it.

    Source:
        Loshchilov, Hutter 2019, algorithm 2; as in `torch.optim.AdamW`.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    correction: Correction = "row"

    def __post_init__(self) -> None:
        _check_adam("AdamW", self)
        not_negative("AdamW.weight_decay", self.weight_decay)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 2, (self.beta1, self.beta2, self.eps, self.weight_decay, float(self.correction == "row"))

    def slot_count(self, dim: int) -> int:
        """Return 2 D + 2, without correction 2 D."""
        return len(_fresh_adam(self, dim))

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return zero means and both powers at 1."""
        return _fresh_adam(self, dim)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        rows *= _F(1.0) - lr * _F(self.weight_decay)
        rows -= _adam_move(self, slots, grads, lr)


def _check_adam(name: str, rule: Adam | AdamW) -> None:
    positive(f"{name}.lr", rule.lr)
    positive(f"{name}.eps", rule.eps)
    _fraction(f"{name}.beta1", rule.beta1)
    _fraction(f"{name}.beta2", rule.beta2)
    require(rule.correction in ("row", "none"), f"{name}.correction", got=rule.correction, expected="'row' or 'none'")


def _fresh_adam(rule: Adam | AdamW, dim: int) -> FloatArray:
    powers = 2 if rule.correction == "row" else 0
    slots = np.zeros(2 * dim + powers, np.float32)
    slots[2 * dim :] = 1.0
    return slots


def _adam_move(rule: Adam | AdamW, slots: FloatArray, grads: FloatArray, lr: np.float32) -> FloatArray:
    """Change slots in place and return what is taken from the rows (N, D)."""
    dim = grads.shape[1]
    beta1, beta2, one = _F(rule.beta1), _F(rule.beta2), _F(1.0)
    m, v = slots[:, :dim], slots[:, dim : 2 * dim]
    m[:] = beta1 * m + (one - beta1) * grads
    v[:] = beta2 * v + ((one - beta2) * grads) * grads
    if rule.correction == "none":
        return np.asarray((lr * m) / (np.sqrt(v) + _F(rule.eps)), np.float32)
    slots[:, 2 * dim] *= beta1
    slots[:, 2 * dim + 1] *= beta2
    size = lr / (one - slots[:, 2 * dim])
    root = np.sqrt(one - slots[:, 2 * dim + 1])
    return np.asarray((size[:, None] * m) / (np.sqrt(v) / root[:, None] + _F(rule.eps)), np.float32)


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
