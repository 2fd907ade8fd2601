"""A fit finds what is planted, chooses by validation, resumes to the bit, and ends as a version that can be served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.data import IdFeature, Schema
from headrace.errors import ConfigError, DataError
from headrace.nn import DeepFM, LogisticRegression
from headrace.online import RunFolder, newest_predictor
from headrace.online.config import TableSettings
from headrace.optim import Warmup
from headrace.ranking import (
    DenseOptimizer,
    FitConfig,
    InMemory,
    Network,
    RankerFit,
    Splits,
    cut,
    fit_ranker,
    judge,
    judge_published,
)
from headrace.store import Adam, Uniform
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Report

TOY = Toy(ToyConfig(users=16, items=16, signs=2, strength=3.0))
SCHEMA = Schema(features=(IdFeature("user", 5), IdFeature("item", 5)))
TIMED = {"examples_per_s", "fit_s", "evaluate_s"}


@dataclass(frozen=True)
class Planted:
    rows: int = 3000

    def __call__(self) -> Splits:
        return planted(self.rows)


@cache
def planted(rows: int) -> Splits:
    parts = cut(TOY.events(0, rows), 0.2, 0.2, seed=0)
    return Splits(*(InMemory.from_events(part, SCHEMA) for part in parts))


def config(**changes) -> FitConfig:
    settings = FitConfig(
        name="planted", data=Planted(), schema=SCHEMA, model=Network(family=DeepFM, hidden=(8,)), batch_rows=64,
        tables=TableSettings(rule=Adam(lr=0.03), init=Uniform(0.1)), dense=DenseOptimizer(lr=0.01), epochs=4, seed=3,
    )  # fmt: skip
    return replace(settings, **changes)


def values(report: Report) -> dict[str, float]:
    return {name: figure.value for name, figure in report.figures.items() if name not in TIMED}


class Killed(Exception):
    pass


def killed_at(step: int):
    def on_step(progress) -> None:
        if progress.step == step:
            raise Killed

    return on_step


def test_it_finds_the_planted_interaction_and_a_linear_model_does_not() -> None:
    found = fit_ranker(config(epochs=8)).figures
    linear = fit_ranker(config(model=Network(family=LogisticRegression)))
    assert found["test_auc"].value > 0.93 * TOY.best_auc()
    assert found["test_auc"].low < found["test_auc"].value < found["test_auc"].high
    assert linear.figures["test_auc"].value < 0.6


def test_the_best_validation_is_what_is_judged() -> None:
    fit = RankerFit(config(epochs=5, tables=TableSettings(rule=Adam(lr=0.3), init=Uniform(0.1)), patience=None))
    report = fit.run()
    seen = [one.auc for one in fit.progress.evaluations]
    assert report.figures["valid_auc"].value == max(seen)
    assert report.figures["best_epoch"].value == 1 + int(np.argmax(seen)) < 5  # the large rate jumps about
    assert judge(fit.learner.model, fit.splits.test).auc == report.figures["test_auc"].value


def test_one_pass_is_what_a_single_epoch_gives() -> None:
    many, one = values(fit_ranker(config())), values(fit_ranker(config(epochs=1)))
    assert many["one_pass/test_auc"] == one["one_pass/test_auc"] == one["test_auc"]
    assert many["one_pass/test_log_loss"] == one["test_log_loss"]


def test_patience_ends_it_and_never_before_the_first_epoch() -> None:
    fit = RankerFit(config(dense=DenseOptimizer(lr=1.0), epochs=50, patience=1, evaluate_every=2))
    fit.run()
    assert 1 <= fit.progress.epoch < 50
    assert len(fit.progress.evaluations) >= fit.progress.steps_per_epoch // 2


@pytest.mark.parametrize("every", [None, 10])
def test_a_killed_fit_resumes_to_the_bit(tmp_path: Path, every: int | None) -> None:
    chosen = config(evaluate_every=every, model=Network(family=DeepFM, hidden=(8,), dropout=0.2))
    straight = RankerFit(chosen)
    straight.run()
    for step in (40, 75):
        with pytest.raises(Killed):
            fit_ranker(chosen, tmp_path, on_step=killed_at(step))
    resumed = RankerFit(chosen, tmp_path)
    report = resumed.run()
    assert values(report) == values(straight.report)
    for name, tensor in straight.learner.model.state_dict().items():
        assert torch.equal(tensor, resumed.learner.model.state_dict()[name]), name


def test_a_fit_that_is_stopped_says_so_and_goes_on(tmp_path: Path) -> None:
    asked = iter(range(1000))
    stopped = fit_ranker(config(), tmp_path, stop=lambda: next(asked) == 50)
    assert "stopped before its end; nothing was published" in stopped.notes
    assert values(fit_ranker(config(), tmp_path)) == values(fit_ranker(config()))


def test_a_finished_fit_is_not_learned_again(tmp_path: Path) -> None:
    first = fit_ranker(config(), tmp_path)
    again = fit_ranker(config(), tmp_path, on_step=killed_at(1))
    assert again.to_json() == first.to_json()


def test_what_was_fitted_is_served(tmp_path: Path) -> None:
    fit = RankerFit(config(), tmp_path)
    report = fit.run()
    requests = TOY.events(5000, 20)
    predictor = newest_predictor(config().served(), RunFolder(tmp_path))
    served = predictor.predict(requests).column("score").to_numpy()
    own = judge(fit.learner.model, InMemory.from_events(requests, SCHEMA)).scores
    assert predictor.version.number == 0
    np.testing.assert_allclose(served, own, rtol=1e-6)
    judged = judge_published(config(), RunFolder(tmp_path)).figures["test_auc"].value
    assert judged == pytest.approx(report.figures["test_auc"].value, abs=1e-6)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit_ranker(config(epochs=1), tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        fit_ranker(config(epochs=1, batch_rows=32), tmp_path)


def test_the_schedule_sets_the_rate_of_every_step() -> None:
    fit = RankerFit(config(dense=DenseOptimizer(lr=0.01, schedule=Warmup(steps=1000)), epochs=1))
    rates: list[float] = []
    fit.on_step = lambda progress: rates.append(fit.learner.optimizer.param_groups[0]["lr"])
    fit.run()
    assert rates[:2] == pytest.approx([0.01 / 1000, 0.02 / 1000])


def test_a_split_without_labels_is_refused() -> None:
    part = planted(3000).test.batch
    blank = InMemory(replace(part, labels=torch.full_like(part.labels, float("nan"))))
    with pytest.raises(DataError, match="no labelled row"):
        judge(RankerFit(config()).learner.model, blank)
