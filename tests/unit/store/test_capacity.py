"""Capacity: the numbers, and which rows go. What must happen is written a second time here, as plainly as can be."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from headrace.errors import CapacityError, ConfigError, StaleError
from headrace.store import SGD, Adam, AdmitAll, AdmitCount, AdmitProbability, ReferenceTable, TableConfig, Zeros
from headrace.store.admission import AdmitSketch
from headrace.store.capacity import (
    bytes_for,
    capacity_rows,
    content_bytes,
    going,
    head_bytes,
    most_frequent,
    pending_limit,
    removal_limit,
    row_bytes,
    victims,
)
from headrace.store.checked import CheckedTable
from headrace.store.storage import LFU, LRU, Storage, WhenFull

Update = Callable[..., None]
BUDGET = 200_000


def config(max_bytes: int | None = BUDGET, when_full: WhenFull | None = None, **settings: object) -> TableConfig:
    storage = Storage(max_bytes=max_bytes, when_full=when_full or LFU())
    return TableConfig(**{"name": "t", "dim": 2, "rule": SGD(), "init": Zeros(), "storage": storage, **settings})  # type: ignore[arg-type]


def make(
    kind: type[CheckedTable], capacity: int, when_full: WhenFull | None = None, **settings: object
) -> CheckedTable:
    if "_capacity" not in inspect.signature(kind).parameters:
        pytest.skip("a table without a bound for tests")
    serving = bool(settings.pop("serving", False))
    return kind(config(when_full=when_full, **settings), serving=serving, _capacity=capacity)  # type: ignore[call-arg]


def ids(table: CheckedTable) -> list[int]:
    return [int(one) for one in table.rows().ids.tolist()]


# ------------------------------------------------------------------------------------------------------- numbers


def test_heads_and_rows_are_as_large_as_what_is_kept() -> None:
    assert head_bytes(config()) == 8 + 8 + 4 + 1
    assert head_bytes(config(when_full=LRU())) == head_bytes(config(None)) == 8 + 8 + 4
    assert bytes_for(config(None), 1000) == bytes_for(config(), 1000)  # it plans for a bounded table
    assert head_bytes(config(), serving=True) == 8 + 8
    plain = TableConfig(name="t", dim=3, storage=Storage(event_times=False, history=False))
    assert head_bytes(plain) == 8
    sizes = {"float32": 12, "bfloat16": 8, "float16": 8}
    for precision, size in sizes.items():
        table = TableConfig(name="t", dim=3, rule=Adam(), storage=Storage(precision=precision))
        assert row_bytes(table) == size + 4 * 8
    assert row_bytes(TableConfig(name="t", dim=5, storage=Storage(serving_precision="int8")), serving=True) == 12


@pytest.mark.parametrize("serving", [False, True])
@pytest.mark.parametrize("admission", [AdmitAll(), AdmitCount(5), AdmitProbability(0.1), AdmitSketch(5)], ids=str)
@pytest.mark.parametrize("storage", [Storage(max_bytes=10**9), Storage(max_bytes=10**9, history=False)], ids=str)
def test_bytes_for_is_the_smallest_budget(storage: Storage, admission: object, serving: bool) -> None:
    def capacity(budget: int) -> int | None:
        kept = Storage(max_bytes=budget, history=storage.history)
        return capacity_rows(config(storage=kept, admission=admission), serving)

    table = config(storage=storage, admission=admission)
    floor = max(bytes_for(table, 64, side) for side in (False, True))
    for rows in (1000, 1001, 50_000, 123_457, 10**6):
        budget = bytes_for(table, rows, serving)
        assert budget > content_bytes(table, rows, serving)
        if budget > floor:
            assert capacity(budget) == rows
            assert capacity(budget - 1) == rows - 1


def test_capacity_never_falls_when_the_budget_rises() -> None:
    budgets = [*range(100_000, 103_000), *range(10**6, 10**8, 999_983), 10**12]
    rows = [capacity_rows(config(budget)) for budget in budgets]
    assert rows == sorted(rows)  # type: ignore[type-var]
    assert rows[-1] == 2**32 - 2
    assert capacity_rows(config(None)) is None


def test_what_a_row_costs_in_a_large_table() -> None:
    table = TableConfig(name="t", dim=16)
    beside = bytes_for(table, 10**7) * 7 / 8 / 10**7 - row_bytes(table)
    assert beside == pytest.approx(8 + 8 + 4 + 1 + 11.2 + 3 / 8, abs=0.8)


def test_the_filter_is_counted() -> None:
    base = content_bytes(config(), 1000)
    waiting = content_bytes(config(admission=AdmitCount(3)), 1000) - base
    assert waiting > pending_limit(1000) * (20 + 8 + 11.2)
    assert content_bytes(config(10**7, admission=AdmitSketch(3, cells_per_bucket=16)), 1000) == base + 4096 * 20
    assert content_bytes(config(admission=AdmitCount(3)), 1000, serving=True) < base


def test_a_budget_below_64_rows_is_refused_with_what_is_needed() -> None:
    needed = max(bytes_for(config(None), 64, serving) for serving in (False, True))
    assert capacity_rows(config(needed)) >= 64  # type: ignore[operator]
    with pytest.raises(ConfigError, match=f"at least {needed}, room for 64 rows"):
        config(needed - 1)


def test_rows_that_serve_may_be_the_larger_ones() -> None:
    storage = Storage(precision="bfloat16", max_bytes=10**6)
    table = config(dim=64, storage=storage)
    assert capacity_rows(table, serving=True) < capacity_rows(table)  # type: ignore[operator]
    needed = bytes_for(table, 64, serving=True)
    with pytest.raises(ConfigError, match=str(needed)):
        config(dim=64, storage=Storage(precision="bfloat16", max_bytes=needed - 1))


def test_a_few_more_than_needed_go() -> None:
    assert [going(excess, 6400, 10**6) for excess in (-1, 0, 1, 100, 101)] == [0, 0, 100, 100, 101]
    assert going(50, 640, 20) == 20
    assert going(1, 3, 20) == 1


def test_victims_are_expired_then_rare_then_old_then_small() -> None:
    generator = random.Random(5)
    for _ in range(200):
        n = generator.randrange(1, 12)
        numbers = generator.sample(range(-20, 20), n)
        times = [generator.choice([-(2**63), 0, 1, 2, 2**63 - 1]) for _ in range(n)]
        frequencies = [generator.choice([0, 1, 255]) for _ in range(n)]
        oldest = generator.choice([None, 1, -(2**64), 2**63 - 1])
        order = sorted(
            zip(numbers, times, frequencies, strict=True),
            key=lambda row: (oldest is None or row[1] >= oldest, row[2], row[1], row[0]),
        )
        arrays = (np.array(values, np.int64) for values in (numbers, times, frequencies))
        assert victims(*arrays, oldest, n // 2).tolist() == [row[0] for row in order[: n // 2]]


def test_most_frequent_ids_are_kept_ties_by_the_smaller_id() -> None:
    kept = most_frequent(np.array([5, 3, 9, 1]), np.array([2, 2, 2**63 - 1, 1]), 2)
    assert kept.tolist() == [False, True, True, False]
    assert most_frequent(np.array([5, 3]), np.array([1, 1]), 7).tolist() == [True, True]


# --------------------------------------------------------------------------------------------------------- model


@dataclass
class Model:
    """What a table with a bound holds: frequency and time by id, in lists and loops."""

    capacity: int
    lfu: bool
    ttl: int | None
    rows: dict[int, list[int]] = field(default_factory=dict)
    newest: int = -(2**63)
    evicted: int = 0
    filtered: int = 0

    def order(self, one: int) -> tuple[int, int, int, int]:
        frequency, time = self.rows[one]
        expired = self.ttl is not None and time < self.newest - self.ttl
        return (0 if expired else 1, frequency if self.lfu else 0, time, one)

    def call(self, given: dict[int, tuple[int, int]], learns: bool) -> set[int]:
        """Take a call of id -> (count, time) and return the ids that went."""
        self.newest = max([self.newest, *(time for _, time in given.values())])
        fresh = [one for one in given if one not in self.rows]
        gone: list[int] = []
        if len(self.rows) + len(fresh) > self.capacity:
            wanted = max(len(self.rows) + len(fresh) - self.capacity, math.floor(self.capacity / 64))
            gone = sorted((one for one in self.rows if one not in given), key=self.order)[:wanted]
        for one in gone:
            del self.rows[one]
        if gone and self.lfu:
            for row in self.rows.values():
                row[0] = row[0] // 2
        self.evicted += len(gone)
        fresh.sort(key=lambda one: (-given[one][0], one))
        room = self.capacity - len(self.rows)
        self.filtered += len(fresh[room:])
        for one in fresh[:room]:
            self.rows[one] = [0, given[one][1]]
        for one, (count, time) in given.items():
            if one in self.rows:
                row = self.rows[one]
                row[0] = min(255, row[0] + count) if learns else row[0]
                row[1] = max(row[1], time)
        return set(gone)


@pytest.mark.parametrize("ttl_s", [None, 20e-6])
@pytest.mark.parametrize("when_full", [LFU(), LRU()], ids=str)
@pytest.mark.parametrize("capacity", [1, 7, 64, 200])
def test_a_table_holds_what_the_model_holds(
    kind: type[CheckedTable], capacity: int, when_full: WhenFull, ttl_s: float | None
) -> None:
    table = make(kind, capacity, when_full, ttl_s=ttl_s)
    model = Model(capacity, isinstance(when_full, LFU), None if ttl_s is None else round(ttl_s * 1e6))
    generator = random.Random(capacity)
    for step in range(150):
        sizes = (0, 1, capacity // 3 + 1, generator.choice([capacity, capacity + 5]))
        numbers = {int(generator.paretovariate(0.7) * 3) % (4 * capacity + 9) for _ in range(generator.choice(sizes))}
        given = {one: (generator.choice([1, 1, 3, 400]), step + generator.randrange(-15, 3)) for one in numbers}
        order = list(given)
        generator.shuffle(order)
        now = torch.tensor(order, dtype=torch.int64)
        counts, times = (torch.tensor([given[one][at] for one in order], dtype=torch.int64) for at in (0, 1))
        mark, learns = table.mark(), generator.random() < 0.8
        if learns:
            table.update(now, torch.ones(len(now), 2), counts, times)
        elif len(now) > capacity:
            with pytest.raises(CapacityError, match=f"at most {capacity}"):
                table.assign(now, torch.ones(len(now), 2), times)
            assert table.mark() == mark
            continue
        else:
            table.assign(now, torch.ones(len(now), 2), times)
        gone = model.call(given, learns)
        assert table.changes(mark).removed.tolist() == sorted(gone)
        state = table.state()
        assert state["ids"].tolist() == sorted(model.rows)  # type: ignore[union-attr]
        held = [model.rows[one] for one in sorted(model.rows)]
        assert state["times"].tolist() == [row[1] for row in held]  # type: ignore[union-attr]
        expected = [row[0] if model.lfu else 0 for row in held]
        assert state["frequencies"].tolist() == expected  # type: ignore[union-attr]
        stats = table.stats()
        assert (stats.evicted, stats.filtered, stats.capacity) == (model.evicted, model.filtered, capacity)


# --------------------------------------------------------------------------------------------------------- cases


def test_rows_of_the_call_are_never_victims(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 4)
    update(table, [1, 2, 3, 4], counts=[9, 9, 9, 9], times=50)
    update(table, [1, 2, 3, 7], times=0)
    assert ids(table) == [1, 2, 3, 7]


def test_what_comes_often_stays_and_popularity_ages(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 4)
    update(table, [1, 2, 3, 4], counts=[300, 2, 2, 2], times=[0, 1, 2, 3])
    for step in range(12):
        update(table, [100 + step], counts=3, times=10 + step)
        assert (1 in ids(table)) == (step < 8), step
    assert table.stats().evicted == 12


def test_lru_goes_by_time_alone(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 3, LRU())
    update(table, [1, 2, 3], counts=[99, 1, 1], times=[0, 5, 5])
    update(table, [4], times=5)
    update(table, [5], times=5)
    assert ids(table) == [3, 4, 5]


def test_expired_rows_go_before_rare_ones(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 3, ttl_s=10e-6)
    update(table, [1, 2, 3], counts=[200, 1, 1], times=[0, 11, 11])
    update(table, [4], times=11)
    assert ids(table) == [2, 3, 4]


def test_a_returning_id_counts_and_starts_afresh(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 2, LRU(), admission=AdmitCount(2))
    update(table, [1, 2, 3], counts=2, times=[1, 2, 3])  # the call alone has more than fits: the smaller ids stay
    assert ids(table) == [1, 2]
    update(table, [4], counts=2, times=9)
    update(table, [1], counts=1, times=9)
    assert ids(table) == [2, 4]
    assert (table.stats().pending, table.stats().filtered) == (1, 2)


def test_what_found_no_room_starts_to_count_again(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 1, admission=AdmitCount(3))
    update(table, [1, 2], counts=2)
    update(table, [1, 2], counts=[2, 1])
    assert ids(table) == [1]
    assert table.stats().pending == 0
    table.remove(torch.tensor([1]))
    update(table, [2], counts=2)
    assert ids(table) == []


def test_a_bounded_filter_drops_what_waits_for_longest(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, 4, admission=AdmitCount(3))
    limit = pending_limit(4)
    update(table, list(range(limit)), counts=2, times=[100 + one for one in range(limit)])
    update(table, [1000], counts=2, times=0)  # goes in, whatever its time: it belongs to the call
    assert table.stats().pending == limit
    update(table, [0, 1], counts=1, times=500)
    assert ids(table) == [1]
    assert table.stats().pending == limit  # 1 has a row, 0 waits anew


def test_a_call_with_more_waiting_ids_than_the_filter_holds_keeps_the_frequent_ones(
    kind: type[CheckedTable], update: Update
) -> None:
    table = make(kind, 4, admission=AdmitCount(100))
    limit = pending_limit(4)
    update(table, [-1], counts=99)
    update(table, list(range(limit + 2)), counts=[1, *[2] * (limit - 1), 3, 1])
    state = table.state()
    assert state["pending_ids"].tolist() == list(range(1, limit + 1))  # type: ignore[union-attr]


def test_serving_tables_drop_the_oldest_rows(kind: type[CheckedTable]) -> None:
    table = make(kind, 3, serving=True)
    table.assign(torch.tensor([1, 2, 3]), torch.ones(3, 2), torch.tensor([5, 1, 1]))
    table.assign(torch.tensor([4, 2]), torch.ones(2, 2), torch.tensor([0, 0]))
    assert ids(table) == [1, 2, 4]
    assert table.stats().evicted == 1
    with pytest.raises(CapacityError, match="at most 3"):
        table.assign(torch.arange(4), torch.ones(4, 2))
    assert ids(table) == [1, 2, 4]


def test_a_bounded_history_keeps_the_newest_half(kind: type[CheckedTable], update: Update) -> None:
    table = kind(config(when_full=LRU()))
    limit, removed, floor = removal_limit(table.config), dict[int, int](), 0
    assert limit == BUDGET // 16 // 100
    for step in range(60):
        some = list(range(step * 23, step * 23 + 40))
        update(table, some)
        removed = {one: mark for one, mark in removed.items() if one not in some}
        table.remove(torch.tensor(some))
        removed |= dict.fromkeys(some, table.mark())
        if len(removed) > limit:
            floor = sorted(removed.values(), reverse=True)[limit // 2]
            removed = {one: mark for one, mark in removed.items() if mark > floor}
        state = table.state()
        assert dict(zip(state["removed_ids"].tolist(), state["removed_marks"].tolist(), strict=True)) == removed  # type: ignore[union-attr]
        assert state["floor"] == floor
    assert floor > 0
    with pytest.raises(StaleError):
        table.changes(floor - 1)
    assert table.changes(floor).removed.tolist() == sorted(removed)


def test_a_state_that_is_too_large_is_refused(kind: type[CheckedTable], update: Update) -> None:
    large, small = make(kind, 50), make(kind, 20)
    update(large, list(range(30)))
    update(small, [77])
    with pytest.raises(CapacityError, match="at most 20"):
        small.restore(large.state())
    assert ids(small) == [77]


def test_stats_name_the_bound(kind: type[CheckedTable]) -> None:
    table = kind(config())
    assert table.stats().max_bytes == BUDGET
    assert table.stats().capacity == capacity_rows(config())
    free = ReferenceTable(config(None)).stats()
    assert (free.capacity, free.max_bytes) == (None, None)
