"""Which arm answers: as often as the shares say, the same for one unit always, and independent between experiments."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from headrace.data import IdFeature, Schema
from headrace.errors import ConfigError
from headrace.evaluate.bootstrap import mixed
from headrace.serve import RankPredictor
from headrace.serve.arms import Arm, Arms, Experiment, ServedModel, check_min_version, rendezvous
from headrace.serve.columns import Columns
from headrace.serve.experiment import ExperimentConfig
from headrace.serve.refusals import Refusal
from headrace.types import Change, Events

UNITS = [f"user-{n}" for n in range(20_000)]


def standing(version: int = 0) -> RankPredictor:
    """A predictor of which only the version is asked."""
    return SimpleNamespace(version=SimpleNamespace(number=version, parent=version - 1))  # type: ignore[return-value]


def made_arms(shares: dict[str, float], *, salt: str = "s", versions: dict[str, int] | None = None) -> Arms:
    held = versions or {}
    models = {name: ServedModel(standing(held.get(name, 0))) for name in shares if name != "main"}
    return Arms(Arm("main", standing(held.get("main", 0))), Experiment(arms=models, config=ExperimentConfig(
        shares=shares, salt=salt)))  # fmt: skip


def counts(arms: Arms) -> np.ndarray:
    return np.bincount(arms.split(UNITS)[0], minlength=len(arms.arms))


@pytest.mark.parametrize("shares", [{"main": 0.5, "b": 0.5}, {"main": 0.94, "b": 0.01, "c": 0.05}])
def test_arms_get_their_shares(shares: dict[str, float]) -> None:
    """A chi-square above 13.8 has a probability below 0.001 with two degrees of freedom."""
    expected = np.array(list(shares.values())) * len(UNITS)
    for salt in ("a", "b", "c"):
        found = counts(made_arms(shares, salt=salt))
        assert ((found - expected) ** 2 / expected).sum() < 13.8


def test_a_unit_keeps_its_arm_and_its_propensity_is_the_share() -> None:
    shares = {"main": 0.7, "b": 0.3}
    codes, chances = made_arms(shares).split(UNITS[:500])
    again = made_arms(shares)
    for unit, code, chance in zip(UNITS[:500], codes, chances, strict=True):
        chosen = again.choose(unit)
        assert chosen.arm.name == ["main", "b"][code]
        assert chosen.propensity == pytest.approx(chance)
        assert chance == pytest.approx(shares[chosen.arm.name])


def test_experiments_with_other_salts_know_nothing_of_each_other() -> None:
    one, two = (made_arms({"main": 0.5, "b": 0.5}, salt=salt).split(UNITS)[0] for salt in ("one", "two"))
    table = np.bincount(2 * one + two, minlength=4).reshape(2, 2)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 10.8  # p = 0.001, one degree of freedom


def test_arms_know_nothing_of_the_ids_order() -> None:
    """Neighbouring names, and numbers, are split as evenly as others."""
    for units in ([str(n) for n in range(20_000)], [f"{n:08b}" for n in range(20_000)]):
        codes, _ = made_arms({"main": 0.5, "b": 0.5}).split(units)
        assert abs(codes.mean() - 0.5) < 0.012
        assert abs(np.mean(codes[1:] == codes[:-1]) - 0.5) < 0.012


def test_other_shares_move_only_who_has_to_move() -> None:
    few, more = (made_arms({"main": 1 - share, "b": share}).split(UNITS)[0] for share in (0.05, 0.2))
    assert not (few > more).any()
    assert abs((few != more).mean() - 0.15) < 0.01
    three, other = (made_arms(shares).split(UNITS)[0] for shares in (
        {"main": 0.8, "b": 0.1, "c": 0.1}, {"main": 0.7, "b": 0.2, "c": 0.1}))  # fmt: skip
    assert not ((three == 1) & (other != 1)).any()  # who has the growing arm keeps it
    assert (three != other).mean() < 0.13  # 0.1 have to move


def test_an_arm_without_a_version_takes_no_traffic_and_the_log_knows() -> None:
    arms = made_arms({"main": 0.5, "b": 0.3, "c": 0.2}, versions={"b": -1})
    assert arms.propensities().tolist() == pytest.approx([0.5 / 0.7, 0, 0.2 / 0.7])
    assert counts(arms)[1] == 0
    nobody = made_arms({"main": 0.5, "b": 0.5}, versions={"main": -1, "b": -1})
    assert nobody.propensities().tolist() == [1, 0]


def test_a_share_of_nothing_gets_nothing() -> None:
    codes = rendezvous(mixed(np.arange(1000, dtype=np.uint64)), [1, 2], np.array([0.0, 1.0]))
    assert codes.tolist() == [1] * 1000


@pytest.fixture
def two(make_predictor: Callable[..., RankPredictor], make_change: Callable[..., Change]) -> Callable[..., Arms]:
    def make(split_by: str = "user", share: float = 0.5) -> Arms:
        main, other = make_predictor(), make_predictor()
        main.apply(make_change(0))
        other.apply(make_change(0))
        other.apply(make_change(1))
        config = ExperimentConfig(shares={"main": 1 - share, "b": share}, split_by=split_by, salt="x")
        return Arms(Arm("main", main), Experiment(arms={"b": ServedModel(other)}, config=config),
                    columns=Columns(main.request_schema))  # fmt: skip

    return make


def test_rows_are_answered_by_their_arm_and_in_their_order(
    two: Callable[..., Arms], make_requests: Callable[..., Events]
) -> None:
    arms, rows = two("key"), make_requests(200)
    found = arms.predict(rows)
    assert found.column("key").equals(rows.column("key"))
    assert found.column("item").equals(rows.column("item"))
    names = np.array(found.column("arm").to_pylist())
    assert set(names) == {"main", "b"}
    assert found.column("arm_propensity").to_pylist() == [0.5] * 200
    for code, arm in enumerate(arms.arms):
        mine = np.flatnonzero(names == arm.name)
        alone = arm.predictor.predict(rows.take(mine))
        assert found.take(mine).column("score").equals(alone.column("score"))
        assert set(found.take(mine).column("version").to_pylist()) == {code}


def test_one_request_has_one_arm(two: Callable[..., Arms], make_requests: Callable[..., Events]) -> None:
    """Rows of one key go together, also where their users differ; a user has one arm over all requests."""
    arms, rows = two("user"), make_requests(300)
    found = arms.predict(rows)
    by_key: dict[str, set[str]] = {}
    for key, arm in zip(rows.column("key").to_pylist(), found.column("arm").to_pylist(), strict=True):
        by_key.setdefault(key, set()).add(arm)
    assert all(len(names) == 1 for names in by_key.values())
    first = rows.take(np.arange(0, 300, 5))
    chosen = [arms.choose(user).arm.name for user in first.column("user").to_pylist()]
    assert found.take(np.arange(0, 300, 5)).column("arm").to_pylist() == chosen


def test_a_server_without_arms_is_main(make_predictor: Callable[..., RankPredictor], make_change: Callable[..., Change],
                                       make_requests: Callable[..., Events]) -> None:  # fmt: skip
    predictor = make_predictor()
    predictor.apply(make_change(0))
    found = Arms(Arm("main", predictor)).predict(make_requests(7))
    assert found.column("arm").to_pylist() == ["main"] * 7
    assert found.column("arm_propensity").to_pylist() == [1.0] * 7


def test_an_arm_that_reads_other_requests_is_refused(make_predictor: Callable[..., RankPredictor]) -> None:
    features = tuple(IdFeature(name, 4, accepts="string") for name in ("user", "item"))
    columns = Columns(Schema(features=features))
    config = ExperimentConfig(shares={"main": 0.5, "b": 0.5})
    with pytest.raises(ConfigError, match="Arm 'b', column 'city'"):
        Arms(Arm("main", standing()), Experiment(arms={"b": ServedModel(make_predictor())}, config=config),
             columns=columns)  # fmt: skip
    with pytest.raises(ConfigError, match="split_by"):
        Arms(Arm("main", standing()), Experiment(arms={}, config=ExperimentConfig(
            shares={"main": 1.0}, split_by="usre")), columns=columns)  # fmt: skip


def test_min_version() -> None:
    check_min_version(3, None)
    check_min_version(3, 3)
    with pytest.raises(Refusal) as refused:
        check_min_version(3, 4, "b")
    assert refused.value.status == 409
    assert refused.value.more == {"version": 3, "arm": "b"}
