"""Bootstrap draws that stream: how often each group counts follows from its name, so any piece of it agrees."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.evaluate.intervals import Interval, clusters_of
from headrace.evaluate.order import Floats, encode

Keys = npt.NDArray[np.uint64]
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _poisson_table() -> npt.NDArray[np.uint8]:
    """Return the inverse distribution of Poisson(1) at the middles of 2^16 equal steps."""
    chances = np.exp(-1.0) / np.array([math.factorial(count) for count in range(12)])
    middles = (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.searchsorted(np.cumsum(chances), middles).astype(np.uint8)


_TABLE = _poisson_table()


def mixed(keys: Keys) -> Keys:
    """Return 64-bit integers scattered evenly, one to one.

    Source:
        Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014): the finaliser of SplitMix64.
    """
    with np.errstate(over="ignore"):
        out = keys + np.uint64(_GOLDEN)
        out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Keys = out ^ (out >> np.uint64(31))
    return scattered


def group_keys(groups: ArrayLike | pa.Array, rows: int) -> Keys:
    """Return a 64-bit key per row that is equal for equal groups, in every batch and every process.

    Raises:
        DataError: If a row has no group.
    """
    if not isinstance(groups, (pa.Array, pa.ChunkedArray)):
        data = np.asarray(groups)
        if data.dtype.kind in "iub" and len(data) == rows and data.ndim == 1:
            return mixed(data.astype(np.uint64))
    encode(groups, rows)  # refuses what is missing
    found = encode(groups, rows, names=True)
    assert found.names is not None
    digests = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in found.names]
    return np.frombuffer(b"".join(digests), np.uint64)[found.codes] if digests else np.zeros(0, np.uint64)


def poisson_weights(keys: Keys, draws: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return how often each key counts in each bootstrap draw: Poisson(1), (draws, N), a function of key and seed.

    Example:
        >>> keys = np.arange(1000, dtype=np.uint64)
        >>> weights = poisson_weights(keys, 100)
        >>> bool((weights[:, 5:9] == poisson_weights(keys[5:9], 100)).all()), round(float(weights.mean()), 1)
        (True, 1.0)
    """
    quarters = -(-draws // 4)
    salts = mixed(np.array([((seed * 1_000_003 + place) * _GOLDEN) & _MASK for place in range(quarters)], np.uint64))
    bits = mixed(keys[None, :] ^ salts[:, None])  # (quarters, N), four 16-bit uniforms each
    uniforms = bits.view(np.uint16).reshape(quarters, len(keys), 4).transpose(0, 2, 1)
    return _TABLE[uniforms].reshape(-1, len(keys))[:draws]


def bootstrap_interval(
    statistic: Callable[[Floats], float], rows: int, *, groups: ArrayLike | None = None, draws: int = 1000,
    confidence: float = 0.95, seed: int = 0,
) -> Interval:  # fmt: skip
    """Return any statistic with its percentile interval; with groups whole groups are drawn.

    Args:
        statistic: A function of how often each row counts, (N,); draws where it is NaN are left out.
        rows: Number of rows.
        groups: Which rows belong together, (N,).
        draws: How many.
        confidence: Of the interval.
        seed: The same seed gives the same interval.

    Source:
        Chamandy et al., Estimating Uncertainty for Massive Data Streams (2012), for Poisson counts in place of drawing
        with replacement.

    Example:
        >>> values = np.arange(200.0)
        >>> found = bootstrap_interval(lambda times: np.average(values, weights=times), 200)
        >>> found.value, bool(found.low < 99.5 < found.high)
        (99.5, True)
    """
    require(draws >= 20, "draws", got=draws, expected="at least 20")
    clusters = clusters_of(groups, rows)
    keys = np.arange(clusters.distinct, dtype=np.uint64)
    value, drawn = float(statistic(np.ones(rows))), np.empty(draws)
    for draw in range(draws):
        times = poisson_weights(keys, 1, seed=seed + draw)[0].astype(np.float64)
        drawn[draw] = statistic(times if clusters.codes is None else times[clusters.codes])
    kept = drawn[np.isfinite(drawn)]
    if len(kept) < 20:
        return Interval(value, math.nan, math.nan, math.nan)
    low, high = np.quantile(kept, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, float(low), float(high), float(kept.std(ddof=1)))
