import hashlib

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import hashing
from headrace.data.hashing import cross_ids, example_ids, hash_strings, hash_text
from headrace.errors import SchemaError


def blake(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def test_a_string_becomes_the_signed_little_endian_blake2b_of_its_utf8():
    assert hash_strings(pa.array(["a", "ü", ""])).tolist() == [blake("a"), blake("ü"), blake("")]


def test_the_id_of_one_text_equals_the_id_in_an_array():
    assert hash_text("user-1") == hash_strings(pa.array(["user-1"]))[0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_every_way_to_hold_text_gives_the_same_ids(kind):
    array = pa.array(["x", "y", "x"]).cast(kind)
    assert hash_strings(array).tolist() == [blake("x"), blake("y"), blake("x")]


def test_nulls_read_zero_and_do_not_shift_the_others():
    assert hash_strings(pa.array([None, "x", None, "y"])).tolist() == [0, blake("x"), 0, blake("y")]


def test_a_column_of_nulls_and_an_empty_column_are_fine():
    assert hash_strings(pa.nulls(2)).tolist() == [0, 0]
    assert hash_strings(pa.array([], pa.string())).shape == (0,)


def test_a_slice_hashes_like_the_rows_it_shows():
    assert hash_strings(pa.array(["a", "b", "c"]).slice(1)).tolist() == [blake("b"), blake("c")]


def test_numbers_are_refused():
    with pytest.raises(SchemaError) as caught:
        hash_strings(pa.array([1, 2]))
    assert "int64" in str(caught.value)


def test_forgetting_remembered_strings_changes_nothing(monkeypatch):
    monkeypatch.setattr(hashing, "MEMO_ROWS", 2)
    monkeypatch.setattr(hashing, "_memo", {})
    texts = [f"t{n}" for n in range(20)]
    assert hash_strings(pa.array(texts)).tolist() == [blake(text) for text in texts]
    assert len(hashing._memo) <= 2


def test_an_example_id_is_the_hash_of_key_separator_item():
    assert example_ids(pa.array(["k", "k"]), pa.array(["i", None])).tolist() == [blake("k\x1fi"), blake("k\x1f")]


def test_example_ids_of_dictionary_columns_equal_those_of_plain_ones():
    keys, items = pa.array(["k", "l"]), pa.array(["i", "j"])
    assert np.array_equal(example_ids(keys.dictionary_encode(), items.dictionary_encode()), example_ids(keys, items))


def test_a_cross_depends_on_the_order_of_its_parts_and_hardly_collides():
    left, right = np.repeat(np.arange(200), 200), np.tile(np.arange(200), 200)
    assert not np.array_equal(cross_ids([left, right]), cross_ids([right, left]))
    assert len(np.unique(cross_ids([left, right]))) == 200 * 200


def test_a_cross_is_the_same_number_everywhere():
    assert cross_ids([np.array([1]), np.array([2])]).tolist() == [8516054562559866034]
