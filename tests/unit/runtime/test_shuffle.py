"""The two-level shuffle: permutations, the same on every machine, different where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.runtime.shuffle import row_numbers, shard_order, shard_ranks


def test_the_order_of_a_shard_is_a_permutation_and_pure() -> None:
    order = shard_order(7, "a.csv", 0, 100, 1000)
    assert sorted(order.tolist()) == list(range(1000))
    shard_order.cache_clear()
    assert np.array_equal(order, shard_order(7, "a.csv", 0, 100, 1000))
    assert not order.flags.writeable


def test_the_order_is_the_same_on_every_machine_and_for_ever() -> None:
    """A log of yesterday means rows by these numbers: they may never change."""
    assert shard_order(1, "a.csv", 0, 0, 10).tolist() == [5, 4, 2, 0, 9, 7, 1, 8, 3, 6]
    assert np.argsort(shard_ranks(1, "a.csv", 0, 8)).tolist() == [5, 0, 3, 6, 2, 4, 7, 1]


@pytest.mark.parametrize("other", [(2, "a", 0, 0, 64), (1, "b", 0, 0, 64), (1, "a", 1, 0, 64), (1, "a", 0, 64, 64)])
def test_seed_source_epoch_and_place_each_give_another_order(other) -> None:
    assert shard_order(1, "a", 0, 0, 64).tolist() != shard_order(*other).tolist()


def test_it_looks_drawn_at_random() -> None:
    """Means and neighbours are those of a random permutation, within five standard errors."""
    rows = 20_000
    order = shard_order(5, "a", 0, 0, rows).astype(float)
    half = order[: rows // 2].mean()
    assert abs(half - rows / 2) < 5 * rows / np.sqrt(12 * rows)
    neighbours = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(rows)
    moved = np.array([shard_order(seed, "a", 0, 0, 5).tolist() for seed in range(3000)])
    shares = np.stack([(moved == row).mean(axis=0) for row in range(5)])
    assert np.abs(shares - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 3000)


def test_rows_of_positions() -> None:
    order = shard_order(3, "a", 1, 40, 10)
    assert row_numbers(3, "a", 1, 40, 10, True, 2, 5).tolist() == (40 + order[2:5]).tolist()
    assert row_numbers(3, "a", 1, 40, 10, False, 2, 5).tolist() == [42, 43, 44]
    assert row_numbers(3, "a", 1, 40, 10, True, 4, 4).tolist() == []
    for start, stop in ((-1, 2), (3, 11), (5, 4)):
        with pytest.raises(ConfigError, match="a range within 0"):
            row_numbers(3, "a", 1, 40, 10, True, start, stop)


def test_one_more_shard_moves_no_other() -> None:
    assert shard_ranks(9, "a", 0, 50) == shard_ranks(9, "a", 0, 80)[:50]
    assert len(set(shard_ranks(9, "a", 0, 5000))) == 5000
