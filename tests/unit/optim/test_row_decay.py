"""L2 on rows: its gradient, its two counts, and the lazy form against dense optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.errors import ConfigError
from headrace.optim import CowClip, RowL2, Warmup
from headrace.protocols import RowTransform
from headrace.store import SGD, Adam, AdamW, Normal, ReferenceTable, TableConfig, open_table
from headrace.store.checked import CheckedTable
from headrace.store.pace import decayed

IDS = torch.arange(6)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    weights, grads = (torch.randn(40, 5, generator=random) for _ in range(2))
    return weights, grads, torch.randint(1, 9, (40,), generator=random)


def test_the_penalty_is_that_of_the_loss_with_lambda_times_the_sum_of_squares() -> None:
    weights, grads, counts = batch()
    learned = weights.clone().requires_grad_(True)
    (0.05 * learned.square().sum() + (learned * grads).sum()).backward()  # type: ignore[no-untyped-call]
    assert learned.grad is not None
    torch.testing.assert_close(RowL2(weight=0.05)(weights, grads, counts), learned.grad)


def test_per_occurrence_it_counts_as_often_as_the_id() -> None:
    weights, grads, counts = batch()
    torch.testing.assert_close(
        RowL2(weight=0.05, per="occurrence")(weights, grads, counts), grads + 0.1 * counts[:, None] * weights
    )


def test_sums_stay_finite() -> None:
    huge, counts = torch.full((2, 3), 3e38), torch.full((2,), 2**62)
    for one in (RowL2(weight=0.5), RowL2(weight=0.5, per="occurrence")):
        assert one(huge, huge, counts).isfinite().all()
        assert one(torch.full((2, 3), float("nan")), huge, counts).isfinite().all()
        assert not one.over(huge, huge, counts).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: RowL2(weight=-1e-3), lambda: RowL2(weight=0.6), lambda: RowL2(weight=float("nan")),
        lambda: RowL2(weight=0.1, per="epoch"), lambda: RowL2(weight=0.1, untouched="dense"),
        lambda: RowL2(weight=0.1, per="occurrence", untouched="lazy"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(make: Callable[[], RowTransform]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()


def steps(seed: int, count: int = 30) -> list[tuple[Tensor, Tensor]]:
    """Some of the ids and their gradients, step by step; all of them in the last."""
    random, drawn = torch.Generator().manual_seed(seed), []
    for step in range(count):
        some = (torch.rand(len(IDS), generator=random) < 0.4) | (step % len(IDS) == IDS)
        ids = IDS if step == count - 1 else IDS[some]
        drawn.append((ids, 0.1 * torch.randn(len(ids), 3, generator=random)))
    return drawn


def opened(kind: Callable[[TableConfig], CheckedTable], rule: Any, **settings: Any) -> CheckedTable:
    table = kind(TableConfig(name="t", dim=3, rule=rule, init=Normal(1.0), **settings))
    # every row is there from the beginning, as in a dense table
    table.update(IDS, torch.zeros(len(IDS), 3), torch.ones_like(IDS), torch.zeros_like(IDS))
    return table


def dense(rows: Tensor, optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], weight: float, seed: int) -> Tensor:
    """The same in torch: the penalty is in the loss, and the optimiser steps over the whole table."""
    rows = rows.clone().requires_grad_(True)
    stepper = optimizer([rows])
    for ids, grads in [(IDS, torch.zeros(len(IDS), 3)), *steps(seed)]:
        stepper.zero_grad()
        (weight * rows.square().sum() + (rows[ids] * grads).sum()).backward()  # type: ignore[no-untyped-call]
        stepper.step()
    return rows.detach()


def learn(table: CheckedTable, seed: int) -> Tensor:
    for ids, grads in steps(seed):
        table.update(ids, grads, torch.ones_like(ids), torch.zeros_like(ids))
    return table.lookup(IDS)


@pytest.mark.parametrize("kind", [ReferenceTable, open_table])
def test_lazy_l2_through_sgd_is_the_dense_form(kind: Callable[[TableConfig], CheckedTable]) -> None:
    table = opened(kind, SGD(lr=0.5), transforms=(RowL2(weight=0.02, untouched="lazy"),))
    wanted = dense(table.initial(IDS), lambda rows: torch.optim.SGD(rows, lr=0.5), 0.02, 4)
    torch.testing.assert_close(learn(table, 4), wanted, rtol=2e-6, atol=2e-6)
    skipping = opened(kind, SGD(lr=0.5), transforms=(RowL2(weight=0.02),))
    assert (learn(skipping, 4) - wanted).abs().max() > 0.05  # what lazy makes up for


def test_lazy_l2_through_adam_differs_from_the_dense_form_as_stated() -> None:
    """In a dense Adam a resting row goes to zero by about lr a step however small the weight; here by lr * 2 weight."""
    rate, weight, resting = 0.01, 1e-5, 40
    rows = torch.full((1, 3), 1.0).requires_grad_(True)
    stepper = torch.optim.Adam([rows], lr=rate)
    for _ in range(resting):
        stepper.zero_grad()
        (weight * rows.square().sum()).backward()  # type: ignore[no-untyped-call]
        stepper.step()
    moved = float((1.0 - rows.detach()).mean())
    assert moved == pytest.approx(resting * rate, rel=0.05)
    factor = decayed(np.ones((1, 1), np.float32), np.array([resting]), np.float32(rate), np.float32(2 * weight))
    assert float(1.0 - factor[0, 0]) == pytest.approx(resting * rate * 2 * weight, rel=0.01)


def test_lazy_l2_under_a_schedule_takes_the_missed_updates_at_the_present_rate() -> None:
    settings: dict[str, Any] = {"transforms": (RowL2(weight=0.1, untouched="lazy"),), "schedule": Warmup(steps=4)}
    table = opened(ReferenceTable, SGD(lr=1.0), **settings)
    start, one = table.lookup(IDS[:1]), torch.ones(1, dtype=torch.int64)
    for _ in range(2):
        table.update(one, torch.zeros(1, 3), one, one)  # another row: updates 2 and 3
    table.update(one * 0, torch.zeros(1, 3), one, one)
    torch.testing.assert_close(table.lookup(IDS[:1]), start * (1 - 0.2) ** 3)


def test_what_a_row_missed_is_part_of_its_state_even_when_history_is_forgotten() -> None:
    settings: dict[str, Any] = {"transforms": (RowL2(weight=0.1, untouched="lazy"),)}
    for kind in (ReferenceTable, open_table):
        table, other = (opened(kind, SGD(lr=1.0), **settings) for _ in range(2))
        one = torch.ones(1, dtype=torch.int64)
        for _ in range(5):
            table.update(one, torch.ones(1, 3), one, one)
            table.forget(table.mark())
        other.restore(table.state())
        for each in (table, other):
            each.update(IDS, torch.ones(len(IDS), 3), torch.ones_like(IDS), IDS)
        assert torch.equal(table.lookup(IDS), other.lookup(IDS))


def test_adam_by_the_table_steps_as_dense_adam_on_rows_that_always_come() -> None:
    table = opened(open_table, Adam(lr=0.05, correction="table"))
    rows = table.initial(IDS).requires_grad_(True)
    stepper = torch.optim.Adam([rows], lr=0.05)
    random = torch.Generator().manual_seed(1)
    rows.grad = torch.zeros_like(rows)
    stepper.step()
    for _ in range(20):
        grads = torch.randn(len(IDS), 3, generator=random)
        table.update(IDS, grads, torch.ones_like(IDS), IDS)
        rows.grad = grads
        stepper.step()
    torch.testing.assert_close(table.lookup(IDS), rows.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("share", "count", "bound"), [(0.3, 60, 0.06), (0.3, 400, 0.02), (0.05, 400, 0.05)])
def test_adam_by_the_table_is_dense_adam_on_rows_that_rest_but_for_a_small_part(
    share: float, count: int, bound: float
) -> None:
    ids, random = torch.arange(40), torch.Generator().manual_seed(2)
    ones = torch.ones_like(ids)
    configs = [TableConfig(name="t", dim=3, rule=Adam(lr=0.01, correction=correction), init=Normal(1.0))
               for correction in ("table", "row")]  # fmt: skip
    tables = [open_table(config) for config in configs]
    start = tables[0].initial(ids)
    rows = start.clone().requires_grad_(True)
    stepper = torch.optim.Adam([rows], lr=0.01)
    for step in range(count):
        some = ids[(torch.rand(40, generator=random) < share) | (ids == 0)] if step < count - 1 else ids
        grads = 0.01 * torch.randn(len(some), 3, generator=random)
        rows.grad = torch.zeros_like(rows)
        rows.grad[some] = grads
        stepper.step()
        for table in tables:
            table.update(some, grads, ones[: len(some)], ones[: len(some)])
    moved = (rows.detach() - start).norm()
    by_table, by_row = (float((table.lookup(ids) - rows.detach()).norm() / moved) for table in tables)
    assert by_table < bound
    assert by_row > 0.3


def test_adam_by_the_table_without_momentum_is_dense_adam_without_momentum() -> None:
    """The only difference that is left is the momentum of the steps that do not touch a row."""
    table = opened(open_table, Adam(lr=0.05, beta1=0.0, beta2=0.9, correction="table"))
    wanted = dense(table.initial(IDS), lambda rows: torch.optim.Adam(rows, lr=0.05, betas=(0.0, 0.9)), 0.0, 4)
    torch.testing.assert_close(learn(table, 4), wanted, rtol=1e-4, atol=1e-5)
    by_row = opened(open_table, Adam(lr=0.05, beta1=0.0, beta2=0.9))
    assert (learn(by_row, 4) - wanted).abs().max() > 0.02


def test_adamw_by_the_table_makes_up_for_the_decay_that_a_row_missed() -> None:
    rule = AdamW(lr=0.05, beta1=0.0, beta2=0.9, weight_decay=0.4, correction="table")
    table = opened(open_table, rule)
    settings: Any = {"lr": 0.05, "betas": (0.0, 0.9), "weight_decay": 0.4}
    wanted = dense(table.initial(IDS), lambda rows: torch.optim.AdamW(rows, **settings), 0.0, 4)
    torch.testing.assert_close(learn(table, 4), wanted, rtol=1e-3, atol=1e-3)


def test_adam_by_the_table_needs_a_momentum_that_falls_faster_than_the_squares() -> None:
    with pytest.raises(ConfigError, match="less than the root of beta2"):
        Adam(beta1=0.9, beta2=0.8, correction="table")


def test_a_clip_after_the_penalty_bounds_both() -> None:
    _, grads, _ = batch()
    clips = (RowL2(weight=0.5), CowClip(ratio=0.1, lower_bound=0.0))
    table = ReferenceTable(TableConfig(name="t", dim=5, rule=SGD(lr=1.0), init=Normal(1.0), transforms=clips))
    ids, ones = torch.arange(40), torch.ones(40, dtype=torch.int64)
    start = table.initial(ids)
    table.update(ids, grads, ones, ones)
    moved = (table.lookup(ids) - start).norm(dim=1)
    torch.testing.assert_close(moved, 0.1 * start.norm(dim=1), rtol=1e-4, atol=1e-6)
    assert table.clipping().clipped == table.clipping().learned == 40
