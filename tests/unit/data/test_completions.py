"""Completions meet their rewards in event time and become batches; texts and pairs do as they are."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from headrace.data import (
    EventJoin,
    EventJoiner,
    JoinConfig,
    TextCodec,
    TokenCollator,
    completion_batch,
    jagged,
    number_column,
    preference_batch,
    text_batch,
    text_examples,
    token_column,
)
from headrace.errors import ConfigError, DataError, JoinError, SchemaError
from headrace.types import Events

LISTS = [[5, 6], [7], [8, 9, 10]]
SECOND = 1_000_000


def asked(count: int = 3, start: int = 0) -> Events:
    rows = range(start, start + count)
    return Events.from_columns({
        "key": [f"k{row}" for row in rows], "kind": ["impression"] * count,
        "event_time": [row * SECOND for row in rows], "item": ["0"] * count,
        "prompt_ids": token_column(jagged([[1, 2]] * count)),
    })  # fmt: skip


def made(requests: Events, version: int = 4) -> Events:
    count, lists = len(requests), jagged(LISTS[: len(requests)])
    return Events.from_columns({
        "key": requests.column("key"), "kind": ["prediction"] * count, "event_time": requests.column("event_time"),
        "item": requests.column("item"), "score": pa.array([0.5] * count, pa.float32()),
        "version": pa.array([version] * count), "completion_ids": token_column(lists),
        "log_probs": number_column(-torch.arange(1.0, len(lists.values) + 1), lists.offsets),
        "ended": pa.array([True, False, True][:count]),
    })  # fmt: skip


def rewards(values: dict[str, float], time: int = 2 * SECOND) -> Events:
    count = len(values)
    return Events.from_columns({
        "key": list(values), "kind": ["reward"] * count, "event_time": [time] * count, "item": ["0"] * count,
        "reward": pa.array(list(values.values()), pa.float64()),
    })  # fmt: skip


def joiner(batch_rows: int = 1, window_s: float = 10.0) -> EventJoiner:
    config = JoinConfig(window_s=window_s, lateness_s=0, positive=("reward",), value="reward")
    return EventJoiner(EventJoin(config), TokenCollator(completion_batch, batch_rows))


def test_a_reward_becomes_the_label_of_its_completion() -> None:
    requests = asked()
    batch = joiner().add(requests, made(requests), rewards({"k0": -1.5, "k2": 0.25}))
    assert batch.labels.tolist() == [-1.5, 0.25]
    assert batch.versions.tolist() == [4, 4]
    assert batch.ids["prompt"].values.tolist() == [1, 2, 1, 2]
    assert batch.ids["completion"].values.tolist() == [5, 6, 8, 9, 10]
    assert batch.extra["log_probs"].tolist() == [[-1.0, -2.0, 0.0], [-4.0, -5.0, -6.0]]
    assert batch.extra["ended"].tolist() == [1.0, 1.0]
    assert len(set(batch.extra["groups"].tolist())) == 2


def test_rewards_may_come_late_and_those_that_never_come_teach_nothing() -> None:
    one, requests = joiner(), asked()
    assert one.add(requests, made(requests), None) is None
    late = one.add(asked(1, start=5), None, rewards({"k1": 3.0}, time=5 * SECOND))
    assert late.labels.tolist() == [3.0]
    assert late.ids["completion"].values.tolist() == [7]
    assert (
        one.add(Events.from_columns({"key": ["x"], "kind": ["tick"], "event_time": [99 * SECOND]}), None, None) is None
    )
    assert one.flush() is None
    assert one.join.stats().sampled_out == 3
    assert one.join.stats().negatives == 0


def test_a_reward_that_comes_before_its_completion_waits_for_it_also_through_a_restart() -> None:
    first, second, requests = joiner(), joiner(), asked()
    assert first.add(rewards({"k1": 7.0}), None, None) is None
    second.restore(first.state())
    assert second.add(requests, made(requests), None).labels.tolist() == [7.0]


def test_a_reward_counts_once() -> None:
    one, requests = joiner(), asked()
    assert one.add(requests, made(requests), rewards({"k1": 1.0})).labels.tolist() == [1.0]
    assert one.add(requests, made(requests), rewards({"k1": 2.0})) is None


def test_states_of_joins_with_other_labels_are_refused() -> None:
    clicks = EventJoin(JoinConfig(window_s=10.0, lateness_s=0, positive=("reward",)))
    with pytest.raises(ConfigError, match="settings"):
        clicks.restore(joiner().join.state())


def test_an_action_without_a_value_is_refused_before_anything_changes() -> None:
    one, requests = joiner(), asked()
    lacking = rewards({"k0": 1.0}).with_columns({"reward": pa.array([None], pa.float64())})
    before = one.state()
    for wrong in (lacking, Events(lacking.batch.select(["key", "kind", "event_time", "item"]))):
        with pytest.raises(JoinError, match="column 'reward'"):
            one.add(requests, made(requests), wrong)
    assert str(one.state()) == str(before)


def test_cuts_do_not_depend_on_how_rows_arrived() -> None:
    requests = asked()
    rows = requests.with_columns({"completion_ids": token_column(jagged(LISTS)), "label": pa.array([1.0, 2.0, 3.0])})
    whole, pieces = TokenCollator(completion_batch, 2), TokenCollator(completion_batch, 2)
    at_once = whole.add(rows)
    found = [batch for batch in (pieces.add(rows.slice(row, 1)) for row in range(3)) if batch is not None]
    assert [batch.labels.tolist() for batch in found] == [[1.0, 2.0]] == [at_once.labels.tolist()]
    assert pieces.flush().labels.tolist() == whole.flush().labels.tolist() == [3.0]


def test_pairs_and_texts_become_batches() -> None:
    rows = asked().with_columns(
        {"chosen_ids": token_column(jagged(LISTS)), "rejected_ids": token_column(jagged(LISTS[::-1]))}
    )
    pairs = preference_batch(rows)
    assert pairs.labels.tolist() == [1.0] * 3
    assert pairs.ids["rejected"].values.tolist() == [8, 9, 10, 7, 5, 6]
    soft = preference_batch(rows.with_columns({"label": pa.array([0.5, None, 0.0])}))
    assert soft.labels.tolist() == [0.5, 1.0, 0.0]
    texts = text_batch(
        asked().with_columns(
            {"tokens": token_column(jagged(LISTS)), "taught": token_column(jagged([[0, 1], [1], [0, 0, 1]]))}
        )
    )
    assert texts.ids["taught"].values.tolist() == [0, 1, 1, 0, 0, 1]


def test_long_texts_are_cut_and_nothing_is_lost() -> None:
    pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")
    codec = TextCodec.trained(["the cat sat on the mat"] * 9, 280)
    texts = ["the cat sat on the mat, the cat sat", "", "a cat"]
    rows = text_examples(texts, codec, 5)
    batch, whole = text_batch(rows), codec.encode(texts, begin=True, end=True)
    assert torch.equal(batch.ids["tokens"].values, whole.values)
    lengths = batch.ids["tokens"].offsets.diff().tolist()
    assert max(lengths) == 5
    assert rows.column("key").to_pylist().count("text/1") == 1
    assert len(set(batch.example_ids.tolist())) == len(rows)
    with pytest.raises(ConfigError, match="length"):
        text_examples(texts, codec, 1)


def test_rows_that_cannot_be_read_are_refused_and_not_taken() -> None:
    collator = TokenCollator(completion_batch, 2)
    with pytest.raises(SchemaError, match="completion_ids"):
        collator.add(asked(1))
    assert collator.flush() is None
    requests = asked()
    wrong = made(requests).with_columns({"prompt_ids": requests.column("prompt_ids"),
                                         "log_probs": number_column(torch.zeros(3), torch.arange(4))})  # fmt: skip
    with pytest.raises(DataError, match="rows of other lengths"):
        completion_batch(wrong)
    with pytest.raises(JoinError, match="EventJoiner"):
        collator.add(requests, made(requests), None)
    with pytest.raises(ConfigError, match="batch_rows"):
        TokenCollator(completion_batch, 0)
