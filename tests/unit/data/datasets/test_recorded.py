import numpy as np
import pyarrow as pa
import pytest

from headrace.data.datasets.recorded import ClickDelay, RecordedLog, earlier, in_order, read_table, request_events
from headrace.data.layout import Layout
from headrace.errors import ConfigError, DataError, SourceEnded
from headrace.types import Events


def made(part: pa.Table) -> Events:
    keys = part["key"].combine_chunks().cast(pa.string())
    return request_events(keys, part["time"].combine_chunks(), keys, {"x": part["x"].combine_chunks()})


def log(times, clicked, delay: ClickDelay | None = None) -> RecordedLog:
    table = pa.table({"key": [f"k{n}" for n in range(len(times))], "time": pa.array(times, pa.int64()), "x": times,
                      "clicked": clicked})  # fmt: skip
    return RecordedLog(name="toy", variant="toy", path=None, table=table, events=made,
                       delay=delay or ClickDelay(median_s=2.0, sigma=0.0), notes=())  # fmt: skip


def drain(source, limit: int = 3) -> list[dict]:
    rows = []
    while True:
        try:
            rows.extend(source.read(limit).batch.to_pylist())
        except SourceEnded:
            return rows


S = 1_000_000


def test_the_stream_has_every_impression_and_each_click_when_it_arrived():
    rows = drain(log([0, S, 4 * S], [True, False, False]).source())
    assert [(row["key"], row["kind"], row["event_time"]) for row in rows] == [
        ("k0", "impression", 0), ("k1", "impression", S), ("k0", "click", 2 * S), ("k2", "impression", 4 * S),
    ]  # fmt: skip


def test_impressions_come_before_clicks_of_the_same_time():
    rows = drain(log([0, 2 * S], [True, False]).source())
    assert [(row["key"], row["kind"]) for row in rows] == [("k0", "impression"), ("k1", "impression"), ("k0", "click")]


def test_an_action_knows_key_item_and_time_and_no_features():
    click = next(row for row in drain(log([5], [True]).source()) if row["kind"] == "click")
    assert click == {"key": "k0", "kind": "click", "event_time": 5 + 2 * S, "item": "k0", "x": None}


def test_examples_are_the_impressions_with_their_labels():
    rows = drain(log([0, 1], [False, True]).examples())
    assert [(row["kind"], row["label"], row["x"]) for row in rows] == [("example", 0.0, 0), ("example", 1.0, 1)]


def test_impressions_have_no_label():
    assert "label" not in drain(log([0], [True]).impressions())[0]


def test_the_stream_resumes_where_it_stood():
    recorded = log([0, S, 4 * S, 5 * S], [True, True, False, True])
    whole, first, second = drain(recorded.source()), recorded.source(), recorded.source()
    first.read(3)
    second.seek(first.position())
    assert drain(second) == whole[3:]


def test_the_span_ends_with_the_last_action():
    assert log([S, 2 * S], [False, True]).span_us == 3 * S + 1
    assert log([S, 9 * S], [True, False]).span_us == 8 * S + 1
    assert log([], pa.array([], pa.bool_())).span_us == 0


def test_delays_depend_on_seed_and_key_alone():
    keys = pa.array([f"k{n}" for n in range(50)])
    delay = ClickDelay(median_s=60.0, seed=1)
    assert delay.draw(keys).tolist() == delay.draw(keys.take(pa.array(np.arange(50)[::-1]))).tolist()[::-1]
    assert delay.draw(keys).tolist() != ClickDelay(median_s=60.0, seed=2).draw(keys).tolist()


def test_delays_follow_the_distribution_they_say():
    drawn = ClickDelay(median_s=60.0, sigma=1.0, longest_s=1e9).draw(pa.array([f"k{n}" for n in range(40_000)])) / 1e6
    logs = np.log(drawn)
    assert abs(logs.mean() - np.log(60.0)) < 0.02
    assert abs(logs.std() - 1.0) < 0.02
    assert abs(np.corrcoef(logs[1:], logs[:-1])[0, 1]) < 0.02


def test_delays_are_cut_to_the_longest():
    drawn = ClickDelay(median_s=60.0, sigma=2.0, longest_s=120.0).draw(pa.array([f"k{n}" for n in range(1000)]))
    assert drawn.max() == 120 * S
    assert drawn.min() >= 0


def test_a_report_can_tell_the_delays():
    assert "median 60 s and sigma 1, at most 3600 s, seed 0" in ClickDelay().told()


@pytest.mark.parametrize("settings", [{"median_s": -1.0}, {"sigma": -0.1}, {"median_s": 10.0, "longest_s": 5.0}])
def test_delays_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError):
        ClickDelay(**settings)


def test_rows_of_one_time_keep_their_order_when_sorted():
    table = pa.table({"time": [2, 1, 2, 1], "x": [0, 1, 2, 3]})
    assert in_order(table)["x"].to_pylist() == [1, 3, 0, 2]


def test_earlier_counts_rows_of_the_same_owner():
    assert earlier(np.array([0, 1, 0, 0, 1])).tolist() == [0, 0, 1, 2, 1]
    assert earlier(np.array([], dtype=np.int64)).tolist() == []


def test_a_table_is_read_with_types_and_dictionaries(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,x\n2,y\n3,x\n")
    table = read_table(path, Layout(types={"a": "int64"}), encode=("b",), rows=2)
    assert table["a"].to_pylist() == [1, 2]
    assert pa.types.is_dictionary(table["b"].type)


def test_a_malformed_row_or_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,x\nz,y\n")
    with pytest.raises(DataError) as caught:
        read_table(path, Layout(types={"a": "int64"}))
    assert "line 3" in str(caught.value)
    path.write_text("a,b\n")
    with pytest.raises(DataError):
        read_table(path, Layout())
