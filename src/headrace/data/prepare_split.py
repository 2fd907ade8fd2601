"""Which part of the data a row belongs to: by place, by chance, by the hash of a key, by time, or as a column says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import require
from headrace.data.prepare_encode import text_keys
from headrace.errors import SchemaError, nearest

Parts = npt.NDArray[np.int8]
NOWHERE = -1
TRAIN = "train"


@dataclass(frozen=True, slots=True)
class OrderSplit:
    """Consecutive rows: the first share is the first part, and so on. For files in order of time.

    Attributes:
        shares: Part to its share, in order; they add up to at most 1, what is left over belongs to no part.

    Example:
        >>> OrderSplit({"train": 0.5, "test": 0.5}).parts(pa.RecordBatch.from_pylist([{"a": 1}] * 4), 0, 4).tolist()
        [0, 0, 1, 1]
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        _check_shares(self.shares)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read: none."""
        return ()

    def parts(self, batch: pa.RecordBatch, first: int, rows: int) -> Parts:
        """Return the part of each row (N,) by number, -1 for none; `first` row of `rows` in all."""
        ends = np.rint(np.cumsum(list(self.shares.values())) * rows).astype(np.int64)
        return _placed(np.searchsorted(ends, np.arange(first, first + batch.num_rows), side="right"), len(ends))


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """Rows by chance, each for itself; a pure function of seed and row number, whatever the pieces.

    Attributes:
        shares: Part to its share, see `OrderSplit`; parts have these shares up to chance.
        seed: Another seed, another split.
    """

    shares: Mapping[str, float]
    seed: int = 0

    def __post_init__(self) -> None:
        _check_shares(self.shares)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read: none."""
        return ()

    def parts(self, batch: pa.RecordBatch, first: int, rows: int) -> Parts:
        """See `OrderSplit.parts`."""
        numbers = np.arange(first, first + batch.num_rows, dtype=np.uint64)
        return _by_share(_scrambled(numbers + np.uint64(self.seed * 0x632BE59BD9B4E019 & (2**64 - 1))), self.shares)


@dataclass(frozen=True, slots=True)
class HashSplit:
    """All rows with the same key together: users of the test part were never seen in training.

    Attributes:
        key: Raw column of text or whole numbers.
        shares: Part to its share of the keys, see `OrderSplit`.
        seed: Another seed, another split.
    """

    key: str
    shares: Mapping[str, float]
    seed: int = 0

    def __post_init__(self) -> None:
        _check_shares(self.shares)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.key,)

    def parts(self, batch: pa.RecordBatch, first: int, rows: int) -> Parts:
        """See `OrderSplit.parts`."""
        encoded = _column(batch, self.key).dictionary_encode()
        keys = text_keys(encoded.dictionary.cast(pa.string()))
        salted = _scrambled(keys + np.uint64(self.seed * 0x632BE59BD9B4E019 & (2**64 - 1)))
        table = np.append(_by_share(salted, self.shares), np.int8(NOWHERE))
        return table[_indices(encoded)]


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Rows by time: each part ends before its cut.

    Attributes:
        time: Raw column of numbers or Arrow times.
        cuts: Part to the first time that does not belong to it, in order; None for the last part: no end. Times of
            Arrow are compared in microseconds since the epoch.
    """

    time: str
    cuts: Mapping[str, float | None]

    def __post_init__(self) -> None:
        known = [cut for cut in self.cuts.values() if cut is not None]
        good = bool(self.cuts) and known == sorted(known) and None not in list(self.cuts.values())[:-1]
        require(good, "TimeSplit, cuts", got=self.cuts, expected="ascending cuts, None for the last part only")
        require(TRAIN in self.cuts, "TimeSplit, cuts", got=list(self.cuts), expected=f"a part called '{TRAIN}'")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.time,)

    def parts(self, batch: pa.RecordBatch, first: int, rows: int) -> Parts:
        """See `OrderSplit.parts`."""
        column = _column(batch, self.time)
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        try:
            times = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(f"Column '{self.time}'", got=f"type {column.type}", expected="numbers or times",
                              do="Name its type in the layout of the file.") from error  # fmt: skip
        ends = np.array([np.inf if cut is None else cut for cut in self.cuts.values()])
        found = _placed(np.searchsorted(ends, times, side="right"), len(ends))
        found[np.isnan(times)] = NOWHERE
        return found


@dataclass(frozen=True, slots=True)
class FoldSplit:
    """As a column says: folds that somebody else has drawn.

    Attributes:
        fold: Raw column of text or whole numbers.
        parts_of: Part to the values of the column that belong to it; other rows belong to no part.
    """

    fold: str
    parts_of: Mapping[str, tuple[str | int, ...]]

    def __post_init__(self) -> None:
        require(TRAIN in self.parts_of, "FoldSplit, parts_of", got=list(self.parts_of),
                expected=f"a part called '{TRAIN}'")  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.fold,)

    def parts(self, batch: pa.RecordBatch, first: int, rows: int) -> Parts:
        """See `OrderSplit.parts`."""
        encoded = _column(batch, self.fold).dictionary_encode()
        owner = {str(value): at for at, values in enumerate(self.parts_of.values()) for value in values}
        texts = encoded.dictionary.cast(pa.string()).to_pylist()
        table = np.array([*(owner.get(text, NOWHERE) for text in texts), NOWHERE], dtype=np.int8)
        return table[_indices(encoded)]


Split: TypeAlias = OrderSplit | RandomSplit | HashSplit | TimeSplit | FoldSplit


def part_names(split: Split | None) -> tuple[str, ...]:
    """Return the names of a split's parts, in order; without a split everything is `train`."""
    if split is None:
        return (TRAIN,)
    if isinstance(split, TimeSplit):
        return tuple(split.cuts)
    return tuple(split.parts_of if isinstance(split, FoldSplit) else split.shares)


def _check_shares(shares: Mapping[str, float]) -> None:
    good = bool(shares) and all(share > 0 for share in shares.values()) and sum(shares.values()) <= 1 + 1e-9
    require(good, "Split, shares", got=dict(shares), expected="positive shares that add up to at most 1")
    require(TRAIN in shares, "Split, shares", got=list(shares), expected=f"a part called '{TRAIN}'")


def _by_share(values: npt.NDArray[np.uint64], shares: Mapping[str, float]) -> Parts:
    place = (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
    ends = np.cumsum(list(shares.values()))
    if abs(ends[-1] - 1.0) < 1e-9:
        ends[-1] = 1.0
    return _placed(np.searchsorted(ends, place, side="right"), len(ends))


def _placed(numbers: npt.NDArray[np.intp], parts: int) -> Parts:
    return np.where(numbers < parts, numbers, NOWHERE).astype(np.int8)


def _scrambled(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    at = batch.schema.get_field_index(name)
    if at < 0:
        raise SchemaError(f"Split, column '{name}'", got="no such column", expected=nearest(name, batch.schema.names))
    column = batch.column(at)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _indices(encoded: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    filled = pc.fill_null(encoded.indices, len(encoded.dictionary)) if encoded.null_count else encoded.indices
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)
