"""`evaluate` and `compare`: the right numbers, and intervals that cover as often as they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from headrace.errors import ConfigError, DataError
from headrace.evaluate import metrics, ranking
from headrace.evaluate.influence import ROWS
from headrace.evaluate.intervals import auc_difference, auc_interval
from headrace.evaluate.judge import Judging, compare, evaluate
from headrace.types import Report


def draw(seed: int, rows: int = 600, users: int | None = None, wrong: float = 0.0) -> dict[str, np.ndarray]:
    """Labels drawn from probabilities; with users, whose rows share a taste that the model does not know."""
    rng = np.random.default_rng(seed)
    known = rng.normal(-1.5, 1, rows)
    groups = rng.integers(0, users or rows, rows)
    hidden = rng.normal(0, 0.8, users or rows)[groups] if users else 0.0
    labels = (rng.random(rows) < 1 / (1 + np.exp(-known - hidden))).astype(float)
    return {"labels": labels, "probabilities": 1 / (1 + np.exp(-known - wrong)), "groups": groups}


def test_every_figure_is_the_metric_of_its_name() -> None:
    data, weights = draw(0, users=40), np.random.default_rng(1).uniform(0.5, 2, 600)
    label, probability, groups = data.values()
    found = {name: figure.value for name, figure in evaluate(*data.values(), weights).figures.items()}
    plain = (label, probability, weights)
    lists = ranking.ranking_values(label, probability, groups, weights, k=10)
    expected = {
        "auc": sk.roc_auc_score(label, probability, sample_weight=weights),
        "average_precision": sk.average_precision_score(label, probability, sample_weight=weights),
        "log_loss": sk.log_loss(label, probability, sample_weight=weights),
        "ne": metrics.normalised_entropy(*plain), "rig": metrics.relative_information_gain(*plain),
        "calibration": metrics.calibration_ratio(*plain), "ece": metrics.expected_calibration_error(*plain),
        "ece_mass": metrics.expected_calibration_error(*plain, equal_mass=True),
        "gauc": metrics.grouped_auc(label, probability, groups, weights),
        **{f"{name}@10": values.mean for name, values in lists.items()},
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", list(ROWS))
def test_influences_are_derivatives_by_the_weights(name: str) -> None:
    data, rng = draw(3, 80), np.random.default_rng(0)
    label, probability = data["labels"], np.round(data["probabilities"], 1)
    weights, direction = rng.uniform(0.5, 2, 80), rng.normal(size=80)
    m, n = label.sum(), (1 - label).sum()
    # the small-sample factors of DeLong's estimator belong to the variance, not to the derivative
    scale = np.where(label == 1, math.sqrt((m - 1) / m), math.sqrt((n - 1) / n)) if name == "auc" else 1.0
    slope = float(np.sum(ROWS[name](label, probability, weights).rows / weights * scale * direction))
    step = 1e-6
    ends = [ROWS[name](label, probability, weights + sign * step * direction).value for sign in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_the_interval_of_the_auc_is_delongs() -> None:
    data = draw(1)
    assert evaluate(data["labels"], data["probabilities"])["auc"] == auc_interval(*list(data.values())[:2])


@pytest.mark.parametrize("users", [None, 60])
def test_intervals_cover_the_truth_as_often_as_they_say(users: int | None) -> None:
    names = ("auc", "average_precision", "log_loss", "ne", "calibration", *(("gauc", "mrr@10") if users else ()))
    runs = [evaluate(data["labels"], data["probabilities"], data["groups"] if users else None)
            for data in (draw(seed, users=users) for seed in range(300))]  # fmt: skip
    for name in names:
        truth = np.mean([run[name].value for run in runs])
        if name in ("auc", "log_loss", "calibration") and not users:
            truth = evaluate(*list(draw(9999, 400_000).values())[:2])[name].value
        covered = np.mean([run[name].low <= truth <= run[name].high for run in runs])
        assert 0.91 <= covered <= 0.985, (name, covered)


def test_without_groups_the_interval_of_dependent_rows_is_too_narrow() -> None:
    data = draw(0, 4000, users=30)
    alone, grouped = evaluate(data["labels"], data["probabilities"]), evaluate(*data.values())
    assert grouped["log_loss"].error > 1.5 * alone["log_loss"].error


@pytest.mark.parametrize("wrong", [0.0, 0.6])
def test_the_interval_of_the_calibration_error_holds_at_zero_too(wrong: float) -> None:
    bins, known = 20, np.random.default_rng(0).normal(-1.5, 1, 2_000_000)
    shown, true = (1 / (1 + np.exp(-known - shift)) for shift in (wrong, 0.0))
    which = (shown * bins).astype(int)
    truth = float(np.abs(np.bincount(which, shown - true)).sum()) / len(known)
    runs = [evaluate(*list(draw(seed, wrong=wrong).values())[:2])["ece"] for seed in range(150)]
    assert np.mean([run.low <= truth <= run.high for run in runs]) > 0.93
    assert np.mean([run.low > 0 for run in runs]) == pytest.approx(float(wrong > 0), abs=0.1)


def test_bootstrap_agrees_with_the_analytic_errors() -> None:
    data = draw(4, 1500, users=150)
    one, two = (evaluate(*data.values(), how=Judging(method=m, draws=150)) for m in ("analytic", "bootstrap"))
    for name, figure in one.figures.items():
        assert two[name].value == figure.value
        assert two[name].error == pytest.approx(figure.error, rel=0.35), name


def test_slices_are_judged_alone_and_the_rare_ones_together() -> None:
    data = draw(5)
    kinds = np.array(["a"] * 300 + ["b"] * 200 + ["c"] * 60 + [None] * 40, dtype=object)
    found = evaluate(*data.values(), slices={"kind": kinds}, how=Judging(max_slices=2)).slices["kind"]
    assert [(part.name, part.rows) for part in found] == [("a", 300), ("b", 200), ("(other 2)", 100)]
    alone = evaluate(*(column[300:500] for column in data.values()))
    assert found[1].auc == pytest.approx(alone["auc"])
    assert found[1].calibration == pytest.approx(alone["calibration"])
    assert found[1].mean_label == data["labels"][300:500].mean()


def test_a_missing_category_is_one() -> None:
    found = evaluate([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], slices={"x": np.array(["a", None, "a", None], object)})
    assert {part.name for part in found.slices["x"]} == {"a", "(none)"}


def test_it_speaks_to_people_and_to_programs() -> None:
    data = draw(6, users=50)
    found = evaluate(*data.values(), slices={"half": np.arange(600) % 2})
    table, record, report = found.table(), json.loads(json.dumps(found.to_json(), allow_nan=False)), Report()
    assert "NDCG@10" in table
    assert "by half" in table
    assert record["figures"]["auc"]["value"] == found["auc"].value
    assert len(record["slices"]["half"]) == 2
    found.add_to(report)
    assert report.figures["auc"].low == found["auc"].low
    assert "slice/half=0/auc" in report.figures


def test_one_class_has_no_auc_but_a_calibration() -> None:
    found = evaluate([0, 0, 0], [0.1, 0.2, 0.3])
    assert math.isnan(found["auc"].value)
    assert found["log_loss"].value > 0
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["figures"]["auc"]["value"] is None


def test_differences_are_paired() -> None:
    data = draw(7, 2000)
    noisy = np.clip(data["probabilities"] + 0.03 * np.random.default_rng(90).normal(size=2000), 0.001, 0.999)
    found = compare(data["labels"], data["probabilities"], noisy)
    assert found["auc"].error < 0.5 * evaluate(data["labels"], noisy)["auc"].error
    expected = auc_difference(data["labels"], data["probabilities"], noisy)
    assert found["auc"].value == pytest.approx(expected.value, abs=1e-12)
    assert found["auc"].error == pytest.approx(expected.error, rel=1e-12)
    assert found["log_loss"].value < 0
    assert found.verdict("log_loss") in ("A is better", "no difference seen")


@pytest.mark.parametrize("method", ["analytic", "permutation", "bootstrap"])
def test_no_difference_is_said_as_often_as_it_should(method: str) -> None:
    runs = 200 if method == "analytic" else 25
    how, seen = Judging(method=method, draws=99), []
    for seed in range(runs):
        data, rng = draw(seed, 400, users=80), np.random.default_rng(10_000 + seed)
        both = [np.clip(data["probabilities"] + 0.05 * rng.normal(size=400), 0.01, 0.99) for _ in range(2)]
        found = compare(data["labels"], *both, data["groups"], how=how)
        seen.append([found[name].p < 0.05 for name in ("auc", "log_loss", "gauc", "ndcg@10")])
    rates = np.mean(seen, axis=0)
    assert rates.max() < (0.095 if method == "analytic" else 0.24), rates


@pytest.mark.parametrize("method", ["analytic", "permutation", "bootstrap"])
def test_a_real_difference_is_seen_and_has_a_direction(method: str) -> None:
    data = draw(8, 3000, users=300)
    worse = np.clip(data["probabilities"] + 0.2 * np.random.default_rng(90).normal(size=3000), 0.01, 0.99)
    found = compare(data["labels"], worse, data["probabilities"], data["groups"], how=Judging(method=method, draws=199))
    for name in ("auc", "log_loss", "gauc", "ndcg@10"):
        assert found.verdict(name) == "B is better", name
    assert found.verdict("calibration") in ("A and B differ", "no difference seen")
    assert "B is better" in found.table()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["figures"]["auc"]["verdict"] == "B is better"


def test_a_model_does_not_differ_from_itself() -> None:
    data = draw(2)
    found = compare(data["labels"], data["probabilities"], data["probabilities"], data["groups"])
    assert {figure.value for figure in found.figures.values()} == {0.0}
    assert found["auc"].p == 1.0


def test_rows_and_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="method"):
        Judging(method="guess")
    with pytest.raises(ConfigError, match="Rows to judge"):
        evaluate([], [])
    with pytest.raises(DataError, match="probability"):
        evaluate([0, 1], [0.1, 1.5])
    with pytest.raises(DataError, match="slice 'x'"):
        evaluate([0, 1], [0.1, 0.5], slices={"x": ["a"]})
