"""What counts become: vocabularies with ids, scales of numbers, cuts between bins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.prepare_columns import FIRST, RARE, Number
from headrace.data.prepare_encode import text_keys
from headrace.data.prepare_fit import Counts, NumberCounts
from headrace.errors import DataError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The values of a column that have an id of their own.

    Attributes:
        texts: (V,) in the order of their ids, the first of which is `FIRST`.
        counts: (V,) how often each occurred in training.
        occurrences: How often all values occurred, rare ones included.
        distinct: How many different values occurred.
    """

    texts: pa.Array
    counts: Ids
    occurrences: int
    distinct: int
    _keys: npt.NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _order: npt.NDArray[np.int32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = text_keys(self.texts)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        if (keys[1:] == keys[:-1]).any():  # once in a lifetime; never to be learned from
            raise DataError("Vocabulary", got="two values with the same 64-bit key", expected="different keys",
                            do="Change one of the values, or hash the column with buckets=....")  # fmt: skip
        object.__setattr__(self, "_keys", keys)
        object.__setattr__(self, "_order", order.astype(np.int32))

    def ids(self, keys: npt.NDArray[np.uint64]) -> Ids:
        """Return the ids of texts by their keys (N,); `RARE` for those that are not here."""
        if not len(self._keys):
            return np.full(len(keys), RARE, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._order[place].astype(np.int64) + FIRST, RARE)


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """Of a scaled number: what is subtracted, then what is divided by; `span` > 0 cuts the result to 0..1."""

    shift: float
    divisor: float
    span: bool


def vocabulary_of(counts: Counts, name: str, least: int) -> Vocabulary:
    """Return the values that occurred at least so often, by falling count, ties by their bytes."""
    counted = counts.values.get(name)
    if counted is None:
        return Vocabulary(pa.array([], pa.string()), np.zeros(0, np.int64), 0, 0)
    keep = counted.counts >= least
    table = pa.table({"text": counted.texts.filter(pa.array(keep)), "count": counted.counts[keep]})
    order = pc.sort_indices(table, sort_keys=[("count", "descending"), ("text", "ascending")])
    table = table.take(order).combine_chunks()
    texts = table["text"].combine_chunks() if table.num_rows else pa.array([], pa.string())
    frequencies = np.asarray(table["count"].to_numpy(), dtype=np.int64)
    return Vocabulary(texts, frequencies, int(counted.counts.sum()), len(counted.counts))


def facts_of(column: Number, numbers: NumberCounts) -> NumberFacts:
    """Return how a number is scaled."""
    if column.scale == "standard":
        return NumberFacts(numbers.mean, numbers.deviation, span=False)
    low, high = (numbers.low, numbers.high) if math.isfinite(numbers.low) else (0.0, 1.0)
    return NumberFacts(low, high - low if high > low else 1.0, span=True)


def cuts_of(numbers: NumberCounts, bins: int) -> Ids:
    """Return the last bar of every bin but the last; bins that would be empty are left out."""
    if not numbers.count:
        return np.zeros(0, dtype=np.int64)
    below = np.cumsum(numbers.heights)
    wanted = -(-np.arange(1, bins, dtype=np.int64) * numbers.count // bins)
    cuts = np.unique(numbers.bars[np.searchsorted(below, wanted)])
    return np.asarray(cuts[cuts < numbers.bars[-1]], dtype=np.int64)
