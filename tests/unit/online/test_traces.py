"""The scanner finds a user wherever something may be left, and takes nobody else for them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from headrace.data.hashing import hash_text
from headrace.data.join_state import encode_state
from headrace.data.log import EmbeddedLog
from headrace.data.subjects import UserColumns
from headrace.errors import DataError
from headrace.learn import ManifestCheckpoint
from headrace.online.traces import find_traces, rows_held
from headrace.publish import Snapshots, encode
from headrace.store import ReferenceTable, TableConfig
from headrace.types import Change, Events, RowChange, Version

USERS = UserColumns(("user",), {"user": 2})
NAME, LONGER = "member-0042", "member-00421"
HASH = hash_text(NAME)


def forms(folder: Path, name: str = NAME, users: UserColumns | None = USERS) -> set[str]:
    return {trace.form for trace in find_traces(folder, name, users).traces}


def events(*users: object) -> Events:
    count = len(users)
    return Events.from_columns({"key": ["k"] * count, "kind": ["impression"] * count, "event_time": [1] * count,
                                "user": pa.array(users)})  # fmt: skip


def change(*ids: int, removed: tuple[int, ...] = (), full: bool = False) -> Change:
    rows = RowChange(torch.tensor(sorted(ids), dtype=torch.int64), torch.ones(len(ids), 2),
                     torch.tensor(removed, dtype=torch.int64))  # fmt: skip
    return Change(version=Version(0), tables={"user": rows}, full=full)


def log_with(path: Path, *rows: Events) -> EmbeddedLog:
    log = EmbeddedLog(path / "events.db", durability="process")
    for one in rows:
        log.append("events", one)
    return log


def test_a_clean_folder_is_clean(tmp_path: Path) -> None:
    log_with(tmp_path, events(LONGER, "other", "member"))
    Snapshots(tmp_path / "snapshots").write(change(1, 2, 3, full=True))
    ManifestCheckpoint(tmp_path / "checkpoint").save({"learner": {"rest": events(LONGER).to_bytes()}})
    (tmp_path / "run.json").write_text('{"note": "member-00421 is another one"}')
    scan = find_traces(tmp_path, NAME, USERS)
    assert (scan.traces, scan.unreadable) == ([], [])
    assert scan.entries == 3
    assert scan.files >= 6
    assert forms(tmp_path, LONGER) >= {"row", "text"}


@pytest.mark.parametrize("rows", [
    events(NAME), events("x", NAME, None), events(LONGER, NAME),
    events("x").with_columns({"note": pa.array([NAME])}),
    events("x").with_columns({"friends": pa.array([["y", NAME]])}),
    events("x").with_columns({"city": pa.array([NAME]).dictionary_encode()}),
])  # fmt: skip
def test_rows_of_a_log(tmp_path: Path, rows: Events) -> None:
    log_with(tmp_path, rows)
    assert "row" in forms(tmp_path)


def test_what_is_left_of_a_log_after_its_rows_are_gone(tmp_path: Path) -> None:
    log = log_with(tmp_path, *[events(*[f"{NAME}"] * 400) for _ in range(20)], events(LONGER))
    log._database._writer.execute("PRAGMA secure_delete=OFF")
    with log._database.writing() as connection:
        connection.execute('DELETE FROM entries WHERE "offset" < 20')
    assert forms(tmp_path) == {"text"}, "in free pages, or in the write-ahead log"
    assert log.purge(whole=True)
    assert forms(tmp_path) == set()


def test_a_value_that_goes_over_pages_is_found(tmp_path: Path) -> None:
    path = tmp_path / "any.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=4096")
    connection.execute("CREATE TABLE t (value BLOB)")
    for pad in range(4060, 4100):
        connection.execute("INSERT INTO t VALUES (?)", (b"." * (3 * 4092 + pad) + NAME.encode(),))
    connection.commit()
    found = [trace for trace in find_traces(tmp_path, NAME, USERS).traces if trace.form == "text"]
    assert any("40 times" in trace.where for trace in found), found


@pytest.mark.parametrize("content", [
    lambda: change(HASH), lambda: change(1, HASH), lambda: change(1, removed=(HASH,)),
])  # fmt: skip
def test_versions(tmp_path: Path, content) -> None:
    (tmp_path / "a.change").write_bytes(encode(content()))
    assert forms(tmp_path) >= {"row", "hash"}
    log = EmbeddedLog(tmp_path / "sub" / "changes.db", durability="process")
    log.append_bytes("changes", encode(content()))
    assert forms(tmp_path / "sub") >= {"row"}


def test_states_and_checkpoints(tmp_path: Path) -> None:
    table = ReferenceTable(TableConfig(name="user", dim=2))
    table.assign(torch.tensor([HASH]), torch.ones(1, 2))
    ManifestCheckpoint(tmp_path / "checkpoint").save({"learner": {"tables": {"user": table.state()}}})
    assert forms(tmp_path) >= {"state", "hash"}
    rest = {"batch_rows": 8, "rest": events(NAME).to_bytes()}
    ManifestCheckpoint(tmp_path / "two" / "checkpoint").save({"joiner": rest})
    assert forms(tmp_path / "two") >= {"state", "text"}
    log = EmbeddedLog(tmp_path / "three" / "examples.db", durability="process")
    with log.transaction() as write:
        write.put_state("joiner/state", encode_state({"join": rest}))
    assert forms(tmp_path / "three") >= {"state", "text"}


@pytest.mark.parametrize(("text", "form"), [
    (NAME, "text"), (f"ids: {HASH}", "hash in digits"), (HASH.to_bytes(8, "little", signed=True), "hash"),
])  # fmt: skip
def test_files_of_any_kind(tmp_path: Path, text: str | bytes, form: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "notes.bin").write_bytes(b"\x00\x01" + data + b"\x00")
    assert forms(tmp_path) == {form}


def test_texts_that_json_writes_in_another_way(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"who": "J\\u00f6rg-1"}')
    assert forms(tmp_path, "Jörg-1") == {"text in JSON"}


@pytest.mark.parametrize("piece", [1, 8192, 3 * 8192, 1 << 20])
def test_pieces_of_a_large_file(tmp_path: Path, monkeypatch, piece: int) -> None:
    monkeypatch.setattr("headrace.online.traces.PIECE_BYTES", piece)
    log = EmbeddedLog(tmp_path / "any.db", durability="process")
    for pad in range(40):
        log.append_bytes("t", b"." * (3 * 8188 + 199 * pad) + NAME.encode())
    log.append_bytes("t", b"x" * 50_000 + LONGER.encode())
    log.append("t", events(LONGER))
    log.purge()
    found = [trace.where for trace in find_traces(tmp_path, NAME, USERS).traces if trace.path.endswith(".db")]
    assert found == ["40 times in its bytes"]


def test_small_integers_are_looked_for_where_they_mean_a_user(tmp_path: Path) -> None:
    log = log_with(tmp_path, events(8, 9).with_columns({"item": pa.array([7, 7])}))
    table = RowChange(torch.tensor([7]), torch.ones(1, 2), torch.tensor([], dtype=torch.int64))
    other = Change(version=Version(0), tables={"item": table})
    (tmp_path / "a.change").write_bytes(encode(other))
    assert forms(tmp_path, "7") == set()
    log.append("events", events(7))
    (tmp_path / "b.change").write_bytes(encode(change(7)))
    found = find_traces(tmp_path, "7", USERS).traces
    assert sorted(Path(trace.path).name for trace in found) == ["b.change", "events.db"]


def test_large_integers_are_found_anywhere(tmp_path: Path) -> None:
    number = 1 << 50 | 12345
    (tmp_path / "x.bin").write_bytes(b"..." + number.to_bytes(8, "little"))
    assert forms(tmp_path, str(number)) == {"integer"}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    data = bytearray(encode(change(1, 2)))
    data[40] ^= 1
    (tmp_path / "a.change").write_bytes(data)
    assert find_traces(tmp_path, NAME, USERS).unreadable == [str(tmp_path / "a.change")]
    with pytest.raises(DataError, match="no such folder"):
        find_traces(tmp_path / "nowhere", NAME)


def test_rows_in_memory() -> None:
    table = ReferenceTable(TableConfig(name="user", dim=2), serving=True)
    assert rows_held({"user": table}, USERS, NAME) == []
    table.assign(torch.tensor([HASH]), torch.ones(1, 2))
    assert rows_held({"user": table, "item": table}, USERS, NAME) == ["user"]
