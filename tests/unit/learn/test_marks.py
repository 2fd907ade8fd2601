"""Marks of published versions and the lists of times that go with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import StaleError
from headrace.learn.marks import Mark, TimeLog, VersionMarks


def marks_up_to(number: int, keep: int) -> VersionMarks:
    marks = VersionMarks(keep)
    for version in range(number + 1):
        marks.set(version, Mark({"user": 10 * version}, examples=version))
    return marks


def test_before_the_first_version_everything_counts_as_changed() -> None:
    marks = VersionMarks(3)
    assert marks.base(-1) == Mark(tables=None)
    assert (marks.newest, marks.oldest_tables) == (-1, None)


def test_a_version_that_was_set_is_found() -> None:
    assert marks_up_to(2, keep=3).base(1).tables == {"user": 10}


def test_old_versions_are_forgotten() -> None:
    marks = marks_up_to(9, keep=2)
    assert [marks.base(number).examples for number in (7, 8, 9)] == [7, 8, 9]
    with pytest.raises(StaleError, match=r"since version 6.*\[7, 8, 9\]"):
        marks.base(6)
    assert marks.oldest_tables == {"user": 70}


def test_the_future_is_not_known() -> None:
    with pytest.raises(StaleError, match="change log"):
        marks_up_to(2, keep=3).base(3)


def test_setting_a_version_again_drops_what_came_after_it() -> None:
    marks = marks_up_to(5, keep=9)
    marks.set(3, Mark({"user": 31}))
    assert marks.newest == 3
    assert marks.base(3).tables == {"user": 31}
    assert marks.base(2).tables == {"user": 20}


def test_the_oldest_table_marks_pass_over_versions_that_need_none() -> None:
    marks = marks_up_to(1, keep=5)
    assert marks.oldest.tables is None
    assert marks.oldest_tables == {"user": 0}


def test_marks_survive_their_state() -> None:
    marks, again = marks_up_to(9, keep=3), VersionMarks(3)
    again.restore(marks.state())
    assert again.state() == marks.state()
    assert again.base(8) == marks.base(8)


def test_a_mark_without_tables_survives_its_state() -> None:
    mark = Mark(None, 3, 2, 1, 0.1)
    assert Mark.from_state(mark.state()) == mark


@given(
    steps=st.lists(st.one_of(st.lists(st.integers(0, 99), max_size=4), st.integers(0, 12)), max_size=12),
    place=st.integers(0, 30),
)
def test_time_log_equals_a_plain_list(steps: list[list[int] | int], place: int) -> None:
    log, plain, forgotten = TimeLog(), list[int](), 0
    for step in steps:
        if isinstance(step, list):
            log.add(torch.tensor(step, dtype=torch.int64))
            plain += step
        else:
            forgotten = max(forgotten, min(step, len(plain)))
            log.forget(min(step, len(plain)))
        copy = TimeLog()
        copy.restore(log.state())
        log = copy
    assert len(log) == len(plain)
    assert log.since(max(place, forgotten)).tolist() == plain[max(place, forgotten) :]


def test_a_time_log_keeps_a_copy_of_what_it_is_given_and_gives() -> None:
    log, times = TimeLog(), torch.tensor([1, 2])
    log.add(times)
    times[0] = 9
    log.since(0)[1] = 9
    state = log.state()
    state["times"][0] = 9  # type: ignore[index, call-overload]
    assert log.since(0).tolist() == [1, 2]
