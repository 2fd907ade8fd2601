"""Streaming evaluation: equal to the whole-array one where it is exact, close where binned, mergeable, resumable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate.accumulate import StreamingEvaluation
from headrace.evaluate.bootstrap import group_keys
from headrace.evaluate.grouped_stream import StreamingGroups
from headrace.evaluate.judge import Judging, evaluate
from headrace.testing import check_resumable

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sample(seed: int, rows: int = 5000, users: int = 300) -> Columns:
    rng = np.random.default_rng(seed)
    groups, known = rng.integers(0, users, rows), rng.normal(-2, 1, rows)
    taste = np.random.default_rng(77).normal(0, 0.7, users)[groups]
    probability = (1 / (1 + np.exp(-known))).astype(np.float32).astype(np.float64)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-known - taste))).astype(float)
    return labels, probability, rng.choice([1.0, 2.0], rows), groups, np.array(["x", "y", "z"])[groups % 3]


def feed(stream: StreamingEvaluation, data: Columns, pieces: int = 7) -> StreamingEvaluation:
    for rows in np.array_split(np.arange(len(data[0])), pieces):
        label, probability, weight, groups, kinds = (column[rows] for column in data)
        stream.update(label, probability, weight, groups if stream.grouped else None,
                      dict.fromkeys(stream.slices, kinds))  # fmt: skip
    return stream


def test_while_small_every_figure_is_exact() -> None:
    data = sample(0)
    found = feed(StreamingEvaluation(grouped=True, slices=("kind",)), data).result()
    expected = evaluate(data[0], data[1], data[3], data[2], {"kind": data[4]})
    for name, figure in expected.figures.items():
        # bins of equal mass hold equal weights here and equal numbers of rows there
        assert found[name].value == pytest.approx(figure.value, abs=5e-3 if name == "ece_mass" else 1e-12), name
    assert (found.rows, found.positives, found.groups) == (5000, int(data[0].sum()), expected.groups)
    mine, theirs = ({part.name: part for part in each.slices["kind"]} for each in (found, expected))
    for name, part in theirs.items():
        assert mine[name].auc.value == pytest.approx(part.auc.value, abs=2e-3)
        assert mine[name].calibration.value == pytest.approx(part.calibration.value)
        assert mine[name].ne.value == pytest.approx(part.ne.value)


def test_bins_of_equal_mass_are_nearly_those_of_quantiles() -> None:
    labels, probability, _, _, _ = sample(0)
    stream = StreamingEvaluation()
    stream.update(labels, probability)
    assert stream.result()["ece_mass"].value == pytest.approx(evaluate(labels, probability)["ece_mass"].value, abs=1e-3)


def test_slices_without_groups_have_the_same_errors() -> None:
    data = sample(1)
    found = feed(StreamingEvaluation(slices=("kind",)), data).result().slices["kind"]
    expected = {part.name: part for part in evaluate(data[0], data[1], None, data[2], {"kind": data[4]}).slices["kind"]}
    for part in found:
        assert part.calibration.error == pytest.approx(expected[part.name].calibration.error, rel=1e-9)
        assert part.ne.error == pytest.approx(expected[part.name].ne.error, rel=1e-9)


@pytest.mark.parametrize("grouped", [False, True])
def test_errors_are_near_the_analytic_ones(grouped: bool) -> None:
    data = sample(2)
    found = feed(StreamingEvaluation(grouped=grouped, draws=300), data).result()
    expected = evaluate(data[0], data[1], data[3] if grouped else None, data[2])
    for name, figure in expected.figures.items():
        assert found[name].error == pytest.approx(figure.error, rel=0.3), name


def test_beyond_its_rows_it_is_binned_and_close() -> None:
    data = sample(3, 30_000)
    found, expected = (
        feed(StreamingEvaluation(exact_rows=1000), data).result(),
        evaluate(data[0], data[1], None, data[2]),
    )
    for name in ("auc", "average_precision", "ece_mass"):
        assert found[name].value == pytest.approx(expected[name].value, abs=2e-3), name
    assert found["log_loss"].value == pytest.approx(expected["log_loss"].value, abs=1e-12)
    assert any("bins" in note for note in found.notes)


@pytest.mark.parametrize("exact_rows", [1000, 100_000])
def test_merging_equals_counting_together(exact_rows: int) -> None:
    data = sample(4)
    whole, left, right = (StreamingEvaluation(grouped=True, slices=("kind",), exact_rows=exact_rows) for _ in range(3))
    feed(whole, data)
    feed(left, tuple(column[:2000] for column in data))
    feed(right, tuple(column[2000:] for column in data))
    left.merge(right)
    one, two = whole.result(), left.result()
    for name, figure in one.figures.items():
        assert two[name] == pytest.approx(figure, abs=1e-9), name
    assert {part.name: part.rows for part in one.slices["kind"]} == {
        part.name: part.rows for part in two.slices["kind"]
    }


def test_other_settings_do_not_merge() -> None:
    with pytest.raises(ConfigError, match="merge"):
        StreamingEvaluation().merge(StreamingEvaluation(draws=50))


def test_it_keeps_the_contract_of_resumable_parts() -> None:
    def advance(stream: StreamingEvaluation, step: int) -> dict[str, float]:
        feed(stream, sample(step, 400), 1)
        return {name: figure.error for name, figure in stream.result().figures.items()}

    def make(draws: int = 20) -> StreamingEvaluation:
        return StreamingEvaluation(grouped=True, slices=("kind",), draws=draws, exact_rows=700)

    check_resumable(make, advance, others=[lambda: make(30)])


def test_too_many_slices_are_taken_together() -> None:
    stream = StreamingEvaluation(slices=("kind",), how=Judging(max_slices=2))
    for kinds in (["a", "b", "c"], ["a", "d", "d"]):
        stream.update([0, 1, 0], [0.1, 0.2, 0.3], slices={"kind": kinds})
    assert {part.name: part.rows for part in stream.result().slices["kind"]} == {"a": 2, "b": 1, "(other)": 3}


def test_what_was_not_announced_is_refused() -> None:
    with pytest.raises(DataError, match="groups True"):
        StreamingEvaluation().update([0, 1], [0.1, 0.2], groups=[1, 2])
    with pytest.raises(DataError, match="slices"):
        StreamingEvaluation(slices=("x",)).update([0, 1], [0.1, 0.2])
    stream = StreamingEvaluation(slices=("x",))
    with pytest.raises(DataError, match="slice 'x'"):
        stream.update([0, 1], [0.1, 0.2], slices={"x": ["a"]})
    with pytest.raises(ConfigError, match="Rows to judge"):
        stream.result()


def test_few_rows_give_a_value_and_perhaps_no_interval() -> None:
    stream = StreamingEvaluation()
    stream.update([0, 1], [0.1, 0.9])
    assert stream.result()["auc"].value == 1.0
    stream = StreamingEvaluation()
    stream.update([0], [0.1])
    assert math.isnan(stream.result()["auc"].value)


def test_kept_groups_are_whole_and_a_fair_sample() -> None:
    stream = StreamingGroups(max_rows=2000)
    labels, probability, weights, groups, _ = sample(6, 20_000, 2000)
    keys = group_keys(groups, len(groups))
    for rows in np.array_split(np.arange(20_000), 11):
        stream.update(labels[rows], probability[rows], weights[rows], keys[rows])
    kept = set(np.unique(stream._all()[0]))
    assert len(stream._all()[0]) == sum(key in kept for key in keys) <= 2000
    assert stream.seen == pytest.approx(2000, rel=0.2)
    exact = StreamingGroups()
    exact.update(labels, probability, weights, keys)
    assert stream.values()["gauc"].mean == pytest.approx(exact.values()["gauc"].mean, abs=0.06)
    assert "1 in" in stream.notes()[-1]


def test_one_huge_group_is_kept_whole() -> None:
    stream = StreamingGroups(max_rows=10)
    stream.update(np.tile([0.0, 1.0], 20), np.linspace(0, 1, 40), np.ones(40), np.full(40, 9, np.uint64))
    assert stream.seen == 1
    assert len(stream.values()["gauc"].values) == 1
