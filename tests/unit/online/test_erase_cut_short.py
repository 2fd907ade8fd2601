"""An erasure that is cut short at any durable step is finished by whoever comes next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.data import EmbeddedLog, IdFeature, JoinConfig, Schema
from headrace.data.erasure_book import ErasureBook
from headrace.data.log_transaction import Transaction
from headrace.learn import ManifestCheckpoint
from headrace.online import OnlineConfig, RunFolder, open_serving, run_joiner, run_learner
from headrace.online.demo import DeepFMBuilder
from headrace.online.erase import JOINED, LearnerErasures, open_book, user_columns
from headrace.online.eraser import Eraser
from headrace.online.layout import CHANGES, EVENTS, STAGED
from headrace.online.traces import find_all_traces, find_traces, rows_held
from headrace.publish import ChangeReader, LogPublisher, Sluice, Snapshots
from headrace.publish.change_log import ChangeLog
from headrace.types import Events

ANN, SECOND = "ann-of-green-gables", 1_000_000
DURABLE = (
    (ErasureBook, "mark"), (ErasureBook, "finish"), (Transaction, "replace"), (Transaction, "append_bytes"),
    (Transaction, "put_state"), (ManifestCheckpoint, "save"), (Snapshots, "write"), (EmbeddedLog, "purge"),
)  # fmt: skip
CONFIG = OnlineConfig(
    name="cut", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))), model=DeepFMBuilder((8,)),
    join=JoinConfig(window_s=5.0, lateness_s=1.0), batch_rows=16, publish_every=32, checkpoint_every=2,
    snapshot_every=2, prior=0.1,
)  # fmt: skip


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def dying(at: int, *, before: bool) -> Iterator[list[int]]:
    """Let the process die just before or just after its `at`-th durable step; yields how many there were."""
    count, kept = [0], [(owner, name, getattr(owner, name)) for owner, name in DURABLE]

    def counted(step: Callable[..., object]) -> Callable[..., object]:
        def once(*arguments: object, **options: object) -> object:
            count[0] += 1
            if count[0] == at and before:
                raise Killed
            result = step(*arguments, **options)
            if count[0] == at:
                raise Killed
            return result

        return once

    for owner, name, step in kept:
        setattr(owner, name, counted(step))
    try:
        yield count
    finally:
        for owner, name, step in kept:
            setattr(owner, name, step)


def rows(start: int, count: int, user: Callable[[int], str]) -> Events:
    places = range(start, start + count)
    return Events.from_columns({
        "key": [f"k{n}" for n in places], "kind": ["impression"] * count, "event_time": [n * SECOND for n in places],
        "item": [f"i{n % 5}" for n in places], "user": [user(n) for n in places],
    })  # fmt: skip


def everyone(folder: RunFolder) -> None:
    """Do what joiner, learner and publisher do for the erasures, one after another, without threads."""
    book = open_book(folder)
    run_joiner(CONFIG, folder, lambda: all(JOINED in item.marks for item in book.unfinished()))
    LearnerErasures(CONFIG, folder).settle()
    publish(folder)


def publish(folder: RunFolder) -> None:
    log = EmbeddedLog(folder.log(CHANGES), durability="process")
    publisher = LogPublisher(log, folder.snapshots, snapshot_every=CONFIG.snapshot_every)
    sluice, staged = Sluice(publisher), ChangeLog(EmbeddedLog(folder.log(STAGED), durability="process"), STAGED)
    for change in staged.read_since(sluice.standing.following - 1):
        sluice.publish(change)
    eraser = Eraser(CONFIG, folder, publisher)
    sluice.obey()
    while eraser.step():
        sluice.obey()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run at rest in the middle of its stream, with an erasure that nobody has begun with."""
    folder = RunFolder(tmp_path_factory.mktemp("asked"))
    with EmbeddedLog(folder.log(EVENTS), durability="process") as log:
        for start in range(0, 200, 20):
            log.append(EVENTS, rows(start, 20, lambda n: ANN if n % 3 == 0 else f"user-{n % 7}"))
    steps = iter(range(10_000))
    run_joiner(CONFIG, folder, lambda: next(steps) > 3)
    steps = iter(range(10_000))
    run_learner(CONFIG, folder, lambda: next(steps) > 6)
    publish(folder)
    open_book(folder).request(ANN)
    return folder


