"""Counting: how often every value occurs, and sums of numbers that come out the same in whatever order they are taken.

Counts of pieces are merged; the result does not depend on how rows were cut into pieces, nor on who counted which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.prepare_columns import Categories, Category, Column, History, LogBins, Number, Preparation
from headrace.data.prepare_encode import text_keys
from headrace.errors import DataError

MAX_TEXT_BYTES = 2_000_000_000
"""What one array of texts can hold, a little less."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
BAR_BITS = 7
"""Low bits of a float32 that quantiles do not tell apart: 16 of 23 bits of the mantissa are left."""

SCALE_BITS = 1074 + 53
"""Sums are whole numbers in units of 2^-1127, below the smallest double."""


@dataclass(slots=True)
class ValueCounts:
    """Texts (V,) and how often each occurred (V,); `pending` holds counts of pieces that were not merged yet."""

    texts: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    counts: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    pending: list[tuple[pa.Array, Integers]] = field(default_factory=list)
    waiting: int = 0

    def add(self, texts: pa.Array, counts: Integers) -> None:
        """Take counts; merges once as many wait as there are, so the whole costs O(n log n)."""
        self.pending.append((texts, counts))
        self.waiting += len(texts)
        if self.waiting > max(len(self.texts), 1 << 16):
            self.settle()

    def settle(self) -> None:
        """Merge what waits."""
        if not self.pending:
            return
        parts = [(self.texts, self.counts), *self.pending]
        size = sum(texts.nbytes for texts, _ in parts)
        if size > MAX_TEXT_BYTES:
            raise DataError("Vocabulary", got=f"{size >> 20} MiB of text to be merged",
                            expected=f"at most {MAX_TEXT_BYTES >> 20} MiB of distinct values",
                            do="Set buckets=... to hash the column's values into a range.")  # fmt: skip
        encoded = pa.chunked_array([texts for texts, _ in parts], pa.string()).combine_chunks().dictionary_encode()
        codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False))
        counts = np.concatenate([counts for _, counts in parts])
        total = np.zeros(len(encoded.dictionary), dtype=np.int64)
        np.add.at(total, codes, counts)
        self.texts, self.counts, self.pending, self.waiting = encoded.dictionary, total, [], 0


