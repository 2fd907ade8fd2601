from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import ConfigError, CorruptSnapshot
from headrace.publish import Snapshots, merge
from headrace.publish.snapshots import fold


def test_an_empty_folder_has_no_snapshot(tmp_path: Path) -> None:
    assert Snapshots(tmp_path / "absent").newest() is None


def test_the_newest_comes_back_whole(tmp_path: Path, change) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.write(change(3, full=True))
    snapshots.write(change(8, full=True))
    assert snapshots.newest().checksum() == change(8, full=True).checksum()


def test_only_the_newest_are_kept(tmp_path: Path, change) -> None:
    snapshots = Snapshots(tmp_path, keep=2)
    for number in (1, 2, 3):
        snapshots.write(change(number, full=True))
    assert snapshots.numbers() == [2, 3]


def test_a_damaged_snapshot_is_passed_over_with_one_warning(tmp_path: Path, change, caplog) -> None:
    snapshots = Snapshots(tmp_path)
    for number in (1, 2):
        snapshots.write(change(number, full=True))
    path = tmp_path / "000000000002.snapshot"
    path.write_bytes(path.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING):
        assert snapshots.newest().version.number == 1
        assert snapshots.newest().version.number == 1
    assert len(caplog.records) == 1
    assert "000000000002.snapshot" in caplog.text


def test_a_damaged_snapshot_asked_for_by_number_is_refused(tmp_path: Path, change) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.write(change(2, full=True))
    path = tmp_path / "000000000002.snapshot"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(CorruptSnapshot, match=r"000000000002\.snapshot"):
        snapshots.read(2)


def test_a_file_under_another_number_is_refused(tmp_path: Path, change) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.write(change(2, full=True))
    (tmp_path / "000000000002.snapshot").rename(tmp_path / "000000000009.snapshot")
    with pytest.raises(CorruptSnapshot, match="version 2"):
        snapshots.read(9)


def test_half_written_files_are_not_seen(tmp_path: Path, change) -> None:
    (tmp_path / "000000000009.part").write_bytes(b"half")
    assert Snapshots(tmp_path).numbers() == []


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep"):
        Snapshots(tmp_path, keep=0)


def test_folding_is_merging_and_keeps_the_newest_notes(change) -> None:
    changes = [change(number) for number in range(70)]  # more than one portion
    folded = fold(None, changes)
    assert folded.full
    whole = merge([replace(changes[0], full=True), *changes[1:]])
    assert folded.checksum() == replace(whole, notes=changes[-1].notes).checksum()


def test_folding_nothing_is_nothing(change) -> None:
    assert fold(None, []) is None
    base = change(1, full=True)
    assert fold(base, []) is base
