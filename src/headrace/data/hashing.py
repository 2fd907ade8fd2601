"""Stable 64-bit ids from strings: the same text is the same id in every process, on every machine, for ever.

Ids are the first 8 bytes of BLAKE2b, little endian, signed. Python's own `hash` is seeded per process and of no use
here; a 64-bit cryptographic hash makes collisions so rare (one expected pair among 6 billion ids) that the tables may
be called collisionless.
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import SchemaError

Ids = npt.NDArray[np.int64]
SEPARATOR = "\x1f"
"""Stands between request key and item in an example id; the ASCII unit separator, which no sane key contains."""

MEMO_ROWS = 1 << 18
"""How many hashed strings a process remembers; beyond it the memory is emptied and filled again."""

_memo: dict[bytes | None, int] = {}
_memo_lock = threading.Lock()


def _digest(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little", signed=True)


def hash_text(text: str) -> int:
    """Return the id of one string.

    Example:
        >>> hash_text("user-1")
        -8583321985082544998
    """
    return _digest(text.encode())


def hash_strings(array: pa.Array) -> Ids:
    """Return the id of every string of an array; a null becomes 0, so mask nulls where 0 could be mistaken for an id.

    Cost: one hash per distinct value of the array that the bounded memory does not hold, O(rows) in Arrow otherwise.

    Args:
        array: A string, large string, binary or dictionary-encoded string array of N rows.

    Returns:
        (N,) int64.

    Raises:
        SchemaError: If the array holds something else than strings.
    """
    if pa.types.is_null(array.type):
        return np.zeros(len(array), dtype=np.int64)
    encoded = array if pa.types.is_dictionary(array.type) else None
    kind = array.type.value_type if encoded is not None else array.type
    if not is_text(kind) and not pa.types.is_binary(kind):
        raise SchemaError("hash_strings", got=f"an array of {array.type}", expected="strings")
    if encoded is None:
        encoded = array.dictionary_encode()
    distinct = encoded.dictionary.cast(pa.binary()).to_pylist()
    table: Ids = np.zeros(len(distinct) + 1, dtype=np.int64)  # the last one stands for null
    table[:-1] = _remembered(distinct)
    rows: Ids = pc.fill_null(encoded.indices.cast(pa.int64()), len(distinct)).to_numpy(zero_copy_only=False)
    return table[rows]


def _remembered(values: list[bytes | None]) -> list[int]:
    """Return the ids of values, hashing only those that the memory does not hold."""
    found = list(map(_memo.get, values))
    missing = [place for place, value in enumerate(found) if value is None]
    if missing:
        if len(_memo) + len(missing) > MEMO_ROWS:
            with _memo_lock:  # two threads that both find it full must not clear what the other just filled
                if len(_memo) + len(missing) > MEMO_ROWS:
                    _memo.clear()
        for place in missing:
            value = values[place] or b""
            found[place] = number = _digest(value)
            if len(_memo) < MEMO_ROWS:
                _memo[value] = number
    return found  # type: ignore[return-value]  # no None is left


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def example_ids(keys: pa.Array, items: pa.Array) -> Ids:
    r"""Return the id of every (request key, item) pair: the BLAKE2b of key, unit separator and item.

    The joiner, the learner's ledger and the replay of a log all name an example by this number.

    Args:
        keys: Request keys, (N,) strings.
        items: Items, (N,) strings; a null counts as the empty string.

    Returns:
        (N,) int64.

    Example:
        >>> example_ids(pa.array(["r1"]), pa.array(["i1"])).tolist() == [hash_text("r1\x1fi1")]
        True
    """
    texts = [column.cast(pa.string()) for column in (keys, items)]
    joined = pc.binary_join_element_wise(*texts, SEPARATOR, null_handling="replace", null_replacement="")
    values = joined.cast(pa.binary()).to_pylist()
    digests = b"".join([hashlib.blake2b(value, digest_size=8).digest() for value in values])
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def cross_ids(parts: list[Ids]) -> Ids:
    """Return one id per row for a tuple of ids; the order of the parts matters.

    Shapes: each part (N,) int64 -> (N,) int64.
    """
    mixed = np.full(parts[0].shape, 0x9E3779B97F4A7C15, dtype=np.uint64)
    for part in parts:
        mixed = _scramble(mixed ^ _scramble(part.view(np.uint64)))
    return mixed.view(np.int64)


def _scramble(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply splitmix64's finaliser, a bijection on 64 bits: distinct ids stay distinct."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
