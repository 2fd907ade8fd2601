"""Gold over distance: what is read off it, and comparisons at equal distance."""

from __future__ import annotations

import math

import pytest

from headrace.errors import ConfigError
from headrace.evaluate import Frontier, at_matched_distance


def test_gold_and_distance_are_read_between_points() -> None:
    run = Frontier.of([0.0, 2.0, 6.0], [0.1, 0.5, 0.3], smoothed=1)
    assert run.gold_at(1.0) == pytest.approx(0.3)
    assert run.gold_at(4.0) == pytest.approx(0.4)
    assert run.distance_at(0.3) == pytest.approx(1.0)
    assert (run.peak, run.last) == (0.5, 0.3)


def test_what_was_never_reached_is_not_a_number() -> None:
    run = Frontier.of([0.0, 1.0], [0.1, 0.2], smoothed=1)
    assert math.isnan(run.gold_at(1.5))
    assert math.isnan(run.distance_at(0.3))


def test_the_first_crossing_counts() -> None:
    run = Frontier.of([0.0, 2.0, 1.0, 3.0], [0.0, 1.0, 5.0, 7.0], smoothed=1)
    assert run.gold_at(1.0) == pytest.approx(0.5)


def test_neighbours_are_averaged() -> None:
    run = Frontier.of([0.0, 3.0, 6.0, 9.0], [0.0, 3.0, 0.0, 3.0])
    assert run.golds.tolist() == pytest.approx([1.5, 1.0, 2.0, 1.5])
    assert run.distances.tolist() == pytest.approx([1.5, 3.0, 6.0, 7.5])


def test_two_runs_are_compared_as_late_as_both_went() -> None:
    far = Frontier.of([0.0, 4.0, 8.0], [0.0, 0.4, 0.1], smoothed=1)
    near = Frontier.of([0.0, 1.0, 4.0], [0.0, 0.3, 0.6], smoothed=1)
    assert at_matched_distance(near, far) == (4.0, 0.6, 0.4)


@pytest.mark.parametrize(("distances", "golds"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0])])
def test_bad_runs_are_refused(distances, golds) -> None:
    with pytest.raises(ConfigError):
        Frontier.of(distances, golds)
