"""Range sets behave as sets of numbers."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.runtime.ledger_ranges import RangeSet

EDITS = st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 8)), max_size=30)


def edited(edits: list[tuple[bool, int, int]]) -> tuple[RangeSet, set[int]]:
    """Apply those edits that are allowed to both."""
    ranges, plain = RangeSet(), set[int]()
    for put, start, length in edits:
        these = set(range(start, start + length))
        if put and not these & plain:
            ranges.add(start, start + length)
            plain |= these
        elif not put and these <= plain:
            ranges.remove(start, start + length)
            plain -= these
    return ranges, plain


@given(EDITS)
def test_it_holds_what_a_set_holds(edits) -> None:
    ranges, plain = edited(edits)
    assert {number for start, stop in ranges for number in range(start, stop)} == plain
    assert ranges.rows == len(plain)
    assert bool(ranges) == bool(plain)
    pairs = ranges.pairs()
    assert all(start < stop for start, stop in pairs)
    assert all(left[1] < right[0] for left, right in pairwise(pairs)), "disjoint, not touching"
    assert RangeSet(pairs) == ranges
    assert ranges.copy() == ranges


@given(EDITS, st.integers(0, 40), st.integers(0, 12))
def test_it_answers_as_a_set_does(edits, start, length) -> None:
    ranges, plain = edited(edits)
    these = set(range(start, start + length))
    assert ranges.covers(start, start + length) == (these <= plain)
    assert ranges.meets(start, start + length) == bool(these & plain)
    gaps = {number for lo, hi in ranges.gaps(start, start + length) for number in range(lo, hi)}
    assert gaps == these - plain
    end = start
    while end in plain:
        end += 1
    assert ranges.reach(start) == end
    first = [number for lo, hi in ranges.first(length) for number in range(lo, hi)]
    assert first == sorted(plain)[:length]


def test_a_number_cannot_be_put_in_twice_nor_taken_out_when_absent() -> None:
    ranges = RangeSet([(3, 6)])
    for start, stop in ((5, 7), (0, 4), (3, 6), (0, 9)):
        with pytest.raises(AssertionError, match="already"):
            ranges.add(start, stop)
        with pytest.raises(AssertionError, match="not all in the set"):
            ranges.remove(start, stop + 1)
    assert ranges.pairs() == [(3, 6)]


def test_a_copy_is_independent() -> None:
    ranges = RangeSet([(0, 2)])
    copied = ranges.copy()
    copied.add(5, 6)
    assert ranges.pairs() == [(0, 2)]
    assert repr(copied) == "RangeSet([(0, 2), (5, 6)])"
    assert ranges != copied
