from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.store.row_rules import FTRL, SGD, Adagrad, Momentum, RowRule
from headrace.store.row_rules_adam import Adam, AdamW
from headrace.store.row_rules_whole import GroupFTRL, RowWiseAdagrad

STEPS, DIM = 50, 6


def gradients(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(STEPS, DIM)).astype(np.float32)


def run(rule: RowRule, start: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row, slots = start.copy()[None], rule.fresh_slots(len(start))[None].copy()
    for grad in grads:
        rule.step(row, slots, grad[None], np.float32(rule.lr))
    return row[0], slots[0]


def run_torch(make: Callable[..., torch.optim.Optimizer], start: np.ndarray, grads: np.ndarray) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = make([parameter])
    for grad in grads:
        parameter.grad = torch.tensor(grad)
        optimizer.step()
    return parameter.detach().numpy()


ALL = (
    SGD(), Momentum(), Momentum(nesterov=True), Adagrad(), RowWiseAdagrad(), Adam(), Adam(correction="none"), AdamW(),
    FTRL(l1=0.1), GroupFTRL(l1=0.1),
)  # fmt: skip
START = np.linspace(-0.5, 0.5, DIM, dtype=np.float32)


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (SGD(lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
        (Adagrad(lr=0.05), lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1)),
        (
            Adagrad(lr=0.2, initial_accumulator=0.0),
            lambda p: torch.optim.Adagrad(p, lr=0.2, initial_accumulator_value=0.0),
        ),
        (Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
        (
            Adam(lr=0.1, beta1=0.5, beta2=0.9, eps=1e-4),
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-4),
        ),
        (Momentum(lr=0.02, momentum=0.8), lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8)),
        (
            Momentum(lr=0.02, momentum=0.8, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, nesterov=True),
        ),
        (AdamW(lr=0.02, weight_decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3)),
    ],
    ids=["sgd", "adagrad", "adagrad0", "adam", "adam-betas", "momentum", "nesterov", "adamw"],
)
def test_rule_follows_torch_on_a_dense_parameter(rule: RowRule, make: Callable[..., torch.optim.Optimizer]) -> None:
    grads = gradients()
    row, _ = run(rule, START, grads)
    np.testing.assert_allclose(row, run_torch(make, START, grads), rtol=2e-4, atol=2e-6)


def ftrl_oracle(start: np.ndarray, grads: np.ndarray, lr: float, l1: float, l2: float, beta: float) -> np.ndarray:
    """Algorithm 1 of McMahan et al. 2013, one coordinate at a time, in double precision."""
    w = [float(value) for value in start]
    z, n = [0.0] * len(w), [0.0] * len(w)
    for grad in grads.astype(np.float64):
        for i, g in enumerate(grad):
            sigma = ((n[i] + g * g) ** 0.5 - n[i] ** 0.5) / lr
            z[i] += g - sigma * w[i]
            n[i] += g * g
            sign = 1.0 if z[i] > 0 else -1.0
            w[i] = 0.0 if abs(z[i]) <= l1 else -(z[i] - sign * l1) / ((beta + n[i] ** 0.5) / lr + l2)
    return np.array(w)


@pytest.mark.parametrize(("l1", "l2", "beta"), [(0.0, 0.0, 1.0), (0.8, 0.0, 1.0), (0.3, 0.7, 0.5)])
def test_ftrl_follows_the_published_formula(l1: float, l2: float, beta: float) -> None:
    grads = gradients(1)
    row, _ = run(FTRL(lr=0.1, l1=l1, l2=l2, beta=beta), START, grads)
    np.testing.assert_allclose(row, ftrl_oracle(START, grads, 0.1, l1, l2, beta), rtol=1e-3, atol=1e-5)


def test_ftrl_l1_makes_exact_zeros_and_shrinks_on_both_sides() -> None:
    grads = np.array([[1.0, -1.0, 0.2, -0.2, 3.0, -3.0]], np.float32)
    plain, _ = run(FTRL(lr=0.5), np.zeros(DIM, np.float32), grads)
    shrunk, _ = run(FTRL(lr=0.5, l1=0.5), np.zeros(DIM, np.float32), grads)
    assert shrunk[2] == shrunk[3] == 0.0
    assert np.all(np.abs(shrunk) < np.abs(plain))
    np.testing.assert_array_equal(np.sign(shrunk[[0, 1, 4, 5]]), [-1, 1, -1, 1])


