from __future__ import annotations

import itertools

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.serve.explore import EpsilonGreedy, Greedy, Thompson, best_first, place_probabilities


def enumerated(candidates: int, places: int, epsilon: float) -> np.ndarray:
    """The same probabilities by going through everything that can happen: (places, candidates)."""
    table = np.zeros((places, candidates))

    def go(left: tuple[int, ...], place: int, chance: float) -> None:
        if place == places:
            return
        for at, rank in enumerate(left):
            step = chance * (epsilon / len(left) + (1 - epsilon) * (at == 0))
            table[place, rank] += step
            go(left[:at] + left[at + 1 :], place + 1, step)

    go(tuple(range(candidates)), 0, 1.0)
    return table


@pytest.mark.parametrize(("candidates", "places"), [(1, 1), (3, 1), (4, 4), (5, 3), (6, 4), (7, 5)])
@pytest.mark.parametrize("epsilon", [0.05, 0.4, 1.0])
def test_propensities_are_exact(candidates: int, places: int, epsilon: float) -> None:
    wanted, table = enumerated(candidates, places, epsilon), place_probabilities(candidates, places, epsilon)
    for rank in range(candidates):
        assert table[:, min(rank, places)] == pytest.approx(wanted[:, rank], abs=1e-12)


@pytest.mark.parametrize(("candidates", "places"), [(200, 20), (100, 100), (10_000, 50)])
def test_every_place_is_taken_by_somebody(candidates: int, places: int) -> None:
    table = place_probabilities(candidates, places, 0.1)
    assert table[:, :-1].sum(1) + (candidates - places) * table[:, -1] == pytest.approx(np.ones(places), abs=1e-9)
    assert (table[:, : places - 1] > 0).all()


def test_what_is_drawn_comes_as_often_as_the_propensities_say() -> None:
    scores, draw, rounds = np.array([0.3, 2.0, 1.0, -1.0, 0.0]), np.random.default_rng(1), 6000
    policy, found = EpsilonGreedy(epsilon=0.5), np.zeros((3, 5))
    told = np.zeros((3, 5))
    for _ in range(rounds):
        slate = policy.choose(scores, 3, draw)
        found[np.arange(3), slate.chosen] += 1 / rounds
        told[np.arange(3), slate.chosen] = slate.propensities
    assert np.abs(found - told).max() < 4 * np.sqrt(0.25 / rounds)
    assert told[0, 1] == pytest.approx(0.5 + 0.1)


def test_importance_weights_of_epsilon_greedy_are_unbiased() -> None:
    """The mean of reward / propensity over all items of a place is the sum of rewards: nothing is left out."""
    scores, draw, rewards = np.linspace(0, 1, 8), np.random.default_rng(2), np.arange(8.0)
    slates = [EpsilonGreedy(epsilon=0.8).choose(scores, 2, draw) for _ in range(20_000)]
    for place in range(2):
        weighted = [rewards[slate.chosen[place]] / slate.propensities[place] for slate in slates]
        assert np.mean(weighted) == pytest.approx(rewards.sum(), abs=4 * np.std(weighted) / np.sqrt(len(weighted)))


def test_nothing_comes_twice_and_never_more_than_there_is() -> None:
    for seed in range(50):
        slate = EpsilonGreedy(epsilon=0.9).choose(np.arange(6.0), 10, np.random.default_rng(seed))
        assert sorted(slate.chosen.tolist()) == list(range(6))
    assert Greedy().choose(np.zeros(0), 3, np.random.default_rng(0)).chosen.tolist() == []


def test_the_greedy_order_keeps_equal_scores_as_they_stand() -> None:
    assert best_first(np.array([1.0, 2.0, 2.0, 1.0])).tolist() == [1, 2, 0, 3]
    assert Greedy().choose(np.array([1.0, 3.0, 2.0]), 2, np.random.default_rng(0)).propensities.tolist() == [1.0, 1.0]


def gaussian(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(7)
    return draw.normal(size=12), scale * draw.normal(size=(12, 5))


def test_thompson_shows_what_is_best_in_a_draw_and_counts_how_often() -> None:
    logits, spread = gaussian()
    policy, rounds = Thompson(draws=4000), 300
    slates = [policy.choose(logits, 3, np.random.default_rng(seed), spread) for seed in range(rounds)]
    best = np.bincount([slate.chosen[0] for slate in slates], minlength=12) / rounds
    for slate in slates[:20]:
        first = slate.chosen[0]
        assert slate.propensities[0] == pytest.approx(best[first], abs=5 * np.sqrt(0.25 / rounds) + 5 * slate.error)
    assert 0 < slates[0].error <= np.sqrt(0.25 / 4000)


def test_the_draw_that_is_shown_counts_so_that_weights_are_unbiased() -> None:
    """Mean of 1 / propensity over what is shown = number of items, but for those too rare to be drawn."""
    logits, spread = gaussian(2.0)
    policy = Thompson(draws=200)
    weights = [
        1 / policy.choose(logits, 1, np.random.default_rng(seed), spread).propensities[0] for seed in range(4000)
    ]
    often = [policy.choose(logits, 1, np.random.default_rng(seed), spread).chosen[0] for seed in range(10_000, 14_000)]
    chances = np.bincount(often, minlength=12) / 4000
    expected = np.sum(1 - (1 - chances) ** 200)
    assert np.mean(weights) == pytest.approx(expected, abs=5 * np.std(weights) / np.sqrt(len(weights)) + 0.05)


def test_a_smaller_scale_explores_less_and_no_uncertainty_not_at_all() -> None:
    logits, spread = gaussian()
    firsts = {
        scale: len(
            {
                int(Thompson(scale=scale).choose(logits, 1, np.random.default_rng(seed), spread).chosen[0])
                for seed in range(60)
            }
        )
        for scale in (0.01, 2.0)
    }
    assert firsts[0.01] == 1 < firsts[2.0]
    assert Thompson().choose(logits, 2, np.random.default_rng(0)).propensities.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: EpsilonGreedy(epsilon=0.0), "epsilon"),
        (lambda: EpsilonGreedy(epsilon=1.5), "epsilon"),
        (lambda: Thompson(scale=0.0), "scale"),
        (lambda: Thompson(draws=1), "draws"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make()


def test_policies_have_names_for_the_log() -> None:
    assert [Greedy().name, EpsilonGreedy(epsilon=0.25).name, Thompson(draws=64).name] == [
        "greedy", "epsilon-greedy 0.25", "thompson 1 of 64 draws",
    ]  # fmt: skip


def test_all_orders_are_possible_where_everything_is_chance() -> None:
    found = {tuple(EpsilonGreedy(epsilon=1.0).choose(np.arange(3.0), 3, np.random.default_rng(s)).chosen.tolist())
             for s in range(200)}  # fmt: skip
    assert found == set(itertools.permutations(range(3)))
