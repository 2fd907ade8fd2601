import gzip
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from headrace.data.layout import Layout
from headrace.data.source import FileSource, MemorySource, TableSource
from headrace.errors import ConfigError, DataError, SchemaError, SourceEnded
from headrace.types import Events

LAYOUT = Layout(time="at", time_unit="s", key=("user",), kind="click", types={"price": "float32"})


def rows(times, **columns) -> Events:
    count = len(times)
    given = {"key": [f"k{n}" for n in range(count)], "kind": ["x"] * count, "event_time": times}
    return Events.from_columns({**given, **columns})


def drain(source, limit: int = 7) -> list[dict]:
    found = []
    while True:
        try:
            part = source.read(limit)
        except SourceEnded:
            return found
        assert part is not None
        assert len(part) <= limit
        found.extend(part.batch.to_pylist())


def csv_text(times, start: int = 0) -> str:
    lines = [f"u{start + n},i{n % 5},{at},{n}.5" for n, at in enumerate(times)]
    return "\n".join(["user,item,at,price", *lines]) + "\n"


def written(folder, name: str, text: str):
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zst"):
        path.write_bytes(pa.Codec("zstd").compress(text.encode(), asbytes=True))
    else:
        path.write_text(text)
    return path


# ---------------------------------------------------------------------------------------------------------- memory


def test_a_memory_source_gives_its_rows_in_pieces_and_then_ends():
    source = MemorySource([rows([1, 2, 3]), rows([4, 5])])
    assert [row["event_time"] for row in drain(source, 2)] == [1, 2, 3, 4, 5]
    with pytest.raises(SourceEnded):
        source.read(1)


def test_a_memory_source_resumes_where_it_stood():
    source = MemorySource(rows([1, 2, 3, 4]))
    source.read(3)
    other = MemorySource(rows([1, 2, 3, 4]))
    other.seek(source.position())
    assert other.read(5).times.tolist() == [4]
    other.seek({})
    assert len(other.read(5)) == 4


def test_a_memory_source_fills_columns_that_some_batches_lack():
    source = MemorySource([rows([1], a=[7]), rows([2], b=["x"])])
    assert source.read(2).column("b").to_pylist() == [None, "x"]


def test_a_memory_source_refuses_columns_of_two_types():
    with pytest.raises(SchemaError):
        MemorySource([rows([1], a=[7]), rows([2], a=["x"])])


def test_a_source_of_nothing_ends_at_once():
    for source in (MemorySource([]), MemorySource(rows([1]).slice(0, 0))):
        with pytest.raises(SourceEnded):
            source.read(1)


@pytest.mark.parametrize("position", [{"memory": 9}, {"other": 1}])
def test_a_position_of_other_rows_is_refused(position):
    with pytest.raises(DataError):
        MemorySource(rows([1, 2])).seek(position)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_read_of_no_rows_is_refused(limit):
    with pytest.raises(ConfigError):
        MemorySource(rows([1])).read(limit)


def test_a_table_source_makes_events_when_they_are_read():
    made = []

    def make(part: pa.Table) -> Events:
        made.append(part.num_rows)
        return rows(part["t"].to_pylist())

    source = TableSource(pa.table({"t": [1, 2, 3]}), make, name="t")
    assert source.read(2).times.tolist() == [1, 2]
    assert made == [2]
    assert source.position() == {"t": 2}


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.csv.zst"])
def test_a_csv_file_becomes_events(tmp_path, name):
    source = FileSource(written(tmp_path, name, csv_text([1, 2, 3])), LAYOUT)
    assert drain(source)[1] == {"key": "u1", "kind": "click", "event_time": 2_000_000, "user": "u1", "item": "i1",
                                "at": "2", "price": 1.5}  # fmt: skip


