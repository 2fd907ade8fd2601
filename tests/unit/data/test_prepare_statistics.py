"""Raw rows to ids and numbers; statistics as files and as schemas."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import (
    Categories,
    Category,
    DenseFeature,
    History,
    IdFeature,
    LogBins,
    MultiIdFeature,
    Number,
    Preparation,
    PreparedStatistics,
    QuantileBins,
    SequenceFeature,
    load_statistics,
    save_statistics,
)
from headrace.data.prepare import fit
from headrace.data.prepare_columns import Column
from headrace.errors import DataError, SchemaError
from headrace.types import Events


def fitted(column: Column, values: object, **more: object) -> PreparedStatistics:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    rows = pa.table({"label": np.ones(len(array)), column.column: array})
    return fit(rows, Preparation(columns=(column,), **more))  # type: ignore[arg-type]


def given(statistics: PreparedStatistics, values: object) -> list[object]:
    column = statistics.preparation.columns[0]
    array = values if isinstance(values, pa.Array) else pa.array(values)
    found = statistics.transform_batch(pa.RecordBatch.from_arrays([array], names=[column.column]))
    return found[column.name].to_pylist()


def test_categories_rare_unseen_and_missing() -> None:
    statistics = fitted(Category("x", min_count=2), ["b", "b", "b", "a", "a", "once", None])
    assert given(statistics, ["b", "a", "once", "never", None, ""]) == [3, 4, 1, 1, 2, 2]
    assert statistics.vocabulary_size("x") == 5
    assert given(statistics, pa.array(["b", None, "a"]).dictionary_encode()) == [3, 2, 4]
    assert given(statistics, pa.array(["b", "a"], pa.large_string())) == [3, 4]
    assert given(statistics, pa.nulls(2)) == [2, 2]
    assert given(statistics, pa.array([], pa.string())) == []


def test_whole_numbers_and_their_texts_are_the_same_category() -> None:
    statistics = fitted(Category("x"), pa.array([7, 7, 8, None], pa.int64()))
    assert given(statistics, ["7", "8", "9"]) == given(statistics, pa.array([7, 8, 9], pa.int32())) == [3, 4, 1]


def test_buckets_need_no_vocabulary() -> None:
    values = [f"v{n}" for n in range(500)]
    statistics = fitted(Category("x", buckets=40), values)
    ids = np.array(given(statistics, values))
    assert (ids.min(), ids.max()) == (3, 42)
    assert len(set(given(statistics, ["unseen 1", "unseen 2", "unseen 3"]))) > 1
    assert statistics.vocabulary_size("x") == 43
    assert not statistics.vocabularies
    often = fitted(Category("x", buckets=40, min_count=15), values)
    kept = np.array(given(often, values))
    heights = np.bincount(ids)[ids]
    assert (kept == np.where(heights >= 15, ids, 1)).all()
    assert (kept == 1).any()
    assert (kept != 1).any()


def test_log_bins_are_categories() -> None:
    statistics = fitted(LogBins("x", min_count=2), [0.0, 0.0, 0.0, 3.0, 3.2, 100.0, None])
    assert given(statistics, [0.0, 2.8, 100.0, None]) == [3, 4, 1, 2]
    assert given(statistics, pa.array([0, 3], pa.int64())) == [3, 4]


def test_quantile_bins_are_equally_full() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    statistics = fitted(QuantileBins("x", bins=4), values)
    ids = np.array(given(statistics, values))
    assert np.bincount(ids)[3:].tolist() == [250] * 4
    assert (np.diff(ids[np.argsort(values)]) >= 0).all()
    assert given(statistics, [-1e9, 249.0, 250.0, 1e9, None]) == [3, 3, 4, 6, 2]
    assert statistics.vocabulary_size("x") == 7
    flat = fitted(QuantileBins("x", bins=10), [0.0] * 90 + [5.0] * 10)
    assert given(flat, [0.0, 5.0]) == [3, 4]
    assert given(fitted(QuantileBins("x"), pa.array([None, None], pa.float32())), [1.0, None]) == [3, 2]


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, [1.0, 7.0, 0.0]),
    ({"fill": -1.0}, [1.0, 7.0, -1.0]),
    ({"clip": (2.0, 5.0)}, [2.0, 5.0, 2.0]),
    ({"clip": (None, 5.0)}, [1.0, 5.0, 0.0]),
    ({"log1p": True}, [np.log(2), np.log(8), 0.0]),
    ({"scale": "min_max", "fill": 2.0}, [0.0, 1.0, 0.25]),
    ({"scale": "standard", "fill": 3.0}, [-1.0, 2.0, 0.0]),
])  # fmt: skip
def test_numbers(settings, expected) -> None:
    train = [1.0, 3.0, 5.0] if settings.get("scale") != "standard" else [1.0, 5.0]
    statistics = fitted(Number("x", **settings), train)
    assert given(statistics, [1.0, 7.0, None]) == pytest.approx(expected, abs=1e-6)


def test_an_indicator_says_what_was_missing() -> None:
    statistics = fitted(Number("x", indicator=True, scale="standard"), [1.0, None])
    found = statistics.transform_batch(pa.RecordBatch.from_arrays([pa.array([None, 2.0])], names=["x"]))
    assert found["x_missing"].to_pylist() == [1.0, 0.0]
    assert [field.type for field in found.schema] == [pa.float32(), pa.float32()]


def test_a_number_that_never_changes_is_not_divided_by_zero() -> None:
    for scale in ("standard", "min_max"):
        assert given(fitted(Number("x", scale=scale), [4.0, 4.0]), [4.0]) == [0.0]


def test_lists_and_histories() -> None:
    many = fitted(Categories("x", max_length=2, min_count=2), ["a|b", "a||b|c", None, "a"])
    assert given(many, ["c|a|b", "", None, "b", "|a|"]) == [[1, 3], [], [], [4], [3]]
    assert given(many, [["a", None, "b", "a"], [], None]) == [[3, 4], [], []]
    last = fitted(History("x", max_length=2, separator=" "), ["a b", "a c b", None, "a"])
    assert given(last, ["c a b", "z", None]) == [[3, 4], [1], []]
    assert given(last, pa.array([["c", "a", "b"]] * 3).slice(1)) == [[3, 4]] * 2
    numbers = fitted(Categories("x"), pa.array([[1, 2], [2]]))
    assert given(numbers, ["2|1|5"]) == [[3, 4, 1]]


@pytest.mark.parametrize(("column", "values", "said"), [
    (Category("x"), [1.5], "text or whole numbers"), (Category("x"), [["a"]], "text or whole numbers"),
    (Number("x"), ["1"], "numbers"), (LogBins("x"), ["1"], "numbers"), (QuantileBins("x"), [[1.0]], "numbers"),
    (Number("x"), [1.0, float("nan")], "row 1: got nan"), (LogBins("x"), [float("inf")], "row 0: got inf"),
    (Categories("x"), [1], "lists"), (History("x"), [[1.5]], "text or whole numbers"),
])  # fmt: skip
def test_wrong_types_are_named(column, values, said) -> None:
    good: object = [1.0, 2.0] if isinstance(column, (Number, LogBins, QuantileBins)) else ["a", "b"]
    with pytest.raises(SchemaError, match=rf"'x'.*{said}"):
        given(fitted(column, good), values)


def test_a_missing_column_is_an_error_unless_optional() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2])], names=["other"])
    statistics = fitted(Category("x"), ["a"])
    with pytest.raises(SchemaError, match=r"'x': got no such column, expected .*'other'"):
        statistics.transform_batch(batch)
    assert statistics.transform_batch(batch, absent=True)["x"].to_pylist() == [2, 2]
    rows = pa.table({"label": [1.0], "x": ["a"]})
    plan = Preparation(
        columns=(Category("x", optional=True), Number("y", optional=True), Categories("z", optional=True))
    )
    found = fit(rows, plan).transform_batch(batch)
    assert (found["x"].to_pylist(), found["y"].to_pylist(), found["z"].to_pylist()) == ([2, 2], [0.0, 0.0], [[], []])
    assert found["other"].to_pylist() == [1, 2]


def every_kind() -> PreparedStatistics:
    rows = pa.table({
        "click": [1.0, 0.0, 1.0], "buy": [0.0, 0.0, 1.0], "item": ["i1", "i1", "i2"], "price": [1.0, None, 3.0],
        "tags": ["a|b", "a", None], "seen": ["i1", "i2|i1", ""], "position": [1, 2, 2],
    })  # fmt: skip
    return fit(rows, Preparation(
        label="click", extra_labels=("buy",), columns=(
            Category("item"), Category("hashed", column="item", buckets=9, min_count=2),
            LogBins("price_log", column="price"), QuantileBins("price_bin", column="price"),
            Number("price", scale="min_max", indicator=True),
            Categories("tags"), History("seen", vocabulary="item", pooling="none"), Category("position", serve_as=2),
            Number("place", column="position", log1p=True, serve_as=2.0),
        ),
    ))  # fmt: skip


def test_the_schema_of_prepared_rows() -> None:
    statistics = every_kind()
    schema = statistics.schema(4)
    kinds = [type(feature) for feature in schema.features]
    assert kinds == [IdFeature, IdFeature, IdFeature, IdFeature, DenseFeature, DenseFeature, MultiIdFeature,
                     SequenceFeature, IdFeature, DenseFeature]  # fmt: skip
    assert schema.feature("seen").table == schema.feature("item").table == "item"
    assert schema.feature("seen").pooling == "none"
    assert schema.feature("position").serve_as == 3
    assert schema.feature("place").serve_as == pytest.approx(np.log(3), rel=1e-6)
    assert (schema.label.name, [label.name for label in schema.extra_labels]) == ("click", ["buy"])
    assert schema.preparation == statistics.fingerprint()
    assert statistics.schema({"item": 8, "seen": 8}).tables["item"] == 8
    assert type(schema).from_json(schema.to_json()) == schema


def test_the_schema_of_requests_names_raw_columns() -> None:
    schema = every_kind().request_schema()
    assert set(schema.columns) == {"item", "price", "tags", "seen", "position"}
    assert schema.text_types == {"price": "float64", "position": "int64"}
    accepted = {feature.column: feature.accepts for feature in schema.features if isinstance(feature, IdFeature)}
    assert accepted == {"item": "any", "position": "integer"}  # a number too: text would be refused


def test_events_keep_what_is_not_prepared_and_the_examples_id() -> None:
    from headrace.data import example_ids

    columns = {"key": ["k1", "k2"], "kind": ["impression"] * 2, "event_time": [1, 2], "item": ["i1", "i9"],
               "price": [1.0, 2.0], "tags": ["a", "b"], "seen": ["i1", "i1"], "note": ["n", "m"]}  # fmt: skip
    events = Events.from_columns(columns)
    found = every_kind().transform(events)
    assert found.column("item").to_pylist() == [3, 1]
    assert found.column("note").to_pylist() == ["n", "m"]
    assert found.column("example_id").to_pylist() == example_ids(events.column("key"), events.column("item")).tolist()
    assert "position" not in found.names  # serving fills it in


def test_statistics_come_back_from_their_file(tmp_path) -> None:
    statistics, path = every_kind(), tmp_path / "a" / "x.preparation"
    save_statistics(statistics, path)
    again = load_statistics(path)
    assert again.fingerprint() == statistics.fingerprint()
    assert again.schema(4) == statistics.schema(4)
    assert again.known("item").texts.to_pylist() == ["i1", "i2"]
    assert again.describe() == statistics.describe()
    assert [entry.name for entry in path.parent.iterdir()] == ["x.preparation"]
    save_statistics(again, path)
    assert load_statistics(path).fingerprint() == statistics.fingerprint()


def test_damaged_files_are_refused(tmp_path) -> None:
    path = tmp_path / "x.preparation"
    save_statistics(every_kind(), path)
    whole = path.read_bytes()
    with pytest.raises(DataError, match="no such file"):
        load_statistics(tmp_path / "nowhere")
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(DataError):
            load_statistics(path)
        path.write_bytes(whole[:at])
        with pytest.raises(DataError):
            load_statistics(path)
    path.write_bytes(whole.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(DataError, match="another version"):
        load_statistics(path)
