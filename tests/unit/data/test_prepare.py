"""Prepared folders: whole or absent, the same for any pieces and processes, reused, and read as batches."""

from __future__ import annotations

import importlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
import torch

from headrace.data import (
    Category,
    Examples,
    FoldSplit,
    HashSplit,
    Number,
    OrderSplit,
    Preparation,
    PreparedData,
    RandomSplit,
    collate,
    prepare,
)
from headrace.data.layout import Layout
from headrace.data.prepare import fit
from headrace.errors import ConfigError, DataError
from headrace.types import Batch, Events

TYPES = {"label": "float32", "price": "float32", "day": "int64"}
PLAN = Preparation(columns=(
    Category("user", min_count=2), Number("price", log1p=True, scale="standard", indicator=True), Category("city"),
), keep=("day",))  # fmt: skip
HALVES = OrderSplit({"train": 0.5, "test": 0.5})


def table(rows: int = 3000) -> pa.Table:
    draw = np.random.default_rng(5)
    return pa.table({
        "label": draw.integers(0, 2, rows).astype(np.float32), "user": [f"u{n}" for n in draw.zipf(1.5, rows) % 300],
        "price": [None if n % 11 == 0 else float(n) for n in draw.integers(0, 50, rows)],
        "city": [["Ulm", "Köln", "Bonn", None][n] for n in draw.integers(0, 4, rows)],
        "day": pa.array((np.arange(rows) * 7 // rows).astype(np.int64)),
    })  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.csv"
    pa_csv.write_csv(table(), path)
    return path


def examples(path) -> Examples:
    return Examples(name="rows", paths=(path,), layout=Layout(types=TYPES))


def test_parts_statistics_and_manifest(path, tmp_path) -> None:
    data = prepare(examples(path), PLAN, tmp_path / "out", split=HALVES)
    assert (data.parts, data.rows("train"), data.rows("test")) == (("train", "test"), 1500, 1500)
    assert data.statistics.fingerprint() == data.fingerprint == fit(table().slice(0, 1500), PLAN).fingerprint()
    stored = data.table("train")
    assert stored.schema.names == ["user", "price", "price_missing", "city", "label", "day"]
    assert (stored["user"].type, stored["price"].type) == (pa.int32(), pa.float32())
    assert stored["day"].to_pylist() == table()["day"].to_pylist()[:1500]
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "manifest.json", "statistics.preparation", "test.parquet", "train.parquet"]  # fmt: skip
    kinds = {name: values.dtype.name for name, values in data.arrays("test").items()}
    assert kinds == {"user": "int64", "price": "float32", "price_missing": "float32", "city": "int64",
                     "label": "float32"}  # fmt: skip


def same_files(first: PreparedData, second: PreparedData) -> bool:
    return all((first.folder / name).read_bytes() == (second.folder / name).read_bytes()
               for name in ("train.parquet", "test.parquet", "statistics.preparation"))  # fmt: skip


@pytest.mark.parametrize("split", [HALVES, RandomSplit({"train": 0.6, "test": 0.4}),
                                   HashSplit("user", {"train": 0.6, "test": 0.4})])  # fmt: skip
def test_files_do_not_depend_on_the_pieces(path, tmp_path, monkeypatch, split) -> None:
    whole = prepare(examples(path), PLAN, tmp_path / "whole", split=split, group_rows=100)
    monkeypatch.setattr("headrace.data.files.CHUNK_BYTES", 3000)
    assert same_files(whole, prepare(examples(path), PLAN, tmp_path / "small", split=split, piece_bytes=1,
                                     group_rows=100))  # fmt: skip


def test_files_do_not_depend_on_the_processes(path, tmp_path, monkeypatch) -> None:
    one = prepare(examples(path), PLAN, tmp_path / "one", split=HALVES)
    monkeypatch.setattr("headrace.data.files.CHUNK_BYTES", 10_000)
    two = prepare(examples(path), PLAN, tmp_path / "two", split=HALVES, processes=2, piece_bytes=1)
    assert same_files(one, two)
    with pytest.raises(DataError, match=r"rows.csv, line 3002: got 'oops'"):  # errors of workers arrive whole
        path.write_text(path.read_text() + "oops,u1,2,Ulm,6\n")
        prepare(examples(path), PLAN, tmp_path / "bad", processes=2, piece_bytes=1)


def test_training_rows_alone_are_counted(path, tmp_path) -> None:
    split = FoldSplit("day", {"train": (0, 1, 2), "test": (5,)})
    data = prepare(examples(path), PLAN, tmp_path / "out", split=split)
    train = table().filter(pa.compute.less(table()["day"], 3))
    assert data.fingerprint == fit(train, PLAN).fingerprint()
    assert data.rows("train") == train.num_rows
    assert 1 in data.table("test")["user"].to_pylist()  # users that training has not seen


def test_a_folder_is_made_once(path, tmp_path) -> None:
    out = tmp_path / "out"
    data = prepare(examples(path), PLAN, out, split=HALVES)
    changed = (out / "train.parquet").stat().st_mtime_ns
    assert prepare(examples(path), PLAN, out, split=HALVES).fingerprint == data.fingerprint
    assert (out / "train.parquet").stat().st_mtime_ns == changed
    turned = OrderSplit({"test": 0.5, "train": 0.5})
    for other in ({"split": None}, {"split": turned}, {"split": HALVES, "group_rows": 5}):
        with pytest.raises(ConfigError, match=r"different: (parts|split|group_rows)"):
            prepare(examples(path), PLAN, out, **other)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ConfigError, match="different: files"):
        prepare(examples(path), PLAN, out, split=HALVES)
    with pytest.raises(ConfigError, match="different: files"):
        prepare(table(), PLAN, out, split=HALVES)
    prepare(table(), PLAN, tmp_path / "memory")
    with pytest.raises(ConfigError, match="cannot be compared"):
        prepare(table(), PLAN, tmp_path / "memory")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="not made by"):
        prepare(examples(path), PLAN, tmp_path / "mine")


