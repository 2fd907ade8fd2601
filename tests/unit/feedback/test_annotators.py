"""Aggregation of a crowd's answers: equalities with simpler methods, monotone EM, intervals, the test of groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.feedback import METHODS, Answers, LabelConfig, aggregate, groups_test
from headrace.feedback.annotators import confusions_of
from headrace.feedback.annotators_confusion import FreeConfusions, count
from headrace.feedback.annotators_em import expectation
from headrace.feedback.annotators_truth import ClassBalance, Classifier, log_softmax

EXACT = {"tolerance": 1e-9, "iterations": 20_000}


def crowd(
    *, items: int = 200, annotators: int = 40, each: int = 3, classes: int = 2, effect: float = 1.0, seed: int = 0
) -> tuple[Answers, np.ndarray]:
    """Draw answers with two groups whose members favour different classes; returns them and the truth."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(items, 3))
    truth = (features @ draw.normal(size=(3, classes)) + draw.gumbel(size=(items, classes))).argmax(axis=1)
    group = draw.integers(0, 2, annotators)
    logits = 1.5 * np.eye(classes)[None] + 0.3 * draw.normal(size=(annotators, classes, classes))
    logits[:, :, 0] += effect * (2 * group[:, None] - 1)
    asked = np.repeat(np.arange(items), each)
    people = np.concatenate([draw.choice(annotators, each, replace=False) for _ in range(items)])
    chances = np.exp(log_softmax(logits))[people, truth[asked]]
    said = (chances.cumsum(axis=1) < draw.random((len(asked), 1))).sum(axis=1)
    answers = Answers.encode(asked, people, said, classes=range(classes), groups={"group": group[people]},
                             features=(np.arange(items), features))  # fmt: skip
    return answers, truth


@pytest.mark.parametrize("classes", [2, 3])
def test_without_group_effects_groupanno_is_lfc(classes) -> None:
    answers, _ = crowd(classes=classes)
    plain = replace(answers, attributes={})
    free = aggregate(plain, LabelConfig(method="lfc", smoothing=1.0, **EXACT))
    ours = aggregate(plain, LabelConfig(smoothing=1.0, individual_sd=1e4, **EXACT))
    assert np.abs(free.beliefs - ours.beliefs).max() < 1e-4
    assert np.abs(confusions_of(free) - confusions_of(ours)).max() < 1e-4


def test_one_class_of_annotators_makes_groupanno_dawid_skene() -> None:
    answers, _ = crowd()
    one = Answers.encode(answers.items, answers.annotators, answers.answers, groups={"group": ["all"] * len(answers)})
    skene = aggregate(one, LabelConfig(method="dawid-skene", smoothing=1.0, **EXACT))
    ours = aggregate(one, LabelConfig(smoothing=1.0, individual_sd=1e4, **EXACT))
    # the balance of classes is smoothed alike, and persons are held by nothing
    assert np.abs(skene.beliefs - ours.beliefs).max() < 1e-4


def test_without_persons_a_group_is_one_annotator_of_dawid_skene() -> None:
    answers, _ = crowd(items=400)
    groups = answers.attributes["group"].codes[answers.annotators]
    pooled = Answers.encode(answers.items, groups, answers.answers)
    skene = aggregate(pooled, LabelConfig(method="dawid-skene", smoothing=0.0, **EXACT))
    ours = aggregate(answers.without_features(), LabelConfig(individual_sd=0.0, group_sd=1e3, **EXACT))
    assert np.abs(skene.beliefs - ours.beliefs).max() < 2e-2  # what all share keeps a weak prior


def test_lfc_without_features_is_dawid_skene_and_says_so() -> None:
    answers = crowd()[0].without_features()
    lfc, skene = (aggregate(answers, LabelConfig(method=method)) for method in ("lfc", "dawid-skene"))
    assert np.array_equal(lfc.beliefs, skene.beliefs)
    assert "LFC is Dawid-Skene" in lfc.notes[0]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "majority"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_penalised_likelihood_never_falls(method, classes) -> None:
    answers, _ = crowd(classes=classes, seed=1)
    trace = np.array(aggregate(answers, LabelConfig(method=method, tolerance=1e-7)).fitted.trace)
    assert len(trace) > 3
    assert np.diff(trace).min() > -1e-9 * abs(trace[-1])


def test_dawid_skene_reaches_a_stationary_point_of_its_likelihood() -> None:
    answers = crowd(items=60, annotators=8)[0].without_features()
    labels = aggregate(answers, LabelConfig(method="dawid-skene", smoothing=1.0, **EXACT))
    best = labels.fitted.trace[-1]
    model, truth = FreeConfusions(8, 2, 1.0), ClassBalance(2, 1.0)
    draw = np.random.default_rng(0)
    for _ in range(5):
        # fit to beliefs a little beside the found ones: nothing near is better
        beside = np.clip(labels.beliefs + 0.01 * draw.normal(size=(60, 1)) * np.array([1.0, -1.0]), 0.0, 1.0)
        model.fit(answers, beside)
        truth.fit(beside)
        assert expectation(answers, truth, model)[1] <= best + 1e-9


