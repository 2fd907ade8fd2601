"""Random numbers that are functions: the same (seed, purpose, counters) is the same number, in any order of asking.

A world built on such numbers has no hidden generator state. Any row can be made again at any time, so a source can
seek in no time, a click does not depend on how the stream was cut into batches, and two processes agree.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class Draw(enum.IntEnum):
    """What a random number is for; each purpose is a stream of its own."""

    TASTE = 1
    TASTE_TURN = 2
    CATEGORY = 3
    ITEM = 4
    QUALITY = 5
    LIFE = 6
    TREND = 7
    REQUEST_TIME = 8
    USER = 9
    SCENARIO = 10
    CANDIDATE = 11
    SHUFFLE = 12
    CLICK = 13
    DELAY = 14
    LAG = 15
    EXPLORE = 16
    LOGGER = 17


def _mixed(values: Bits) -> Bits:
    """Apply splitmix64's finaliser, a bijection on 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def bits(seed: int, draw: Draw, *counters: Ints | int) -> Bits:
    """Return 64 random bits for every element of the broadcast counters.

    Cost: two 64-bit multiplications per counter and element.

    Example:
        >>> bits(7, Draw.CLICK, 1)[()] == bits(7, Draw.CLICK, np.array([0, 1, 2]))[1]
        np.True_
    """
    start = (seed * GOLDEN + int(draw)) & _WORD
    word = _mixed(np.array([start], dtype=np.uint64))
    for counter in counters:
        count = np.atleast_1d(np.asarray(counter, dtype=np.int64)).view(np.uint64)
        word = _mixed(word ^ _mixed(count * np.uint64(GOLDEN) + np.uint64(1)))
    return word.reshape(np.broadcast_shapes(*(np.shape(counter) for counter in counters)))


def uniform(seed: int, draw: Draw, *counters: Ints | int) -> Floats:
    """Return numbers uniform in [0, 1), multiples of 2^-53.

    Example:
        >>> round(float(uniform(0, Draw.CLICK, np.arange(100_000)).mean()), 2)
        0.5
    """
    return (bits(seed, draw, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, draw: Draw, *counters: Ints | int) -> Floats:
    """Return standard normal numbers (Box and Muller's transform of two uniform ones).

    Example:
        >>> round(float(normal(0, Draw.ITEM, np.arange(100_000)).std()), 2)
        1.0
    """
    word = bits(seed, draw, *counters)
    other = _mixed(word + np.uint64(GOLDEN))
    radius = np.sqrt(-2.0 * np.log1p(-((word >> np.uint64(11)).astype(np.float64) * 2.0**-53)))
    return np.asarray(radius * np.cos((other >> np.uint64(11)).astype(np.float64) * (2.0 * np.pi * 2.0**-53)))


def choice(shares: Floats, numbers: Floats) -> Ints:
    """Return, for uniform numbers, the index drawn with probability proportional to `shares`.

    Shapes: shares (K,); numbers of any shape; the result has the shape of `numbers`.

    Example:
        >>> choice(np.array([1.0, 3.0]), np.array([0.1, 0.3, 0.99])).tolist()
        [0, 1, 1]
    """
    edges = np.cumsum(shares)[:-1] / np.sum(shares)
    return np.searchsorted(edges, numbers, side="right").astype(np.int64)
