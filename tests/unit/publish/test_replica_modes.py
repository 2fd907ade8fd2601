"""Full changes as differences, and rows that go ahead of their version."""

from __future__ import annotations

import threading

import pytest
import torch

from headrace.errors import ConfigError, GapError, HeadraceError
from headrace.publish import Replica
from headrace.publish.difference import difference, pieces
from headrace.store import ReferenceTable, TableConfig, Zeros, open_table
from headrace.types import Change, RowChange, Version

NONE = torch.tensor([], dtype=torch.int64)
CONFIG = TableConfig(name="user", dim=3, seed=5)
EVERY_ID = torch.arange(-2, 60)


class Watched:
    """A table that counts what is done to it."""

    def __init__(self, inner: object) -> None:
        self.inner, self.calls, self.assigned = inner, list[str](), 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def clear(self) -> None:
        self.calls.append("clear")
        self.inner.clear()  # type: ignore[attr-defined]

    def assign(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        self.calls.append("assign")
        self.assigned += len(ids)
        self.inner.assign(ids, rows)  # type: ignore[attr-defined]

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return self.inner.lookup(ids)  # type: ignore[attr-defined,no-any-return]

    def remove(self, ids: torch.Tensor) -> object:
        return self.inner.remove(ids)  # type: ignore[attr-defined]


def replica(mode: str = "consistent", make=open_table) -> tuple[Replica, Watched]:
    table = Watched(make(CONFIG, serving=True))
    return Replica({"user": table}, {"weight": torch.zeros(2)}, mode=mode), table  # type: ignore[arg-type,dict-item]


def content(one: Replica) -> tuple:
    table = one.tables["user"]
    return one.version, len(table.rows().ids), table.lookup(EVERY_ID).tolist(), one.dense["weight"].tolist()  # type: ignore[attr-defined]


def many(number: int, rows: int, *, full: bool = False) -> Change:
    ids = torch.arange(number, number + rows)
    values = torch.arange(rows * 3, dtype=torch.float32).reshape(rows, 3) + (ids % 7 == number % 7)[:, None] * number
    return Change(version=Version(number, number - 1), tables={"user": RowChange(ids, values, NONE)},
                  dense={"weight": torch.full((2,), float(number))}, full=full)  # fmt: skip


@pytest.mark.parametrize("mode", ["consistent", "eventual"])
@pytest.mark.parametrize("make", [open_table, ReferenceTable])
def test_a_full_change_puts_only_what_differs(change, mode: str, make) -> None:
    one, table = replica(mode, make)
    one.apply(many(0, 40))
    after = many(0, 40).tables["user"].rows.clone()
    after[5] += 1
    rows = RowChange(torch.arange(1, 50), torch.cat([after[1:], torch.ones(10, 3)]), NONE)
    later = Change(version=Version(9, -1), full=True, dense={"weight": torch.ones(2)}, tables={"user": rows})
    table.calls.clear()
    table.assigned = 0
    one.apply(later)
    fresh, _ = replica("consistent", make)
    fresh.apply(later)
    assert content(one) == content(fresh)
    assert "clear" not in table.calls
    assert table.assigned == 11  # one row changed, ten new ones


def test_a_table_that_cannot_list_its_rows_is_cleared_and_filled() -> None:
    class Plain(Watched):
        def __getattr__(self, name: str) -> object:
            if name == "rows":
                raise AttributeError(name)
            return super().__getattr__(name)

    table = Plain(open_table(CONFIG, serving=True))
    one = Replica({"user": table}, {"weight": torch.zeros(2)})  # type: ignore[dict-item]
    one.apply(many(0, 4))
    one.apply(many(3, 4, full=True))
    assert table.calls == ["assign", "clear", "assign"] or table.calls == ["clear", "assign", "clear", "assign"]
    assert table.inner.rows().ids.tolist() == [3, 4, 5, 6]  # type: ignore[attr-defined]


def test_a_table_that_a_full_change_does_not_name_is_emptied_by_difference() -> None:
    table = open_table(CONFIG, serving=True)
    table.assign(torch.tensor([1, 5]), torch.ones(2, 3))
    found = difference({}, {"user": table})
    assert found is not None
    assert found["user"].removed.tolist() == [1, 5]


def test_minus_zero_is_another_row() -> None:
    table = open_table(CONFIG, serving=True)
    table.assign(torch.tensor([1]), torch.zeros(1, 3))
    found = difference({"user": RowChange(torch.tensor([1]), -torch.zeros(1, 3), NONE)}, {"user": table})
    assert found is not None
    assert found["user"].ids.tolist() == [1]


def test_pieces_are_all_of_it() -> None:
    rows = RowChange(torch.arange(10), torch.arange(20.0).reshape(10, 2), torch.arange(20, 25))
    cut = list(pieces(rows, size=4))
    assert torch.cat([piece.ids for piece in cut]).equal(rows.ids)
    assert torch.cat([piece.rows for piece in cut]).equal(rows.rows)
    assert torch.cat([piece.removed for piece in cut]).equal(rows.removed)
    assert all(len(piece) <= 4 for piece in cut)
    assert list(pieces(None)) == []


@pytest.mark.parametrize("make", [open_table, ReferenceTable])
def test_an_eventual_replica_ends_where_a_consistent_one_does(change, make) -> None:
    (one, _), (other, _) = replica("eventual", make), replica("consistent", make)
    for number in range(12):
        for each in (one, other):
            each.apply(change(number, full=number == 7))
        assert content(one) == content(other)
    with pytest.raises(GapError):
        one.apply(change(20))


def test_readers_do_not_wait_for_rows_of_an_eventual_replica(change) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(Watched):
        def assign(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
            if self.assigned:
                started.set()
                assert go_on.wait(20)
            super().assign(ids, rows)

    table = Slow(open_table(CONFIG, serving=True))
    one = Replica({"user": table}, {"weight": torch.zeros(2)}, mode="eventual")  # type: ignore[dict-item]
    one.apply(change(0))
    thread = threading.Thread(target=one.apply, args=(change(1),))
    thread.start()
    assert started.wait(20)
    with one.reading() as version:  # in the middle of version 1
        assert version.number == 0
        assert one.dense["weight"].tolist() == [0.0, 0.0]
        go_on.set()
        thread.join(0.1)
        assert thread.is_alive()  # dense tensors and version wait for the reader
    thread.join(20)
    assert one.version.number == 1


def test_a_failure_in_the_middle_of_eventual_rows_is_healed_by_the_same_change(change) -> None:
    class Failing(Watched):
        fail = False

        def assign(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
            if self.fail:
                raise MemoryError
            super().assign(ids, rows)

    table = Failing(open_table(CONFIG, serving=True))
    one = Replica({"user": table}, {"weight": torch.zeros(2)}, mode="eventual")  # type: ignore[dict-item]
    plain, _ = replica()
    one.apply(change(0))
    table.fail = True
    with pytest.raises(MemoryError):
        one.apply(change(1))
    with one.reading() as version:
        assert version.number == 0
    table.fail = False
    one.apply(change(1))
    for number in (0, 1):
        plain.apply(change(number))
    assert content(one) == content(plain)


def test_versions_of_an_eventual_replica_say_at_least_what_is_there() -> None:
    """Version n puts n into every row: no row may be older than the version told."""
    ids = torch.arange(20_000)
    table = open_table(TableConfig(name="t", dim=4, init=Zeros()), serving=True)
    one = Replica({"t": table}, {"w": torch.zeros(4)}, mode="eventual")

    def version(number: int) -> Change:
        rows = RowChange(ids, torch.full((len(ids), 4), float(number)), NONE)
        return Change(
            version=Version(number, number - 1), tables={"t": rows}, dense={"w": torch.full((4,), float(number))}
        )

    one.apply(version(0))
    wrong, ended, reads = list[object](), threading.Event(), [0]

    def read() -> None:
        try:
            while not ended.is_set():
                with one.reading() as held:
                    rows, dense = table.lookup(ids).unique(), one.dense["w"].unique().tolist()
                if rows.min() < held.number or rows.max() > held.number + 1 or dense != [float(held.number)]:
                    wrong.append((held, rows, dense))
                reads[0] += 1
        except HeadraceError as error:
            wrong.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    number = 0
    while number < 60 or reads[0] < 20:
        number += 1
        one.apply(version(number))
    ended.set()
    thread.join()
    assert not wrong


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode"):
        Replica({}, mode="evntual")  # type: ignore[arg-type]
