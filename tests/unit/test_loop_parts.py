"""The driver `predict`, and the cadences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from headrace.errors import ConfigError
from headrace.loop import EveryEventTime, EveryExamples, Never, predict
from headrace.testing import ConstantPredictor, ListSource
from headrace.types import Batch, Events

SECOND = 1_000_000


def rows(start: int, stop: int) -> Events:
    """Row n has key n and happens at second n."""
    numbers = range(start, stop)
    return Events.from_columns({"key": [str(n) for n in numbers], "kind": ["example"] * len(numbers),
                                "event_time": [n * SECOND for n in numbers], "item": ["i"] * len(numbers)})  # fmt: skip


def batch_of(events: Events) -> Batch | None:
    if not len(events):
        return None
    numbers = torch.tensor([int(key) for key in events.column("key").to_pylist()])
    zeros = torch.zeros(len(events))
    return Batch(
        ids={}, dense=torch.zeros(len(events), 0), labels=zeros, weights=zeros + 1, event_times=numbers * SECOND,
        accepted_times=torch.zeros_like(numbers), example_ids=numbers, predictions=zeros * math.nan,
        versions=torch.zeros_like(numbers), sample_rates=zeros + 1,
    )  # fmt: skip


def answered(read_rows: int, pauses: int = 0) -> list[str]:
    keys: list[str] = []

    def sink(requests: Events, predictions: Events) -> None:
        assert requests.column("key").equals(predictions.column("key"))
        keys.extend(predictions.column("key").to_pylist())

    source = ListSource([rows(0, 4), rows(4, 10)], pause_every=pauses)
    report = predict(source, ConstantPredictor(), sink, read_rows=read_rows)
    assert report.figures["rows"].value == 10
    return keys


@pytest.mark.parametrize("read_rows", [1, 3, 10, 100])
def test_predict_answers_every_row_once_and_in_order(read_rows: int) -> None:
    assert answered(read_rows, 2) == [str(n) for n in range(10)]


def test_predict_refuses_to_read_no_rows() -> None:
    with pytest.raises(ConfigError, match="read_rows"):
        answered(0)


def due_points(cadence: EveryExamples | EveryEventTime | Never, sizes: list[int]) -> list[bool]:
    points, at = [], 0
    for size in sizes:
        points.append(cadence.due(batch_of(rows(at, at + size))))
        at += size
    return points


def test_every_examples_carries_the_remainder_over() -> None:
    assert due_points(EveryExamples(4), [3, 3, 3, 3, 4, 9]) == [False, True, True, True, True, True]
    assert due_points(EveryExamples(6), [3, 3, 3, 3]) == [False, True, False, True]


def test_every_event_time_counts_from_the_last_publication() -> None:
    cadence = EveryEventTime(10 * SECOND)
    assert due_points(cadence, [6, 5, 5, 5, 5]) == [False, False, True, False, True]


def test_event_time_that_goes_back_is_never_due() -> None:
    cadence = EveryEventTime(SECOND)
    cadence.due(batch_of(rows(50, 60)))
    assert cadence.due(batch_of(rows(10, 20))) is False
    assert cadence.newest == 59 * SECOND


@pytest.mark.parametrize("make", [lambda: EveryExamples(6), lambda: EveryEventTime(7 * SECOND)])
def test_cadences_resume_exactly(make: Callable[[], EveryExamples | EveryEventTime]) -> None:
    straight_cadence, first, second = make(), make(), make()
    sizes = [3, 4, 2, 5, 1, 6, 2, 2]
    expected, at, got = due_points(straight_cadence, sizes), 0, []
    for place, size in enumerate(sizes):
        if place == 4:
            second.restore(first.state())
        got.append((first if place < 4 else second).due(batch_of(rows(at, at + size))))
        at += size
    assert got == expected


def test_never_is_never_due() -> None:
    assert due_points(Never(), [5, 5]) == [False, False]
