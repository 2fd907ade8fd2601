"""How often items were shown and acted on, old counts fading away: the answer for users nothing is known of."""

from __future__ import annotations

import math
import threading
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.serve.shelf import Shelf

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
LARGEST = 2.0**200
"""Weights grow with time instead of old counts shrinking; they are written anew before they leave the range."""

PRIOR_SHOWN = 20.0
"""Impressions' worth of the mean rate that an item is believed to have had before any of its own."""


class Popularity:
    """Counts of the items on the shelf.

    Args:
        half_life_s: Seconds after which an impression or action counts half; infinity: for ever.

    Thread-safety: any number of threads.

    Cost: O(rows) per call of `add`, O(items) per new shelf; 24 bytes and a dictionary entry per item.
    """

    def __init__(self, half_life_s: float = 7 * 86_400.0) -> None:
        require(half_life_s > 0, "half_life_s", got=half_life_s, expected="a positive number of seconds")
        self.half_life_s = half_life_s
        self._places: dict[int, int] = {}
        self._shown, self._acted, self._ever = np.zeros(0), np.zeros(0), np.zeros(0)
        self._since: int | None = None
        self._newest = 0
        self._held: tuple[Shelf, Ints] | None = None
        self._lock = threading.Lock()

    def watch(self, shelf: Shelf) -> None:
        """Count the items of this shelf from now on, and forget those that are gone."""
        with self._lock:
            alive = shelf.hashes[shelf.alive]
            held = np.array([self._places.get(name, -1) for name in alive.tolist()], dtype=np.int64)
            self._shown, self._acted, self._ever = (
                np.where(held >= 0, counts[held], 0.0) if len(counts) else np.zeros(len(held))
                for counts in (self._shown, self._acted, self._ever)
            )
            self._places = {name: place for place, name in enumerate(alive.tolist())}
            self._held = None

    def add(self, shown: Ints, acted: Ints, time: int) -> None:
        """Count items that were shown and acted on at a time (µs)."""
        with self._lock:
            weight, self._newest = self._weight(time), max(time, self._newest)
            for counts, items, each in (
                (self._shown, shown, weight), (self._acted, acted, weight), (self._ever, shown, 1.0),
            ):  # fmt: skip
                places = [place for place in map(self._places.get, items.tolist()) if place is not None]
                np.add.at(counts, places, each)

    def of(self, shelf: Shelf) -> tuple[Floats, Floats]:
        """Return for every row of a shelf how popular it is, and how often it was ever shown, (N,) each.

        Popularity is the faded number of actions times the smoothed rate of actions per impression: what many take,
        and not only because it was shown to many. Rows without an item have -1.
        """
        with self._lock:
            places = self._places_of(shelf)
            known = shelf.alive & (places >= 0)
            weight = self._weight(self._newest)
            shown, acted, ever = (_at(counts, places, known) for counts in (self._shown, self._acted, self._ever))
        shown, acted = shown / weight, acted / weight
        total = float(shown.sum())
        mean = float(acted.sum()) / total if total else 0.0
        rate = (acted + PRIOR_SHOWN * mean) / (shown + PRIOR_SHOWN)
        return np.where(shelf.alive, acted * rate, -1.0), np.where(shelf.alive, ever, -1.0)

    def _places_of(self, shelf: Shelf) -> Ints:
        """Return where the counts of every row stand, -1 without; kept until there is another shelf."""
        if self._held is None or self._held[0] is not shelf:
            found = np.array([self._places.get(name, -1) for name in shelf.hashes.tolist()], dtype=np.int64)
            self._held = (shelf, found)
        return self._held[1]

    def _weight(self, time: int) -> float:
        if self._since is None:
            self._since = time
        if math.isinf(self.half_life_s):
            return 1.0
        weight = math.pow(2.0, min(max(time - self._since, 0) / 1e6 / self.half_life_s, 1000.0))
        if weight > LARGEST:
            self._shown /= weight
            self._acted /= weight
            self._since, weight = time, 1.0
        return weight


def _at(counts: Floats, places: Ints, known: npt.NDArray[np.bool_]) -> Floats:
    found = np.zeros(len(places))
    found[known] = counts[places[known]]
    return found
