"""Raw columns as codes of their distinct values: the form in which rows are counted, stored and given ids.

All work per row is done by Arrow and NumPy on whole columns; work on text is done once per distinct value of a piece.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.hashing import is_text
from headrace.data.prepare_columns import Categories, Category, Column, History, LogBins, Preparation
from headrace.data.validation import is_list
from headrace.errors import SchemaError, nearest

CODES = pa.dictionary(pa.int32(), pa.string())
MAX_RANGE = 1 << 16
"""Bins this close together are counted by place instead of being looked up."""

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]


def encode(batch: pa.RecordBatch, column: Column, *, absent: bool = False) -> pa.Array:
    """Return one raw column of N rows in the form that it is counted in.

    Args:
        batch: Raw rows.
        column: What to make of which column.
        absent: A column that is not there is read as nulls, whatever the column says.

    Returns:
        `Category`, `LogBins`: dictionary<int32, string> (N,), null where missing. `Categories`, `History`: lists of
        such. `Number`, `QuantileBins`: float32 (N,), null where missing.

    Raises:
        SchemaError: If the column is not there, is of another type, or holds NaN or infinity.
    """
    at = batch.schema.get_field_index(column.column)
    if at < 0:
        if not column.optional and not absent:
            raise SchemaError(f"Column '{column.column}'", got="no such column",
                              expected=f"{nearest(column.column, batch.schema.names)} (read by '{column.name}')",
                              do="Add it, or say `optional=True` to read it as missing.")  # fmt: skip
        raw = pa.nulls(batch.num_rows)
    else:
        raw = batch.column(at)
    if isinstance(column, Category):
        return _codes(raw, column.column)
    if isinstance(column, (Categories, History)):
        return _lists(raw, column)
    numbers = _numbers(raw, column.column)
    return _bins(numbers) if isinstance(column, LogBins) else numbers


def encode_all(batch: pa.RecordBatch, preparation: Preparation, carried: tuple[str, ...]) -> pa.RecordBatch:
    """Return all columns of a preparation in the form that they are counted in, and `carried` columns as they are."""
    arrays = [encode(batch, column) for column in preparation.columns]
    names = [column.name for column in preparation.columns]
    labels = (preparation.label, *preparation.extra_labels)
    for name in dict.fromkeys((*labels, *preparation.keep, *carried)):
        at = batch.schema.get_field_index(name)
        if at < 0:
            raise SchemaError(f"Column '{name}'", got="no such column", expected=nearest(name, batch.schema.names))
        arrays.append(_labels(batch.column(at), name, extra=name != labels[0]) if name in labels else batch.column(at))
        names.append(f"{CARRIED}{name}")
    return pa.RecordBatch.from_arrays(arrays, names=names)


CARRIED = "\x1f"
"""Stands before the names of carried columns of encoded rows, which a prepared column may also have."""


def text_keys(texts: pa.Array) -> Keys:
    """Return a 64-bit key of every text (N,): the same text, the same key, on every machine.

    Not made against people who look for collisions; among 10 million values one is expected once in 370,000 tries.
    Cost: about 30 ns per text of 8 bytes; no Python object is made.
    """
    if not len(texts):
        return np.zeros(0, dtype=np.uint64)
    starts, lengths = _places(texts)
    data = text_bytes(texts)
    padded = np.zeros(len(data) + 8, dtype=np.uint8)
    padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    words = np.ndarray((len(data) + 1,), dtype="<u8", buffer=padded.data, strides=(1,))  # the word from every byte on
    keys = _mixed(lengths.astype(np.uint64))
    active = np.flatnonzero(lengths > 0)
    for word in range(int(-(-lengths.max() // 8))):
        if word:
            active = active[lengths[active] > 8 * word]
        rest = lengths[active] - 8 * word
        bits = np.where(rest >= 8, 0, 64 - 8 * rest).astype(np.uint64)
        value = words[starts[active] + 8 * word] & (np.uint64(2**64 - 1) >> bits)
        keys[active] = _mixed(keys[active] ^ _mixed(value))
    return keys


def text_bytes(texts: pa.Array) -> memoryview:
    """Return the bytes of all texts of a string array, one behind another."""
    data = texts.buffers()[2]
    if data is None or not len(texts):
        return memoryview(b"")
    begin, end = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, 4 * texts.offset)[[0, -1]].tolist()
    return memoryview(data)[begin:end]


def _places(texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where each text starts among `text_bytes`, and its length; both (N,)."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, 4 * texts.offset).astype(np.int64)
    return offsets[:-1] - offsets[0], np.diff(offsets)


def _mixed(values: Keys) -> Keys:
    """Apply splitmix64's finaliser, a bijection on 64 bits."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _codes(raw: pa.Array, name: str) -> pa.Array:
    """Return text or whole numbers as codes of their texts; null and empty are null."""
    kind = raw.type
    if pa.types.is_null(kind):
        return pa.DictionaryArray.from_arrays(pa.nulls(len(raw), pa.int32()), pa.array([], pa.string()))
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (is_text(inner) or pa.types.is_integer(inner) or pa.types.is_boolean(inner)):
        raise _wrong(name, kind, "text or whole numbers", "Prepare numbers with `Number`, `LogBins` or `QuantileBins`.")
    encoded = raw if pa.types.is_dictionary(kind) else raw.dictionary_encode()
    indices, values = encoded.indices.cast(pa.int32()), encoded.dictionary.cast(pa.string())
    empty = np.flatnonzero(_places(values)[1] == 0) if len(values) else ()
    for place in empty:  # one at most, unless the file had a dictionary with the same value twice
        indices = pc.if_else(pc.equal(indices, pa.scalar(int(place), pa.int32())), pa.scalar(None, pa.int32()), indices)
    return pa.DictionaryArray.from_arrays(indices, values)


