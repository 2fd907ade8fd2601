"""Admission: which ids get a row at all.

Most ids of a stream are seen once and never again; a row for each would fill the memory with noise. Only `update`
counts occurrences. The update that admits an id inserts its row and learns; gradients before it are dropped and
counted as filtered. An id that has a row is never asked again, until it is removed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.store.hashing import IdArray, mix64, streams
from headrace.store.sketch import Sketch


@dataclass(frozen=True)
class AdmitAll:
    """Every id gets a row with its first gradient."""


@dataclass(frozen=True)
class AdmitCount:
    """An id gets its row in the update in which its total of occurrences reaches `occurrences`.

    Counting is exact: up to 28 bytes and a map entry per id that is still waiting; expiry forgets counts as rows.
    With `max_bytes`, about a quarter as many ids may wait as there may be rows; the oldest in event time make room.

    Attributes:
        occurrences: Occurrences needed; 1 admits all.
    """

    occurrences: int

    def __post_init__(self) -> None:
        require(1 <= self.occurrences < 2**62, "AdmitCount.occurrences", got=self.occurrences, expected="at least 1")


@dataclass(frozen=True)
class AdmitProbability:
    """Every occurrence of an id without a row admits it with probability `probability`; needs no memory.

    The draw is a hash of (seed, table, id, number of the update), so a replay admits the same ids at the same places.

    Attributes:
        probability: Chance per occurrence, in (0, 1].
    """

    probability: float

    def __post_init__(self) -> None:
        require(
            0.0 < self.probability <= 1.0, "AdmitProbability.probability", got=self.probability,
            expected="a number in (0, 1]",
        )  # fmt: skip

    @staticmethod
    def reaching(occurrences: int, chance: float = 0.95) -> AdmitProbability:
        """Return the probability per occurrence with which an id is admitted within `occurrences` by `chance`.

        Example:
            >>> round(AdmitProbability.reaching(10).probability, 4)
            0.2589
        """
        require(occurrences >= 1, "occurrences", got=occurrences, expected="at least 1")
        require(0.0 < chance < 1.0, "chance", got=chance, expected="a number in (0, 1)")
        return AdmitProbability(1.0 - (1.0 - chance) ** (1.0 / occurrences))

    def admits(self, key: int, ids: IdArray, counts: IdArray, update: int) -> npt.NDArray[np.bool_]:
        """Return for each id (N,) with its occurrences whether this update admits it.

        Args:
            key: 64-bit key of seed and table name.
            ids: Ids without a row.
            counts: Occurrences of each in this update.
            update: Number of the update: the table's mark after it.
        """
        words = mix64(streams(key, ids) + np.uint64(update))
        uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.asarray(uniform >= _powers(1.0 - self.probability, counts), dtype=np.bool_)


@dataclass(frozen=True)
class AdmitSketch:
    """An id gets its row in the update in which a count-min sketch takes it to have occurred `occurrences` times.

    The sketch has a fixed size, `4096 * (4 + cells_per_bucket)` bytes, however many ids wait. An id is never admitted
    later than with `AdmitCount`, unless its bucket aged meanwhile; it is admitted earlier when others share all of
    its counters. Removing a row or letting it expire does not clear its count, so it returns sooner than it came;
    only ageing forgets. Ids that wait are not counted as `pending`. A feature that needs another threshold has a
    table of its own: admission belongs to the table.

    The later a bucket ages, the longer are slow ids remembered and the more ids are admitted too early. By default
    it ages after `(occurrences - 1) / 3` occurrences per counter. Then of ids that occur only once 1.7 % are admitted
    where 2 occurrences are needed, 0.1 % where 3 are, fewer than 0.01 % from 5 on; in a Zipf 1.1 stream with 3.5 ids
    per counter 2 % of all ids come too early where 2 are needed, 0.4 % where 5 or more are. (At ten occurrences per
    counter it would be 89 % of ids that occur once, where 5 are needed.)

    Within an update ids are counted in ascending order, so that the order of a call changes nothing.

    Attributes:
        occurrences: Occurrences needed, at most 255.
        cells_per_bucket: Counters of one byte in each of the 4096 buckets, a multiple of 4 and of `depth`.
        depth: Counters that an id has.
        age_after: Occurrences of ids without a row after which a bucket halves its counters; at least `occurrences`.
    """

    occurrences: int
    cells_per_bucket: int = 1024
    depth: int = 4
    age_after: int | None = None

    def __post_init__(self) -> None:
        require(1 <= self.occurrences <= 255, "AdmitSketch.occurrences", got=self.occurrences, expected="1 to 255")
        require(1 <= self.depth <= 8, "AdmitSketch.depth", got=self.depth, expected="1 to 8")
        fits = 0 < self.cells_per_bucket <= 2**24 and self.cells_per_bucket % math.lcm(4, self.depth) == 0
        require(fits, "AdmitSketch.cells_per_bucket", got=self.cells_per_bucket,
                expected=f"a multiple of {math.lcm(4, self.depth)} up to 2^24")  # fmt: skip
        require(self.occurrences <= self.ages_at <= 2**31, "AdmitSketch.age_after", got=self.age_after,
                expected=f"{self.occurrences} to 2^31, or None")  # fmt: skip

    @property
    def ages_at(self) -> int:
        """Occurrences after which a bucket ages, set or by default."""
        if self.age_after is not None:
            return self.age_after
        return max((self.occurrences - 1) * self.cells_per_bucket // 3, self.occurrences)

    def sketch(self) -> Sketch:
        """Return an empty sketch."""
        return Sketch(self.cells_per_bucket, self.depth, self.ages_at)


Admission: TypeAlias = AdmitAll | AdmitCount | AdmitProbability | AdmitSketch
"""The ways of admitting ids."""


def _powers(value: float, exponents: IdArray) -> npt.NDArray[np.float64]:
    """Return value ** exponents by squaring: only multiplications, hence equal bits everywhere (`pow` has none)."""
    result, square, left = np.ones(len(exponents)), np.float64(value), exponents.copy()
    while left.any():
        result = np.where(left & 1, result * square, result)
        square, left = square * square, left >> 1
    return result
