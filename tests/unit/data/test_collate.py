import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data.collate import Collator, collate, with_predictions
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
from headrace.data.hashing import cross_ids, example_ids, hash_text
from headrace.errors import ConfigError, DataError, JoinError, SchemaError
from headrace.types import Events


def rows(count: int = 3, **columns: object) -> Events:
    given: dict[str, object] = {
        "key": [f"k{n}" for n in range(count)], "kind": ["example"] * count, "event_time": list(range(count)),
        "item": [f"i{n}" for n in range(count)], "label": [float(n % 2) for n in range(count)],
    }  # fmt: skip
    return Events.from_columns({**given, **columns})


def one(feature: object, values: object, **settings: object):
    return collate(rows(len(values), x=values), Schema(features=(feature,)), **settings).ids[feature.name]


def lists(jagged) -> list[list[int]]:
    return [jagged.slice(n, n + 1).values.tolist() for n in range(len(jagged))]


def test_strings_are_hashed_and_integers_are_used_as_they_are():
    assert lists(one(IdFeature("x", 2), ["a", "b"])) == [[hash_text("a")], [hash_text("b")]]
    assert lists(one(IdFeature("x", 2), pa.array([-1, 2**62]))) == [[-1], [2**62]]


def test_unsigned_and_boolean_ids_keep_their_bits():
    assert lists(one(IdFeature("x", 2), pa.array([2**64 - 1], pa.uint64()))) == [[-1]]
    assert lists(one(IdFeature("x", 2), pa.array([True, False]))) == [[1], [0]]


def test_dictionary_columns_read_like_plain_ones():
    assert lists(one(IdFeature("x", 2), pa.array(["a", None]).dictionary_encode())) == [[hash_text("a")], []]
    assert lists(one(IdFeature("x", 2), pa.array([7, 7]).dictionary_encode())) == [[7], [7]]


def test_a_null_id_has_no_row_unless_there_is_a_default():
    assert lists(one(IdFeature("x", 2), pa.array([None, 5, None]))) == [[], [5], []]
    assert lists(one(IdFeature("x", 2, default="?"), pa.array(["a", None]))) == [[hash_text("a")], [hash_text("?")]]
    assert lists(one(IdFeature("x", 2, default=9), pa.nulls(2))) == [[9], [9]]


def test_lists_keep_their_rows_apart():
    column = pa.array([["a", "b"], [], None, ["c"]])
    expected = [[hash_text("a"), hash_text("b")], [], [], [hash_text("c")]]
    assert lists(one(MultiIdFeature("x", 2), column)) == expected


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.int64(), 2)])
def test_every_kind_of_list_is_read(kind):
    assert lists(one(MultiIdFeature("x", 2), pa.array([[1, 2], None, [3, 4]], kind))) == [[1, 2], [], [3, 4]]


def test_slices_of_lists_are_read_from_their_own_start():
    column = pa.array([[1], [2, 3], None, [4]]).slice(1)
    assert lists(one(MultiIdFeature("x", 2), column)) == [[2, 3], [], [4]]


def test_null_and_empty_elements_are_left_out():
    assert lists(one(MultiIdFeature("x", 2), pa.array([["a", None, ""], [None]]))) == [[hash_text("a")], []]


def test_text_is_split_at_the_separator():
    found = lists(one(MultiIdFeature("x", 2, separator="|"), pa.array(["a|b", "", None, "a"])))
    assert found == [[hash_text("a"), hash_text("b")], [], [], [hash_text("a")]]


def test_a_separated_feature_takes_lists_as_well():
    assert lists(one(MultiIdFeature("x", 2, separator="|"), pa.array([["a|b"]]))) == [[hash_text("a|b")]]


def test_a_sequence_keeps_its_newest_ids():
    column = pa.array([[1, 2, 3, 4], [5], [], [6, None, 7, 8]])
    assert lists(one(SequenceFeature("x", 2, max_length=2), column)) == [[3, 4], [5], [], [7, 8]]


