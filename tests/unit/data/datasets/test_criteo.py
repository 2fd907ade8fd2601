import pytest

from headrace.data import FileSource, collate
from headrace.data.datasets import criteo
from headrace.errors import DataError, SourceEnded

ROWS = [
    ["1", "3", "-1", "", *["7"] * 10, "68fd1e64", "", *["aa"] * 24],
    ["0", "", *["0"] * 12, *["bb"] * 26],
]


def written(folder, name: str, header: bool):
    path = folder / name
    lines = ["\t".join(row) for row in ROWS]
    if header:
        lines = ["\t".join(["day", *criteo.COLUMNS]), *(f"1\t{line}" for line in lines)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(params=[False, True], ids=["official", "header"])
def path(tmp_path, request):
    return written(tmp_path, "train.txt" if not request.param else "criteo_kaggle_head80k_hashed.tsv", request.param)


def rows(source) -> list[dict]:
    found = []
    while True:
        try:
            found.extend(source.read(1).batch.to_pylist())
        except SourceEnded:
            return found


def test_both_layouts_give_the_same_rows(path):
    found = rows(criteo.load(path).examples())
    assert [(row["label"], row["I1"], row["I2"], row["I3"], row["C1"], row["C2"]) for row in found] == [
        (1.0, 3.0, -1.0, None, "68fd1e64", None), (0.0, None, 0.0, 0.0, "bb", "bb")]  # fmt: skip
    assert [(row["key"], row["event_time"]) for row in found] == [("0", 0), ("1", criteo.STEP_US)]


def test_the_file_replays_without_being_held(path):
    found = rows(FileSource(path, criteo.layout(path)))
    assert [(row["kind"], row["label"], row["I1"], row["C1"], row["event_time"]) for row in found] == [
        ("example", 1.0, 3.0, "68fd1e64", 0), ("example", 0.0, None, "bb", criteo.STEP_US)]  # fmt: skip


def test_the_schema_reads_log_and_replay_alike(path):
    schema = criteo.schema(4)
    batches = [collate(source.read(2), schema) for source in
               (criteo.load(path).examples(), FileSource(path, criteo.layout(path)))]  # fmt: skip
    assert batches[0].dense.tolist() == batches[1].dense.tolist()
    assert batches[0].dense[0, 1] == pytest.approx(-0.6931, abs=1e-4)
    assert [batches[0].ids["C2"].offsets.tolist(), batches[1].ids["C2"].offsets.tolist()] == [[0, 0, 1]] * 2


def test_a_click_stream_has_a_click_for_every_positive(path):
    assert [row["kind"] for row in rows(criteo.load(path).source())] == ["impression", "impression", "click"]


def test_only_the_first_rows_are_read_when_asked(path):
    assert criteo.load(path, rows=1).rows == 1


def test_a_missing_file_is_told_with_names_and_address(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        criteo.load()
    assert "criteo_kaggle_raw8k.tsv" in str(caught.value)
    assert "ailab.criteo.com" in str(caught.value)


def test_the_file_is_found_by_its_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    path = written(tmp_path, "criteo_kaggle_raw8k.tsv", False)
    assert criteo.find() == path


def test_a_row_with_a_value_too_few_is_refused_with_its_line(tmp_path):
    path = written(tmp_path, "train.txt", False)
    path.write_text(path.read_text() + "0\t1\n")
    with pytest.raises(DataError) as caught:
        criteo.load(path)
    assert "line 3: got 2 values, expected 40 values" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count"), [("criteo_kaggle_head80k_hashed.tsv.zst", 80_000), ("criteo_kaggle_raw8k.tsv.zst", 8_000)]
)
def test_the_real_files_are_whole(data_file, name, count):
    log = criteo.load(data_file(name))
    assert log.rows == count
