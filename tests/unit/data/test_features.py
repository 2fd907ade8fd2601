import dataclasses
import json

import pyarrow as pa
import pytest

from headrace.data.features import (
    CrossFeature,
    DenseFeature,
    IdFeature,
    Label,
    MultiIdFeature,
    Scenario,
    Schema,
    SequenceFeature,
    TextFeature,
)
from headrace.errors import ConfigError, SchemaError
from headrace.types import Events

FULL = Schema(
    features=(
        IdFeature("user_id", 8, default="nobody", accepts="string"),
        IdFeature("item", 8),
        MultiIdFeature("genres", 4, separator="|"),
        SequenceFeature("history", 8, table="item", max_length=3, pooling="none"),
        TextFeature("title", 4, max_tokens=5),
        CrossFeature("user_item", 4, of=("user_id", "item")),
        DenseFeature("price", transform="standard", mean=10.0, std=2.0),
        IdFeature("position", 4, serve_as=1, accepts="integer"),
    ),
    label=Label("label", ("click", "order")),
    scenario=Scenario("surface", ("home", "search"), default="home"),
    extra_labels=(Label("liked", ("like",)),),
    weight="weight",
    version=3,
)


def rows(**changes: object) -> Events:
    columns: dict[str, object] = {
        "key": ["k1", "k2"], "kind": ["example", "example"], "event_time": [1, 2], "user_id": ["u", None],
        "item": ["i", "j"], "genres": ["a|b", ""], "history": [["i"], []], "title": ["A film", None],
        "price": [1.0, None], "position": [1, 2], "surface": ["home", None], "label": [1.0, 0.0], "liked": [0, 1],
        "weight": [1.0, 2.0],
    }  # fmt: skip
    columns.update(changes)
    return Events.from_columns({name: value for name, value in columns.items() if value is not None})


def test_a_schema_survives_json():
    assert Schema.from_json(FULL.to_json()) == FULL


def test_a_schema_can_be_read_from_parsed_json_and_from_bytes():
    assert Schema.from_json(json.loads(FULL.to_json())) == Schema.from_json(FULL.to_json().encode())


def test_equal_schemas_have_equal_fingerprints_and_others_do_not():
    assert FULL.fingerprint() == Schema.from_json(FULL.to_json()).fingerprint()
    assert FULL.fingerprint() != FULL.evolved(drop=["price"]).fingerprint()


def test_an_unknown_feature_type_is_named_with_the_nearest_ones():
    text = FULL.to_json().replace("TextFeature", "TextFeatur")
    with pytest.raises(SchemaError) as caught:
        Schema.from_json(text)
    assert "TextFeatur'" in str(caught.value)
    assert "'TextFeature'" in str(caught.value)


def test_an_unknown_field_is_named_with_the_nearest_ones():
    with pytest.raises(SchemaError) as caught:
        Schema.from_json(FULL.to_json().replace('"max_tokens"', '"max_token"'))
    assert "unknown field 'max_token'" in str(caught.value)
    assert "'max_tokens'" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"x"',
        "{}",
        '{"features": []}',
        '{"features": 3}',
        '{"features": ["user"]}',
        '{"features": [{"type": 3}]}',
        '{"features": [{"type": "IdFeature", "name": "u"}]}',
        '{"features": [{"type": "IdFeature", "name": "u", "dim": "8"}]}',
        '{"features": [{"type": "Label", "name": "u"}]}',
        '{"features": [{"type": "IdFeature", "name": 3, "dim": 8}]}',
        '{"features": [{"type": "DenseFeature", "name": "d"}], "version": "x"}',
        '{"features": [{"type": "DenseFeature", "name": "d"}], "label": null}',
        '{"features": [{"type": "DenseFeature", "name": "d"}], "extra_labels": [1]}',
        '{"features": [{"type": "DenseFeature", "name": "d"}], "scenario": "x"}',
    ],
)
def test_broken_json_is_refused_as_a_schema_error(text):
    with pytest.raises(SchemaError):
        Schema.from_json(text)


