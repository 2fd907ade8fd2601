from __future__ import annotations

import numpy as np

from headrace.store.hashing import GAMMA, draws, key_of, mix64, streams


def splitmix64(state: int) -> int:
    """The published generator, in plain integers."""
    mask = 2**64 - 1
    z = (state + int(GAMMA)) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_draws_are_the_published_splitmix64_sequence() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # the well-known first output for this seed
    got = draws(np.array([1234567], np.uint64), 3)[0]
    expected = [splitmix64((1234567 + step * int(GAMMA)) % 2**64) for step in range(3)]
    assert got.tolist() == expected


def test_mix_is_a_bijection_on_a_sample() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(mix64(values))) == len(values)


def test_streams_depend_on_key_and_id() -> None:
    ids = np.array([0, 1, -1, 2**63 - 1, -(2**63)], np.int64)
    one, other = streams(1, ids), streams(2, ids)
    assert len(set(one.tolist()) | set(other.tolist())) == 10


def test_keys_of_names_do_not_run_together() -> None:
    assert key_of(0, "ab", "c") != key_of(0, "a", "bc")


def test_keys_are_fixed_for_ever() -> None:
    assert key_of(0, "user") == 9171136830870251096