def test_text_becomes_lower_case_words_and_the_first_are_kept():
    found = lists(one(TextFeature("x", 2, max_tokens=3), pa.array(["The Ünï-code  film, (1995)!", None, "--"])))
    assert found == [[hash_text(word) for word in ("the", "ünï", "code")], [], []]


def test_a_cross_combines_the_ids_of_its_parts_and_is_empty_where_one_is():
    schema = Schema(features=(IdFeature("a", 2), IdFeature("b", 2), CrossFeature("c", 2, of=("a", "b"))))
    batch = collate(rows(2, a=pa.array([1, 1]), b=pa.array([2, None])), schema)
    assert lists(batch.ids["c"]) == [[int(cross_ids([np.array([1]), np.array([2])])[0])], []]


def test_an_absent_optional_column_reads_as_null():
    features = (IdFeature("a", 2, optional=True), MultiIdFeature("b", 2, optional=True),
                DenseFeature("c", default=4.0, optional=True), IdFeature("d", 2, optional=True, default=3))  # fmt: skip
    batch = collate(rows(2), Schema(features=features))
    assert lists(batch.ids["a"]) == lists(batch.ids["b"]) == [[], []]
    assert batch.dense.tolist() == [[4.0], [4.0]]
    assert lists(batch.ids["d"]) == [[3], [3]]


def test_dense_columns_are_transformed_in_order():
    schema = Schema(features=(
        DenseFeature("b", column="x"), DenseFeature("a", column="x", transform="log1p", default=-2.0),
        DenseFeature("c", column="x", transform="standard", mean=1.0, std=2.0, default=1.0),
    ))  # fmt: skip
    batch = collate(rows(2, x=pa.array([5.0, None])), schema)
    expected = [[5.0, np.log1p(5.0), 2.0], [0.0, -np.log1p(2.0), 0.0]]
    torch.testing.assert_close(batch.dense, torch.tensor(expected, dtype=torch.float32))


def test_integers_and_booleans_are_dense_values_too():
    schema = Schema(features=(DenseFeature("x"), DenseFeature("y")))
    assert collate(rows(2, x=[1, 2], y=[True, False]), schema).dense.tolist() == [[1.0, 1.0], [2.0, 0.0]]


POSITION = Schema(features=(
    IdFeature("item", 2), IdFeature("position", 2, serve_as=1), DenseFeature("place", column="position", serve_as=0.5),
    CrossFeature("both", 2, of=("item", "position")),
))  # fmt: skip


def test_serving_replaces_what_only_the_log_knows():
    batch = collate(rows(2, position=[3, 4]), POSITION, serving=True)
    assert lists(batch.ids["position"]) == [[1], [1]]
    assert batch.dense.tolist() == [[0.5], [0.5]]


def test_a_served_value_enters_crosses():
    logged = collate(rows(2, position=[1, 1]), POSITION)
    served = collate(rows(2, position=[3, 4]), POSITION, serving=True)
    assert lists(served.ids["both"]) == lists(logged.ids["both"])


def test_serving_needs_neither_labels_nor_positions():
    request = Events.from_columns({"key": ["k"], "kind": ["request"], "event_time": [1], "item": ["i"]})
    batch = collate(request, POSITION, serving=True)
    assert torch.isnan(batch.labels).all()
    assert lists(batch.ids["position"]) == [[1]]


def test_a_log_can_be_scored_as_it_was():
    batch = collate(rows(2, position=[3, 4]), POSITION, serving=True, reference=False)
    assert lists(batch.ids["position"]) == [[3], [4]]
    with pytest.raises(SchemaError):
        collate(rows(2), POSITION, serving=True, reference=False)


def test_training_refuses_rows_without_labels():
    unlabelled = Events.from_columns({"key": ["k"], "kind": ["x"], "event_time": [1], "item": ["i"], "position": [1]})
    with pytest.raises(SchemaError) as caught:
        collate(unlabelled, POSITION)
    assert "'label'" in str(caught.value)


