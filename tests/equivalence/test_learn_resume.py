"""Equivalence: stopped, killed and resumed learning is the straight run, to the bit; and a replica is the learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam

from headrace.data import Collator, IdFeature, Schema
from headrace.errors import GapError
from headrace.learn import LEDGER, LearnerConfig, ManifestCheckpoint, RankLearner, times_learned
from headrace.loop import EveryExamples, Loop, fit, run
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.protocols import Source
from headrace.store import AdmitCount, EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.testing import (
    ConstantPredictor,
    CountingMetric,
    DictPublisher,
    FunctionFeedback,
    ListSource,
    Toy,
    ToyConfig,
    assert_same_state,
)
from headrace.types import Change, Events

ROWS, BATCH = 700, 32
TOY = Toy(ToyConfig(users=64, items=64))
SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
SETTINGS = {"user": {"ttl_s": 2.0, "admission": AdmitCount(2)}, "item": {"ttl_s": 4.0}}


class Killed(BaseException):
    """Stands for a death of the process: nothing catches it, nothing is saved because of it."""


def new_learner() -> RankLearner:
    tables = {name: open_table(TableConfig(name=name, dim=4, **own)) for name, own in SETTINGS.items()}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    model = DeepFM(collection, tuple(tables), 0, (8,), dropout=0.2, seed=3)
    settings = LearnerConfig(audit=True, seed=5, schema=SCHEMA)
    return RankLearner(model, collection, Adam(model.parameters(), lr=0.01), LogLoss(), settings)


def source(pause_every: int = 0) -> Source:
    rows, entry = TOY.events(0, ROWS), 90
    return ListSource([rows.slice(at, min(entry, ROWS - at)) for at in range(0, ROWS, entry)], pause_every=pause_every)


def loop_over(publisher: DictPublisher, folder: Path | None, *, read_rows: int = 50, pause_every: int = 0) -> Loop:
    """What a process builds when it starts: every part fresh, but for what is durable."""
    return Loop(
        source=source(pause_every), joiner=Collator(SCHEMA, BATCH), learner=new_learner(), publisher=publisher,
        metric=CountingMetric(), cadence=EveryExamples(64), batch_rows=BATCH, read_rows=read_rows,
        checkpoint=None if folder is None else ManifestCheckpoint(folder), checkpoint_every=3,
    )  # fmt: skip


def checksums(publisher: DictPublisher) -> list[str]:
    return [change.checksum() for _, change in sorted(publisher.kept.items())]


def finished(loop: Loop) -> dict[str, object]:
    assert isinstance(loop.learner, RankLearner)
    assert isinstance(loop.metric, CountingMetric)
    return {"learner": loop.learner.state(), "metric": loop.metric.compute()}


@pytest.fixture(scope="module")
def straight() -> tuple[dict[str, object], list[str]]:
    """The run that nobody disturbed."""
    publisher = DictPublisher()
    loop = loop_over(publisher, None)
    fit(loop)
    return finished(loop), checksums(publisher)


Straight = tuple[dict[str, object], list[str]]


def test_the_straight_run_exercises_what_is_compared(straight: Straight) -> None:
    state, changes = straight
    tables = state["learner"]["tables"]  # type: ignore[index, call-overload]
    assert len(changes) == 12
    assert all(tables[name]["evicted"] > 0 for name in ("user", "item"))
    assert tables["user"]["filtered"] > 0


@pytest.mark.parametrize("reads", [0, 1, 4, 7, 13])
def test_stop_and_resume_equals_the_straight_run(straight: Straight, tmp_path: Path, reads: int) -> None:
    publisher = DictPublisher()
    first = loop_over(publisher, tmp_path)
    steps = iter(range(10**6))
    first.stop = lambda: next(steps) >= reads
    fit(first)
    second = loop_over(publisher, tmp_path)
    fit(second)
    assert_same_state(finished(second), straight[0])
    assert checksums(publisher) == straight[1]


@pytest.mark.parametrize("kind", ["fit", "run"])
def test_any_number_of_stops_equals_the_straight_run(straight: Straight, tmp_path: Path, kind: str) -> None:
    publisher, drive = DictPublisher(), {"fit": fit, "run": run}[kind]
    for _ in range(20):
        loop, steps = loop_over(publisher, tmp_path), iter(range(10**6))
        loop.stop = lambda steps=steps: next(steps) >= 1  # type: ignore[misc]
        report = drive(loop)
        if report.notes == ["the stream ended"]:
            break
    assert report.notes == ["the stream ended"]
    assert_same_state(finished(loop), straight[0])
    assert checksums(publisher) == straight[1]


def killed_after(steps: int) -> Callable[[object], None]:
    left = [steps]

    def on_step(progress: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed

    return on_step


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21])
def test_death_after_any_step_is_replayed_and_published_versions_are_recognised(
    straight: Straight, tmp_path: Path, steps: int
) -> None:
    publisher = DictPublisher()
    loop = loop_over(publisher, tmp_path)
    loop.on_step = killed_after(steps)
    with pytest.raises(Killed):
        fit(loop)
    durable = checksums(publisher)
    again = loop_over(publisher, tmp_path)
    fit(again)
    assert durable == straight[1][: len(durable)]
    assert_same_state(finished(again), straight[0])
    assert checksums(publisher) == straight[1]


class Fragile(DictPublisher):
    """A publisher whose process dies before or after a version became durable."""

    def __init__(self, kept: dict[int, Change], dies_at: int, after: bool) -> None:
        super().__init__(kept)
        self.dies_at, self.after = dies_at, after

    def publish(self, change: Change) -> Change:
        if change.version.number == self.dies_at:
            if self.after:
                super().publish(change)
            raise Killed
        return super().publish(change)


@pytest.mark.parametrize("dies_at", [0, 1, 3, 4, 11])
@pytest.mark.parametrize("after", [False, True])
def test_death_around_a_publication_loses_and_doubles_nothing(
    straight: Straight, tmp_path: Path, dies_at: int, after: bool
) -> None:
    kept: dict[int, Change] = {}
    with pytest.raises(Killed):
        fit(loop_over(Fragile(kept, dies_at, after), tmp_path))
    loop = loop_over(DictPublisher(kept), tmp_path)
    fit(loop)
    assert_same_state(finished(loop), straight[0])
    assert checksums(DictPublisher(kept)) == straight[1]


def test_read_sizes_and_pauses_change_nothing(straight: Straight) -> None:
    """Rows may come in any portions: batches are cut by row number."""
    publisher = DictPublisher()
    loop = loop_over(publisher, None, read_rows=7, pause_every=3)
    fit(loop)
    assert_same_state(finished(loop), straight[0])
    assert checksums(publisher) == straight[1]


def test_the_ledger_counts_every_example_once_after_many_deaths(tmp_path: Path) -> None:
    publisher = DictPublisher()
    for steps in (5, 1, 4, 9, 2, 10):
        loop = loop_over(publisher, tmp_path)
        loop.on_step = killed_after(steps)
        try:
            fit(loop)
        except Killed:
            pass
    loop = loop_over(publisher, tmp_path)
    fit(loop)
    assert isinstance(loop.learner, RankLearner)
    assert loop.learner.ledger is not None
    assert times_learned(loop.learner.ledger, torch.arange(ROWS + 50)).tolist() == [1] * ROWS + [0] * 50
    assert loop.learner.examples == ROWS


def test_another_learner_cannot_go_on_with_the_published_log(tmp_path: Path) -> None:
    publisher = DictPublisher()
    fit(loop_over(publisher, None))
    other = loop_over(publisher, None)
    assert isinstance(other.learner, RankLearner)
    nn.init.ones_(next(p for p in other.learner.model.parameters() if p.numel()))
    with pytest.raises(GapError):
        fit(other)


def test_a_replica_equals_the_learner_at_every_version() -> None:
    """Changes applied one by one give the rows of the learner, removed ones included, when each version was made."""
    publisher = DictPublisher()
    loop = loop_over(publisher, None)
    learner = loop.learner
    assert isinstance(learner, RankLearner)
    seen: dict[str, list[object]] = {"learner": [], "replica": []}
    replica = {name: open_table(table.config, serving=True) for name, table in learner.tables.items()}
    publish = publisher.publish

    def publish_and_compare(change: Change) -> Change:
        for name, rows in change.tables.items():
            replica[name].remove(rows.removed)  # type: ignore[attr-defined]
            replica[name].assign(rows.ids, rows.rows)  # type: ignore[attr-defined]
        seen["learner"].append({name: table.rows() for name, table in learner.tables.items()})
        seen["replica"].append({name: table.rows() for name, table in replica.items()})  # type: ignore[attr-defined]
        return publish(change)

    publisher.publish = publish_and_compare  # type: ignore[method-assign]
    fit(loop)
    assert len(seen["learner"]) == 12
    assert_same_state(seen["replica"], seen["learner"])
    assert any(len(change.tables["user"].removed) for change in publisher.kept.values())
    assert LEDGER in replica


def test_the_closed_loop_resumes_with_every_example_learned_once(tmp_path: Path) -> None:
    """`run` with a predictor: versions served may differ after a resume; what is learned may not be lost or doubled."""
    publisher = DictPublisher()

    def closed(steps: int | None) -> Loop:
        loop = loop_over(publisher, tmp_path)
        predictor = ConstantPredictor()
        predictor.version = publisher.last().number  # a predictor catches up before it serves
        loop.predictor = predictor
        loop.feedback = FunctionFeedback(nobody_answers)
        loop.on_step = None if steps is None else killed_after(steps)
        return loop

    for steps in (3, 8, 4):
        with pytest.raises(Killed):
            run(closed(steps))
    loop = closed(None)
    run(loop)
    assert isinstance(loop.learner, RankLearner)
    assert loop.learner.ledger is not None
    assert times_learned(loop.learner.ledger, torch.arange(ROWS)).tolist() == [1] * ROWS


def nobody_answers(requests: Events, predictions: Events) -> Events | None:
    return None
