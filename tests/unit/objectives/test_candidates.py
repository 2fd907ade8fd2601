"""Candidates in the batch: as a feature of their own, and as examples that are items alone."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.objectives.candidates import with_candidates, with_item_rows
from headrace.testing import Toy, ToyConfig
from headrace.types import Batch

BATCH = Toy(ToyConfig(users=16, items=16)).batch(0, 6)


def test_candidates_belong_to_the_first_example_and_leave_the_rest_as_it_is() -> None:
    batch = with_candidates(BATCH, "candidates", torch.tensor([5, 6, 5]))
    assert batch.ids["candidates"].values.tolist() == [5, 6, 5]
    assert batch.ids["candidates"].offsets.tolist() == [0, 3, 3, 3, 3, 3, 3]
    assert batch.ids["user"] is BATCH.ids["user"]
    assert "candidates" not in BATCH.ids


def test_item_rows_stand_behind_the_examples() -> None:
    batch = with_item_rows(BATCH, {"item": torch.tensor([9, 8])})
    assert len(batch) == 8
    assert batch.ids["item"].values[6:].tolist() == [9, 8]
    assert batch.ids["item"].offsets.tolist() == list(range(9))
    assert batch.ids["user"].offsets.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6]
    assert (batch.labels[6:].tolist(), batch.weights[6:].tolist(), batch.example_ids[6:].tolist()) == (
        [0.0, 0.0], [0.0, 0.0], [-1, -1])  # fmt: skip
    assert batch.event_times[6:].tolist() == [int(BATCH.event_times.max())] * 2
    assert not batch.accepted_times[6:].any()
    same = batch.slice(0, 6)
    for name in ("labels", "weights", "event_times", "example_ids", "sample_rates", "dense"):
        assert torch.equal(getattr(same, name), getattr(BATCH, name))


@pytest.mark.parametrize("items", [{"itm": torch.tensor([1])}, {"item": torch.tensor([1]), "user": torch.tensor([])}])
def test_item_rows_that_cannot_be_are_refused(items: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="equally long columns"):
        with_item_rows(BATCH, items)


def test_a_name_that_is_taken_and_an_empty_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="another name"):
        with_candidates(BATCH, "user", torch.tensor([1]))
    empty: Batch = BATCH.slice(0, 0)
    for call in (lambda: with_candidates(empty, "c", torch.tensor([1])),
                 lambda: with_item_rows(empty, {"item": torch.tensor([1])})):  # fmt: skip
        with pytest.raises(DataError, match="no examples"):
            call()
