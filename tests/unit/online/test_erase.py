"""One user is taken out of a whole run: every file, every table, and the way back in."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.data import CrossFeature, EmbeddedLog, ErasureConfig, IdFeature, JoinConfig, Schema
from headrace.data.source import MemorySource
from headrace.errors import ConfigError
from headrace.online import Embedded, OnlineConfig, RunFolder, open_serving, run_joiner, run_learner, run_publisher
from headrace.online.demo import DeepFMBuilder
from headrace.online.erase import erasable, open_book, user_columns
from headrace.online.erase_rest import finish_erasures
from headrace.online.layout import CHANGES, EVENTS
from headrace.online.recording import Recording
from headrace.online.traces import find_traces, rows_held
from headrace.publish import ChangeReader
from headrace.types import Events

ALICE, LONGER = "user-alice-1", "user-alice-17"
STEP = 1_000_000


def config(**changes: object) -> OnlineConfig:
    made = OnlineConfig(
        name="erasing", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))), model=DeepFMBuilder((8,)),
        join=JoinConfig(window_s=5.0, lateness_s=1.0), batch_rows=16, publish_every=48, checkpoint_every=2,
        snapshot_every=3, prior=0.1,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def impressions(start: int, count: int, user: Callable[[int], object], integers: bool = False) -> Events:
    rows = range(start, start + count)
    users = [user(row) for row in rows]
    return Events.from_columns({
        "key": [f"k{row}" for row in rows], "kind": ["impression"] * count,
        "event_time": [row * STEP for row in rows], "item": [f"item-{row % 7}" for row in rows],
        "user": pa.array(users, pa.int64() if integers else pa.string()),
    })  # fmt: skip


def clicks(start: int, count: int) -> Events:
    rows = [row for row in range(start, start + count) if row % 3 == 0]
    return Events.from_columns({
        "key": [f"k{row}" for row in rows], "kind": ["click"] * len(rows),
        "event_time": [row * STEP + STEP // 2 for row in rows], "item": [f"item-{row % 7}" for row in rows],
    })  # fmt: skip


def someone(row: int) -> str:
    return ALICE if row % 5 == 0 else LONGER if row % 5 == 1 else f"user-{row % 11}"


def play(run: OnlineConfig, folder: RunFolder, start: int, count: int, *, close: bool = False,
         user: Callable[[int], object] = someone, integers: bool = False) -> None:  # fmt: skip
    with EmbeddedLog(folder.log(EVENTS), durability="process") as log:
        for first in range(start, start + count, 20):
            log.append(EVENTS, impressions(first, 20, user, integers))
            log.append(EVENTS, clicks(first, 20))
        if close:
            log.close_topic(EVENTS)


@contextmanager
def roles(run: OnlineConfig, folder: RunFolder) -> Iterator[None]:
    """The three processes as threads; they are told to stop at the end of the block."""
    stop, errors = threading.Event(), list[BaseException]()

    def guarded(role: Callable[..., object]) -> None:
        try:
            role(run, folder, stop.is_set)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(role,)) for role in (run_joiner, run_learner, run_publisher)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


def wait(what: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def versions(folder: RunFolder) -> int:
    with EmbeddedLog(folder.log(CHANGES), durability="process") as log:
        return ChangeReader(log, folder.snapshots).last().number


def replica_of(run: OnlineConfig, folder: RunFolder):
    serving = open_serving(run)
    serving.replica.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots))
    return serving.replica


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_no_trace_is_left_of_one_user_and_all_of_another(folder: RunFolder) -> None:
    run = config()
    users = user_columns(run)
    play(run, folder, 0, 600)
    book = open_book(folder)
    with roles(run, folder):
        wait(lambda: versions(folder) >= 12)
        held = replica_of(run, folder)
        assert rows_held(held.tables, users, ALICE) == ["user"], "there has to be something to erase"
        assert find_traces(folder.root, ALICE, users).traces
        erasure = book.request(ALICE)
        wait(lambda: book.erasure(erasure.number).finished)
        play(run, folder, 600, 100, user=lambda row: f"user-{row % 11}")
        wait(lambda: versions(folder) >= 14)
    check_gone(run, folder)
    held.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots))
    assert rows_held(held.tables, users, ALICE) == [], "a replica that slept through it catches up"


def check_gone(run: OnlineConfig, folder: RunFolder) -> None:
    users = user_columns(run)
    scan = find_traces(folder.root, ALICE, users)
    assert scan.traces == []
    assert scan.unreadable == []
    assert scan.entries > 20
    assert find_traces(folder.root, LONGER, users).traces, "another user, whose name begins like hers, is still there"
    fresh = replica_of(run, folder)
    assert rows_held(fresh.tables, users, ALICE) == []
    assert rows_held(fresh.tables, users, LONGER) == ["user"]


def test_a_run_that_has_ended_is_erased_at_rest(folder: RunFolder) -> None:
    run = config()
    play(run, folder, 0, 300, close=True)
    with roles(run, folder):
        wait(lambda: folder.read_status("publisher").get("final"))
    open_book(folder).request(ALICE)
    assert finish_erasures(run, folder) == []
    check_gone(run, folder)


def test_a_run_at_rest_in_the_middle_of_its_stream(folder: RunFolder) -> None:
    run = config()
    play(run, folder, 0, 300)
    with roles(run, folder):
        wait(lambda: versions(folder) >= 3)
    open_book(folder).request(ALICE)
    assert finish_erasures(run, folder) == []
    check_gone(run, folder)
    play(run, folder, 300, 100, user=lambda row: f"user-{row % 11}", close=True)
    with roles(run, folder):
        wait(lambda: folder.read_status("publisher").get("final"))
    check_gone(run, folder)


def recorded() -> Recording:
    rows = [part for first in range(0, 600, 20) for part in (impressions(first, 20, someone), clicks(first, 20))]
    return Recording(lambda: MemorySource(rows), max_span_s=60.0)


def test_a_run_of_one_process_is_erased_between_two_runs(folder: RunFolder) -> None:
    run, asked = config(player=recorded), iter(range(10_000))
    Embedded(run, folder, stop=lambda: next(asked) > 8).run()
    users = user_columns(run)
    assert find_traces(folder.root, ALICE, users).traces
    book = open_book(folder)
    number = book.request(ALICE).number
    assert finish_erasures(run, folder) == []
    assert book.erasure(number).finished
    assert find_traces(folder.root, ALICE, users).traces == []
    Embedded(run, folder).run()
    assert find_traces(folder.root, ALICE, users).traces == [], "what is played still has her; she does not come back"
    assert rows_held(replica_of(run, folder).tables, users, LONGER) == ["user"]


def test_a_recipe_whose_users_cannot_be_erased_says_so(folder: RunFolder, caplog) -> None:
    features = (IdFeature("user", 4), IdFeature("item", 4))
    crossed = config(schema=Schema(features=(*features, CrossFeature("both", 4, of=("user", "item")))))
    assert erasable(crossed) is None
    assert "cannot be erased" in caplog.text
    with pytest.raises(ConfigError, match="cross"):
        user_columns(crossed)
    caplog.clear()
    assert erasable(config(schema=Schema(features=(IdFeature("item", 4),)))) is None
    assert caplog.text == "", "there is nobody to be erased"
    with pytest.raises(ConfigError, match="one of"):
        erasable(config(erase=ErasureConfig(columns=("member",))))
    with pytest.raises(ConfigError, match="cross"):
        finish_erasures(crossed, folder)
