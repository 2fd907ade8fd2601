from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headrace.errors import ConfigError, CorruptSnapshot, StoreError
from headrace.store import Adagrad, AdmitCount, Expiry, TableConfig, Zeros, expire
from headrace.store.checked import CheckedTable

Update = Callable[..., None]
SECOND = 1_000_000


def make(kind: type[CheckedTable], **settings: object) -> CheckedTable:
    return kind(TableConfig(name="t", dim=2, init=Zeros(), **settings))  # type: ignore[arg-type]


def ids(table: CheckedTable) -> list[int]:
    return [int(one) for one in table.rows().ids.tolist()]


def test_evict_drops_what_was_last_touched_before(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind)
    update(table, [1, 2, 3], times=[10, 20, 30])
    assert table.evict(20) == 1
    assert ids(table) == [2, 3]
    assert table.stats().evicted == 1


def test_a_touch_keeps_a_row_alive(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind)
    update(table, [1], times=10)
    update(table, [1], times=50)
    assert table.evict(50) == 0


def test_an_older_event_does_not_make_a_row_older(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind)
    update(table, [1], times=50)
    update(table, [1], times=10)
    assert table.evict(50) == 0


def test_counts_expire_like_rows(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, admission=AdmitCount(3))
    update(table, [1, 2], counts=2, times=[10, 60])
    assert table.evict(50) == 0  # no row was removed
    assert table.stats().pending == 1
    update(table, [1, 2], counts=1, times=70)
    assert ids(table) == [2]


def test_a_row_takes_the_newest_time_of_its_waiting(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, admission=AdmitCount(2))
    update(table, [1], times=90)
    update(table, [1], times=10)
    assert table.evict(90) == 0
    assert ids(table) == [1]


def test_a_returning_id_starts_afresh(kind: type[CheckedTable], update: Update) -> None:
    table, fresh = make(kind, rule=Adagrad(), admission=AdmitCount(2)), make(kind, admission=AdmitCount(2))
    update(table, [1], counts=2, times=10)
    assert table.evict(11) == 1
    update(table, [1], counts=1, times=20)
    assert ids(table) == []  # its count is zero again
    update(table, [1], counts=1, times=20)
    update(fresh, [1], counts=2, times=20)
    assert torch.equal(table.lookup(torch.tensor([1])), fresh.lookup(torch.tensor([1])))  # and its slots are new
    assert table.stats().admitted == 2


def test_an_expired_id_reads_its_initial_row(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2))
    update(table, [1], times=10)
    table.evict(11)
    one = torch.tensor([1])
    assert torch.equal(table.lookup(one), table.initial(one))


def test_evicted_rows_are_changes(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind)
    update(table, [1, 2], times=[10, 30])
    mark = table.mark()
    table.evict(20)
    assert table.changes(mark).removed.tolist() == [1]


def test_evicted_memory_is_used_again(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind)
    sizes = []
    for step in range(12):
        update(table, list(range(step * 5000, step * 5000 + 5000)), times=step)
        table.evict(step)
        table.forget(table.mark())
        sizes.append(table.stats().bytes)
    assert len(table) == 5000
    assert max(sizes[3:]) <= 1.05 * sizes[2]


def test_rows_assigned_without_a_time_expire_first(kind: type[CheckedTable]) -> None:
    table = make(kind)
    table.assign(torch.tensor([1]), torch.ones(1, 2))
    table.assign(torch.tensor([2]), torch.ones(1, 2), torch.tensor([5]))
    assert table.evict(1) == 1
    assert ids(table) == [2]


def test_evict_refuses_what_is_no_time(kind: type[CheckedTable]) -> None:
    table = make(kind)
    for wrong in (1.5, 2**63, True, "now"):
        with pytest.raises(StoreError, match="int64 microseconds"):
            table.evict(wrong)  # type: ignore[arg-type]


def test_expiry_removes_rows_older_than_their_time_to_live(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, ttl_s=100.0)
    update(table, [1, 2], times=[0, 60 * SECOND])
    expiry = Expiry({"t": table})
    removed = sum(expiry.advance(now * SECOND) for now in range(130))
    assert removed == 1
    assert ids(table) == [2]


def test_expiry_leaves_tables_without_a_time_to_live_alone(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind)
    update(table, [1], times=0)
    expiry = Expiry({"t": table})
    mark = table.mark()
    assert expiry.advance(0) + expiry.advance(10**15) == 0
    assert table.mark() == mark


def test_expiry_scans_only_when_a_cell_of_the_grid_is_passed(kind: type[CheckedTable]) -> None:
    table = make(kind, ttl_s=20.0)  # cells of one second
    expiry = Expiry({"t": table})
    for now in range(0, 5 * SECOND, SECOND // 10):
        expiry.advance(now)
    assert table.mark() == 4


def test_expiry_ignores_time_that_goes_backwards(kind: type[CheckedTable]) -> None:
    table = make(kind, ttl_s=20.0)
    expiry = Expiry({"t": table})
    for now in (10 * SECOND, 5 * SECOND, 10 * SECOND):
        expiry.advance(now)
    assert table.mark() == 0


def test_expiry_continues_from_its_state(kind: type[CheckedTable]) -> None:
    table = make(kind, ttl_s=20.0)
    expiry, later = Expiry({"t": table}), Expiry({"t": table})
    expiry.advance(3 * SECOND)
    later.restore(expiry.state())
    later.advance(4 * SECOND)
    assert table.mark() == 1


def test_expiry_refuses_another_state(kind: type[CheckedTable]) -> None:
    with pytest.raises(CorruptSnapshot):
        Expiry({}).restore({"cells": 3})


def test_expire_evicts_by_the_tables_own_setting(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, ttl_s=10.0)
    update(table, [1, 2], times=[0, 5 * SECOND])
    assert expire(table, 12 * SECOND) == 1
    with pytest.raises(ConfigError, match="ttl_s"):
        expire(make(kind), 0)
