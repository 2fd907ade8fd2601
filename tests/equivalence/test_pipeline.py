"""Pipelined is plain, to the bit: a fit however it reads ahead, a learner process whatever overlaps, killed or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.optim import Adam

from headrace.data import Collator, DenseFeature, ExampleFiles, IdFeature, Schema
from headrace.learn import LearnerConfig, ManifestCheckpoint, PipelineConfig, RankLearner, StageTimes
from headrace.learn.pipeline import SliceTrial
from headrace.loop import EveryExamples, Loop, fit
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.online.overlap import pipelined
from headrace.ranking import FitConfig, Network, RankerFit, Splits
from headrace.ranking import fit as module
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.testing import CountingMetric, DictPublisher, ListSource, Toy, ToyConfig, assert_same_state

ROWS, BATCH = 700, 32
SCHEMA = Schema(features=(IdFeature("user", 5), IdFeature("item", 5), DenseFeature("price")))
PLAIN = PipelineConfig(depth=0)
AHEAD = {
    "chosen": PipelineConfig(), "one": PipelineConfig(depth=1), "far": PipelineConfig(depth=100),
    "little memory": PipelineConfig(max_bytes=1), "threads": PipelineConfig(depth=3, workers=2),
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    folder: Path

    def __call__(self) -> Splits:
        parts = (ExampleFiles(self.folder / f"{part}.parquet", SCHEMA, shuffle_rows=200) for part in ("train", "valid"))
        train, valid = parts
        return Splits(train, valid, valid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for part in ("train", "valid"):
        users, items = draw.integers(0, 30, ROWS), draw.integers(0, 30, ROWS)
        table = pa.table({
            "user": users, "item": items, "price": draw.random(ROWS).astype(np.float32),
            "label": ((users + items) % 2).astype(np.float32),
        })  # fmt: skip
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=90)
    return folder


def config(folder: Path, pipeline: PipelineConfig) -> FitConfig:
    return FitConfig(
        name="files", data=Files(folder), schema=SCHEMA, model=Network(family=DeepFM, hidden=(8,), dropout=0.2),
        batch_rows=BATCH, epochs=2, evaluate_every=9, patience=None, pipeline=pipeline, seed=3,
    )  # fmt: skip


def outcome(run: RankerFit) -> dict[str, object]:
    timed = {"examples_per_s", "fit_s", "evaluate_s"}
    figures = {name: figure.value for name, figure in run.report.figures.items() if name not in timed}
    learned = {name: part for name, part in run.learner.state().items() if name != "marks"}  # one was published
    return {"learner": learned, "figures": figures}


@cache
def plain_fit(folder: Path) -> dict[str, object]:
    run = RankerFit(config(folder, PLAIN))
    run.run()
    assert run.progress.step == 2 * -(-ROWS // BATCH)
    return outcome(run)


@pytest.mark.parametrize("pipeline", AHEAD.values(), ids=AHEAD)
def test_a_fit_is_the_same_however_far_it_reads_ahead(folder: Path, pipeline: PipelineConfig) -> None:
    run = RankerFit(config(folder, pipeline))
    run.run()
    assert_same_state(outcome(run), plain_fit(folder))


class Killed(Exception):
    pass


def test_a_fit_that_is_killed_and_read_ahead_otherwise_is_the_same(folder: Path, tmp_path: Path) -> None:
    for step, pipeline in ((12, AHEAD["far"]), (25, PLAIN), (33, AHEAD["threads"])):
        run = RankerFit(config(folder, pipeline), tmp_path)

        def on_step(progress, step=step) -> None:
            if progress.step == step:
                raise Killed

        run.on_step = on_step
        with pytest.raises(Killed):
            run.run()
    last = RankerFit(config(folder, AHEAD["chosen"]), tmp_path)
    last.run()
    assert_same_state(outcome(last), plain_fit(folder))
    assert last.report.settings["stages"]["steps"] >= last.progress.step  # type: ignore[index, call-overload]


def test_a_chosen_number_of_micro_batches_stays_that_of_the_fit(folder: Path, tmp_path: Path, monkeypatch) -> None:
    chosen = replace(config(folder, PipelineConfig()), micro_batches=None, model=Network(family=DeepFM, hidden=(8,)))
    fixed = RankerFit(replace(chosen, micro_batches=4))
    fixed.run()
    monkeypatch.setattr(module, "try_micro_batches", lambda *_: [SliceTrial(4, 0.5), SliceTrial(1, 1.0)])
    run = RankerFit(chosen, tmp_path)

    def on_step(progress) -> None:
        if progress.step == 15:
            raise Killed

    run.on_step = on_step
    with pytest.raises(Killed):
        run.run()
    monkeypatch.setattr(module, "try_micro_batches", lambda *_: [SliceTrial(1, 1.0)])
    again = RankerFit(chosen, tmp_path)
    again.run()
    assert again.learner.micro_batches == 4
    assert_same_state(outcome(again), outcome(fixed))
    measured = RankerFit(chosen)
    measured.run()
    assert any("1 micro-batches were chosen by measuring" in note for note in measured.report.notes)


# ------------------------------------------------------------------------------------------------- the learner process

TOY = Toy(ToyConfig(users=64, items=64))
STREAM = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))


def new_learner() -> RankLearner:
    tables = {name: open_table(TableConfig(name=name, dim=4, ttl_s=2.0)) for name in ("user", "item")}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    model = DeepFM(collection, tuple(tables), 0, (8,), dropout=0.2, seed=3)
    return RankLearner(model, collection, Adam(model.parameters(), lr=0.01), LogLoss(), LearnerConfig(schema=STREAM))


def loop_over(publisher: DictPublisher, folder: Path | None, pause_every: int = 0) -> Loop:
    """What a process builds when it starts: every part fresh, but for what is durable."""
    rows = TOY.events(0, ROWS)
    source = ListSource([rows.slice(at, 90) for at in range(0, ROWS, 90)], pause_every=pause_every)
    return Loop(
        source=source, joiner=Collator(STREAM, BATCH), learner=new_learner(), publisher=publisher,
        metric=CountingMetric(), cadence=EveryExamples(64), batch_rows=BATCH, read_rows=50,
        checkpoint=None if folder is None else ManifestCheckpoint(folder), checkpoint_every=3,
    )  # fmt: skip


def drive(loop: Loop, pipeline: PipelineConfig) -> dict[str, object]:
    assert isinstance(loop.learner, RankLearner)
    assert isinstance(loop.metric, CountingMetric)
    learner, metric = loop.learner, loop.metric
    with pipelined(loop, pipeline, learner.times):
        report = fit(loop)
    return {"learner": learner.state(), "metric": metric.compute(), "version": report.figures["version"].value}


def checksums(publisher: DictPublisher) -> list[str]:
    return [change.checksum() for _, change in sorted(publisher.kept.items())]


@pytest.fixture(scope="module")
def straight() -> tuple[dict[str, object], list[str]]:
    """The stream learned without any wrapper."""
    publisher = DictPublisher()
    loop = loop_over(publisher, None)
    report = fit(loop)
    assert isinstance(loop.learner, RankLearner)
    assert isinstance(loop.metric, CountingMetric)
    state = {
        "learner": loop.learner.state(),
        "metric": loop.metric.compute(),
        "version": report.figures["version"].value,
    }
    return state, checksums(publisher)


Straight = tuple[dict[str, object], list[str]]
STREAMED = {name: AHEAD[name] for name in ("chosen", "one", "far", "little memory")} | {"plain": PLAIN}


@pytest.mark.parametrize("pause_every", [0, 3])
@pytest.mark.parametrize("pipeline", STREAMED.values(), ids=STREAMED)
def test_a_stream_is_learned_and_published_the_same(
    straight: Straight, pipeline: PipelineConfig, pause_every: int
) -> None:
    publisher = DictPublisher()
    assert_same_state(drive(loop_over(publisher, None, pause_every), pipeline), straight[0])
    assert checksums(publisher) == straight[1]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 13, 20])
def test_death_after_any_step_loses_nothing_and_learns_nothing_twice(
    straight: Straight, tmp_path: Path, steps: int
) -> None:
    publisher, left = DictPublisher(), [steps]

    def on_step(_: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed

    loop = loop_over(publisher, tmp_path)
    loop.on_step = on_step
    with pytest.raises(Killed):
        drive(loop, AHEAD["chosen"])
    durable = checksums(publisher)
    assert durable == straight[1][: len(durable)]
    state = ManifestCheckpoint(tmp_path).load()
    saved = -1 if state is None else int(state["progress"]["version"])  # type: ignore[index, call-overload, arg-type]
    assert saved <= len(durable) - 1  # a checkpoint never speaks of a version that is not durable
    assert_same_state(drive(loop_over(publisher, tmp_path), AHEAD["chosen"]), straight[0])
    assert checksums(publisher) == straight[1]


@pytest.mark.parametrize("reads", [1, 4, 13])
def test_stopped_and_resumed_with_and_without_a_pipeline(straight: Straight, tmp_path: Path, reads: int) -> None:
    publisher = DictPublisher()
    for place, pipeline in enumerate((AHEAD["chosen"], PLAIN, AHEAD["far"], PLAIN)):
        loop, asked = loop_over(publisher, tmp_path), iter(range(10**6))
        if place < 3:
            loop.stop = lambda asked=asked: next(asked) >= reads  # type: ignore[misc]
        found = drive(loop, pipeline)
    assert_same_state(found, straight[0])
    assert checksums(publisher) == straight[1]


def test_stages_of_a_stream_are_counted(straight: Straight) -> None:
    loop = loop_over(DictPublisher(), None)
    assert isinstance(loop.learner, RankLearner)
    times: StageTimes = loop.learner.times
    drive(loop, PipelineConfig())
    assert {"wait", "lookup", "forward", "backward", "judge", "publish"} <= set(times.seconds)
    assert {"read", "publish"} <= set(times.beside)
