from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.store import Constant, InitialRow, Normal, Uniform, Zeros
from headrace.store.hashing import key_of

IDS = np.array([5, -7, 0, 2**63 - 1, -(2**63)], np.int64)


@pytest.mark.parametrize("init", [Zeros(), Constant(0.5), Uniform(), Normal()], ids=str)
def test_rows_depend_on_id_alone_not_on_order_or_company(init: InitialRow) -> None:
    together = init(9, IDS, 8)
    backwards = init(9, IDS[::-1].copy(), 8)[::-1]
    alone = np.concatenate([init(9, IDS[i : i + 1], 8) for i in range(len(IDS))])
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(together, alone)
    assert together.dtype == np.float32


@pytest.mark.parametrize("init", [Uniform(), Normal()], ids=str)
def test_another_key_or_id_gives_another_row(init: InitialRow) -> None:
    rows = np.concatenate([init(9, IDS, 4), init(10, IDS, 4)])
    assert len(np.unique(rows, axis=0)) == 10


def test_seed_and_table_name_make_the_key() -> None:
    keys = {key_of(0, "user", "row"), key_of(1, "user", "row"), key_of(0, "item", "row")}
    assert len(keys) == 3


def test_uniform_fills_its_range_evenly() -> None:
    rows = Uniform(0.5)(1, np.arange(20_000), 4)
    assert rows.min() >= -0.5
    assert rows.max() < 0.5
    counts, _ = np.histogram(rows, bins=10, range=(-0.5, 0.5))
    assert np.abs(counts / 8000 - 1).max() < 0.05


def test_normal_has_the_moments_of_its_name() -> None:
    rows = Normal(2.0)(1, np.arange(50_000), 4).astype(np.float64) / 2.0
    assert abs(rows.mean()) < 0.01
    assert abs(rows.var() - 1.0) < 0.01
    assert abs((rows**4).mean() - 2.9) < 0.06
    assert abs((rows > 1.0).mean() - 0.1587) < 0.003


def test_columns_are_not_correlated() -> None:
    for init in (Uniform(1.0), Normal(1.0)):
        correlation = np.corrcoef(init(3, np.arange(20_000), 6), rowvar=False)
        assert np.abs(correlation - np.eye(6)).max() < 0.03


def test_bits_are_fixed_for_ever() -> None:
    ids = np.array([0, -1], np.int64)
    assert Uniform(1.0)(0, ids, 1).view(np.uint32).ravel().tolist() == [1061437776, 3211489558]
    assert Normal(1.0)(0, ids, 1).view(np.uint32).ravel().tolist() == [1032286208, 1052338176]


@pytest.mark.parametrize("make", [lambda: Uniform(-1.0), lambda: Normal(float("inf")), lambda: Constant(float("nan"))])
def test_a_value_that_cannot_work_is_refused(make: type) -> None:
    with pytest.raises(ConfigError):
        make()
