from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from headrace.errors import ConfigError, GapError, StaleError, StoreError
from headrace.publish import Acknowledgement, ChangeFolder, ChangeFolderWriter, Replica, Retention, encode
from headrace.store import TableConfig, open_table
from headrace.types import Change, RowChange, Version


def replica() -> Replica:
    return Replica({"user": open_table(TableConfig(name="user", dim=3, seed=5), serving=True)},
                   {"weight": torch.zeros(2)})  # fmt: skip


def content(one: Replica) -> tuple:
    return one.version.number, one.tables["user"].lookup(torch.arange(-2, 200)).tolist(), one.dense["weight"].tolist()


def filled(folder: Path, change, count: int, **settings: object) -> ChangeFolderWriter:
    writer = ChangeFolderWriter(folder, "run", sync=False, **settings)
    for number in range(writer.last().number + 1, count):
        writer.append(change(number))
    return writer


def whole(change, number: int) -> Change:
    """Version `number` as a snapshot: it is what applying all changes leaves."""
    return change(number, full=True)


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    folder = ChangeFolder(tmp_path / "absent")
    assert folder.last() == Version(-1)
    assert (list(folder.read_since(-1)), folder.snapshot(), folder.published_at(), folder.run()) == ([], None, 0, "")


def test_a_replica_follows_the_folder(tmp_path: Path, change) -> None:
    filled(tmp_path, change, 8)
    folder, far, near = ChangeFolder(tmp_path), replica(), replica()
    assert folder.last() == Version(7, 6)
    assert far.catch_up(folder) == 8
    for number in range(8):
        near.apply(change(number))
    assert content(far) == content(near)
    assert folder.published_at() > folder.published_at(99) == 0


def test_a_repeated_change_is_put_once(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 3)
    before = os.stat(tmp_path / "000000000001.change").st_mtime_ns
    assert not writer.append(change(1))
    assert os.stat(tmp_path / "000000000001.change").st_mtime_ns == before
    assert writer.append(change(3))


@pytest.mark.parametrize("number", [4, 9])
def test_a_gap_is_refused(tmp_path: Path, change, number: int) -> None:
    with pytest.raises(GapError, match="expected number 3"):
        filled(tmp_path, change, 3).append(change(number))


def test_two_runs_are_not_mixed(tmp_path: Path, change) -> None:
    filled(tmp_path, change, 3)
    with pytest.raises(ConfigError, match="got run run, expected run other"):
        ChangeFolderWriter(tmp_path, "other")


def test_what_is_gone_is_stale_and_a_snapshot_helps(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 10, retention=Retention(snapshots=1))
    writer.keep(whole(change, 6))
    assert writer.numbers() == [6, 7, 8, 9]
    with pytest.raises(StaleError, match="change 3"):
        list(ChangeFolder(tmp_path).read_since(2))
    one, two = replica(), replica()
    assert one.catch_up(ChangeFolder(tmp_path)) == 4
    two.apply(whole(change, 6))
    for number in (7, 8, 9):
        two.apply(change(number))
    assert content(one) == content(two)


def test_changes_are_kept_for_a_slow_replica_within_bounds(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 30, retention=Retention(snapshots=1, keep_versions=15))
    now = 2**62
    ChangeFolder(tmp_path).acknowledgements.record(Acknowledgement(replica="far", version=20, time=now))
    writer.keep(whole(change, 29))
    assert writer.numbers()[0] == 21
    writer.acknowledgements.record(Acknowledgement(replica="far", version=3, time=now))
    writer.append(change(30))
    writer.keep(whole(change, 30))
    assert writer.numbers()[0] == 21
    size = sum(len(encode(change(number))) for number in range(28, 31))
    assert writer.first_within(size) == 28
    assert writer.first_within(size - 1) == 29


def test_going_on_from_a_snapshot_where_changes_are_lost(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 3)
    writer.begin(whole(change, 8))
    writer.begin(whole(change, 5))  # older than what is there: nothing to do
    assert writer.append(change(9))
    one = replica()
    one.catch_up(ChangeFolder(tmp_path))
    assert one.version.number == 9
    late = replica()
    for number in range(3):
        late.apply(change(number))
    late.catch_up(ChangeFolder(tmp_path))
    assert content(late) == content(one)


def test_a_damaged_change_is_passed_over_with_the_snapshot(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 6)
    one = replica()
    one.catch_up(ChangeFolder(tmp_path))
    for number in (6, 7, 8):
        writer.append(change(number))
    path = tmp_path / "000000000007.change"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StaleError, match="SHA-256"):
        one.catch_up(ChangeFolder(tmp_path))
    assert one.version.number == 6  # what was whole was applied, and is served
    writer.keep(whole(change, 8))
    one.catch_up(ChangeFolder(tmp_path))
    assert one.version.number == 8


