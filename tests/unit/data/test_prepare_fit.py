"""Counting: exact, and the same for any pieces and any number of processes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import (
    Categories,
    Category,
    History,
    LogBins,
    Number,
    Preparation,
    QuantileBins,
)
from headrace.data.prepare import fit
from headrace.data.prepare_encode import log_bins, text_keys
from headrace.data.prepare_fit import NumberCounts, bars, exact_sum
from headrace.errors import DataError

EVERYTHING = Preparation(columns=(
    Category("user", min_count=3), Category("hashed", column="user", buckets=50),
    Category("hashed_often", column="user", buckets=50, min_count=60), LogBins("age", min_count=2),
    QuantileBins("price_bin", column="price", bins=8), Number("price", log1p=True, scale="standard", indicator=True),
    Number("share", scale="min_max", clip=(-2.0, 2.0), fill=0.5), Categories("tags", max_length=2, min_count=2),
    History("seen", vocabulary="item", separator=" ", max_length=3), Category("item"),
))  # fmt: skip


def raw(rows: int = 1000, seed: int = 0) -> pa.Table:
    """Return rows with every kind of column, nulls and empty values among them."""
    draw = np.random.default_rng(seed)

    def with_nulls(values: list[object], share: float = 0.1) -> pa.Array:
        return pa.array([None if draw.random() < share else value for value in values])

    users = [f"user {int(n)}" if n % 5 else "" for n in draw.zipf(1.4, rows) % 400]
    return pa.table({
        "label": draw.integers(0, 2, rows).astype(np.float32), "user": pa.array(users),
        "age": with_nulls([float(value) for value in np.floor(draw.lognormal(3, 2, rows)) - 2]),
        "price": with_nulls([float(np.float32(value)) for value in draw.lognormal(2, 1.5, rows)]),
        "share": with_nulls(draw.normal(0, 1.5, rows).tolist()),
        "tags": with_nulls(["|".join(f"t{n}" for n in draw.integers(0, 9, draw.integers(0, 5))) for _ in range(rows)]),
        "seen": with_nulls([" ".join(f"i{n}" for n in draw.integers(0, 30, draw.integers(0, 6))) for _ in range(rows)]),
        "item": with_nulls([f"i{n}" for n in draw.integers(0, 40, rows)], 0.02),
    })  # fmt: skip


def test_statistics_do_not_depend_on_the_pieces() -> None:
    rows = raw()
    whole = fit(rows, EVERYTHING)
    assert fit(rows, EVERYTHING, piece_bytes=500).fingerprint() == whole.fingerprint()
    cuts = [0, 1, 2, 700, 701, 1000]
    pieces = [rows.slice(a, b - a).combine_chunks().to_batches()[0] for a, b in itertools.pairwise(cuts)]
    assert fit(pieces, EVERYTHING).fingerprint() == whole.fingerprint()
    assert fit(reversed(pieces), EVERYTHING).fingerprint() == whole.fingerprint()


def test_statistics_depend_on_every_row() -> None:
    rows = raw()
    assert fit(rows.slice(1), EVERYTHING).fingerprint() != fit(rows, EVERYTHING).fingerprint()


def test_ids_follow_counts_then_bytes() -> None:
    rows = pa.table({"label": [1.0] * 9, "x": ["b", "b", "a", "a", "c", "c", "c", "rare", None]})
    found = fit(rows, Preparation(columns=(Category("x", min_count=2),))).known("x")
    assert found.texts.to_pylist() == ["c", "a", "b"]
    assert found.counts.tolist() == [3, 2, 2]
    assert (found.occurrences, found.distinct) == (8, 4)


def test_columns_of_one_vocabulary_are_counted_together() -> None:
    rows = pa.table({"label": [1.0, 0.0], "item": ["i1", "i2"], "seen": ["i2 i2", "i3"]})
    plan = Preparation(columns=(History("seen", vocabulary="item", separator=" "), Category("item", min_count=1)))
    assert fit(rows, plan).known("item").texts.to_pylist() == ["i2", "i1", "i3"]


def test_too_many_distinct_values_end_with_advice() -> None:
    rows = pa.table({"label": [1.0] * 100, "x": [f"v{n}" for n in range(100)]})
    plan = Preparation(columns=(Category("x"),), max_distinct=99)
    with pytest.raises(DataError, match=r"'x'.*more than 99.*buckets"):
        fit(rows, plan)
    with pytest.raises(DataError, match="more than 99"):
        fit(rows, plan, piece_bytes=1)
    assert fit(rows.slice(0, 99), plan).vocabulary_size("x") == 102


def test_too_much_text_ends_with_advice(monkeypatch) -> None:
    monkeypatch.setattr("headrace.data.prepare_fit.MAX_TEXT_BYTES", 3_000_000)
    rows = pa.table({"label": [1.0] * 400, "x": ["v" * 10_000 + str(n) for n in range(400)]})
    with pytest.raises(DataError, match="buckets"):
        fit(rows, Preparation(columns=(Category("x"),)))
    assert fit(rows, Preparation(columns=(Category("x", buckets=9),))).vocabulary_size("x") == 12


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="Training rows"):
        fit(raw(10).slice(0, 0), EVERYTHING)


@pytest.mark.parametrize("spread", [0, 30, 300])
def test_sums_are_exact(spread) -> None:
    draw = np.random.default_rng(spread)
    values = draw.normal(size=5000) * 2.0 ** draw.integers(-spread, spread + 1, 5000)
    exact = sum(Fraction(value) for value in values.tolist())
    assert Fraction(exact_sum(values), 1 << 1127) == exact
    assert exact_sum(values[::-1].copy()) == exact_sum(values) == exact_sum(values[:9]) + exact_sum(values[9:])
    assert exact_sum(np.zeros(0)) == 0
    assert Fraction(exact_sum(np.array([5e-324, -2.0])), 1 << 1127) == Fraction(5e-324) - 2


def test_mean_and_deviation_equal_numpys() -> None:
    values = np.random.default_rng(1).normal(3, 2, 1000)
    counts = NumberCounts(1000, exact_sum(values), exact_sum(values * values))
    assert counts.mean == pytest.approx(values.mean(), rel=1e-14)
    assert counts.deviation == pytest.approx(values.std(), rel=1e-13)
    assert (NumberCounts().mean, NumberCounts().deviation) == (0.0, 1.0)


def test_bars_are_ordered_as_the_values() -> None:
    draw = np.random.default_rng(2)
    values = np.sort(np.concatenate([draw.normal(size=500) * 10.0 ** draw.integers(-30, 30, 500), [0.0, -0.0]]))
    found = bars(values.astype(np.float32))
    assert (np.diff(found) >= 0).all()
    assert bars(np.array([-0.0], np.float32)) == bars(np.array([0.0], np.float32))
    whole = np.arange(-65_536, 65_537, dtype=np.float32)
    assert len(np.unique(bars(whole))) == len(whole)


def test_log_bins_equal_the_formula() -> None:
    values = np.array([-3.7, -1, 0, 0.9, 2, 2.5, 3, 10, 1e6], np.float32)
    expected = [math.floor(math.log(float(v)) ** 2) if v > 2 else int(v) for v in values]
    assert log_bins(values).tolist() == expected


def test_text_keys_are_those_of_the_text_alone() -> None:
    texts = ["", "a", "b", "ab", "12345678", "123456789", "x" * 1000, "x" * 1001, "ä\0", "\0ä"]
    keys = text_keys(pa.array(texts))
    assert len(set(keys.tolist())) == len(texts)
    sliced = pa.array(["zz", *texts, "yy"]).slice(1, len(texts))
    assert (text_keys(sliced) == keys).all()
    assert [int(text_keys(pa.array([text]))[0]) for text in texts] == keys.tolist()
    # kept for ever: vocabularies and hashed columns of stored models depend on it
    assert text_keys(pa.array(["68fd1e64"])).tolist() == [8230155324939506231]
    many = text_keys(pa.array([f"{n:x}" for n in range(200_000)]))
    assert len(np.unique(many)) == 200_000
    assert abs(np.bincount((many % np.uint64(16)).astype(int)) / 12_500 - 1).max() < 0.05
