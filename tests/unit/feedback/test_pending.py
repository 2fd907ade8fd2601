from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import DataError
from headrace.feedback.pending import PendingClicks


def column(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def filled() -> PendingClicks:
    pending = PendingClicks()
    pending.push(column(30, 10), column(29, 9), column(1, 2), column(5, 6))
    pending.push(column(20, 10), column(19, 8), column(3, 1), column(7, 8))
    return pending


def test_clicks_come_in_order_of_arrival_ties_by_request() -> None:
    taken = filled().pop(None)
    assert taken["arrivals"].tolist() == [10, 10, 20, 30]
    assert taken["requests"].tolist() == [1, 2, 3, 1]
    assert taken["times"].tolist() == [8, 9, 19, 29]


def test_pop_takes_what_has_arrived_and_no_more() -> None:
    pending = filled()
    assert pending.pop(9)["items"].tolist() == []
    assert pending.pop(20)["items"].tolist() == [8, 6, 7]
    assert len(pending) == 1


def test_a_state_is_exact_and_a_copy() -> None:
    pending, other = filled(), PendingClicks()
    state = pending.state()
    pending.pop(None)
    other.restore(state)
    assert other.pop(None)["items"].tolist() == [8, 6, 7, 5]


def test_a_state_of_something_else_is_refused() -> None:
    pending = filled()
    with pytest.raises(DataError):
        pending.restore({"rows": 3})
    assert len(pending) == 4
