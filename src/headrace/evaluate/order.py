"""Rows in the order of their scores, within groups: the one sort that all rank metrics share.

Float32 scores without weights take a fast way: group, score and label are packed into one integer, and integers are
sorted; nothing is carried along. Everything else is sorted by index, stably.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from headrace.errors import DataError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

GROUP_BITS = 31
"""Groups that fit beside a 32-bit score and a label in 64 bits."""


class Ties(NamedTuple):
    """Rows sorted by group and ascending score, counted per block of equal scores.

    Attributes:
        positive: Weight of the positives of each block.
        negative: Weight of its negatives.
        group_starts: Where each group's blocks begin, (G,).
        groups: The code of each group, (G,).
    """

    positive: Floats
    negative: Floats
    group_starts: Integers
    groups: Integers


class Encoded(NamedTuple):
    """Values as codes from 0 to `distinct` - 1, some of which may not occur; `names[code]` is the value, if wanted."""

    codes: Integers
    names: list[object] | None
    distinct: int


def encode(values: ArrayLike | pa.Array, rows: int, *, what: str = "groups", names: bool = False) -> Encoded:
    """Return a code per row for values of any kind (integers, texts); by hashing, O(rows).

    Args:
        values: One per row.
        rows: How many there must be.
        what: What to call them in an error.
        names: Whether the values themselves are wanted, in order of first appearance; a missing value then is one too.

    Raises:
        DataError: If there are more or fewer values than rows, or, without `names`, one is missing.
    """
    data = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else np.asarray(values)
    if len(data) != rows or getattr(data, "ndim", 1) != 1:
        raise DataError(what, got=f"{len(data)} rows", expected=f"{rows}, as many as labels")
    if not names and isinstance(data, np.ndarray) and data.dtype.kind in "iu" and rows:
        low, high = int(data.min()), int(data.max())
        if high - low < max(4 * rows, 1 << 20) and high < 1 << 62:
            return Encoded(data.astype(np.int64) - low, None, high - low + 1)
    column = pa.array(data, from_pandas=True) if isinstance(data, np.ndarray) else data
    if column.null_count and not names:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{what}, row {row}", got="no value", expected="the group of every row")
    found = pc.dictionary_encode(column, null_encoding="encode")
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    codes = found.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Encoded(codes, found.dictionary.to_pylist() if names else None, len(found.dictionary))


def ties(labels: Floats, scores: npt.NDArray[np.floating], weights: Floats | None, codes: Integers | None) -> Ties:
    """Return the blocks of equal scores of each group.

    Args:
        labels: 0 or 1, (N,).
        scores: Finite numbers, (N,).
        weights: Row weights, (N,); None: all one.
        codes: Group of each row from 0, (N,); None: all rows are one group.

    Cost: one sort. 10 million float32 scores without weights take half a second, with groups one second.
    """
    if not len(labels):
        return Ties(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    exact = scores if scores.dtype == np.float32 else _as_single(scores)
    if weights is None and exact is not None and (codes is None or int(codes.max()) < 1 << GROUP_BITS):
        return _packed(labels, exact, codes)
    order = np.argsort(scores, kind="stable")
    if codes is not None:
        order = order[np.argsort(codes[order], kind="stable")]
    score, positive = scores[order], labels[order]
    changed = score[1:] != score[:-1]
    group = None if codes is None else codes[order]
    if group is not None:
        changed |= group[1:] != group[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1])
    weight = np.ones(len(order)) if weights is None else weights[order]
    total, wins = np.add.reduceat(weight, starts), np.add.reduceat(positive * weight, starts)
    return _with_groups(wins, total - wins, None if group is None else group[starts])


def _as_single(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float32] | None:
    """Return float64 scores as float32 where that changes none of them: those of models that answer in float32."""
    if (scores[:64].astype(np.float32) != scores[:64]).any():
        return None
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32)
    return single if bool((single == scores).all()) else None


def _packed(labels: Floats, scores: npt.NDArray[np.float32], codes: Integers | None) -> Ties:
    key: npt.NDArray[Any] = single_keys(scores)
    if codes is not None or int(key.max()) >= 1 << 31:
        key = key.astype(np.uint64)
    key = (key << key.dtype.type(1)) | labels.astype(key.dtype)
    if codes is not None:
        key |= codes.astype(np.uint64) << np.uint64(33)
    key.sort()
    won = np.cumsum(key & key.dtype.type(1), dtype=np.int64)
    key >>= key.dtype.type(1)
    ends = np.append(np.flatnonzero(key[1:] != key[:-1]), len(key) - 1)
    counts, wins = np.diff(ends, prepend=-1), np.diff(won[ends], prepend=0)
    group = None if codes is None else (key[ends] >> np.uint64(32)).astype(np.int64)
    return _with_groups(wins.astype(np.float64), (counts - wins).astype(np.float64), group)


def single_keys(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return unsigned integers in the order of float32 numbers.

    Example:
        >>> keys = single_keys(np.array([-2.0, -0.0, 0.0, 0.5], np.float32))
        >>> bool(keys[0] < keys[1] == keys[2] < keys[3])
        True
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # minus zero becomes zero
    if len(scores) and float(scores.min()) < 0:
        flip = np.where(bits >> np.uint32(31), np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
        return (bits ^ flip).astype(np.uint32)
    return bits


def _with_groups(positive: Floats, negative: Floats, group: Integers | None) -> Ties:
    if group is None:
        return Ties(positive, negative, np.zeros(1, np.int64), np.zeros(1, np.int64))
    starts = np.concatenate([[0], np.flatnonzero(group[1:] != group[:-1]) + 1])
    return Ties(positive, negative, starts, group[starts])


def areas(blocks: Ties) -> tuple[Floats, Floats]:
    """Return the AUC of each group (NaN with one class only) and its weight, both (G,)."""
    if not len(blocks.positive):
        return np.zeros(0), np.zeros(0)
    positive, negative, starts = blocks.positive, blocks.negative, blocks.group_starts
    below = np.cumsum(negative) - negative
    wins = positive * (below + 0.5 * negative)
    positives, negatives = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    won = np.add.reduceat(wins, starts) - positives * below[starts]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where((positives > 0) & (negatives > 0), won / (positives * negatives), np.nan)
    return value, positives + negatives
