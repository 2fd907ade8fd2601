from __future__ import annotations

import numpy as np
import pytest

from headrace.feedback import WorldConfig
from headrace.feedback.population import Population

DAY_US = 86_400_000_000
START = WorldConfig().start_us


def test_the_items_of_a_request_are_all_different() -> None:
    shown = Population(WorldConfig(items=20, candidates=10)).rows(0, 20_000)
    lists = shown.items.reshape(-1, 10)
    assert all(len(set(row)) == 10 for row in lists.tolist())


def test_any_two_items_can_meet_in_a_request() -> None:
    shown = Population(WorldConfig(items=20, candidates=10, item_life_s=float("inf"))).rows(0, 40_000)
    met = np.zeros((20, 20), dtype=bool)
    for row in shown.items.reshape(-1, 10):
        met[np.ix_(row, row)] = True
    assert met.all()


def test_rows_do_not_depend_on_where_the_cut_is() -> None:
    people = Population(WorldConfig(seed=4))
    whole = people.rows(0, 500)
    for first, last in [(0, 1), (7, 13), (9, 10), (10, 30), (123, 457)]:
        part = people.rows(first, last)
        for name in ("requests", "users", "items", "places", "times"):
            assert (getattr(part, name) == getattr(whole, name)[first:last]).all()


def test_request_times_never_fall_and_keep_the_rate() -> None:
    times = Population(WorldConfig(requests_per_s=5.0)).request_times(np.arange(10_000))
    assert (np.diff(times) >= 0).all()
    assert (times[-1] - times[0]) / 1e6 == pytest.approx(2000.0, rel=0.01)


def test_a_taste_turns_and_keeps_no_direction() -> None:
    people = Population(WorldConfig(drift_s=DAY_US / 1e6, users=500))
    users = np.arange(500)

    def taste(days: float) -> np.ndarray:
        return people.tastes(users, np.full(500, START + int(days * DAY_US)))

    def likeness(one: np.ndarray, other: np.ndarray) -> float:
        return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))

    assert likeness(taste(0), taste(0.01)) > 0.99
    assert likeness(taste(0), taste(0.5)) < -0.5


def test_without_drift_a_taste_stays() -> None:
    people = Population(WorldConfig(drift_s=float("inf")))
    users = np.arange(10)
    now, later = (people.tastes(users, np.full(10, START + days * DAY_US)) for days in (0, 300))
    assert (now == later).all()


def test_an_item_is_alive_from_its_birth_to_its_death() -> None:
    people = Population(WorldConfig())
    slots = np.arange(1000)
    items = people.alive(slots, np.full(1000, START + 3 * DAY_US))
    born, died = people.born(items), people.died(items)
    assert (people.alive(slots, born) == items).all()
    assert (people.alive(slots, died - 1) == items).all()
    assert (people.alive(slots, died) == items + 1000).all()
    assert (people.alive(slots, born - 1) == items - 1000).all()


def test_a_dead_item_is_replaced_by_a_stranger() -> None:
    people = Population(WorldConfig())
    items = np.arange(1000)
    likeness = np.corrcoef(people.quality(items), people.quality(items + 1000))[0, 1]
    assert abs(likeness) < 0.15
    assert (people.categories(items) == people.categories(items + 1000)).mean() < 0.15


def test_eternal_items_stay_and_ride_no_wave() -> None:
    people = Population(WorldConfig(item_life_s=float("inf")))
    shown = people.rows(10**9, 10**9 + 1000)
    assert shown.items.max() < 1000
    assert (people.wave(shown.items, shown.times) == 0).all()


def test_a_wave_rises_and_falls() -> None:
    people = Population(WorldConfig())
    items = np.arange(1000)
    born, died = people.born(items), people.died(items)
    heights = [people.wave(items, (born + share * (died - born)).astype(np.int64)).mean() for share in (0, 0.15, 0.9)]
    assert heights[0] < 0.01
    assert heights[1] == pytest.approx(1.0, abs=0.1)
    assert heights[2] < 0.1


def test_items_on_their_wave_are_shown_more() -> None:
    people = Population(WorldConfig())
    shown = people.rows(0, 50_000)
    everyone = people.alive(np.arange(1000), np.full(1000, START))
    average = people.wave(everyone, np.full(1000, START)).mean()
    assert people.wave(shown.items, shown.times).mean() > 1.3 * average


def test_an_item_resembles_its_category() -> None:
    people = Population(WorldConfig())
    items = np.arange(2000)
    vectors, kinds = people.vectors(items), people.categories(items)
    centres = np.stack([vectors[kinds == kind].mean(axis=0) for kind in range(20)])
    within = ((vectors - centres[kinds]) ** 2).sum() / (vectors**2).sum()
    assert 0.3 < within < 0.55


def test_popular_shelves_are_shown_more() -> None:
    shown = Population(WorldConfig()).rows(0, 100_000)
    counts = np.bincount(shown.items % 1000, minlength=1000)
    assert counts[:100].sum() > 4 * counts[900:].sum()


def test_bots_ask_as_often_as_told() -> None:
    people = Population(WorldConfig(bot_share=0.2))
    assert people.is_bot(people.rows(0, 50_000).users).mean() == pytest.approx(0.2, abs=0.02)


def test_places_have_their_shares() -> None:
    shown = Population(WorldConfig()).rows(0, 50_000)
    assert np.bincount(shown.places) / len(shown.places) == pytest.approx([0.7, 0.3], abs=0.02)
