from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.errors import CorruptSnapshot, StaleError
from headrace.publish import LogPublisher, VersionRecord, VersionRecords, merge, reachable
from headrace.publish.snapshots import FOLD_CHANGES
from headrace.publish.versions import content, work_out_rollback
from headrace.testing import first_difference


@pytest.fixture
def publisher(tmp_path: Path, log, change) -> LogPublisher:
    made = LogPublisher(log, tmp_path / "s", snapshot_every=4, keep=2)
    for number in range(15):
        made.publish(change(number))
    return made


def test_what_is_reachable_begins_at_the_oldest_snapshot(tmp_path: Path, publisher: LogPublisher, log, change) -> None:
    assert reachable(publisher.changes, publisher.snapshots) == range(8, 15)
    fresh = LogPublisher(log, tmp_path / "other", topic="fresh")
    assert not reachable(fresh.changes, fresh.snapshots)
    fresh.publish(change(0))
    assert reachable(fresh.changes, fresh.snapshots) == range(1)


@pytest.mark.parametrize("to", range(8, 15))
def test_the_content_of_a_version_is_all_changes_up_to_it(publisher: LogPublisher, change, to: int) -> None:
    found = content(publisher.changes, publisher.snapshots, to)
    whole = merge([change(number) for number in range(to + 1)])
    assert found.full
    assert found.version.number == to
    assert not first_difference(found.tables["user"].ids, whole.tables["user"].ids)
    assert not first_difference(found.tables["user"].rows, whole.tables["user"].rows)
    assert found.dense["weight"].tolist() == [float(to)] * 2


def test_a_damaged_snapshot_costs_only_what_it_alone_held(tmp_path: Path, publisher: LogPublisher) -> None:
    (tmp_path / "s" / "000000000012.snapshot").write_bytes(b"gone")
    assert content(publisher.changes, publisher.snapshots, 13).version.number == 13
    (tmp_path / "s" / "000000000008.snapshot").write_bytes(b"gone")
    with pytest.raises(StaleError, match="no longer kept"):
        content(publisher.changes, publisher.snapshots, 13)


def test_a_far_rollback_is_worked_out_a_few_changes_at_a_time(tmp_path: Path, log, change) -> None:
    publisher = LogPublisher(log, tmp_path / "s", snapshot_every=1000)
    count = 2 * FOLD_CHANGES + 5
    for number in range(count):
        publisher.publish(change(number))
    done = work_out_rollback(publisher.changes, publisher.snapshots, 1)
    there, now = merge([change(0), change(1)]), merge([change(number) for number in range(count)])
    back = merge([now, done.change])
    assert back.tables["user"].ids.tolist() == there.tables["user"].ids.tolist()
    assert torch.equal(back.tables["user"].rows, there.tables["user"].rows)
    assert done.taken_back.version.parent == 1
    assert "accepted_times" not in done.taken_back.notes


def test_records_are_read_back_with_their_times(log) -> None:
    records = VersionRecords(log, remember=8)
    for number in range(30):
        with log.transaction() as write:
            records.append(write, VersionRecord(kind="learned", version=number, parent=number - 1, order=f"o{number}"))
        records.trim()
    newest = records.newest(3)
    assert [record.version for record in newest] == [27, 28, 29]
    assert all(record.time > 0 for record in newest)
    assert len(records.newest(100)) <= 10, "the oldest are forgotten"
    found = records.of_order("o29", since=records.end() - 2)
    assert found is not None
    assert found.version == 29
    assert records.of_order("o1", since=records.end() - 2) is None


def test_what_a_version_had_learned_is_found_through_rollbacks_and_erasures(log) -> None:
    records = VersionRecords(log)
    with log.transaction() as write:
        for record in (
            VersionRecord(kind="learned", version=0, staged=0), VersionRecord(kind="learned", version=1, staged=3),
            VersionRecord(kind="rollback", version=2, parent=1, to=0), VersionRecord(kind="erase", version=3, parent=2),
            VersionRecord(kind="rollback", version=4, parent=3, to=1),
        ):  # fmt: skip
            records.append(write, record)
    assert [records.learned_to(number) for number in range(6)] == [0, 3, 0, 0, 3, None]


def test_something_else_in_the_topic_is_found_out(log) -> None:
    log.append_bytes("changes-records", b"not a record")
    with pytest.raises(CorruptSnapshot, match="changes-records"):
        VersionRecords(log).newest(1)
