"""Kill -9 of the publisher in the middle of rollbacks and releases: each is done once, and nothing learned is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.publish import ChangeReader, LogPublisher, Replica, Sluice, StagingPublisher, VersionRecords, place, relay
from headrace.publish.versions import reachable
from headrace.store import TableConfig, open_table
from headrace.types import Change, RowChange, Version

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
DIM, IDS = 8, 20_000


def born(work: Callable[[], None]) -> int:
    """Run work in a child process and return its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def killed(child: int, after_s: float) -> None:
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the publisher failed on its own"


class Learner:
    """Rows as numbers by id, and what changed with each of them."""

    def __init__(self) -> None:
        self.rng, self.rows, self.number = np.random.default_rng(5), dict[int, np.ndarray](), 0

    def change(self) -> Change:
        number, self.number = self.number, self.number + 1
        put = np.unique(self.rng.integers(0, IDS, 4_000))
        gone = np.setdiff1d(np.unique(self.rng.integers(0, IDS, 300)), put) if number else put[:0]
        rows = self.rng.normal(size=(len(put), DIM)).astype(np.float32)
        for one in gone.tolist():
            self.rows.pop(one, None)
        self.rows |= dict(zip(put.tolist(), rows, strict=True))
        change = RowChange(torch.from_numpy(put), torch.from_numpy(rows), torch.from_numpy(gone))
        return Change(version=Version(number, number - 1), tables={"item": change}, full=number == 0,
                      dense={"w": torch.full((4,), float(number))})  # fmt: skip


def publisher_of(folder: Path) -> LogPublisher:
    log = EmbeddedLog(folder / "changes.db", durability="process")
    return LogPublisher(log, folder / "snapshots", snapshot_every=8, keep=3)


def publish(folder: Path) -> None:
    relay(EmbeddedLog(folder / "staged.db", durability="process"), publisher_of(folder))


def replica(folder: Path) -> Replica:
    table = open_table(TableConfig(name="item", dim=DIM), serving=True)
    held = Replica({"item": table}, {"w": torch.zeros(4)})
    held.catch_up(ChangeReader(EmbeddedLog(folder / "changes.db", durability="process"), folder / "snapshots"))
    return held


def work(folder: Path, rounds: int, seed: int) -> None:
    chance, learner, orders = random.Random(seed), Learner(), list[str]()
    staging = StagingPublisher(EmbeddedLog(folder / "staged.db", durability="process"))
    log = EmbeddedLog(folder / "changes.db", durability="process")
    for _ in range(6):
        staging.publish(learner.change())
    for number in range(rounds):
        child = born(lambda: publish(folder))
        time.sleep(chance.uniform(0, 0.03))
        reader = ChangeReader(log, folder / "snapshots")
        kept = reachable(reader.changes, reader.snapshots)
        if number % 3 == 0 and len(kept) > 1:
            orders.append(place(log, "rollback", to=chance.randrange(kept.start, kept.stop - 1)).name)
        elif number % 3 == 1:
            orders.append(place(log, "release").name)
        for _ in range(3):
            staging.publish(learner.change())
        killed(child, chance.uniform(0, 0.12))
        check_versions(folder)
    orders.append(place(log, "release").name)
    staging.changes.log.close_topic("staged")
    publish(folder)
    check_end(folder, learner, orders)


def check_versions(folder: Path) -> None:
    """A rollback's version holds what the version it names held; numbers have no gaps."""
    log = EmbeddedLog(folder / "changes.db", durability="process")
    reader = ChangeReader(log, folder / "snapshots")
    records = [record for record in VersionRecords(log).newest(10_000) if record.version >= 0]
    assert [record.version for record in records] == list(range(len(records)))
    assert reader.last().number == len(records) - 1
    newest = records[-1] if records else None
    if newest is not None and newest.kind == "rollback":
        held = replica(folder)
        changes = {record.version: record for record in records}
        like = changes[newest.to]
        while like.kind == "rollback":
            like = changes[like.to]
        assert held.dense["w"][0] == like.staged


def check_end(folder: Path, learner: Learner, orders: list[str]) -> None:
    """The last version is the learner's state, and every order was carried out exactly once."""
    publisher = publisher_of(folder)
    assert not Sluice(publisher).status()["pending"]
    held = replica(folder)
    ids = torch.arange(IDS)
    expected = np.stack([learner.rows.get(one, np.zeros(DIM, np.float32)) for one in range(IDS)])
    rows = held.tables["item"].lookup(ids).numpy()
    known = np.array([one in learner.rows for one in range(IDS)])
    assert np.array_equal(rows[known], expected[known])
    assert len(held.tables["item"]) == known.sum()  # type: ignore[arg-type]
    assert held.dense["w"][0] == learner.number - 1
    done = [record.order for record in VersionRecords(publisher.changes.log).newest(10_000) if record.order]
    assert done == orders


def test_kills_in_the_middle_of_rollbacks_and_releases(tmp_path: Path) -> None:
    """The short form, on every push."""
    work(tmp_path, rounds=9, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_many_kills_in_the_middle_of_rollbacks_and_releases(tmp_path: Path, seed: int) -> None:
    work(tmp_path, rounds=90, seed=seed)
