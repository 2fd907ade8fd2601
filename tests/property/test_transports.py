"""A replica that is fed by any transport, with crashes, damage and retention in between, equals the learner."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from headrace.data.kafka import KafkaLog
from headrace.data.log import EmbeddedLog
from headrace.errors import HeadraceError
from headrace.publish import (
    AcknowledgementFolder,
    Acknowledger,
    ChangeFolder,
    ChangeFolderWriter,
    ChangeReader,
    ChangeSource,
    ChangeTarget,
    ChangeTopic,
    ChangeTopicWriter,
    LogPublisher,
    Mirror,
    Replica,
    Retention,
    run_id,
)
from headrace.store import TableConfig, open_table
from headrace.types import Change, RowChange, Version

DIM, IDS = 2, 12
EVERY_ID = torch.arange(-1, IDS + 1)
NAMES = ("a", "b")


class Learner:
    """Tables and a dense tensor that change at random, and what they were at every version."""

    def __init__(self, seed: int) -> None:
        self.draw, self.number = np.random.default_rng(seed), -1
        self.rows: dict[str, dict[int, np.ndarray]] = {name: {} for name in NAMES}
        self.truth: dict[int, object] = {}

    def learn(self) -> Change:
        self.number += 1
        tables = {}
        for name in NAMES:
            put = sorted({int(one) for one in self.draw.integers(IDS, size=self.draw.integers(4))})
            gone = sorted({int(one) for one in self.draw.integers(IDS, size=self.draw.integers(3))} - set(put))
            rows = self.draw.normal(size=(len(put), DIM)).astype(np.float32)
            for one in gone:
                self.rows[name].pop(one, None)
            self.rows[name] |= dict(zip(put, rows, strict=True))
            tables[name] = RowChange(torch.tensor(put, dtype=torch.int64), torch.from_numpy(rows),
                                     torch.tensor(gone, dtype=torch.int64))  # fmt: skip
        dense = self.draw.normal(size=2).astype(np.float32)
        self.truth[self.number] = (
            {name: {one: row.tolist() for one, row in sorted(rows.items())} for name, rows in self.rows.items()},
            dense.tolist(),
        )
        return Change(version=Version(self.number, self.number - 1), tables=tables,
                      dense={"w": torch.from_numpy(dense)})  # fmt: skip


def replica(mode: str) -> Replica:
    tables = {name: open_table(TableConfig(name=name, dim=DIM, seed=3), serving=True) for name in NAMES}
    return Replica(tables, {"w": torch.zeros(2)}, mode=mode)  # type: ignore[arg-type]


def held(one: Replica) -> object:
    tables = {}
    for name, table in one.tables.items():
        rows = table.rows()  # type: ignore[attr-defined]
        tables[name] = dict(zip(rows.ids.tolist(), rows.rows.tolist(), strict=True))
    return tables, one.dense["w"].tolist()


class Killed(BaseException):
    """The process ends here: nothing after it runs, and what it held in memory is gone."""


class World:
    """A publisher, perhaps a copy of its versions elsewhere, and a replica; each may end at any file operation."""

    def __init__(self, folder: Path, seed: int, mode: str, far: Callable[[Path, str], tuple] | None) -> None:
        self.folder, self.learner, self.mode, self.far = folder, Learner(seed), mode, far
        self.log = EmbeddedLog(folder / "changes.db", durability="process")
        self.told = AcknowledgementFolder(folder / "told")
        self.clock, self.broken = 10**15, folder
        self.waiting: list[Change] = []
        self.start_publisher()
        self.start_mirror()
        self.start_replica()

    def start_publisher(self) -> None:
        bounds = Retention(keep_versions=6, forget_after_s=50)
        self.publisher = LogPublisher(self.log, self.folder / "s", snapshot_every=3, keep=2, retention=bounds,
                                      acknowledgements=self.told)  # fmt: skip

    def start_mirror(self) -> None:
        if self.far is None:
            self.source: ChangeSource = ChangeReader(self.log, self.folder / "s")
            return
        target, self.source = self.far(self.folder / "far", run_id(self.log))
        self.mirror = Mirror(ChangeReader(self.log, self.folder / "s"), target,
                             acknowledger=Acknowledger(self.told, "far", every_s=0, now=self.now))  # fmt: skip

    def start_replica(self) -> None:
        self.replica = replica(self.mode)
        self.acknowledger = Acknowledger(self.told, "replica", every_s=0, now=self.now)

    def now(self) -> int:
        self.clock += 1_000_000
        return self.clock

    def publish(self) -> None:
        if not self.waiting:
            self.waiting = [self.learner.learn()]
        self.publisher.publish(self.waiting[0])
        self.waiting = []

    def copy(self) -> None:
        if self.far is not None:
            self.mirror.step()

    def follow(self) -> None:
        self.replica.catch_up(self.source, on_applied=self.check)
        self.acknowledger.tell(self.replica.version)

    def check(self, _: Change) -> None:
        assert held(self.replica) == self.learner.truth[self.replica.version.number]

    def damage(self, at: int) -> None:
        """Flip a bit of a snapshot, of which there are two so that one may be lost."""
        files = sorted((self.folder / "s").glob("*.snapshot"))
        if len(files) > 1 and self.broken not in files:
            path = self.broken = files[at % len(files)]
            data = bytearray(path.read_bytes())
            data[at % len(data)] ^= 1
            path.write_bytes(data)

    def dying(self, step: Callable[[], None], at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Do a step that ends at its `at`-th file operation; returns whether it did."""
        left = [at]

        def mortal(real):
            def call(*arguments, **named):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            patch.setattr("headrace.publish.durable_files.os.replace", mortal(os.replace))
            patch.setattr(Path, "open", mortal(Path.open))
            patch.setattr(Path, "unlink", mortal(Path.unlink))
            patch.setattr(EmbeddedLog, "trim", mortal(EmbeddedLog.trim))
            patch.setattr(KafkaLog, "append_bytes", mortal(KafkaLog.append_bytes))
            try:
                step()
            except Killed:
                return True
        return False


