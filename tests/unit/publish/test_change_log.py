from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, CorruptSnapshot, GapError, StaleError, VersionError
from headrace.publish import ChangeLog, encode
from headrace.types import Version


def test_nothing_was_published_at_first(log, change) -> None:
    assert ChangeLog(log).last() == Version(-1)


def test_changes_come_back_in_order(log, change) -> None:
    changes = ChangeLog(log)
    for number in range(40):  # more than one read
        assert changes.append(change(number))
    assert [one.checksum() for one in changes.read_since(-1)] == [change(n).checksum() for n in range(40)]
    assert [one.version.number for one in changes.read_since(37)] == [38, 39]
    assert list(changes.read_since(39)) == []


def test_a_repeated_change_is_kept_once(log, change) -> None:
    changes = ChangeLog(log)
    changes.append(change(0))
    changes.append(change(1))
    assert not changes.append(change(0))
    assert not changes.append(change(1))
    assert log.end("changes") == 2


def test_other_content_under_a_number_is_refused(log, change) -> None:
    changes = ChangeLog(log)
    changes.append(change(0))
    with pytest.raises(GapError, match="as it was published before"):
        changes.append(change(0, salt=1))


@pytest.mark.parametrize("number", [0, 2, 3])
def test_only_the_next_number_is_taken(log, change, number: int) -> None:
    changes = ChangeLog(log)
    changes.append(change(0))
    if number == 0:
        return
    with pytest.raises(GapError, match="number 1, parent 0"):
        changes.append(change(number))
    assert changes.last().number == 0


def test_the_first_number_must_be_zero(log, change) -> None:
    with pytest.raises(GapError, match="log lost or replaced"):
        ChangeLog(log).append(change(7))


def test_a_trimmed_change_is_still_recognised(log, change) -> None:
    changes = ChangeLog(log)
    for number in range(5):
        changes.append(change(number))
    assert changes.trim(4) == 4
    assert not changes.append(change(1))
    with pytest.raises(GapError):
        changes.append(change(1, salt=1))


def test_what_was_trimmed_cannot_be_read(log, change) -> None:
    changes = ChangeLog(log)
    for number in range(5):
        changes.append(change(number))
    changes.trim(3)
    assert changes.first() == 3
    with pytest.raises(StaleError):
        list(changes.read_since(1))
    assert [one.version.number for one in changes.read_since(2)] == [3, 4]


def test_a_version_too_old_to_be_compared_is_refused(log, change) -> None:
    changes = ChangeLog(log, remember=8)
    for number in range(40):
        changes.append(change(number))
        changes.trim(number)
    with pytest.raises(StaleError, match="too old to be compared"):
        changes.append(change(0))
    assert not changes.append(change(35))


def test_a_broken_change_does_not_become_durable(log, change) -> None:
    broken = change(0)
    broken.tables["user"].rows.resize_(1, 3)
    with pytest.raises(VersionError):
        ChangeLog(log).append(broken)
    assert log.end("changes") == log.end("changes-checksums") == 0


def test_a_topic_of_somebody_else_is_refused(log, change) -> None:
    log.append_bytes("changes", b"something else")
    with pytest.raises(ConfigError, match="only a ChangeLog"):
        ChangeLog(log)


def test_an_entry_that_somebody_else_wrote_is_refused(log, change) -> None:
    changes = ChangeLog(log)
    changes.append(change(0))
    log.append_bytes("changes", encode(change(5)))
    with pytest.raises(CorruptSnapshot, match="version 5"):
        list(changes.read_since(-1))


def test_the_time_of_the_newest_version_is_known(log, change) -> None:
    changes = ChangeLog(log)
    assert changes.published_at() == 0
    changes.append(change(0))
    assert changes.published_at() == log.read("changes-checksums", 0)[0].accepted_time


def _append_all(path: Path, make: list, barrier) -> None:
    changes = ChangeLog(EmbeddedLog(path, durability="process"))
    barrier.wait()
    for one in make:
        changes.append(one)


def test_two_writers_of_the_same_changes_append_each_once(tmp_path: Path, log, change) -> None:
    context = multiprocessing.get_context("fork")
    barrier, made = context.Barrier(2), [change(number) for number in range(30)]
    writers = [context.Process(target=_append_all, args=(log.path, made, barrier)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [one.version.number for one in ChangeLog(log).read_since(-1)] == list(range(30))
