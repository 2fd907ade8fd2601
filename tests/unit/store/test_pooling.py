"""Pooling and its way back, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.store.pooling import add_rows, pool, unpool

ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
OFFSETS = np.array([0, 2, 2, 3])


@pytest.mark.parametrize(("pooling", "expected"), [
    ("sum", [[4, 6], [0, 0], [5, 6]]), ("mean", [[2, 3], [0, 0], [5, 6]]), ("none", ROWS.tolist()),
])  # fmt: skip
def test_rows_are_pooled_by_example(pooling, expected) -> None:
    assert pool(ROWS, OFFSETS, pooling).tolist() == expected


def test_gradients_go_back_to_every_row() -> None:
    grads = np.array([[2.0], [7.0], [4.0]], np.float32)
    assert unpool(grads, OFFSETS, "sum").tolist() == [[2], [2], [4]]
    assert unpool(grads, OFFSETS, "mean").tolist() == [[1], [1], [4]]


def test_rows_are_added_in_their_order_bit_by_bit() -> None:
    draw = np.random.default_rng(1)
    rows = (draw.normal(size=(500, 3)) * 10.0 ** draw.integers(-6, 6, (500, 1))).astype(np.float32)
    places = draw.integers(0, 20, 500)
    fast, slow = np.zeros((20, 3), np.float32), np.zeros((20, 3), np.float32)
    add_rows(fast, places, rows)
    for place, row in zip(places, rows, strict=True):
        slow[place] += row
    np.testing.assert_array_equal(fast, slow)
