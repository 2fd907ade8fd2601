"""Learners, objectives, metrics, publishers, predictors, cadences and resumable parts, each with its contract check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from headrace.data import EmbeddedLog, EventJoin, IdFeature, JoinConfig, Schema
from headrace.evaluate import ProgressiveMetric, StreamingAUC, Tally
from headrace.feedback import World, WorldConfig
from headrace.feedback.pending import PendingClicks
from headrace.learn import LearnerConfig, RankLearner
from headrace.learn.marks import Mark, TimeLog, VersionMarks
from headrace.loop import EveryEventTime, EveryExamples, Never
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.online.baselines import Baselines, Metrics
from headrace.online.config import OnlineConfig
from headrace.online.experiment import EveryBlocks
from headrace.online.guarding import NewestBatches
from headrace.online.worlds import WorldPlayer
from headrace.publish import LogPublisher, Replica, Sluice, StagingPublisher, place
from headrace.serve import RankPredictor
from headrace.store import (
    Adagrad,
    AdmitCount,
    EmbeddingCollection,
    Expiry,
    FeatureLookup,
    NativeTable,
    ReferenceTable,
    TableConfig,
)
from headrace.testing import (
    ConstantPredictor,
    CountingMetric,
    DictPublisher,
    Toy,
    ToyConfig,
    Verdict,
    check_cadence,
    check_learner,
    check_metric,
    check_objective,
    check_predictor,
    check_publisher,
    check_resumable,
    with_predictions,
)
from headrace.testing.publish_checks import toy_changes
from headrace.types import Batch, Change, Events, Version

numbers = count()
TOY = Toy(ToyConfig(seed=1, users=32, items=64, rows_per_s=0.05))
SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))


def batches(rows: int = 48, many: int = 6) -> list[Batch]:
    return list(TOY.batches(rows, many))


# --------------------------------------------------------------------------------------------------------- learners


def learner(part: type = ReferenceTable, *, rate: float = 0.05, optimizer=torch.optim.Adam, config=None, **table):
    def make() -> RankLearner:
        names = ("user", "item")
        tables = {name: part(TableConfig(name=name, dim=4, rule=Adagrad(lr=rate), **table)) for name in names}
        collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in names])
        model = DeepFM(collection, names, 0, (8,), dropout=0.2, seed=1)
        dense = optimizer(list(model.parameters()), lr=0.01)
        return RankLearner(model, collection, dense, LogLoss(), config)

    return make


def learners() -> Iterator[tuple]:
    def case(label: str, **settings) -> tuple:
        others = [learner(seed=9), learner(optimizer=torch.optim.SGD)]

        def run(_: Path) -> Verdict:
            return check_learner(learner(**settings), batches(), others=others)

        return "Learner", RankLearner, run, (), label

    yield case("reference")
    yield case("native", part=NativeTable)
    yield case("sgd", optimizer=torch.optim.SGD, seed=3)
    yield case("audited", config=LearnerConfig(audit=True, seed=4))
    yield case("admission", admission=AdmitCount(3), part=NativeTable)
    yield case("expiry", ttl_s=1500.0)


def objectives() -> Iterator[tuple]:
    plain, sampled = batches()[:2], [replace(one, sample_rates=1 - 0.5 * (1 - one.labels)) for one in batches()[:2]]
    for label, loss, given in (
        ("plain", LogLoss(), plain), ("training", LogLoss(negative_rate=0.5), sampled),
        ("serving", LogLoss(negative_rate=0.5, correction="serving"), sampled),
    ):  # fmt: skip

        def run(_: Path, loss=loss, given=given) -> Verdict:
            model = learner()().model.eval()
            return check_objective(loss, model, given[0], other=given[1])

        yield "Objective", LogLoss, run, (), label


def judged() -> list[Batch]:
    """Batches with predictions, a few of them missing."""
    made = []
    for batch in batches(100, 8):
        truth = TOY.probability(batch.ids["user"].values.numpy(), batch.ids["item"].values.numpy())
        scores = dict(zip(batch.example_ids.tolist(), truth.tolist(), strict=True))
        made.append(with_predictions(batch, scores, version=int(batch.example_ids[0]) // 200))
    made[2].predictions[5:11], made[2].versions[5:11] = float("nan"), -1
    return made


def metrics() -> Iterator[tuple]:
    windows = {"window": {"window_s": 3600.0}, "attribution": {"window_s": 900.0, "attribution_s": 60.0}}
    for label, settings in windows.items():

        def run(_: Path, settings=settings) -> Verdict:
            return check_metric(lambda: ProgressiveMetric(**settings), judged())

        yield "Metric", ProgressiveMetric, run, (), label

    yield "Metric", NewestBatches, lambda _: check_metric(
        lambda: NewestBatches(ProgressiveMetric(window_s=3600.0), 150), judged())  # fmt: skip
    config = OnlineConfig(
        name="toy", schema=SCHEMA, join=JoinConfig(window_s=1.0, lateness_s=1.0), baselines=True,
        model=lambda embed, schema, seed: DeepFM(embed, ("user", "item"), 0, (8,), seed=seed),
    )  # fmt: skip
    for part in (Baselines, Metrics):

        def learning(_: Path, part=part) -> Verdict:
            return check_metric(lambda: part(config), judged(), cuts=False)

        yield "Metric", part, learning, (4,)
    yield "Metric", CountingMetric, lambda _: check_metric(CountingMetric, judged())


# ------------------------------------------------------------------------------------------------- publish and serve


def log(folder: Path) -> EmbeddedLog:
    return EmbeddedLog(folder / f"log{next(numbers)}.db", durability="process")


def publishers() -> Iterator[tuple]:
    def published(snapshot_every: int):
        def run(folder: Path) -> Verdict:
            def make() -> LogPublisher:
                opened = log(folder)
                return LogPublisher(opened, opened.path.with_suffix(".snapshots"), snapshot_every=snapshot_every)

            def reopen(one: LogPublisher) -> LogPublisher:
                path = one.changes.log.path
                again = EmbeddedLog(path, durability="process")
                return LogPublisher(again, path.with_suffix(".snapshots"), snapshot_every=snapshot_every)

            return check_publisher(make, changes=toy_changes(6), reopen=reopen)

        return run

    def staged(folder: Path) -> Verdict:
        def reopen(one: StagingPublisher) -> StagingPublisher:
            return StagingPublisher(EmbeddedLog(one.changes.log.path, durability="process"))

        return check_publisher(lambda: StagingPublisher(log(folder)), changes=toy_changes(6), reopen=reopen)

    def sluice(held: bool):
        def run(folder: Path) -> Verdict:
            def make() -> Sluice:
                opened = log(folder)
                if held:
                    place(opened, "hold")
                return Sluice(LogPublisher(opened, opened.path.with_suffix(".snapshots")))

            def reopen(one: Sluice) -> Sluice:
                path = one.publisher.changes.log.path
                again = EmbeddedLog(path, durability="process")
                return Sluice(LogPublisher(again, path.with_suffix(".snapshots")))

            return check_publisher(make, changes=toy_changes(6), reopen=reopen)

        return run

    def kept(_: Path) -> Verdict:
        return check_publisher(DictPublisher, reopen=lambda one: DictPublisher(one.kept))

    yield "Publisher", LogPublisher, published(100)
    yield "Publisher", LogPublisher, published(2), (), "snapshots"
    yield "Publisher", Sluice, sluice(held=False)
    yield "Publisher", Sluice, sluice(held=True), (), "on hold"
    yield "Publisher", StagingPublisher, staged
    yield "Publisher", DictPublisher, kept


def learned(part: type) -> tuple[list[Change], Change]:
    """The changes of a learner version by version, and the whole of it as one full change."""
    source, whole = learner(part)(), learner(part)()
    changes = [source.changes(Version(-1))]
    for number, batch in enumerate(batches()):
        source.learn(batch)
        whole.learn(batch)
        changes.append(source.changes(Version(number, number - 1)))
    return changes, replace(whole.changes(Version(-1)), version=changes[-1].version, full=True)


def predictors() -> Iterator[tuple]:
    for part in (ReferenceTable, NativeTable):

        def run(_: Path, part=part) -> Verdict:
            def make() -> RankPredictor:
                tables = {name: part(TableConfig(name=name, dim=4), serving=True) for name in ("user", "item")}
                lookups = [FeatureLookup(feature=name, table=name) for name in tables]
                model = DeepFM(EmbeddingCollection(tables, lookups), ("user", "item"), 0, (8,), dropout=0.2, seed=5)
                return RankPredictor(model, Replica(tables, model), SCHEMA)

            changes, full = learned(part)
            asked = TOY.events(0, 100)
            asked = Events(asked.batch.select(["key", "kind", "event_time", "item", "user"]))
            asked = asked.with_columns({"kind": pa.array(["impression"] * 100)})
            return check_predictor(make, asked, changes, full=full, absolute=0.0)

        yield "Predictor", RankPredictor, run, (), part.__name__

    def constant(_: Path) -> Verdict:
        return check_predictor(ConstantPredictor, TOY.events(0, 9), toy_changes())

    yield "Predictor", ConstantPredictor, constant, (9,)


# ---------------------------------------------------------------------------------------- cadences, resumable parts


def cadences() -> Iterator[tuple]:
    yield "Cadence", EveryExamples, lambda _: check_cadence(lambda: EveryExamples(100), batches())
    yield "Cadence", EveryEventTime, lambda _: check_cadence(lambda: EveryEventTime(1_500_000_000), batches())
    yield "Cadence", EveryBlocks, lambda _: check_cadence(lambda: EveryBlocks(2), batches()), (3,)
    yield "Cadence", Never, lambda _: check_cadence(Never, batches()), (3,)


def answer(world: World, step: int) -> object:
    requests = world.read(33)
    return world.collect(requests, requests.with_columns({"score": pa.array(np.zeros(len(requests)))}))


def push(join: EventJoin, step: int) -> object:
    world = World(WorldConfig(seed=1, requests_per_s=0.01))
    world.seek({"world": 200 * step})
    return join.push(world.entry(20))


def click(pending: PendingClicks, step: int) -> object:
    times = np.arange(5) * 7 + step
    pending.push(times + 3, times, np.arange(5), np.arange(5) + step)
    return {name: values.tolist() for name, values in pending.pop(step * 5).items()}


def remember(times: TimeLog, step: int) -> object:
    times.add(torch.arange(3) + step)
    if step == 2:
        times.forget(4)
    return times.since(5)


def mark(marks: VersionMarks, step: int) -> object:
    marks.set(step, Mark(tables={"user": step}, examples=step * 10, loss_sum=step / 3))
    return [marks.newest, marks.oldest, marks.base(step)]


def count_rows(part: StreamingAUC | Tally, step: int) -> object:
    draw = np.random.default_rng(step)
    chance = draw.random(60)
    part.update((draw.random(60) < chance).astype(np.float64), chance, np.ones(60) + step)
    return part.value() if isinstance(part, StreamingAUC) else part.numbers()


def expiry() -> Expiry:
    table = ReferenceTable(TableConfig(name="user", dim=2, ttl_s=10.0))
    for moment in range(40):
        one = torch.tensor([moment])
        table.update(one, torch.ones(1, 2), torch.ones_like(one), one * 1_000_000)
    return Expiry({"user": table})


def resumable() -> Iterator[tuple]:
    def run(make, advance, *others):
        return lambda _: check_resumable(make, advance, others=others)

    join, strange = (lambda s=s: EventJoin(JoinConfig(window_s=s, lateness_s=9.0)) for s in (900.0, 1.0))
    yield ("Resumable", World, run(lambda: World(WorldConfig()), answer, lambda: World(WorldConfig(seed=1))))
    yield ("Resumable", EventJoin, run(join, push, strange))
    other = WorldPlayer(WorldConfig(seed=1))
    yield "Resumable", WorldPlayer, run(lambda: WorldPlayer(WorldConfig()), answer, lambda: other)
    for label, rows in (("exact", 10_000), ("binned", 100)):
        yield "Resumable", StreamingAUC, run(lambda r=rows: StreamingAUC(exact_rows=r), count_rows), (7,), label
        yield "Resumable", Tally, run(lambda r=rows: Tally(exact_rows=r), count_rows), (7,), label
    yield "Resumable", PendingClicks, run(PendingClicks, click), (7,)
    yield "Resumable", TimeLog, run(TimeLog, remember), (7,)
    yield "Resumable", VersionMarks, run(lambda: VersionMarks(3), mark), (7,)
    yield "Resumable", Expiry, run(expiry, lambda part, step: part.advance(step * 1_000_000)), (7,)


CASES = [learners, objectives, metrics, publishers, predictors, cadences, resumable]
