"""Every clause of the contracts of `Publisher`, `Predictor` and `Checkpoint` catches a part that breaks it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.errors import DataError, GapError
from headrace.testing import (
    ConstantPredictor,
    ContractViolation,
    DictPublisher,
    MemoryCheckpoint,
    check_checkpoint,
    check_predictor,
    check_publisher,
    clauses,
)
from headrace.testing.publish_checks import toy_changes
from headrace.types import Events, Version

# ------------------------------------------------------------------------------------------------------- publishers


class StartsAtZero(DictPublisher):
    def last(self):
        return super().last() if self.kept else Version(0)


class PublishAlters(DictPublisher):
    def publish(self, change):
        return replace(super().publish(change), dense={})


class LastLagsBehind(DictPublisher):
    def last(self):
        return Version(len(self.kept) - 2, len(self.kept) - 3) if len(self.kept) > 1 else super().last()


class AcceptsGaps(DictPublisher):
    def publish(self, change):
        self.kept[change.version.number] = change
        return change


class AcceptsAnyFirst(DictPublisher):
    def publish(self, change):
        return change if not self.kept and change.version.number else super().publish(change)


class RefusesWithAnotherError(DictPublisher):
    def publish(self, change):
        try:
            return super().publish(change)
        except GapError as error:
            raise DataError("no") from error


class RefusesRepeats(DictPublisher):
    def publish(self, change):
        if change.version.number in self.kept:
            raise GapError("repeated")
        return super().publish(change)


class KnowsOnlyTheLastRepeat(DictPublisher):
    def publish(self, change):
        if change.version.number < len(self.kept) - 1:
            raise GapError("too old")
        return super().publish(change)


class TakesOtherContent(DictPublisher):
    def publish(self, change):
        return change if change.version.number in self.kept else super().publish(change)


class ComparesOnlyTheLast(DictPublisher):
    def publish(self, change):
        if change.version.number < len(self.kept) - 1:
            return self.kept[change.version.number]
        return super().publish(change)


class RepeatsMoveLast(DictPublisher):
    def publish(self, change):
        self.moved = self.kept.get(change.version.number)
        return super().publish(change)

    def last(self):
        return self.moved.version if getattr(self, "moved", None) else super().last()


def again(publisher):
    return type(publisher)(publisher.kept)


class LosesTheLastOnReopening(DictPublisher):
    def __init__(self, kept=None):
        super().__init__(kept if kept is None else {k: v for k, v in kept.items() if k < len(kept) - 1})


class ForgetsContentOnReopening(DictPublisher):
    def __init__(self, kept=None):
        super().__init__(kept)
        self.trusted = set(self.kept)

    def publish(self, change):
        return change if change.version.number in self.trusted else super().publish(change)


PUBLISHERS = [
    (StartsAtZero, 1), (PublishAlters, 2), (LastLagsBehind, 2), (AcceptsGaps, 3), (AcceptsAnyFirst, 3),
    (RefusesWithAnotherError, 3), (RefusesRepeats, 4), (KnowsOnlyTheLastRepeat, 4), (RepeatsMoveLast, 4),
    (TakesOtherContent, 5), (ComparesOnlyTheLast, 5), (LosesTheLastOnReopening, 6), (ForgetsContentOnReopening, 6),
]  # fmt: skip


def test_a_right_publisher_passes_every_clause() -> None:
    assert check_publisher(DictPublisher, reopen=again).untried == ()
    assert check_publisher(DictPublisher).untried == (6,)


@pytest.mark.parametrize(("broken", "clause"), PUBLISHERS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_publisher_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_publisher(broken, reopen=again)
    assert (caught.value.role, caught.value.clause) == ("Publisher", clause), str(caught.value)


def test_the_toy_changes_follow_each_other() -> None:
    changes = toy_changes(3)
    assert [change.version for change in changes] == [Version(0, -1), Version(1, 0), Version(2, 1)]
    assert [change.full for change in changes] == [True, False, False]


# ------------------------------------------------------------------------------------------------------- predictors

REQUESTS = Events.from_columns({
    "key": ["r1"] * 3 + ["r2"] * 4, "kind": ["impression"] * 7, "event_time": [5] * 3 + [6] * 4,
    "item": list("abcdefg"),
})  # fmt: skip


class Rising(ConstantPredictor):
    """A score that depends on the item and on every change applied."""

    def __init__(self):
        super().__init__()
        self.sum, self.lock = 0.0, threading.RLock()

    def predict(self, requests):
        with self.lock:
            answers = super().predict(requests)
            scores = [(self.sum + ord(item) % 7) / 100 for item in requests.column("item").to_pylist()]
        return answers.with_columns({"score": pa.array(np.array(scores, dtype=np.float32))})

    def apply(self, change):
        with self.lock:
            before = self.version
            super().apply(change)
            if self.version != before:
                self.sum = float(change.notes["sum"]) if change.full else self.sum + float(change.dense["bias"][0]) + 1


def full():
    last = toy_changes()[-1]
    return replace(last, full=True, notes={"sum": torch.tensor(0.0 + 2 + 3 + 4)}, version=Version(3, -1))


def rising_changes():
    changes = toy_changes()
    return [replace(changes[0], notes={"sum": torch.tensor(0.0)}), *changes[1:]]


class DropsARow(Rising):
    def predict(self, requests):
        return super().predict(requests).slice(0, max(len(requests) - 1, 1))


class SortsByScore(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        return answers.take(np.argsort(answers.column("score").to_numpy(), kind="stable"))


class KeepsTheKind(Rising):
    def predict(self, requests):
        return super().predict(requests).with_columns({"kind": requests.column("kind")})


class AnswersLogits(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        scores = answers.column("score").to_numpy() - 3
        return answers.with_columns({"score": pa.array(scores)})


class AnswersDoubles(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        return answers.with_columns({"score": answers.column("score").cast(pa.float64())})


class NamesTheNextVersion(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        return answers.with_columns({"version": pa.array(np.full(len(answers), self.version + 1))})


class LearnsFromRequests(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        self.sum += 0.001
        return answers


class NormalisesOverTheCall(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        scores = answers.column("score").to_numpy()
        return answers.with_columns({"score": pa.array(scores / scores.sum())})


class AppliesTwice(Rising):
    def apply(self, change):
        if change.version.number == self.version:
            self.sum += 1
        super().apply(change)


class GoesBack(Rising):
    def apply(self, change):
        if change.version.number < self.version:
            self.version = change.version.number - 1
            self.sum = 0.0
        super().apply(change)


class JumpsGaps(Rising):
    def apply(self, change):
        if change.version.number > self.version:
            self.version = change.version.parent
        super().apply(change)


class ChangesBeforeRefusing(Rising):
    def apply(self, change):
        if change.version.parent > self.version >= 0:
            self.sum += 1
        super().apply(change)


class CountsRepeats(Rising):
    """Two repeats of a change are harmless, until the next one comes."""

    def apply(self, change):
        self.repeats = getattr(self, "repeats", 0) + (change.version.number <= self.version)
        before = self.version
        super().apply(change)
        if self.version > before and not change.full:
            self.sum += self.repeats


class SwapsInTwoSteps(Rising):
    def predict(self, requests):
        version = self.version
        time.sleep(0.002)
        answers = super().predict(requests)
        return answers.with_columns({"version": pa.array(np.full(len(answers), version))})


class RowByRow(Rising):
    def predict(self, requests):
        answers = super().predict(requests)
        if threading.current_thread() is threading.main_thread():
            return answers
        half = len(requests) // 2
        first = super().predict(requests.slice(0, half))
        time.sleep(0.002)
        return Events.concat([first, super().predict(requests.slice(half))])


class FailsWhileApplying(Rising):
    def predict(self, requests):
        if threading.current_thread() is not threading.main_thread() and self.version > 1:
            raise RuntimeError("the table is being rebuilt")
        return super().predict(requests)


class AddsFullChanges(Rising):
    def apply(self, change):
        if change.full and change.version.number:
            change = replace(change, notes={"sum": change.notes["sum"] + 5})
        super().apply(change)


PREDICTORS = [
    (DropsARow, 1), (SortsByScore, 1), (KeepsTheKind, 1), (AnswersLogits, 2), (AnswersDoubles, 2),
    (NamesTheNextVersion, 2), (LearnsFromRequests, 3), (NormalisesOverTheCall, 4), (AppliesTwice, 5), (GoesBack, 5),
    (JumpsGaps, 6), (ChangesBeforeRefusing, 6), (CountsRepeats, 7), (SwapsInTwoSteps, 8), (RowByRow, 8),
    (FailsWhileApplying, 8), (AddsFullChanges, 9),
]  # fmt: skip


def test_a_right_predictor_passes_every_clause() -> None:
    assert check_predictor(Rising, REQUESTS, rising_changes(), full=full()).untried == ()
    assert check_predictor(Rising, REQUESTS, rising_changes()).untried == (9,)


def test_a_constant_predictor_passes_too() -> None:
    assert check_predictor(ConstantPredictor, REQUESTS, toy_changes()).untried == (9,)


@pytest.mark.parametrize(("broken", "clause"), PREDICTORS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_predictor_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_predictor(broken, REQUESTS, rising_changes(), full=full())
    assert (caught.value.role, caught.value.clause) == ("Predictor", clause), str(caught.value)


# ------------------------------------------------------------------------------------------------------ checkpoints


class StartsEmpty(MemoryCheckpoint):
    def load(self):
        return super().load() or {}


class KeepsTheFirst(MemoryCheckpoint):
    def save(self, state):
        if self._state is None:
            super().save(state)


class Rounds(MemoryCheckpoint):
    def save(self, state):
        super().save({**state, "rate": 1e308})


class KeepsTheCallersState(MemoryCheckpoint):
    def save(self, state):
        self._state = state


class GivesItsOwnState(MemoryCheckpoint):
    def load(self):
        return self._state


def fresh(checkpoint):
    return type(checkpoint)() if isinstance(checkpoint, InThisProcess) else checkpoint


class InThisProcess(MemoryCheckpoint):
    pass


CHECKPOINTS = [
    (StartsEmpty, 1), (KeepsTheFirst, 2), (Rounds, 2), (KeepsTheCallersState, 3), (GivesItsOwnState, 3),
    (InThisProcess, 4),
]  # fmt: skip


def test_a_right_checkpoint_passes_every_clause() -> None:
    assert check_checkpoint(MemoryCheckpoint, reopen=fresh).untried == ()
    assert check_checkpoint(MemoryCheckpoint).untried == (4,)


@pytest.mark.parametrize(("broken", "clause"), CHECKPOINTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_checkpoint_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_checkpoint(broken, reopen=fresh)
    assert (caught.value.role, caught.value.clause) == ("Checkpoint", clause), str(caught.value)


@pytest.mark.parametrize(
    ("role", "broken"), [("Publisher", PUBLISHERS), ("Predictor", PREDICTORS), ("Checkpoint", CHECKPOINTS)]
)
def test_every_clause_has_a_part_that_breaks_it(role, broken) -> None:
    assert {clause for _, clause in broken} == set(clauses(role))
