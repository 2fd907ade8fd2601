from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headrace.errors import CorruptSnapshot, HeadraceError, RowRuleMismatch
from headrace.store import (
    SGD,
    Adagrad,
    Adam,
    AdmitAll,
    AdmitCount,
    AdmitProbability,
    AdmitSketch,
    Constant,
    TableConfig,
)
from headrace.store.checked import CheckedTable
from headrace.types import State

Update = Callable[..., None]
CONFIG = TableConfig(name="t", dim=2, rule=Adagrad(), admission=AdmitCount(2))


@pytest.fixture
def saved(kind: type[CheckedTable], update: Update) -> State:
    table = kind(CONFIG)
    update(table, [1, 2, 3], counts=2, times=[1, 2, 3])
    update(table, [8, 9], times=4)
    table.remove(torch.tensor([2]))
    return table.state()


@pytest.mark.parametrize(
    "other",
    [
        {"dim": 3}, {"rule": SGD()}, {"rule": Adagrad(lr=0.06)}, {"rule": Adam()}, {"init": Constant(1.0)}, {"seed": 1},
        {"name": "u"},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_of_another_table_is_refused(
    kind: type[CheckedTable], saved: State, other: dict[str, object], update: Update
) -> None:
    settings = {"name": "t", "dim": 2, "rule": Adagrad(), **other}
    table = kind(TableConfig(**settings))  # type: ignore[arg-type]
    update(table, [77])
    with pytest.raises(RowRuleMismatch, match=next(iter(other))):
        table.restore(saved)
    assert table.rows().ids.tolist() == [77]


def test_a_serving_table_refuses_the_state_of_a_training_table(kind: type[CheckedTable], saved: State) -> None:
    with pytest.raises(RowRuleMismatch, match="serving"):
        kind(CONFIG, serving=True).restore(saved)


@pytest.mark.parametrize("admission", [AdmitAll(), AdmitCount(5), AdmitProbability(0.5)], ids=str)
def test_admission_may_change_between_runs(kind: type[CheckedTable], saved: State, admission: AdmitAll) -> None:
    table = kind(TableConfig(name="t", dim=2, rule=Adagrad(), admission=admission))
    table.restore(saved)
    assert table.stats().pending == 2


def test_admit_all_takes_over_ids_that_waited(kind: type[CheckedTable], saved: State, update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2, rule=Adagrad()))
    table.restore(saved)
    update(table, [8], times=0)
    assert table.stats().pending == 1
    assert table.evict(4) == 2  # not id 8: it was touched at 4 while it waited


def sketched(kind: type[CheckedTable], **settings: int) -> CheckedTable:
    return kind(TableConfig(name="t", dim=2, admission=AdmitSketch(2, **{"cells_per_bucket": 8} | settings)))


def test_a_sketch_of_another_shape_is_refused(kind: type[CheckedTable], update: Update) -> None:
    table = sketched(kind)
    update(table, [1, 2])
    for other in ({"cells_per_bucket": 16}, {"depth": 2}):
        with pytest.raises(RowRuleMismatch, match="sketch"):
            sketched(kind, **other).restore(table.state())
    again = sketched(kind, age_after=9)
    again.restore(table.state())
    update(again, [1, 3])
    assert again.contains(torch.tensor([1, 2, 3])).tolist() == [True, False, False]


def test_a_sketch_may_begin_and_end_between_runs(kind: type[CheckedTable], update: Update) -> None:
    plain, counted = kind(TableConfig(name="t", dim=2)), sketched(kind)
    update(plain, [1])
    counted.restore(plain.state())
    update(counted, [1, 2])
    assert counted.contains(torch.tensor([1, 2])).tolist() == [True, False]
    plain.restore(counted.state())
    update(plain, [2])
    assert plain.contains(torch.tensor([1, 2])).tolist() == [True, True]


def damage(name: str, value: object) -> Callable[[State], None]:
    def change(state: State) -> None:
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name]) if callable(value) else value  # type: ignore[assignment]

    return change


DAMAGES = {
    "no format": damage("format", None),
    "another format": damage("format", 99),
    "no ids": damage("ids", None),
    "ids as list": damage("ids", [1, 3]),
    "ids of another dtype": damage("ids", lambda ids: ids.int()),
    "ids out of order": damage("ids", lambda ids: ids.flip(0)),
    "one row short": damage("rows", lambda rows: rows[:-1]),
    "another slot width": damage("slots", lambda slots: slots[:, :-1].contiguous()),
    "one time short": damage("times", lambda times: times[:-1]),
    "marks of the future": damage("marks", lambda marks: marks + 100),
    "marks of zero": damage("marks", lambda marks: marks * 0),
    "an id that waits and has a row": damage("pending_ids", lambda ids: torch.tensor([1, 9])),
    "a count of zero": damage("pending_counts", lambda counts: counts * 0),
    "a removed id with a row": damage("removed_ids", lambda ids: torch.tensor([1])),
    "a removal before the floor": damage("floor", 3),
    "a floor after the mark": damage("floor", 50),
    "a negative mark": damage("mark", -1),
    "a mark that is no number": damage("mark", "3"),
    "counters missing": damage("evicted", None),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_state_is_refused_before_anything_changes(
    kind: type[CheckedTable], saved: State, case: str, update: Update
) -> None:
    table = kind(CONFIG)
    update(table, [77], counts=2)
    DAMAGES[case](saved)
    with pytest.raises(CorruptSnapshot):
        table.restore(saved)
    assert table.rows().ids.tolist() == [77]
    assert table.mark() == 1


def test_a_state_without_a_spec_is_refused(kind: type[CheckedTable], saved: State) -> None:
    for spec in (None, {}, "t"):
        saved["spec"] = spec  # type: ignore[assignment]
        with pytest.raises(HeadraceError):
            kind(CONFIG).restore(saved)