def test_tsv_without_a_header_takes_names_from_the_layout(tmp_path):
    layout = Layout(names=("user", "item", "rating", "at"), time="at", time_unit="s", key=("user",), kind="x")
    source = FileSource(written(tmp_path, "u.tsv", "196\t242\t3\t881250949\n"), layout)
    assert drain(source)[0]["item"] == "242"


def test_json_lines_become_events_and_later_new_columns_are_left_out(tmp_path):
    text = '{"user": "a", "at": 1, "tags": ["x"]}\n{"user": "b", "at": 2, "tags": []}\n'
    source = FileSource(
        written(tmp_path, "x.jsonl.gz", text), Layout(time="at", time_unit="s", key=("user",), kind="x")
    )
    assert [(row["key"], row["tags"]) for row in drain(source)] == [("a", ["x"]), ("b", [])]


def test_json_columns_that_the_layout_types_exist_even_when_they_come_late(tmp_path):
    text = '{"user": "a", "at": 1, "price": null}\n{"user": "b", "at": 2, "price": 3, "score": 0.5}\n'
    layout = Layout(time="at", key=("user",), kind="x", types={"price": "float64", "score": "float64"})
    found = drain(FileSource(written(tmp_path, "x.jsonl", text), layout))
    assert [(row["price"], row["score"]) for row in found] == [(None, None), (3.0, 0.5)]


def test_libfm_becomes_labels_and_lists_of_ids(tmp_path):
    source = FileSource(
        written(tmp_path, "x.libfm.gz", "1 3:1 4:1\n0 5:2\n"), Layout(time=None, key=(), kind="example")
    )
    assert [(row["label"], row["ids"], row["event_time"]) for row in drain(source)] == [
        (1.0, [3, 4], 0), (0.0, [5], 1_000_000)]  # fmt: skip


def binary(folder, name: str):
    table = pa.table({"user": [f"u{n}" for n in range(100)], "at": np.arange(100), "price": np.arange(100) / 2})
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=30)
        return path
    sink = pa.OSFile(str(path), "wb") if not name.endswith(".gz") else pa.CompressedOutputStream(str(path), "gzip")
    new = pa.ipc.new_file if name == "x.arrow" else pa.ipc.new_stream
    with sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    return path


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.arrows", "x.arrows.gz"])
def test_parquet_and_arrow_files_become_events_and_resume(tmp_path, name):
    path = binary(tmp_path, name)
    found = drain(FileSource(path, LAYOUT))
    assert [row["event_time"] for row in found] == [n * 1_000_000 for n in range(100)]
    resumed = FileSource(path, LAYOUT)
    resumed.seek({name: 61})
    assert drain(resumed) == found[61:]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.zst"])
@pytest.mark.parametrize("stop", [0, 1, 6, 4000, 59_999, 60_000])
def test_a_resumed_file_goes_on_with_the_next_row(tmp_path, name, stop):
    path = written(tmp_path, name, csv_text(range(60_000)))  # several blocks
    first = FileSource(path, LAYOUT)
    if stop:
        first.read(stop)
    second = FileSource(path, LAYOUT)
    second.seek(first.position())
    assert [row["key"] for row in drain(second, 9000)] == [f"u{n}" for n in range(stop, 60_000)]


def test_reads_are_full_across_blocks_and_files(tmp_path):
    paths = [written(tmp_path, "a.csv", csv_text(range(5))), written(tmp_path, "b.csv", csv_text(range(5, 12), 5))]
    source = FileSource(paths, LAYOUT)
    assert [len(source.read(4)) for _ in range(3)] == [4, 4, 4]
    assert source.position() == {"a.csv": 5, "b.csv": 7}
    resumed = FileSource(paths, LAYOUT)
    resumed.seek({"a.csv": 5, "b.csv": 2})
    assert [row["key"] for row in drain(resumed)] == [f"u{n}" for n in range(7, 12)]


