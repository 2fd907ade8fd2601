"""Who lives in the world: users whose tastes turn, items that are born, ride a wave and die, and what requests show.

Nothing here is kept or stepped forward: every fact is a function of the configuration, a name and a time. An item is
a number; its shelf place (`slot`) is `number % items` and its generation `number // items`, so when the item of a slot
dies, the next generation takes its place with a new name, category, vector and quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.feedback.randomness import Draw, Floats, Ints, bits, choice, normal, uniform
from headrace.feedback.world_config import MICROSECONDS, WorldConfig

FOREVER_US = 1 << 60
ACTIVITY, POPULARITY = 0.6, 0.8
"""Zipf exponents of how often a user comes and how often a shelf is shown."""

PEAK, LIFE_SPREAD, TURN_SPREAD = 0.15, 0.4, 0.3
"""When in its life an item peaks; sigmas of the logarithms of item lives and of the times in which tastes turn."""

LIKENESS = 0.6
"""Share of an item's vector (in variance) that is its category's."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Rows of requests before any ranking. Shapes: every array (N,) int64; `times` in µs, `places` an index."""

    requests: Ints
    users: Ints
    items: Ints
    places: Ints
    times: Ints


class Population:
    """Users, items and requests of one world, as functions.

    Thread-safe: nothing is written after construction.

    Args:
        config: The world.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config, seed, dim = config, config.seed, config.taste_dim
        people = np.arange(config.users + config.bots)[:, None]
        axes = np.arange(dim)[None, :]
        self._taste = normal(seed, Draw.TASTE, people, axes, 0)
        self._other_taste = normal(seed, Draw.TASTE, people, axes, 1)
        self._angle = 2.0 * np.pi * uniform(seed, Draw.TASTE_TURN, people[:, 0], 0)
        turn_us = config.drift_s * MICROSECONDS * np.exp(TURN_SPREAD * normal(seed, Draw.TASTE_TURN, people[:, 0], 1))
        self._speed = 2.0 * np.pi / turn_us
        self._kinds = normal(seed, Draw.CATEGORY, np.arange(config.categories)[:, None], axes)
        slots = np.arange(config.items)
        if np.isfinite(config.item_life_s):
            life = config.item_life_s * MICROSECONDS * np.exp(LIFE_SPREAD * normal(seed, Draw.LIFE, slots, 0))
            self._life = np.maximum(life, 1.0).astype(np.int64)
            self._phase = (uniform(seed, Draw.LIFE, slots, 1) * self._life).astype(np.int64)
        else:
            self._life = np.full(config.items, FOREVER_US, dtype=np.int64)
            self._phase = np.zeros(config.items, dtype=np.int64)
        self._shares: Floats = np.power(np.arange(config.users, dtype=np.float64) + 1.0, -ACTIVITY)
        shelves = np.arange(config.items // config.candidates, dtype=np.float64)
        self._shelves: Floats = np.power(shelves + 1.0, -POPULARITY)
        self._place_shares = np.array([place.share for place in config.places])

    def is_bot(self, users: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return which users are bots, (N,)."""
        return users >= self.config.users

    def tastes(self, users: Ints, times: Ints) -> Floats:
        """Return the users' tastes at those times, (N, taste_dim): each turns in its own plane at its own speed."""
        since = (times - self.config.start_us).astype(np.float64)
        angle = (self._angle[users] + self._speed[users] * since)[:, None]
        return np.asarray(np.cos(angle) * self._taste[users] + np.sin(angle) * self._other_taste[users])

    def alive(self, slots: Ints, times: Ints) -> Ints:
        """Return the item that stands in each slot at each time."""
        generations = (times - self.config.start_us + self._phase[slots]) // self._life[slots]
        return np.asarray(generations * self.config.items + slots)

    def born(self, items: Ints) -> Ints:
        """Return the items' births, µs."""
        slots = items % self.config.items
        return np.asarray(self.config.start_us - self._phase[slots] + items // self.config.items * self._life[slots])

    def died(self, items: Ints) -> Ints:
        """Return when the items die, µs: from this moment they are no longer shown."""
        return np.asarray(self.born(items) + self._life[items % self.config.items])

    def categories(self, items: Ints) -> Ints:
        """Return the items' categories."""
        return (uniform(self.config.seed, Draw.CATEGORY, items, -1) * self.config.categories).astype(np.int64)

    def vectors(self, items: Ints) -> Floats:
        """Return where the items live in the space of tastes, (N, taste_dim): near their category."""
        own = normal(self.config.seed, Draw.ITEM, items[:, None], np.arange(self.config.taste_dim)[None, :])
        return np.asarray(LIKENESS**0.5 * self._kinds[self.categories(items)] + (1.0 - LIKENESS) ** 0.5 * own)

    def quality(self, items: Ints) -> Floats:
        """Return the items' own quality, standard normal."""
        return normal(self.config.seed, Draw.QUALITY, items)

    def wave(self, items: Ints, times: Ints) -> Floats:
        """Return how high each item's wave stands: up in the first part of its life, then down; 0 for eternal items."""
        if not np.isfinite(self.config.item_life_s):
            return np.zeros(np.shape(items))
        moment = (times - self.born(items)) / (self._life[items % self.config.items] * PEAK)
        height = -np.log1p(-uniform(self.config.seed, Draw.TREND, items))
        return np.asarray(height * moment * np.exp(1.0 - moment))

    def request_times(self, requests: Ints) -> Ints:
        """Return the event times of requests, never falling."""
        slots = requests + uniform(self.config.seed, Draw.REQUEST_TIME, requests)
        return np.asarray(self.config.start_us + (slots * (MICROSECONDS / self.config.requests_per_s)).astype(np.int64))

    def rows(self, first: int, last: int) -> Shown:
        """Return rows `first .. last` of the endless list of (request, candidate) rows; `candidates` rows a request.

        Cost: O(rows); about 2 million rows a second on one core, at any place of the list.
        """
        width = self.config.candidates
        requests = np.arange(first // width, -(-last // width))
        times, seed = self.request_times(requests), self.config.seed
        humans = choice(self._shares, uniform(seed, Draw.USER, requests, 0))
        bots = self.config.users + (uniform(seed, Draw.USER, requests, 1) * self.config.bots).astype(np.int64)
        users = np.where(uniform(seed, Draw.USER, requests, 2) < self.config.bot_share, bots, humans)
        places = choice(self._place_shares, uniform(seed, Draw.SCENARIO, requests))
        items = self._candidates(requests, times).reshape(-1)
        columns = (np.repeat(column, width) for column in (requests, users, places, times))
        cut = slice(first - requests[0] * width, last - requests[0] * width) if len(requests) else slice(0, 0)
        requests, users, places, times = (column[cut] for column in columns)
        return Shown(requests=requests, users=users, items=items[cut], places=places, times=times)

    def _candidates(self, requests: Ints, times: Ints) -> Ints:
        """Return the items of each request, (R, candidates), all different, popular shelves and high waves first.

        A shelf holds `candidates` slots. Each candidate draws a shelf and takes the slot of that shelf which its own
        place in a random permutation names: two candidates never meet, and any two items may.
        """
        seed, width = self.config.seed, self.config.candidates
        row, column = requests[:, None], np.arange(width)[None, :]
        own = np.argsort(bits(seed, Draw.SHUFFLE, row, column), axis=1)
        drawn = []
        for chance in (0, 1):
            shelf = choice(self._shelves, uniform(seed, Draw.CANDIDATE, row, column, chance))
            turn = (bits(seed, Draw.SHUFFLE, row, -1 - shelf) % np.uint64(width)).astype(np.int64)
            drawn.append(self.alive(shelf * width + (own + turn) % width, times[:, None]))
        first, second = drawn
        return np.where(self.wave(first, times[:, None]) >= self.wave(second, times[:, None]), first, second)
