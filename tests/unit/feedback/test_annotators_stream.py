from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.feedback import Answers, LabelConfig, LabelStream, aggregate
from headrace.feedback.randomness import Ints

METHODS = ("dawid-skene", "glad", "lfc", "groupanno")


def crowd(seed: int = 0) -> Answers:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(150, 2))
    truth, group = (features[:, 0] > 0).astype(int), draw.integers(0, 2, 20)
    rates = np.stack([0.65 + 0.25 * group, 0.9 - 0.25 * group], axis=1)
    items, people = np.repeat(np.arange(150), 4), np.concatenate([draw.permutation(20)[:4] for _ in range(150)])
    right = draw.random(600) < rates[people, truth[items]]
    return Answers.encode(items, people, np.where(right, truth[items], 1 - truth[items]),
                          groups={"age": group[people]}, features=(np.arange(150), features))  # fmt: skip


def add(stream: LabelStream, answers: Answers, rows: Ints) -> None:
    items = np.unique(answers.items[rows])
    stream.add(answers.items[rows], answers.annotators[rows], answers.answers[rows],
               groups={"age": answers.attributes["age"].codes[answers.annotators[rows]]},
               features=(items, answers.features[items]))  # fmt: skip


def in_order(labels) -> np.ndarray:
    return labels.beliefs[np.argsort(np.array(labels.answers.item_names))]


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_settles_where_the_whole_ends(method) -> None:
    answers, config = crowd(), LabelConfig(method=method, tolerance=1e-8, iterations=5000)
    stream = LabelStream([0, 1], config, groups=["age"])
    for rows in np.array_split(np.random.default_rng(1).permutation(len(answers)), 6):
        add(stream, answers, rows)
    early = in_order(stream.labels())
    whole = aggregate(answers, config)
    assert np.abs(in_order(stream.settle()) - whole.beliefs).max() < 1e-5
    # and it was no bad guess before
    assert (early.argmax(axis=1) == whole.codes).mean() > 0.85


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_stream_goes_on_exactly(method) -> None:
    answers, config = crowd(), LabelConfig(method=method)
    parts = np.array_split(np.random.default_rng(2).permutation(len(answers)), 3)
    first, second = (LabelStream([0, 1], config, groups=["age"]) for _ in range(2))
    add(first, answers, parts[0])
    second.restore(first.state())
    for stream in (first, second):
        add(stream, answers, parts[1])
        add(stream, answers, parts[2])
    assert np.array_equal(first.beliefs, second.beliefs)
    assert np.array_equal(first.settle().beliefs, second.settle().beliefs)


def test_a_state_is_plain_and_not_shared() -> None:
    answers = crowd()
    stream = LabelStream([0, 1], groups=["age"])
    add(stream, answers, np.arange(100))
    state = stream.state()
    before = state["beliefs"].clone()
    add(stream, answers, np.arange(100, 300))
    assert torch.equal(state["beliefs"], before)


def test_a_batch_moves_only_what_it_touches() -> None:
    stream = LabelStream(["no", "yes"], LabelConfig(method="dawid-skene"))
    stream.add(["a", "a", "b", "b"], ["x", "y", "x", "y"], ["yes", "yes", "no", "no"])
    before = stream.beliefs.copy()
    stream.add(["a"], ["z"], ["no"])
    assert stream.beliefs[0, 1] != before[0, 1]
    assert np.array_equal(stream.beliefs[1], before[1])


def test_a_refused_batch_changes_nothing() -> None:
    stream = LabelStream([0, 1], groups=["age"])
    stream.add(["a", "b"], ["x", "y"], [0, 1], groups={"age": ["old", "young"]})
    before = stream.beliefs.copy()
    for wrong in (
        {"answers": [0], "groups": {"age": ["young"]}},
        {"answers": [7], "groups": {"age": ["old"]}},
        {"answers": [0], "groups": {}},
    ):
        with pytest.raises(DataError):
            stream.add(["c"], ["x"], wrong["answers"], groups=wrong["groups"])
    with pytest.raises(DataError, match="as before"):
        stream.add(["c"], ["x"], [0], groups={"age": ["old"]}, features=(["c"], np.ones((1, 1))))
    assert np.array_equal(stream.beliefs, before)
    assert stream.answers.item_names == ("a", "b")


def test_what_cannot_be_streamed_is_refused() -> None:
    with pytest.raises(ConfigError, match="majority"):
        LabelStream([0, 1], LabelConfig(method="majority"))
    with pytest.raises(DataError, match="no answers yet"):
        LabelStream([0, 1]).settle()
    stream = LabelStream([0, 1])
    with pytest.raises(ConfigError, match=r"LabelStream\.restore"):
        stream.restore(LabelStream([0, 1, 2]).state())
