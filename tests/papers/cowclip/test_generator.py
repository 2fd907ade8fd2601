"""Drawn clicks: they follow their law, rare ids carry signal, and equal seeds give equal rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.evaluate import auc
from headrace.papers.cowclip.drawn import DrawnSplits
from headrace.papers.cowclip.generator import CHUNK, ClickLaw, FieldLaw, criteo_law, draw

SMALL = ClickLaw(
    fields=(FieldLaw("a", (0.4, 0.2), 1.0, 1.0, 50, 1.0), FieldLaw("b", (), 0.7, 0.0, 300, 1.0)),
    bias=-1.0, rank=2, factor_spread=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def clicks():
    return draw(criteo_law(), 100_000, seed=11)


def test_rows_have_the_frequencies_of_the_law() -> None:
    drawn = draw(SMALL, 50_000, seed=1)
    for place, field in enumerate(SMALL.fields):
        shares = np.bincount(drawn.ids[:, place], minlength=field.ids) / len(drawn)
        assert np.abs(shares - field.shares()).max() < 0.01
        assert field.shares().sum() == pytest.approx(1.0)


def test_labels_follow_their_chances() -> None:
    drawn = draw(SMALL, 50_000, seed=1)
    assert drawn.labels.mean() == pytest.approx(drawn.chances.mean(), abs=0.01)
    high = drawn.chances > np.median(drawn.chances)
    assert drawn.labels[high].mean() == pytest.approx(drawn.chances[high].mean(), abs=0.01)


def test_equal_seeds_give_equal_rows_and_fewer_rows_are_the_first_of_more() -> None:
    one, two = draw(SMALL, CHUNK + 100, seed=3), draw(SMALL, 500, seed=3)
    assert np.array_equal(one.ids[:500], two.ids)
    assert np.array_equal(one.labels[:500], two.labels)
    assert not np.array_equal(two.ids, draw(SMALL, 500, seed=4).ids)
    assert not np.array_equal(one.ids[:100], one.ids[CHUNK:])


def test_the_products_of_factors_are_those_of_a_double_loop() -> None:
    drawn = draw(SMALL, 20, seed=5)
    rows = [SMALL.weights(place)[drawn.ids[:, place]] for place in range(2)]
    logits = SMALL.bias + rows[0][:, 0] + rows[1][:, 0] + (rows[0][:, 1:] * rows[1][:, 1:]).sum(axis=1)
    assert np.allclose(drawn.chances, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_the_fitted_law_is_as_hard_as_criteo(clicks) -> None:
    assert clicks.labels.mean() == pytest.approx(0.2245, abs=0.005)
    assert auc(clicks.labels, clicks.chances) == pytest.approx(0.80, abs=0.01)


def test_the_fitted_law_has_criteos_number_of_ids(clicks) -> None:
    # distinct ids in the first 20,000 rows of the sample
    for name, distinct in {"C3": 10_131, "C12": 9_614, "C24": 4_065, "C7": 4_503}.items():
        found = len(np.unique(clicks.ids[:20_000, criteo_law().names.index(name)]))
        assert found == pytest.approx(distinct, rel=0.15)


def test_rare_ids_carry_signal(clicks) -> None:
    law, without = criteo_law(), np.log(clicks.chances / (1 - clicks.chances))
    for place, field in enumerate(law.fields):
        rare = (field.shares() < 1e-4)[clicks.ids[:, place]]
        without = without - np.where(rare, law.weights(place)[clicks.ids[:, place], 0], 0.0)
    assert auc(clicks.labels, clicks.chances) - auc(clicks.labels, without) > 0.02


def test_rows_are_drawn_once_and_read_again(tmp_path) -> None:
    splits = DrawnSplits(SMALL, 300, 50, 100, 1, tmp_path)
    first = splits()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = splits()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert (len(first.train), len(first.valid), len(first.test)) == (300, 50, 100)
    one, two = (next(iter(each.train.batches(40, order=2))) for each in (first, again))
    assert np.array_equal(one.ids["a"].values, two.ids["a"].values)
    assert len(list(tmp_path.iterdir())) == 2


def test_every_row_comes_once_in_any_order(tmp_path) -> None:
    train = DrawnSplits(SMALL, 100, 10, 10, 1, tmp_path)().train
    for order in (None, 7):
        rows = np.concatenate([batch.example_ids.numpy() for batch in train.batches(30, order)])
        assert sorted(rows.tolist()) == list(range(100))
    plain = next(iter(train.batches(30)))
    assert plain.example_ids.tolist() == list(range(30))
    assert plain.ids["b"].offsets.tolist() == list(range(31))


def test_a_law_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="head"):
        replace(SMALL.fields[0], head=(0.8, 0.4))
    with pytest.raises(ConfigError, match="ids"):
        replace(SMALL.fields[0], ids=1)
    with pytest.raises(ConfigError, match="rows"):
        draw(SMALL, 0, seed=1)