def test_features_come_apart_into_embedded_and_dense_in_order():
    assert FULL.id_names == ("user_id", "item", "genres", "history", "title", "user_item", "position")
    assert FULL.dense_names == ("price",)
    assert FULL.tables == {"user_id": 8, "item": 8, "genres": 4, "title": 4, "user_item": 4, "position": 4}


def test_columns_are_listed_once_and_crosses_add_none():
    schema = Schema(
        features=(IdFeature("a", 2), IdFeature("b", 2, column="a"), CrossFeature("c", 2, of=("a", "b"))),
        scenario=Scenario("s", ("x",)),
    )
    assert schema.columns == ("a", "s")


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ((), "at least one"),
        ((IdFeature("a", 2), DenseFeature("a")), "more than once"),
        ((IdFeature("a", 2), IdFeature("b", 3, table="a")), "one width per table"),
        ((IdFeature("a", 2), DenseFeature("label")), "label columns"),
    ],
)
def test_a_schema_that_cannot_work_is_refused(features, told):
    with pytest.raises(ConfigError) as caught:
        Schema(features=features)
    assert told in str(caught.value)


def test_a_cross_of_an_unknown_feature_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        Schema(
            features=(IdFeature("platform", 2), IdFeature("device", 2), CrossFeature("x", 2, of=("platfrm", "device")))
        )
    assert "'platform'" in str(caught.value)


def test_a_cross_of_lists_is_refused():
    with pytest.raises(ConfigError):
        Schema(features=(MultiIdFeature("g", 2), IdFeature("a", 2), CrossFeature("x", 2, of=("g", "a"))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: IdFeature("", 2),
        lambda: IdFeature("a", 0),
        lambda: IdFeature("a", True),
        lambda: IdFeature("a", 2, accepts="text"),
        lambda: IdFeature("a", 2, accepts="string", serve_as=1),
        lambda: IdFeature("a", 2, accepts="integer", default="x"),
        lambda: IdFeature("a", 2, default=True),
        lambda: MultiIdFeature("a", 2, pooling="max"),
        lambda: MultiIdFeature("a", 2, separator=""),
        lambda: SequenceFeature("a", 2, max_length=0),
        lambda: TextFeature("a", 2, max_tokens=0),
        lambda: CrossFeature("a", 2, of=("b",)),
        lambda: DenseFeature("a", transform="sqrt"),
        lambda: DenseFeature("a", std=0.0),
        lambda: DenseFeature("a", default=float("nan")),
        lambda: DenseFeature("a", serve_as=float("inf")),
        lambda: Label(""),
        lambda: Label("y", "click"),
        lambda: Scenario("s", ()),
        lambda: Scenario("s", ("a", "a")),
        lambda: Scenario("s", ("a",), default="b"),
    ],
)
def test_a_feature_that_cannot_work_is_refused_when_it_is_made(make):
    with pytest.raises(ConfigError):
        make()


def test_asking_for_an_unknown_feature_names_the_nearest():
    with pytest.raises(SchemaError) as caught:
        FULL.feature("titel")
    assert "'title'" in str(caught.value)


def test_the_columns_that_are_not_text_have_types_for_text_files():
    assert FULL.text_types == {"price": "float64", "position": "int64"}


def test_good_rows_pass():
    FULL.validate(rows())
    FULL.validate(rows(label=None, liked=None, weight=None, position=None), training=False)


def test_a_missing_column_names_the_feature_and_the_nearest_columns():
    with pytest.raises(SchemaError) as caught:
        FULL.validate(rows(price=None).with_columns({"prise": pa.array([1.0, 2.0])}))
    assert "Column 'price'" in str(caught.value)
    assert "'prise'" in str(caught.value)
    assert "Feature 'price'" in str(caught.value)


def test_an_optional_feature_may_be_missing():
    schema = Schema(features=(IdFeature("user_id", 8), DenseFeature("extra", optional=True)))
    schema.validate(rows())


