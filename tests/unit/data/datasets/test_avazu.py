import pytest

from headrace.data import FileSource, collate
from headrace.data.datasets import avazu
from headrace.errors import DataError, SourceEnded

HEADER = ("id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
          "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n")  # fmt: skip


def line(number: int, click: int, hour: str) -> str:
    return f"{number},{click},{hour},1005,0,s,sd,sc,a,ad,ac,d,ip{number},m,1,0,15704,320,50,1722,0,35,-1,79\n"


TEXT = HEADER + line(10, 0, "14102100") + line(11, 1, "14102100") + line(12, 0, "14102113")
NOON = 1_413_849_600_000_000  # 2014-10-21 00:00 UTC


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "avazu_sample9k.csv"
    path.write_text(TEXT)
    return path


def rows(source) -> list[dict]:
    found = []
    while True:
        try:
            found.extend(source.read(2).batch.to_pylist())
        except SourceEnded:
            return found


def test_rows_of_an_hour_are_spread_over_it(path):
    found = rows(avazu.load(path).examples())
    assert [row["event_time"] - NOON for row in found] == [0, avazu.HOUR_US // 2, 13 * avazu.HOUR_US]
    assert [row["hour_of_day"] for row in found] == ["00", "00", "13"]
    assert [(row["key"], row["item"], row["label"]) for row in found] == [
        ("10", "15704", 0.0), ("11", "15704", 1.0), ("12", "15704", 0.0)]  # fmt: skip


def test_the_file_replays_without_being_held(path):
    found = rows(FileSource(path, avazu.layout()))
    assert [(row["key"], row["label"], row["item"], row["event_time"] - NOON) for row in found] == [
        ("10", 0.0, "15704", 0), ("11", 1.0, "15704", 0), ("12", 0.0, "15704", 13 * avazu.HOUR_US)]  # fmt: skip


def test_the_schema_reads_log_and_replay_alike(path):
    schema = avazu.schema(4)
    batches = [collate(source.read(3), schema) for source in
               (avazu.load(path).examples(), FileSource(path, avazu.layout()))]  # fmt: skip
    for name in schema.id_names:
        assert batches[0].ids[name].values.tolist() == batches[1].ids[name].values.tolist()
    assert len(schema.id_names) == 22


def test_a_click_stream_has_a_click_for_every_positive(path):
    assert [row["kind"] for row in rows(avazu.load(path).source())] == [
        "impression",
        "impression",
        "click",
        "impression",
    ]


def test_an_hour_that_is_none_is_refused(tmp_path, path):
    path.write_text(TEXT.replace("14102113", "noon"))
    with pytest.raises(DataError) as caught:
        avazu.load(path)
    assert "row 2, column 'hour': got 'noon'" in str(caught.value)


def test_a_missing_file_is_told_with_names_and_address(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        avazu.load()
    assert "avazu_sample9k.csv" in str(caught.value)
    assert "kaggle.com/c/avazu-ctr-prediction" in str(caught.value)


def test_the_official_file_may_be_compressed_and_without_a_suffix(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    (tmp_path / "avazu").mkdir()
    (tmp_path / "avazu" / "train.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert avazu.load().rows == 3


def test_the_real_file_is_whole(data_file):
    assert avazu.load(data_file("avazu_sample9k.csv.zst")).rows == 8_999
