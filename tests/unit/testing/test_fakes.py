from __future__ import annotations

import pytest
import torch

from headrace.errors import DataError, GapError, SourceEnded
from headrace.loop import EveryExamples, Loop, run
from headrace.testing import (
    AnswerEverything,
    ConstantPredictor,
    CountingMetric,
    DictPublisher,
    FunctionFeedback,
    ListJoiner,
    ListSource,
    MemoryCheckpoint,
    MemoryQueue,
    Toy,
    ToyConfig,
    check_resumable,
    with_predictions,
)
from headrace.testing.publish_checks import toy_changes
from headrace.types import Change, Events, Loss, Version


def requests(count: int = 5) -> Events:
    return Events.from_columns({
        "key": [f"r{n}" for n in range(count)], "kind": ["impression"] * count, "event_time": list(range(count)),
        "item": [f"i{n}" for n in range(count)],
    })  # fmt: skip


def test_a_pausing_source_says_nothing_yet_now_and_then() -> None:
    source = ListSource([requests()], pause_every=3)
    seen = [source.read(1) for _ in range(7)]
    assert [rows is None for rows in seen] == [False, False, True, False, False, True, False]
    with pytest.raises(SourceEnded):
        source.read(1)


def test_a_read_does_not_cross_entries() -> None:
    source = ListSource([requests(2), requests(3)])
    assert [len(source.read(10)), len(source.read(10))] == [2, 3]


def test_a_queue_knows_its_shards() -> None:
    queue = MemoryQueue(["left", "right"])
    lease = queue.lease("w")
    stranger = type(lease)("up", "w", 1, 0.0)
    with pytest.raises(DataError, match="'left'"):
        queue.done(stranger)


def test_a_predictor_without_a_version_refuses_to_jump() -> None:
    predictor = ConstantPredictor()
    with pytest.raises(GapError):
        predictor.apply(toy_changes()[2])
    predictor.apply(toy_changes()[0])
    assert set(predictor.predict(requests()).column("version").to_pylist()) == {0}


def test_function_feedback_is_the_function() -> None:
    feedback = FunctionFeedback(lambda asked, answered: asked.slice(0, 1))
    assert len(feedback.collect(requests(), requests())) == 1


def test_the_joiner_is_resumable() -> None:
    def advance(joiner: ListJoiner, step: int) -> list[float]:
        rows = requests(3 + step)
        answers = AnswerEverything().collect(rows.slice(step, 1), rows) if step % 2 else None
        joiner.add(rows, None, answers)
        batch = joiner.flush()
        return batch.labels.tolist() if batch is not None else []

    assert check_resumable(ListJoiner, advance).untried == (7,)


def test_the_metric_counts_predictions_only_where_there_are_some() -> None:
    metric = CountingMetric()
    batch = with_predictions(Toy(ToyConfig()).batch(0, 4), {0: 0.5, 2: 0.25}, version=3)
    metric.update(batch)
    assert metric.compute()["prediction"] == 0.375
    assert batch.predictions.isnan().tolist() == [False, True, False, True]
    assert batch.versions.tolist() == [3] * 4


class SumLearner:
    """Learns the sum of the labels."""

    def __init__(self) -> None:
        self.total = torch.zeros(1)

    def learn(self, batch) -> Loss:
        self.total = self.total + batch.labels.sum()
        return Loss(self.total.sum())

    def changes(self, since) -> Change:
        version = Version(since.number + 1, since.number)
        return Change(version=version, dense={"total": self.total.clone()}, full=since.number < 0)

    def state(self):
        return {"total": self.total}

    def restore(self, state) -> None:
        self.total = state["total"]


def test_the_fakes_make_a_whole_loop() -> None:
    checkpoint, publisher, learner = MemoryCheckpoint(), DictPublisher(), SumLearner()
    loop = Loop(
        source=ListSource([requests(40)], pause_every=2), joiner=ListJoiner(), learner=learner,
        predictor=ConstantPredictor(0.25), feedback=AnswerEverything(), publisher=publisher, metric=CountingMetric(),
        cadence=EveryExamples(10), checkpoint=checkpoint, batch_rows=10, read_rows=7, closed=False,
    )  # fmt: skip
    report = run(loop)
    assert float(learner.total) == 40
    assert report.figures["positives"].value == 1.0
    assert report.figures["prediction"].value == 0.25
    assert publisher.last().number == 4
    assert float(publisher.kept[4].dense["total"]) == 40
    assert checkpoint.saves == 1
