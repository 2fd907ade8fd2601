"""The Open Bandit log: read as it is, and a judge of off-policy estimates by what the other policy really earned."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.data.datasets import open_bandit
from headrace.errors import ConfigError, DataError
from headrace.evaluate import check_propensities, cross_fitted_rates, evaluate_policy

HEADER = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3\n"
)
ITEMS = 34
PUBLISHED = {"random": 2_321 / 452_949, "bts": 27_495 / 4_077_727}
"""Click rates of the whole logs of the campaign `men`, as the paper's table 1 has them; the files here are a sample."""


def row(number: int, second: int, item: int, position: int, click: int, propensity: float) -> str:
    return f"{number},2019-11-24 00:00:{second:02d}.5+00:00,{item},{position},{click},{propensity},a,b,c,d\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "openbandit_bts_men.csv"
    path.write_text(HEADER + row(0, 9, 3, 1, 1, 0.25) + row(1, 5, 0, 3, 0, 0.5) + row(2, 7, 3, 3, 0, 0.125))
    return path


def test_rows_in_order_of_time(path) -> None:
    log = open_bandit.load("bts", path=path)
    assert len(log) == 3
    assert log.items.tolist() == [0, 3, 3]
    assert log.places.tolist() == [2, 2, 0]
    assert log.propensities.tolist() == [0.5, 0.125, 0.25]
    assert log.clicks.tolist() == [0.0, 0.0, 1.0]
    assert log.times[0] == 1_574_553_605_500_000
    assert log.users["user_feature_2"].to_pylist() == ["c"] * 3
    assert log.shares(4)[2].tolist() == [0.5, 0, 0, 0.5]


def test_examples_carry_what_off_policy_evaluation_needs(path) -> None:
    found = open_bandit.load("bts", path=path).examples()
    assert found.column("position").to_pylist() == [3.0, 3.0, 1.0]
    assert found.column("label").to_pylist() == [0.0, 0.0, 1.0]
    assert found.column("propensity").to_pylist() == [0.5, 0.125, 0.25]
    assert found.column("item").to_pylist() == ["0", "3", "3"]


def test_what_cannot_be_read(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="Open Bandit"):
        open_bandit.load("random", "women")
    with pytest.raises(ConfigError, match="policy"):
        open_bandit.find("greedy")  # type: ignore[arg-type]
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(HEADER + row(0, 1, 3, 4, 0, 0.5))
    with pytest.raises(DataError, match="position"):
        open_bandit.load(path=wrong)
    wrong.write_text("timestamp,item_id\n2019-11-24 00:00:00+00:00,3\n")
    with pytest.raises(DataError, match="no such column"):
        open_bandit.load(path=wrong)


def judged(log, target: np.ndarray):
    """Judge a policy, (places, items), on a log."""
    model = cross_fitted_rates(log.clicks, log.items, log.places, shape=(open_bandit.PLACES, ITEMS))
    return evaluate_policy(
        log.clicks, log.propensities, target[log.places, log.items], predicted=model.predicted(log.items, log.places),
        expected=model.expected(target, log.places),
    )  # fmt: skip


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr"])
def test_estimates_hold_what_the_other_policy_earned(data_file, estimator: str) -> None:
    random = open_bandit.load("random", path=data_file("openbandit_random_men.csv.zst"))
    bts = open_bandit.load("bts", path=data_file("openbandit_bts_men.csv.zst"))
    found = judged(random, bts.shares(ITEMS))  # Thompson sampling as it was on average, judged on the even draws
    assert not found.reasons
    assert found[estimator].low < PUBLISHED["bts"] < found[estimator].high
    assert found[estimator].low < bts.clicks.mean() < found[estimator].high
    back = judged(bts, np.full((open_bandit.PLACES, ITEMS), 1 / ITEMS))  # even draws, judged on Thompson sampling
    assert back[estimator].low < PUBLISHED["random"] < back[estimator].high
    assert back[estimator].low < random.clicks.mean() < back[estimator].high
    assert back.verdict == "worse than what was logged"


def test_the_reward_model_alone_is_not_to_be_trusted(data_file) -> None:
    """It learned from what Thompson sampling showed, and is sure of itself; the truth lies outside its interval."""
    bts = open_bandit.load("bts", path=data_file("openbandit_bts_men.csv.zst"))
    found = judged(bts, np.full((open_bandit.PLACES, ITEMS), 1 / ITEMS))
    assert found["dm"].low > PUBLISHED["random"]


def test_its_propensities_are_right(data_file) -> None:
    random = open_bandit.load("random", path=data_file("openbandit_random_men.csv.zst"))
    assert check_propensities(random.items, random.propensities, random.places).p > 1e-3
    assert check_propensities(random.items, random.propensities * 0.8, random.places).p < 1e-3
