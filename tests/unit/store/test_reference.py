from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.store import SGD, Adagrad, ReferenceTable, TableConfig, Zeros
from headrace.store.storage import Storage


def test_the_row_rule_runs_once_for_all_rows_of_a_step() -> None:
    calls: list[tuple[int, ...]] = []

    class Counting(SGD):
        def step(self, rows: np.ndarray, slots: np.ndarray, grads: np.ndarray, lr: np.float32) -> None:
            calls.append(rows.shape)
            super().step(rows, slots, grads, lr)

    table = ReferenceTable(TableConfig(name="t", dim=2, rule=Counting()))
    ids = torch.arange(5)
    table.update(ids, torch.ones(5, 2), torch.ones_like(ids), ids)
    assert calls == [(5, 2)]


def test_overflow_in_a_step_is_silent_and_ieee() -> None:
    table = ReferenceTable(TableConfig(name="t", dim=1, rule=SGD(lr=10.0)))
    one = torch.ones(1, dtype=torch.int64)
    table.update(one, torch.full((1, 1), 3e38), one, one)
    assert table.lookup(one).item() == float("-inf")


def test_stats_grow_with_the_rows() -> None:
    table = ReferenceTable(TableConfig(name="t", dim=2))
    assert (table.stats().bytes, table.stats().load) == (0, 0.0)
    ids = torch.arange(5)
    table.update(ids, torch.ones(5, 2), torch.ones_like(ids), ids)
    assert table.stats().bytes > 5 * 2 * 4


DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def learned(precision: str, rows: int, grad: float, steps: int = 1) -> ReferenceTable:
    config = TableConfig(name="t", dim=3, rule=Adagrad(), storage=Storage(precision=precision))
    table, ids = ReferenceTable(config), torch.arange(rows)
    for step in range(steps):
        table.update(ids, torch.full((rows, 3), grad), torch.ones_like(ids), ids + step)
    return table


@pytest.mark.parametrize("precision", DTYPES)
def test_rows_are_kept_in_their_precision_and_slots_are_not(precision: str) -> None:
    state = learned(precision, 200, 0.3, steps=3).state()
    rows, slots = state["rows"], state["slots"]
    assert isinstance(rows, torch.Tensor)
    assert isinstance(slots, torch.Tensor)
    assert torch.equal(rows, rows.to(DTYPES[precision]).float())
    assert not torch.equal(slots, slots.to(DTYPES[precision]).float())


@pytest.mark.parametrize("precision", DTYPES)
def test_learning_rounds_up_and_down_so_that_the_mean_is_kept(precision: str) -> None:
    whole, table, ids = learned("float32", 3000, 1e-3), learned(precision, 3000, 1e-3), torch.arange(3000)
    rows, exact = table.lookup(ids).double(), whole.lookup(ids).double()
    start = whole.initial(ids).to(DTYPES[precision]).double() + exact - whole.initial(ids).double()
    wrong, size = rows - start, (rows - start).abs().mean()
    assert size > 1e-6
    assert wrong.mean().abs() < 0.05 * size
    assert torch.equal(table.lookup(ids), learned(precision, 3000, 1e-3).lookup(ids))  # the bits are drawn, not random


@pytest.mark.parametrize("precision", DTYPES)
def test_what_is_assigned_is_rounded_to_the_nearest(precision: str) -> None:
    table = ReferenceTable(TableConfig(name="t", dim=4, storage=Storage(precision=precision)))
    ids, rows = torch.arange(500), torch.randn(500, 4, generator=torch.Generator().manual_seed(3))
    table.assign(ids, rows)
    assert torch.equal(table.lookup(ids), rows.to(DTYPES[precision]).float())
    table.assign(ids, -rows)
    assert torch.equal(table.lookup(ids), -rows.to(DTYPES[precision]).float())


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_serving_rows_have_a_precision_of_their_own(precision: str) -> None:
    config = TableConfig(name="t", dim=8, storage=Storage(precision="bfloat16", serving_precision=precision))
    table = ReferenceTable(config, serving=True)
    ids, rows = torch.arange(300), torch.randn(300, 8, generator=torch.Generator().manual_seed(3))
    table.assign(ids, rows)
    off = (table.lookup(ids) - rows).abs().amax(dim=1) / rows.abs().amax(dim=1)
    low, high = {"float32": (0.0, 0.0), "float16": (1e-5, 5e-4), "int8": (1e-4, 0.5 / 127 * 1.001)}[precision]
    assert low <= off.max() <= high


def test_an_id_without_a_row_reads_the_same_whatever_rows_are_kept_in() -> None:
    ids = torch.arange(-20, 20)
    kept = [Storage(), Storage(precision="bfloat16"), Storage(precision="float16", serving_precision="int8")]
    tables = [
        ReferenceTable(TableConfig(name="t", dim=4, storage=storage), serving=serving)
        for storage in kept
        for serving in (False, True)
    ]
    assert all(torch.equal(table.lookup(ids), tables[0].initial(ids)) for table in tables)


@pytest.mark.parametrize("precision", DTYPES)
def test_a_state_continues_bit_by_bit(precision: str) -> None:
    table = learned(precision, 50, 0.7, steps=4)
    other = ReferenceTable(table.config)
    other.restore(table.state())
    ids = torch.arange(60)
    for one in (table, other):
        one.update(ids, torch.full((60, 3), -0.2), torch.ones_like(ids), ids)
    for name, value in table.state().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other.state()[name]), name  # type: ignore[arg-type]


def test_a_row_beyond_the_range_stays_finite() -> None:
    config = TableConfig(name="t", dim=2, rule=SGD(lr=1.0), init=Zeros(), storage=Storage(precision="float16"))
    table, one = ReferenceTable(config), torch.ones(1, dtype=torch.int64)
    table.update(one, torch.tensor([[1e6, -3e38]]), one, one)
    assert table.lookup(one).tolist() == [[-65504.0, 65504.0]]
