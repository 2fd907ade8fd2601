"""Shuffled, resumable batches of prepared rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import Categories, Category, History, Number, Preparation, PreparedData, prepare
from headrace.errors import ConfigError, DataError
from headrace.types import Batch

ROWS = 1003
PLAN = Preparation(columns=(Category("x"), Categories("tags"), Number("z"), History("seen", vocabulary="x")),
                   extra_labels=("buy",), keep=("event_time",))  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    draw = np.random.default_rng(0)
    numbers = np.arange(ROWS)
    rows = pa.table({
        "label": (numbers % 2).astype(np.float32), "buy": [None if n % 3 else 1.0 for n in numbers],
        "x": [f"v{n}" for n in numbers], "z": numbers.astype(np.float32), "event_time": numbers * 10,
        "tags": ["|".join(f"t{n}" for n in draw.integers(0, 20, draw.integers(0, 4))) for _ in range(ROWS)],
        "seen": [f"v{n}|v{n // 2}" for n in numbers],
    })  # fmt: skip
    return prepare(rows, PLAN, tmp_path_factory.mktemp("data") / "out", group_rows=64)


def seen(batches) -> list[int]:
    return [n for batch in batches for n in batch.example_ids.tolist()]


def content(batch: Batch) -> list[object]:
    return [batch.example_ids.tolist(), batch.labels.tolist(), batch.dense.tolist(), batch.event_times.tolist(),
            [(ids.values.tolist(), ids.offsets.tolist()) for ids in batch.ids.values()],
            torch.nan_to_num(batch.extra["label/buy"], -1.0).tolist()]  # fmt: skip


def test_file_order_without_a_seed(data) -> None:
    batches = data.batches("train", 100)
    assert len(batches) == 11
    found = list(batches)
    assert [len(batch) for batch in found] == [100] * 10 + [3]
    assert seen(found) == list(range(ROWS))
    assert found[0].event_times.tolist() == [10 * n for n in range(100)]


@pytest.mark.parametrize("shuffle_rows", [1, 200, 5000])
def test_rows_are_shuffled_and_all_there(data, shuffle_rows) -> None:
    first, again, other = (seen(data.batches("train", 100, seed=seed, shuffle_rows=shuffle_rows)) for seed in (1, 1, 2))
    assert sorted(first) == list(range(ROWS))
    assert first == again != other
    assert first != list(range(ROWS))
    two = seen(data.batches("train", 100, seed=1, shuffle_rows=shuffle_rows, epochs=2))
    assert two[:ROWS] == first
    assert sorted(two[ROWS:]) == list(range(ROWS))
    assert two[ROWS:] != first


def test_a_row_keeps_its_values_when_it_is_shuffled(data) -> None:
    straight = {int(batch.example_ids[0]): content(batch) for batch in data.batches("train", 1)}
    for batch in data.batches("train", 7, seed=3, shuffle_rows=200):
        for row in range(len(batch)):
            one = batch.slice(row, row + 1)
            assert content(one) == straight[int(one.example_ids[0])]


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("batch_rows", [30, 64, 250])
def test_it_goes_on_where_it_stood(data, seed, batch_rows) -> None:
    whole = [content(batch) for batch in data.batches("train", batch_rows, seed=seed, epochs=2, shuffle_rows=150)]
    for stop in range(0, len(whole) + 1, 5):
        first = data.batches("train", batch_rows, seed=seed, epochs=2, shuffle_rows=150)
        begun = [content(next(first)) for _ in range(stop)]
        second = data.batches("train", batch_rows, seed=seed, epochs=2, shuffle_rows=150)
        second.seek(first.position())
        assert begun + [content(batch) for batch in second] == whole
    first.seek({})
    assert content(next(first)) == whole[0]


def test_positions_of_something_else_are_refused(data) -> None:
    batches = data.batches("train", 100)
    for position in ({"epoch": 0, "row": 50}, {"epoch": 0, "row": ROWS + 1}, {"epoch": -1, "row": 0}):
        with pytest.raises(DataError, match="Position"):
            batches.seek(position)
    batches.seek({"epoch": 0, "row": ROWS})
    assert list(batches) == []


def test_single_valued_columns_share_their_offsets(data) -> None:
    batch = next(data.batches("train", 100))
    assert batch.ids["x"].offsets.tolist() == list(range(101))
    assert batch.ids["x"].values.is_contiguous()
    assert batch.dense.is_contiguous()
    assert batch.ids["x"].values.dtype == torch.int64


def test_settings_and_files_that_cannot_work(data, tmp_path) -> None:
    for settings in ({"batch_rows": 0}, {"batch_rows": 1, "epochs": 0}, {"batch_rows": 1, "shuffle_rows": 0}):
        with pytest.raises(ConfigError):
            data.batches("train", **settings)
    whole = (data.folder / "train.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:1000])
    from headrace.data import PreparedBatches

    with pytest.raises(DataError, match="whole Parquet"):
        PreparedBatches(tmp_path / "cut.parquet", data.statistics, 10)
