from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headrace.errors import StaleError, StoreError
from headrace.protocols import Resumable, Table
from headrace.store import SGD, Adagrad, Adam, AdmitCount, TableConfig, Zeros
from headrace.store.checked import CheckedTable

Update = Callable[..., None]
EDGES = [-(2**63), -1, 0, 1, 2**63 - 1]


@pytest.fixture
def table(kind: type[CheckedTable]) -> CheckedTable:
    return kind(TableConfig(name="t", dim=2, rule=SGD(lr=1.0), init=Zeros()))


def test_a_table_plays_its_roles(table: CheckedTable) -> None:
    assert isinstance(table, Table)
    assert isinstance(table, Resumable)


def test_every_int64_is_an_id(table: CheckedTable, update: Update) -> None:
    update(table, EDGES, torch.arange(10.0).reshape(5, 2))
    assert torch.equal(table.lookup(torch.tensor(EDGES)), -torch.arange(10.0).reshape(5, 2))
    assert table.rows().ids.tolist() == EDGES
    assert table.remove(torch.tensor(EDGES[1:])) == 4
    assert table.rows().ids.tolist() == EDGES[:1]


def test_lookup_keeps_order_and_repetitions(table: CheckedTable, update: Update) -> None:
    update(table, [1, 2], torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    assert table.lookup(torch.tensor([2, 1, 9, 2]))[:, 0].tolist() == [-2.0, -1.0, 0.0, -2.0]


def test_lookup_changes_nothing(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2, admission=AdmitCount(2)))
    update(table, [1])
    before = table.state()
    for _ in range(5):
        table.lookup(torch.tensor([1, 2, 3]))
    after = table.state()
    assert (table.mark(), len(table), table.stats().pending) == (1, 0, 1)
    assert all(torch.equal(after[name], value) for name, value in before.items() if isinstance(value, torch.Tensor))  # type: ignore[arg-type]


def test_an_id_without_a_row_reads_its_initial_row_in_every_table(kind: type[CheckedTable]) -> None:
    config = TableConfig(name="t", dim=4, seed=3)
    ids = torch.tensor(EDGES)
    training, serving = kind(config), kind(config, serving=True)
    assert torch.equal(training.lookup(ids), serving.lookup(ids))
    assert torch.equal(training.lookup(ids), training.initial(ids))
    assert not torch.equal(training.lookup(ids), kind(TableConfig(name="t", dim=4, seed=4)).lookup(ids))


