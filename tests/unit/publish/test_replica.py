from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from headrace.errors import ConfigError, GapError, HeadraceError, RowRuleMismatch, StaleError, VersionError
from headrace.publish import Replica, merge
from headrace.store import Normal, TableConfig, Zeros, open_table
from headrace.types import Change, RowChange, Version

NONE = torch.tensor([], dtype=torch.int64)
CONFIG = TableConfig(name="user", dim=3, seed=5)
EVERY_ID = torch.arange(-2, 12)


def tables() -> dict:
    return {"user": open_table(CONFIG, serving=True)}


def replica() -> Replica:
    return Replica(tables(), {"weight": torch.zeros(2)})


def content(one: Replica) -> tuple:
    return one.version.number, one.tables["user"].lookup(EVERY_ID).tolist(), one.dense["weight"].tolist()


class Kept:
    """Changes and a snapshot in memory; those before `first` are trimmed."""

    def __init__(self, changes: list[Change], snapshot: Change | None = None, first: int = 0) -> None:
        self.changes, self.kept, self.first = changes, snapshot, first

    def last(self) -> Version:
        return self.changes[-1].version

    def read_since(self, number: int) -> Iterator[Change]:
        if number + 1 < self.first:
            raise StaleError("Topic", got=number, expected=f"at least {self.first}")
        return iter(self.changes[number + 1 :])

    def snapshot(self) -> Change | None:
        return self.kept

    def published_at(self) -> int:
        return 1


def test_a_replica_follows_change_by_change(change) -> None:
    one = replica()
    one.apply(change(0))
    one.apply(change(1))
    initial = one.tables["user"].initial(torch.tensor([0]))
    assert one.version == Version(1, 0)
    assert one.tables["user"].lookup(torch.tensor([1, 2])).equal(change(1).tables["user"].rows)
    assert one.tables["user"].lookup(torch.tensor([0])).equal(initial)  # removed by version 1
    assert one.dense["weight"].tolist() == [1.0, 1.0]


def test_applying_twice_is_applying_once(change) -> None:
    once, twice = replica(), replica()
    for number in range(4):
        once.apply(change(number))
        twice.apply(change(number))
        twice.apply(change(number))
        twice.apply(change(0))
    assert content(once) == content(twice)


@pytest.mark.parametrize("number", [1, 3, 9])
def test_a_gap_is_refused_and_changes_nothing(change, number: int) -> None:
    one = replica()
    if number > 1:
        one.apply(change(0))
    before = content(one)
    with pytest.raises(GapError, match=f"Change {number}: got parent {number - 1}, expected parent"):
        one.apply(change(number))
    assert content(one) == before


def test_a_full_change_replaces_everything(change) -> None:
    one, fresh = replica(), replica()
    for number in range(4):
        one.apply(change(number))
    full = change(9, full=True)
    one.apply(full)
    fresh.apply(full)
    assert content(one) == content(fresh)
    assert len(one.tables["user"]) == 2


def test_a_table_that_a_full_change_does_not_name_is_emptied(change) -> None:
    item = open_table(TableConfig(name="item", dim=2), serving=True)
    one = Replica({**tables(), "item": item}, {"weight": torch.zeros(2)})
    both = replace(change(0), tables={**change(0).tables, "item": RowChange(torch.tensor([3]), torch.ones(1, 2), NONE)})
    one.apply(both)
    one.apply(change(5, full=True))
    assert len(one.tables["item"]) == 0


def test_an_older_full_change_is_passed_over(change) -> None:
    one = replica()
    one.apply(change(9, full=True))
    before = content(one)
    one.apply(change(5, full=True))
    assert content(one) == before


def test_a_module_moves_with_its_parameters_and_buffers() -> None:
    model = nn.BatchNorm1d(2)
    one = Replica({}, model)
    dense = {name: value + 1 for name, value in model.state_dict().items()}
    one.apply(Change(version=Version(0), dense=dense, full=True))
    assert model.weight.tolist() == [2.0, 2.0]
    assert model.running_mean.tolist() == [1.0, 1.0]
    assert int(model.num_batches_tracked) == 1