def test_files_out_of_order_are_sorted_by_time_and_resume(tmp_path):
    path = written(tmp_path, "x.csv", csv_text([5, 1, 3, 1]))
    source = FileSource(path, LAYOUT)
    assert [row["key"] for row in drain(source)] == ["u1", "u3", "u2", "u0"]
    first, second = FileSource(path, LAYOUT), FileSource(path, LAYOUT)
    first.read(3)
    second.seek(first.position())
    assert [row["key"] for row in drain(second)] == ["u0"]


def test_several_files_are_sorted_together_when_they_overlap(tmp_path):
    paths = [written(tmp_path, "a.csv", csv_text([1, 5])), written(tmp_path, "b.csv", csv_text([2, 6], 2))]
    assert [row["key"] for row in drain(FileSource(paths, LAYOUT))] == ["u0", "u2", "u1", "u3"]


def test_file_order_is_kept_when_asked(tmp_path):
    path = written(tmp_path, "x.csv", csv_text([5, 1, 3]))
    assert [row["key"] for row in drain(FileSource(path, LAYOUT, order="file"))] == ["u0", "u1", "u2"]


def test_files_out_of_order_that_do_not_fit_are_refused(tmp_path):
    path = written(tmp_path, "x.csv", csv_text([5, 1, 3]))
    with pytest.raises(DataError) as caught:
        FileSource(path, LAYOUT, sort_bytes=10).read(1)
    assert "sort_bytes" in str(caught.value)


def test_a_position_in_sorted_files_is_refused_once_they_are_in_order(tmp_path):
    source = FileSource(written(tmp_path, "x.csv", csv_text([1, 2, 3])), LAYOUT)
    source.seek({"(sorted)": 2})
    with pytest.raises(DataError):
        source.read(1)


@pytest.mark.parametrize(
    ("line", "got"),
    [("u9,i9", "2 values"), ("u9,i9,now,1.0", "'now'"), ("u9,i9,9,cheap", "'cheap'"), (",i9,9,1.0", "null")],
)
def test_a_malformed_row_is_refused_with_file_line_got_and_expected(tmp_path, line, got):
    path = written(tmp_path, "x.csv", csv_text([1, 2]) + line + "\n" + "u4,i4,10,1.0\n")
    with pytest.raises(DataError) as caught:
        drain(FileSource(path, LAYOUT))
    assert f"{path}, line 4" in caught.value.what
    assert caught.value.got == got
    assert caught.value.expected
    assert "on_bad_row" in caught.value.do


def test_a_refused_row_is_refused_again_and_nothing_before_it_is_lost(tmp_path):
    source = FileSource(written(tmp_path, "x.csv", csv_text([1, 2]) + "u9\n"), LAYOUT)
    for _ in range(2):
        with pytest.raises(DataError):
            source.read(10)
    assert source.position() == {}


def test_skipped_rows_are_counted_kept_and_logged_once(tmp_path, caplog):
    text = csv_text([1, 2]) + "u9\nu9,i9,now,1\n" + csv_text([3, 4], 2).split("\n", 1)[1]
    source = FileSource(written(tmp_path, "x.csv", text), LAYOUT, on_bad_row="skip")
    with caplog.at_level(logging.WARNING):
        assert [row["key"] for row in drain(source, 1)] == ["u0", "u1", "u2", "u3"]
    assert source.bad_rows.count == 2
    assert [bad.place for bad in source.bad_rows.first] == ["x.csv, line 4", "x.csv, line 5"]
    assert sum(source.bad_rows.expectations.values()) == 2
    assert len(caplog.records) == 1


def test_positions_count_bad_rows_so_that_resuming_is_exact(tmp_path):
    text = csv_text([1, 2]) + "bad\n" + csv_text([3, 4], 2).split("\n", 1)[1]
    path = written(tmp_path, "x.csv", text)
    for stop in range(1, 4):
        first = FileSource(path, LAYOUT, on_bad_row="skip")
        before = [row["key"] for row in first.read(stop).batch.to_pylist()]
        second = FileSource(path, LAYOUT, on_bad_row="skip")
        second.seek(first.position())
        assert before + [row["key"] for row in drain(second)] == ["u0", "u1", "u2", "u3"]


