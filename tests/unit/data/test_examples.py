"""Labelled rows of files, in pieces: the same rows whatever the pieces, and errors that say which line."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.data import Examples, MemorySource
from headrace.data.examples import batches_of
from headrace.data.layout import Layout
from headrace.errors import ConfigError, DataError, SchemaError
from headrace.types import Events

TYPES = {"label": "float32", "price": "float32"}


def lines(rows: int) -> list[str]:
    draw = np.random.default_rng(3)
    return [f'{n % 2},u{draw.integers(50)},{draw.integers(100) if n % 7 else ""},"a, {n}"' for n in range(rows)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "clicks.csv.gz"
    path.write_bytes(gzip.compress(("label,user,price,note\n" + "\n".join(lines(40_000)) + "\n").encode()))
    return path


def table(examples: Examples, piece_bytes: int = 1 << 24) -> pa.Table:
    return pa.Table.from_batches([piece.read() for piece in examples.pieces(piece_bytes)]).combine_chunks()


def test_rows_do_not_depend_on_the_pieces(path, monkeypatch) -> None:
    monkeypatch.setattr("headrace.data.files.CHUNK_BYTES", 10_000)
    examples = Examples(name="clicks", paths=(path,), layout=Layout(types=TYPES))
    whole, small = table(examples), table(examples, 1000)
    assert whole.num_rows == 40_000
    assert whole.equals(small)
    assert len(list(examples.pieces(1000))) > len(list(examples.pieces())) == 1
    assert whole["price"].null_count == len(range(0, 40_000, 7))
    assert whole["note"][5].as_py() == "a, 5"


def test_pieces_can_be_sent_to_other_processes(path) -> None:
    piece = next(iter(Examples(name="clicks", paths=(path,), layout=Layout(types=TYPES)).pieces()))
    assert pickle.loads(pickle.dumps(piece)).read().equals(piece.read())


@pytest.mark.parametrize("rows", [1, 5_000, 39_999, 40_000, 50_000])
def test_only_the_first_rows(path, rows) -> None:
    found = table(Examples(name="clicks", paths=(path,), layout=Layout(types=TYPES), rows=rows))
    assert found.equals(table(Examples(name="clicks", paths=(path,), layout=Layout(types=TYPES))).slice(0, rows))


def test_several_files_follow_each_other(tmp_path) -> None:
    for name, value in (("a.csv", 1), ("b.csv", 2)):
        (tmp_path / name).write_text(f"label,x\n0,{value}\n1,{value}\n")
    examples = Examples(name="two", paths=(tmp_path / "a.csv", tmp_path / "b.csv"), rows=3)
    assert table(examples)["x"].to_pylist() == ["1", "1", "2"]


def test_derived_renamed_and_kept_columns(path) -> None:
    layout = Layout(
        types=TYPES, rename={"user": "who"}, keep=("label", "user", "twice"),
        derive=lambda batch: batch.append_column("twice", pa.compute.multiply(batch["price"], 2)),
    )  # fmt: skip
    first = next(iter(Examples(name="clicks", paths=(path,), layout=layout)))
    assert first.schema.names == ["label", "who", "twice"]
    assert first["twice"][1].as_py() == 2 * float(lines(2)[1].split(",")[2])


def test_only_named_columns_are_parsed(path) -> None:
    piece = next(iter(Examples(name="clicks", paths=(path,), layout=Layout(types={"label": "float32"})).pieces()))
    assert piece.read(["user", "label"]).schema.names == ["user", "label"]
    with pytest.raises(SchemaError, match=r"usr.*'user'"):
        piece.read(["usr"])


@pytest.mark.parametrize(("bad", "got"), [("1,u1", "2 values"), ("x,u1,2,n", "'x'"), ("1,u1,cheap,n", "'cheap'")])
def test_a_malformed_row_is_named(tmp_path, bad, got) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("label,user,price,note\n" + "1,u,2,n\n" * 30 + bad + "\n" + "1,u,2,n\n")
    with pytest.raises(DataError, match=rf"bad.csv, line 32: got {got}"):
        list(Examples(name="bad", paths=(path,), layout=Layout(types=TYPES)))


def test_parquet_json_and_libfm(tmp_path) -> None:
    rows = pa.table({"label": [1.0, 0.0, 1.0], "x": ["a", "b", None]})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=2)
    (tmp_path / "rows.jsonl").write_text('{"label": 1.0, "x": "a"}\n{"label": 0.0, "x": "b"}\n{"label": 1.0}\n')
    for name in ("rows.parquet", "rows.jsonl"):
        assert table(Examples(name="rows", paths=(tmp_path / name,))).to_pydict() == rows.to_pydict()
        short = table(Examples(name="rows", paths=(tmp_path / name,), rows=2))
        assert short["x"].to_pylist() == ["a", "b"]
    (tmp_path / "rows.libfm").write_text("1 3:1 5:0.5\n-1 4:1\n")
    assert table(Examples(name="rows", paths=(tmp_path / "rows.libfm",)))["ids"].to_pylist() == [[3, 5], [4]]


def test_a_source_of_events_as_batches() -> None:
    events = Events.from_columns({"key": list("abc"), "kind": ["example"] * 3, "event_time": [1, 2, 3]})
    assert [batch.num_rows for batch in batches_of(MemorySource(events), 2)] == [2, 1]


def test_what_cannot_be_read_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="at least one file"):
        Examples(name="none", paths=())
    with pytest.raises(DataError, match="no such file"):
        Examples(name="none", paths=(tmp_path / "nowhere.csv",))
    (tmp_path / "a.csv").write_text("label,x\n1,2\n")
    with pytest.raises(SchemaError, match=r"'y'.*'x'"):
        list(Examples(name="a", paths=(tmp_path / "a.csv",), layout=Layout(keep=("y",))))
    with pytest.raises(SchemaError, match="0 rows"):
        list(Examples(name="a", paths=(tmp_path / "a.csv",), layout=Layout(derive=lambda batch: batch.slice(0, 0))))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="Parquet"):
        list(Examples(name="a", paths=(tmp_path / "a.parquet",)))


def test_columns_that_are_kept_need_not_be_asked_for(path) -> None:
    layout = Layout(types={"label": "float32"}, keep=("label", "user", "note"))
    piece = next(iter(Examples(name="clicks", paths=(path,), layout=layout).pieces()))
    assert {"user", "label"} <= set(piece.read(["user", "label"]).schema.names)
