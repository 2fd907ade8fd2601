"""A join's state as plain values and bytes, and the bytes that hold such a state in a log."""

from __future__ import annotations

import json
import zlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.data.join_columns import Columns
from headrace.data.join_ledger import Ledger
from headrace.data.join_waiting import Actions
from headrace.errors import CorruptSnapshot
from headrace.types import State, StateValue

Integers = npt.NDArray[np.int64]
STATE_ROWS = 1 << 16
MAGIC = b"headrace-state-1\n"


def pending_state(ledger: Ledger) -> list[StateValue]:
    """Return the rows of all pending impressions, from both tiers, in order of arrival, as Arrow IPC streams."""
    numbers, pieces = ledger.pending_numbers(), list[StateValue]()
    for start in range(0, len(numbers), STATE_ROWS):
        pieces.append(write_rows(ledger.rows(numbers[start : start + STATE_ROWS])))
    return pieces


def write_rows(rows: pa.RecordBatch) -> bytes:
    """Return a record batch as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_rows(data: bytes) -> pa.RecordBatch:
    """Return what `write_rows` wrote."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            return reader.read_next_batch()
    except (pa.ArrowInvalid, OSError, StopIteration) as error:
        raise CorruptSnapshot("Join state, pending rows", got=str(error), expected="an Arrow IPC stream") from error


def columns_state(columns: Columns) -> bytes:
    """Return the union of columns as an Arrow schema message."""
    data: bytes = columns.schema.serialize().to_pybytes()
    return data


def read_columns(data: bytes) -> Columns:
    """Return what `columns_state` wrote."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptSnapshot("Join state, columns", got=str(error), expected="an Arrow schema") from error
    return Columns.of(schema)


def actions_state(actions: Actions) -> bytes:
    """Return actions as bytes: four int64 columns one behind the other; their values stand apart (`values_state`)."""
    return np.concatenate([actions.ids, actions.times, actions.accepted, actions.kinds]).tobytes()


def values_state(actions: Actions) -> bytes:
    """Return the values of actions as bytes; none where all are 1, as they are without `JoinConfig.value`."""
    return b"" if (actions.values == 1.0).all() else actions.values.tobytes()


def read_actions(data: bytes, values: bytes = b"") -> Actions:
    """Return what `actions_state` and `values_state` wrote."""
    ids, times, accepted, kinds = np.split(read_integers(data), 4)
    known = np.frombuffer(values, dtype=np.float64).copy() if values else np.ones(len(ids))
    return Actions(ids, times, accepted, kinds, known)


def read_integers(data: bytes) -> Integers:
    """Return int64 values from their bytes, as an array of its own."""
    return np.frombuffer(data, dtype=np.int64).copy()


def encode_state(state: State) -> bytes:
    """Return a state of plain values and bytes as checksummed bytes: JSON, then the byte strings it refers to.

    Example:
        >>> decode_state(encode_state({"rows": [b"abc"], "count": 3}))
        {'rows': [b'abc'], 'count': 3}
    """
    blobs: list[bytes] = []
    head = json.dumps(_without_bytes(state, blobs)).encode()
    body = b"".join([len(head).to_bytes(8, "big"), head, *blobs])
    return MAGIC + zlib.crc32(body).to_bytes(4, "big") + body


def decode_state(data: bytes) -> State:
    """Return what `encode_state` wrote.

    Raises:
        CorruptSnapshot: If the bytes are not such a state or their checksum is wrong.
    """
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC or zlib.crc32(data[start:]) != int.from_bytes(data[len(MAGIC) : start], "big"):
        raise CorruptSnapshot("State", got=f"{len(data)} bytes with a wrong head or checksum", expected="a whole state")
    length = int.from_bytes(data[start : start + 8], "big")
    head = json.loads(data[start + 8 : start + 8 + length])
    state, _ = _with_bytes(head, data, start + 8 + length)
    assert isinstance(state, dict)
    return state


def _without_bytes(value: StateValue, blobs: list[bytes]) -> object:
    if isinstance(value, bytes):
        blobs.append(value)
        return {"": len(value)}  # the empty name marks bytes; no part of a state has it
    if isinstance(value, dict):
        return {name: _without_bytes(item, blobs) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_bytes(item, blobs) for item in value]
    return value


def _with_bytes(value: object, data: bytes, place: int) -> tuple[StateValue, int]:
    if isinstance(value, dict):
        if "" in value:
            return data[place : place + value[""]], place + int(value[""])
        restored: dict[str, StateValue] = {}
        for name, item in value.items():
            restored[name], place = _with_bytes(item, data, place)
        return restored, place
    if isinstance(value, list):
        items: list[StateValue] = []
        for item in value:
            found, place = _with_bytes(item, data, place)
            items.append(found)
        return items, place
    assert value is None or isinstance(value, (bool, int, float, str))
    return value, place
