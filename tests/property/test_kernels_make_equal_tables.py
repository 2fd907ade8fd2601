"""Every instruction set, and Python, make the same table: rules, clips, schedules and precisions, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.optim import (
    Chain,
    Constant,
    Cosine,
    CowClip,
    InverseSqrt,
    Linear,
    Product,
    RowL2,
    RowNormClip,
    Stairs,
    Warmup,
)
from headrace.protocols import RowTransform
from headrace.store import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    GroupFTRL,
    Momentum,
    NativeTable,
    Normal,
    ReferenceTable,
    RowWiseAdagrad,
    Storage,
    TableConfig,
)
from headrace.store.checked import CheckedTable
from headrace.store.table import load_native

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

KERNELS = ["portable", "avx2", "avx512"]
RULES = [
    SGD(lr=0.3), Momentum(), Momentum(nesterov=True), Adagrad(), RowWiseAdagrad(), Adam(lr=0.05),
    Adam(correction="none"), Adam(correction="table"),
    AdamW(weight_decay=0.1), FTRL(l1=0.1, l2=0.1), GroupFTRL(lr=0.3, l1=0.4, l2=0.1),
]  # fmt: skip
CLIPS: list[tuple[RowTransform, ...]] = [
    (), (RowNormClip(max_norm=0.5),), (CowClip(lower_bound=0.01),), (CowClip(ratio=0.3, order="code"),),
    (CowClip(ratio=2.0, lower_bound=0.1), RowNormClip(max_norm=0.1)), (RowL2(weight=0.2), CowClip(skip=1)),
    (RowL2(weight=0.05, per="occurrence"), CowClip(ratio=0.3, order="code", skip=2)),
    (RowL2(weight=0.05, untouched="lazy"), CowClip(ratio=0.3)),
]  # fmt: skip
SCHEDULES: list[Any] = [
    None, Warmup(steps=5), Linear(steps=7, floor=0.1), Cosine(steps=6), InverseSqrt(warmup=3),
    Stairs(every=2, factor=0.5), Chain(((Warmup(steps=2), 2), (Constant(factor=0.0), 1), (Cosine(steps=9), 1))),
    Product((Warmup(steps=4), Cosine(steps=8, floor=0.2))),
]  # fmt: skip
DIMS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100]
_SETTINGS = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class InPython:
    """A transform that does the same as another but has no native form."""

    inner: RowTransform

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        return self.inner(rows, grads, counts)


@pytest.fixture(autouse=True)
def kernels_as_before() -> Iterator[None]:
    """Leave the instruction set as it was."""
    native: Any = load_native()
    chosen = native.kernels()
    yield
    assert native.choose_kernels(chosen)


def available() -> list[str]:
    native: Any = load_native()
    chosen = native.kernels()
    found = [name for name in KERNELS if native.choose_kernels(name)]
    assert native.choose_kernels(chosen)
    return found


def bits(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.contiguous().view(torch.int32) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in state.items()
    }


def assert_same(one: CheckedTable, other: CheckedTable) -> None:
    a, b = bits(one.state()), bits(other.state())
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]) if isinstance(value, Tensor) else value == b[name], name


def learn(table: CheckedTable, seed: int, scale: float, steps: int = 6) -> None:
    """Drive a table through updates, some with gradients of zero, very small or very large."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        ids = torch.unique(torch.randint(-20, 20, (25,), generator=generator))
        grads = torch.randn(len(ids), table.config.dim, generator=generator) * scale
        grads[step % len(ids)] = 0.0
        grads[(step + 1) % len(ids)] *= 1e-25
        counts = torch.randint(1, 9, (len(ids),), generator=generator)
        table.update(ids, grads, counts, torch.full_like(ids, step))
    table.assign(torch.arange(5), torch.randn(5, table.config.dim, generator=generator) * scale)


@_SETTINGS
@given(
    rule=st.sampled_from(RULES), dim=st.sampled_from(DIMS), clips=st.sampled_from(CLIPS),
    schedule=st.sampled_from(SCHEDULES), seed=st.integers(0, 9), scale=st.sampled_from([1e-3, 1.0, 1.0, 1e10, 1e25]),
    precision=st.sampled_from(["float32", "float32", "bfloat16", "float16"]),
)  # fmt: skip
def test_native_tables_of_every_kind_equal_the_reference(
    rule: Any, dim: int, clips: tuple[RowTransform, ...], schedule: Any, seed: int, scale: float, precision: Any
) -> None:
    config = TableConfig(
        name="t", dim=dim, rule=rule, init=Normal(0.1), transforms=clips, schedule=schedule,
        storage=Storage(precision=precision),
    )  # fmt: skip
    reference = ReferenceTable(config)
    learn(reference, seed, scale)
    native: Any = load_native()
    for name in available():
        assert native.choose_kernels(name)
        assert native.kernels() == name
        table = NativeTable(config)
        assert table.native is not None  # the clips run in it
        learn(table, seed, scale)
        assert_same(table, reference)


@settings(_SETTINGS, max_examples=60)
@given(
    rule=st.sampled_from(RULES[:5]), dim=st.sampled_from(DIMS), clips=st.sampled_from(CLIPS[1:-1]),
    seed=st.integers(0, 99), scale=st.sampled_from([0.01, 1.0, 1e20]),
)  # fmt: skip
def test_clips_in_the_native_table_equal_those_in_python(
    rule: Any, dim: int, clips: tuple[RowTransform, ...], seed: int, scale: float
) -> None:
    config = TableConfig(name="t", dim=dim, rule=rule, transforms=clips)
    outside = TableConfig(name="t", dim=dim, rule=rule, transforms=tuple(InPython(one) for one in clips))
    one, other = NativeTable(config), NativeTable(outside)
    assert other.native is None
    learn(one, seed, scale)
    learn(other, seed, scale)
    assert_same(one, other)
    changed, learned = other.clipping(), one.clipping()
    assert learned.learned == changed.learned > 0
    if not any(isinstance(clip, RowL2) for clip in clips):  # which changes rows that are not clipped
        assert abs(learned.clipped - changed.clipped) <= 12  # the smallest numbers stay as they are when scaled


def test_a_subclass_of_a_clip_runs_as_it_is_written() -> None:
    class Twice(RowNormClip):
        def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
            return super().__call__(rows, grads, counts) * 2

    config = TableConfig(name="t", dim=4, rule=SGD(), transforms=(Twice(max_norm=0.5),))
    native, reference = NativeTable(config), ReferenceTable(config)
    assert native.native is None
    learn(native, 1, 1.0)
    learn(reference, 1, 1.0)
    assert_same(native, reference)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("dim", DIMS)
def test_serving_rows_read_alike_with_every_instruction_set(precision: Any, dim: int) -> None:
    config = TableConfig(name="t", dim=dim, storage=Storage(serving_precision=precision))
    generator = torch.Generator().manual_seed(dim)
    rows = torch.randn(300, dim, generator=generator) * torch.logspace(-30, 30, 300)[:, None]
    ids, native = torch.arange(300), load_native()
    reference = ReferenceTable(config, serving=True)
    reference.assign(ids, rows)
    for name in available():
        assert native is not None
        assert native.choose_kernels(name)
        table = NativeTable(config, serving=True)
        table.assign(ids, rows)
        assert torch.equal(table.lookup(ids), reference.lookup(ids))
        assert_same(table, reference)


def test_an_instruction_set_that_nobody_knows_is_refused() -> None:
    native: Any = load_native()
    assert not native.choose_kernels("avx9000")
    assert "portable" in available()
    assert native.kernels() in KERNELS
