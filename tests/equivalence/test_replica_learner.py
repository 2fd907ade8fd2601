"""At every published version the replica holds the learner's rows and gives its answers, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headrace.data.collate import collate
from headrace.data.features import DenseFeature, IdFeature, Schema
from headrace.data.log import EmbeddedLog
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.publish import ChangeReader, LogPublisher, Replica, StagingPublisher, relay
from headrace.serve import RankPredictor
from headrace.store import AdmitCount, EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig, open_table
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Change, Events, Version

SCHEMA = Schema(features=(IdFeature("user", 6), IdFeature("item", 6), DenseFeature("age")))
TABLES = {
    "user": TableConfig(name="user", dim=6, seed=3, ttl_s=40.0),
    "item": TableConfig(name="item", dim=6, seed=3, admission=AdmitCount(2), ttl_s=3.0),
}
TOY = Toy(ToyConfig(users=128, items=256, rows_per_s=20.0))
BATCH, BATCHES = 32, 36


def model_over(tables: dict) -> tuple[DeepFM, EmbeddingCollection]:
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in TABLES])
    return DeepFM(collection, list(TABLES), 1, (16, 8), seed=1), collection


def learner() -> RankLearner:
    model, collection = model_over({name: open_table(config) for name, config in TABLES.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return RankLearner(model, collection, optimizer, LogLoss(), LearnerConfig(schema=SCHEMA))


def serving(make: Callable[..., object] = open_table) -> tuple[Replica, RankPredictor]:
    tables = {name: make(config, serving=True) for name, config in TABLES.items()}
    model, _ = model_over(tables)
    replica = Replica(tables, model)
    return replica, RankPredictor(model, replica, SCHEMA)


def rows(first: int, count: int) -> Events:
    events = TOY.events(first, count)
    ages = torch.sin(torch.arange(first, first + count).double()).tolist()
    return Events.from_columns({**dict(zip(events.names, events.batch.columns, strict=True)), "age": ages})


class Run:
    """A learner that publishes every second batch, and what it knew at each version."""

    def __init__(self, publish: Callable[[Change], object], *, versions: int = BATCHES // 2 + 1) -> None:
        self.learner, self.truth = learner(), dict[int, dict[str, torch.Tensor]]()
        self.emit(publish)
        for number in range(BATCHES):
            if len(self.truth) == versions:
                return
            self.learner.learn(collate(rows(number * BATCH, BATCH), SCHEMA))
            if number % 2:
                self.emit(publish)

    def emit(self, publish: Callable[[Change], object]) -> None:
        change = self.learner.changes(Version(len(self.truth) - 1))
        self.truth[change.version.number] = snapshot_of(self.learner.tables, self.learner.model)
        publish(change)


def snapshot_of(tables: dict, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return everything that serving reads: all rows of all tables, and what ids without one read; all dense values."""
    state = {f"dense/{name}": value.clone() for name, value in model.state_dict().items()}
    for name, table in tables.items():
        held = table.rows()
        state |= {f"{name}/ids": held.ids, f"{name}/rows": held.rows}
        state[f"{name}/absent"] = table.lookup(torch.arange(-50, 50))
    return state


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def publisher(tmp_path: Path) -> LogPublisher:
    log = EmbeddedLog(tmp_path / "changes.db", durability="process")
    return LogPublisher(log, tmp_path / "snapshots", snapshot_every=4, keep=2)


@pytest.mark.parametrize("make", [open_table, ReferenceTable])
def test_the_replica_equals_the_learner_at_every_version(publisher: LogPublisher, make: Callable[..., object]) -> None:
    replica, _ = serving(make)
    removed = 0

    def publish(change: Change) -> None:
        nonlocal removed
        removed += sum(len(table.removed) for table in change.tables.values())
        publisher.publish(change)

    truth: dict[int, dict[str, torch.Tensor]] = {}

    def follow(change: Change) -> None:
        publish(change)
        replica.catch_up(publisher)
        truth[replica.version.number] = snapshot_of(replica.tables, torch.nn.ParameterDict())
        truth[replica.version.number] |= {f"dense/{name}": value.clone() for name, value in replica.dense.items()}

    run = Run(follow)
    assert removed > 50  # rows expired on the way
    assert list(truth) == list(range(BATCHES // 2 + 1))
    for number, expected in run.truth.items():
        assert same(truth[number], expected), number


def test_the_replica_answers_as_the_learner_would(publisher: LogPublisher) -> None:
    run = Run(publisher.publish)
    replica, predictor = serving()
    replica.catch_up(publisher)
    requests = rows(0, 200)
    run.learner.model.eval()
    own = Replica(run.learner.tables, run.learner.model)
    own._version = replica.version
    expected = RankPredictor(run.learner.model, own, SCHEMA).predict(requests)
    assert predictor.predict(requests).batch.equals(expected.batch)


@pytest.mark.parametrize("after", [0, 3, 9, 17])
def test_a_replica_that_joins_late_equals_the_learner(tmp_path: Path, publisher: LogPublisher, after: int) -> None:
    late, _ = serving()
    reader = ChangeReader(EmbeddedLog(publisher.changes.log.path, durability="process"), tmp_path / "snapshots")

    def publish(change: Change) -> None:
        publisher.publish(change)
        if change.version.number == after:
            late.catch_up(reader)

    run = Run(publish)
    late.catch_up(reader)
    assert late.version.number == max(run.truth)
    held = snapshot_of(late.tables, torch.nn.ParameterDict()) | {f"dense/{n}": v for n, v in late.dense.items()}
    assert same(held, run.truth[max(run.truth)])


def test_a_replica_from_a_snapshot_alone_equals_the_learner(publisher: LogPublisher) -> None:
    run = Run(publisher.publish)
    publisher.write_snapshot()
    replica, _ = serving()
    replica.apply(publisher.snapshot())
    held = snapshot_of(replica.tables, torch.nn.ParameterDict()) | {f"dense/{n}": v for n, v in replica.dense.items()}
    assert same(held, run.truth[max(run.truth)])


def test_a_restored_learner_repeats_what_it_published(tmp_path: Path, publisher: LogPublisher) -> None:
    staged = EmbeddedLog(tmp_path / "staged.db", durability="process")
    staging = StagingPublisher(staged)
    straight = learner()
    staging.publish(straight.changes(Version(-1)))
    saved, place = None, 0
    for number in range(12):
        straight.learn(collate(rows(number * BATCH, BATCH), SCHEMA))
        if number % 2:
            staging.publish(straight.changes(Version(number // 2)))
        if number == 5:
            saved, place = straight.state(), number
    relay(staged, publisher, stop=lambda: publisher.last() == staging.last())
    again = learner()
    assert saved is not None
    again.restore(saved)
    for number in range(place + 1, 16):
        again.learn(collate(rows(number * BATCH, BATCH), SCHEMA))
        if number % 2:
            staging.publish(again.changes(Version(number // 2)))
    staged.close_topic("staged")
    relay(staged, publisher)
    assert publisher.last().number == 8
    replica, _ = serving()
    replica.catch_up(publisher)
    held = snapshot_of(replica.tables, torch.nn.ParameterDict()) | {f"dense/{n}": v for n, v in replica.dense.items()}
    assert same(held, snapshot_of(again.tables, again.model))
