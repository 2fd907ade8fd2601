import numpy as np
import pyarrow as pa
import pytest

from headrace.data.layout import Layout, event_times, key_flaws, to_events, typed
from headrace.errors import ConfigError, DataError, SchemaError


def batch(**columns) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def times(values, unit="us", **settings):
    found, flaws = event_times(batch(t=values), Layout(time="t", time_unit=unit, **settings), np.arange(len(values)))
    return found.to_pylist(), [(flaw.row, flaw.got) for flaw in flaws]


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([1, 2], "s", [1_000_000, 2_000_000]),
        (["1", " 2 "], "s", [1_000_000, 2_000_000]),
        ([1.5, 2.0], "s", [1_500_000, 2_000_000]),
        (["1.5"], "ms", [1_500]),
        ([7], "us", [7]),
        ([1_999], "ns", [1]),
        ([1_600_000_000_123_456_789], "ns", [1_600_000_000_123_456]),
        (["14102100"], "%y%m%d%H", [1_413_849_600_000_000]),
        ([14102100], "%y%m%d%H", [1_413_849_600_000_000]),
        (["1970-01-01", "1970-01-01 00:00:01", "1970-01-01T00:00:01.5"], "iso", [0, 1_000_000, 1_500_000]),
        (["1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00Z"], "iso", [0, 0]),
        (pa.array([5], pa.timestamp("s")), "us", [5_000_000]),
        (pa.array([5], pa.timestamp("ns", "UTC")), "us", [0]),
        (pa.array([1], pa.date32()), "us", [86_400_000_000]),
    ],
)
def test_times_become_microseconds_since_the_epoch(values, unit, expected):
    assert times(values, unit) == (expected, [])


@pytest.mark.parametrize(
    ("values", "unit"),
    [([1, None], "s"), (["1", "x"], "s"), (["1970-01-01", "soon"], "iso"), (["14102100", "hour"], "%y%m%d%H"),
     ([1.0, float("nan")], "s"), ([1.0, 1e300], "s"), (["1", None], "ms")],
)  # fmt: skip
def test_a_time_that_cannot_be_read_is_a_flaw_of_its_row(values, unit):
    found, flaws = times(values, unit)
    assert found[0] is not None
    assert [row for row, _ in flaws] == [1]


def test_a_time_column_that_holds_no_times_is_refused():
    with pytest.raises(SchemaError):
        times([[1], [2]], "s")


def test_a_unit_that_takes_times_out_of_range_is_refused():
    with pytest.raises(DataError) as caught:
        times([2**60], "s")
    assert "time_unit" in str(caught.value)


def test_rows_without_a_time_get_one_by_their_number():
    found, flaws = event_times(batch(x=[1, 2]), Layout(time=None, time_step_us=10), np.array([3, 5]))
    assert found.to_pylist() == [30, 50]
    assert flaws == []


def test_a_missing_time_column_names_the_nearest():
    with pytest.raises(SchemaError) as caught:
        event_times(batch(timestamp=[1]), Layout(time="timestmp"), np.arange(1))
    assert "'timestamp'" in str(caught.value)


def test_values_that_cannot_be_cast_are_flaws_and_the_others_are_cast():
    found, flaws = typed(batch(a=["1", " 2", "x", None], b=["p", "q", "r", "s"]), {"a": "int64"})
    assert found.column("a").to_pylist() == [1, 2, None, None]
    assert [(flaw.row, flaw.got) for flaw in flaws] == [(2, "'x'")]
    assert "int64 in column 'a'" in flaws[0].expected


def test_a_type_for_a_missing_column_is_refused():
    with pytest.raises(SchemaError):
        typed(batch(a=["1"]), {"b": "int64"})


def test_a_column_that_can_never_have_the_type_is_refused():
    with pytest.raises(SchemaError):
        typed(batch(a=[[1]]), {"a": "int64"})


def events(layout: Layout, **columns):
    rows = batch(**columns)
    return to_events(rows, pa.array(np.arange(rows.num_rows)), layout, "f.csv", np.arange(rows.num_rows) + 5)


def test_keys_are_joined_and_columns_renamed():
    found = events(Layout(key=("u", "s"), kind="click", rename={"i": "item"}), u=["a"], s=[3], i=[7])
    assert found.batch.to_pylist() == [{"key": "a/3", "kind": "click", "event_time": 0, "u": "a", "s": 3, "item": "7"}]


def test_rows_without_a_key_get_one_by_file_and_row():
    assert events(Layout(key=(), kind="x"), a=["1", "2"]).column("key").to_pylist() == ["f.csv:5", "f.csv:6"]


def test_kinds_may_stand_in_the_file():
    assert events(Layout(), key=["k", "l"], kind=["a", "b"]).column("kind").to_pylist() == ["a", "b"]


def test_only_kept_columns_stay():
    assert events(Layout(kind="x", keep=("b",)), key=["k"], b=[1], c=[2]).names == ["key", "kind", "event_time", "b"]


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(SchemaError):
        events(Layout(kind="x", rename={"b": "c"}), key=["k"], b=[1], c=[2])


@pytest.mark.parametrize("layout", [Layout(kind="x", rename={"q": "z"}), Layout(kind="x", keep=("q",)), Layout()])
def test_names_that_the_file_does_not_have_are_refused(layout):
    with pytest.raises(SchemaError):
        events(layout, key=["k"], b=[1])


def test_null_keys_and_kinds_are_flaws():
    layout = Layout(key=("u", "s"))
    found = key_flaws(batch(u=["a", None, "c"], s=["1", "2", None], kind=["x", "x", "x"]), layout)
    assert sorted(flaw.row for flaw in found) == [1, 2]
    assert [flaw.row for flaw in key_flaws(batch(u=["a"], s=["b"], kind=pa.nulls(1, pa.string())), layout)] == [0]


@pytest.mark.parametrize(
    "settings",
    [{"time_unit": "hours"}, {"time_step_us": 0}, {"names": ("a", "a")}, {"rename": {"a": "x", "b": "x"}},
     {"types": {"a": "integer"}}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        Layout(**settings)
