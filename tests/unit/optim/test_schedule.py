from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from headrace.config import fingerprint
from headrace.errors import ConfigError
from headrace.optim import Chain, Constant, Cosine, InverseSqrt, Linear, Product, Stairs, Warmup
from headrace.protocols import Schedule

ALL = (
    Constant(factor=0.3), Warmup(steps=10, start=0.1), Linear(steps=20, floor=0.2), Cosine(steps=20, floor=0.1),
    InverseSqrt(warmup=7), Stairs(every=5, factor=0.5, floor=0.01), Chain(((Warmup(steps=5), 5), (Cosine(steps=9), 9))),
    Product((Warmup(steps=5), InverseSqrt(warmup=3))),
)  # fmt: skip


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
def test_factors_are_finite_and_in_range_for_ever(schedule: Schedule) -> None:
    assert isinstance(schedule, Schedule)
    factors = [schedule(step) for step in [*range(1, 200), 10**6, 10**15]]
    assert all(isinstance(factor, float) and 0.0 <= factor <= 1.0 for factor in factors)
    assert factors == [schedule(step) for step in [*range(1, 200), 10**6, 10**15]]


def test_warmup_rises_in_a_line() -> None:
    assert [Warmup(steps=4)(step) for step in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert Warmup(steps=4, start=0.5)(2) == 0.75
    assert Warmup(steps=1)(1) == 1.0


def test_linear_and_cosine_end_at_the_floor() -> None:
    assert [Linear(steps=4)(step) for step in (1, 2, 4, 9)] == [0.75, 0.5, 0.0, 0.0]
    assert Cosine(steps=4, floor=0.5)(2) == pytest.approx(0.75)
    assert [Cosine(steps=4, floor=0.5)(step) for step in (4, 100)] == [0.5, 0.5]


def test_cosine_follows_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1)
    for step in range(1, 31):
        optimizer.step()
        reference.step()
        assert Cosine(steps=30, floor=0.1)(step) == pytest.approx(reference.get_last_lr()[0])


def test_inverse_sqrt_peaks_at_the_end_of_the_warmup() -> None:
    schedule = InverseSqrt(warmup=100)
    assert schedule(50) == 0.5
    assert schedule(100) == 1.0
    assert schedule(400) == 0.5
    assert schedule(10_000) == pytest.approx(0.1)


def test_stairs_go_down_after_every_so_many() -> None:
    schedule = Stairs(every=3, factor=0.5, floor=0.2)
    assert [schedule(step) for step in range(1, 11)] == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.2]


def test_chain_counts_each_part_from_one() -> None:
    schedule = Chain(((Warmup(steps=2), 2), (Constant(factor=0.7), 3), (Linear(steps=4), 1)))
    got = [schedule(step) for step in range(1, 11)]
    assert got == [0.5, 1.0, 0.7, 0.7, 0.7, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_product_multiplies() -> None:
    schedule = Product((Warmup(steps=4), Constant(factor=2.0)))
    assert [schedule(step) for step in (1, 4, 9)] == [0.5, 2.0, 2.0]


def test_schedules_are_values() -> None:
    assert Chain(((Warmup(steps=2), 2),)) == Chain(((Warmup(steps=2), 2),))
    assert len({fingerprint(schedule) for schedule in ALL}) == len(ALL)
    assert math.isclose(Cosine(steps=8)(3), Cosine(steps=8)(3), rel_tol=0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Warmup(steps=0), lambda: Warmup(steps=2.5), lambda: Warmup(steps=3, start=-0.1),
        lambda: Cosine(steps=True), lambda: Cosine(steps=4, floor=float("nan")), lambda: InverseSqrt(warmup=-1),
        lambda: Stairs(every=2, factor=1.5), lambda: Constant(factor=float("inf")), lambda: Chain(()),
        lambda: Chain(((Constant(), 0),)), lambda: Product(()), lambda: Linear(steps=3, floor=2.0),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(make: Callable[[], Schedule]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()
