"""What judging a policy off its log needs: what a ranking would do, a reward model, and a look at the propensities."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.bootstrap import group_keys
from headrace.evaluate.off_policy import checked, checked_propensities, effective
from headrace.evaluate.order import Floats, Integers, encode
from headrace.evaluate.significance import normal_probability

MIN_CELL_ROWS = 30.0
"""Effective rows below which the normal distribution is no judge of a cell's propensities."""


class RankingTarget(NamedTuple):
    """What a ranking policy does on logged lists.

    Attributes:
        probabilities: Probability that the policy shows the row's item at the row's place, (N,).
        places: Place (from 1) at which the policy's best order has the row, (N,).
        complete: Whether every list has the places 1, 2, ..., n once each.
    """

    probabilities: Floats
    places: Integers
    complete: bool


def ranking_target(
    scores: ArrayLike, lists: ArrayLike | pa.Array, places: ArrayLike, *, explore: float = 0.0
) -> RankingTarget:
    """Return what ranking by scores would do on lists that were logged whole.

    Args:
        scores: Score of every row, (N,); ties keep the logged order.
        lists: Which rows are one list, (N,).
        places: Place at which each row was shown, from 1, (N,).
        explore: Share of lists that the policy shuffles evenly; the rest it ranks by score.

    Example:
        >>> found = ranking_target([0.1, 0.9, 0.5, 0.4], ["a", "a", "b", "b"], [1, 2, 1, 2])
        >>> found.probabilities.tolist(), found.places.tolist(), found.complete
        ([0.0, 0.0, 1.0, 1.0], [2, 1, 1, 2], True)
    """
    require(0 <= explore <= 1, "explore", got=explore, expected="a share from 0 to 1")
    score = checked("scores", scores, None, -math.inf, math.inf)
    shown = checked("places", places, len(score), 1.0, math.inf)
    codes = encode(lists, len(score), what="list").codes
    order = np.lexsort((shown, -score, codes))
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(score), dtype=np.int64)
    ranks[order] = np.arange(len(score)) - starts[codes[order]] + 1
    logged = np.lexsort((shown, codes))
    expected = np.arange(len(score)) - starts[codes[logged]] + 1
    complete = bool((shown[logged] == expected).all())
    probabilities = explore / sizes[codes] + (1 - explore) * (ranks == shown)
    return RankingTarget(probabilities, ranks, complete)


class CrossFitted(NamedTuple):
    """Mean rewards of actions, one table per fold, made of the other folds.

    Attributes:
        rates: (folds, places, actions).
        folds: Fold of each row, (N,).
    """

    rates: Floats
    folds: Integers

    def predicted(self, actions: ArrayLike, places: ArrayLike | None = None) -> Floats:
        """Return the prediction for each row's action, (N,), from the table that has not seen the row."""
        where = np.zeros(len(self.folds), np.int64) if places is None else np.asarray(places, np.int64)
        found: Floats = self.rates[self.folds, where, np.asarray(actions, np.int64)]
        return found

    def expected(self, target: ArrayLike, places: ArrayLike | None = None) -> Floats:
        """Return the mean prediction under a policy, (N,).

        Args:
            target: Probability of each action: (actions,) for all rows, (places, actions), or (N, actions).
            places: Place of each row, from 0; None: there is one place.
        """
        rows = len(self.folds)
        where = np.zeros(rows, np.int64) if places is None else np.asarray(places, np.int64)
        policy = np.asarray(target, np.float64)
        if policy.ndim == 1 or policy.shape == self.rates.shape[1:]:
            table: Floats = np.sum(self.rates * policy, axis=2)  # (folds, places)
            return np.asarray(table[self.folds, where])
        if policy.shape != (rows, self.rates.shape[2]):
            actions = self.rates.shape[2]
            raise DataError("target", got=f"shape {policy.shape}", do="Actions are the last dimension.",
                            expected=f"({actions},), {self.rates.shape[1:]} or ({rows}, {actions})")  # fmt: skip
        return np.asarray(np.einsum("na,na->n", self.rates[self.folds, where], policy))


