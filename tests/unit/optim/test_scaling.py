"""Rules for other batch sizes; the published table of CowClip, value by value."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.errors import ConfigError
from headrace.optim import RULES, Rates, Warmup, scale

BASE = Rates(dense_lr=8e-4, row_lr=1e-4, l2=1e-5, init_std=1e-2)

# batch in thousands (1K is 1024), dense rate in 1e-4, L2 in 1e-5: DeepFM, as its authors print them
CRITEO = [
    (1, 8.0, 1), (2, 11.31, 2), (4, 16.0, 4), (8, 22.62, 8), (16, 32.0, 16), (32, 45.25, 32), (64, 64.0, 64),
    (128, 90.50, 128),
]  # fmt: skip
AVAZU = [(1, 1.0, 1), (2, 1.41, 2), (4, 2.0, 4), (8, 2.83, 8), (16, 4.0, 16), (32, 5.66, 32), (64, 8.0, 64)]


@pytest.mark.parametrize(("first", "published"), [(8e-4, CRITEO), (1e-4, AVAZU)])
def test_the_cowclip_rule_gives_the_published_table(first: float, published: list[tuple[int, float, int]]) -> None:
    base = Rates(dense_lr=first, row_lr=1e-4, l2=1e-5)
    for thousands, dense, l2 in published:
        rates = scale("cowclip", base, 1024, 1024 * thousands, examples=41_000_000)
        assert rates.dense_lr * 1e4 == pytest.approx(dense, abs=0.0101)  # printed with two digits, some cut off
        assert rates.l2 * 1e5 == pytest.approx(l2, rel=1e-9)
        assert rates.row_lr == 1e-4
        assert rates.init_std == 1e-2
        assert rates.warmup_steps == 41_000_000 // (1024 * thousands)


def test_the_rule_does_not_follow_the_last_row_of_avazu_which_was_set_by_hand() -> None:
    rates = scale("cowclip", Rates(dense_lr=1e-4, row_lr=1e-4, l2=1e-5), 1, 128)
    assert rates.dense_lr == pytest.approx(11.31e-4, rel=1e-3)
    assert rates.l2 == pytest.approx(128e-5)


@pytest.mark.parametrize(
    ("rule", "dense", "row", "l2"),
    [
        ("none", 1, 1, 1), ("sqrt", 4, 4, 4), ("sqrt_lr", 4, 4, 1), ("linear", 16, 16, 1), ("n2_lambda", 4, 1, 256),
        ("cowclip", 4, 1, 16),
    ],
)  # fmt: skip
def test_each_rule_at_sixteen_times_the_batch(rule: str, dense: float, row: float, l2: float) -> None:
    rates = scale(rule, BASE, 100, 1600)  # type: ignore[arg-type]
    found = [rates.dense_lr / BASE.dense_lr, rates.row_lr / BASE.row_lr, rates.l2 / BASE.l2]
    assert found == pytest.approx([dense, row, l2])
    assert rates.warmup_steps == 0  # which only cowclip has, and only where the length of an epoch is known


def test_at_the_base_batch_rates_stay() -> None:
    for rule in RULES:
        assert scale(rule, BASE, 512, 512) == BASE


def test_scaling_twice_is_scaling_once() -> None:
    for rule in RULES:
        there = scale(rule, scale(rule, BASE, 1, 4), 4, 64)
        once = scale(rule, BASE, 1, 64)
        assert there.dense_lr == pytest.approx(once.dense_lr)
        assert there.row_lr == pytest.approx(once.row_lr)
        assert there.l2 == pytest.approx(once.l2)


def test_a_warm_up_makes_a_schedule_for_the_dense_part() -> None:
    assert scale("cowclip", BASE, 1, 10, examples=1000).dense_schedule == Warmup(steps=100)
    assert scale("cowclip", BASE, 1, 10, examples=5).dense_schedule == Warmup(steps=1)
    assert BASE.dense_schedule is None
    assert "warm-up over 100 steps" in str(scale("cowclip", BASE, 1, 10, examples=1000))


@pytest.mark.parametrize(
    "make",
    [
        lambda: scale("cube", BASE, 1, 2), lambda: scale("none", BASE, 0, 2), lambda: scale("none", BASE, 1, 0),
        lambda: scale("cowclip", BASE, 1, 2, examples=-1), lambda: Rates(dense_lr=0.0, row_lr=1.0),
        lambda: Rates(dense_lr=1.0, row_lr=1.0, l2=-1.0), lambda: Rates(dense_lr=1.0, row_lr=1.0, warmup_steps=-1),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(make: Callable[[], Rates]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()
