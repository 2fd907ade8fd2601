"""The parts of the join: disk tier, waiting actions, and the bytes of its state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.join_columns import Columns
from headrace.data.join_state import MAGIC, decode_state, encode_state, read_columns, read_rows
from headrace.data.join_waiting import Actions, WaitingActions
from headrace.data.spill import PIECE_ROWS, DiskTier
from headrace.errors import CorruptSnapshot, StoreError


def rows(count: int, first: int = 0) -> pa.RecordBatch:
    numbers = list(range(first, first + count))
    return pa.record_batch({"number": numbers, "text": [f"row {number}" for number in numbers]})


def actions(*triples: tuple[int, int, int]) -> Actions:
    ids, times, kinds = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    return Actions(ids, times, times + 100, kinds)


def test_the_disk_tier_gives_rows_back_in_the_order_asked(tmp_path: Path) -> None:
    tier, count = DiskTier(tmp_path), 3 * PIECE_ROWS + 7
    tier.put(1000, rows(count))
    wanted = np.array([count - 1, 0, PIECE_ROWS, PIECE_ROWS - 1, 2 * PIECE_ROWS + 5, 0])
    assert tier.take(1000, wanted).column("number").to_pylist() == wanted.tolist()
    tier.close()


def test_the_disk_tier_keeps_what_was_put_apart_apart(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path)
    tier.put(0, rows(600))
    tier.put(600, rows(600, first=10_000))
    tier.drop(0, 600)
    assert tier.take(600, np.array([599])).column("text").to_pylist() == ["row 10599"]
    with pytest.raises(StoreError, match="no rows at 0"):
        tier.take(0, np.array([0]))
    tier.close()


def test_a_disk_tier_starts_empty(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path)
    tier.put(0, rows(5))
    del tier  # as after a crash: nobody closed it
    again = DiskTier(tmp_path)
    again.put(100, rows(1))
    with pytest.raises(StoreError, match="no rows at 0"):
        again.take(0, np.array([0]))
    again.close()


def test_waiting_actions_are_claimed_in_order_of_arrival() -> None:
    waiting = WaitingActions()
    waiting.add(actions((1, 30, 0), (2, 10, 0), (1, 20, 0)))
    claimed = waiting.claim(np.array([1, 5]))
    assert claimed.times.tolist() == [30, 20]
    assert (len(waiting), waiting.earliest) == (1, 10)


def test_a_repeat_of_a_waiting_action_is_left_out_until_it_was_claimed() -> None:
    waiting, action = WaitingActions(), actions((1, 30, 0))
    assert waiting.add(action) == 0
    assert waiting.add(action) == 1
    waiting.claim(np.array([1]))
    assert waiting.add(action) == 0


def test_an_action_of_another_kind_or_time_is_no_repeat() -> None:
    waiting = WaitingActions()
    assert waiting.add(actions((1, 30, 0), (1, 30, 1), (1, 31, 0), (2, 30, 0), (1, 30, 0))) == 1
    assert len(waiting) == 4


def test_waiting_actions_expire_by_their_time() -> None:
    waiting = WaitingActions()
    waiting.add(actions((1, 30, 0), (2, 10, 0), (3, 20, 0)))
    assert [waiting.expire(9), waiting.expire(20), waiting.expire(20)] == [0, 2, 0]
    assert waiting.actions.ids.tolist() == [1]


def test_a_state_comes_back_from_its_bytes() -> None:
    state = {"none": None, "flag": True, "text": "t", "list": [1, b"one", [b"", 2.5]], "inner": {"bytes": b"two"}}
    assert decode_state(encode_state(state)) == state


@pytest.mark.parametrize("place", [0, len(MAGIC) + 1, len(MAGIC) + 6, 40, -1])
def test_a_damaged_state_is_found(place: int) -> None:
    data = bytearray(encode_state({"rows": [b"some bytes of a state"], "count": 3}))
    data[place] ^= 1
    with pytest.raises(CorruptSnapshot, match="checksum"):
        decode_state(bytes(data))


def test_a_cut_state_is_found() -> None:
    with pytest.raises(CorruptSnapshot):
        decode_state(encode_state({"rows": b"some bytes"})[:-1])


def test_pending_rows_that_are_no_arrow_stream_are_found() -> None:
    with pytest.raises(CorruptSnapshot, match="pending rows"):
        read_rows(b"nonsense")
    with pytest.raises(CorruptSnapshot, match="columns"):
        read_columns(b"nonsense")


def test_columns_keep_the_order_of_first_sight() -> None:
    columns = Columns()
    for batch in (pa.record_batch({"b": [1]}), pa.record_batch({"a": ["x"], "b": [2], "label": [1.0]})):
        columns.admit(columns.checked(batch))
    assert columns.schema.names == ["key", "event_time", "item", "b", "a"]
    assert columns.conform(pa.record_batch({"b": [7]})).to_pylist() == [
        {"key": None, "event_time": None, "item": None, "b": 7, "a": None}
    ]
