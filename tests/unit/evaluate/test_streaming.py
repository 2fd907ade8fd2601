"""Streaming metrics: exact while small, binned beyond, mergeable, resumable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate.metrics import (
    auc,
    calibration_ratio,
    expected_calibration_error,
    log_loss,
    normalised_entropy,
)
from headrace.evaluate.streaming import StreamingAUC, Tally
from headrace.testing import check_resumable


def sample(seed: int, rows: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-3, 1.5, rows)
    probability = np.float64(np.float32(1 / (1 + np.exp(-logit))))
    return (rng.random(rows) < probability).astype(float), probability, rng.choice([1.0, 10.0], rows)


def pieces(arrays: tuple[np.ndarray, ...], count: int) -> list[tuple[np.ndarray, ...]]:
    return list(zip(*(np.array_split(each, count) for each in arrays), strict=True))


def test_while_small_it_is_exact_ties_included() -> None:
    labels, probability, weights = sample(0)
    probability, stream = np.round(probability, 2), StreamingAUC(exact_rows=3000)
    for piece in pieces((labels, probability, weights), 7):
        stream.update(*piece)
    assert stream.exact
    assert stream.value() == pytest.approx(auc(labels, probability, weights), abs=1e-12)


def test_beyond_it_is_binned_and_close() -> None:
    data, stream = sample(1, 20_000), StreamingAUC(exact_rows=1000)
    for piece in pieces(data, 9):
        stream.update(*piece)
    assert not stream.exact
    assert stream.value() == pytest.approx(auc(*data), abs=1e-4)


def test_equal_scores_stay_ties_when_binned() -> None:
    stream = StreamingAUC(exact_rows=0)
    stream.update(np.array([0.0, 1.0, 1.0]), np.full(3, 0.2), np.ones(3))
    assert stream.value() == 0.5


def test_probabilities_of_zero_and_one_have_their_place() -> None:
    stream = StreamingAUC(exact_rows=0)
    stream.update(np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.5]), np.ones(3))
    assert stream.value() == 1.0


@pytest.mark.parametrize("exact_rows", [0, 1500, 10_000])
def test_merging_equals_counting_together(exact_rows: int) -> None:
    data = sample(2)
    whole, left, right = (StreamingAUC(exact_rows=exact_rows) for _ in range(3))
    whole.update(*data)
    first, second = pieces(data, 2)
    left.update(*first)
    right.update(*second)
    left.merge(right)
    assert left.value() == pytest.approx(whole.value(), abs=1e-12)


def test_a_binned_one_merges_into_an_exact_one() -> None:
    data = sample(3)
    first, second = pieces(data, 2)
    small, large = StreamingAUC(exact_rows=10_000), StreamingAUC(exact_rows=10)
    small.update(*first)
    large.update(*second)
    small.merge(large)
    assert small.value() == pytest.approx(auc(*data), abs=1e-3)


def test_other_bins_do_not_merge() -> None:
    with pytest.raises(ConfigError, match="bins"):
        StreamingAUC(bins=10).merge(StreamingAUC(bins=20))


def test_memory_is_bounded() -> None:
    stream = StreamingAUC(exact_rows=100, bins=64)
    for seed in range(20):
        stream.update(*sample(seed, 500))
    tensors = [value for value in stream.state().values() if hasattr(value, "numel")]
    assert sum(tensor.numel() for tensor in tensors) == 2 * 64


@pytest.mark.parametrize("weighted", [False, True])
def test_a_tally_gives_the_exact_numbers(weighted: bool) -> None:
    labels, probability, weights = sample(4)
    weights = weights if weighted else np.ones_like(weights)
    tally = Tally()
    for piece in pieces((labels, probability, weights), 5):
        tally.update(*piece)
    data = (labels, probability, weights)
    expected = {
        "auc": auc(*data), "ne": normalised_entropy(*data), "log_loss": log_loss(*data),
        "calibration": calibration_ratio(*data), "ece": expected_calibration_error(*data, bins=20),
    }  # fmt: skip
    assert tally.numbers() == pytest.approx(expected)
    assert (tally.rows, tally.positives) == (3000, int(labels.sum()))


def test_an_empty_tally_has_no_numbers() -> None:
    tally = Tally()
    tally.update(np.zeros(0), np.zeros(0))
    assert all(math.isnan(value) for value in tally.numbers().values())


def test_tallies_merge() -> None:
    data = sample(5)
    whole, left, right = Tally(), Tally(), Tally()
    whole.update(*data)
    first, second = pieces(data, 2)
    left.update(*first)
    right.update(*second)
    left.merge(right)
    assert left.numbers() == pytest.approx(whole.numbers())


def test_a_tally_refuses_what_is_no_probability() -> None:
    tally = Tally()
    with pytest.raises(DataError, match="probability"):
        tally.update(np.array([0.0]), np.array([1.5]))
    assert tally.rows == 0


@pytest.mark.parametrize("exact_rows", [0, 700, 10_000])
def test_a_tally_keeps_the_contract_of_resumable_parts(exact_rows: int) -> None:
    def advance(tally: Tally, step: int) -> dict[str, float]:
        tally.update(*sample(step, 200))
        return tally.numbers()

    check_resumable(lambda: Tally(exact_rows=exact_rows), advance, others=[lambda: Tally(exact_rows=1)])
