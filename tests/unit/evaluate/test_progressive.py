"""Progressive validation: totals, cohorts, when they close, and what is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.evaluate.metrics import auc, calibration_ratio, normalised_entropy
from headrace.evaluate.progressive import ProgressiveMetric
from headrace.protocols import Metric, Resumable
from headrace.testing import check_metric, check_resumable
from headrace.types import Batch

SECOND = 1_000_000


def batch(
    times: list[float], labels: list[float], predictions: list[float], *, rates: list[float] | None = None,
    logged: list[float] | None = None,
) -> Batch:  # fmt: skip
    count = len(times)
    return Batch(
        ids={}, dense=torch.zeros(count, 0), labels=torch.tensor(labels, dtype=torch.float32),
        weights=torch.ones(count), event_times=torch.tensor([round(time * SECOND) for time in times]),
        accepted_times=torch.zeros(count, dtype=torch.int64), example_ids=torch.arange(count),
        predictions=torch.tensor(predictions, dtype=torch.float32), versions=torch.zeros(count, dtype=torch.int64),
        sample_rates=torch.tensor(rates or [1.0] * count, dtype=torch.float32),
        extra={} if logged is None else {"score_logged": torch.tensor(logged, dtype=torch.float32)},
    )  # fmt: skip


def drawn(seed: int, rows: int = 300, start: float = 0.0) -> Batch:
    """Examples as a join gives them: ordered by time, some positives ahead of the negatives."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 5, rows)
    labels = (rng.random(rows) < scores).astype(float)
    times = start + np.sort(rng.uniform(0, 40, rows)) + 5 * labels
    skipped = np.where(rng.random(rows) < 0.1, np.nan, scores)
    rates = np.where(labels == 1, 1.0, 0.5)
    return batch(times.tolist(), labels.tolist(), skipped.tolist(), rates=rates.tolist(), logged=scores.tolist())


def test_it_has_the_roles_of_a_metric_and_a_resumable_part() -> None:
    assert isinstance(ProgressiveMetric(window_s=1), Metric)
    assert isinstance(ProgressiveMetric(window_s=1), Resumable)


def test_the_contract_of_metrics_holds() -> None:
    batches = [drawn(seed, start=30.0 * seed) for seed in range(6)]
    assert check_metric(lambda: ProgressiveMetric(window_s=10), batches).untried == ()
    small = lambda: ProgressiveMetric(window_s=10, attribution_s=5, exact_rows=50)  # noqa: E731
    assert check_metric(small, batches).untried == ()


def test_the_contract_of_resumable_parts_holds() -> None:
    def advance(metric: ProgressiveMetric, step: int) -> dict[str, float]:
        metric.update(drawn(step, start=30.0 * step))
        return metric.compute() | {str(n): value for n, row in enumerate(metric.history()) for value in row.values()}

    others = [lambda: ProgressiveMetric(window_s=11), lambda: ProgressiveMetric(window_s=10, attribution_s=1)]
    check_resumable(lambda: ProgressiveMetric(window_s=10), advance, others=others)


def test_totals_are_those_of_all_predictions() -> None:
    metric, rows = ProgressiveMetric(window_s=10), [drawn(seed, start=40.0 * seed) for seed in range(3)]
    for each in rows:
        metric.update(each)
    labels, scores, rates = (torch.cat([getattr(each, name) for each in rows]).double().numpy()
                             for name in ("labels", "predictions", "sample_rates"))  # fmt: skip
    made = ~np.isnan(scores)
    data = (labels[made], scores[made], 1 / rates[made])
    numbers = metric.compute()
    assert numbers["auc"] == pytest.approx(auc(*data))
    assert numbers["ne"] == pytest.approx(normalised_entropy(*data))
    assert numbers["calibration"] == pytest.approx(calibration_ratio(*data))
    assert numbers["skipped"] == int((~made).sum())
    assert numbers["rows"] == made.sum()
    assert numbers["auc_low"] < numbers["auc"] < numbers["auc_high"]


def test_sampled_negatives_weigh_what_they_stand_for() -> None:
    rng = np.random.default_rng(0)
    truth = rng.beta(1, 20, 40_000)
    labels = (rng.random(40_000) < truth).astype(float)
    kept = (labels == 1) | (rng.random(40_000) < 0.1)
    rates = np.where(labels == 1, 1.0, 0.1)
    sampled, whole = ProgressiveMetric(window_s=1), ProgressiveMetric(window_s=1)
    times = np.zeros(40_000)
    whole.update(batch(times.tolist(), labels.tolist(), truth.tolist()))
    sampled.update(batch(times[kept].tolist(), labels[kept].tolist(), truth[kept].tolist(), rates=rates[kept].tolist()))
    assert whole.compute()["calibration"] == pytest.approx(1.0, abs=0.05)
    assert sampled.compute()["calibration"] == pytest.approx(whole.compute()["calibration"], abs=0.03)
    assert sampled.compute()["ne"] == pytest.approx(whole.compute()["ne"], abs=0.01)


