from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headrace.errors import ConfigError, NumericError, StaleError, StoreError
from headrace.store import SGD, AdmitCount, ReferenceTable, TableConfig, Zeros
from headrace.store.checked import CheckedTable
from headrace.store.storage import LFU, LRU, Storage

Update = Callable[..., None]
PLAIN = Storage(event_times=False, history=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "float64"}, {"precision": "int8"}, {"serving_precision": "bfloat16"}, {"event_times": 1},
        {"history": None}, {"max_bytes": 0}, {"max_bytes": 1.5e9}, {"max_bytes": True}, {"max_bytes": 2**63},
        {"when_full": "lru"}, {"max_bytes": 10**9, "event_times": False},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"Storage\."):
        Storage(**settings)  # type: ignore[arg-type]


def test_what_is_kept_beside_a_row_follows_from_the_storage() -> None:
    full, least = Storage(max_bytes=10**9), Storage(max_bytes=10**9, when_full=LRU(), history=False)
    assert [full.keeps_frequencies(serving) for serving in (False, True)] == [True, False]
    assert [full.keeps_history(serving) for serving in (False, True)] == [True, False]
    assert not least.keeps_frequencies(False)
    assert not least.keeps_history(False)
    assert not Storage(when_full=LFU()).keeps_frequencies(False)
    assert Storage(precision="bfloat16", serving_precision="int8").row_precision(True) == "int8"
    assert Storage(precision="bfloat16", serving_precision="int8").row_precision(False) == "bfloat16"


@pytest.mark.parametrize(
    "settings",
    [{"storage": "small"}, {"schedule": 0.5}, {"ttl_s": 5.0, "storage": PLAIN}, {"storage": Storage(max_bytes=80_000)}],
    ids=str,
)
def test_a_table_refuses_a_storage_that_does_not_fit_it(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TableConfig(name="t", dim=4, **settings)  # type: ignore[arg-type]


def test_a_plain_table_keeps_no_times(kind: type[CheckedTable], update: Update) -> None:
    one = kind(TableConfig(name="t", dim=2, storage=PLAIN))
    other = kind(TableConfig(name="t", dim=2, storage=PLAIN))
    update(one, [1, 2], times=[50, 2**63 - 1])
    update(other, [1, 2], times=[-7, 3])
    for name, value in one.state().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other.state()[name]), name  # type: ignore[arg-type]
    mark = one.mark()
    with pytest.raises(StoreError, match="event times"):
        one.evict(10)
    assert (one.mark(), len(one)) == (mark, 2)


def test_a_table_without_history_answers_all_or_nothing(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2, storage=Storage(history=False)))
    update(table, [1, 2])
    first = table.mark()
    update(table, [3])
    assert table.remove(torch.tensor([2])) == 1
    assert table.changes(0).ids.tolist() == [1, 3]
    assert table.changes(0).removed.tolist() == []
    assert len(table.changes(table.mark())) == 0
    with pytest.raises(StaleError):
        table.changes(first)
    assert table.evict(1) == 2  # event times are another matter


def test_expiry_goes_on_without_history(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2, storage=Storage(history=False), admission=AdmitCount(2)))
    update(table, [1, 2], counts=[2, 1], times=[10, 20])
    assert table.evict(15) == 1
    assert table.stats().pending == 1


def test_the_schedule_multiplies_the_learning_rate(kind: type[CheckedTable], update: Update) -> None:
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return [0.0, 0.5, 1.0, 2.0][min(step, 3)]

    table = kind(TableConfig(name="t", dim=1, rule=SGD(lr=1.0), init=Zeros(), schedule=schedule))
    values = []
    for _ in range(2):
        update(table, [1])
        values.append(table.lookup(torch.tensor([1])).item())
    table.remove(torch.tensor([9]))  # moves the mark, which the schedule goes by
    update(table, [1])
    values.append(table.lookup(torch.tensor([1])).item())
    assert values == [-0.5, -1.5, -3.5]
    assert sorted(set(asked)) == [1, 2, 4]


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf"), 1e300])
def test_a_schedule_that_gives_no_rate_is_refused(kind: type[CheckedTable], update: Update, factor: float) -> None:
    table = kind(TableConfig(name="t", dim=1, schedule=lambda step: factor))
    with pytest.raises(NumericError, match="schedule"):
        update(table, [1])
    assert (table.mark(), len(table)) == (0, 0)


def test_the_newest_event_time_is_part_of_the_state(update: Update) -> None:
    table = ReferenceTable(TableConfig(name="t", dim=2))
    assert table.state()["newest"] == -(2**63)
    update(table, [1, 2], times=[-5, -9])
    table.assign(torch.tensor([3]), torch.ones(1, 2))
    assert table.state()["newest"] == -5
    table.assign(torch.tensor([3]), torch.ones(1, 2), torch.tensor([8]))
    update(table, [1], times=2)
    assert table.state()["newest"] == 8
