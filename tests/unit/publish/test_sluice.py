from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, CorruptSnapshot, GapError, StaleError, VersionError
from headrace.publish import (
    ChangeReader,
    LogPublisher,
    Order,
    Sluice,
    StagingPublisher,
    Standing,
    place,
    publishing,
    read_standing,
    relay,
)
from headrace.publish.agreement import RELOAD
from headrace.publish.erasure import scrub_versions
from headrace.publish.pending import COMPACT_PIECES, ERASURE, PendingChanges
from headrace.types import Version


class House:
    def __init__(self, folder: Path, log: EmbeddedLog, change, **settings) -> None:
        self.log, self.change = log, change
        self.publisher = LogPublisher(log, folder / "snapshots", snapshot_every=settings.pop("snapshot_every", 100))
        self.sluice = Sluice(self.publisher, **settings)

    def learn(self, *numbers: int) -> None:
        for number in numbers:
            self.sluice.publish(self.change(number))

    def order(self, kind: str, **more) -> None:
        place(self.log, kind, **more)
        self.sluice.obey()

    def rows(self, version: int | None = None) -> dict[int, list[float]]:
        """What a replica holds that applied all changes up to a version."""
        held: dict[int, list[float]] = {}
        for change in self.publisher.read_since(-1):
            if version is not None and change.version.number > version:
                break
            rows = change.tables["user"]
            held = {} if change.full else held
            for one in rows.removed.tolist():
                held.pop(one, None)
            held |= dict(zip(rows.ids.tolist(), rows.rows.tolist(), strict=True))
        return held

    @property
    def kinds(self) -> list[str]:
        return [record.kind for record in self.sluice.durable.records.newest(99)]


@pytest.fixture
def house(tmp_path: Path, log, change) -> House:
    return House(tmp_path, log, change)


def test_without_a_deviation_the_bytes_are_those_of_a_plain_publisher(tmp_path: Path, house: House, change) -> None:
    house.learn(*range(7))
    plain = EmbeddedLog(tmp_path / "plain.db", durability="process")
    publisher = LogPublisher(plain, tmp_path / "plain")
    for number in range(7):
        publisher.publish(change(number))
    payloads = [[entry.payload for entry in one.read("changes", 0)] for one in (house.log, plain)]
    assert payloads[0] == payloads[1]
    assert house.log.state("changes-standing") is None


def test_held_changes_wait_and_go_out_as_one(house: House) -> None:
    house.learn(0, 1)
    house.order("hold", reason="a holiday")
    house.learn(2, 3, 4)
    assert house.publisher.last().number == 1
    assert house.sluice.status()["pending"] == 3
    assert house.sluice.status()["hold"] == "a holiday"
    house.order("release")
    assert house.publisher.last() == Version(2, 1)
    assert house.rows() == {4: house.rows()[4], 5: house.rows()[5]}
    house.learn(5)
    assert house.publisher.last() == Version(3, 2)
    assert house.kinds == ["learned", "learned", "hold", "release", "learned"]
    merged = next(house.publisher.read_since(1))
    assert merged.notes["accepted_times"].tolist() == [2, 3, 4]


def test_a_rollback_is_a_new_version_with_the_old_content(house: House) -> None:
    house.learn(0, 1, 2, 3)
    house.order("rollback", to=1)
    assert house.publisher.last() == Version(4, 3)
    assert house.rows() == house.rows(1)
    newest = next(house.publisher.read_since(3))
    assert not newest.full
    assert newest.notes["rollback_to"].tolist() == [1]
    assert "accepted_times" not in newest.notes
    assert newest.dense["weight"].tolist() == [1.0, 1.0]
    assert house.sluice.status()["pending"] == 2
    house.learn(4)
    assert house.sluice.status()["pending"] == 3
    assert house.publisher.last().number == 4
    house.order("release")
    assert sorted(house.rows()) == [4, 5]
    released = next(house.publisher.read_since(4))
    assert released.notes["accepted_times"].tolist() == [4], "the others were served before"


def test_a_rollback_can_be_rolled_back(house: House) -> None:
    house.learn(0, 1, 2)
    house.order("rollback", to=0)
    house.order("rollback", to=2)
    assert house.rows() == house.rows(2)
    assert house.sluice.status()["pending"] == 0
    house.order("rollback", to=3)
    assert house.rows() == house.rows(0)
    assert house.sluice.status()["pending"] == 2
    house.order("release")
    assert house.rows() == house.rows(2)
    assert [record.version for record in house.sluice.durable.records.newest(4)] == [3, 4, 5, 6]