def _lists(raw: pa.Array, column: Categories | History) -> pa.Array:
    kind = raw.type
    if pa.types.is_dictionary(kind):
        raw = raw.dictionary_decode()
        kind = raw.type
    if pa.types.is_null(kind):
        raw = raw.cast(pa.list_(pa.string()))
    elif is_text(kind):
        raw = pc.split_pattern(raw, column.separator)
    elif not is_list(kind):
        raise _wrong(column.column, kind, f"lists, or text separated by {column.separator!r}", "")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(raw), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
    codes = _codes(raw.flatten(), column.column)  # leaves out what lies under null rows
    keep = np.asarray(codes.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    found = np.bincount(owners[keep], minlength=len(lengths)).astype(np.int64)
    place = np.cumsum(keep) - 1 - np.repeat(np.cumsum(found) - found, lengths)  # among the row's present values
    limit = column.max_length
    fits = place < limit if isinstance(column, Categories) else place >= np.repeat(found, lengths) - limit
    keep &= fits
    lengths = np.minimum(found, limit)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), codes.filter(pa.array(keep)))


def _numbers(raw: pa.Array, name: str) -> pa.Array:
    """Return numbers as float32: what a file holds and what a request holds are then the same."""
    kind = raw.type
    if pa.types.is_dictionary(kind):
        raw = raw.dictionary_decode()
        kind = raw.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not number and not pa.types.is_null(kind):
        raise _wrong(name, kind, "numbers", "Name the type in the layout of the file, or prepare it as a `Category`.")
    numbers = raw.cast(pa.float32(), safe=False)
    if numbers.null_count < len(numbers) and not pc.all(pc.is_finite(numbers)).as_py():
        row = int(np.flatnonzero(pc.fill_null(pc.invert(pc.is_finite(numbers)), False))[0])
        raise SchemaError(f"Column '{name}', row {row}", got=raw[row].as_py(), expected="a finite number",
                          do="Write null for an unknown value.")  # fmt: skip
    return numbers


def log_bins(values: Floats) -> npt.NDArray[np.int64]:
    """Return floor(ln(v)²) of values above 2, others cut to whole numbers.

    Example:
        >>> log_bins(np.array([-1.0, 0.0, 2.0, 3.0, 100.0], np.float32)).tolist()
        [-1, 0, 2, 1, 21]
    """
    wide = values.astype(np.float64)
    logs = np.log(np.maximum(wide, 2.0))
    return np.where(wide > 2.0, np.floor(logs * logs), np.trunc(wide)).astype(np.int64)


def _bins(numbers: pa.Array) -> pa.Array:
    bins = log_bins(np.asarray(pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False), dtype=np.float32))
    missing = np.asarray(numbers.is_null().to_numpy(zero_copy_only=False)) if numbers.null_count else None
    low = int(bins.min(initial=0))
    if int(bins.max(initial=0)) - low >= MAX_RANGE:
        return _codes(pa.array(bins, mask=missing), "")
    place = bins - low
    codes = np.cumsum(present := np.bincount(place, minlength=1) > 0, dtype=np.int32) - 1
    texts = pa.array(np.flatnonzero(present) + low).cast(pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes[place].astype(np.int32), mask=missing), texts)


def _labels(column: pa.Array, name: str, *, extra: bool) -> pa.Array:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise _wrong(name, column.type, "numbers", "It is a label: name its type in the layout of the file.")
    values = column.cast(pa.float32())
    if not extra and (values.null_count or not pc.all(pc.is_finite(values)).as_py()) and len(values):
        bad = pc.fill_null(pc.invert(pc.is_finite(values)), True)
        row = int(np.flatnonzero(bad.to_numpy(zero_copy_only=False))[0])
        raise SchemaError(f"Column '{name}', row {row} of a piece", got=values[row].as_py(), expected="a finite number",
                          do="Rows without a label cannot be learned from; drop them.")  # fmt: skip
    return values


def _wrong(name: str, got: pa.DataType, expected: str, do: str) -> SchemaError:
    return SchemaError(f"Column '{name}'", got=f"type {got}", expected=expected, do=do or "Cast the column.")
