"""`run` and `fit`, over parts so small that every number can be counted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from headrace import loop as loop_module
from headrace.errors import GapError, SourceEnded
from headrace.loop import EveryExamples, Loop, fit, run
from headrace.testing import ConstantPredictor, CountingMetric, DictPublisher, FunctionFeedback, MemoryCheckpoint
from headrace.types import Batch, Change, Events, Loss, Position, State, Version

SECOND = 1_000_000


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "IDLE_S", 0.0)


def rows(start: int, stop: int) -> Events:
    """Row n has key n and happens at second n."""
    numbers = range(start, stop)
    return Events.from_columns({"key": [str(n) for n in numbers], "kind": ["example"] * len(numbers),
                                "event_time": [n * SECOND for n in numbers], "item": ["i"] * len(numbers)})  # fmt: skip


def batch_of(events: Events) -> Batch | None:
    if not len(events):
        return None
    numbers = torch.tensor([int(key) for key in events.column("key").to_pylist()])
    zeros = torch.zeros(len(events))
    return Batch(
        ids={}, dense=torch.zeros(len(events), 0), labels=zeros, weights=zeros + 1, event_times=numbers * SECOND,
        accepted_times=torch.zeros_like(numbers), example_ids=numbers, predictions=zeros * math.nan,
        versions=torch.zeros_like(numbers), sample_rates=zeros + 1,
    )  # fmt: skip


@dataclass
class Numbers:
    """A source of `total` rows; `pauses` are the read calls (counted from 0) that find nothing yet."""

    total: int
    pauses: frozenset[int] = frozenset()
    ends: bool = True
    at: int = 0
    calls: int = 0

    def read(self, limit: int) -> Events | None:
        self.calls += 1
        if self.calls - 1 in self.pauses:
            return None
        if self.at == self.total:
            if self.ends:
                raise SourceEnded("Numbers")
            return None
        start, self.at = self.at, min(self.at + limit, self.total)
        return rows(start, self.at)

    def position(self) -> Position:
        return {"numbers": self.at}

    def seek(self, position: Position) -> None:
        self.at = position.get("numbers", 0)


@dataclass
class Holding:
    """A joiner that holds the newest `lag` rows back until others push them out, or the end comes."""

    lag: int = 0
    held: list[int] = field(default_factory=list)
    seen: list[tuple[int, list[str], list[str]]] = field(default_factory=list)
    flushes: int = 0

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        self.seen.append((len(requests), [] if predictions is None else predictions.names,
                          [] if answers is None else answers.column("key").to_pylist()))  # fmt: skip
        self.held += [int(key) for key in requests.column("key").to_pylist()]
        return self._give(len(self.held) - self.lag)

    def flush(self) -> Batch | None:
        self.flushes += 1
        return self._give(len(self.held))

    def _give(self, count: int) -> Batch | None:
        given, self.held = self.held[: max(count, 0)], self.held[max(count, 0) :]
        return batch_of(rows(given[0], given[-1] + 1)) if given else None

    def state(self) -> State:
        return {"held": list(self.held)}

    def restore(self, state: State) -> None:
        self.held = list(state["held"])  # type: ignore[arg-type]


@dataclass
class Adder:
    """A learner whose weight is a running hash of the examples in order; every version carries it."""

    log: list[list[int]] = field(default_factory=list)
    weight: int = 7
    fail_at: int | None = None

    def learn(self, batch: Batch) -> Loss:
        if self.fail_at is not None and len(self.log) == self.fail_at:
            raise KeyboardInterrupt
        self.log.append(batch.example_ids.tolist())
        for number in batch.example_ids.tolist():
            self.weight = (self.weight * 31 + number) % 1_000_003
        return Loss(torch.tensor(float(len(batch))))

    def changes(self, since: Version) -> Change:
        return Change(version=Version(since.number + 1, since.number), dense={"weight": torch.tensor([self.weight])})

    def state(self) -> State:
        return {"weight": self.weight}

    def restore(self, state: State) -> None:
        self.weight = int(state["weight"])  # type: ignore[arg-type]


def weights(publisher: DictPublisher) -> list[int]:
    return [int(publisher.kept[number].dense["weight"]) for number in range(len(publisher.kept))]


class Oracle(ConstantPredictor):
    """A predictor that remembers how many rows it answered with which version."""

    def __init__(self, version: int = -1) -> None:
        super().__init__()
        self.version, self.asked = version, list[tuple[int, int]]()

    def predict(self, requests: Events) -> Events:
        self.asked.append((len(requests), self.version))
        return super().predict(requests)


def late() -> FunctionFeedback:
    """Feedback that answers each request one collection later."""
    waiting: list[str] = []

    def answer(requests: Events, predictions: Events) -> Events | None:
        keys = waiting.copy()
        waiting[:] = requests.column("key").to_pylist()
        return rows(int(keys[0]), int(keys[-1]) + 1) if keys else None

    return FunctionFeedback(answer)


def published_every(examples: int, **parts: object) -> Loop:
    settings: dict[str, object] = {
        "source": Numbers(20), "joiner": Holding(), "learner": Adder(), "publisher": DictPublisher(),
        "cadence": EveryExamples(examples), "read_rows": 4,
    }  # fmt: skip
    return Loop(**(settings | parts))  # type: ignore[arg-type]


def test_every_example_is_learned_once_and_in_order() -> None:
    learner = Adder()
    run(published_every(8, learner=learner))
    assert [number for batch in learner.log for number in batch] == list(range(20))


def test_the_initial_model_is_published_as_version_0_before_anything_is_read() -> None:
    shelf, source = DictPublisher(), Numbers(20)
    run(published_every(8, publisher=shelf, source=source, stop=lambda: True))
    assert [change.version for change in shelf.kept.values()] == [Version(0, -1)]
    assert weights(shelf) == [7]
    assert source.calls == 0


def test_versions_are_due_after_so_many_examples_and_once_at_the_end() -> None:
    shelf, learner = DictPublisher(), Adder()
    run(published_every(8, publisher=shelf, learner=learner))
    expected, points = Adder(), []
    for batch in learner.log:
        expected.learn(batch_of(rows(batch[0], batch[-1] + 1)))  # type: ignore[arg-type]
        points.append(expected.weight)
    # batches of four: due after the second and the fourth, and the end has one more batch to publish
    assert weights(shelf) == [7, points[1], points[3], points[4]]


def test_the_end_publishes_nothing_when_nothing_was_learned_since() -> None:
    shelf = DictPublisher()
    run(published_every(10, publisher=shelf, read_rows=10))
    assert len(shelf.kept) == 3


def test_what_the_joiner_still_holds_at_the_end_is_learned_and_published() -> None:
    learner, shelf, joiner = Adder(), DictPublisher(), Holding(lag=7)
    run(published_every(8, learner=learner, publisher=shelf, joiner=joiner))
    assert [number for batch in learner.log for number in batch] == list(range(20))
    assert joiner.flushes == 1
    assert weights(shelf)[-1] == learner.weight


def test_a_batch_is_judged_before_it_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, metric, before = Adder(), CountingMetric(), list[int]()
    monkeypatch.setattr(metric, "update", lambda batch: before.append(sum(map(len, learner.log))))
    run(published_every(8, learner=learner, metric=metric))
    assert before == [0, 4, 8, 12, 16]


def test_large_joined_batches_are_cut() -> None:
    learner = Adder()
    run(published_every(8, learner=learner, read_rows=20, batch_rows=6))
    assert [len(batch) for batch in learner.log] == [6, 6, 6, 2]


def test_versions_become_due_between_the_pieces_of_a_joined_batch() -> None:
    shelf = DictPublisher()
    run(published_every(6, publisher=shelf, read_rows=20, batch_rows=3))
    assert len(shelf.kept) == 1 + 3 + 1


def test_the_published_version_answers_and_not_a_newer_one() -> None:
    oracle = Oracle()
    run(published_every(8, predictor=oracle, feedback=late()))
    assert oracle.asked == [(4, 0), (4, 0), (4, 1), (4, 1), (4, 2)]


def test_answers_reach_the_joiner_when_they_come() -> None:
    joiner = Holding()
    run(published_every(8, predictor=Oracle(), feedback=late(), joiner=joiner))
    assert [answers for _, _, answers in joiner.seen[:2]] == [[], ["0", "1", "2", "3"]]
    assert all("version" in names for _, names, _ in joiner.seen)


def test_the_report_counts() -> None:
    report = run(published_every(8, metric=CountingMetric()))
    numbers = {name: figure.value for name, figure in report.figures.items()}
    assert {name: numbers[name] for name in ("requests", "examples", "steps", "version", "rows")} == {
        "requests": 20, "examples": 20, "steps": 5, "version": 3, "rows": 20,
    }  # fmt: skip
    assert report.notes == ["the stream ended"]


def test_every_step_is_told() -> None:
    told: list[tuple[int, float, int]] = []
    run(published_every(8, on_step=lambda p: told.append((p.examples, p.loss, p.version.number))))
    assert told == [(4, 4.0, 0), (8, 4.0, 1), (12, 4.0, 1), (16, 4.0, 2), (20, 4.0, 2)]


def test_a_source_that_has_nothing_yet_is_asked_again() -> None:
    learner = Adder()
    run(published_every(8, learner=learner, source=Numbers(20, pauses=frozenset({0, 1, 3}))))
    assert [number for batch in learner.log for number in batch] == list(range(20))


@dataclass
class WhenIdle:
    """A cadence that is due on empty steps only."""

    asked: int = 0

    def due(self, batch: Batch | None) -> bool:
        self.asked += batch is None
        return batch is None


def test_the_cadence_is_asked_on_empty_steps_and_publishes_what_was_learned() -> None:
    shelf, cadence = DictPublisher(), WhenIdle()
    run(published_every(8, publisher=shelf, cadence=cadence, source=Numbers(8, pauses=frozenset({1, 2}))))
    assert cadence.asked == 3  # two pauses, and the flush that gave nothing
    assert len(shelf.kept) == 3  # version 0, the first pause (the second had nothing), the end


def test_the_cadence_is_asked_when_the_joiner_gives_nothing() -> None:
    cadence = WhenIdle()
    run(published_every(8, cadence=cadence, joiner=Holding(lag=8), source=Numbers(8)))
    assert cadence.asked == 2


def stop_after(reads: int, source: Numbers) -> Callable[[], bool]:
    return lambda: source.calls >= reads


def test_stop_ends_the_run_without_flushing_or_publishing() -> None:
    source, joiner, shelf = Numbers(20), Holding(lag=2), DictPublisher()
    report = run(published_every(100, source=source, joiner=joiner, publisher=shelf, stop=stop_after(2, source)))
    assert (source.at, joiner.flushes, joiner.held, len(shelf.kept)) == (8, 0, [6, 7], 1)
    assert report.notes == ["stopped before the end of the stream"]


def test_stop_is_asked_while_the_source_is_silent() -> None:
    source = Numbers(4, ends=False)
    run(published_every(8, source=source, stop=stop_after(5, source)))
    assert source.calls == 5


def test_a_checkpoint_is_written_after_so_many_versions_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, versions = MemoryCheckpoint(), list[object]()
    monkeypatch.setattr(memory, "save", lambda state: versions.append(state["progress"]["version"]))
    run(published_every(4, checkpoint=memory, checkpoint_every=2, source=Numbers(24)))
    # version 0 counts: due at versions 1, 3, 5; the end saves once more
    assert versions == [1, 3, 5, 6]


def straight() -> tuple[Adder, DictPublisher]:
    learner, shelf = Adder(), DictPublisher()
    run(published_every(6, learner=learner, publisher=shelf, joiner=Holding(lag=3)))
    return learner, shelf


@pytest.mark.parametrize("reads", [0, 1, 2, 3, 4, 5])
def test_stop_and_resume_equals_a_straight_run(reads: int) -> None:
    memory, shelf = MemoryCheckpoint(), DictPublisher()
    source = Numbers(20)
    run(published_every(6, source=source, publisher=shelf, joiner=Holding(lag=3), checkpoint=memory,
                        stop=stop_after(reads, source)))  # fmt: skip
    learner = Adder()
    report = run(published_every(6, learner=learner, publisher=shelf, joiner=Holding(lag=3), checkpoint=memory))
    expected_learner, expected_shelf = straight()
    assert learner.weight == expected_learner.weight
    assert weights(shelf) == weights(expected_shelf)
    assert report.figures["examples"].value == 20


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3, 4, 5])
def test_a_crash_is_replayed_from_the_checkpoint_and_published_changes_are_recognised(fail_at: int) -> None:
    memory, shelf = MemoryCheckpoint(), DictPublisher()
    parts = {"publisher": shelf, "checkpoint": memory, "checkpoint_every": 2}
    crashing = Adder(fail_at=fail_at)
    try:
        run(published_every(6, learner=crashing, joiner=Holding(lag=3), **parts))
    except KeyboardInterrupt:
        pass
    learner = Adder()
    run(published_every(6, learner=learner, joiner=Holding(lag=3), **parts))
    expected_learner, expected_shelf = straight()
    assert learner.weight == expected_learner.weight
    assert weights(shelf) == weights(expected_shelf)


def test_a_metric_goes_on_counting_after_resume() -> None:
    memory, source = MemoryCheckpoint(), Numbers(20)
    run(published_every(6, source=source, metric=CountingMetric(), checkpoint=memory, stop=stop_after(3, source)))
    metric = CountingMetric()
    run(published_every(6, metric=metric, checkpoint=memory, publisher=None))
    assert metric.compute()["rows"] == 20


def test_running_again_after_the_end_changes_nothing() -> None:
    memory, shelf = MemoryCheckpoint(), DictPublisher()
    run(published_every(6, checkpoint=memory, publisher=shelf))
    learner, versions = Adder(), len(shelf.kept)
    run(published_every(6, checkpoint=memory, publisher=shelf, learner=learner))
    assert learner.log == []
    assert len(shelf.kept) == versions


def test_a_predictor_that_was_not_brought_up_to_date_refuses_the_next_version() -> None:
    """The driver resumes learner and stream; a fresh predictor has to catch up from the publisher before."""
    memory, shelf, source = MemoryCheckpoint(), DictPublisher(), Numbers(20)
    run(published_every(6, source=source, publisher=shelf, checkpoint=memory, stop=stop_after(3, source)))
    with pytest.raises(GapError):
        run(published_every(6, publisher=shelf, checkpoint=memory, predictor=Oracle(), feedback=late()))


def test_a_predictor_that_is_ahead_of_the_checkpoint_is_not_moved_back() -> None:
    memory, shelf = MemoryCheckpoint(), DictPublisher()
    with pytest.raises(KeyboardInterrupt):
        run(published_every(4, learner=Adder(fail_at=4), publisher=shelf, checkpoint=memory, checkpoint_every=2))
    oracle = Oracle(version=shelf.last().number)
    run(published_every(4, publisher=shelf, checkpoint=memory, predictor=oracle, feedback=late()))
    assert oracle.version == shelf.last().number
    assert [version for _, version in oracle.asked] == sorted(version for _, version in oracle.asked)


def test_fit_asks_neither_predictor_nor_feedback_and_gives_them_back() -> None:
    oracle, feedback, joiner = Oracle(), late(), Holding()
    loop = published_every(8, predictor=oracle, feedback=feedback, joiner=joiner)
    fit(loop)
    assert (oracle.asked, oracle.version) == ([], -1)
    assert joiner.seen[0] == (4, [], [])
    assert loop.predictor is oracle
    assert loop.feedback is feedback


def test_fit_gives_them_back_after_an_error_too() -> None:
    oracle = Oracle()
    loop = published_every(8, predictor=oracle, learner=Adder(fail_at=0))
    with pytest.raises(KeyboardInterrupt):
        fit(loop)
    assert loop.predictor is oracle


def test_fit_needs_no_publisher() -> None:
    learner = Adder()
    fit(published_every(8, publisher=None, learner=learner))
    assert len(learner.log) == 5