def test_a_lookup_is_a_copy(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    table.lookup(torch.tensor([1])).fill_(9.0)
    assert table.lookup(torch.tensor([1]))[0, 0] == -1.0


def test_empty_calls_are_fine(table: CheckedTable, update: Update) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    update(table, [])
    assert table.lookup(none).shape == (0, 2)
    assert table.contains(none).shape == (0,)
    assert table.remove(none) == 0
    table.assign(none, torch.zeros(0, 2))
    assert table.mark() == 3


def test_every_write_moves_the_mark_by_one_even_if_it_touches_nothing(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    table.assign(torch.tensor([2]), torch.ones(1, 2))
    table.remove(torch.tensor([77]))
    table.evict(-100)
    table.clear()
    table.clear()
    assert table.mark() == 6


def test_changes_are_sorted_and_each_id_stands_once(table: CheckedTable, update: Update) -> None:
    update(table, [5, -5, 3])
    update(table, [3, 9])
    change = table.changes(0)
    assert change.ids.tolist() == [-5, 3, 5, 9]
    assert torch.equal(change.rows, table.lookup(change.ids))
    assert change.removed.tolist() == []


def test_changes_since_a_mark_hold_only_what_came_after(table: CheckedTable, update: Update) -> None:
    update(table, [1, 2])
    mark = table.mark()
    update(table, [2, 3])
    assert table.changes(mark).ids.tolist() == [2, 3]
    assert len(table.changes(table.mark())) == 0


def test_put_and_removed_appears_only_as_removed(table: CheckedTable, update: Update) -> None:
    update(table, [4, 2])
    table.remove(torch.tensor([4, 2]))
    change = table.changes(0)
    assert (change.ids.tolist(), change.removed.tolist()) == ([], [2, 4])


def test_removed_and_put_again_appears_only_as_put(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    mark = table.mark()
    table.remove(torch.tensor([1]))
    update(table, [1])
    change = table.changes(mark)
    assert (change.ids.tolist(), change.removed.tolist()) == ([1], [])


def test_removing_what_is_not_there_is_no_change(table: CheckedTable) -> None:
    assert table.remove(torch.tensor([1, 1])) == 0
    assert len(table.changes(0)) == 0


def test_remove_counts_a_repeated_id_once(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    assert table.remove(torch.tensor([1, 1, 1])) == 1


def test_consumers_are_independent(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    first = table.changes(0)
    assert torch.equal(table.changes(0).ids, first.ids)  # reading takes nothing away
    update(table, [2])
    assert table.changes(0).ids.tolist() == [1, 2]
    assert table.changes(1).ids.tolist() == [2]


def test_clear_is_a_removal_of_every_row(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2, admission=AdmitCount(2)))
    update(table, [1, 2, 3], counts=[2, 2, 1])
    mark = table.mark()
    table.clear()
    assert (len(table), table.stats().pending) == (0, 0)
    assert table.changes(mark).removed.tolist() == [1, 2]


def test_forgotten_changes_are_refused_not_left_out(table: CheckedTable, update: Update) -> None:
    for one in (1, 2, 3):
        update(table, [one])
    table.remove(torch.tensor([1]))
    table.forget(2)
    for since in (0, 1):
        with pytest.raises(StaleError, match="snapshot"):
            table.changes(since)
    change = table.changes(2)
    assert (change.ids.tolist(), change.removed.tolist()) == ([3], [1])


def test_forgetting_keeps_the_rows(table: CheckedTable, update: Update) -> None:
    update(table, [1, 2])
    table.forget(table.mark())
    assert table.rows().ids.tolist() == [1, 2]
    table.forget(0)  # what is forgotten stays so
    with pytest.raises(StaleError):
        table.changes(0)


def test_a_mark_that_has_not_been_reached_is_refused(table: CheckedTable) -> None:
    with pytest.raises(StaleError):
        table.changes(1)
    with pytest.raises(StoreError, match="forget"):
        table.forget(1)


def test_assign_keeps_slots_and_time_of_rows_that_exist(kind: type[CheckedTable], update: Update) -> None:
    table, other = (kind(TableConfig(name="t", dim=2, rule=Adagrad(lr=1.0))) for _ in range(2))
    update(table, [1], times=50)
    table.assign(torch.tensor([1]), torch.zeros(1, 2))
    update(table, [1], times=60)
    other.assign(torch.tensor([1]), torch.zeros(1, 2))
    update(other, [1], times=60)
    assert table.lookup(torch.tensor([1]))[0, 0] > other.lookup(torch.tensor([1]))[0, 0]  # smaller step: n was larger
    table.assign(torch.tensor([1]), torch.zeros(1, 2), torch.tensor([10]))
    assert table.evict(60) == 0


def test_assign_overwrites_and_inserts(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    table.assign(torch.tensor([2, 1]), torch.tensor([[5.0, 5.0], [6.0, 6.0]]))
    assert table.lookup(torch.tensor([1, 2]))[:, 0].tolist() == [6.0, 5.0]
    assert table.changes(1).ids.tolist() == [1, 2]


def test_a_removed_row_comes_back_with_fresh_slots(kind: type[CheckedTable], update: Update) -> None:
    config = TableConfig(name="t", dim=2, rule=Adam())
    table, fresh = kind(config), kind(config)
    for _ in range(3):
        update(table, [1])
    table.remove(torch.tensor([1]))
    for each in (table, fresh):
        update(each, [1], 0.5)
    assert torch.equal(table.lookup(torch.tensor([1])), fresh.lookup(torch.tensor([1])))


def test_a_serving_table_refuses_to_learn_and_has_no_slots(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2, rule=Adam()), serving=True)
    with pytest.raises(StoreError, match="serving=True"):
        update(table, [1])
    table.assign(torch.tensor([1]), torch.ones(1, 2))
    slots = table.state()["slots"]
    assert isinstance(slots, torch.Tensor)
    assert slots.shape == (1, 0)


def test_a_serving_table_keeps_no_history_but_all_rows(kind: type[CheckedTable]) -> None:
    table = kind(TableConfig(name="t", dim=2), serving=True)
    table.assign(torch.tensor([3, 1]), torch.ones(2, 2))
    table.remove(torch.tensor([3]))
    assert table.changes(0).ids.tolist() == [1]
    assert len(table.changes(table.mark())) == 0
    with pytest.raises(StaleError):
        table.changes(1)


def test_assigning_a_change_twice_equals_once(kind: type[CheckedTable], update: Update) -> None:
    config = TableConfig(name="t", dim=2)
    table, once, twice = kind(config), kind(config, serving=True), kind(config, serving=True)
    update(table, [1, 2, 3])
    table.remove(torch.tensor([2]))
    change = table.changes(0)
    for replica, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            replica.remove(change.removed)
            replica.assign(change.ids, change.rows)
    assert torch.equal(once.rows().ids, twice.rows().ids)
    assert torch.equal(once.rows().rows, table.rows().rows)


def test_stop_and_restore_continues_bit_by_bit(kind: type[CheckedTable], update: Update) -> None:
    config = TableConfig(name="t", dim=2, rule=Adam(), admission=AdmitCount(2))
    straight, stopped = kind(config), kind(config)
    generator = torch.Generator().manual_seed(2)
    for step in range(20):
        ids = torch.unique(torch.randint(0, 15, (6,), generator=generator)).tolist()
        grads = torch.randn(len(ids), 2, generator=generator)
        if step == 11:
            state, stopped = stopped.state(), kind(config)
            stopped.restore(state)
        for each in (straight, stopped):
            update(each, ids, grads, times=step)
            if step % 6 == 5:
                each.evict(step - 4)
    one, other = straight.state(), stopped.state()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name  # type: ignore[arg-type]
    assert torch.equal(straight.changes(7).ids, stopped.changes(7).ids)


def test_a_state_is_a_copy(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    state = table.state()
    update(table, [1, 2])
    assert state["ids"].tolist() == [1]  # type: ignore[union-attr]
    table.restore(state)
    state["rows"].fill_(9.0)  # type: ignore[union-attr]
    assert table.lookup(torch.tensor([1]))[0, 0] == -1.0


def test_repr_says_what_it_is(table: CheckedTable, update: Update) -> None:
    update(table, [1])
    assert "'t', dim=2, training, 1 rows" in repr(table)