def test_the_same_as_crowdkit_on_its_own_methods() -> None:
    expected = json.loads((Path(__file__).parent / "expected" / "crowdkit.json").read_text(encoding="utf-8"))
    for name in ("two", "three"):
        rows = np.array(expected[name]["rows"])
        answers = Answers.encode(*rows.T, classes=range(expected[name]["classes"]))
        for method, close in (("majority", 1e-6), ("dawid-skene", 1e-6), ("glad", 2e-4)):
            labels = aggregate(answers, LabelConfig(method=method, smoothing=0.0, **EXACT))
            assert np.abs(labels.beliefs - np.array(expected[name][method])).max() < close, (name, method)
        assert np.abs(labels.model.ability - np.array(expected[name]["ability"])).max() < 1e-3


def test_groups_sharpen_the_rates_of_people_with_few_answers() -> None:
    ours, others = [], []
    for seed in range(3):
        answers, _ = crowd(items=600, annotators=120, effect=1.5, seed=seed)
        labels, plain = aggregate(answers), aggregate(replace(answers, attributes={}))
        group = answers.attributes["group"].codes
        means = [labels.annotators.recall[group == place, 0].mean() for place in (0, 1)]
        ours.append(means[1] - means[0])
        assert labels.groups["group"].recall_low[1, 0] > labels.groups["group"].recall_high[0, 0]
        others.append(plain.annotators.recall[group == 1, 0].mean() - plain.annotators.recall[group == 0, 0].mean())
    assert min(ours) > max(others)  # without groups, people of both are held towards one mean


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    inside = []
    for _ in range(5):
        truth, skill = draw.integers(0, 2, 400), draw.uniform(0.6, 0.95, (12, 2))
        items, people = np.repeat(np.arange(400), 6), np.concatenate([draw.permutation(12)[:6] for _ in range(400)])
        right = draw.random(2400) < skill[people, truth[items]]
        answers = Answers.encode(items, people, np.where(right, truth[items], 1 - truth[items]))
        found = aggregate(answers, LabelConfig(method="dawid-skene")).annotators
        inside.append(((found.recall_low <= skill) & (skill <= found.recall_high)).mean())
        assert (found.error_low <= found.error).all()
        assert (found.error <= found.error_high).all()
    assert 0.85 < np.mean(inside) <= 1.0


def test_the_permutation_test_finds_groups_and_does_not_invent_them() -> None:
    biased, _ = crowd(items=400, effect=1.5)
    assert groups_test(biased, permutations=99).p_value <= 0.02
    values = [groups_test(crowd(effect=0.0, seed=seed)[0], permutations=39).p_value for seed in range(8)]
    assert sum(value <= 0.05 for value in values) <= 2
    assert max(values) > 0.3


def test_strangers_answer_as_anybody_does() -> None:
    answers, _ = crowd(effect=1.5)
    labels = aggregate(answers.select(answers.annotators != 0))
    found = labels.predicted_answers(np.arange(5), np.zeros(5, dtype=np.int64))
    assert np.allclose(found, labels.beliefs[:5] @ labels.shared)
    with_groups = labels.predicted_answers(np.arange(5), np.zeros(5, dtype=np.int64), groups_for_strangers=True)
    assert not np.allclose(found, with_groups)
    assert labels.annotators.answers[0] == 0
    assert labels.annotators.recall_high[0, 0] - labels.annotators.recall_low[0, 0] > 0.3


def test_items_without_answers_get_the_classifier() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 1)) * 3
    said = (features[:40, 0] > 0).astype(int)
    answers = Answers.encode(np.repeat(np.arange(40), 2), [0, 1] * 40, np.repeat(said, 2),
                             features=(np.arange(60), features))  # fmt: skip
    labels = aggregate(answers)
    assert (labels.codes[40:] == (features[40:, 0] > 0)).mean() > 0.9


def test_counts_and_tables_agree_with_the_answers() -> None:
    answers, _ = crowd(classes=3)
    labels = aggregate(answers)
    assert count(answers, labels.beliefs).sum() == pytest.approx(len(answers))
    table = labels.table()
    assert table.num_rows == 200
    assert np.allclose(sum(table[f"p_{name}"].to_numpy() for name in (0, 1, 2)), 1.0)
    assert (table["answers"].to_numpy() == 3).all()
    for rates in (labels.annotators, labels.groups["group"]):
        assert rates.answers.sum() == len(answers)
        assert (rates.recall_low <= rates.recall).all()
        assert (rates.recall <= rates.recall_high).all()


def test_the_classifier_is_at_its_maximum() -> None:
    draw = np.random.default_rng(0)
    features, beliefs = draw.normal(size=(50, 2)), draw.dirichlet([1.0, 1.0, 1.0], size=50)
    model = Classifier(features, 3, 1.0)
    for _ in range(5):
        model.fit(beliefs)
    value = float((beliefs * model.log_prior(50)).sum()) - model.penalty()
    for _ in range(20):
        step = 0.05 * draw.normal(size=model.weights.shape)
        model.weights += step
        assert float((beliefs * model.log_prior(50)).sum()) - model.penalty() < value
        model.weights -= step


def test_settings_that_cannot_work_are_refused() -> None:
    for wrong in ({"method": "magic"}, {"smoothing": -1.0}, {"group_sd": 0.0}, {"tolerance": 0.0}, {"confidence": 1.0}):
        with pytest.raises(ConfigError):
            LabelConfig(**wrong)
    answers, _ = crowd(items=20)
    with pytest.raises(DataError, match="without groups"):
        groups_test(replace(answers, attributes={}))


def test_not_having_converged_is_said() -> None:
    labels = aggregate(crowd()[0], LabelConfig(iterations=2))
    assert not labels.fitted.converged
    assert "stopped after 2 steps" in labels.notes[0]