def wrong(change, **parts: object) -> Change:
    return replace(change(0), **parts)


def spec_of(config: TableConfig) -> dict[str, str]:
    return {f"table/{config.name}": config.spec()}


REFUSED = {
    "unknown table": (VersionError, lambda c: wrong(c, tables={"usr": c(0).tables["user"]}), "'user'"),
    "other width": (
        RowRuleMismatch,
        lambda c: wrong(c, tables={"user": RowChange(torch.tensor([1]), torch.ones(1, 4), NONE)}),
        "width 4",
    ),
    "NaN": (
        VersionError,
        lambda c: wrong(c, tables={"user": RowChange(torch.tensor([1]), torch.full((1, 3), float("nan")), NONE)}),
        "NaN",
    ),
    "ids out of order": (
        VersionError,
        lambda c: wrong(c, tables={"user": RowChange(torch.tensor([2, 1]), torch.ones(2, 3), NONE)}),
        "ascending",
    ),
    "unknown dense tensor": (VersionError, lambda c: wrong(c, dense={"wieght": torch.zeros(2)}), "'weight'"),
    "other dense shape": (VersionError, lambda c: wrong(c, dense={"weight": torch.zeros(3)}), r"\(3,\)"),
    "other dense type": (VersionError, lambda c: wrong(c, dense={"weight": torch.zeros(2).double()}), "float64"),
    "dense tensor missing in a full change": (VersionError, lambda c: wrong(c, dense={}, full=True), "weight"),
    "other seed": (
        RowRuleMismatch,
        lambda c: wrong(c, spec=spec_of(TableConfig(name="user", dim=3, seed=6))),
        '"seed": 6',
    ),
    "other initial rows": (
        RowRuleMismatch,
        lambda c: wrong(c, spec=spec_of(TableConfig(name="user", dim=3, seed=5, init=Zeros()))),
        "Zeros",
    ),
    "other spread of initial rows": (
        RowRuleMismatch,
        lambda c: wrong(c, spec=spec_of(TableConfig(name="user", dim=3, seed=5, init=Normal(0.5)))),
        "Normal",
    ),
    "described table missing": (
        VersionError,
        lambda c: wrong(c, spec=spec_of(TableConfig(name="city", dim=3))),
        "city",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_change_for_another_model_is_refused_before_anything_changes(change, name: str) -> None:
    error, make, text = REFUSED[name]
    one = replica()
    before = content(one)
    with pytest.raises(error, match=text):
        one.apply(make(change))
    assert content(one) == before
    one.apply(change(0))
    assert one.version.number == 0


def test_a_change_that_agrees_is_taken(change) -> None:
    one = replica()
    one.apply(replace(change(0), spec=spec_of(CONFIG)))
    assert dict(one.spec) == spec_of(CONFIG)


def test_a_judge_can_refuse(change) -> None:
    one = replica()

    def judge(candidate: Change) -> None:
        if candidate.version.number == 1:
            raise VersionError("Change 1", got="something", expected="something else")

    one.add_check(judge)
    one.apply(change(0))
    with pytest.raises(VersionError, match="something else"):
        one.apply(change(1))
    assert one.version.number == 0


def test_a_table_that_takes_no_rows_is_refused() -> None:
    class Readable:
        def lookup(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(ids), 3)

    with pytest.raises(ConfigError, match="Table 'user': got Readable"):
        Replica({"user": Readable()})


def test_reading_needs_a_version() -> None:
    with pytest.raises(VersionError, match="no version yet"), replica().reading():
        pass


def test_reading_holds_the_version_still(change) -> None:
    one, applied = replica(), threading.Event()
    one.apply(change(0))

    def move() -> None:
        one.apply(change(1))
        applied.set()

    thread = threading.Thread(target=move)
    with one.reading() as version:
        thread.start()
        assert not applied.wait(0.1)
        assert version.number == one.version.number == 0
        assert one.dense["weight"].tolist() == [0.0, 0.0]
    assert applied.wait(5)
    thread.join()


def test_a_failure_in_the_middle_leaves_no_version_and_a_full_change_heals_it(change) -> None:
    class Failing:
        def __init__(self) -> None:
            self.inner, self.fail = open_table(CONFIG, serving=True), False

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def assign(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
            if self.fail:
                raise MemoryError
            self.inner.assign(ids, rows)

    table = Failing()
    one = Replica({"user": table}, {"weight": torch.zeros(2)})
    one.apply(change(0))
    table.fail = True
    with pytest.raises(MemoryError):
        one.apply(change(1))
    table.fail = False
    with pytest.raises(VersionError, match="no version yet"), one.reading():
        pass
    for number in (0, 1, 2):
        with pytest.raises(GapError, match="full change"):
            one.apply(change(number))
    one.apply(change(4, full=True))
    with one.reading() as version:
        assert version.number == 4


def test_catching_up_from_the_log(change) -> None:
    one, seen = replica(), []
    changes = [change(number) for number in range(5)]
    assert one.catch_up(Kept(changes), on_applied=seen.append) == 5
    assert [each.version.number for each in seen] == [0, 1, 2, 3, 4]
    assert one.catch_up(Kept(changes), on_applied=seen.append) == 0
    assert len(seen) == 5


def test_catching_up_begins_with_the_snapshot(change) -> None:
    changes = [change(number) for number in range(8)]
    snapshot = merge([replace(changes[0], full=True), *changes[1:6]])
    one, plain = replica(), replica()
    assert one.catch_up(Kept(changes, snapshot, first=5)) == 3
    for each in changes:
        plain.apply(each)
    assert content(one) == content(plain)


def test_a_replica_left_far_behind_jumps_to_the_snapshot(change) -> None:
    changes = [change(number) for number in range(8)]
    one = replica()
    one.catch_up(Kept(changes[:2]))
    snapshot = merge([replace(changes[0], full=True), *changes[1:6]])
    assert one.catch_up(Kept(changes, snapshot, first=5)) == 3
    assert one.version.number == 7


def test_without_log_and_snapshot_there_is_no_way(change) -> None:
    one = replica()
    with pytest.raises(StaleError):
        one.catch_up(Kept([change(number) for number in range(8)], None, first=5))
    assert one.version.number == -1


def test_a_log_trimmed_while_it_is_read_is_met_with_the_snapshot(change) -> None:
    changes = [change(number) for number in range(8)]
    snapshot = merge([replace(changes[0], full=True), *changes[1:6]])

    class Moving(Kept):
        def read_since(self, number: int) -> Iterator[Change]:
            if number < 3:
                self.first, self.kept = 5, snapshot
                yield from self.changes[number + 1 : 4]
                raise StaleError("Topic", got=4, expected="at least 5")
            yield from super().read_since(number)

    one = replica()
    one.catch_up(Moving(changes))
    assert one.version.number == 7


def test_readers_never_see_half_of_a_change() -> None:
    """Version n puts n into every row and every dense value; a reader that sees two numbers saw half of a change."""
    ids = torch.arange(500)
    table = open_table(TableConfig(name="t", dim=4, init=Zeros()), serving=True)
    dense = torch.zeros(64)
    one = Replica({"t": table}, {"w": dense})

    def version(number: int) -> Change:
        rows = RowChange(ids, torch.full((500, 4), float(number)), NONE)
        weights = torch.full((64,), float(number))
        return Change(version=Version(number, number - 1), tables={"t": rows}, dense={"w": weights})

    one.apply(version(0))
    wrong: list[object] = []
    reads, stop = [0, 0], threading.Event()

    def read(place: int) -> None:
        try:
            while not stop.is_set():
                with one.reading() as held:
                    values = {*table.lookup(ids).unique().tolist(), *dense.unique().tolist(), float(held.number)}
                if len(values) != 1:
                    wrong.append(values)
                reads[place] += 1
        except HeadraceError as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    number = 0
    while number < 200 or min(reads) < 50:
        number += 1
        one.apply(version(number))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
