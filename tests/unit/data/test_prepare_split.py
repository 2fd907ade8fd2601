"""Splits: shares, seeds, keys, times and folds."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import FoldSplit, HashSplit, OrderSplit, RandomSplit, TimeSplit
from headrace.errors import ConfigError, SchemaError

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def batch(**columns: object) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(dict(columns.items()))


def in_pieces(split, rows: pa.RecordBatch, size: int) -> np.ndarray:
    starts = range(0, rows.num_rows, size)
    return np.concatenate([split.parts(rows.slice(at, size), at, rows.num_rows) for at in starts])


@pytest.mark.parametrize("split", [OrderSplit(SHARES), RandomSplit(SHARES, seed=4), HashSplit("user", SHARES)])
def test_parts_do_not_depend_on_the_pieces_and_have_their_shares(split) -> None:
    rows = batch(user=[f"u{n % 3000}" for n in range(20_000)])
    whole = split.parts(rows, 0, 20_000)
    assert (in_pieces(split, rows, 777) == whole).all()
    assert (np.bincount(whole, minlength=3) / 20_000) == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_rows_left_over_belong_to_no_part() -> None:
    rows = batch(user=["a"] * 10)
    assert OrderSplit({"train": 0.5, "test": 0.2}).parts(rows, 0, 10).tolist() == [0] * 5 + [1] * 2 + [-1] * 3
    assert (RandomSplit({"train": 0.3}).parts(batch(user=["a"] * 1000), 0, 1000) == -1).mean() > 0.6


def test_seeds_give_other_splits() -> None:
    rows = batch(user=[f"u{n}" for n in range(1000)])
    for make in (lambda seed: RandomSplit(SHARES, seed), lambda seed: HashSplit("user", SHARES, seed)):
        first, again, other = (make(seed).parts(rows, 0, 1000) for seed in (1, 1, 2))
        assert (first == again).all()
        assert 0.2 < (first != other).mean() < 0.5


def test_all_rows_of_a_key_stand_together() -> None:
    users = np.random.default_rng(0).integers(0, 40, 2000)
    parts = HashSplit("user", SHARES).parts(batch(user=users), 0, 2000)
    assert all(len(set(parts[users == user])) == 1 for user in range(40))
    texts = HashSplit("user", SHARES).parts(batch(user=[str(user) for user in users]), 0, 2000)
    assert (texts == parts).all()
    assert HashSplit("user", SHARES).parts(batch(user=["a", None]), 0, 2)[1] == -1


def test_times_and_folds() -> None:
    times = TimeSplit("at", {"train": 10, "valid": 20, "test": None})
    assert times.parts(batch(at=[5, 10, 19.5, 20, None]), 0, 5).tolist() == [0, 1, 1, 2, -1]
    assert TimeSplit("at", {"train": 10}).parts(batch(at=[9, 10]), 0, 2).tolist() == [0, -1]
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    cut = moment.timestamp() * 1e6
    assert TimeSplit("at", {"train": cut, "test": None}).parts(batch(at=[moment]), 0, 1).tolist() == [1]
    folds = FoldSplit("fold", {"train": (1, "2"), "test": (5,)})
    assert folds.parts(batch(fold=["1", "2", "3", "5", None]), 0, 5).tolist() == [0, 0, -1, 1, -1]
    assert folds.parts(batch(fold=[1, 2, 3, 5]), 0, 4).tolist() == [0, 0, -1, 1]


def test_what_cannot_be_split_is_refused() -> None:
    for shares in ({}, {"train": 0.0}, {"train": 0.9, "test": 0.2}, {"learn": 1.0}):
        with pytest.raises(ConfigError, match="Split"):
            OrderSplit(shares)
    for cuts in ({}, {"train": None, "test": 5.0}, {"train": 6.0, "test": 5.0}, {"test": 5.0}):
        with pytest.raises(ConfigError, match="TimeSplit"):
            TimeSplit("at", cuts)
    with pytest.raises(ConfigError, match="FoldSplit"):
        FoldSplit("fold", {"test": (1,)})
    with pytest.raises(SchemaError, match="numbers or times"):
        TimeSplit("at", {"train": 1.0}).parts(batch(at=["noon"]), 0, 1)
    with pytest.raises(SchemaError, match="'user'"):
        HashSplit("usr", SHARES).parts(batch(user=["a"]), 0, 1)