def test_a_rollback_over_a_full_change_is_full(house: House, change) -> None:
    house.learn(0, 1)
    house.sluice.publish(change(2, full=True))
    house.order("rollback", to=1)
    assert next(house.publisher.read_since(2)).full
    assert house.rows() == house.rows(1)
    house.order("release")
    assert house.rows() == house.rows(2)


def test_a_rollback_over_a_change_of_schema_is_refused(house: House, change) -> None:
    """Servers that hold the newest version could not take it, and would be stuck there."""
    house.learn(0, 1)
    house.sluice.publish(change(2, full=True, spec={"schema": "another"}))
    house.order("rollback", to=1)
    assert house.publisher.last().number == 2
    assert house.sluice.standing.hold is None
    assert "another specification" in house.sluice.durable.records.newest(1)[0].reason


def test_a_rollback_out_of_reach_changes_nothing(tmp_path: Path, log, change, caplog) -> None:
    house = House(tmp_path, log, change, snapshot_every=2)
    house.learn(*range(12))
    house.order("rollback", to=3)
    house.order("rollback", to=11)
    assert house.publisher.last().number == 11
    assert house.sluice.standing.hold is None
    records = house.sluice.durable.records.newest(2)
    assert [record.kind for record in records] == ["failed", "failed"]
    assert "one from 8 to 11" in records[0].reason
    assert "cannot be carried out" in caplog.text
    house.order("rollback", to=8)
    assert house.publisher.last().number == 12


def test_an_order_is_carried_out_once_by_whoever_publishes(tmp_path: Path, house: House, log, change) -> None:
    house.learn(0, 1, 2)
    place(log, "rollback", to=1)
    again = House(tmp_path, log, change)
    assert again.sluice.obey() == 1
    assert again.publisher.last().number == 3
    assert House(tmp_path, log, change).sluice.obey() == 0
    assert log.topic("changes-orders").first_offset == 1


def test_a_second_publisher_is_found_out(tmp_path: Path, house: House, log, change) -> None:
    house.learn(0)
    other = House(tmp_path, log, change)
    other.order("hold")
    with pytest.raises(VersionError, match="another publisher"):
        house.sluice.publish(change(1))
    assert house.publisher.last().number == 0


def test_versions_published_around_it_are_found_out(tmp_path: Path, house: House, log, change) -> None:
    house.learn(0)
    house.order("hold")
    house.publisher.publish(change(1))
    with pytest.raises(VersionError, match="Something else published"):
        House(tmp_path, log, change)


def test_the_learner_may_repeat_what_was_taken(tmp_path: Path, house: House, log, change) -> None:
    house.learn(0, 1)
    house.order("hold")
    house.learn(2, 3)
    again = House(tmp_path, log, change)
    again.learn(0, 1, 2, 3)
    assert again.sluice.status()["pending"] == 2
    for number in (1, 2):
        with pytest.raises(GapError):
            again.sluice.publish(change(number, salt=1))
    with pytest.raises(GapError):
        again.sluice.publish(change(5))
    again.learn(4)


def test_an_erasure_passes_a_hold_and_stays(tmp_path: Path, house: House, log, change) -> None:
    house.learn(0, 1)
    house.order("hold")
    house.learn(2)
    house.order("erase", tables={"user": [2, 2]})
    assert house.publisher.last().number == 2
    assert 2 not in house.rows()
    house.order("release")
    assert sorted(house.rows()) == [3], "the pending change that puts it was cut"
    house.order("rollback", to=1)
    assert sorted(house.rows()) == [1]
    house.sluice = House(tmp_path, log, change).sluice
    house.order("erased", tables={"user": [2]}, through=3)
    assert house.sluice.standing.cuts
    house.learn(3)
    assert not house.sluice.standing.cuts, "all changes that could bring it back have come"
    house.order("release")
    assert sorted(house.rows()) == [3, 4]


def test_an_erasure_that_the_learner_tells_passes_a_hold(house: House, change) -> None:
    from dataclasses import replace

    house.learn(0, 1)
    house.order("hold")
    told = change(2)
    house.sluice.publish(replace(told, notes={**told.notes, ERASURE: torch.ones(1)}))
    assert house.publisher.last().number == 2
    assert sorted(house.rows()) == [2]
    house.order("rollback", to=1)
    assert sorted(house.rows()) == [2], "what was erased does not come back"


def test_a_rollback_over_an_erasure_whose_ids_were_cut_out_of_the_log(house: House) -> None:
    """What stands in its place says that a replica has to load a snapshot; a rollback and a release do not."""
    house.learn(0, 1, 2)
    house.order("erase", tables={"user": [3]})
    scrub_versions(house.publisher, {"user": [3]}, erased_in=3)
    house.order("rollback", to=2)
    assert sorted(house.rows()) == [2]
    house.order("release")
    assert sorted(house.rows()) == [2]
    assert [RELOAD in change.notes for change in house.publisher.read_since(2)] == [True, False, False]


