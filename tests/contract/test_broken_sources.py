"""Every clause of the contracts of `Source`, `Feedback` and `WorkQueue` catches a part that breaks it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from headrace.errors import SourceEnded
from headrace.testing import (
    AnswerEverything,
    ContractViolation,
    ListSource,
    MemoryQueue,
    check_feedback,
    check_source,
    check_work_queue,
    clauses,
)
from headrace.types import Events

# ---------------------------------------------------------------------------------------------------------- sources


def entries(rows: int = 200) -> list[Events]:
    numbers = np.arange(rows)
    keys = [f"r{n}" for n in numbers]
    events = Events.from_columns(
        {"key": keys, "kind": ["click"] * rows, "event_time": numbers * 10, "value": numbers * 0.5}
    )
    return [events.slice(0, 90), events.slice(90, 1), events.slice(91)]


class Right(ListSource):
    def __init__(self, rows: int = 200):
        super().__init__(entries(rows))


class TooMany(Right):
    def read(self, limit):
        return super().read(limit + 1)


class ReturnsArrow(Right):
    def read(self, limit):
        return super().read(limit).batch


class NeverAnything(Right):
    def read(self, limit):
        return None


class SkipsWhenAskedForFew(Right):
    def read(self, limit):
        rows = super().read(limit)
        self._row += limit == 1
        return rows


class PositionIsATuple(Right):
    def position(self):
        return ("list", self._row)


class PositionIsNumpy(Right):
    def position(self):
        return {"list": np.int64(self._row)}


class PositionMoves(Right):
    def position(self):
        self._asked = getattr(self, "_asked", 0) + 1
        return {"list": self._row, "asked": self._asked}


class PositionIsLive(Right):
    def __init__(self):
        super().__init__()
        self._live = {"list": 0}

    def read(self, limit):
        rows = super().read(limit)
        self._live["list"] = self._row
        return rows

    def position(self):
        return self._live


class SeekIsOffByOne(Right):
    def seek(self, position):
        super().seek({"list": max(position.get("list", 0) - 1, 0)})


class SeekForgetsWhatWasRead(Right):
    """Seeking back in a source that has read on gives other rows: a queue that deletes what it delivers."""

    def __init__(self):
        super().__init__()
        self._furthest = 0

    def seek(self, position):
        self._furthest = max(self._furthest, self._row)
        super().seek({"list": max(position.get("list", 0), self._furthest)})


class PositionOfThisProcess(Right):
    """A position that means nothing to another instance."""

    numbers = itertools.count()

    def __init__(self):
        super().__init__()
        self._places, self._name = {}, next(self.numbers) * 1000

    def position(self):
        self._places[self._name + len(self._places)] = self._row
        return {"list": self._row, "mine": self._name}

    def seek(self, position):
        mine = position.get("mine", self._name) == self._name
        super().seek({"list": position.get("list", 0) if mine else 0})


class EmptyMeansHere(Right):
    def seek(self, position):
        if position:
            super().seek(position)


class EndsOnce(Right):
    def read(self, limit):
        try:
            return super().read(limit)
        except SourceEnded:
            self._row = 0
            raise


class CannotGoBackFromTheEnd(Right):
    def read(self, limit):
        try:
            return super().read(limit)
        except SourceEnded:
            self._ended = True
            raise

    def seek(self, position):
        if not getattr(self, "_ended", False):
            super().seek(position)


class KeepsTheCallersDict(Right):
    def seek(self, position):
        self._given = position
        self._row = position.get("list", 0)

    def read(self, limit):
        if getattr(self, "_given", None):
            self._row = self._given.get("list", 0)
            rows = super().read(limit)
            self._given = {"list": self._row}
            return rows
        return super().read(limit)


SOURCES = [
    (TooMany, 1), (ReturnsArrow, 1), (NeverAnything, 1), (SkipsWhenAskedForFew, 2), (PositionIsATuple, 3),
    (PositionIsNumpy, 3), (PositionMoves, 3), (PositionIsLive, 3), (SeekIsOffByOne, 5), (SeekForgetsWhatWasRead, 4),
    (PositionOfThisProcess, 5), (EmptyMeansHere, 6), (EndsOnce, 7), (CannotGoBackFromTheEnd, 7),
    (KeepsTheCallersDict, 8),
]  # fmt: skip


@pytest.mark.parametrize("pause_every", [0, 2])
def test_a_right_source_passes_every_clause(pause_every) -> None:
    assert check_source(lambda: ListSource(entries(), pause_every=pause_every)).untried == ()


def test_an_endless_source_is_cut() -> None:
    assert check_source(lambda: Right(1000), rows=200).untried == (7,)


@pytest.mark.parametrize(("broken", "clause"), SOURCES, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_source_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_source(broken)
    assert (caught.value.role, caught.value.clause) == ("Source", clause), str(caught.value)


# --------------------------------------------------------------------------------------------------------- feedback


def chunks() -> list[tuple[Events, Events]]:
    made = []
    for number in range(6):
        rows = Events.from_columns({
            "key": [f"r{number}"] * 3, "kind": ["impression"] * 3, "event_time": [number * 10] * 3,
            "item": ["a", "b", "c"], "score": [0.1, 0.2, 0.3],
        })  # fmt: skip
        made.append((rows, rows))
    return made


class Late(AnswerEverything):
    """Answers one call later, and keeps what is on its way in its state."""

    def __init__(self):
        super().__init__()
        self.waiting = None

    def collect(self, requests, predictions):
        answers, self.waiting = self.waiting, super().collect(requests, predictions)
        return answers

    def state(self):
        asked = sorted(list(pair) for pair in self._answered)
        return {"waiting": self.waiting.to_bytes() if self.waiting else None, "answered": asked}

    def restore(self, state):
        self.waiting = Events.from_bytes(state["waiting"]) if state["waiting"] else None
        self._answered = {tuple(pair) for pair in state["answered"]}


class AnswersAreDicts(Late):
    def collect(self, requests, predictions):
        answers = super().collect(requests, predictions)
        return None if answers is None else answers.batch.to_pydict()


class AnswersStrangers(Late):
    def collect(self, requests, predictions):
        answers = super().collect(requests, predictions)
        return None if answers is None else answers.with_columns({"item": answers.column("key")})


class AnswersTwice(Late):
    def collect(self, requests, predictions):
        answers = super().collect(requests, predictions)
        return None if answers is None else Events.concat([answers, answers.slice(0, 1)])


class AnswersFromTheFuture(AnswerEverything):
    def collect(self, requests, predictions):
        later = requests.with_columns({"event_time": requests.column("event_time").take([0, 0, 0])})
        return Events.from_columns({
            "key": later.column("key"), "kind": ["click"] * 3, "item": later.column("item"),
            "event_time": later.times + 5_000_000,
        })  # fmt: skip


class AnswersByChance(Late):
    numbers = itertools.count()

    def collect(self, requests, predictions):
        answers = super().collect(requests, predictions)
        return None if answers is None else answers.slice(0, 1 + next(self.numbers) % 3)


class LosesWhatIsOnItsWay(Late):
    def restore(self, state):
        super().restore({**state, "waiting": None})


class NeverAnswers(Late):
    def collect(self, requests, predictions):
        return None


FEEDBACK = [
    (AnswersAreDicts, 1), (AnswersStrangers, 2), (NeverAnswers, 2), (AnswersTwice, 3), (AnswersFromTheFuture, 3),
    (AnswersByChance, 4), (LosesWhatIsOnItsWay, 5),
]  # fmt: skip


def test_right_feedback_passes_every_clause() -> None:
    assert check_feedback(Late, chunks()).untried == ()


@pytest.mark.parametrize(("broken", "clause"), FEEDBACK, ids=lambda value: getattr(value, "__name__", None))
def test_broken_feedback_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_feedback(broken, chunks())
    assert (caught.value.role, caught.value.clause) == ("Feedback", clause), str(caught.value)


# ----------------------------------------------------------------------------------------------------------- queues


class LeasesTwice(MemoryQueue):
    def lease(self, worker):
        lease = super().lease(worker)
        if lease is not None and lease.shard == "b":
            self._free.append("b")
        return lease


class RefusesTheLast(MemoryQueue):
    def lease(self, worker):
        return super().lease(worker) if len(self._free) > 1 else None


class FencesFromTheClock(MemoryQueue):
    def lease(self, worker):
        self._fence = 0
        return super().lease(worker)


class LeasesFinished(MemoryQueue):
    def done(self, lease):
        super().done(lease)
        self._free.append(lease.shard)


class ExpiresAll(MemoryQueue):
    def expire(self, now):
        return super().expire(float("inf"))


class ExpiresWrongCount(MemoryQueue):
    def expire(self, now):
        return super().expire(now) * 2


class TakesAnyDone(MemoryQueue):
    def done(self, lease):
        super().done(self._leases.get(lease.shard, lease))


class ForgetsDone(MemoryQueue):
    """What the second worker finished is handed out again."""

    def done(self, lease):
        super().done(lease)
        if lease.fence > 4:
            self._free.append(lease.shard)


class LateDoneFrees(MemoryQueue):
    def done(self, lease):
        try:
            super().done(lease)
        except Exception:
            self._free.append(lease.shard)
            raise


QUEUES = [
    (LeasesTwice, 1), (RefusesTheLast, 1), (FencesFromTheClock, 2), (LeasesFinished, 3), (ExpiresAll, 4),
    (ExpiresWrongCount, 4), (TakesAnyDone, 5), (LateDoneFrees, 5), (ForgetsDone, 6),
]  # fmt: skip


def test_a_right_queue_passes_every_clause() -> None:
    assert check_work_queue(MemoryQueue).untried == ()


@pytest.mark.parametrize(("broken", "clause"), QUEUES, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_queue_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_work_queue(broken)
    assert (caught.value.role, caught.value.clause) == ("WorkQueue", clause), str(caught.value)


@pytest.mark.parametrize(("role", "broken"), [("Source", SOURCES), ("Feedback", FEEDBACK), ("WorkQueue", QUEUES)])
def test_every_clause_has_a_part_that_breaks_it(role, broken) -> None:
    assert {clause for _, clause in broken} == set(clauses(role))
