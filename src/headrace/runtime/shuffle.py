"""The two-level seeded shuffle, as pure functions: which shard comes when, and which row stands where in a shard.

Level 1, in the queue: the shards of an epoch are handed out in the order of a keyed number each (`shard_ranks`).
Level 2, in the worker: a shard's rows are read in a keyed order (`shard_order`). Both depend on nothing but the seed,
the epoch, the source's name and the shard's borders: not on the number of workers, on who works, on what was lost and
done again, nor on the version of a random generator. So a restart, and a run with other workers, see the same order.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from headrace.config import require

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _spread(key: int, count: int) -> npt.NDArray[np.uint64]:
    """Return `count` different 64-bit numbers that look drawn at random; the i-th depends on `key` and i only."""
    with np.errstate(over="ignore"):
        values = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        values ^= values >> np.uint64(30)
        values *= np.uint64(0xBF58476D1CE4E5B9)
        values ^= values >> np.uint64(27)
        values *= np.uint64(0x94D049BB133111EB)
        values ^= values >> np.uint64(31)
    return values


def _key(*words: object) -> int:
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def shard_ranks(seed: int, source: str, epoch: int, shards: int) -> list[int]:
    """Return one number per shard of a source; the shards of an epoch are handed out in ascending order of it.

    Example:
        >>> shard_ranks(1, "a.csv", 0, 3) == shard_ranks(1, "a.csv", 0, 5)[:3]
        True
    """
    ranks: list[int] = _spread(_key("shards", seed, source, epoch), shards).tolist()
    return ranks


@lru_cache(maxsize=16)
def shard_order(seed: int, source: str, epoch: int, first: int, rows: int) -> npt.NDArray[np.int64]:
    """Return which row of a shard stands at each position, (rows,) int64 counted from the shard's first row.

    Cost: one sort of `rows` numbers; the newest few shards are kept. The array is read-only.

    Example:
        >>> sorted(shard_order(1, "a.csv", 0, 4096, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    order = np.argsort(_spread(_key("rows", seed, source, epoch, first, rows), rows)).astype(np.int64)
    order.setflags(write=False)
    return order


def row_numbers(
    seed: int, source: str, epoch: int, first: int, rows: int, shuffled: bool, start: int, stop: int
) -> npt.NDArray[np.int64]:
    """Return the source's row numbers at positions `start` .. `stop` of the shard `first .. first + rows`.

    Raises:
        ConfigError: If the positions do not lie within the shard.
    """
    require(0 <= start <= stop <= rows, "positions", got=(start, stop), expected=f"a range within 0 .. {rows}")
    if not shuffled:
        return np.arange(first + start, first + stop, dtype=np.int64)
    return first + shard_order(seed, source, epoch, first, rows)[start:stop]
