from __future__ import annotations

import numpy as np
import pytest

from headrace.store.row_rules import FTRL, Adagrad, RowRule
from headrace.store.row_rules_whole import GroupFTRL, RowWiseAdagrad, row_sums

STEPS = 40


def gradients(dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(STEPS, dim)).astype(np.float32)


def run(rule: RowRule, start: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row, slots = start.copy()[None], rule.fresh_slots(len(start))[None].copy()
    for grad in grads:
        rule.step(row, slots, grad[None], np.float32(rule.lr))
    return row[0], slots[0]


def written_out(values: np.ndarray) -> np.float32:
    """The definition of a sum over a row, one float32 addition at a time."""
    lanes = [np.float32(0.0)] * 8
    for j, value in enumerate(values):
        lanes[j % 8] = lanes[j % 8] + value
    for half in (4, 2, 1):
        for i in range(half):
            lanes[i] = lanes[i] + lanes[i + half]
    return lanes[0]


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 9, 16, 23, 64, 67])
def test_row_sums_are_eight_running_sums_folded_in_halves(dim: int) -> None:
    values = gradients(dim, seed=dim)
    np.testing.assert_array_equal(row_sums(values), [written_out(row) for row in values])
    np.testing.assert_allclose(row_sums(values), values.astype(np.float64).sum(1), rtol=1e-4, atol=1e-5)


def test_row_wise_adagrad_follows_the_formula() -> None:
    grads, start = gradients(10), np.linspace(-0.5, 0.5, 10, dtype=np.float32)
    row, slots = run(RowWiseAdagrad(lr=0.1, initial_accumulator=0.2), start, grads)
    w, n = start.astype(np.float64), 0.2
    for g in grads.astype(np.float64):
        n += np.mean(g * g)
        w -= 0.1 * g / (np.sqrt(n) + 1e-10)
    np.testing.assert_allclose(row, w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slots, n, rtol=1e-5)


def test_row_wise_adagrad_of_one_coordinate_is_adagrad() -> None:
    grads, start = gradients(1), np.array([0.3], np.float32)
    row, _ = run(RowWiseAdagrad(lr=0.1), start, grads)
    np.testing.assert_allclose(row, run(Adagrad(lr=0.1), start, grads)[0], rtol=1e-5)


def group_oracle(grads: np.ndarray, lr: float, l1: float, l2: float, beta: float) -> np.ndarray:
    """Minimises z w + (sqrt(n) + beta)/(2 lr) w^2 + l2/2 w^2 with the row's penalty, coordinates scaled by their own
    rate, in double precision."""
    dim = grads.shape[1]
    w, z, n = np.zeros(dim), np.zeros(dim), np.zeros(dim)
    for g in grads.astype(np.float64):
        sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / lr
        z += g - sigma * w
        n += g * g
        norm = np.linalg.norm(z)
        w = np.zeros(dim) if norm <= l1 else lr * z * (l1 - norm) / norm / (beta + np.sqrt(n) + l2 * lr)
    return w


@pytest.mark.parametrize(("l1", "l2", "beta"), [(0.0, 0.0, 1.0), (2.0, 0.0, 1.0), (1.0, 0.5, 0.3)])
def test_group_ftrl_follows_the_published_formula(l1: float, l2: float, beta: float) -> None:
    grads = gradients(9, seed=1)
    row, _ = run(GroupFTRL(lr=0.1, l1=l1, l2=l2, beta=beta), np.zeros(9, np.float32), grads)
    np.testing.assert_allclose(row, group_oracle(grads, 0.1, l1, l2, beta), rtol=1e-3, atol=1e-5)


def test_group_ftrl_moves_against_the_gradient_and_shrinks() -> None:
    grads = np.array([[3.0, -4.0, 1.0]], np.float32)
    plain, _ = run(GroupFTRL(lr=0.5), np.zeros(3, np.float32), grads)
    shrunk, _ = run(GroupFTRL(lr=0.5, l1=2.0), np.zeros(3, np.float32), grads)
    np.testing.assert_array_equal(np.sign(plain), [-1, 1, -1])
    np.testing.assert_allclose(shrunk / plain, 1 - 2.0 / np.sqrt(26.0), rtol=1e-5)


def test_group_ftrl_zeroes_whole_rows_and_wakes_them() -> None:
    weak = np.array([[0.1, -0.2, 0.05]], np.float32)
    row, slots = run(GroupFTRL(l1=0.5), np.zeros(3, np.float32), weak)
    assert not row.any()
    rows, states = row[None].copy(), slots[None].copy()
    GroupFTRL(l1=0.5).step(rows, states, np.array([[1.0, 0.0, 0.0]], np.float32), np.float32(0.05))
    assert rows.all()  # the weak gradients were not forgotten


def test_group_ftrl_of_one_coordinate_is_ftrl() -> None:
    grads, start = gradients(1, seed=2), np.zeros(1, np.float32)
    row, _ = run(GroupFTRL(lr=0.1, l1=0.4, l2=0.1), start, grads)
    np.testing.assert_allclose(row, run(FTRL(lr=0.1, l1=0.4, l2=0.1), start, grads)[0], rtol=1e-4)