def cross_fitted_rates(
    rewards: ArrayLike, actions: ArrayLike, places: ArrayLike | None = None, *, groups: ArrayLike | None = None,
    shape: tuple[int, int] | None = None, folds: int = 5, prior_rows: float = 100.0,
) -> CrossFitted:  # fmt: skip
    """Return mean rewards per place and action that no row has had a part in which it is used for.

    A cell's mean is drawn towards its place's mean as if `prior_rows` rows with that mean had been seen.

    Args:
        rewards: (N,).
        actions: Codes from 0, (N,).
        places: Codes from 0, (N,); None: there is one place.
        groups: Rows of one group are in one fold; None: every row is its own.
        shape: (places, actions), where the log may lack some; None: as many as are seen.
        folds: How many tables.
        prior_rows: See above.

    Cost: O(N + folds × places × actions).
    """
    require(folds >= 2, "folds", got=folds, expected="at least 2")
    require(prior_rows > 0, "prior_rows", got=prior_rows, expected="a positive number")
    reward = checked("rewards", rewards, None, -math.inf, math.inf)
    rows = len(reward)
    action = checked("actions", actions, rows, 0, 1 << 31).astype(np.int64)
    place = np.zeros(rows, np.int64) if places is None else checked("places", places, rows, 0, 1 << 31).astype(np.int64)
    need = int(place.max(initial=0)) + 1, int(action.max(initial=0)) + 1
    size = shape or need
    require(size[0] >= need[0] and size[1] >= need[1], "shape", got=size, expected=f"at least {need}")
    fold = (group_keys(np.arange(rows) if groups is None else groups, rows) % np.uint64(folds)).astype(np.int64)
    cell = (fold * size[0] + place) * size[1] + action
    sums, counts = (np.bincount(cell, each, minlength=folds * size[0] * size[1]).reshape(folds, *size)
                    for each in (reward, np.ones(rows)))  # fmt: skip
    sums, counts = sums.sum(axis=0) - sums, counts.sum(axis=0) - counts  # those of the other folds
    overall = sums.sum(axis=(1, 2), keepdims=True) / np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1.0)
    mean = (sums.sum(axis=2, keepdims=True) + prior_rows * overall) / (counts.sum(axis=2, keepdims=True) + prior_rows)
    return CrossFitted((sums + prior_rows * mean) / (counts + prior_rows), fold)


class PropensityCheck(NamedTuple):
    """Whether actions were logged as often as their propensities say.

    Attributes:
        p: Probability that right propensities look at least as wrong as the worst cell, cells counted (Bonferroni).
        worst: (place, action) of the worst cell; None if no cell has enough rows.
        z: How far it is off, in standard errors: positive if it was logged more often than its propensities say.
        cells: Cells that were judged.
        skipped: Cells that cannot be judged: too few rows, or propensities so uneven that few rows carry the sum.
    """

    p: float
    worst: tuple[int, int] | None
    z: float
    cells: int
    skipped: int


def check_propensities(
    actions: npt.ArrayLike, propensities: npt.ArrayLike, places: npt.ArrayLike | None = None
) -> PropensityCheck:
    """Return whether the log agrees with its own propensities.

    For every action that can be drawn in every row of its place, the sum of 1 / propensity over the rows that have it
    is the number of rows of the place, on average. An action that some rows cannot have looks too rare here.

    Args:
        actions: Codes from 0, (N,).
        propensities: Of the logged actions, (N,).
        places: Codes from 0, (N,); None: there is one place.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> arm = (draw.random(4000) < 0.3).astype(int)
        >>> right, wrong = np.where(arm, 0.3, 0.7), np.where(arm, 0.4, 0.6)
        >>> check_propensities(arm, right).p > 0.05, check_propensities(arm, wrong).p < 1e-6
        (True, True)
    """
    chance = checked_propensities(propensities, None)
    rows = len(chance)
    action = checked("actions", actions, rows, 0, 1 << 31).astype(np.int64)
    place = np.zeros(rows, np.int64) if places is None else checked("places", places, rows, 0, 1 << 31).astype(np.int64)
    width = int(action.max(initial=0)) + 1
    found, inverse = np.unique(place * width + action, return_inverse=True)
    expected = np.bincount(place)[found // width]
    parts = _split(chance, inverse)
    scores = np.array([_off(part, float(rows_of)) for part, rows_of in zip(parts, expected, strict=True)])
    usable = int(np.isfinite(scores).sum())
    if not usable:
        return PropensityCheck(math.nan, None, math.nan, 0, len(found))
    at = int(np.nanargmax(np.abs(scores)))
    p = min(1.0, usable * normal_probability(float(scores[at])))
    return PropensityCheck(p, (int(found[at] // width), int(found[at] % width)), float(scores[at]), usable,
                           len(found) - usable)  # fmt: skip


def _off(part: Floats, rows: float) -> float:
    """Return how many standard errors the sum of 1 / propensity of a cell is from the rows of its place."""
    alike = effective(1 / part)
    if alike < MIN_CELL_ROWS or alike < 0.75 * len(part):
        return math.nan
    total = float((1 / part).sum())
    spread = float(((1 - part) / part**2).sum()) * rows / total  # if the propensities are right
    return (total - rows) / math.sqrt(spread) if spread > 0 else (0.0 if abs(total - rows) < 1e-6 * rows else math.inf)


def _split(values: Floats, codes: Integers) -> list[Floats]:
    order = np.argsort(codes, kind="stable")
    return list(np.split(values[order], np.cumsum(np.bincount(codes))[:-1]))
