"""Intervals: right in hand-made cases, and with the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate.intervals import auc_difference, auc_interval, hanley_mcneil_interval
from headrace.evaluate.metrics import auc


def draw(rng: np.random.Generator, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = (rng.random(rows) < 0.3).astype(float)
    signal = labels + rng.normal(size=rows)
    return labels, signal, signal + rng.normal(size=rows)


def binormal(shift: float) -> float:
    return 0.5 * (1 + math.erf(shift / 2))


def test_the_value_is_the_auc() -> None:
    labels, scores, _ = draw(np.random.default_rng(0))
    rounded = np.round(scores, 1)
    assert auc_interval(labels, rounded).value == pytest.approx(auc(labels, rounded), abs=1e-12)


def test_variance_equals_the_definition_by_pairs() -> None:
    rng = np.random.default_rng(3)
    labels, scores, _ = draw(rng, 40)
    scores = np.round(scores, 1)
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = np.var(wins.mean(1), ddof=1) / len(positive) + np.var(wins.mean(0), ddof=1) / len(negative)
    assert auc_interval(labels, scores).error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_difference_variance_equals_the_definition_by_pairs() -> None:
    labels, first, second = draw(np.random.default_rng(4), 50)
    wins = [(s[labels == 1][:, None] > s[labels == 0]).astype(float) for s in (first, second)]
    gap = wins[0] - wins[1]
    variance = np.var(gap.mean(1), ddof=1) / gap.shape[0] + np.var(gap.mean(0), ddof=1) / gap.shape[1]
    found = auc_difference(labels, first, second)
    assert found.value == pytest.approx(gap.mean())
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth = binormal(1.0)
    inside = [low <= truth <= high for _, low, high, _ in (auc_interval(*draw(rng)[:2]) for _ in range(400))]
    assert 0.92 < np.mean(inside) < 0.98


def test_a_paired_interval_is_narrower_than_two_single_ones() -> None:
    labels, first, second = draw(np.random.default_rng(6), 2000)
    paired = auc_difference(labels, first, second)
    apart = math.hypot(auc_interval(labels, first).error, auc_interval(labels, second).error)
    assert paired.error < 0.8 * apart
    assert paired.low > 0


def test_the_same_scores_do_not_differ() -> None:
    labels, scores, _ = draw(np.random.default_rng(7))
    assert auc_difference(labels, scores, scores) == (0.0, 0.0, 0.0, 0.0)


def test_hanley_and_mcneil_is_close_to_delong() -> None:
    labels, scores, _ = draw(np.random.default_rng(8), 4000)
    exact = auc_interval(labels, scores)
    approximate = hanley_mcneil_interval(exact.value, labels.sum(), (1 - labels).sum())
    assert approximate.error == pytest.approx(exact.error, rel=0.1)


def test_more_confidence_is_wider() -> None:
    labels, scores, _ = draw(np.random.default_rng(9))
    assert auc_interval(labels, scores, confidence=0.99).low < auc_interval(labels, scores).low


def test_too_few_rows_give_no_interval() -> None:
    assert all(math.isnan(value) for value in auc_interval([0, 0, 1], [0.1, 0.2, 0.3]))
    assert math.isnan(hanley_mcneil_interval(math.nan, 0, 10).low)


def test_a_confidence_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="confidence"):
        auc_interval([0, 0, 1, 1], [1, 2, 3, 4], confidence=95)


def test_scores_to_compare_have_one_length() -> None:
    with pytest.raises(DataError, match="compare"):
        auc_difference([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 3])
