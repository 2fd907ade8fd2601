"""Admission: which ids get a row at all.

Most ids of a stream are seen once and never again; a row for each would fill the memory with noise. Only `update`
counts occurrences. The update that admits an id inserts its row and learns; gradients before it are dropped and
counted as filtered. An id that has a row is never asked again, until it is removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.store.hashing import IdArray, mix64, streams


@dataclass(frozen=True)
class AdmitAll:
    """Every id gets a row with its first gradient."""


@dataclass(frozen=True)
class AdmitCount:
    """An id gets its row in the update in which its total of occurrences reaches `occurrences`.

    Counting is exact: 24 bytes and a map entry per id that is still waiting; expiry forgets counts as it does rows.

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


Admission: TypeAlias = AdmitAll | AdmitCount | AdmitProbability
"""The ways of admitting ids."""


def _powers(value: float, exponents: IdArray) -> npt.NDArray[np.float64]:
    """Return value ** exponents by squaring: only multiplications, hence equal bits everywhere (`pow` has none)."""
    result, square, left = np.ones(len(exponents)), np.float64(value), exponents.copy()
    while left.any():
        result = np.where(left & 1, result * square, result)
        square, left = square * square, left >> 1
    return result
