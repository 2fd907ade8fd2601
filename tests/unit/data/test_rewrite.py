"""Rows leave a log in use: places stay, values go, and so do the pages that held them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.log import EmbeddedLog
from headrace.data.log_source import LogSource
from headrace.data.rewrite import entries_of, erase_rows, needles_of
from headrace.data.subjects import UserColumns
from headrace.errors import SourceEnded
from headrace.types import Events

USERS = UserColumns(("user",), {"user": 4})
ANN = "ann-of-green-gables"


def shown(start: int, users: list[object], kind: str = "impression") -> Events:
    columns = {"key": [f"k{start + n}" for n in range(len(users))], "kind": [kind] * len(users),
               "event_time": [start + n for n in range(len(users))], "item": ["x"] * len(users)}  # fmt: skip
    return Events.from_columns(columns | ({} if kind == "click" else {"user": pa.array(users)}))


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    log = EmbeddedLog(tmp_path / "events.db", durability="process")
    log.append("events", shown(0, [ANN, "bob", ANN]))
    log.append("events", shown(0, [None, None], "click"))
    log.append_bytes("events", b"raw bytes are left alone")
    log.append("events", shown(10, ["bob", "bo", "anna"]))
    log.append("events", shown(20, [ANN] * 3), closed=True)
    return log


def everything(log: EmbeddedLog) -> list[str]:
    source, rows = LogSource(log, "events"), []
    while True:
        try:
            found = source.read(2)
        except SourceEnded:
            assert source.position() == {"events/0": log.rows("events")}, "every row was passed, erased or not"
            return rows
        rows += [] if found is None else found.column("key").to_pylist()


def test_rows_and_the_actions_on_them_go_and_places_stay(log: EmbeddedLog) -> None:
    before = [(entry.offset, entry.first_row, entry.rows, entry.accepted_time) for entry in entries_of(log, "events")]
    assert erase_rows(log, "events", USERS, [ANN]) == 6
    assert [(e.offset, e.first_row, e.rows, e.accepted_time) for e in entries_of(log, "events")] == before
    assert everything(log) == ["k1", "k1", "k10", "k11", "k12"], "the click on k0 went with its impression"
    assert erase_rows(log, "events", USERS, [ANN]) == 0, "done twice is done once"


def test_only_a_part_of_a_topic(log: EmbeddedLog) -> None:
    assert erase_rows(log, "events", USERS, [ANN], start=1, end=4) == 0
    assert erase_rows(log, "events", USERS, [ANN], end=1) == 2
    assert erase_rows(log, "events", USERS, [ANN], start=1) == 3


def test_no_byte_is_left_in_the_file_nor_beside_it(log: EmbeddedLog) -> None:
    long = "x" * 300_000 + ANN  # goes over many pages
    log.append("other", Events.from_columns({"key": ["k"], "kind": ["impression"], "event_time": [1], "user": [long]}))
    erase_rows(log, "events", USERS, [ANN])
    assert erase_rows(log, "other", USERS, [long]) == 1
    log.trim("events", 1)
    assert log.purge()
    for file in log.path.parent.glob("events.db*"):
        assert ANN.encode() not in file.read_bytes(), file


def test_a_file_of_an_earlier_release_is_written_anew(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "old.db", durability="process")
    with log._database.writing() as connection:
        connection.execute("PRAGMA secure_delete=OFF")
    log._database._writer.execute("PRAGMA secure_delete=OFF")
    for start in range(20):
        log.append("events", shown(start, [f"{ANN}-{'y' * 2000}"] * 3))
    log.trim("events", 19)
    erase_rows(log, "events", USERS, [f"{ANN}-{'y' * 2000}"])
    log.purge()
    log.purge(whole=True)
    assert all(ANN.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_needles_of_integers_are_how_any_column_type_begins() -> None:
    for number in (0, 7, -7, 200, -200, 70_000, 2**40, -(2**62)):
        needle = needles_of(UserColumns(("user",), {}, texts=False), str(number))[-1]
        for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64):
            if np.iinfo(kind).min <= number <= np.iinfo(kind).max:
                assert needle in np.array([number], kind).tobytes(), (number, kind)


def test_integers_are_erased_in_every_column_type(tmp_path: Path) -> None:
    for kind in (pa.int8(), pa.int64(), pa.uint16()):
        log = EmbeddedLog(tmp_path / f"{kind}.db", durability="process")
        rows = shown(0, [1, 2, 1]).with_columns({"user": pa.array([1, 2, 1], kind)})
        log.append("events", rows)
        assert erase_rows(log, "events", USERS, ["1"]) == 2
