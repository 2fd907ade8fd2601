"""A table with `max_bytes` never holds more, whatever it is made of and whatever happens to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.store import (
    FTRL,
    LFU,
    LRU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    AdmitAll,
    AdmitCount,
    AdmitProbability,
    AdmitSketch,
    GroupFTRL,
    Momentum,
    NativeTable,
    RowWiseAdagrad,
    Storage,
    TableConfig,
    begin_save,
    bytes_for,
)
from headrace.store.capacity import MIN_ROWS
from headrace.store.table import load_native

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

MOST = 20_000_000
RULES = [
    SGD(), Adagrad(), Adam(), FTRL(), Momentum(), RowWiseAdagrad(), Adam(correction="none"), AdamW(), GroupFTRL(),
]  # fmt: skip
ADMISSIONS = [
    AdmitAll(), AdmitAll(), AdmitCount(2), AdmitCount(3), AdmitProbability(0.5), AdmitSketch(2, cells_per_bucket=8),
]  # fmt: skip
ACTS = ["update", "update", "update", "large update", "again", "assign", "remove", "remove one by one", "evict",
        "save", "wait", "clear", "forget", "copy"]  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> TableConfig:
    """Draw a table with a budget from the least that is accepted to 20 MB, small ones as often as large ones."""
    settings: dict[str, Any] = {
        "name": "t", "dim": draw(st.integers(1, 64)), "rule": draw(st.sampled_from(RULES)),
        "admission": draw(st.sampled_from(ADMISSIONS)), "ttl_s": draw(st.sampled_from([None, 8e-6])),
    }  # fmt: skip
    kept: dict[str, Any] = {
        "precision": draw(st.sampled_from(["float32", "float32", "bfloat16", "float16"])),
        "history": draw(st.booleans()), "when_full": draw(st.sampled_from([LFU(), LRU()])),
    }  # fmt: skip
    roomy = TableConfig(**settings, storage=Storage(**kept, max_bytes=2**40))
    least = max(bytes_for(roomy, MIN_ROWS, serving) for serving in (False, True))
    share = draw(st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0.0, 1.0))
    budget = min(max(round(least * (MOST / least) ** share), least), max(MOST, least))
    return TableConfig(**settings, storage=Storage(**kept, max_bytes=budget))


class Walk:
    """Does things to a table and looks at its bytes after each."""

    def __init__(self, table: NativeTable, folder: Path) -> None:
        self.table, self.folder, self.saves = table, folder, list[Any]()
        self.next, self.now = 0, 0

    def check(self) -> None:
        """Assert that the table is within its budget."""
        stats = self.table.stats()
        assert stats.max_bytes is not None
        assert stats.capacity is not None
        assert stats.bytes <= stats.max_bytes, stats
        assert stats.rows <= stats.capacity, stats

    def update(self, ids: torch.Tensor, count: int = 1) -> None:
        """Learn ids, at the present time."""
        grads = torch.ones(len(ids), self.table.config.dim)
        self.table.update(ids, grads, torch.full_like(ids, count), torch.full_like(ids, self.now))
        self.check()

    def fresh(self, count: int) -> torch.Tensor:
        """Return ids that never came before; their bits are mixed by the table."""
        self.next += count
        return torch.arange(self.next - count, self.next)

    def act(self, what: str, size: int) -> None:
        """Do one thing."""
        table = self.table
        capacity = table.stats().capacity or 0
        some = max(1, capacity * size // 100)
        if what == "update":
            self.update(self.fresh(some), 1 + size % 4)
        elif what == "large update":
            self.update(self.fresh(min(capacity * 5 // 4 + 3, 200_000)), 3)
        elif what == "again":
            self.update(torch.arange(max(self.next - some, 0), self.next))
        elif what == "assign":
            ids = self.fresh(some)
            table.assign(ids, torch.ones(some, table.config.dim), torch.full_like(ids, self.now))
        elif what == "remove":
            table.remove(torch.arange(max(self.next - some, 0), self.next))
        elif what == "remove one by one":
            for one in range(max(self.next - min(some, 400), 0), self.next):
                table.remove(torch.tensor([one]))
        elif what == "evict":
            table.evict(self.now - size // 10)
        elif what in ("clear", "forget"):
            table.clear() if what == "clear" and size < 30 else table.forget(table.mark())
        elif what == "copy":
            table.restore(table.state())
        elif what == "save" and not self.saves:
            self.saves.append(begin_save(table, self.folder / "table"))
        elif what == "wait" and self.saves:
            self.saves.pop().wait()
        self.check()
        self.now += 1


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(config=configs(), acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(1, 100)), min_size=3, max_size=12))
def test_bytes_stay_within_the_budget(tmp_path: Path, config: TableConfig, acts: list[tuple[str, int]]) -> None:
    walk = Walk(NativeTable(config), tmp_path)
    walk.check()
    walk.update(walk.fresh(min((walk.table.stats().capacity or 0) * 2, 200_000)), 3)
    for what, size in acts:
        walk.act(what, size)
    for saving in walk.saves:
        saving.wait()
    walk.check()


@pytest.mark.parametrize("when_full", [LFU(), LRU()], ids=["lfu", "lru"])
def test_a_table_of_the_least_budget_learns(when_full: LFU | LRU) -> None:
    roomy = TableConfig(name="t", dim=4, storage=Storage(max_bytes=2**30, when_full=when_full))
    least = max(bytes_for(roomy, MIN_ROWS, serving) for serving in (False, True))
    config = TableConfig(name="t", dim=4, storage=Storage(max_bytes=least, when_full=when_full))
    walk = Walk(NativeTable(config), Path())
    for _ in range(50):
        walk.update(walk.fresh(50))
    assert MIN_ROWS <= (walk.table.stats().capacity or 0) < 2 * MIN_ROWS
    assert walk.table.stats().rows > MIN_ROWS // 2


@pytest.mark.parametrize("serving_precision", ["float32", "float16", "int8"])
def test_a_table_that_serves_stays_within_it_too(serving_precision: Any) -> None:
    for budget in (300_000, 3_000_000):
        storage = Storage(max_bytes=budget, serving_precision=serving_precision)
        table = NativeTable(TableConfig(name="t", dim=9, storage=storage), serving=True)
        capacity = table.stats().capacity or 0
        for step in range(40):
            ids = torch.arange(step * capacity // 9, step * capacity // 9 + capacity // 3)
            table.assign(ids, torch.ones(len(ids), 9), torch.full_like(ids, step))
            assert table.stats().bytes <= budget
        assert table.stats().rows > capacity // 2
