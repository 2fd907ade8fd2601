"""Row rules that look at a row as a whole: one rate for all of its coordinates, or all of them zero at once.

A sum over a row is defined so that vectors can compute it and every machine gives equal bits; see `row_sums`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.store.row_rules import FloatArray, NativeForm, not_negative, positive

_F = np.float32
_LANES = 8


def row_sums(values: FloatArray) -> FloatArray:
    """Return the sum (N,) of each row (N, D): eight running sums, folded in halves.

    Running sum i takes coordinates i, i + 8, i + 16, ... in that order; then sums 4-7 are added to 0-3, 2-3 to 0-1
    and 1 to 0. Every addition is rounded to float32.

    Example:
        >>> row_sums(np.arange(10, dtype=np.float32)[None]).tolist()
        [45.0]
    """
    lanes = np.zeros((len(values), _LANES), np.float32)
    for at in range(0, values.shape[1], _LANES):
        part = values[:, at : at + _LANES]
        lanes[:, : part.shape[1]] += part
    for half in (4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


@dataclass(frozen=True, kw_only=True)
class RowWiseAdagrad:
    """Adagrad with one accumulator a row: ``n += mean(g*g); w -= lr / (sqrt(n) + eps) * g``. Slots: n (1).

    Takes the memory of one float a row in place of D, for slightly coarser rates.

    Attributes:
        lr: Learning rate.
        initial_accumulator: n of a row that has not learned yet; the larger, the smaller the first steps.
        eps: Keeps the division defined when n is 0.

    Source:
        Gupta et al. 2014, "Training Highly Multiclass Classifiers"; as in FBGEMM's `EXACT_ROWWISE_ADAGRAD`.
    """

    lr: float = 0.05
    initial_accumulator: float = 0.1
    eps: float = 1e-10

    def __post_init__(self) -> None:
        positive("RowWiseAdagrad.lr", self.lr)
        not_negative("RowWiseAdagrad.initial_accumulator", self.initial_accumulator)
        positive("RowWiseAdagrad.eps", self.eps)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 5, (self.initial_accumulator, self.eps)

    def slot_count(self, dim: int) -> int:
        """Return 1."""
        return 1

    def fresh_slots(self, dim: int) -> FloatArray:
        """Return n = `initial_accumulator`."""
        return np.full(1, self.initial_accumulator, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        """Change rows and slots in place."""
        slots[:, 0] += row_sums(grads * grads) / _F(rows.shape[1])
        size = lr / (np.sqrt(slots) + _F(self.eps))
        rows -= size * grads


@dataclass(frozen=True, kw_only=True)
class GroupFTRL:
    """FTRL-proximal whose penalty takes rows as groups: a row that is not needed is exactly zero. Slots: z (D), n (D).

    z and n as in `FTRL`; then, with the norm ``|z|`` over the row, ``w = 0 if |z| <= l1 else
    (l1/|z| - 1) * z / ((beta + sqrt(n))/lr + l2)``. With D = 1 it is `FTRL`. Rows at zero can be removed.

    Attributes:
        lr: Learning rate; under a schedule as in `FTRL`.
        l1: Strength of the group penalty: the norm of z up to which a row is zero.
        l2: Strength of the L2 penalty.
        beta: Makes the first steps smaller.

    Source:
        Yuan, Lin 2006 (group lasso) on McMahan et al. 2013; Ni et al. 2019, "Feature Selection for Facebook Feed
        Ranking System via a Group-Sparsity-Regularized Training Algorithm".
    """

    lr: float = 0.05
    l1: float = 0.0
    l2: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        positive("GroupFTRL.lr", self.lr)
        not_negative("GroupFTRL.l1", self.l1)
        not_negative("GroupFTRL.l2", self.l2)
        positive("GroupFTRL.beta", self.beta)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 6, (self.l1, self.l2, self.beta)

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
        sigma = (np.sqrt(grown) - np.sqrt(n)) / lr
        z += grads - sigma * rows
        n[:] = grown
        norm = np.sqrt(row_sums(z * z))[:, None]
        gone = norm <= l1
        turned = l1 / np.where(gone, _F(1.0), norm) - _F(1.0)
        learned = (turned * z) / ((_F(self.beta) + np.sqrt(n)) / lr + _F(self.l2))
        rows[:] = np.where(gone, _F(0.0), learned)