def test_an_erasure_of_an_unknown_table_is_refused(tmp_path: Path, log, change) -> None:
    house = House(tmp_path, log, change)
    house.sluice.publish(change(0, spec={"table/user": "{}"}))
    house.order("erase", tables={"usr": [1]})
    assert house.kinds == ["learned", "failed"]
    assert "'user'" in house.sluice.durable.records.newest(1)[0].reason


def test_pending_changes_are_folded_and_kept_small(tmp_path: Path, house: House, log, change, monkeypatch) -> None:
    monkeypatch.setattr("headrace.publish.pending.COMPACT_BYTES", 1)
    house.learn(0)
    house.order("hold")
    house.learn(*range(1, 200))
    assert len(house.sluice.durable.pending.pieces) <= COMPACT_PIECES
    topic = log.topic("changes-pending")
    assert topic.next_offset - topic.first_offset <= COMPACT_PIECES
    again = House(tmp_path, log, change)
    again.order("release")
    assert sorted(again.rows()) == [199, 200]
    assert log.topic("changes-pending").first_offset == log.end("changes-pending")


def test_a_deputy_leaves_what_is_pending_to_the_publisher(tmp_path: Path, house: House, log, change) -> None:
    house.learn(0)
    house.order("hold")
    house.learn(1)
    deputy = House(tmp_path, log, change, deputy=True)
    deputy.order("release")
    assert deputy.publisher.last().number == 0
    publisher = House(tmp_path, log, change)
    assert publisher.sluice.retry()
    assert publisher.publisher.last().number == 1


def test_the_relay_holds_and_releases(tmp_path: Path, house: House, log, change) -> None:
    staged = EmbeddedLog(tmp_path / "staged.db", durability="process")
    staging = StagingPublisher(staged)
    for number in range(3):
        staging.publish(change(number))
    place(log, "hold")
    relay(staged, house.sluice, stop=lambda: house.sluice.last().number == 2)
    assert house.publisher.last().number == 0, "the first version does not wait: nothing else could be served"
    assert staged.topic("staged").first_offset == 3, "what is pending is kept by the publisher"
    staging.publish(change(3))
    staged.close_topic("staged")
    place(log, "release")
    assert relay(staged, house.publisher) == 1
    assert house.publisher.last() == Version(2, 1), "what waited is version 1"
    assert sorted(house.rows()) == [3, 4]


def test_a_reader_sees_how_the_publisher_stands(tmp_path: Path, house: House, log) -> None:
    reader = ChangeReader(EmbeddedLog(log.path, durability="process"), tmp_path / "snapshots")
    house.learn(0, 1)
    assert reader.standing() == Standing.plain(1)
    house.order("hold")
    house.learn(2)
    assert reader.standing() == house.sluice.standing == read_standing(log)
    assert reader.standing().pending_changes == 1


def test_only_one_process_publishes(log) -> None:
    with publishing(log) as first, publishing(EmbeddedLog(log.path, durability="process")) as second:
        assert (first, second) == (True, False)
    with publishing(log) as again:
        assert again


def test_a_damaged_standing_is_refused(house: House, log) -> None:
    with log.transaction() as write:
        write.put_state("changes-standing", b"{}")
    with pytest.raises(CorruptSnapshot):
        read_standing(log)


@pytest.mark.parametrize("wrong", [{"kind": "roll"}, {"kind": "rollback"}, {"kind": "erase"},
                                   {"kind": "hold", "tables": {"user": [1]}}])  # fmt: skip
def test_orders_that_are_none_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Order(**wrong)


def test_an_order_is_read_as_it_was_written() -> None:
    order = Order(kind="erase", tables={"user": [3, 1, 3]}, reason="asked")
    read = Order.from_bytes(order.to_bytes())
    assert (read.kind, read.name, read.tables, read.reason) == ("erase", order.name, {"user": [1, 3]}, "asked")
    with pytest.raises(CorruptSnapshot):
        Order.from_bytes(b'{"kind": "hold", "stranger": 1}')


def test_checksums_too_old_are_said_to_be(house: House, log, change) -> None:
    house.learn(0)
    house.order("hold")
    house.learn(1, 2)
    log.trim("changes-staged-checksums", 1)
    house.learn(2)
    with pytest.raises(StaleError, match="too old"):
        house.learn(1)


def test_pieces_are_read_back_in_order(log, change) -> None:
    pending = PendingChanges(log, "changes")
    with log.transaction() as write:
        start = pending.replace(write, [change(4), change(5)])
    again = PendingChanges(log, "changes")
    again.load(start)
    assert [piece.version.number for piece in again.pieces] == [4, 5]
    assert again.rows == 6
