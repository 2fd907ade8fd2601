"""Examples in another order are the same examples, and a split loses none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.data import IdFeature, MultiIdFeature, Schema
from headrace.errors import ConfigError
from headrace.ranking import InMemory, cut
from headrace.ranking.examples import taken
from headrace.types import Events

SCHEMA = Schema(features=(IdFeature("user", 4), MultiIdFeature("tags", 4)))
ROWS = 37


def events() -> Events:
    return Events.from_columns({
        "key": [f"r{row}" for row in range(ROWS)], "kind": ["example"] * ROWS, "event_time": list(range(ROWS)),
        "user": [row * 10 if row % 5 else None for row in range(ROWS)],
        "tags": [list(range(row % 4)) for row in range(ROWS)], "label": [float(row % 2) for row in range(ROWS)],
    })  # fmt: skip


def ids_of(batch, feature: str, row: int) -> list[int]:
    jagged = batch.ids[feature]
    return jagged.values[jagged.offsets[row] : jagged.offsets[row + 1]].tolist()


def test_rows_keep_their_ids_whatever_the_order() -> None:
    whole = InMemory.from_events(events(), SCHEMA).batch
    places = torch.tensor([36, 0, 5, 5, 12])
    some = taken(whole, places)
    for row, place in enumerate(places.tolist()):
        for feature in ("user", "tags"):
            assert ids_of(some, feature, row) == ids_of(whole, feature, place)
        assert some.event_times[row] == place


def test_an_order_has_every_example_once_and_is_a_function_of_its_seed() -> None:
    examples = InMemory.from_events(events(), SCHEMA)
    orders = [torch.cat([batch.event_times for batch in examples.batches(8, order=seed)]) for seed in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert sorted(orders[2].tolist()) == list(range(ROWS))
    assert [len(batch) for batch in examples.batches(8, order=1)] == [8, 8, 8, 8, 5]
    assert torch.equal(torch.cat([batch.event_times for batch in examples.batches(8)]), torch.arange(ROWS))


@pytest.mark.parametrize("seed", [None, 3])
def test_a_cut_loses_no_row(seed: int | None) -> None:
    parts = cut(events(), 0.2, 0.3, seed=seed)
    assert [len(part) for part in parts] == [19, 7, 11]
    assert sorted(np.concatenate([part.times for part in parts]).tolist()) == list(range(ROWS))
    if seed is None:
        assert parts[2].times.min() > parts[1].times.max() > parts[0].times.max()


def test_a_part_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one of 37 rows"):
        cut(events(), 0.001, 0.3, seed=0)
