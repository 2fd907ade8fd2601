"""Adam and AdamW per row, in three kinds of time: the row's own steps, the table's updates, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from headrace.config import require
from headrace.store.row_rules import FloatArray, NativeForm, Pace, fraction, not_negative, positive, powers

_F = np.float32

Correction: TypeAlias = Literal["row", "none", "table"]


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam per row, bias-corrected by the row's own number of steps. Slots: m (D), v (D), beta1^t, beta2^t.

    A row's t counts the steps of this row, not of the table, so a rare id gets full-sized first steps whenever it
    comes. The two powers are kept as float32 slots, which makes them part of every snapshot and of every bit.
    Without correction (the lazy form) the powers are not kept and the first steps of a row are
    larger, by up to (1 - beta1) / sqrt(1 - beta2): about three times with the usual betas.

    `table` is a dense Adam over the whole table, done lazily. In a dense Adam the means of a row go on falling, and
    its momentum goes on moving it, in the steps that do not touch it; the bias is corrected by the steps of all. A row
    that comes in a share s of the updates moves 1/sqrt(s) as far as with `row`, one that comes once about 31 lr in
    place of lr. When a row next learns after k missed updates (counted modulo 2^24, in one more slot),

    - ``w -= size * m / (sqrt(v)/root + eps) * r * (1 - r^k) / (1 - r)`` with ``r = beta1 / sqrt(beta2)``: the momentum
      of the missed updates as a geometric series, with the bias correction of the first of them;
    - ``m *= beta1^k; v *= beta2^k``, then a step as usual.

    It is exact for k = 0, or with `beta1=0`. Otherwise the series takes the bias correction and the rate as constant
    over the missed updates, and eps as falling with sqrt(v): off by a few hundredths of the movement in the first
    hundred updates, and by less later. Until a row learns again it is read, and served, without the movement of the
    updates it missed. That a rare row moves so far is what published hyper-parameters of dense Adam are made for; a
    stream is better served by `row`.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        eps: Added to the root of the second mean.
        correction: `row` corrects the bias by the steps of the row, `none` leaves it, `table` is as above and needs
            ``beta1 < sqrt(beta2)``.

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
        return 2, (self.beta1, self.beta2, self.eps, 0.0, _CORRECTIONS[self.correction])

    @property
    def paced(self) -> bool:
        """Whether steps depend on the updates that a row missed."""
        return self.correction == "table"

    def slot_count(self, dim: int) -> int:
        """Return 2 D + 2; 2 D where bias is not corrected by the row."""
        return len(_fresh_adam(self, dim))

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return zero means and both powers at 1."""
        return _fresh_adam(self, dim)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        rows -= _adam_move(self, slots, grads, lr)

    def step_paced(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32, pace: Pace) -> None:
        """Change rows and slots in place, with the correction `table`."""
        _paced_adam(self, rows, slots, grads, lr, pace)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with weight decay apart from the gradient: ``w *= 1 - lr*weight_decay``, then Adam. Slots as Adam.

    Rows decay when they learn: an id that does not come keeps its row. A rare id therefore decays less often than
    in a dense optimiser, which shrinks every row in every step. With the correction `table` it makes up for the updates
    it missed when it next learns, at the present rate.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        eps: Added to the root of the second mean.
        weight_decay: Part of the row that is lost per step, times the rate.
        correction: As in `Adam`.

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
        return 2, (self.beta1, self.beta2, self.eps, self.weight_decay, _CORRECTIONS[self.correction])

    @property
    def paced(self) -> bool:
        """Whether steps depend on the updates that a row missed."""
        return self.correction == "table"

    def slot_count(self, dim: int) -> int:
        """Return 2 D + 2; 2 D where bias is not corrected by the row."""
        return len(_fresh_adam(self, dim))

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return zero means and both powers at 1."""
        return _fresh_adam(self, dim)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        rows *= _F(1.0) - lr * _F(self.weight_decay)
        rows -= _adam_move(self, slots, grads, lr)

    def step_paced(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32, pace: Pace) -> None:
        """Change rows and slots in place, with the correction `table`."""
        _paced_adam(self, rows, slots, grads, lr, pace)


_CORRECTIONS = {"none": 0.0, "row": 1.0, "table": 2.0}
"""As in csrc/rules/row_rule.h."""


def _check_adam(name: str, rule: Adam | AdamW) -> None:
    positive(f"{name}.lr", rule.lr)
    positive(f"{name}.eps", rule.eps)
    fraction(f"{name}.beta1", rule.beta1)
    fraction(f"{name}.beta2", rule.beta2)
    require(rule.correction in _CORRECTIONS, f"{name}.correction", got=rule.correction,
            expected="'row', 'none' or 'table'")  # fmt: skip
    require(rule.correction != "table" or rule.beta1**2 < rule.beta2, f"{name}.beta1", got=rule.beta1,
            expected="less than the root of beta2, with correction='table'")  # fmt: skip


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
    if rule.correction != "row":
        return np.asarray((lr * m) / (np.sqrt(v) + _F(rule.eps)), np.float32)
    slots[:, 2 * dim] *= beta1
    slots[:, 2 * dim + 1] *= beta2
    size = lr / (one - slots[:, 2 * dim])
    root = np.sqrt(one - slots[:, 2 * dim + 1])
    return np.asarray((size[:, None] * m) / (np.sqrt(v) / root[:, None] + _F(rule.eps)), np.float32)


def _paced_adam(
    rule: Adam | AdamW, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32, pace: Pace
) -> None:
    """Change rows and slots in place."""
    dim, one, missed, eps = grads.shape[1], _F(1.0), pace.missed, _F(rule.eps)
    beta1, beta2, update = _F(rule.beta1), _F(rule.beta2), np.array([pace.update])
    kept = one - lr * _F(getattr(rule, "weight_decay", 0.0))
    faded = powers(kept if kept > 0.0 else _F(0.0), missed)
    size, root = lr / (one - powers(beta1, update)[0]), np.sqrt(one - powers(beta2, update)[0])
    ratio = beta1 / np.sqrt(beta2)
    rested = pace.update - missed  # the first update that a row missed
    old_size, old_root = lr / (one - powers(beta1, rested)), np.sqrt(one - powers(beta2, rested))
    tail = old_size * ((ratio * (one - powers(ratio, missed))) / (one - ratio))
    m, v = slots[:, :dim], slots[:, dim : 2 * dim]
    rows[:] = rows * faded[:, None] - (tail[:, None] * m) / (np.sqrt(v) / old_root[:, None] + eps)
    m[:] = beta1 * (powers(beta1, missed)[:, None] * m) + (one - beta1) * grads
    v[:] = beta2 * (powers(beta2, missed)[:, None] * v) + ((one - beta2) * grads) * grads
    rows[:] = rows * kept - (size * m) / (np.sqrt(v) / root + eps)
