"""The joiner forgets at a place of its stream, and repeats that after every crash, with the log rewritten or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.data.erasure_book import ErasureBook
from headrace.data.join import EventJoin, JoinConfig
from headrace.data.join_erasures import JoinErasures, marker
from headrace.data.join_log import JoinProgress, join_log
from headrace.data.log import EmbeddedLog
from headrace.data.rewrite import entries_of, erase_rows
from headrace.data.subjects import UserColumns
from headrace.types import Events

USERS = UserColumns(("user",), {"user": 4})
ANN = "ann-of-green-gables"


class House:
    """Two logs, a book, and a joiner that may be stopped after so many rounds, as if it were killed."""

    def __init__(self, folder: Path) -> None:
        self.events = EmbeddedLog(folder / "events.db", durability="process")
        self.examples = EmbeddedLog(folder / "examples.db", durability="process")
        self.book, self.next = ErasureBook(folder / "erasures.db"), 0

    def show(self, *users: str, clicked: bool = False) -> None:
        for user in users:
            place, self.next = self.next, self.next + 1
            columns = {"key": [f"k{place}"], "item": ["x"], "event_time": [place * 1_000_000]}
            self.events.append("events", Events.from_columns(columns | {"kind": ["impression"], "user": [user]}))
            if clicked:
                self.events.append("events", Events.from_columns(columns | {"kind": ["click"]}))

    def join(self, *, kill_after: int | None = None, every: int = 1000) -> JoinProgress:
        """Join what there is; `kill_after` transactions it is gone, without an orderly stop."""
        left = iter(range(10_000 if kill_after is None else kill_after))
        join = EventJoin(JoinConfig(window_s=5.0, lateness_s=0.0))

        def on_progress(progress: JoinProgress) -> None:
            if kill_after is not None and next(left, None) is None:
                raise KeyboardInterrupt

        def stop() -> bool:
            if self.events.is_closed("events"):
                return False  # it ends by itself
            done = JoinProgress.from_bytes(self.examples.state("joiner/progress")).offset
            return kill_after is None and done == self.events.end("events") and not self.waits()

        try:
            return join_log(self.events, "events", self.examples, "examples", join, stop=stop, snapshot_every=every,
                            on_progress=on_progress, idle_s=0.01, erasures=JoinErasures(self.book, USERS))  # fmt: skip
        except KeyboardInterrupt:
            return JoinProgress.from_bytes(self.examples.state("joiner/progress"))

    def waits(self) -> bool:
        return any("joiner" not in item.marks for item in self.book.unfinished())

    def learned(self) -> list[str]:
        rows = [entry.events for entry in entries_of(self.examples, "examples") if entry.rows]
        return [user for part in rows for user in part.column("user").to_pylist()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_from_the_marker_on_a_user_is_unknown(house: House) -> None:
    house.show(ANN, "bob", clicked=True)
    house.show(ANN, "bob", ANN)
    house.join()
    assert house.learned() == [ANN, "bob"]
    house.book.request(ANN)
    house.join()
    house.show(ANN, "bob", ANN, *["eve"] * 8, clicked=True)
    house.join()
    assert house.learned().count(ANN) == 1, "only the example that was made before"
    assert house.learned().count("bob") == 3
    state = house.examples.state("joiner/state")
    assert state is not None
    assert ANN.encode() not in state


def test_a_user_who_consents_is_joined_again(house: House) -> None:
    house.show(ANN)
    number = house.book.request(ANN).number
    house.join()
    house.book.finish(number)
    house.show(ANN, clicked=True)
    house.join()
    assert house.learned() == []
    house.book.consent(ANN)
    wait = JoinErasures(house.book, USERS)
    wait.announce(house.events, "events")
    house.show(ANN, clicked=True)
    house.join()
    assert house.learned() == [ANN]


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("kill_after", range(1, 4))
def test_a_killed_joiner_repeats_itself(house: House, kill_after: int, rewrite: bool) -> None:
    house.show(ANN, "bob", ANN, "eve", clicked=True)
    house.show(ANN, "bob")
    house.join()
    house.book.request(ANN)
    house.show(ANN, "bob", "bob")
    house.join()
    house.show(*[ANN, "bob"] * 20, clicked=True)  # by somebody who does not ask the book
    house.join(kill_after=kill_after)
    if rewrite:
        assert erase_rows(house.events, "events", USERS, [ANN])
    house.show("joe", "joe", ANN, clicked=True)
    house.join()  # raises if it does not arrive where it had been
    straight = house.learned()
    assert straight.count(ANN) == 2
    assert straight.count("joe") == 2
    house.join()
    assert house.learned() == straight


def test_a_crash_between_the_state_and_the_mark(house: House) -> None:
    house.show(ANN, "bob")
    number = house.book.request(ANN).number
    house.join()
    with house.book._database.writing() as connection:
        connection.execute("DELETE FROM erasure_marks WHERE part = 'joiner'")
    assert house.waits()
    house.join()
    assert "joiner" in house.book.erasure(number).marks


def test_a_marker_moves_no_window_and_may_stand_twice(house: House) -> None:
    house.show("bob")
    number = house.book.request(ANN).number
    house.events.append("events", marker("erasure", number))
    house.events.append("events", marker("erasure", number))
    house.join()
    assert house.learned() == []
    house.events.close_topic("events")
    house.join()
    assert house.learned() == ["bob"]
    assert house.examples.state("joiner/state") is None, "nobody starts from it any more"


def test_nothing_is_left_in_the_disk_tier(tmp_path: Path) -> None:
    join = EventJoin(JoinConfig(window_s=1000.0, lateness_s=0.0, memory_rows=20, spill=tmp_path / "spill"))
    users = [ANN if place % 4 == 0 else f"user-{place}" for place in range(400)]
    for start in range(0, 400, 40):
        places = range(start, start + 40)
        join.push(Events.from_columns({
            "key": [f"k{n}" for n in places], "kind": ["impression"] * 40, "event_time": [n * 1000 for n in places],
            "item": ["x"] * 40, "user": users[start : start + 40],
        }))  # fmt: skip
    assert join.stats().on_disk > 300
    join._ledger.disk._store.flush()
    assert held(tmp_path, b"user-") > 0, "there has to be something on the disk"
    assert join.erase(lambda rows: USERS.rows(rows, [ANN])) == 100
    if join._ledger.disk._store is not None:
        join._ledger.disk._store.flush()
    assert held(tmp_path, ANN.encode()) == 0
    assert join.stats().pending == 300
    last = join.flush()
    assert last is not None
    assert ANN not in last.column("user").to_pylist()
    join.close()


def held(folder: Path, needle: bytes) -> int:
    return sum(file.read_bytes().count(needle) for file in folder.rglob("*") if file.is_file())