def test_a_cohort_closes_with_the_first_negative_beyond_its_end() -> None:
    metric = ProgressiveMetric(window_s=10)
    metric.update(batch([1, 2], [0, 1], [0.1, 0.9]))
    metric.update(batch([10, 25], [1, 1], [0.5, 0.5]))
    assert metric.history() == []
    metric.update(batch([9.5, 10], [0, 0], [0.2, 0.2]))
    (row,) = metric.history()
    assert (row["start"], row["end"], row["rows"], row["auc"]) == (0, 10 * SECOND, 3, 1.0)


def test_with_an_attribution_window_any_newer_example_closes() -> None:
    metric = ProgressiveMetric(window_s=10, attribution_s=5)
    metric.update(batch([1, 2, 14.9], [0, 1, 1], [0.1, 0.9, 0.5]))
    assert metric.history() == []
    metric.update(batch([15], [1], [0.5]))
    assert len(metric.history()) == 1


def test_examples_of_a_closed_cohort_count_in_total_only() -> None:
    metric = ProgressiveMetric(window_s=10)
    metric.update(batch([1, 12, 3], [0, 0, 1], [0.1, 0.2, 0.9]))
    assert metric.history()[0]["rows"] == 1
    assert (metric.compute()["rows"], metric.compute()["after_close"]) == (3, 1)


def test_the_window_is_the_newest_closed_cohort_with_both_classes() -> None:
    metric = ProgressiveMetric(window_s=10)
    assert math.isnan(metric.compute()["window_auc"])
    metric.update(batch([1, 2], [0, 1], [0.1, 0.9]))
    metric.update(batch([12, 22], [0, 0], [0.1, 0.1]))
    assert [row["positives"] for row in metric.history()] == [1, 0]
    assert metric.compute()["window_auc"] == 1.0


def test_scores_with_logged_values_are_judged_beside_those_served() -> None:
    metric = ProgressiveMetric(window_s=10)
    metric.update(batch([1, 2, 3], [0, 1, 0], [0.5, 0.2, 0.1], logged=[0.1, 0.9, math.nan]))
    metric.update(batch([11], [0], [0.1], logged=[0.1]))
    numbers, row = metric.compute(), metric.history()[0]
    assert (row["auc"], row["logged_auc"]) == (0.5, 1.0)
    assert (numbers["window_logged_auc"], numbers["logged_auc"]) == (1.0, 1.0)


def test_without_logged_scores_there_are_no_numbers_of_them() -> None:
    metric = ProgressiveMetric(window_s=10)
    metric.update(batch([1, 11], [0, 0], [0.5, 0.5]))
    assert not [name for name in metric.compute() if "logged" in name]


def test_times_before_the_epoch_have_their_cohort() -> None:
    metric = ProgressiveMetric(window_s=10)
    metric.update(batch([-5, 1], [1, 0], [0.9, 0.1]))
    assert [(row["start"], row["rows"]) for row in metric.history()] == [(-10 * SECOND, 1)]


def test_memory_is_bounded_when_nothing_closes() -> None:
    metric = ProgressiveMetric(window_s=1, max_open=3)
    metric.update(batch([float(time) for time in range(10)], [1] * 10, [0.5] * 10))
    assert (metric.compute()["open_cohorts"], metric.compute()["cohorts"]) == (3, 7)
    metric.update(batch([0.5], [1], [0.5]))
    assert metric.compute()["after_close"] == 1


def test_the_history_keeps_the_newest() -> None:
    metric = ProgressiveMetric(window_s=1, max_history=2)
    metric.update(batch([float(time) for time in range(6)], [0] * 6, [0.5] * 6))
    assert [row["start"] / SECOND for row in metric.history()] == [3, 4]
    assert metric.compute()["cohorts"] == 5


def test_an_empty_batch_is_nothing() -> None:
    metric = ProgressiveMetric(window_s=1)
    metric.update(batch([], [], []))
    assert metric.compute()["rows"] == 0


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="label"):
        ProgressiveMetric(window_s=1).update(batch([0], [math.nan], [0.5]))


def test_a_prediction_that_is_no_probability_is_refused() -> None:
    with pytest.raises(DataError, match="probability"):
        ProgressiveMetric(window_s=1).update(batch([0], [1], [-3.2]))


@pytest.mark.parametrize(
    "settings",
    [{"window_s": 0}, {"window_s": 1, "attribution_s": -1}, {"window_s": 1, "max_open": 0}, {"window_s": 1e-9},
     {"window_s": 1, "max_history": 0}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ProgressiveMetric(**settings)  # type: ignore[arg-type]
