"""How many updates a row has missed, and what is left of it then."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.store.pace import decayed, missed, slot_value
from headrace.store.row_rules import powers


def test_missed_updates_are_counted_modulo_2_to_the_24() -> None:
    turn = 2**24
    last = np.array([0.0, slot_value(7), slot_value(8), slot_value(turn), 0.5, np.nan, 1e30], np.float32)
    assert missed(last, 9).tolist() == [0, 1, 0, 0, 0, 0, 0]  # update `turn` is yet to come
    assert missed(last, turn + 9).tolist() == [0, 1, 0, 8, 0, 0, 0]
    assert slot_value(1) == 1.0
    assert slot_value(turn) == turn
    assert slot_value(turn + 1) == 1.0


def test_a_decay_of_more_than_all_leaves_nothing() -> None:
    rows = np.ones((3, 2), np.float32)
    left = decayed(rows, np.array([0, 1, 2]), np.float32(2.0), np.float32(0.9))
    assert left.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_decay_far_below_what_float32_tells_from_nothing_adds_up() -> None:
    """2 * 1e-4 * 1e-5 an update, the published rate and penalty: 1 - 2e-9 is 1 in float32."""
    left = decayed(np.ones((1, 1), np.float32), np.array([1_000_000]), np.float32(1e-4), np.float32(2e-5))
    assert float(left[0, 0]) == pytest.approx((1 - 2e-9) ** 1_000_000, rel=1e-6)


def test_rows_that_missed_nothing_keep_their_bits() -> None:
    rows = np.array([[-0.0, np.inf, 1e-45]], np.float32)
    left = decayed(rows, np.array([0]), np.float32(1.0), np.float32(0.5))
    np.testing.assert_array_equal(left.view(np.int32), rows.view(np.int32))


def test_powers_are_those_of_the_base() -> None:
    exponents = np.array([0, 1, 2, 3, 100, 12_345])
    wanted = np.float64(np.float32(0.999)) ** exponents
    np.testing.assert_allclose(powers(np.float32(0.999), exponents), wanted, rtol=1e-3)
    assert powers(np.float64(0.999), exponents).dtype == np.float64
    assert exponents.tolist() == [0, 1, 2, 3, 100, 12_345]  # is not used up
