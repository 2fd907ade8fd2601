from __future__ import annotations

import numpy as np
import torch

from headrace.store import SGD, ReferenceTable, TableConfig


def test_the_row_rule_runs_once_for_all_rows_of_a_step() -> None:
    calls: list[tuple[int, ...]] = []

    class Counting(SGD):
        def step(self, rows: np.ndarray, slots: np.ndarray, grads: np.ndarray) -> None:
            calls.append(rows.shape)
            super().step(rows, slots, grads)

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
