"""A replica that follows `changes` from any marks, with any pauses, holds the rows of the table: nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import StaleError
from headrace.store import SGD, NativeTable, ReferenceTable, TableConfig, Uniform
from headrace.store.checked import CheckedTable
from headrace.store.storage import LRU, Storage
from headrace.store.table import load_native

KINDS = [
    ReferenceTable,
    pytest.param(NativeTable, marks=pytest.mark.skipif(load_native() is None, reason="native module not built")),
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["update", "update", "remove", "evict", "assign", "clear", "read", "read", "forget"]),
        st.integers(0, 2**32),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


def act(table: CheckedTable, what: str, generator: torch.Generator, now: int) -> None:
    ids = torch.unique(torch.randint(-12, 12, (6,), generator=generator))
    ones = torch.ones_like(ids)
    if what == "update":
        table.update(ids, torch.randn(len(ids), 2, generator=generator), ones, ones * now)
    elif what == "assign":
        table.assign(ids, torch.randn(len(ids), 2, generator=generator), ones * now)
    elif what == "remove":
        table.remove(ids)
    elif what == "evict":
        table.evict(now - 5)
    else:
        table.clear()


def follow(table: CheckedTable, replica: CheckedTable, since: int) -> int:
    """Bring the replica up to date as the publisher does: a delta, or all rows when the delta is gone."""
    try:
        change = table.changes(since)
    except StaleError:
        change = table.rows()
        replica.clear()
    assert not set(change.ids.tolist()) & set(change.removed.tolist())
    assert change.ids.tolist() == sorted(change.ids.tolist())
    assert change.removed.tolist() == sorted(change.removed.tolist())
    replica.remove(change.removed)
    replica.assign(change.ids, change.rows)
    return table.mark()


STORAGES = {
    "free": (Storage(), None), "full": (Storage(max_bytes=10**6), 9),
    "full by age": (Storage(max_bytes=10**6, when_full=LRU()), 9), "without history": (Storage(history=False), None),
}  # fmt: skip


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_replicas_that_read_at_their_own_pace_equal_the_table(
    kind: type[CheckedTable], storage: str, steps: list[tuple[str, int]]
) -> None:
    kept, capacity = STORAGES[storage]
    config = TableConfig(name="t", dim=2, rule=SGD(), init=Uniform())
    table = kind(replace(config, storage=kept), _capacity=capacity)  # type: ignore[call-arg]
    replicas, marks = [kind(config, serving=True) for _ in range(3)], [0, 0, 0]
    for now, (what, seed) in enumerate(steps):
        generator = torch.Generator().manual_seed(seed)
        consumer = seed % 3
        if what == "read":
            marks[consumer] = follow(table, replicas[consumer], marks[consumer])
        elif what == "forget":
            table.forget(marks[consumer])
        else:
            act(table, what, generator, now)
    everything = torch.arange(-14, 14)
    for replica, mark in zip(replicas, marks, strict=True):
        follow(table, replica, mark)
        assert torch.equal(replica.lookup(everything), table.lookup(everything))
        assert torch.equal(replica.contains(everything), table.contains(everything))


@pytest.mark.skipif(load_native() is None, reason="native module not built")
def test_learning_the_same_ids_again_takes_no_memory() -> None:
    table = NativeTable(TableConfig(name="t", dim=2))
    ids = torch.arange(2000)
    ones = torch.ones_like(ids)
    table.update(ids, torch.ones(2000, 2), ones, ones)
    first = table.stats().bytes
    for _ in range(300):
        table.update(ids, torch.ones(2000, 2), ones, ones)
    assert table.stats().bytes == first
    assert table.changes(1).ids.tolist() == ids.tolist()


@pytest.mark.skipif(load_native() is None, reason="native module not built")
def test_the_history_stays_within_twice_the_removals_that_count() -> None:
    table = NativeTable(TableConfig(name="t", dim=2))
    ids = torch.arange(2000)
    ones, sizes = torch.ones_like(ids), []
    for _ in range(100):  # the same ids come and go: one removal each counts
        table.update(ids, torch.ones(2000, 2), ones, ones)
        table.remove(ids)
        sizes.append(table.stats().bytes)
    assert max(sizes[5:]) <= sizes[0] + 8 * 3 * (2 * 2000 + 1024)
    assert table.changes(0).removed.tolist() == ids.tolist()
