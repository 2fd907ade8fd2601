"""Experiments: right rates and errors, no false finds however often somebody looks, no verdict where none is due."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate import ArmReading, Exposures, Interval, always_valid, compare_arms


def exposures(
    seed: int = 0, *, units: int = 4000, share: float = 0.5, rates: tuple[float, float] = (0.1, 0.1), each: int = 1,
    taste: float = 0.0,
) -> Exposures:  # fmt: skip
    """Users split by a fair coin of weight `share`, `each` requests of one impression per user."""
    draw = np.random.default_rng(seed)
    arm = (draw.random(units) < share).astype(int)
    rate = np.clip(np.array(rates)[arm] * np.exp(draw.normal(0, taste, units) - taste**2 / 2), 0, 1)
    user = np.repeat(np.arange(units), each)
    clicks = (draw.random(units * each) < rate[user]).astype(float)
    shares = np.array([1 - share, share])[arm[user]]
    return Exposures(("main", "new"), arm[user], user, shares, np.ones(len(user)), {"click": clicks},
                     np.arange(len(user)), "user")  # fmt: skip


def test_rates_and_errors_are_those_of_two_proportions() -> None:
    seen = exposures(rates=(0.1, 0.13))
    found = compare_arms(seen)
    clicks, arms = seen.actions["click"], seen.arms
    p, q, m, n = clicks[arms == 0].mean(), clicks[arms == 1].mean(), (arms == 0).sum(), (arms == 1).sum()
    assert found.arm("main").figures["click/rate"].value == pytest.approx(p)
    difference = found.difference("new")
    assert difference.plain.value == pytest.approx(q - p)
    assert difference.plain.error == pytest.approx(math.sqrt(p * (1 - p) / m + q * (1 - q) / n), rel=1e-3)
    assert difference.lift.value == pytest.approx(q / p - 1)
    assert (found.arm("new").units, found.arm("new").requests) == (n, n)


def test_errors_are_those_of_users() -> None:
    """Users with tastes, 20 requests each: the spread over 60 experiments is what the errors say."""
    values, errors, naive = [], [], []
    for seed in range(60):
        seen = exposures(seed, units=300, each=20, rates=(0.2, 0.2), taste=1.0)
        found = compare_arms(seen).difference("new").plain
        values.append(found.value)
        errors.append(found.error)
        naive.append(compare_arms(seen._replace(units=np.arange(len(seen.arms)))).difference("new").plain.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)
    assert np.mean(naive) < 0.7 * np.std(values)


def test_weights_compare_arms_and_not_hours() -> None:
    """The new arm gets 5 % by day and 50 % by night, when nobody clicks: counted it looks far worse, and is equal."""
    draw = np.random.default_rng(0)
    night = np.arange(40_000) >= 20_000
    share = np.where(night, 0.5, 0.05)
    arm = (draw.random(40_000) < share).astype(int)
    clicks = (draw.random(40_000) < np.where(night, 0.05, 0.25)).astype(float)
    found = compare_arms(Exposures(
        ("main", "new"), arm, np.arange(40_000), np.where(arm == 1, share, 1 - share), np.ones(40_000),
        {"click": clicks}, np.arange(40_000),
    ))  # fmt: skip
    counted = found.arm("new").counted["click/rate"] - found.arm("main").counted["click/rate"]
    difference = found.difference("new")
    assert counted < -0.05
    assert difference.plain.low < 0 < difference.plain.high
    assert abs(difference.plain.value) < 0.015
    assert not found.reasons
    assert any("shares changed" in note for note in found.notes)


def test_looking_often_finds_nothing_that_is_not_there() -> None:
    """200 experiments of equal arms, each looked at 25 times: the plain interval cries wolf, the other does not."""
    plain = always = 0
    for seed in range(200):
        seen = exposures(seed, units=5000, rates=(0.1, 0.1))
        wolf = [False, False]
        for upto in range(200, 5001, 200):
            part = seen._replace(arms=seen.arms[:upto], units=seen.units[:upto], shares=seen.shares[:upto],
                                 rows=seen.rows[:upto], actions={"click": seen.actions["click"][:upto]},
                                 times=seen.times[:upto])  # fmt: skip
            found = _difference(part)
            wolf[0] |= not found.low <= 0 <= found.high
            valid = always_valid(found, 0.01)
            wolf[1] |= not valid.low <= 0 <= valid.high
        plain, always = plain + wolf[0], always + wolf[1]
    assert plain > 30  # nominally 10 of 200
    assert always <= 14


def _difference(seen: Exposures) -> Interval:
    """The plain difference of two proportions, fast."""
    clicks, one = seen.actions["click"], seen.arms == 1
    p, q, m, n = clicks[~one].mean(), clicks[one].mean(), (~one).sum(), one.sum()
    error = math.sqrt(p * (1 - p) / m + q * (1 - q) / n)
    return Interval(q - p, q - p - 1.96 * error, q - p + 1.96 * error, error)


def test_a_difference_is_found() -> None:
    found = compare_arms(exposures(units=20_000, rates=(0.1, 0.13)))
    assert found.verdict("new").startswith("new is above main in click/rate: +0.02")
    assert compare_arms(exposures(units=20_000, rates=(0.13, 0.1))).verdict("new").startswith("new is below main")
    assert "no difference seen" in compare_arms(exposures(units=20_000)).verdict("new")


def test_one_look_is_narrower_and_decides_only_when_asked() -> None:
    seen = exposures(3, units=6000, rates=(0.1, 0.118))
    patient, settled = compare_arms(seen), compare_arms(seen, ArmReading(one_look=True))
    found = patient.difference("new")
    assert found.always.low < 0 < found.plain.low
    assert "no difference seen" in patient.verdict("new")
    assert "above" in settled.verdict("new")


def test_a_wrong_split_is_refused() -> None:
    seen = exposures(units=20_000, rates=(0.1, 0.2))
    lost = (seen.arms == 1) & (np.random.default_rng(1).random(20_000) < 0.06)  # one arm loses 6 % of its requests
    kept = ~lost
    found = compare_arms(Exposures(
        seen.names, seen.arms[kept], seen.units[kept], seen.shares[kept], seen.rows[kept],
        {"click": seen.actions["click"][kept]}, seen.times[kept],
    ))  # fmt: skip
    assert found.ratio_p < 5e-4
    assert found.verdict("new").startswith("cannot conclude: units are not split as the shares say")


def test_an_arm_that_left_nothing_in_the_log_is_noticed() -> None:
    """main has 95 % of the traffic by its share, and all of it by the log."""
    count = 5000
    found = compare_arms(Exposures(("main", "b"), (np.arange(count) % 50 == 0).astype(int), np.arange(count),
                                   np.where(np.arange(count) % 50 == 0, 0.02, 0.88), np.ones(count),
                                   {"click": np.ones(count)}, np.arange(count)))  # fmt: skip
    assert found.ratio_p < 1e-6  # the third arm's 10 % are missing


def test_a_right_split_passes_as_often_as_it_should() -> None:
    """At the 5 % level at most 11 of 100 right splits look wrong, with shares that change on the way."""
    wrong = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        share = np.where(np.arange(6000) < 2000, 0.05, 0.4)
        arm = (draw.random(6000) < share).astype(int)
        seen = Exposures(("main", "new"), arm, np.arange(6000), np.where(arm == 1, share, 1 - share), np.ones(6000),
                         {"click": np.ones(6000)}, np.arange(6000))  # fmt: skip
        wrong += compare_arms(seen).ratio_p < 0.05
    assert wrong <= 11


def test_units_count_once_in_the_split() -> None:
    """A user with many requests is one unit: heavy users must not raise an alarm."""
    draw = np.random.default_rng(0)
    arm = (draw.random(400) < 0.5).astype(int)
    user = np.repeat(np.arange(400), draw.integers(1, 400, 400))
    count = len(user)
    seen = Exposures(("main", "new"), arm[user], user, np.full(count, 0.5), np.ones(count), {"click": np.ones(count)},
                     np.arange(count))  # fmt: skip
    assert compare_arms(seen).ratio_p > 0.01


def test_too_little_is_refused() -> None:
    assert "new has" in compare_arms(exposures(units=120, rates=(0.5, 0.5))).verdict("new")
    rare = compare_arms(exposures(units=2000, rates=(0.005, 0.005)))
    assert "units with click, 20 needed" in rare.verdict("new")
    alone = exposures(units=500)
    one = compare_arms(alone._replace(names=("main",), arms=np.zeros(500, int), shares=np.ones(500)))
    assert one.reasons[0] == "there is one arm, main"


def test_nothing_clicked_is_not_known_to_be_nothing() -> None:
    found = compare_arms(exposures(units=1000, rates=(0.0, 0.1)))
    nothing = found.arm("main").figures["click/rate"]
    assert nothing.value == nothing.low == 0.0
    assert 0.001 < nothing.high < 0.01
    assert math.isnan(found.difference("new").lift.value)


def test_several_arms_share_the_confidence() -> None:
    draw = np.random.default_rng(0)
    arms = draw.integers(0, 3, 9000)
    seen = Exposures(("a", "b", "main"), arms, np.arange(9000), np.full(9000, 1 / 3), np.ones(9000),
                     {"click": (draw.random(9000) < 0.2) * 1.0}, np.arange(9000))  # fmt: skip
    found = compare_arms(seen)
    assert [arm.name for arm in found.arms] == ["main", "a", "b"]
    plain = found.difference("a").plain
    assert plain.high - plain.value == pytest.approx(2.2414 * plain.error, rel=1e-3)  # 1 - 0.05 / 2
    assert found.ratio_p > 0.01
    assert any("Bonferroni" in note for note in found.notes)
    assert compare_arms(seen, ArmReading(control="b")).control == "b"


def test_rows_of_a_request_and_metrics_per_request() -> None:
    seen = exposures(units=1000, rates=(0.2, 0.2))
    several = seen._replace(
        rows=np.full(1000, 10.0), actions={"click": seen.actions["click"] * 2, "buy": np.ones(1000)}
    )
    found = compare_arms(several, ArmReading(metric="buy/per request"))
    main = found.arm("main")
    assert main.figures["click/rate"].value == pytest.approx(main.figures["click/per request"].value * 2 / 10)
    assert main.figures["buy/per request"].value == 1.0
    assert main.rows == 10 * main.requests
    assert "buy/per request" in found.verdict("new")
    with pytest.raises(ConfigError, match="metric"):
        compare_arms(several, ArmReading(metric="sale/rate"))


def test_units_that_moved_are_counted() -> None:
    seen = exposures(units=1000)
    moved = seen._replace(
        arms=np.concatenate([seen.arms, 1 - seen.arms[:10]]), units=np.concatenate([seen.units, seen.units[:10]]),
        shares=np.full(1010, 0.5), rows=np.ones(1010), times=np.arange(1010),
        actions={"click": np.concatenate([seen.actions["click"], np.zeros(10)])},
    )  # fmt: skip
    assert any("10 of 1,000 units were moved" in note for note in compare_arms(moved).notes)


def test_what_cannot_be_compared_is_an_error() -> None:
    empty = exposures(units=10)
    with pytest.raises(DataError, match="no impressions"):
        compare_arms(Exposures(("main",), *(np.zeros(0, int) for _ in range(2)), np.zeros(0), np.zeros(0),
                               {"click": np.zeros(0)}, np.zeros(0, int)))  # fmt: skip
    with pytest.raises(DataError, match="share"):
        compare_arms(empty._replace(shares=np.zeros(10)))
    with pytest.raises(DataError, match="kind"):
        compare_arms(empty._replace(actions={}))
    with pytest.raises(ConfigError, match="control"):
        compare_arms(empty, ArmReading(control="other"))


def test_words_and_plain_values() -> None:
    found = compare_arms(exposures(units=2000))
    text = found.table()
    assert "sample ratio" in text
    assert found.verdict("new") in text
    plain = found.to_json()
    assert plain["arms"][0]["name"] == "main"
    assert plain["verdicts"]["new"] == found.verdict("new")
    assert plain["differences"][0]["plain"]["value"] == found.difference("new").plain.value