def test_a_change_under_another_number_is_refused(tmp_path: Path, change) -> None:
    filled(tmp_path, change, 3)
    (tmp_path / "000000000001.change").write_bytes(encode(change(2)))
    with pytest.raises(StaleError, match="version 2"):
        list(ChangeFolder(tmp_path).read_since(0))


def test_an_outage_is_no_empty_folder(tmp_path: Path, change) -> None:
    filled(tmp_path / "far", change, 3)
    folder, one = ChangeFolder(tmp_path / "far"), replica()
    one.catch_up(folder)
    assert folder.last().number == 2
    (tmp_path / "far").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="mounted"):
        folder.last()
    with pytest.raises(StoreError, match="mounted"):
        one.catch_up(folder)
    (tmp_path / "far").write_text("no folder at all")
    with pytest.raises(StoreError, match="mount"):
        folder.last()
    (tmp_path / "far").unlink()
    (tmp_path / "away").rename(tmp_path / "far")
    assert folder.last().number == 2


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", range(8))
def test_a_writer_killed_at_any_file_operation_goes_on(tmp_path: Path, change, monkeypatch, at: int) -> None:
    """Each change takes four steps: write, rename, write the pointer, rename it."""
    writer = filled(tmp_path, change, 2)
    steps = [at]

    def dying(name: str, real):
        def call(*arguments, **named):
            if steps[0] == 0:
                raise Killed(name)
            steps[0] -= 1
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("headrace.publish.durable_files.os.replace", dying("rename", os.replace))
        patch.setattr(Path, "open", dying("open", Path.open))
        with pytest.raises(Killed):
            for number in (2, 3):
                writer.append(change(number))
    seen = list(ChangeFolder(tmp_path).read_since(-1))
    assert [one.checksum() for one in seen] == [change(number).checksum() for number in range(len(seen))]
    again = filled(tmp_path, change, 4)
    assert again.last().number == 3
    assert [one.checksum() for one in ChangeFolder(tmp_path).read_since(-1)] == [
        change(number).checksum() for number in range(4)
    ]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("pointer", [None, b"", b"{}", b"[]", b'{"version": 1, "run": "run"}'])
def test_a_lost_or_old_pointer_is_put_right(tmp_path: Path, change, pointer: bytes | None) -> None:
    filled(tmp_path, change, 5)
    path = tmp_path / "newest.json"
    path.unlink() if pointer is None else path.write_bytes(pointer)
    if pointer is None or b"version" not in pointer:
        assert ChangeFolder(tmp_path).last().number == 4  # the names of the files tell
    writer = ChangeFolderWriter(tmp_path, "run")
    assert writer.last().number == 4
    assert json.loads(path.read_bytes()) == {"version": 4, "run": "run"}


def test_a_damaged_change_at_the_end_is_put_again(tmp_path: Path, change, caplog) -> None:
    filled(tmp_path, change, 5)
    (tmp_path / "000000000004.change").write_bytes(b"cut")
    with caplog.at_level(logging.WARNING):
        writer = ChangeFolderWriter(tmp_path, "run")
    assert "put again" in caplog.text
    assert writer.last().number == 3
    assert writer.append(change(4))


def test_rewriting_reaches_every_file(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 5)
    writer.keep(whole(change, 3))
    (tmp_path / "000000000004.change").write_bytes(b"who knows what is in it")

    def without_three(one: Change) -> Change:
        rows = one.tables["user"]
        kept, gone = rows.ids != 3, rows.removed != 3
        tables = {"user": RowChange(rows.ids[kept], rows.rows[kept], rows.removed[gone])}
        return Change(version=one.version, tables=tables, dense=one.dense, notes=one.notes, spec=one.spec,
                      full=one.full)  # fmt: skip

    assert writer.rewrite(without_three) == 2  # change 3 and the snapshot; versions before it are gone
    assert writer.rewrite(without_three) == 0
    assert writer.numbers() == [3]
    for one in (writer.read(3), writer.snapshot()):
        assert 3 not in one.tables["user"].ids.tolist() + one.tables["user"].removed.tolist()


def test_starting_again_from_a_snapshot_leaves_nothing_older(tmp_path: Path, change) -> None:
    writer = filled(tmp_path, change, 9)
    writer.keep(whole(change, 4))
    with pytest.raises(GapError, match="at least 8"):
        writer.restart_from(whole(change, 6))
    writer.restart_from(whole(change, 8))
    assert (writer.numbers(), writer.snapshots.numbers()) == ([], [8])
    assert writer.append(change(9))
    one = replica()
    assert one.catch_up(ChangeFolder(tmp_path)) == 2
