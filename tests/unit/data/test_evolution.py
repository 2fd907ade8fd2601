import pytest
import torch

from headrace.data.evolution import Block, diff, moved, plan
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
from headrace.errors import SchemaError

OLD = Schema(features=(IdFeature("user", 8), IdFeature("item", 8), DenseFeature("price"), DenseFeature("age")))


def changed(old: Schema = OLD, **settings: object) -> Schema:
    fields = {name: getattr(old, name) for name in ("features", "label", "item", "scenario", "extra_labels", "weight")}
    return Schema(**{**fields, "version": old.version + 1, **settings})


def test_equal_schemas_change_nothing():
    evolution = plan(OLD, OLD)
    assert evolution.unchanged
    assert evolution.check().kept_tables == ("user", "item")
    assert evolution.feature_map == (0, 1)
    assert evolution.dense_map == (0, 1)


def test_an_added_feature_brings_a_fresh_table():
    evolution = plan(OLD, OLD.evolved(add=[IdFeature("city", 4)])).check()
    assert evolution.added_tables == ("city",)
    assert evolution.kept_tables == ("user", "item")
    assert evolution.feature_map == (0, 1, -1)
    assert "+ IdFeature 'city' (dim=4)" in evolution.diff()


def test_a_dropped_feature_takes_its_table_along():
    evolution = plan(OLD, OLD.evolved(drop=["user"])).check()
    assert evolution.dropped_tables == ("user",)
    assert evolution.feature_map == (1,)
    assert "- IdFeature 'user' (dim=8)" in evolution.diff()


def test_a_table_that_another_feature_shares_survives_a_drop():
    old = OLD.evolved(add=[SequenceFeature("history", 8, table="item")])
    evolution = plan(old, old.evolved(drop=["item"])).check()
    assert evolution.dropped_tables == ()
    assert "item" in evolution.kept_tables


def test_an_added_feature_may_use_a_table_that_is_there():
    evolution = plan(OLD, OLD.evolved(add=[SequenceFeature("history", 8, table="item")])).check()
    assert evolution.added_tables == ()
    assert evolution.feature_map == (0, 1, -1)


@pytest.mark.parametrize("kind", [MultiIdFeature, SequenceFeature])
def test_one_id_may_become_several(kind):
    evolution = plan(OLD, OLD.evolved(drop=["item"], add=[kind("item", 8)])).check()
    assert evolution.kept_tables == ("user", "item")
    assert evolution.feature_map == (0, 1)
    assert f"IdFeature (dim=8) -> {kind.__name__}" in evolution.diff()


REFUSED = [
    (OLD.evolved(drop=["item"], add=[IdFeature("item", 16)]), "table 'item': dim 8 cannot become 16"),
    (OLD.evolved(drop=["item"], add=[TextFeature("item", 8)]), "table 'item': holds ids and cannot hold words"),
    (OLD.evolved(drop=["item"], add=[DenseFeature("item")]), "a IdFeature cannot become a DenseFeature"),
    (OLD.evolved(drop=["price"], add=[IdFeature("price", 8)]), "a DenseFeature cannot become a IdFeature"),
    (OLD.evolved(add=[TextFeature("words", 8, table="user")]), "table 'user': holds ids and cannot hold words"),
    (OLD.evolved(add=[CrossFeature("both", 8, of=("user", "item"), table="user")]), "pairs of user and item"),
    (changed(item="product"), "item column"),
    (changed(label=Label("label", ("order",))), "learned as ('click',), cannot mean ('order',)"),
    (OLD.evolved(add=[IdFeature("city", 8)], version=1), "version 1 does not follow version 1"),
]


