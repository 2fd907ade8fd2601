from __future__ import annotations

import pyarrow as pa
import pytest

from headrace.data.features import (
    CrossFeature,
    DenseFeature,
    IdFeature,
    MultiIdFeature,
    Scenario,
    Schema,
    SequenceFeature,
    TextFeature,
)
from headrace.errors import ConfigError, SchemaError
from headrace.serve.columns import Columns
from headrace.types import Events

SCHEMA = Schema(
    features=(
        IdFeature("word", 2, accepts="string"), IdFeature("number", 2, accepts="integer"), IdFeature("open", 2),
        IdFeature("other", 2), MultiIdFeature("many", 2, accepts="string"),
        SequenceFeature("history", 2, accepts="integer"),
        MultiIdFeature("genres", 2, separator="|", accepts="string"), TextFeature("title", 2), DenseFeature("price"),
        IdFeature("step", 2, column="position", accepts="integer"), DenseFeature("place", column="position"),
        CrossFeature("both", 2, of=("word", "number")),
    ),
    scenario=Scenario("surface", ("web", "app")),
)  # fmt: skip

TYPES = {
    "word": pa.string(), "number": pa.int64(), "open": pa.string(), "many": pa.list_(pa.string()),
    "history": pa.list_(pa.int64()), "genres": pa.list_(pa.string()), "title": pa.string(), "price": pa.float64(),
    "position": pa.int64(), "surface": pa.string(), "item": pa.string(),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_every_column_has_a_type_that_nulls_take(name: str) -> None:
    assert Columns(SCHEMA).cast(name, pa.nulls(2)).type == TYPES[name]


def test_a_cross_has_no_column_of_its_own() -> None:
    assert "both" not in Columns(SCHEMA).names


GOOD = [
    ("word", pa.array(["a"], pa.large_string()), pa.string()), ("number", pa.array([1], pa.uint8()), pa.int64()),
    ("open", pa.array([1], pa.int32()), pa.int64()), ("open", pa.array(["a"]), pa.string()),
    ("many", pa.array([["a"]], pa.large_list(pa.string())), pa.list_(pa.string())),
    ("history", pa.array([[1]], pa.list_(pa.int32())), pa.list_(pa.int64())),
    ("history", pa.array([[], None], pa.list_(pa.null())), pa.list_(pa.int64())),
    ("genres", pa.array(["a|b"]), pa.string()), ("genres", pa.array([["a"]]), pa.list_(pa.string())),
    ("price", pa.array([1], pa.int16()), pa.float64()), ("price", pa.array([1.5], pa.float32()), pa.float64()),
    ("item", pa.array(["x"]), pa.string()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "kind"), GOOD)
def test_related_types_are_cast(name: str, values: pa.Array, kind: pa.DataType) -> None:
    cast = Columns(SCHEMA).cast(name, values)
    assert cast.type == kind
    assert cast.to_pylist() == values.to_pylist()


BAD = [
    ("word", pa.array([1])), ("number", pa.array(["1"])), ("number", pa.array([1.0])), ("open", pa.array([True])),
    ("open", pa.array([1.5])), ("number", pa.array([2**63], pa.uint64())), ("many", pa.array(["a"])),
    ("many", pa.array([[1]])), ("history", pa.array([["a"]])), ("genres", pa.array([[1]])), ("title", pa.array([1])),
    ("price", pa.array(["1"])), ("price", pa.array([2**60 + 1])), ("price", pa.array([[1.0]])),
    ("position", pa.array([1.5])), ("surface", pa.array([1])), ("item", pa.array([1])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values"), BAD)
def test_other_types_are_refused_by_name(name: str, values: pa.Array) -> None:
    with pytest.raises(SchemaError, match=f"Column '{name}'"):
        Columns(SCHEMA).cast(name, values)


def events(name: str, values: list[object]) -> Events:
    return Events.from_columns({"key": ["a"], "kind": ["x"], "event_time": [1], name: pa.array(values)})


def test_an_open_type_is_settled_by_what_is_logged_first() -> None:
    columns = Columns(SCHEMA)
    columns.pin(events("open", [5]))
    assert columns.cast("open", pa.nulls(1)).type == pa.int64()
    with pytest.raises(SchemaError, match="accepts"):
        columns.cast("open", pa.array(["a"]))
    with pytest.raises(SchemaError, match="int64"):
        columns.pin(events("open", ["a"]))
    assert columns.cast("other", pa.array(["a"])).type == pa.string()  # each column for itself


def test_the_types_of_an_earlier_run_are_taken_over_and_the_newest_counts() -> None:
    columns = Columns(SCHEMA)
    columns.adopt(events("open", ["a"]))
    columns.adopt(events("open", [5]))
    assert columns.choices("open") == [pa.int64()]
    columns.adopt(events("open", [1.5]))  # of another schema
    assert columns.choices("open") == [pa.int64()]


def test_nulls_settle_nothing() -> None:
    columns = Columns(SCHEMA)
    columns.pin(events("open", [None]).with_columns({"open": pa.nulls(1, pa.string())}))
    columns.pin(events("open", [5]))
    assert columns.cast("open", pa.array([6])).type == pa.int64()


def test_a_refused_row_settles_nothing() -> None:
    columns = Columns(SCHEMA)
    columns.pin(events("other", [5]))
    both = events("open", ["a"]).with_columns({"other": pa.array(["b"])})
    with pytest.raises(SchemaError):
        columns.pin(both)
    assert columns.cast("open", pa.array([5])).type == pa.int64()


def test_a_column_that_is_read_as_two_things_is_refused() -> None:
    with pytest.raises(ConfigError, match="'x'"):
        Columns(Schema(features=(TextFeature("t", 2, column="x"), DenseFeature("d", column="x"))))


def test_an_item_that_is_a_feature_has_the_type_of_the_feature() -> None:
    columns = Columns(Schema(features=(IdFeature("item", 2, accepts="integer"),)))
    assert columns.cast("item", pa.array([5])).type == pa.int64()
