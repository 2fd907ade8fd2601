"""Exact metrics, against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from headrace.errors import ConfigError, DataError
from headrace.evaluate.metrics import (
    auc,
    average_precision,
    calibration_ratio,
    expected_calibration_error,
    grouped_auc,
    log_loss,
    normalised_entropy,
    relative_information_gain,
)


def sample(seed: int, rows: int = 400, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 8, rows)
    labels = (rng.random(rows) < scores).astype(float)
    if ties:
        scores = np.round(scores, 1)
    return labels, scores, rng.uniform(0.5, 3, rows)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_auc_equals_scikit_learn(seed: int, ties: bool) -> None:
    labels, scores, weights = sample(seed, ties=ties)
    assert auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    expected = sk.roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


def test_equal_scores_rank_as_chance() -> None:
    assert auc([0, 1, 0, 1, 1], [0.3] * 5) == 0.5


def test_weights_count_as_so_many_rows() -> None:
    labels, scores, _ = sample(1, 60)
    repeats = np.arange(60) % 3 + 1
    assert auc(labels, scores, repeats) == pytest.approx(auc(np.repeat(labels, repeats), np.repeat(scores, repeats)))


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_without_both_classes_there_is_no_auc(labels: list[int]) -> None:
    assert math.isnan(auc(labels, [0.5] * len(labels)))


@pytest.mark.parametrize("seed", range(3))
def test_log_loss_equals_scikit_learn(seed: int) -> None:
    labels, scores, weights = sample(seed)
    assert log_loss(labels, scores) == pytest.approx(sk.log_loss(labels, scores), rel=1e-9)
    assert log_loss(labels, scores, weights) == pytest.approx(sk.log_loss(labels, scores, sample_weight=weights))


def test_a_certain_error_costs_much_but_not_infinity() -> None:
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(1e-7))


def test_normalised_entropy_of_the_base_rate_is_one() -> None:
    labels, _, weights = sample(0)
    rate = float(np.sum(labels * weights) / np.sum(weights))
    assert normalised_entropy(labels, np.full(len(labels), rate), weights) == pytest.approx(1.0)


def test_normalised_entropy_of_a_good_model_is_below_one() -> None:
    labels, scores, _ = sample(0)
    assert normalised_entropy(labels, scores) < 1 < normalised_entropy(labels, 1 - scores)


def test_calibration_is_expected_over_observed() -> None:
    assert calibration_ratio([1, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 1.0
    assert calibration_ratio([1, 0], [0.5, 0.25], [1, 2]) == 1.0
    assert math.isnan(calibration_ratio([0], [0.5]))


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    labels, scores = [1, 0, 0, 0], [0.9, 0.9, 0.1, 0.1]
    assert expected_calibration_error(labels, scores, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert expected_calibration_error(labels, scores, bins=1) == pytest.approx(0.25)


def test_bins_of_equal_mass_see_what_equal_width_hides() -> None:
    scores = np.tile([0.01, 0.04], 200)
    labels = np.tile([1.0, 0.0], 200) * (np.arange(400) < 20)  # all positives where the prediction is low
    wide = expected_calibration_error(labels, scores, bins=10)
    fine = expected_calibration_error(labels, scores, bins=2, equal_mass=True)
    assert wide == pytest.approx(0.0, abs=1e-12)
    assert fine > 0.01


def test_grouped_auc_averages_groups_with_both_classes() -> None:
    labels = [0, 1, 0, 1, 1, 1, 0]
    scores = [0.1, 0.9, 0.9, 0.1, 0.5, 0.2, 0.4]
    groups = ["a", "a", "b", "b", "c", "b", "d"]
    assert grouped_auc(labels, scores, groups) == pytest.approx((2 * 1.0 + 3 * 0.0) / 5)


def test_grouped_auc_without_a_usable_group_does_not_exist() -> None:
    assert math.isnan(grouped_auc([0, 1], [0.1, 0.2], [1, 2]))


def test_tensors_are_taken() -> None:
    assert auc(torch.tensor([0.0, 1.0]), torch.tensor([0.1, 0.2])) == 1.0


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "text"),
    [
        ([0, 2], [0.1, 0.2], None, "label of row 1: got 2.0"),
        ([0, float("nan")], [0.1, 0.2], None, "label of row 1"),
        ([0, 1], [0.1, 1.2], None, "probability of row 1: got 1.2"),
        ([0, 1], [0.1, float("nan")], None, "score of row 1"),
        ([0, 1], [0.1, 0.2], [1, 0], "weight of row 1"),
        ([0, 1], [0.1], None, "one length"),
    ],
)
def test_what_is_no_label_probability_or_weight_is_refused(
    labels: list[float], scores: list[float], weights: list[float] | None, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        log_loss(labels, scores, weights)


def test_bins_have_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="bins"):
        expected_calibration_error([0, 1], [0.1, 0.2], bins=0)


def test_groups_have_to_be_as_many_as_rows() -> None:
    with pytest.raises(DataError, match="groups"):
        grouped_auc([0, 1], [0.1, 0.2], [1])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_scikit_learn(seed: int, ties: bool) -> None:
    labels, scores, weights = sample(seed, ties=ties)
    assert average_precision(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    expected = sk.average_precision_score(labels, scores, sample_weight=weights)
    assert average_precision(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


def test_average_precision_without_positives_does_not_exist() -> None:
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))


def test_information_gain_is_what_entropy_leaves() -> None:
    labels, scores, weights = sample(0)
    gain = relative_information_gain(labels, scores, weights)
    assert gain == 1 - normalised_entropy(labels, scores, weights)
    assert 0 < gain < 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["integers", "texts", "wide"])
def test_grouped_auc_equals_scikit_learn_group_by_group(weighted: bool, kind: str) -> None:
    labels, scores, weights = sample(7, 900, ties=True)
    groups = np.random.default_rng(1).integers(0, 60, 900)
    named = {"integers": groups - 5, "texts": np.array([f"u{g}" for g in groups]), "wide": groups * (1 << 55)}[kind]
    weights = weights if weighted else np.ones(900)
    values, masses = [], []
    for group in np.unique(groups):
        rows = groups == group
        if 0 < labels[rows].sum() < rows.sum():
            values.append(sk.roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows]))
            masses.append(weights[rows].sum())
    found = grouped_auc(labels, scores, named, weights if weighted else None)
    assert found == pytest.approx(np.average(values, weights=masses), abs=1e-12)


def test_a_row_without_a_group_is_refused() -> None:
    with pytest.raises(DataError, match="groups, row 1"):
        grouped_auc([0, 1, 1], [0.1, 0.2, 0.3], np.array(["a", None, "b"], dtype=object))


@pytest.mark.parametrize("scores", [[-2.0, 1.0, -3.0, 0.5], [-0.0, 0.0, -1e-40, 1e-40], [1e38, -1e38, 0.0, 3e38]])
def test_single_precision_scores_of_any_sign_keep_their_order(scores: list[float]) -> None:
    labels = [0, 1, 0, 1]
    single = np.array(scores, np.float32)
    assert auc(labels, single) == sk.roc_auc_score(labels, single)


def test_scores_too_close_for_single_precision_are_not_ties() -> None:
    scores = np.array([0.5, 0.5 + 1e-12, 0.5, 0.5 + 2e-12])
    assert auc([0, 1, 0, 1], scores) == 1.0


def test_a_score_beyond_single_precision_is_still_a_score() -> None:
    assert auc([0] * 64 + [1], [*[0.0] * 64, 1e300]) == 1.0


def test_single_and_double_precision_agree_on_many_rows() -> None:
    labels, scores, _ = sample(3, 50_000)
    single = scores.astype(np.float32)
    groups = np.arange(50_000) % 997
    assert auc(labels, single) == auc(labels, single.astype(np.float64), np.ones(50_000)) == pytest.approx(
        sk.roc_auc_score(labels, single), abs=1e-12)  # fmt: skip
    expected = grouped_auc(labels, single, groups, np.ones(50_000))
    assert grouped_auc(labels, single, groups) == pytest.approx(expected, abs=1e-12)