@pytest.mark.parametrize("same", [True, False])
def test_two_may_prepare_at_once(path, tmp_path, monkeypatch, same: bool) -> None:
    """The second to finish finds the folder of the first: as good as its own, if it is the same."""
    module = importlib.import_module("headrace.data.prepare")
    write, other = module.write_manifest, Preparation(columns=(Category("city"),))

    def overtaken(folder, content) -> None:
        monkeypatch.setattr(module, "write_manifest", write)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(prepare, examples(path), PLAN if same else other, tmp_path / "made", split=HALVES).result()
        write(folder, content)

    monkeypatch.setattr(module, "write_manifest", overtaken)
    if same:
        assert prepare(examples(path), PLAN, tmp_path / "made", split=HALVES).rows() == 1500
    else:
        with pytest.raises(ConfigError, match="different: fingerprint, preparation"):
            prepare(examples(path), PLAN, tmp_path / "made", split=HALVES)
    assert {entry.name for entry in tmp_path.iterdir()} == {"rows.csv", "made"}


def test_nothing_is_left_of_a_failure(path, tmp_path) -> None:
    path.write_text(path.read_text() + "1,u1,cheap,Ulm,6\n")
    with pytest.raises(DataError, match="cheap"):
        prepare(examples(path), PLAN, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]
    with pytest.raises(DataError, match="data that `prepare` made"):
        PreparedData(tmp_path / "out")


def test_labels_that_are_missing_are_refused(tmp_path) -> None:
    rows = pa.table({"label": [1.0, None], "user": ["a", "b"], "price": [1.0, 2.0], "city": ["x", "y"], "day": [1, 2]})
    with pytest.raises(DataError, match=r"'label', row 1"):
        prepare(rows, PLAN, tmp_path / "out")


def test_a_part_may_be_empty(tmp_path) -> None:
    data = prepare(table(10), PLAN, tmp_path / "out", split=FoldSplit("day", {"train": tuple(range(7)), "test": (9,)}))
    assert data.rows("test") == 0
    assert data.table("test").num_rows == 0
    with pytest.raises(DataError, match="no rows"):
        data.batches("test", 4)
    with pytest.raises(DataError, match="'train'"):
        data.rows("trian")


def test_another_format_is_refused(path, tmp_path) -> None:
    data = prepare(examples(path), PLAN, tmp_path / "out")
    data.manifest["format"] = 99
    (data.folder / "manifest.json").write_text(json.dumps(data.manifest))
    with pytest.raises(DataError, match="format 99"):
        PreparedData(data.folder)


def test_batches_equal_what_collate_makes_of_raw_rows(path, tmp_path) -> None:
    data = prepare(examples(path), PLAN, tmp_path / "out", split=HALVES)
    raw = table().slice(0, 1500).combine_chunks()
    columns = {name: raw[name].combine_chunks() for name in raw.column_names}
    numbered = {"key": [str(n) for n in range(1500)], "kind": ["example"] * 1500, "event_time": [0] * 1500,
                "example_id": list(range(1500))}  # fmt: skip
    expected = collate(data.statistics.transform(Events.from_columns({**numbered, **columns})), data.schema(8))
    for at, batch in enumerate(data.batches("train", 400)):
        alike(batch, expected.slice(400 * at, min(400 * at + 400, 1500)))
    assert at == 3


def alike(found: Batch, expected: Batch) -> None:
    assert list(found.ids) == list(expected.ids)
    for name, ids in expected.ids.items():
        assert torch.equal(found.ids[name].values, ids.values), name
        assert torch.equal(found.ids[name].offsets, ids.offsets), name
    for name in ("dense", "labels", "weights", "event_times", "accepted_times", "example_ids", "versions",
                 "sample_rates"):  # fmt: skip
        value, wanted = getattr(found, name), getattr(expected, name)
        assert torch.equal(value, wanted), name
        assert value.dtype == wanted.dtype, name
    assert found.predictions.isnan().all()
    assert {name: value.tolist() for name, value in found.extra.items()} == {
        name: value.tolist() for name, value in expected.extra.items()}  # fmt: skip
