"""Rows to what an example sees of them, and gradients back: in NumPy, in the order of occurrence.

This is the specification of what the native table does for pooled features, bit by bit.
"""

from __future__ import annotations

import numpy as np

from headrace.store.hashing import IdArray
from headrace.store.row_rules import FloatArray


def pool(rows: FloatArray, offsets: IdArray, pooling: str) -> FloatArray:
    """Return rows (L, D) as they are, or summed or averaged per example (B, D); zeros where an example has none.

    The rows of an example are added in their order, each rounded once; the mean is the sum divided by their number.
    """
    if pooling == "none":
        return rows
    lengths = np.diff(offsets)
    some = lengths > 0
    pooled = np.zeros((len(lengths), rows.shape[1]), np.float32)
    pooled[some] = rows[offsets[:-1][some]]
    examples = np.repeat(np.arange(len(lengths)), lengths)
    later = np.ones(len(rows), np.bool_)
    later[offsets[:-1][some]] = False
    add_rows(pooled, examples[later], rows[later])
    if pooling == "mean":
        several = lengths > 1
        pooled[several] /= lengths[several, None].astype(np.float32)
    return pooled


def add_rows(total: FloatArray, places: IdArray, rows: FloatArray) -> None:
    """Add rows (L, D) to a contiguous `total` (U, D) at places (L,), in their order: a faster `np.add.at`."""
    flat = places[:, None] * total.shape[1] + np.arange(total.shape[1])
    np.add.at(total.reshape(-1), flat.reshape(-1), rows.reshape(-1))


def unpool(grads: FloatArray, offsets: IdArray, pooling: str) -> FloatArray:
    """Return the gradient (L, D) of every row from that of what `pool` made of them."""
    if pooling == "none":
        return grads
    lengths = np.diff(offsets)
    if pooling == "mean":
        grads = np.divide(grads, np.maximum(lengths, 1)[:, None].astype(np.float32), dtype=np.float32)
    return np.repeat(grads, lengths, axis=0)