def test_made_up_keys_and_times_do_not_depend_on_where_reading_began(tmp_path):
    path = written(tmp_path, "x.csv", csv_text(range(10)))
    layout = Layout(time=None, key=(), kind="example")
    whole, part = drain(FileSource(path, layout)), FileSource(path, layout)
    part.seek({"x.csv": 6})
    assert drain(part) == whole[6:]


def test_derive_makes_columns_from_typed_rows(tmp_path):
    def labelled(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.append_column("label", pc.greater_equal(batch["price"], 1.5).cast(pa.float32()))

    layout = Layout(
        time="at", time_unit="s", key=("user",), kind="example", types={"price": "float32"}, derive=labelled
    )
    found = drain(FileSource(written(tmp_path, "x.csv", csv_text([1, 2])), layout))
    assert [row["label"] for row in found] == [0.0, 1.0]


def test_derive_must_keep_every_row(tmp_path):
    layout = Layout(time="at", key=("user",), kind="example", derive=lambda batch: batch.slice(1))
    with pytest.raises(SchemaError):
        FileSource(written(tmp_path, "x.csv", csv_text([1, 2])), layout).read(1)


def test_a_position_beyond_the_file_is_refused(tmp_path):
    source = FileSource(written(tmp_path, "x.csv", csv_text([1, 2])), LAYOUT)
    source.seek({"x.csv": 5})
    with pytest.raises(DataError) as caught:
        source.read(1)
    assert "changed" in str(caught.value)


def test_a_position_of_another_file_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        FileSource(written(tmp_path, "x.csv", csv_text([1])), LAYOUT).seek({"y.csv": 1})
    assert "'x.csv'" in str(caught.value)


def test_a_missing_file_two_of_one_name_and_no_file_are_refused(tmp_path):
    with pytest.raises(DataError):
        FileSource(tmp_path / "none.csv", LAYOUT)
    path = written(tmp_path, "x.csv", csv_text([1]))
    with pytest.raises(ConfigError):
        FileSource([path, path], LAYOUT)
    with pytest.raises(ConfigError):
        FileSource([], LAYOUT)


def test_several_files_without_times_have_no_order(tmp_path):
    paths = [written(tmp_path, name, csv_text([1])) for name in ("a.csv", "b.csv")]
    with pytest.raises(ConfigError):
        FileSource(paths, Layout(time=None, key=("user",), kind="x"))


@pytest.mark.parametrize("setting", [{"order": "random"}, {"on_bad_row": "fix"}])
def test_unknown_settings_are_refused(tmp_path, setting):
    with pytest.raises(ConfigError):
        FileSource(written(tmp_path, "x.csv", csv_text([1])), LAYOUT, **setting)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_damaged_binary_file_is_refused_by_name(tmp_path, name):
    path = binary(tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        drain(FileSource(path, LAYOUT))
    assert name in str(caught.value)


def test_parquet_inside_gzip_is_refused(tmp_path):
    path = written(tmp_path, "x.parquet.gz", "x")
    with pytest.raises(DataError) as caught:
        FileSource(path, LAYOUT).read(1)
    assert "decompress" in str(caught.value)


def test_an_empty_file_ends_at_once(tmp_path):
    with pytest.raises(SourceEnded):
        FileSource(written(tmp_path, "x.csv", "user,item,at,price\n"), LAYOUT).read(1)
    with pytest.raises(SourceEnded):
        FileSource(written(tmp_path, "y.csv", ""), LAYOUT).read(1)


def test_hashes_name_every_file(tmp_path):
    path = written(tmp_path, "x.csv", csv_text([1]))
    assert list(FileSource(path, LAYOUT).hashes()) == ["x.csv"]