def steps() -> st.SearchStrategy[list[tuple[str, int]]]:
    names = ["publish"] * 6 + ["copy", "follow", "follow", "kill publisher", "kill copy", "new replica", "damage"]
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 11)), min_size=5, max_size=40)


def play(world: World, script: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in script:
        if name == "publish":
            for _ in range(1 + number % 3):
                world.publish()
        elif name == "copy":
            world.copy()
        elif name == "follow" and world.source.last().number >= 0:
            world.follow()
        elif name == "kill publisher" and world.dying(world.publish, number % 4, monkeypatch):
            world.start_publisher()
        elif name == "kill copy" and world.far is not None and world.dying(world.copy, number, monkeypatch):
            world.start_mirror()
        elif name == "new replica":
            world.start_replica()
        elif name == "damage":
            world.damage(number)
            world.start_publisher()
    world.publish()
    world.copy()
    world.follow()
    assert world.replica.version.number == world.learner.number
    fresh = replica("consistent")
    fresh.catch_up(world.source)
    for one in (world.replica, fresh):
        assert one.version.number == world.learner.number
        assert held(one) == world.learner.truth[world.learner.number]


def folder_place(folder: Path, run: str) -> tuple[ChangeTarget, ChangeSource]:
    bounds = Retention(keep_versions=6, snapshots=2)
    return ChangeFolderWriter(folder, run, retention=bounds, sync=False), ChangeFolder(folder)


PLACES = {"log": None, "folder": folder_place}
FORMS = [("log", "eventual"), ("folder", "consistent"), ("log", "consistent"), ("folder", "eventual")]


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from(FORMS), seed=st.integers(0, 2**31), script=steps())
def test_a_replica_equals_the_learner(
    form: tuple[str, str], seed: int, script: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play(World(Path(folder), seed, form[1], PLACES[form[0]]), script, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from(FORMS), seed=st.integers(0, 2**31), script=steps())
def test_a_replica_equals_the_learner_many_times(
    form: tuple[str, str], seed: int, script: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play(World(Path(folder), seed, form[1], PLACES[form[0]]), script, monkeypatch)


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaLog]:
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
    opened = KafkaLog(f"{broker.host}:{broker.port}", settings={"log_level": 0}, timeout_s=10)
    yield opened
    opened.close()
    del cluster


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31), script=steps())
def test_a_replica_behind_a_topic_equals_the_learner(
    kafka: KafkaLog, seed: int, script: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def topic_place(folder: Path, run: str) -> tuple[ChangeTarget, ChangeSource]:
        return (ChangeTopicWriter(kafka, f"changes-{run}", run, snapshots=folder, part_bytes=300),
                ChangeTopic(kafka, f"changes-{run}", snapshots=folder))  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        play(World(Path(folder), seed, "consistent", topic_place), script, monkeypatch)


def test_the_script_kills_and_damages() -> None:
    """The steps above do what they say; else the property would hold for nothing."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        world = World(Path(folder), 1, "consistent", folder_place)
        for _ in range(7):
            world.publish()
        assert world.dying(world.copy, 0, monkeypatch)
        world.start_mirror()
        world.copy()
        world.damage(5)
        broken = 0
        for number in world.publisher.snapshots.numbers():
            try:
                world.publisher.snapshots.read(number)
            except HeadraceError:
                broken += 1
        assert broken == 1
