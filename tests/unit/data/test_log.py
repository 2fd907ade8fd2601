"""The embedded log: entries, transactions, sources, retention, and what it says when something is wrong."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.data.log import EmbeddedLog, LogSource
from headrace.errors import ConfigError, CorruptSnapshot, DataError, SchemaError, SourceEnded, StaleError, StoreError
from headrace.testing import check_source
from headrace.types import Events


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "log.db", durability="process")


def rows(start: int, count: int, **more: object) -> Events:
    numbers = list(range(start, start + count))
    return Events.from_columns({
        "key": [f"k{number}" for number in numbers], "kind": ["impression"] * count, "event_time": numbers,
    } | more)  # fmt: skip


def keys(events: Events | None) -> list[int]:
    return [] if events is None else [int(key[1:]) for key in events.column("key").to_pylist()]


def test_entries_come_back_as_appended_in_order(log: EmbeddedLog) -> None:
    first, second = rows(0, 3), rows(3, 2)
    assert [log.append("t", first), log.append("t", second)] == [0, 1]
    entries = log.read("t", 0)
    assert [(entry.offset, entry.first_row, entry.rows) for entry in entries] == [(0, 0, 3), (1, 3, 2)]
    assert [entry.events.batch for entry in entries] == [first.batch, second.batch]


def test_topics_and_partitions_are_apart(log: EmbeddedLog) -> None:
    log.append("a", rows(0, 1))
    log.append("a", rows(1, 1), partition=1)
    log.append("b", rows(2, 1))
    assert keys(log.read("a", 0, partition=1)[0].events) == [1]
    assert (log.end("a"), log.end("a", partition=1), log.end("b"), log.end("c")) == (1, 1, 1, 0)
    assert [(info.name, info.partition) for info in log.topics()] == [("a", 0), ("a", 1), ("b", 0)]


def test_reading_respects_offset_limit_and_bytes(log: EmbeddedLog) -> None:
    for number in range(10):
        log.append("t", rows(number, 1))
    assert [entry.offset for entry in log.read("t", 4, limit=3)] == [4, 5, 6]
    assert [entry.offset for entry in log.read("t", 4, max_bytes=1)] == [4]
    assert log.read("t", 10) == []
    assert log.read("unknown", 0) == []


def test_reading_beyond_the_end_says_that_the_log_is_shorter(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 1))
    with pytest.raises(DataError, match="got 2, expected at most 1"):
        log.read("t", 2)


def test_raw_bytes_are_kept_and_are_no_events(log: EmbeddedLog) -> None:
    log.append_bytes("raw", b"\x00abc")
    entry = log.read("raw", 0)[0]
    assert (entry.payload, entry.rows) == (b"\x00abc", 0)
    with pytest.raises(SchemaError, match="Read raw entries through `payload`"):
        _ = entry.events


def test_accepted_time_is_the_wall_clock_of_the_append(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.data.log_transaction.time.time_ns", lambda: 5_000_123)
    log.append("t", rows(0, 1))
    assert log.read("t", 0)[0].accepted_time == 5_000


def test_a_transaction_holds_entries_offsets_and_state_together(log: EmbeddedLog) -> None:
    with log.transaction() as write:
        write.append("t", rows(0, 2))
        write.append_bytes("raw", b"x")
        write.commit_offset("reader", "in", 0, 7)
        write.put_state("s", b"state")
        assert (write.committed("reader", "in"), write.state("s")) == (7, b"state")
        assert log.rows("t") == 0
    assert (log.rows("t"), log.end("raw"), log.committed("reader", "in", 0), log.state("s")) == (2, 1, 7, b"state")


def test_a_transaction_that_raises_leaves_nothing(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 1))
    with pytest.raises(KeyError), log.transaction() as write:
        write.append("t", rows(1, 1))
        write.commit_offset("reader", "in", 0, 7)
        write.put_state("s", b"state")
        write.close_topic("t")
        raise KeyError
    assert (log.rows("t"), log.committed("reader", "in", 0), log.state("s")) == (1, 0, None)
    assert not log.is_closed("t")
    assert log.append("t", rows(1, 1)) == 1


def test_a_transaction_inside_a_transaction_is_refused(log: EmbeddedLog) -> None:
    with log.transaction() as write:
        write.append("t", rows(0, 1))
        with pytest.raises(StoreError, match="Call the methods of the open transaction"):
            log.append("t", rows(1, 1))
    assert log.rows("t") == 1


def test_states_are_replaced_and_may_be_empty_or_large(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.data.log_transaction.STATE_PART_BYTES", 10)
    for value in (b"0123456789" * 5 + b"end", b"short", b""):
        with log.transaction() as write:
            write.put_state("s", value)
        assert log.state("s") == value


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.append("t", rows(0, 3), closed=True)
    again = EmbeddedLog(tmp_path / "log.db")
    assert keys(again.read("t", 0)[0].events) == [0, 1, 2]
    assert again.is_closed("t")


def test_a_closed_topic_takes_no_more(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 1), closed=True)
    with pytest.raises(DataError, match="it was closed"):
        log.append("t", rows(1, 1))
    assert log.rows("t") == 1


def test_append_once_keeps_one_entry_per_key_across_restarts(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log.db")
    assert log.append_once("t", "a", rows(0, 1)) == (0, True)
    assert log.append_once("t", "b", rows(1, 1)) == (1, True)
    log.close()
    log = EmbeddedLog(tmp_path / "log.db")
    assert log.append_once("t", "a", rows(9, 1)) == (0, False)
    assert log.append_once("other", "a", rows(2, 1)) == (0, True)
    assert log.rows("t") == 2


def test_append_once_of_many_threads_appends_once(log: EmbeddedLog) -> None:
    found: list[tuple[int, bool]] = []
    workers = [
        threading.Thread(target=lambda: found.append(log.append_once("t", "same", rows(0, 1)))) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(found) == [(0, False)] * 7 + [(0, True)]


def _append_from_a_process(path: str, name: str, count: int) -> None:
    log = EmbeddedLog(path, durability="process")
    for number in range(count):
        log.append("t", rows(number, 1, writer=[name]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_write_together_without_a_gap_or_a_double(tmp_path: Path) -> None:
    path, fork = str(tmp_path / "log.db"), multiprocessing.get_context("fork")
    writers = [fork.Process(target=_append_from_a_process, args=(path, f"w{n}", 40)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    entries = EmbeddedLog(path).read("t", 0, limit=1000)
    assert [entry.offset for entry in entries] == list(range(120))
    assert [entry.first_row for entry in entries] == list(range(120))
    for name in ("w0", "w1", "w2"):
        own = [keys(entry.events)[0] for entry in entries if entry.events.column("writer").to_pylist() == [name]]
        assert own == list(range(40))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_its_own_connections(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 1))
    child = os.fork()
    if child == 0:
        try:
            log.append("t", rows(1, 1))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert log.append("t", rows(2, 1)) == 2
    assert [keys(entry.events) for entry in log.read("t", 0)] == [[0], [1], [2]]


def test_a_full_disk_is_said_plainly_and_leaves_nothing_half_written(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 10))
    with log.transaction() as write:
        write.put_state("s", b"before")
    log.limit_bytes(300_000)
    with pytest.raises(StoreError, match="full") as caught, log.transaction() as write:
        write.put_state("s", b"after")
        write.append("t", rows(10, 40_000))
    assert "Free space or trim a topic" in caught.value.do
    assert (log.rows("t"), log.end("t"), log.state("s")) == (10, 1, b"before")
    log.limit_bytes(1 << 30)
    assert log.append("t", rows(10, 5)) == 1


def test_a_writer_that_waits_too_long_says_who_may_be_stuck(tmp_path: Path) -> None:
    first = EmbeddedLog(tmp_path / "log.db")
    second = EmbeddedLog(tmp_path / "log.db", busy_timeout_s=0.05)
    with first.transaction() as write:
        write.append("t", rows(0, 1))
        with pytest.raises(StoreError, match="stuck inside a transaction"):
            second.append("t", rows(1, 1))
        assert second.read("t", 0) == []
    assert second.append("t", rows(1, 1)) == 1


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"something else entirely " * 100)
    with pytest.raises(CorruptSnapshot, match="is not a database"):
        EmbeddedLog(tmp_path / "log.db")


def test_a_log_of_another_format_is_refused(tmp_path: Path) -> None:
    EmbeddedLog(tmp_path / "log.db").close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="got format 99"):
        EmbeddedLog(tmp_path / "log.db")


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="writable"):
        EmbeddedLog(tmp_path / "file" / "log.db")


def test_a_damaged_payload_is_found(log: EmbeddedLog) -> None:
    log.append_bytes("raw", b"payload")
    with sqlite3.connect(log.path) as connection:
        connection.execute("UPDATE entries SET payload = ?", (b"paxload",))
    with pytest.raises(CorruptSnapshot, match="entry 0"):
        log.read("raw", 0)


def test_durability_decides_how_often_the_disk_is_synced(tmp_path: Path) -> None:
    modes = {}
    for name in ("power", "process"):
        log = EmbeddedLog(tmp_path / f"{name}.db", durability=name)  # type: ignore[arg-type]
        with log.transaction() as write:
            modes[name] = write._connection.execute("PRAGMA synchronous").fetchone()[0]
    assert modes == {"power": 2, "process": 1}


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="durability"):
        EmbeddedLog(tmp_path / "log.db", durability="none")  # type: ignore[arg-type]


def test_a_topic_needs_a_name(log: EmbeddedLog) -> None:
    with pytest.raises(ConfigError, match="topic"):
        log.append("", rows(0, 1))


def test_trimming_keeps_offsets_and_rows(log: EmbeddedLog) -> None:
    for number in range(5):
        log.append("t", rows(10 * number, 10))
    assert log.trim("t", 3) == 3
    assert [entry.first_row for entry in log.read("t", 3)] == [30, 40]
    assert (log.topic("t").first_offset, log.topic("t").first_row, log.rows("t")) == (3, 30, 50)
    assert log.append("t", rows(50, 1)) == 5
    assert log.trim("t", 1) == 0
    assert log.topic("t").first_offset == 3


def test_a_trimmed_topic_may_be_empty_and_goes_on(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 10))
    assert log.trim("t", 99) == 1
    assert (log.topic("t").first_row, log.read("t", 1)) == (10, [])
    assert log.append("t", rows(10, 2)) == 1
    assert log.read("t", 1)[0].first_row == 10


def test_reading_what_was_trimmed_is_stale(log: EmbeddedLog) -> None:
    for number in range(3):
        log.append("t", rows(number, 1))
    log.trim("t", 2)
    with pytest.raises(StaleError, match="got 1, expected at least 2"):
        log.read("t", 1)
    with pytest.raises(StaleError, match="row: got 0"):
        LogSource(log, "t").read(1)


def test_trimming_gives_disk_space_back(log: EmbeddedLog) -> None:
    for number in range(4):
        log.append("t", rows(number, 40_000))
    with sqlite3.connect(log.path) as connection:
        before = connection.execute("PRAGMA page_count").fetchone()[0]
        log.trim("t", 3)
        assert connection.execute("PRAGMA page_count").fetchone()[0] < before / 2


def test_the_offset_at_a_time_is_where_to_trim(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for now in (1_000, 2_000, 3_000):
        monkeypatch.setattr("headrace.data.log_transaction.time.time_ns", lambda now=now: now * 1000)
        log.append("t", rows(now, 1))
    assert [log.offset_at("t", time) for time in (0, 1_000, 1_001, 3_000, 3_001)] == [0, 0, 1, 2, 3]


def test_a_trimmed_key_is_forgotten(log: EmbeddedLog) -> None:
    log.append_once("t", "a", rows(0, 1))
    log.trim("t", 1)
    assert log.append_once("t", "a", rows(1, 1)) == (1, True)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_a_source_cuts_rows_exactly_across_entries(log: EmbeddedLog, limit: int) -> None:
    start = 0
    for count in (3, 1, 0, 5, 2):
        log.append("t", rows(start, count))
        start += count
    log.append_bytes("t", b"raw entries have no rows")
    source, sizes, found = LogSource(log, "t"), [], []
    while (events := source.read(limit)) is not None:
        sizes.append(len(events))
        found += keys(events)
    assert found == list(range(11))
    assert sizes == [limit] * (11 // limit) + ([11 % limit] if 11 % limit else [])
    assert source.position() == {"t/0": 11}


@pytest.mark.parametrize("row", range(12))
def test_a_source_resumes_at_any_row(log: EmbeddedLog, row: int) -> None:
    for start, count in ((0, 3), (3, 1), (4, 0), (4, 5), (9, 2)):
        log.append("t", rows(start, count))
    source = LogSource(log, "t")
    source.seek({"t/0": row})
    assert keys(source.read(100)) == list(range(row, 11))


def test_a_source_ends_with_a_closed_topic_only(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 2))
    source = LogSource(log, "t")
    assert keys(source.read(5)) == [0, 1]
    assert source.read(5) is None
    log.append("t", rows(2, 1), closed=True)
    assert keys(source.read(5)) == [2]
    with pytest.raises(SourceEnded):
        source.read(5)


def test_rows_have_an_accepted_time(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.data.log_transaction.time.time_ns", lambda: 7_000)
    log.append("t", rows(0, 2))
    log.append("t", rows(2, 2, accepted_time=pa.array([3, None], pa.int64())))
    events = LogSource(log, "t").read(10)
    assert events is not None
    assert events.column("accepted_time").to_pylist() == [7, 7, 3, 7]


def test_entries_with_other_columns_are_read_together(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 1, price=[1.0]))
    log.append("t", rows(1, 1))
    events = LogSource(log, "t").read(10)
    assert events is not None
    assert events.column("price").to_pylist() == [1.0, None]


def test_entries_whose_types_clash_are_refused_and_not_lost(log: EmbeddedLog) -> None:
    log.append("t", rows(0, 1, price=[1.0]))
    log.append("t", rows(1, 1, price=["dear"]))
    source = LogSource(log, "t")
    with pytest.raises(SchemaError, match="one type per column"):
        source.read(2)
    assert keys(source.read(1)) == [0]


def test_a_position_of_another_topic_is_refused(log: EmbeddedLog) -> None:
    with pytest.raises(ConfigError, match="u/0"):
        LogSource(log, "t").seek({"u/0": 3})


def test_a_read_of_no_rows_is_refused(log: EmbeddedLog) -> None:
    with pytest.raises(ConfigError, match="limit"):
        LogSource(log, "t").read(0)


def test_a_source_keeps_the_contract_of_sources(log: EmbeddedLog) -> None:
    for number in range(9):
        log.append("t", rows(4 * number, 4), closed=number == 8)
    assert check_source(lambda: LogSource(log, "t")).untried == ()
