"""Requests, predictions and answers to batches, through the joiner's contract."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import Collator, DenseFeature, IdFeature, Schema
from headrace.data.event_joiner import EventJoiner
from headrace.data.features import example_ids
from headrace.data.join import EventJoin, JoinConfig
from headrace.errors import ConfigError, JoinError
from headrace.testing import Chunk, check_joiner
from headrace.types import Batch, Events

SECOND = 1_000_000
SCHEMA = Schema(features=(IdFeature("user", 4), DenseFeature("price")))


def joiner(window: float = 20, batch_rows: int = 4, **more: object) -> EventJoiner:
    config = JoinConfig(**({"window_s": window, "lateness_s": 5} | more))  # type: ignore[arg-type]
    return EventJoiner(EventJoin(config), Collator(SCHEMA, batch_rows))


def shown(number: int, time: int | None = None) -> Events:
    at = (number if time is None else time) * SECOND
    return Events.from_columns({
        "key": [f"r{number}"] * 3, "kind": ["impression"] * 3, "event_time": [at] * 3, "item": ["a", "b", "c"],
        "user": [f"u{number % 4}"] * 3, "price": pa.array([number + 0.25, number + 0.5, number + 0.75], pa.float32()),
    })  # fmt: skip


def predicted(requests: Events, version: int) -> Events:
    count = len(requests)
    scores = pa.array(np.linspace(0.1, 0.9, count) / (1 + version), pa.float32())
    return Events.from_columns({
        "key": requests.column("key"), "kind": ["prediction"] * count, "event_time": requests.times,
        "item": requests.column("item"), "score": scores, "version": pa.array([version] * count, pa.int64()),
    })  # fmt: skip


def click(number: int, item: str, time: int) -> Events:
    return Events.from_columns(
        {"key": [f"r{number}"], "kind": ["click"], "event_time": [time * SECOND], "item": [item]}
    )


def chunks(order: list[int] | None = None) -> list[Chunk]:
    made = []
    for number in order or list(range(30)):
        requests = shown(number)
        answers = click(number - 3, "abc"[number % 3], number) if number % 2 and number >= 3 else None
        made.append((requests, predicted(requests, number // 10), answers))
    return made


def expected_labels() -> dict[int, float]:
    keys = [(f"r{number}", item) for number in range(30) for item in "abc"]
    clicked = {(f"r{number - 3}", "abc"[number % 3]) for number in range(3, 30) if number % 2}
    ids = example_ids(pa.array([key for key, _ in keys]), pa.array([item for _, item in keys])).tolist()
    return {identity: float(pair in clicked) for identity, pair in zip(ids, keys, strict=True)}


def test_the_joiner_keeps_its_contract() -> None:
    order = [number + offset for number in range(0, 30, 3) for offset in (2, 0, 1)]
    others = [lambda: joiner(window=21), lambda: joiner(batch_rows=5), lambda: joiner(seed=1)]
    verdict = check_joiner(joiner, chunks(), expected=expected_labels(), shuffled=chunks(order), others=others)
    assert verdict.untried == ()


def test_batches_hold_whole_multiples_and_flush_the_rest() -> None:
    each = joiner(batch_rows=8)
    sizes = [len(batch) for chunk in chunks() if (batch := each.add(*chunk)) is not None]
    last = each.flush()
    assert last is not None
    assert {size % 8 for size in sizes} == {0}
    assert sum(sizes) + len(last) == 90


def test_the_flushed_batch_is_whole() -> None:
    each = joiner(batch_rows=64)
    for chunk in chunks():
        assert each.add(*chunk) is None
    batch = each.flush()
    assert isinstance(batch, Batch)
    assert len(batch) == 90
    assert batch.ids["user"].offsets.tolist() == list(range(91))
    assert len(batch.ids["user"].values) == 90
    assert batch.dense.shape == (90, 1)
    assert len(set(batch.example_ids.tolist())) == 90


def test_answers_meet_requests_of_the_same_step() -> None:
    each, requests = joiner(batch_rows=1), shown(0)
    batch = each.add(requests, predicted(requests, 3), click(0, "b", 1))
    assert batch is not None
    assert (batch.labels.tolist(), batch.versions.tolist()) == ([1.0], [3])
    assert batch.predictions[0].item() == pytest.approx(0.5 / 4)


def test_without_predictions_there_are_none_in_the_batch() -> None:
    each = joiner(batch_rows=1)
    batch = each.add(shown(0), None, click(0, "b", 1))
    assert batch is not None
    assert torch.isnan(batch.predictions).all()
    assert batch.versions.tolist() == [-1]


def test_logged_actions_among_the_requests_are_joined_and_not_scored() -> None:
    each = joiner(batch_rows=1)
    mixed = Events.concat([shown(0), click(0, "c", 2)])
    batch = each.add(mixed, predicted(mixed, 1), None)
    assert batch is not None
    assert batch.labels.tolist() == [1.0]
    assert batch.predictions[0].item() == pytest.approx(0.5 * (0.1 + 0.8 * 2 / 3))


def test_predictions_of_other_rows_are_refused() -> None:
    each, requests = joiner(), shown(0)
    with pytest.raises(JoinError, match="same order"):
        each.add(requests, predicted(shown(1), 0), None)
    with pytest.raises(JoinError, match="one per request row"):
        each.add(requests, predicted(requests, 0).slice(0, 2), None)


def test_a_state_refused_by_the_collator_leaves_the_join_alone() -> None:
    each, other = joiner(), joiner(batch_rows=5)
    each.add(shown(0), None, None)
    before = each.state()
    with pytest.raises(ConfigError):
        each.restore(other.state())
    assert each.state() == before