@pytest.mark.parametrize(("new", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_change_of_meaning_is_refused_with_the_difference(new, reason):
    evolution = plan(OLD, new)
    assert not evolution.compatible
    with pytest.raises(SchemaError) as caught:
        evolution.check()
    assert reason in str(caught.value)
    assert evolution.diff() in str(caught.value)


def test_strings_that_become_integers_are_refused():
    old = Schema(features=(IdFeature("user", 8, accepts="string"),))
    with pytest.raises(SchemaError) as caught:
        plan(old, old.evolved(drop=["user"], add=[IdFeature("user", 8, accepts="integer")])).check()
    assert "strings cannot become integers" in str(caught.value)


def test_strings_that_were_only_promised_later_are_fine():
    evolution = plan(OLD, OLD.evolved(drop=["user"], add=[IdFeature("user", 8, accepts="string")])).check()
    assert "accepts 'any' -> 'string'" in evolution.diff()


def test_a_feature_that_moves_to_another_table_starts_fresh():
    evolution = plan(OLD, OLD.evolved(drop=["user"], add=[IdFeature("user", 16, table="user16")])).check()
    assert evolution.added_tables == ("user16",)
    assert evolution.dropped_tables == ("user",)
    assert evolution.feature_map == (-1, 1)


def test_a_dense_column_keeps_its_weights_unless_its_transform_changes():
    new = OLD.evolved(drop=["price"], add=[DenseFeature("price", transform="log1p"), DenseFeature("height")])
    assert plan(OLD, new).check().dense_map == (-1, 1, -1)
    assert plan(OLD, OLD.evolved(drop=["price"], add=[DenseFeature("price", serve_as=1.0)])).dense_map == (0, 1)


def test_reordered_features_keep_their_weights_and_are_told():
    evolution = plan(OLD, changed(features=OLD.features[::-1])).check()
    assert evolution.feature_map == (1, 0)
    assert evolution.dense_map == (1, 0)
    assert "order of features" in evolution.diff()


def test_scenarios_and_labels_map_to_their_old_places():
    old = changed(scenario=Scenario("s", ("a", "b")), extra_labels=(Label("x", ("like",)), Label("y", ("buy",))))
    new = changed(old, scenario=Scenario("s", ("b", "c")), extra_labels=(Label("y", ("buy",)), Label("x", ("share",))))
    evolution = plan(old, new).check()
    assert evolution.scenario_map == (1, -1)
    assert evolution.label_map == (0, 2, -1)
    assert "- extra label" in evolution.diff()


def test_a_renamed_label_column_is_no_new_meaning():
    evolution = plan(OLD, changed(label=Label("clicked", ("click",)))).check()
    assert evolution.label_map == (0,)
    assert not evolution.unchanged


def test_pooling_that_leaves_rows_apart_starts_the_dense_weights_fresh():
    old = OLD.evolved(add=[SequenceFeature("history", 8)])
    new = old.evolved(drop=["history"], add=[SequenceFeature("history", 8, pooling="none")])
    evolution = plan(old, new).check()
    assert evolution.kept_tables == ("user", "item", "history")
    assert evolution.feature_map == (0, 1, -1)


def test_tables_picks_the_kept_states_and_refuses_when_one_is_missing():
    evolution = plan(OLD, OLD.evolved(drop=["user"], add=[IdFeature("city", 8)]))
    assert evolution.tables({"user": 1, "item": 2}) == {"item": 2}
    with pytest.raises(SchemaError):
        evolution.tables({"user": 1})


def test_blocks_say_where_the_inputs_of_a_layer_come_from():
    evolution = plan(OLD, OLD.evolved(drop=["user", "price"], add=[IdFeature("city", 4)]))
    blocks = evolution.blocks(lambda feature: feature.dim - 1)
    assert blocks == [Block(7, 0, 7), Block(-1, 7, 3), Block(15, 10, 1)]


def test_moved_copies_what_has_an_origin_and_leaves_the_rest_fresh():
    old, fresh = torch.arange(6.0).reshape(2, 3), torch.full((2, 4), -1.0)
    result = moved(old, fresh, [Block(1, 0, 2), Block(-1, 2, 1), Block(0, 3, 1)])
    assert result.tolist() == [[1.0, 2.0, -1.0, 0.0], [4.0, 5.0, -1.0, 3.0]]
    assert fresh.unique().tolist() == [-1.0]


def test_moved_refuses_blocks_that_do_not_cover_the_layer():
    with pytest.raises(SchemaError):
        moved(torch.zeros(2, 3), torch.zeros(2, 4), [Block(0, 0, 3)])
    with pytest.raises(SchemaError):
        moved(torch.zeros(3, 3), torch.zeros(2, 3), [Block(0, 0, 3)])


def test_diff_names_the_versions():
    assert diff(OLD, OLD.evolved(drop=["age"])).splitlines()[0] == "schema version 1 -> 2"


def test_other_statistics_are_refused() -> None:
    old = Schema(features=(IdFeature("user", 4),), preparation="a")
    new = Schema(features=(IdFeature("user", 4),), preparation="b", version=2)
    with pytest.raises(SchemaError, match="another meaning"):
        plan(old, new).check()
    assert plan(old, old).unchanged
