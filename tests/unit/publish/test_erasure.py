"""Erased ids leave versions that are out already, and no replica keeps what it would not be told to remove any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.errors import StaleError
from headrace.publish import ChangeFolder, ChangeFolderWriter, ChangeReader, LogPublisher, Mirror, Replica, Sluice
from headrace.publish.erasure import scrub_topic, scrub_versions, scrubbed
from headrace.publish.orders import place
from headrace.store import ReferenceTable, TableConfig
from headrace.types import Change, RowChange, Version

DIM, GONE = 2, 41


def change(number: int, ids: list[int], *, removed: tuple[int, ...] = ()) -> Change:
    ids = sorted(ids)
    rows = RowChange(torch.tensor(ids), torch.full((len(ids), DIM), float(number + 1)),
                     torch.tensor(removed, dtype=torch.int64))  # fmt: skip
    spec = {"table/user": TableConfig(name="user", dim=DIM).spec()}
    return Change(version=Version(number, number - 1), tables={"user": rows}, dense={"w": torch.ones(1) * number},
                  spec=spec)  # fmt: skip


def replica() -> Replica:
    return Replica({"user": ReferenceTable(TableConfig(name="user", dim=DIM), serving=True)}, {"w": torch.zeros(1)})


def ids_of(one: Replica) -> list[int]:
    return one.tables["user"].rows().ids.tolist()


@pytest.fixture
def publisher(tmp_path: Path) -> LogPublisher:
    return LogPublisher(EmbeddedLog(tmp_path / "changes.db", durability="process"), tmp_path / "snapshots",
                        snapshot_every=2)  # fmt: skip


@pytest.fixture
def reader(publisher: LogPublisher) -> ChangeReader:
    return ChangeReader(publisher.changes.log, publisher.snapshots.folder)


def erased(publisher: LogPublisher) -> int:
    """Publish five versions that have the row, and one that erases it."""
    sluice = Sluice(publisher)
    for number in range(5):
        sluice.publish(change(number, [1, GONE] if number % 2 == 0 else [2]))
    place(publisher.changes.log, "erase", tables={"user": [GONE]})
    assert sluice.obey() == 1
    return publisher.last().number


def holds(publisher: LogPublisher) -> bool:
    needle = GONE.to_bytes(8, "little")
    publisher.changes.log.purge()
    files = [*publisher.snapshots.folder.iterdir(), *publisher.changes.log.path.parent.glob("changes.db*")]
    return any(needle in file.read_bytes() for file in files)


def test_log_and_snapshots_are_put_again_without_the_ids(publisher: LogPublisher, reader: ChangeReader) -> None:
    version = erased(publisher)
    assert scrub_versions(publisher, {"user": [GONE]}, erased_in=version) >= 2
    assert scrub_versions(publisher, {"user": [GONE]}, erased_in=version) == 0, "done twice is done once"
    place(publisher.changes.log, "erased", tables={"user": [GONE]}, through=4)
    Sluice(publisher).obey()
    for entry in publisher.changes.log.read("changes", publisher.changes.first()):
        assert GONE.to_bytes(8, "little") not in entry.payload
    fresh = replica()
    fresh.catch_up(reader)
    assert ids_of(fresh) == [1, 2]
    assert fresh.version.number == version


def test_a_replica_that_slept_through_it_loads_a_snapshot(publisher: LogPublisher, reader: ChangeReader) -> None:
    asleep, awake = replica(), replica()
    sluice = Sluice(publisher)
    sluice.publish(change(0, [1, GONE]))
    asleep.catch_up(reader)
    place(publisher.changes.log, "erase", tables={"user": [GONE]})
    sluice.obey()
    awake.catch_up(reader)
    scrub_versions(publisher, {"user": [GONE]}, erased_in=1)
    sluice.publish(change(1, [3]))
    applied: list[bool] = []
    for one in (asleep, awake):
        one.catch_up(reader, on_applied=lambda each: applied.append(each.full))
        assert ids_of(one) == [1, 3]
    assert applied == [True, False, False], "one snapshot for the one that slept, and then as every other"


def test_without_a_snapshot_it_says_so_instead_of_keeping_the_row(
    publisher: LogPublisher, reader: ChangeReader
) -> None:
    asleep = replica()
    Sluice(publisher).publish(change(0, [1, GONE]))
    asleep.catch_up(reader)
    place(publisher.changes.log, "erase", tables={"user": [GONE]})
    Sluice(publisher).obey()
    scrub_topic(publisher.changes.log, "changes", {"user": [GONE]})
    for path in publisher.snapshots.folder.glob("*.snapshot"):
        path.unlink()
    with pytest.raises(StaleError, match="ids were overwritten"):
        asleep.catch_up(reader)


def test_a_rollback_to_an_earlier_version_does_not_bring_the_row_back(publisher: LogPublisher, reader) -> None:
    sluice = Sluice(publisher)
    sluice.publish(change(0, [1, 2]))
    sluice.publish(change(1, [1, GONE]))
    place(publisher.changes.log, "erase", tables={"user": [GONE]})
    place(publisher.changes.log, "rollback", to=1)
    sluice.obey()
    first = replica()
    first.catch_up(reader)
    assert ids_of(first) == [1, 2]
    place(publisher.changes.log, "release")
    place(publisher.changes.log, "erased", tables={"user": [GONE]}, through=1)
    sluice.obey()
    scrub_versions(publisher, {"user": [GONE]}, erased_in=2)
    place(publisher.changes.log, "rollback", to=1)
    sluice.obey()
    for one in (first, replica()):
        one.catch_up(reader)
        assert ids_of(one) == [1, 2]


def test_staged_changes_after_the_erasure_are_cut_until_the_learner_has_forgotten(publisher, reader) -> None:
    sluice = Sluice(publisher)
    sluice.publish(change(0, [1, GONE]))
    place(publisher.changes.log, "erase", tables={"user": [GONE]})
    sluice.obey()
    sluice.publish(change(1, [GONE]))  # made before the learner knew
    place(publisher.changes.log, "erased", tables={"user": [GONE]}, through=2)
    sluice.obey()
    sluice.publish(change(2, [GONE, 5]))
    held = replica()
    held.catch_up(reader)
    assert ids_of(held) == [1, 5]
    sluice.publish(change(3, [GONE]))  # the user came back by consent
    held.catch_up(reader)
    assert ids_of(held) == [1, 5, GONE]


def test_copies_are_put_again_too(publisher: LogPublisher, reader: ChangeReader, tmp_path: Path) -> None:
    mirror = Mirror(reader, ChangeFolderWriter(tmp_path / "copy", "run"))
    version = erased(publisher)
    mirror.step()
    scrub_versions(publisher, {"user": [GONE]}, erased_in=version)

    def edit(one: Change) -> Change:
        return scrubbed(one, {"user": [GONE]}) or one

    with mirror.alone():
        mirror.step()
        mirror.target.rewrite(edit)
    needle = GONE.to_bytes(8, "little")
    assert all(needle not in file.read_bytes() for file in (tmp_path / "copy").rglob("*.*") if file.is_file())
    far = replica()
    far.catch_up(ChangeFolder(tmp_path / "copy"))
    assert ids_of(far) == [1, 2]


def test_a_damaged_snapshot_goes_because_nobody_knows_what_it_holds(publisher: LogPublisher) -> None:
    version = erased(publisher)
    oldest = min(publisher.snapshots.folder.glob("*.snapshot"))
    data = bytearray(oldest.read_bytes())
    data[-1] ^= 1
    oldest.write_bytes(data)
    scrub_versions(publisher, {"user": [GONE]}, erased_in=version)
    assert not oldest.exists()


def test_a_change_without_the_ids_stays_as_it_is() -> None:
    assert scrubbed(change(3, [1, 2], removed=(7,)), {"user": [GONE], "item": [1]}) is None
    assert scrubbed(Change(version=Version(3, 2)), {"user": [GONE]}) is None
    cut = scrubbed(change(3, [1], removed=(GONE,)), {"user": [GONE]})
    assert cut is not None
    assert dict(cut.notes) == {}, "a row that had expired before is no erasure"