def test_a_schedule_is_followed_as_by_torch() -> None:
    grads, rates = gradients(2), np.linspace(0.1, 0.0, STEPS, dtype=np.float32)
    for rule, make in (
        (Adagrad(), lambda p: torch.optim.Adagrad(p, lr=1.0, initial_accumulator_value=0.1)),
        (Momentum(), lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9)),
        (AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.1)),
    ):
        row, slots = START.copy()[None], rule.fresh_slots(DIM)[None].copy()
        parameter = torch.nn.Parameter(torch.tensor(START))
        optimizer = make([parameter])
        for grad, rate in zip(grads, rates, strict=True):
            rule.step(row, slots, grad[None], rate)
            optimizer.param_groups[0]["lr"] = float(rate)
            parameter.grad = torch.tensor(grad)
            optimizer.step()
        np.testing.assert_allclose(row[0], parameter.detach().numpy(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("rule", ALL, ids=str)
def test_a_rate_of_zero_leaves_the_row(rule: RowRule) -> None:
    row, slots = START.copy()[None], rule.fresh_slots(DIM)[None].copy()
    for grad in gradients()[:3]:
        rule.step(row, slots, grad[None], np.float32(0.0))
    np.testing.assert_array_equal(row[0], START)
    assert np.isfinite(slots).all()


@pytest.mark.parametrize("rule", ALL, ids=str)
def test_gradients_of_zero_and_tiny_ones_give_finite_rows(rule: RowRule) -> None:
    tiny = np.float32(1e-45)
    grads = np.array([[0, 0, 0, 0, 0, 0], [tiny, -tiny, 0, 1e-20, -1e-20, 1e-30], [0, 0, 0, 0, 0, 1]], np.float32)
    row, slots = run(rule, START, grads)
    assert np.isfinite(row).all()
    assert np.isfinite(slots).all()


def test_adam_without_correction_follows_the_formula() -> None:
    grads = gradients(3).astype(np.float64)
    row, _ = run(Adam(lr=0.01, correction="none"), START, gradients(3))
    w, m, v = START.astype(np.float64), np.zeros(DIM), np.zeros(DIM)
    for g in grads:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.01 * m / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(row, w, rtol=2e-4, atol=2e-6)


def test_adamw_without_decay_is_adam() -> None:
    for correction in ("row", "none"):
        adam, adam_slots = run(Adam(lr=0.01, correction=correction), START, gradients(4))
        adamw, adamw_slots = run(AdamW(lr=0.01, correction=correction, weight_decay=0.0), START, gradients(4))
        np.testing.assert_array_equal(adam, adamw)
        np.testing.assert_array_equal(adam_slots, adamw_slots)


def test_momentum_zero_is_gradient_descent() -> None:
    for nesterov in (False, True):
        row, _ = run(Momentum(lr=0.05, momentum=0.0, nesterov=nesterov), START, gradients(5))
        np.testing.assert_array_equal(row, run(SGD(lr=0.05), START, gradients(5))[0])


def test_adam_corrects_the_bias_of_each_row_by_its_own_steps() -> None:
    rule = Adam(lr=0.01)
    rows, slots = np.zeros((1, 2), np.float32), rule.fresh_slots(2)[None].copy()
    for _ in range(100):
        rule.step(rows, slots, np.ones((1, 2), np.float32), np.float32(0.01))
    late, late_slots = np.zeros((1, 2), np.float32), rule.fresh_slots(2)[None].copy()
    rule.step(late, late_slots, np.full((1, 2), 0.001, np.float32), np.float32(0.01))
    np.testing.assert_allclose(late, -0.01, rtol=1e-3)  # a full first step, whatever other rows have done


def test_adam_keeps_its_powers_apart() -> None:
    _, slots = run(Adam(beta1=0.9, beta2=0.99), START, gradients()[:10])
    np.testing.assert_allclose(slots[-2:], [0.9**10, 0.99**10], rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "slots"),
    [
        (SGD(), 0), (Momentum(), DIM), (Adagrad(), DIM), (RowWiseAdagrad(), 1), (Adam(), 2 * DIM + 2),
        (Adam(correction="none"), 2 * DIM), (AdamW(), 2 * DIM + 2), (FTRL(), 2 * DIM), (GroupFTRL(), 2 * DIM),
    ],
    ids=str,
)  # fmt: skip
def test_slot_count_is_the_length_of_fresh_slots(rule: RowRule, slots: int) -> None:
    assert rule.slot_count(DIM) == slots == len(rule.fresh_slots(DIM))
    assert isinstance(rule, RowRule)


@pytest.mark.parametrize("rule", ALL, ids=str)
def test_rows_do_not_influence_each_other(rule: RowRule) -> None:
    together = np.stack([START, START[::-1]])
    slots = np.stack([rule.fresh_slots(DIM)] * 2)
    grads = gradients()[:2]
    rule.step(together, slots, grads, np.float32(rule.lr))
    alone, alone_slots = run(rule, START, grads[:1])
    np.testing.assert_array_equal(together[0], alone)
    np.testing.assert_array_equal(slots[0], alone_slots)


def test_native_forms_differ() -> None:
    forms = [rule.native_form() for rule in ALL]
    assert len(set(forms)) == len(forms)
    assert all(len(parameters) <= 5 for _, parameters in forms)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(lr=0.0), lambda: SGD(lr=float("nan")), lambda: Adagrad(lr=-1.0), lambda: Adagrad(eps=0.0),
        lambda: Adagrad(initial_accumulator=-0.1), lambda: Adam(beta1=1.0), lambda: Adam(beta2=0.99999999999),
        lambda: Adam(beta1=-0.1), lambda: Adam(eps=0.0), lambda: FTRL(l1=-1.0), lambda: FTRL(beta=0.0),
        lambda: SGD(lr=1e39), lambda: Adagrad(eps=1e-50), lambda: Adam(correction="global"),
        lambda: AdamW(weight_decay=-0.1), lambda: AdamW(beta2=1.0), lambda: Momentum(momentum=1.0),
        lambda: RowWiseAdagrad(eps=0.0), lambda: GroupFTRL(l1=-1.0), lambda: GroupFTRL(lr=0.0),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(make: Callable[[], RowRule]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()
