"""The truth of a simulated world: who clicks with which probability and when, and the best AUC within reach."""

from __future__ import annotations

import math

import numpy as np

from headrace.errors import DataError
from headrace.feedback.population import Population, Shown
from headrace.feedback.randomness import Draw, Floats, Ints, choice, normal, uniform
from headrace.feedback.world_config import MICROSECONDS, WorldConfig

CHUNK_ROWS = 1 << 16


class Truth:
    """Click probabilities and delays of a world, as functions of what was shown, where and when.

    A person clicks when they see the item and like it: `k ** -focus` (attention at position k) times the logistic
    function of bias, place, taste, quality and wave. A bot clicks with a fixed probability and does not look.

    Thread-safe: nothing is written after construction.

    Args:
        population: Whose truth it is.
    """

    def __init__(self, population: Population) -> None:
        self.population = population
        self.config: WorldConfig = population.config
        places = self.config.places
        self._appeal = np.array([place.appeal for place in places])
        self._taste = np.array([place.taste for place in places])
        self._focus = np.array([place.focus for place in places])
        self._delay_shares = np.array([part.share for part in self.config.delay])
        self._delay_logs = np.log([part.median_s for part in self.config.delay])
        self._delay_sigmas = np.array([part.sigma for part in self.config.delay])

    def probability(self, shown: Shown, positions: Floats) -> Floats:
        """Return the exact probability of a click on every row, (N,), when shown at these positions (from 1)."""
        parts = [
            self._chunk(shown, positions, slice(start, start + CHUNK_ROWS))
            for start in range(0, len(shown.items), CHUNK_ROWS)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _chunk(self, shown: Shown, positions: Floats, cut: slice) -> Floats:
        config, people = self.config, self.population
        users, items, places, times = shown.users[cut], shown.items[cut], shown.places[cut], shown.times[cut]
        match = np.einsum("nk,nk->n", people.tastes(users, times), people.vectors(items)) / config.taste_dim**0.5
        logits = config.bias + self._appeal[places] + config.taste * self._taste[places] * match
        logits += config.quality * people.quality(items) + config.trend * people.wave(items, times)
        seen = positions[cut] ** -self._focus[places]
        return np.where(people.is_bot(users), config.bot_click, seen / (1.0 + np.exp(-logits)))

    def clicks(self, shown: Shown, positions: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return which rows are clicked: the same request and item at the same position always gets the same answer."""
        drawn = uniform(self.config.seed, Draw.CLICK, shown.requests, shown.items)
        return np.asarray(drawn < self.probability(shown, positions))

    def delays(self, requests: Ints, items: Ints) -> Ints:
        """Return how long after the impression each click happens, (N,) µs."""
        seed = self.config.seed
        part = choice(self._delay_shares, uniform(seed, Draw.DELAY, requests, items, 0))
        spread = self._delay_sigmas[part] * normal(seed, Draw.DELAY, requests, items, 1)
        delay_s = np.minimum(np.exp(self._delay_logs[part] + spread), self.config.delay_longest_s)
        return np.asarray((delay_s * MICROSECONDS).astype(np.int64))

    def lags(self, requests: Ints, items: Ints) -> Ints:
        """Return how long after it happened each click arrives, (N,) µs."""
        drawn = uniform(self.config.seed, Draw.LAG, requests, items)
        return np.asarray((-self.config.lag_s * np.log1p(-drawn) * MICROSECONDS).astype(np.int64))

    def clicked_within(self, window_s: float) -> float:
        """Return the share of clicks that happen at most `window_s` after their impression.

        Example:
            >>> from headrace.feedback import World, WorldConfig
            >>> World(WorldConfig()).truth.clicked_within(86_400)
            1.0
        """
        if window_s >= self.config.delay_longest_s:
            return 1.0
        if window_s <= 0:
            return 0.0
        scaled = (math.log(window_s) - self._delay_logs) / self._delay_sigmas
        below = [0.5 * (1.0 + math.erf(z / math.sqrt(2.0))) for z in scaled]
        return float(np.dot(self._delay_shares, below) / self._delay_shares.sum())


def area_under_curve(scores: Floats, labels: Floats) -> float:
    """Return the AUC of scores on 0/1 labels, ties counted half; NaN when one class is missing.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]))
        0.875
    """
    return _area(scores, labels, 1.0 - labels)


def expected_area(probabilities: Floats) -> float:
    """Return the AUC that these true probabilities reach on average over labels drawn from them.

    Example:
        >>> expected_area(np.array([0.0, 0.0, 1.0]))
        1.0
    """
    return _area(probabilities, probabilities, 1.0 - probabilities)


def _area(scores: Floats, positive: Floats, negative: Floats) -> float:
    if not (len(scores) == len(positive) and np.isfinite(scores).all() and np.isfinite(positive).all()):
        raise DataError(
            "AUC", got=f"{len(scores)} scores and {len(positive)} labels, or a NaN among them",
            expected="as many finite scores as finite labels",
        )  # fmt: skip
    _, group = np.unique(scores, return_inverse=True)
    above, below = np.bincount(group, weights=positive), np.bincount(group, weights=negative)
    pairs = above.sum() * below.sum()
    if pairs == 0:
        return float("nan")
    return float(np.dot(above, np.cumsum(below) - 0.5 * below) / pairs)