@dataclass(slots=True)
class NumberCounts:
    """Exact sums of a number, its range, and its histogram where quantiles are wanted.

    Attributes:
        count: Values.
        total: Sum of the values, in units of 2^-1127.
        squares: Sum of their squares, in the same unit.
        low, high: Least and largest.
        bars: Sorted bars of the histogram; heights: how many values lie in each.
    """

    count: int = 0
    total: int = 0
    squares: int = 0
    low: float = math.inf
    high: float = -math.inf
    bars: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    heights: Integers = field(default_factory=lambda: np.zeros(0, np.int64))

    def merge(self, other: NumberCounts) -> None:
        """Add what was counted elsewhere."""
        self.count, self.total, self.squares = (
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )  # fmt: skip
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        bars, place = np.unique(np.concatenate([self.bars, other.bars]), return_inverse=True)
        heights = np.zeros(len(bars), dtype=np.int64)
        np.add.at(heights, place, np.concatenate([self.heights, other.heights]))
        self.bars, self.heights = bars, heights

    @property
    def mean(self) -> float:
        """Mean, correctly rounded; 0 without values."""
        return float(Fraction(self.total, self.count << SCALE_BITS)) if self.count else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of the values as a population; 1 where it is 0, so that it can be divided by."""
        if not self.count:
            return 1.0
        mean = Fraction(self.total, self.count << SCALE_BITS)
        variance = Fraction(self.squares, self.count << SCALE_BITS) - mean * mean
        return math.sqrt(variance) if variance > 0 else 1.0


@dataclass(slots=True)
class Counts:
    """What was counted in some training rows."""

    rows: int = 0
    values: dict[str, ValueCounts] = field(default_factory=dict)
    buckets: dict[str, Integers] = field(default_factory=dict)
    numbers: dict[str, NumberCounts] = field(default_factory=dict)

    def merge(self, other: Counts, preparation: Preparation) -> None:
        """Add what was counted elsewhere.

        Raises:
            DataError: If a vocabulary has more distinct values than the preparation allows.
        """
        self.rows += other.rows
        for name, counted in other.values.items():
            own = self.values.setdefault(name, ValueCounts())
            counted.settle()
            own.add(counted.texts, counted.counts)
            if len(own.texts) + own.waiting > preparation.max_distinct:
                own.settle()
            if len(own.texts) > preparation.max_distinct:
                raise DataError(
                    f"Vocabulary '{name}'", got=f"more than {preparation.max_distinct} distinct values",
                    expected="at most max_distinct of them",
                    do="Set buckets=... to hash its values into a range, or raise max_distinct if there is the memory.",
                )  # fmt: skip
        for name, heights in other.buckets.items():
            self.buckets[name] = heights + self.buckets[name] if name in self.buckets else heights
        for name, numbers in other.numbers.items():
            self.numbers.setdefault(name, NumberCounts()).merge(numbers)

    def settle(self) -> Counts:
        """Merge what waits, and return self."""
        for counted in self.values.values():
            counted.settle()
        return self


def count(encoded: pa.RecordBatch, preparation: Preparation) -> Counts:
    """Count the encoded rows of a piece."""
    found = Counts(rows=encoded.num_rows)
    for at, column in enumerate(preparation.columns):
        array = encoded.column(at)
        if isinstance(column, (Category, Categories, History, LogBins)):
            codes = array.flatten() if isinstance(column, (Categories, History)) else array
            _count_codes(found, column, codes)
        elif isinstance(column, Number):
            if column.scale != "none":
                found.numbers[column.name] = _sums(number_values(array, column), column)
        else:
            found.numbers[column.name] = _histogram(array)
    return found.settle()


def _count_codes(found: Counts, column: Column, codes: pa.Array) -> None:
    assert isinstance(column, (Category, Categories, History, LogBins))
    buckets = getattr(column, "buckets", None)
    if buckets is not None and column.min_count == 1:
        return  # every bucket is kept: there is nothing to count
    indices = codes.indices.drop_null() if codes.null_count else codes.indices
    heights = np.bincount(np.asarray(indices.to_numpy(zero_copy_only=False)), minlength=len(codes.dictionary))
    if buckets is None:
        present = heights > 0
        texts = codes.dictionary if present.all() else codes.dictionary.filter(pa.array(present))
        found.values.setdefault(column.vocabulary, ValueCounts()).add(texts, heights[present].astype(np.int64))
        return
    places = (text_keys(codes.dictionary) % np.uint64(buckets)).astype(np.int64)
    total = found.buckets.setdefault(column.vocabulary, np.zeros(buckets, dtype=np.int64))
    np.add.at(total, places, heights)


def number_values(array: pa.Array, column: Number) -> Floats:
    """Return numbers filled, clipped and on their scale of magnitude (N,), as they are before they are scaled."""
    values = np.asarray(pc.fill_null(array, np.float32(column.fill)).to_numpy(zero_copy_only=False), dtype=np.float64)
    low, high = column.clip
    if low is not None or high is not None:
        values = np.clip(values, low, high)
    return np.sign(values) * np.log1p(np.abs(values)) if column.log1p else values


def bars(values: npt.NDArray[np.float32]) -> Integers:
    """Return the bar of the histogram that each float32 lies in; bars are ordered as the values are."""
    bits = (values + np.float32(0.0)).view(np.int32)  # -0 becomes 0
    return ((bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))) >> BAR_BITS).astype(np.int64)


def _histogram(array: pa.Array) -> NumberCounts:
    values = np.asarray(array.drop_null().to_numpy(zero_copy_only=False), dtype=np.float32)
    found, heights = np.unique(bars(values), return_counts=True)
    return NumberCounts(count=len(values), bars=found, heights=heights.astype(np.int64))


def _sums(values: Floats, column: Number) -> NumberCounts:
    if not len(values):
        return NumberCounts()
    result = NumberCounts(count=len(values), low=float(values.min()), high=float(values.max()))
    if column.scale == "standard":
        result.total, result.squares = exact_sum(values), exact_sum(values * values)
    return result


def exact_sum(values: Floats) -> int:
    """Return the sum of doubles without any rounding, in units of 2^-1127.

    Example:
        >>> exact_sum(np.array([1e16, 1.0, -1e16])) == 1 << 1127
        True
    """
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    order = np.argsort(exponent, kind="stable")
    exponents, starts = np.unique(exponent[order], return_index=True)
    low, high = whole[order] & (2**26 - 1), whole[order] >> 26
    total = 0
    if len(values):
        sums = zip(exponents.tolist(), np.add.reduceat(high, starts).tolist(), np.add.reduceat(low, starts).tolist(),
                   strict=True)  # fmt: skip
        total = sum(((above << 26) + below) << (power - 53 + SCALE_BITS) for power, above, below in sums)
    return total
