"""Reads Arrow streams that strangers send: nothing is unpacked before its size is known, nothing is used unchecked."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from headrace.errors import SchemaError

WHAT = "Arrow body"
_RECORDS, _DICTIONARY = 3, 2
_PLAIN = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean,
    pa.types.is_null,
)  # fmt: skip


def read_table(body: bytes, *, max_rows: int) -> pa.Table:
    """Return the rows of an Arrow IPC stream, every buffer checked.

    Columns hold strings, integers, floats, booleans, or lists of these. Compressed and dictionary-encoded streams are
    refused: a few bytes of either can unpack to more memory than the machine has.

    Raises:
        SchemaError: If it is no such stream, or has more than `max_rows` rows.
    """
    try:
        _refuse_packed(body)
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            _check_types(reader.schema)
            batches, rows = [], 0
            for batch in reader:
                rows += batch.num_rows
                if rows > max_rows:
                    raise SchemaError(WHAT, got=f"more than {max_rows} rows", do="Send them in several requests.",
                                      expected=f"at most {max_rows} in one request")  # fmt: skip
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, schema=reader.schema).combine_chunks()
    except (pa.ArrowException, OSError, struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise SchemaError(WHAT, got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                          expected="an Arrow IPC stream of record batches") from error  # fmt: skip


def _check_types(schema: pa.Schema) -> None:
    if len(set(schema.names)) != len(schema.names):
        raise SchemaError(WHAT, got=f"columns {schema.names}", expected="every column once")
    for field in schema:
        kind = field.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        if not any(test(kind) for test in _PLAIN):
            raise SchemaError(f"{WHAT}, column '{field.name}'", got=f"type {field.type}",
                              expected="strings, integers, floats, booleans or lists of them",
                              do="Decode dictionaries and write times as int64 microseconds.")  # fmt: skip


def _refuse_packed(body: bytes) -> None:
    """Look at the message headers alone. pyarrow has checked that they are whole flatbuffers before it returns them."""
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        header = _Flat(message.metadata.to_pybytes()).root()
        kind = header.byte(1)
        if kind == _DICTIONARY:
            raise SchemaError(WHAT, got="dictionary-encoded columns", expected="plain columns",
                              do="Decode them before sending.")  # fmt: skip
        if kind == _RECORDS and header.table(2).has(3):
            raise SchemaError(WHAT, got="compressed buffers", expected="an uncompressed stream",
                              do="Write it without compression.")  # fmt: skip


class _Flat:
    """Just enough of the flatbuffers format to read one field of a table by its number."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def root(self) -> _Flat:
        return _Flat(self.data, self._read("<I", 0))

    def table(self, field: int) -> _Flat:
        place = self._place(field)
        return _Flat(self.data, place + self._read("<I", place))

    def byte(self, field: int) -> int:
        place = self._place(field)
        return self.data[place] if place else 0

    def has(self, field: int) -> bool:
        return bool(self._place(field))

    def _place(self, field: int) -> int:
        index = self.at - self._read("<i", self.at)
        inside = 4 + 2 * field < self._read("<H", index)
        offset = self._read("<H", index + 4 + 2 * field) if inside else 0
        return self.at + offset if offset else 0

    def _read(self, form: str, at: int) -> Any:
        if at < 0:
            raise IndexError("a place before the beginning")
        return struct.unpack_from(form, self.data, at)[0]
