"""Who a row is about, and rows of which nothing is left."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.feature_kinds import CrossFeature, IdFeature, SequenceFeature
from headrace.data.features import Schema
from headrace.data.hashing import hash_text
from headrace.data.subjects import ErasureConfig, UserColumns, Veil, integer_of, without_erased, without_rows
from headrace.errors import ConfigError
from headrace.types import Events

BOTH = UserColumns(("user",), {"user": 4})


def rows(users: pa.Array) -> Events:
    count = len(users)
    return Events.from_columns({"key": [f"k{n}" for n in range(count)], "kind": ["impression"] * count,
                                "event_time": list(range(count)), "user": users})  # fmt: skip


def schema(*more: object, **settings: object) -> Schema:
    return Schema(features=(IdFeature("user", 4, **settings), IdFeature("item", 4), *more))


@pytest.mark.parametrize("users", [
    pa.array([7, 8, None, 7]), pa.array(["7", "8", None, "7"]), pa.array(["7", "8", None, "7"]).dictionary_encode(),
    pa.array([7, 8, None, 7], pa.uint64()), pa.array([7, 8, None, 7], pa.int8()),
    pa.array(["7", "8", None, "7"], pa.large_string()),
])  # fmt: skip
def test_a_user_is_found_in_columns_of_any_type(users: pa.Array) -> None:
    batch = rows(users).batch
    assert BOTH.rows(batch, ["7"]).tolist() == [True, False, False, True]
    veil = Veil(b"k" * 32)
    assert BOTH.named(batch, {veil.hash("7")}, veil).tolist() == [True, False, False, True]
    assert not BOTH.named(batch, {Veil(b"x" * 32).hash("7")}, veil).any(), "another key knows nobody"


def test_the_integer_of_a_huge_unsigned_id() -> None:
    batch = rows(pa.array([2**64 - 3, 5], pa.uint64())).batch
    assert BOTH.rows(batch, ["-3"]).tolist() == [True, False], "tables hold it as the int64 of the same bits"


@pytest.mark.parametrize(
    ("name", "accepts", "ids"),
    [("7", "any", {hash_text("7"), 7}), ("7", "string", {hash_text("7")}), ("7", "integer", {7}),
     ("07", "any", {hash_text("07")}), ("-7", "any", {hash_text("-7"), -7}), ("", "any", {hash_text("")})],
)  # fmt: skip
def test_ids_in_tables(name: str, accepts: str, ids: set[int]) -> None:
    users = UserColumns.of(schema(accepts=accepts))
    assert set(users.ids(name)) == ids
    assert users.ids(name) == sorted(ids)


def test_what_only_looks_like_an_integer() -> None:
    assert [integer_of(text) for text in ("٣", "²", "1_0", "+1", " 1", "-0", "0", str(2**63), str(-(2**63)))] == [
        None, None, None, None, None, None, 0, None, -(2**63)]  # fmt: skip


def test_columns_and_tables_of_a_schema() -> None:
    assert UserColumns.of(schema()).names == ("user",)
    shared = Schema(features=(IdFeature("a", 4, table="people"), IdFeature("b", 4, table="people"), IdFeature("i", 2)))
    assert UserColumns.of(shared, ("a", "b")).tables == {"people": 4}
    with pytest.raises(ConfigError, match="table 'people', which it shares"):
        UserColumns.of(shared, ("a",))
    with pytest.raises(ConfigError, match="one of"):
        UserColumns.of(shared, ("c",))
    with pytest.raises(ConfigError, match="a column that names a user"):
        UserColumns.of(shared)


def test_features_whose_rows_could_not_be_found_again_are_refused() -> None:
    with pytest.raises(ConfigError, match="cross"):
        UserColumns.of(schema(CrossFeature("both", 4, of=("user", "item"))))
    with pytest.raises(ConfigError, match="SequenceFeature"):
        UserColumns.of(schema(SequenceFeature("friends", 4)), ("user", "friends"))
    with pytest.raises(ConfigError, match="which it shares"):
        UserColumns.of(schema(SequenceFeature("friends", 4, table="user")))


def test_nothing_of_an_erased_row_is_in_its_bytes() -> None:
    secret, number = "alice-in-chains", 0x1122334455667788
    users = [secret, "bob", secret]
    columns = {"user": pa.array(users), "city": pa.array(users).dictionary_encode(),
               "seen": pa.array([[secret], [], None]), "n": pa.array([number, 2, number]),
               "f": pa.array([1.25, 2.5, 3.75]),
               "deep": pa.array([[[number]], [[1]], []]), "flag": pa.array([True, False, True])}  # fmt: skip
    events = Events.from_columns(
        {"key": [secret, "k", "l"], "kind": ["impression"] * 3, "event_time": [5, 6, 7], **columns}
    )
    erased = without_rows(events, np.array([True, False, True]))
    assert erased.column("kind").to_pylist() == ["erased", "impression", "erased"]
    assert erased.times.tolist() == [5, 6, 7], "positions in time stay true"
    assert erased.batch.schema.field("city").type == events.batch.schema.field("city").type
    raw = erased.to_bytes()
    for needle in (
        secret.encode(),
        number.to_bytes(8, "little"),
        np.float64(3.75).tobytes(),
        np.float64(1.25).tobytes(),
    ):
        assert needle not in raw
    assert without_erased(erased).batch.to_pylist() == events.slice(1, 1).batch.to_pylist()
    assert len(without_erased(events)) == 3


def test_settings_that_cannot_work() -> None:
    for settings in ({"columns": ["user"]}, {"columns": ("",)}, {"within_s": 0}, {"pause_s": -1.0}):
        with pytest.raises(ConfigError):
            ErasureConfig(**settings)
