"""Fitted rankers on their test split: groups and slices by feature, and two of them paired."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from headrace.data import IdFeature, Schema
from headrace.errors import DataError
from headrace.evaluate import evaluate
from headrace.nn import DeepFM, LogisticRegression
from headrace.online import RunFolder
from headrace.online.config import TableSettings
from headrace.ranking import DenseOptimizer, FitConfig, InMemory, Network, RankerFit, Splits, cut, judge
from headrace.ranking.held_out import compare_published, evaluate_published
from headrace.store import Adam, Uniform
from headrace.testing.toy import Toy, ToyConfig

TOY = Toy(ToyConfig(users=16, items=16, signs=2, strength=3.0))
SCHEMA = Schema(features=(IdFeature("user", 5), IdFeature("item", 5)))


@dataclass(frozen=True)
class Planted:
    seed: int = 0

    def __call__(self) -> Splits:
        return planted(self.seed)


@cache
def planted(seed: int) -> Splits:
    return Splits(*(InMemory.from_events(part, SCHEMA) for part in cut(TOY.events(0, 2000), 0.2, 0.3, seed=seed)))


CONFIG = FitConfig(
    name="planted", data=Planted(), schema=SCHEMA, model=Network(family=DeepFM, hidden=(8,)), batch_rows=64, epochs=4,
    tables=TableSettings(rule=Adam(lr=0.03), init=Uniform(0.1)), dense=DenseOptimizer(lr=0.01), seed=3,
)  # fmt: skip
LINEAR = replace(CONFIG, model=Network(family=LogisticRegression))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    made = []
    for config in (CONFIG, LINEAR):
        made.append(RunFolder(tmp_path_factory.mktemp("fit")))
        RankerFit(config, made[-1]).run()
    return made[0], made[1]


def test_groups_and_slices_are_features(folders: tuple[RunFolder, RunFolder]) -> None:
    report, found = evaluate_published(CONFIG, folders[0], groups="user", slices=("item",))
    test = CONFIG.data().test
    users = test.batch.ids["user"].values.numpy()
    fit = RankerFit(CONFIG)
    fit.run()
    alone = judge(fit.learner.model, test)
    assert found["gauc"].value == pytest.approx(evaluate(alone.labels, alone.scores, users)["gauc"].value, abs=1e-4)
    assert found.groups == 16
    assert sum(part.rows for part in found.slices["item"]) == len(test)
    assert report.figures["auc"].low == found["auc"].low
    assert report.figures["test_auc"].value == pytest.approx(found["auc"].value, abs=1e-5)


def test_the_planted_interaction_makes_the_difference(folders: tuple[RunFolder, RunFolder]) -> None:
    found = compare_published((CONFIG, folders[0]), (LINEAR, folders[1]), groups="user")
    assert found.verdict("auc") == "A is better"
    assert found.verdict("log_loss") == "A is better"


def test_other_test_rows_are_not_compared(folders: tuple[RunFolder, RunFolder]) -> None:
    with pytest.raises(DataError, match="Test splits"):
        compare_published((CONFIG, folders[0]), (replace(LINEAR, data=Planted(1)), folders[1]))


def test_a_feature_that_is_not_there_is_named(folders: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="user"):
        evaluate_published(CONFIG, folders[0], groups="usr")
