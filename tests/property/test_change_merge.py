"""One merged change has the effect of the changes applied one by one."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from headrace.errors import GapError, VersionError
from headrace.publish import merge
from headrace.types import Change, RowChange, Version

DIM = 2


class Model:
    """Dicts that take changes in the plainest way: the specification of applying."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[int, tuple[float, ...]]] = {"a": {}, "b": {}}
        self.dense: dict[str, tuple[float, ...]] = {}

    def apply(self, change: Change) -> None:
        if change.full:
            self.tables, self.dense = {"a": {}, "b": {}}, {}
        for name, rows in change.tables.items():
            for one in rows.removed.tolist():
                self.tables[name].pop(one, None)
            for one, row in zip(rows.ids.tolist(), rows.rows.tolist(), strict=True):
                self.tables[name][one] = tuple(row)
        self.dense |= {name: tuple(tensor.tolist()) for name, tensor in change.dense.items()}

    def content(self) -> object:
        return self.tables, self.dense


@st.composite
def sequences(draw: st.DrawFn) -> list[Change]:
    count, start, changes = draw(st.integers(1, 7)), draw(st.integers(0, 5)), []
    for number in range(start, start + count):
        tables = {}
        for name in draw(st.sets(st.sampled_from("ab"))):
            touched = sorted(draw(st.sets(st.integers(-4, 4))))
            put = [one for one in touched if draw(st.booleans())]
            gone = [one for one in touched if one not in put]
            rows = np.random.default_rng([number, ord(name)]).normal(size=(len(put), DIM)).astype(np.float32)
            tables[name] = RowChange(
                torch.tensor(put, dtype=torch.int64), torch.from_numpy(rows), torch.tensor(gone, dtype=torch.int64)
            )
        full = draw(st.booleans()) and draw(st.booleans())
        dense = {"w": torch.full((2,), float(number))}
        changes.append(Change(version=Version(number, number - 1), tables=tables, dense=dense, full=full))
    return changes


def rows(ids: list[int], value: float = 1.0, removed: list[int] | None = None) -> RowChange:
    return RowChange(
        torch.tensor(ids, dtype=torch.int64), torch.full((len(ids), DIM), value),
        torch.tensor(removed or [], dtype=torch.int64),
    )  # fmt: skip


def change(number: int, table: RowChange | None = None, **more: object) -> Change:
    tables = {"a": table} if table is not None else {}
    return Change(version=Version(number, number - 1), tables=tables, **more)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(sequences(), sequences())
def test_merged_equals_one_by_one(before: list[Change], changes: list[Change]) -> None:
    plain, merged = Model(), Model()
    for model in (plain, merged):
        for earlier in before:
            model.apply(earlier)
    for one in changes:
        plain.apply(one)
    merged.apply(merge(changes))
    assert merged.content() == plain.content()


@settings(max_examples=60, deadline=None)
@given(sequences(), st.data())
def test_merging_in_two_steps_is_merging_in_one(changes: list[Change], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(changes)))
    first = merge(changes[:cut])
    assert merge([first, *changes[cut:]]).checksum() == merge(changes).checksum()


@settings(max_examples=60, deadline=None)
@given(sequences())
def test_merged_spans_from_the_first_parent_to_the_last_number(changes: list[Change]) -> None:
    version = merge(changes).version
    assert version == Version(changes[-1].version.number, changes[0].version.parent)


def test_a_removal_after_a_put_wins() -> None:
    merged = merge([change(1, rows([7])), change(2, rows([], removed=[7]))]).tables["a"]
    assert merged.ids.tolist() == []
    assert merged.removed.tolist() == [7]


def test_a_put_after_a_removal_wins() -> None:
    merged = merge([change(1, rows([], removed=[7])), change(2, rows([7], 3.0))]).tables["a"]
    assert merged.rows.tolist() == [[3.0, 3.0]]
    assert merged.removed.tolist() == []


def test_a_full_change_makes_what_was_before_vanish() -> None:
    merged = merge([change(1, rows([1])), change(2, rows([2]), full=True), change(3, rows([3]))])
    assert merged.full
    assert merged.tables["a"].ids.tolist() == [2, 3]


def test_lists_of_times_are_joined_and_other_notes_are_the_newest() -> None:
    first = change(1, notes={"accepted_times": torch.tensor([1, 2]), "example_offset": torch.tensor([5])})
    second = change(2, notes={"accepted_times": torch.tensor([3]), "example_offset": torch.tensor([9])})
    notes = merge([first, second]).notes
    assert notes["accepted_times"].tolist() == [1, 2, 3]
    assert notes["example_offset"].tolist() == [9]


def test_a_gap_is_refused() -> None:
    with pytest.raises(GapError, match="parent 2"):
        merge([change(1), change(3)])


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(VersionError):
        merge([])


def test_other_specifications_are_not_mixed() -> None:
    with pytest.raises(VersionError, match="spec"):
        merge([change(1, spec={"schema": "a"}), change(2, spec={"schema": "b"})])


def test_a_full_change_may_bring_another_specification() -> None:
    merged = merge([change(1, spec={"schema": "a"}), change(2, spec={"schema": "b"}, full=True)])
    assert merged.spec == {"schema": "b"}


def test_rows_of_two_widths_are_refused() -> None:
    wide = RowChange(torch.tensor([2]), torch.ones(1, 5), torch.tensor([], dtype=torch.int64))
    with pytest.raises(VersionError, match="widths"):
        merge([change(1, rows([1])), change(2, wide)])


def test_one_change_merged_is_itself() -> None:
    one = change(1, rows([1], removed=[2]))
    assert merge([one]).checksum() == replace(one).checksum()
