"""Ranking metrics: against scikit-learn, by hand, and against all orders of ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from headrace.errors import ConfigError, DataError
from headrace.evaluate.ranking import (
    RANKING,
    hit_rate,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg,
    ranking_values,
    recall,
)


def of_order(labels: list[int], k: int) -> dict[str, float]:
    """The textbook numbers of one list in a given order."""
    shown, positives = labels[:k], sum(labels)
    ranks = [place + 1 for place, label in enumerate(shown) if label]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(positives, k) + 1))
    precision = sum((hit + 1) / rank for hit, rank in enumerate(ranks))
    return {
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal, "hit_rate": float(bool(ranks)),
        "recall": len(ranks) / positives, "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": precision / min(positives, k),
    }  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("scores", [
    [0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0.5] * 6, [0.5, 0.9, 0.5, 0.5, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1, 0.1, 0.9],
])  # fmt: skip
@pytest.mark.parametrize("labels", [[1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1], [1] * 6])
def test_ties_count_as_the_mean_over_all_their_orders(scores: list[float], labels: list[int], k: int) -> None:
    expected = {name: [] for name in RANKING}
    for order in itertools.permutations(range(6)):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            for name, value in of_order([labels[row] for row in order], k).items():
                expected[name].append(value)
    found = ranking_values(labels, scores, [0] * 6, k=k)
    for name in RANKING:
        assert found[name].mean == pytest.approx(np.mean(expected[name]), abs=1e-12), name


@pytest.mark.parametrize("k", [None, 3, 10])
@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_equals_scikit_learn(ties: bool, k: int | None) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(40, 12)), (rng.random((40, 12)) < 0.3).astype(float)
    labels[:, 0] = 1
    scores = np.round(scores) if ties else scores
    expected = sk.ndcg_score(labels, scores, k=k)
    groups = np.repeat(np.arange(40), 12)
    order = rng.permutation(480)  # groups need not stand together
    found = ndcg(labels.ravel()[order], scores.ravel()[order], groups[order], k=k)
    assert found == pytest.approx(expected, abs=1e-12)


def test_map_of_whole_lists_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(30, 9)), (rng.random((30, 9)) < 0.3).astype(int)
    labels[:, 2] = 1
    expected = np.mean([sk.average_precision_score(*pair) for pair in zip(labels, scores, strict=True)])
    found = mean_average_precision(labels.ravel(), scores.ravel(), np.repeat(np.arange(30), 9))
    assert found == pytest.approx(expected, abs=1e-12)


def test_groups_without_a_positive_are_left_out_and_counted() -> None:
    found = ranking_values([0, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], ["a", "a", "b", "b"], k=1)["hit_rate"]
    assert (found.mean, found.without, len(found.values)) == (1.0, 1, 1)


def test_weights_weigh_groups() -> None:
    labels, scores, groups = [1, 0, 0, 1], [0.9, 0.1, 0.9, 0.1], [0, 0, 1, 1]
    found = ranking_values(labels, scores, groups, [3, 3, 1, 1], k=1)
    assert found["recall"].mean == 0.75


def test_lists_of_other_lengths_and_gaps_in_group_numbers() -> None:
    labels, scores = [1, 0, 1, 0, 0, 1], [0.1, 0.9, 0.5, 0.2, 0.8, 0.7]
    groups = [100, 100, 3, 100, 3, 100]
    assert hit_rate(labels, scores, groups, k=1) == 0.0
    assert recall(labels, scores, groups, k=2) == pytest.approx((1 / 2 + 1) / 2)
    assert mean_reciprocal_rank(labels, scores, groups) == 0.5


def test_large_ties_stay_exact() -> None:
    labels = np.zeros(5000)
    labels[:50] = 1
    chance = 1 - math.prod((4950 - place) / (5000 - place) for place in range(20))
    assert hit_rate(labels, np.full(5000, 0.3), np.zeros(5000, int), k=20) == pytest.approx(chance, rel=1e-9)


def test_nothing_to_rank_has_no_value() -> None:
    assert math.isnan(ndcg([], [], []))
    assert math.isnan(ndcg([0, 0], [0.1, 0.2], [1, 1]))


@pytest.mark.parametrize(("keywords", "error"), [({"k": 0}, ConfigError), ({"names": ("dcg",)}, ConfigError)])
def test_impossible_questions_are_refused(keywords: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"k|Ranking metric"):
        ranking_values([0, 1], [0.1, 0.2], [1, 1], **keywords)


def test_groups_have_to_be_as_many_as_rows() -> None:
    with pytest.raises(DataError, match="groups"):
        ndcg([0, 1], [0.1, 0.2], [1])
