"""The one hash of the store: splitmix64, on NumPy arrays of uint64. The native table has the same in `hash.h`.

Everything that looks random in a table (initial rows, admission by probability) is drawn from it, so that it is a
pure function of seed and id: the same on every machine, in every process, in any order.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

KeyArray: TypeAlias = npt.NDArray[np.uint64]
IdArray: TypeAlias = npt.NDArray[np.int64]

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""The step of the splitmix64 sequence: 2^64 divided by the golden ratio."""


def mix64(values: KeyArray) -> KeyArray:
    """Return the splitmix64 finaliser of each value: a bijection of 64-bit words that mixes every bit.

    Source:
        Steele, Lea, Flood 2014; constants of Stafford's variant 13.

    Example:
        >>> int(mix64(np.array([1], np.uint64))[0])
        6238072747940578789
    """
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def streams(key: int, ids: IdArray) -> KeyArray:
    """Return one stream start (N,) per id, from a 64-bit key."""
    return mix64(mix64(ids.view(np.uint64)) ^ np.uint64(key))


def draws(starts: KeyArray, count: int) -> KeyArray:
    """Return the first `count` values (N, count) of each stream."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * GAMMA
    return mix64(starts[:, None] + steps[None, :])


def key_of(seed: int, *names: str) -> int:
    """Return the 64-bit key of a seed and names; another seed or name gives an unrelated key.

    Example:
        >>> key_of(0, "user") == key_of(0, "user"), key_of(0, "user") == key_of(1, "user")
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(seed.to_bytes(16, "little", signed=True))
    for name in names:
        digest.update(len(name.encode()).to_bytes(8, "little") + name.encode())
    return int.from_bytes(digest.digest(), "little")
