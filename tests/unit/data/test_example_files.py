"""Raw files as batches: the rows that the collator would give, in any order, by any number of workers, resumable."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch

from headrace.data import DenseFeature, ExampleFiles, IdFeature, Label, Layout, MultiIdFeature, Schema, collate
from headrace.data import example_units as units
from headrace.data.example_files import in_threads
from headrace.errors import ConfigError, DataError, SchemaError
from headrace.testing import assert_same_state
from headrace.types import Batch, Events

ROWS = 503
SCHEMA = Schema(
    features=(IdFeature("user", 4), IdFeature("item", 4), MultiIdFeature("tags", 4, separator="|"),
              DenseFeature("price")), extra_labels=(Label("buy"),),
)  # fmt: skip
TYPES = {"label": "float32", "buy": "float32", "price": "float32", "item": "int64", "event_time": "int64"}
LAYOUT = Layout(types=TYPES)


def table() -> pa.Table:
    draw = np.random.default_rng(0)
    numbers = np.arange(ROWS)
    return pa.table({
        "label": (numbers % 2).astype(np.float32),
        "buy": pa.array([None if n % 3 else 1.0 for n in numbers], pa.float32()),
        "user": [None if n % 11 == 0 else f"u{n % 37}" for n in numbers], "item": draw.integers(0, 99, ROWS),
        "tags": ["|".join(f"t{t}" for t in draw.integers(0, 9, n % 4)) or None for n in numbers],
        "price": draw.random(ROWS).astype(np.float32), "event_time": numbers * 10, "unread": ["x"] * ROWS,
    })  # fmt: skip


def parquet(folder: Path) -> Path:
    pq.write_table(table(), folder / "rows.parquet", row_group_size=40)
    return folder / "rows.parquet"


def csv(folder: Path) -> Path:
    pa_csv.write_csv(table(), folder / "rows.csv")
    return folder / "rows.csv"


def arrow(folder: Path) -> Path:
    path = folder / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=40)
    return path


def compressed(folder: Path) -> Path:
    path = folder / "rows.csv.gz"
    path.write_bytes(gzip.compress(csv(folder).read_bytes()))
    return path


KINDS: dict[str, Callable[[Path], Path]] = {"parquet": parquet, "csv": csv, "arrow": arrow}


@pytest.fixture(autouse=True)
def _small_units(monkeypatch) -> None:
    """Cut text and Arrow files into many units; text is read in blocks of a few rows."""
    monkeypatch.setattr(units, "UNIT_ROWS", 70)
    monkeypatch.setattr(units, "UNIT_BYTES", 2000)
    monkeypatch.setattr("headrace.data.files.CHUNK_BYTES", 700)


@pytest.fixture(params=KINDS)
def files(request, tmp_path) -> ExampleFiles:
    return ExampleFiles(KINDS[request.param](tmp_path), SCHEMA, LAYOUT, shuffle_rows=150)


def collated(rows: pa.Table) -> Batch:
    """What the collator makes of the same rows as events."""
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    columns |= {"key": pa.array([""] * len(rows)), "kind": pa.array(["example"] * len(rows))}
    columns["example_id"] = pa.array(np.arange(len(rows)))
    return collate(Events.from_columns(columns), SCHEMA)


def seen(batches) -> list[int]:
    return [n for batch in batches for n in batch.example_ids.tolist()]


def test_rows_are_those_of_the_collator(files: ExampleFiles) -> None:
    assert len(files) == ROWS
    whole = collated(table())
    found = list(files.batches(64))
    assert [len(batch) for batch in found] == [64] * 7 + [ROWS - 7 * 64]
    for number, batch in enumerate(found):
        assert_same_state(batch, whole.slice(64 * number, 64 * number + len(batch)))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_random_order_has_every_row_with_its_values_whoever_decodes(files: ExampleFiles, workers: int) -> None:
    whole, files.workers = collated(table()), workers
    assert len(files.units) > 5
    batches = list(files.batches(50, order=4))
    order = seen(batches)
    assert sorted(order) == list(range(ROWS))
    assert order == seen(files.batches(50, order=4))
    assert order != seen(files.batches(50, order=5))
    for batch in batches[::3]:
        for row, number in enumerate(batch.example_ids.tolist()):
            assert_same_state(batch.slice(row, row + 1), whole.slice(number, number + 1))


def test_processes_decode_the_same(tmp_path) -> None:
    path = parquet(tmp_path)
    plain = list(ExampleFiles(path, SCHEMA, LAYOUT).batches(60, order=1))
    several = list(ExampleFiles(path, SCHEMA, LAYOUT, workers=2, processes=True).batches(60, order=1))
    for one, other in zip(plain, several, strict=True):
        assert_same_state(one, other)


@pytest.mark.parametrize("order", [None, 4])
@pytest.mark.parametrize("rows", [45, 250])
def test_it_goes_on_where_it_stood(files: ExampleFiles, order: int | None, rows: int) -> None:
    whole = seen(files.batches(rows, order, epochs=2))
    total = len(files.batches(rows, order, epochs=2))
    for stop in range(0, total + 1, 5):
        first = files.batches(rows, order, epochs=2)
        begun = seen(next(first) for _ in range(stop))
        second = files.batches(rows, order, epochs=2)
        second.seek(first.position())
        assert begun + seen(second) == whole


def test_several_files_follow_each_other_and_are_shuffled_together(tmp_path) -> None:
    files = ExampleFiles([parquet(tmp_path), csv(tmp_path)], SCHEMA, LAYOUT)
    assert len(files) == 2 * ROWS
    assert seen(files.batches(100)) == list(range(2 * ROWS))
    order = seen(files.batches(100, order=0))
    assert sorted(order) == list(range(2 * ROWS))
    assert max(order[:ROWS]) >= ROWS > min(order[:ROWS])


def test_compressed_text_is_read_in_its_own_order_only(tmp_path) -> None:
    files = ExampleFiles(compressed(tmp_path), SCHEMA, LAYOUT)
    whole = collated(table())
    batches = files.batches(100)
    batches.seek({"epoch": 0, "row": 300})
    assert_same_state(next(batches), whole.slice(300, 400))
    with pytest.raises(ConfigError, match="can only be read from its beginning"):
        files.batches(100, order=1)


def test_ids_are_counted_in_one_pass(files: ExampleFiles) -> None:
    whole, found = collated(table()), files.counts()
    assert set(found) == {"user", "item", "tags"}
    for name, (ids, counts) in found.items():
        expected = torch.unique(whole.ids[name].values, return_counts=True)
        assert torch.equal(ids, expected[0])
        assert torch.equal(counts, expected[1])


def test_only_needed_columns_are_read(tmp_path) -> None:
    files = ExampleFiles(parquet(tmp_path), SCHEMA, LAYOUT)
    assert "unread" not in files.units[0].read(files.decoding.columns).schema.names
    derived = Layout(derive=lambda rows: rows, types=TYPES)
    assert ExampleFiles(parquet(tmp_path), SCHEMA, derived).decoding.columns is None
    renamed = Layout(rename={"user": "person"}, types=TYPES)
    schema = Schema(features=(IdFeature("person", 4),))
    found = next(ExampleFiles(parquet(tmp_path), schema, renamed).batches(ROWS))
    assert_same_state(found.ids["person"], collated(table()).ids["user"])


def test_quotes_and_a_byte_order_mark_do_not_move_rows(tmp_path) -> None:
    path = tmp_path / "odd.csv"
    lines = ["label,user"] + [f'{n % 2},"a,\n{n}"' if n % 5 == 0 else f"{n % 2},u{n}" for n in range(300)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    files = ExampleFiles(path, Schema(features=(IdFeature("user", 4),)), Layout(types={"label": "float32"}))
    assert len(files) == 300
    assert len(files.units) > 1
    labels = [label for batch in files.batches(37) for label in batch.labels.tolist()]
    assert labels == [float(n % 2) for n in range(300)]


def test_a_wrong_value_is_named_with_its_line(tmp_path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("label,user\n" + "\n".join(f"{n % 2},u{n}" for n in range(200)) + "\nyes,u1\n")
    files = ExampleFiles(path, Schema(features=(IdFeature("user", 4),)), Layout(types={"label": "float32"}), workers=2)
    with pytest.raises(DataError, match="line 202"):
        seen(files.batches(20))


def test_what_cannot_be_read_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        ExampleFiles(tmp_path / "nothing.parquet", SCHEMA)
    with pytest.raises(ConfigError, match="at least one file"):
        ExampleFiles([], SCHEMA)
    (tmp_path / "empty.csv").write_text("label,user\n")
    with pytest.raises(DataError, match="no rows"):
        ExampleFiles(tmp_path / "empty.csv", SCHEMA)
    (tmp_path / "torn.parquet").write_bytes(parquet(tmp_path).read_bytes()[:-20])
    with pytest.raises(DataError, match="a whole Parquet file"):
        ExampleFiles(tmp_path / "torn.parquet", SCHEMA)
    with pytest.raises(SchemaError, match="no such column"):
        ExampleFiles(parquet(tmp_path), SCHEMA, Layout(types={"labell": "float32"}))
    with pytest.raises(SchemaError, match="no such column"):
        next(ExampleFiles(parquet(tmp_path), Schema(features=(IdFeature("usr", 4),))).batches(10))


def test_a_file_that_changed_is_noticed(tmp_path) -> None:
    path = csv(tmp_path)
    files = ExampleFiles(path, SCHEMA, LAYOUT)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line for line in lines[1:] if line not in lines[5:8])]) + "\n" + lines[1])
    with pytest.raises(DataError):
        seen(files.batches(50))


def test_tasks_keep_their_order_and_errors_their_place() -> None:
    def task(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    limits = iter([0, 3, 3, 0] * 10)
    done = []
    with pytest.raises(ValueError, match="five"):
        for number in in_threads(task, range(9), lambda: next(limits)):
            done.append(number)
    assert done == [0, 1, 2, 3, 4]


class TestKeeping:
    def test_units_are_decoded_once(self, tmp_path: Path) -> None:
        path = parquet(tmp_path)
        files = ExampleFiles(path, SCHEMA, LAYOUT)
        first = [batch.labels for batch in files.batches(64)]
        path.write_bytes(b"gone")
        assert all(torch.equal(a, b.labels) for a, b in zip(first, files.batches(64), strict=True))

    @pytest.mark.parametrize("make", [parquet, csv, arrow])
    def test_what_fits_changes_nothing(self, tmp_path: Path, make: Callable[[Path], Path]) -> None:
        path = make(tmp_path)
        plain = list(ExampleFiles(path, SCHEMA, LAYOUT, keep_bytes=0).batches(64, 3, epochs=3))
        part = ExampleFiles(path, SCHEMA, LAYOUT, keep_bytes=20_000)
        for kept in (part, ExampleFiles(path, SCHEMA, LAYOUT)):
            for one, two in zip(plain, kept.batches(64, 3, epochs=3), strict=True):
                assert_same_state(vars_of(one), vars_of(two))
        assert 0 < part.kept.bytes <= 20_000

    def test_a_stream_that_is_not_whole_in_memory_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv.gz"
        path.write_bytes(gzip.compress(csv(tmp_path).read_bytes()))
        files = ExampleFiles(path, SCHEMA, LAYOUT, keep_bytes=1)
        first, second = (torch.cat([batch.labels for batch in files.batches(64)]) for _ in range(2))
        assert torch.equal(first, second)


def vars_of(batch: Batch) -> dict[str, object]:
    lists = {name: [jagged.values, jagged.offsets] for name, jagged in batch.ids.items()}
    return {"ids": lists, "labels": batch.labels, "dense": batch.dense, "times": batch.event_times,
            "buy": batch.extra.get("label/buy", batch.labels)}  # fmt: skip
