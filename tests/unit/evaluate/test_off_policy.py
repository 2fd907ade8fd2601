"""Off-policy estimates are right where the truth is known, say how sure they are, and refuse where they cannot know."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import example_ids
from headrace.data.hashing import hash_strings
from headrace.errors import ConfigError, DataError
from headrace.evaluate import OffPolicy, cross_fitted_rates, evaluate_policy, ranking_target
from headrace.evaluate.off_policy import tail_index
from headrace.feedback import World, WorldConfig
from headrace.types import Events

ACTIONS = 12


class Bandit:
    """A context-free bandit whose logging policy moves; the truth of every policy is known."""

    def __init__(self, seed: int, rows: int, *, uneven: float = 1.0, base: float = 0.05) -> None:
        self.draw = np.random.default_rng(seed)
        world = np.random.default_rng(7)
        self.rates = np.minimum(base * np.exp(world.normal(0, 0.5, ACTIONS)), 1.0)
        self.policies = self.draw.dirichlet(np.full(ACTIONS, uneven), size=20) + 1e-3
        self.policies /= self.policies.sum(axis=1, keepdims=True)
        when = self.draw.integers(0, len(self.policies), rows)
        below = np.cumsum(self.policies[when], axis=1) < self.draw.random(rows)[:, None]
        self.actions = np.minimum(below.sum(axis=1), ACTIONS - 1)
        self.rewards = (self.draw.random(rows) < self.rates[self.actions]).astype(float)
        self.propensities = self.policies[when, self.actions]

    def judged(self, target: np.ndarray, how: OffPolicy | None = None):
        model = cross_fitted_rates(self.rewards, self.actions, shape=(1, ACTIONS))
        return evaluate_policy(
            self.rewards, self.propensities, target[self.actions], predicted=model.predicted(self.actions),
            expected=model.expected(target), how=how,
        )  # fmt: skip


EVEN = np.full(ACTIONS, 1 / ACTIONS)


def test_the_logging_policy_itself_is_its_mean() -> None:
    rewards, chances = np.array([0, 1, 1, 0, 1.0]), np.array([0.2, 0.5, 0.1, 0.9, 0.3])
    found = evaluate_policy(rewards, chances, chances, how=OffPolicy(min_effective_rows=1, min_effective_rewards=1))
    assert found["ips"] == found["snips"] == found["logged"]
    assert found["logged"].value == pytest.approx(0.6)
    assert found.gains["snips"].value == 0
    assert found.verdict == "no difference seen"


def test_estimates_by_hand() -> None:
    rewards, chances, target = np.array([1, 0, 1.0]), np.array([0.5, 0.25, 0.5]), np.array([1.0, 0.5, 0.25])
    predicted, expected = np.array([0.5, 0.5, 0.4]), np.array([0.6, 0.3, 0.5])
    found = evaluate_policy(
        rewards, chances, target, predicted=predicted, expected=expected, how=OffPolicy(clip=1.5, switch=1.5)
    )
    assert found["ips"].value == pytest.approx((2 + 0 + 0.5) / 3)
    assert found["snips"].value == pytest.approx((2 + 0 + 0.5) / 4.5)
    assert found["dm"].value == pytest.approx(1.4 / 3)
    assert found["dr"].value == pytest.approx((0.6 + 2 * 0.5 + 0.3 - 2 * 0.5 + 0.5 + 0.5 * 0.6) / 3)
    assert found["clipped_ips"].value == pytest.approx((1.5 + 0.5) / 3)
    assert found["clipped_dr"].value == pytest.approx((0.6 + 1.5 * 0.5 + 0.3 - 1.5 * 0.5 + 0.5 + 0.5 * 0.6) / 3)
    assert found["switch_dr"].value == pytest.approx((0.6 + 0.3 + 0.5 + 0.5 * 0.6) / 3)
    assert found.weights.effective_rows == pytest.approx(4.5**2 / (4 + 4 + 0.25))


@pytest.mark.parametrize("uneven", [1.0, 10.0])
def test_intervals_hold_the_truth(uneven: float) -> None:
    """Of 200 logs at most 9 % may miss: 95 % intervals, uneven weights, 1500 rows."""
    missed = dict.fromkeys(("ips", "snips", "dr"), 0)
    values = {name: [] for name in missed}
    for seed in range(200):
        bandit = Bandit(seed, 1500, uneven=uneven)
        found = bandit.judged(EVEN)
        for name in missed:
            missed[name] += not found[name].low <= bandit.rates.mean() <= found[name].high
            values[name].append(found[name].value)
    assert all(count <= 18 for count in missed.values()), missed
    for name, several in values.items():  # unbiased, within three errors of the mean
        error = np.std(several) / math.sqrt(len(several))
        assert abs(np.mean(several) - bandit.rates.mean()) < 3 * error, name


def test_weights_with_a_heavy_tail_are_refused() -> None:
    """Here a sixth of the intervals miss the truth (see the test above for how many may): half the logs say why."""
    reasons = [Bandit(seed, 1500, uneven=0.5).judged(EVEN).verdict for seed in range(40)]
    assert sum("tail index" in reason for reason in reasons) >= 10
    fine = [Bandit(seed, 1500, uneven=10.0).judged(EVEN).verdict for seed in range(40)]
    assert sum("tail index" in reason for reason in fine) <= 1


def test_the_tail_index_of_known_tails() -> None:
    draw = np.random.default_rng(0)
    for shape in (0.2, 0.5, 0.9):
        found = [tail_index(1 + draw.pareto(1 / shape, 4000)) for _ in range(20)]
        assert np.mean(found) == pytest.approx(shape, abs=0.1)
    assert tail_index(np.ones(1000)) == -math.inf
    assert math.isnan(tail_index(np.ones(10)))


def test_an_interval_of_independent_rows_would_be_too_narrow_for_users() -> None:
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 20)
    taste = np.repeat(draw.random(200) < 0.3, 20)
    rewards, chances = taste.astype(float), np.full(len(users), 0.5)
    alone = evaluate_policy(rewards, chances, chances)
    together = evaluate_policy(rewards, chances, chances, groups=users)
    assert together["snips"].error > 4 * alone["snips"].error
    assert together.weights.groups == 200


def test_normal_and_bootstrap_agree() -> None:
    bandit = Bandit(1, 4000, uneven=10.0)
    plain, drawn = bandit.judged(EVEN), bandit.judged(EVEN, OffPolicy(interval="bootstrap", draws=600))
    for name in ("ips", "snips", "dr"):
        assert drawn[name].error == pytest.approx(plain[name].error, rel=0.1)
        assert drawn[name].low == pytest.approx(plain[name].low, abs=0.5 * plain[name].error)
        assert drawn.gains[name].error == pytest.approx(plain.gains[name].error, rel=0.1)


def test_a_gain_is_paired() -> None:
    """What both have in common drops out: judging a policy like the logging one is surer than its value."""
    bandit = Bandit(3, 3000, uneven=50.0)
    found = bandit.judged(EVEN)
    assert found.gains["dr"].error < 0.5 * found["dr"].error


def test_dr_is_saved_by_its_model_and_by_its_weights() -> None:
    """Right propensities save a wild model."""
    bandit = Bandit(5, 30_000, uneven=5.0)
    wild = np.linspace(0, 0.5, ACTIONS)
    found = evaluate_policy(
        bandit.rewards, bandit.propensities, EVEN[bandit.actions], predicted=wild[bandit.actions],
        expected=np.full(30_000, wild.mean()),
    )  # fmt: skip
    assert abs(found["dm"].value - bandit.rates.mean()) > 0.1
    assert found["dr"].low < bandit.rates.mean() < found["dr"].high


def test_wrong_propensities_are_noticed() -> None:
    bandit = Bandit(2, 5000)
    found = evaluate_policy(bandit.rewards, np.minimum(bandit.propensities * 1.3, 1.0), EVEN[bandit.actions])
    assert "propensities are wrong" in found.verdict
    assert found.weights.mean_p < 1e-3


def test_a_policy_outside_the_log_is_refused() -> None:
    """The log never shows action 0, which the judged policy shows half the time: weights sum to half."""
    draw = np.random.default_rng(0)
    actions = draw.integers(1, 3, 4000)
    target = np.array([0.5, 0.25, 0.25])
    found = evaluate_policy((draw.random(4000) < 0.2) * 1.0, np.full(4000, 0.5), target[actions])
    assert found.verdict.startswith("cannot conclude: the mean weight is 0.500")


def test_few_effective_rows_are_refused() -> None:
    draw = np.random.default_rng(0)
    rare = draw.random(3000) < 0.004
    found = evaluate_policy((draw.random(3000) < 0.5) * 1.0, np.where(rare, 0.004, 0.996), rare * 1.0)
    assert "effective rows, 100 needed" in found.verdict
    few = evaluate_policy((np.arange(3000) < 4) * 1.0, np.full(3000, 0.5), np.full(3000, 0.5))
    assert "4.0 effective rows with a reward, 10 needed" in few.verdict
    none = evaluate_policy(np.zeros(3000), np.full(3000, 0.5), np.full(3000, 0.5))
    assert "0.0 effective rows with a reward" in none.verdict


def test_clipping_says_what_it_may_hide() -> None:
    bandit = Bandit(4, 4000)
    sure, cut = bandit.judged(EVEN), bandit.judged(EVEN, OffPolicy(clip=2.0, switch=2.0))
    for name in ("clipped_ips", "clipped_dr", "switch_dr"):
        assert cut[name].error < sure["ips"].error
        assert cut[name].low <= bandit.rates.mean() <= cut[name].high, name
    assert cut["clipped_ips"].value < sure["ips"].value
    loose = bandit.judged(EVEN, OffPolicy(clip=1e9))
    assert loose["clipped_ips"] == loose["ips"]


def test_bad_columns_are_refused() -> None:
    good = [0.5, 0.5]
    with pytest.raises(DataError, match="above 0"):
        evaluate_policy([1, 0], [0.0, 0.5], good)
    with pytest.raises(DataError, match="target, row 1"):
        evaluate_policy([1, 0], good, [0.5, 1.5])
    with pytest.raises(DataError, match="rewards, row 0"):
        evaluate_policy([math.nan, 0], good, good)
    with pytest.raises(DataError, match="both or none"):
        evaluate_policy([1, 0], good, good, predicted=good)
    with pytest.raises(ConfigError, match="switch"):
        evaluate_policy([1, 0], good, good, how=OffPolicy(switch=5))
    with pytest.raises(ConfigError):
        OffPolicy(reward_range=(1.0, 1.0))


def test_words_and_plain_values() -> None:
    found = Bandit(1, 3000).judged(EVEN, OffPolicy(clip=3.0))
    assert "DR (doubly robust)" in found.table()
    plain = found.to_json()
    assert plain["verdict"] == found.verdict
    assert plain["figures"]["dr"]["value"] == found["dr"].value
    assert plain["weights"]["mean"]["value"] == found.weights.mean.value


def test_rankings_of_a_world_agree_with_its_truth() -> None:
    """A ranking never shown to anybody: of 30 simulated logs, at most 4 intervals may miss its true click rate."""
    missed = 0
    for seed in range(30):
        world = World(WorldConfig(seed=seed, requests=600, candidates=4, explore=0.5, users=300, items=200))
        log = Events.concat(list(world.stream(600)))
        shown, clicks = log.of_kind("impression"), log.of_kind("click")
        clicked = set(example_ids(clicks.column("key"), clicks.column("item")).tolist())
        ids = example_ids(shown.column("key"), shown.column("item"))
        rewards = np.array([row in clicked for row in ids.tolist()], float)
        scores = hash_strings(shown.column("item")).astype(float)  # an order of its own
        places = np.asarray(shown.column("position").to_numpy(zero_copy_only=False), float)
        target = ranking_target(scores, shown.column("key"), places)
        assert target.complete
        places = pa.array(target.places.astype(np.float32))
        truth = world.true_probability(shown.with_columns({"position": places})).mean()
        propensities = np.asarray(shown.column("propensity").to_numpy(zero_copy_only=False), float)
        found = evaluate_policy(rewards, propensities, target.probabilities, groups=shown.column("key"))
        assert not found.reasons
        missed += not found["snips"].low <= truth <= found["snips"].high
    assert missed <= 4
