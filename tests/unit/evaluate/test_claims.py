"""Figures, intervals and tables of claims."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate.claims import (
    ClaimRecord,
    ClaimTable,
    Estimate,
    Goal,
    mean_over_blocks,
    mean_over_seeds,
    render_tables,
    student_t,
)

# From a printed table of Student's distribution (two-sided 95 %).
PRINTED = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 10: 2.22814, 29: 2.04523, 99: 1.98422}


@pytest.mark.parametrize(("freedom", "expected"), PRINTED.items())
def test_student_quantiles_are_those_of_the_printed_table(freedom: int, expected: float) -> None:
    assert student_t(freedom) == pytest.approx(expected, abs=1e-5 * expected)


def test_student_quantile_of_many_degrees_is_the_normal_one() -> None:
    assert student_t(100_000) == pytest.approx(1.959964, abs=1e-4)


def test_other_confidence_gives_another_quantile() -> None:
    assert student_t(5, 0.9) == pytest.approx(2.01505, abs=1e-4)


@pytest.mark.parametrize(("freedom", "confidence"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_impossible_quantiles_are_refused(freedom: int, confidence: float) -> None:
    with pytest.raises(ConfigError, match="student_t"):
        student_t(freedom, confidence)


def test_interval_over_seeds_is_students() -> None:
    estimate = mean_over_seeds([1.0, 2.0, 3.0, 4.0])
    half = PRINTED[3] * math.sqrt(5 / 3) / 2
    assert estimate.value == 2.5
    assert estimate.low == pytest.approx(2.5 - half, rel=1e-5)
    assert estimate.high == pytest.approx(2.5 + half, rel=1e-5)
    assert estimate.spread == pytest.approx(math.sqrt(5 / 3))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).normal(0.3, 1.0, size=(2000, 4))
    hits = sum(e.low <= 0.3 <= e.high for e in map(mean_over_seeds, draws))
    assert 0.93 < hits / 2000 < 0.97


def test_one_value_has_no_interval() -> None:
    assert mean_over_seeds([0.7]) == Estimate(0.7, None, None, 0.0, 0.0, 1)


def test_block_interval_does_not_shrink_with_seeds_that_agree() -> None:
    shards = np.random.default_rng(1).normal(size=20)
    few, many = mean_over_blocks(np.tile(shards, (2, 1))), mean_over_blocks(np.tile(shards, (50, 1)))
    assert many.error == pytest.approx(few.error)
    assert few.error == pytest.approx(shards.std(ddof=1) / math.sqrt(20))


def test_block_interval_counts_disagreement_between_seeds() -> None:
    differences = np.array([[0.0] * 10, [1.0] * 10, [2.0] * 10])
    assert mean_over_blocks(differences).error == pytest.approx(1 / math.sqrt(3))


def test_block_interval_covers_the_truth_when_shards_are_shared() -> None:
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(1000):
        blocks = draw.normal(size=(1, 12)) + 0.3 * draw.normal(size=(3, 1)) + 0.2 * draw.normal(size=(3, 12))
        estimate = mean_over_blocks(blocks)
        hits += estimate.low <= 0.0 <= estimate.high
    assert hits / 1000 > 0.93


def test_spread_of_blocks_is_over_all_blocks() -> None:
    blocks = np.arange(6.0).reshape(2, 3)
    assert mean_over_blocks(blocks).spread == pytest.approx(blocks.std(ddof=1))
    assert mean_over_blocks(blocks).count == 6


def test_equal_blocks_have_no_error() -> None:
    estimate = mean_over_blocks(np.full((2, 3), 0.25))
    assert (estimate.low, estimate.high, estimate.errors_above_zero) == (0.25, 0.25, math.inf)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (4,)])
def test_blocks_need_two_seeds_and_two_shards(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="mean_over_blocks"):
        mean_over_blocks(np.zeros(shape))


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_values_that_are_no_numbers_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="claim's measurements"):
        mean_over_seeds(values)


@pytest.mark.parametrize(("goal", "value", "holds"), [
    (Goal(">=", 1.0), 1.0, True), (Goal(">=", 1.0), 0.9, False), (Goal("<=", 1.0), 1.0, True),
    (Goal("<=", 1.0), 1.1, False),
])  # fmt: skip
def test_goals(goal: Goal, value: float, holds: bool) -> None:
    assert goal.holds(value) is holds


def test_result_object_has_the_agreed_parts_and_is_plain_json() -> None:
    record = ClaimRecord()
    record.add("gain", mean_over_seeds([1.0, 3.0]), unit="AUC", goal=Goal(">=", 5.0))
    record.add("bytes", mean_over_seeds([7.0]), unit="bytes")
    record.tables.append(ClaimTable("T", ("a", "b"), (("x", "1"),), ("a note",)))
    result = record.to_json({"seeds": 2})
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {"figures", "commit", "machine", "settings"} <= set(result)
    gain, size = result["figures"]["gain"], result["figures"]["bytes"]
    assert (gain["value"], gain["goal"], gain["holds"]) == (2.0, {"op": ">=", "bound": 5.0}, False)
    assert (size["low"], size["goal"], size["holds"]) == (None, None, None)


def test_a_figure_is_recorded_once() -> None:
    record = ClaimRecord()
    record.add("gain", mean_over_seeds([1.0]), unit="")
    with pytest.raises(ConfigError, match="taken"):
        record.add("gain", mean_over_seeds([2.0]), unit="")


def test_a_table_row_needs_a_cell_per_column() -> None:
    with pytest.raises(ConfigError, match="one per column"):
        ClaimTable("T", ("a", "b"), (("x",),))


def test_tables_are_rendered_aligned_with_title_and_notes() -> None:
    record = ClaimRecord()
    record.tables.append(ClaimTable("Loss", ("shards", "AUC"), (("1", "+0.1"), ("1000", "-12.25")), ("n = 3",)))
    lines = render_tables(record.to_json({})).splitlines()
    assert lines == ["Loss", "--------------", "shards     AUC", "--------------", "1         +0.1", "1000    -12.25",
                     "n = 3"]  # fmt: skip


def test_a_result_without_tables_is_refused() -> None:
    with pytest.raises(DataError, match="no tables"):
        render_tables({"figures": {}})