def test_columns_of_the_contract_reach_the_batch():
    batch = collate(
        rows(2, position=[1, 2], score=pa.array([0.25, None]), version=pa.array([7, None]), sample_rate=[0.5, 1.0],
             accepted_time=[10, 11], example_id=[1, 2], score_logged=pa.array([None, 0.5]), action_time=[9, 0]),
        POSITION,
    )  # fmt: skip
    assert batch.predictions[0] == 0.25
    assert torch.isnan(batch.predictions[1])
    assert batch.versions.tolist() == [7, -1]
    assert batch.sample_rates.tolist() == [0.5, 1.0]
    assert batch.accepted_times.tolist() == [10, 11]
    assert batch.example_ids.tolist() == [1, 2]
    assert batch.extra["score_logged"][1] == 0.5
    assert batch.extra["action_time"].tolist() == [9, 0]
    assert batch.event_times.tolist() == [0, 1]


def test_what_the_rows_do_not_say_has_defaults():
    events = rows(2, position=[1, 2])
    batch = collate(events, POSITION)
    assert batch.accepted_times.tolist() == [0, 0]
    assert batch.versions.tolist() == [-1, -1]
    assert batch.weights.tolist() == batch.sample_rates.tolist() == [1.0, 1.0]
    assert batch.example_ids.tolist() == example_ids(events.column("key"), events.column("item")).tolist()
    assert dict(batch.extra) == {}


def test_rows_without_an_item_still_have_an_example_id():
    events = Events.from_columns({"key": ["a", "b"], "kind": ["e"] * 2, "event_time": [1, 2], "x": [1, 2]})
    ids = collate(events, Schema(features=(IdFeature("x", 2),)), serving=True).example_ids
    assert ids.tolist() == [hash_text("a\x1f"), hash_text("b\x1f")]


def test_weights_extra_labels_and_scenarios_are_read():
    schema = Schema(features=(IdFeature("item", 2),), weight="w", extra_labels=(Label("liked", ("like",)),),
                    scenario=Scenario("surface", ("home", "search"), default="search"))  # fmt: skip
    batch = collate(rows(3, w=[1.0, 2.0, 3.0], liked=[0, 1, 0], surface=["home", None, "attic"]), schema)
    assert batch.weights.tolist() == [1.0, 2.0, 3.0]
    assert batch.extra["label/liked"].tolist() == [0.0, 1.0, 0.0]
    assert batch.extra["scenario"].tolist() == [0, 1, 1]


def test_a_batch_does_not_write_into_the_events():
    events = rows(2, x=[1, 2])
    batch = collate(events, Schema(features=(IdFeature("x", 2),)))
    batch.ids["x"].values[0] = 99
    batch.event_times[0] = 99
    batch.labels[0] = 99.0
    assert events.column("x").to_pylist() == [1, 2]
    assert events.times[0] == 0
    assert events.column("label")[0].as_py() == 0.0


def test_no_rows_make_an_empty_batch():
    batch = collate(rows(3, position=[1, 2, 3]).slice(0, 0), POSITION)
    assert len(batch) == 0
    assert batch.dense.shape == (0, 1)
    assert batch.ids["item"].offsets.tolist() == [0]


def test_a_score_of_another_type_is_refused():
    with pytest.raises(SchemaError) as caught:
        collate(rows(1, position=[1], score=[["x"]]), POSITION)
    assert "'score'" in str(caught.value)


ITEM = Schema(features=(IdFeature("item", 2),))


def ids_of(batch) -> list[int]:
    return [] if batch is None else batch.example_ids.tolist()


def test_a_collator_gives_multiples_of_its_rows_and_flush_the_rest():
    collator = Collator(ITEM, 4)
    assert collator.add(rows(3)) is None
    assert len(collator.add(rows(10).slice(3))) == 8
    assert len(collator.flush()) == 2
    assert collator.flush() is None


def test_the_cuts_of_a_collator_do_not_depend_on_how_rows_arrive():
    whole, pieces = Collator(ITEM, 3), Collator(ITEM, 3)
    events = rows(10)
    expected = ids_of(whole.add(events))
    found = [number for n in range(10) for number in ids_of(pieces.add(events.slice(n, 1)))]
    assert found == expected
    assert ids_of(pieces.flush()) == ids_of(whole.flush())