def test_a_feature_with_a_served_value_is_needed_in_training_only():
    FULL.validate(rows(position=None), training=False)
    with pytest.raises(SchemaError):
        FULL.validate(rows(position=None))


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("user_id", pa.array([1, 2]), "strings, because accepts='string'"),
        ("position", pa.array(["1", "2"]), "integers, because accepts='integer'"),
        ("item", pa.array([1.5, 2.5]), "strings or integers"),
        ("genres", pa.array([1, 2]), "text separated by '|'"),
        ("history", pa.array(["i", "j"]), "lists of ids"),
        ("history", pa.array([[1.5], [2.5]]), "strings or integers"),
        ("title", pa.array([1, 2]), "text"),
        ("price", pa.array(["1", "2"]), "numbers"),
        ("surface", pa.array([1, 2]), "strings"),
        ("label", pa.array(["1", "0"]), "numbers"),
        ("liked", pa.array(["1", "0"]), "numbers"),
    ],
)
def test_a_column_of_another_type_is_refused_with_both_types(column, values, told):
    with pytest.raises(SchemaError) as caught:
        FULL.validate(rows(**{column: values}))
    assert f"'{column}'" in str(caught.value)
    assert told in str(caught.value)
    assert str(values.type) in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_label_that_is_no_number_is_refused_with_its_row(bad):
    with pytest.raises(SchemaError) as caught:
        FULL.validate(rows(label=[0.0, bad]))
    assert "Column 'label', row 1" in str(caught.value)


def test_a_null_label_is_refused_with_its_row():
    with pytest.raises(SchemaError) as caught:
        FULL.validate(rows(label=pa.array([0.0, None])))
    assert "Column 'label', row 1: got null" in str(caught.value)


def test_an_extra_label_may_be_unknown_but_not_nan():
    FULL.validate(rows(liked=pa.array([1.0, None])))
    with pytest.raises(SchemaError, match="Column 'liked', row 1"):
        FULL.validate(rows(liked=pa.array([1.0, float("nan")])))


def test_a_dense_nan_is_refused_with_its_row_but_a_null_is_not():
    FULL.validate(rows(price=pa.array([None, 1.0])))
    with pytest.raises(SchemaError) as caught:
        FULL.validate(rows(price=pa.array([None, float("nan")])), training=False)
    assert "Column 'price', row 1" in str(caught.value)


def test_an_unknown_scenario_is_refused_unless_there_is_a_default():
    FULL.validate(rows(surface=["home", "attic"]))
    strict = Schema(features=FULL.features, scenario=Scenario("surface", ("home", "search")))
    with pytest.raises(SchemaError) as caught:
        strict.validate(rows(surface=["home", "serch"]))
    assert "row 1" in str(caught.value)
    assert "'search'" in str(caught.value)


def test_an_unknown_column_is_refused_only_when_asked():
    typo = rows().with_columns({"pricee": pa.array([1.0, 2.0])})
    FULL.validate(typo)
    with pytest.raises(SchemaError) as caught:
        FULL.validate(typo, only_known=True)
    assert "'pricee'" in str(caught.value)
    assert "'price'" in str(caught.value)


def test_columns_of_the_data_contract_are_always_known():
    FULL.validate(rows(score=[0.1, 0.2], version=[1, 1], accepted_time=[1, 2]), only_known=True)


def test_evolved_drops_retypes_in_place_and_adds_at_the_end():
    new = FULL.evolved(drop=["user_item", "genres"], add=[DenseFeature("age"), MultiIdFeature("genres", 4)])
    assert [feature.name for feature in new.features] == [
        "user_id", "item", "genres", "history", "title", "price", "position", "age"]  # fmt: skip
    assert new.version == 4
    assert new.feature("genres") == MultiIdFeature("genres", 4)


def test_a_preparation_is_part_of_the_schema() -> None:
    plain = Schema(features=(IdFeature("user", 4),))
    prepared = dataclasses.replace(plain, preparation="0123456789abcdef")
    assert "preparation" not in json.loads(plain.to_json())  # schemas stored before there were any keep their prints
    assert Schema.from_json(prepared.to_json()) == prepared
    assert prepared.fingerprint() != plain.fingerprint()
    assert prepared.evolved(add=[IdFeature("city", 4)]).preparation == prepared.preparation
    with pytest.raises(ConfigError, match="preparation"):
        dataclasses.replace(plain, preparation=3)
