"""Rows by their numbers: one that cannot be read hides no other, and is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.elastic.rows import RowReader
from headrace.elastic.toy import PlantedClicks
from headrace.errors import DataError
from headrace.ranking.examples import InMemory

ROWS = 100


class Torn:
    """Examples that are read from a place, of which some cannot be."""

    def __init__(self, bad: set[int], *, grows: bool) -> None:
        self.bad, self.grows = bad, grows
        self.examples = InMemory(PlantedClicks(rows=ROWS)().train.batch)
        self.read = 0

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, rows: int, order: int | None = None):
        return Reading(self, rows)


class Reading:
    """One way through them."""

    def __init__(self, torn: Torn, rows: int) -> None:
        self.torn, self.rows, self.row = torn, rows, 0

    def __iter__(self):
        return self

    def seek(self, position) -> None:
        self.row = position["row"]

    def __next__(self):
        stop = min(self.row + self.rows, len(self.torn))
        self.torn.read += stop - self.row
        if found := self.torn.bad & set(range(self.row, stop)):
            raise DataError(f"Rows {sorted(found)}", got="no examples")
        return next(iter(self.torn.examples.batch.slice(self.row, stop).split(stop - self.row)))


@pytest.mark.parametrize("grows", [False, True])
def test_a_row_that_cannot_be_read_hides_no_other(grows) -> None:
    reader = RowReader(Torn({13}, grows=grows), 8)
    numbers = np.array([15, 8, 12, 40, 14, 8])
    assert reader.rows(numbers).example_ids.tolist() == numbers.tolist()
    with pytest.raises(DataError, match="13"):
        reader.rows(np.array([12, 13]))
    assert reader.rows(np.array([16, 17])).example_ids.tolist() == [16, 17]


def test_what_cannot_be_read_at_once_is_not_tried_again_and_again() -> None:
    torn = Torn({13}, grows=False)
    reader = RowReader(torn, 8)
    for _ in range(5):
        reader.rows(np.array([40, 41]))
    assert torn.read == len(torn) + 8  # once all of them, once their shard
    assert torch.equal(reader.rows(np.array([41])).labels, torn.examples.batch.labels[[41]])