def test_a_restored_collator_goes_on_where_the_other_stood():
    first, second = Collator(ITEM, 4), Collator(ITEM, 4)
    events = rows(9)
    first.add(events.slice(0, 7))
    second.restore(first.state())
    assert ids_of(second.add(events.slice(7))) == ids_of(first.add(events.slice(7)))
    assert ids_of(second.flush()) == ids_of(first.flush())


def test_a_collator_refuses_state_cut_for_other_batches():
    first = Collator(ITEM, 4)
    first.add(rows(3))
    with pytest.raises(ConfigError):
        Collator(ITEM, 5).restore(first.state())


def test_a_collator_refuses_a_remainder_that_its_schema_cannot_read():
    first, other = Collator(ITEM, 4), Collator(Schema(features=(IdFeature("user", 2),)), 4)
    first.add(rows(3))
    with pytest.raises(SchemaError):
        other.restore(first.state())
    assert other.flush() is None


def test_a_collator_keeps_what_it_has_when_rows_are_refused():
    collator = Collator(ITEM, 4)
    collator.add(rows(3))
    with pytest.raises(SchemaError):
        collator.add(rows(2, label=[0.0, float("nan")]))
    assert len(collator.flush()) == 3


def test_a_collator_takes_scores_that_answer_its_rows():
    events = rows(2)
    scores = Events.from_columns({"key": ["k0", "k1"], "kind": ["prediction"] * 2, "event_time": [0, 1],
                                  "score": [0.5, 0.75], "version": [3, 3]})  # fmt: skip
    batch = Collator(ITEM, 2).add(events, scores, None)
    assert batch.predictions.tolist() == [0.5, 0.75]
    assert batch.versions.tolist() == [3, 3]


def test_scores_of_other_requests_are_refused():
    with pytest.raises(JoinError):
        with_predictions(rows(2), rows(2).take(np.array([1, 0])))


def test_a_collator_refuses_answers():
    with pytest.raises(JoinError):
        Collator(ITEM, 2).add(rows(2), None, rows(1))
    assert Collator(ITEM, 2).add(rows(2), None, rows(1).slice(0, 0)) is not None


def test_rows_whose_columns_change_type_are_refused():
    collator = Collator(ITEM, 5)
    collator.add(rows(2))
    with pytest.raises(DataError):
        collator.add(rows(2, item=[1, 2]))


@pytest.mark.parametrize("count", [0, -1])
def test_a_collator_needs_a_positive_number_of_rows(count):
    with pytest.raises(ConfigError):
        Collator(ITEM, count)


def slow_lists(rows, limit, keep_last):
    """The specification of list features, row by row."""
    found = []
    for row in rows:
        ids = [value if isinstance(value, int) else hash_text(value) for value in row or [] if value not in (None, "")]
        found.append(ids if limit is None else (ids[-limit:] if keep_last else ids[:limit]))
    return found


WORD = st.none() | st.sampled_from(["", "a", "b", "ü", "long word"])
WORDS = st.lists(st.none() | st.lists(WORD, max_size=6), max_size=8)
NUMBERS = st.lists(st.none() | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=6), max_size=8)


@settings(max_examples=60, deadline=None)
@given(values=WORDS | NUMBERS, limit=st.integers(1, 4), skip=st.integers(0, 3))
def test_lists_equal_their_specification(values, limit, skip):
    kind = pa.list_(pa.int64() if any(isinstance(v, int) for row in values for v in row or []) else pa.string())
    column = pa.array(values, kind).slice(skip)
    rest = values[skip:]
    assert lists(one(MultiIdFeature("x", 2), column)) == slow_lists(rest, None, False)
    assert lists(one(SequenceFeature("x", 2, max_length=limit), column)) == slow_lists(rest, limit, True)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(WORD, max_size=9), default=st.none() | st.sampled_from(["?", "a"]))
def test_single_ids_equal_their_specification(values, default):
    expected = [[hash_text(v)] if v is not None else ([] if default is None else [hash_text(default)]) for v in values]
    assert lists(one(IdFeature("x", 2, default=default), pa.array(values, pa.string()))) == expected