def check(folder: RunFolder) -> None:
    users = user_columns(CONFIG)
    assert open_book(folder).unfinished() == []
    scan = find_traces(folder.root, ANN, users)
    assert (scan.traces, scan.unreadable) == ([], [])
    replica = open_serving(CONFIG).replica
    replica.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES), durability="process"), folder.snapshots))
    assert rows_held(replica.tables, users, ANN) == []
    assert len(replica.tables["user"]) == 7


def cut_at(asked: RunFolder, folder: RunFolder, at: int, *, before: bool) -> bool:
    """Return whether the process died at that step; what comes after has to be right in any case."""
    shutil.copytree(asked.root, folder.root)
    died = False
    with dying(at, before=before):
        try:
            everyone(folder)
        except Killed:
            died = True
    everyone(folder)
    check(folder)
    goes_on(folder)
    return died


def goes_on(folder: RunFolder) -> None:
    """Let the run go on to its end: what was staged is repeated to the bit, and she does not come back."""
    with EmbeddedLog(folder.log(EVENTS), durability="process") as log:
        log.append(EVENTS, rows(200, 60, lambda n: ANN if n % 3 == 0 else f"user-{n % 7}"))
        log.close_topic(EVENTS)
    run_joiner(CONFIG, folder, lambda: False)
    run_learner(CONFIG, folder, lambda: False)
    publish(folder)
    replica = open_serving(CONFIG).replica
    replica.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES), durability="process"), folder.snapshots))
    assert rows_held(replica.tables, user_columns(CONFIG), ANN) == []


def test_nothing_is_cut(asked: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(asked.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert rows_held(loaded(folder), user_columns(CONFIG), ANN) == ["user"], "there has to be something to erase"
    with dying(-1, before=True) as count:
        everyone(folder)
    check(folder)
    assert count[0] > 40


def loaded(folder: RunFolder) -> dict[str, object]:
    replica = open_serving(CONFIG).replica
    replica.catch_up(ChangeReader(EmbeddedLog(folder.log(CHANGES), durability="process"), folder.snapshots))
    return dict(replica.tables)


def test_several_users_at_once_are_rewritten_and_looked_for_together(asked: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(asked.root, tmp_path / "run")
    folder, names = RunFolder(tmp_path / "run"), [ANN, "user-1", "user-2", "never seen"]
    for name in names:
        open_book(folder).request(name)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.online.eraser.find_all_traces",
                      lambda *given: (calls.append(given), find_all_traces(*given))[1])  # fmt: skip
        everyone(folder)
    assert open_book(folder).unfinished() == []
    assert [sorted(given[1]) for given in calls] == [sorted(names)], "one scan for all"
    users = user_columns(CONFIG)
    for name, scan in find_all_traces(folder.root, [*names, "user-3"], users).items():
        assert bool(scan.traces) == (name == "user-3"), name
    assert len(loaded(folder)["user"]) == 5


@pytest.mark.parametrize("at", [3, 9, 16, 24, 33])
def test_cut_short_here_and_there(asked: RunFolder, tmp_path: Path, at: int) -> None:
    assert cut_at(asked, RunFolder(tmp_path / "run"), at, before=at % 2 == 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("before", [True, False])
def test_cut_short_everywhere(asked: RunFolder, tmp_path: Path, before: bool) -> None:
    at = 1
    while cut_at(asked, RunFolder(tmp_path / f"run-{at}"), at, before=before):
        shutil.rmtree(tmp_path / f"run-{at}")
        at += 1
    assert at > 40
