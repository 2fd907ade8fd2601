from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from headrace.errors import DataError
from headrace.feedback import DelayPart, WorldConfig
from headrace.feedback.population import Population
from headrace.feedback.truth import CHUNK_ROWS, Truth, area_under_curve, expected_area


def made(rows: int = 100_000, **settings):
    people = Population(WorldConfig(**settings))
    return Truth(people), people.rows(0, rows)


def test_the_probabilities_are_those_of_the_clicks() -> None:
    truth, shown = made(rows=400_000)
    positions = np.tile(np.arange(1.0, 11.0), 40_000)
    chance, clicked = truth.probability(shown, positions), truth.clicks(shown, positions)
    bins = np.digitize(chance, np.quantile(chance, np.linspace(0, 1, 11)[1:-1]))
    for tenth in range(10):
        rows = bins == tenth
        error = np.sqrt((chance[rows] * (1 - chance[rows])).sum()) / rows.sum()
        assert abs(clicked[rows].mean() - chance[rows].mean()) < 4.5 * error


def test_chunks_make_no_difference() -> None:
    truth, shown = made(rows=CHUNK_ROWS + 100)
    positions = np.ones(len(shown.items))
    whole = truth.probability(shown, positions)
    assert whole[CHUNK_ROWS + 50] == truth._chunk(shown, positions, slice(CHUNK_ROWS + 50, CHUNK_ROWS + 51))[0]


def test_no_rows_have_no_probabilities() -> None:
    truth, shown = made(rows=0)
    assert truth.probability(shown, np.zeros(0)).shape == (0,)


def test_attention_falls_with_the_position_as_the_place_says() -> None:
    truth, shown = made(rows=1000, bots=0, bot_share=0.0)
    first, fourth = (truth.probability(shown, np.full(1000, position)) for position in (1.0, 4.0))
    focus = np.where(shown.places == 0, 0.5, 1.0)
    assert fourth / first == pytest.approx(4.0**-focus)


def test_bots_do_not_look() -> None:
    truth, shown = made(rows=1000, bot_share=1.0)
    assert (truth.probability(shown, np.tile(np.arange(1.0, 11.0), 100)) == 0.3).all()


def test_a_better_position_keeps_every_click() -> None:
    truth, shown = made()
    low, high = (truth.clicks(shown, np.full(len(shown.items), position)) for position in (5.0, 1.0))
    assert high.sum() > low.sum() > 0
    assert not (low & ~high).any()


def test_delays_have_the_stated_distribution() -> None:
    truth, _ = made(rows=0)
    delays = truth.delays(np.arange(200_000), np.zeros(200_000, dtype=np.int64)) / 1e6
    for window_s in (5.0, 15.0, 60.0, 600.0, 3600.0, 20_000.0):
        assert (delays <= window_s).mean() == pytest.approx(truth.clicked_within(window_s), abs=0.005)
    assert delays.min() < 5
    assert delays.max() > 7200


def test_delays_are_cut_at_the_longest() -> None:
    part = DelayPart(share=1.0, median_s=100.0, sigma=2.0)
    truth, _ = made(rows=0, delay=(part,), delay_longest_s=50.0)
    delays = truth.delays(np.arange(1000), np.arange(1000))
    assert delays.max() == 50_000_000
    assert truth.clicked_within(50.0) == 1.0
    assert truth.clicked_within(0.0) == 0.0


def test_lags_have_the_stated_mean() -> None:
    truth, _ = made(rows=0, lag_s=2.0)
    assert truth.lags(np.arange(100_000), np.arange(100_000)).mean() / 1e6 == pytest.approx(2.0, rel=0.03)


def test_the_area_is_that_of_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    scores, labels = chance.integers(0, 20, 1000) / 20, (chance.random(1000) < 0.3).astype(float)
    assert area_under_curve(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_the_area_of_one_class_is_not_a_number() -> None:
    assert np.isnan(area_under_curve(np.array([0.1, 0.2]), np.zeros(2)))


def test_the_area_refuses_what_is_not_a_number() -> None:
    with pytest.raises(DataError):
        area_under_curve(np.array([np.nan, 0.2]), np.zeros(2))
    with pytest.raises(DataError):
        area_under_curve(np.array([0.1, 0.2]), np.zeros(3))


def test_the_expected_area_is_the_mean_over_labels() -> None:
    truth, shown = made(rows=2000)
    chance = truth.probability(shown, np.ones(2000))
    draw = np.random.default_rng(1)
    areas = [area_under_curve(chance, (draw.random(2000) < chance).astype(float)) for _ in range(300)]
    assert expected_area(chance) == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / np.sqrt(300))
