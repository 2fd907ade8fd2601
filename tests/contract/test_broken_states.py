"""Every clause of the contracts of `Metric`, `Resumable` and `Cadence` catches a part that breaks it."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.loop import EveryEventTime, EveryExamples, Never
from headrace.testing import (
    ContractViolation,
    CountingMetric,
    Toy,
    ToyConfig,
    check_cadence,
    check_metric,
    check_resumable,
    clauses,
    with_predictions,
)

BATCHES = list(Toy(ToyConfig()).batches(64, 6))

# ---------------------------------------------------------------------------------------------------------- metrics


class ComputesNone(CountingMetric):
    def compute(self):
        return None if not self._rows else super().compute()


class ComputesInts(CountingMetric):
    def compute(self):
        return {**super().compute(), "rows": self._rows}


class ComputeResets(CountingMetric):
    def compute(self):
        numbers = super().compute()
        self.__init__()
        return numbers


class MetricEatsTheBatch(CountingMetric):
    def update(self, batch):
        super().update(batch)
        batch.predictions.nan_to_num_(0.5)


class CountsBatches(CountingMetric):
    def update(self, batch):
        super().update(batch)
        self._positives += 1


class NeedsPredictions(CountingMetric):
    def update(self, batch):
        if batch.predictions.isnan().all():
            raise ConfigError("predictions")
        super().update(batch)


class ForgetsPredictions(CountingMetric):
    def restore(self, state):
        super().restore(state)
        self._predictions = 0.0


METRICS = [
    (ComputesNone, 1), (ComputesInts, 1), (ComputeResets, 2), (MetricEatsTheBatch, 3), (CountsBatches, 4),
    (NeedsPredictions, 5), (ForgetsPredictions, 6),
]  # fmt: skip


def judged() -> list:
    batches = [with_predictions(batch, 0.25) for batch in BATCHES]
    batches[2].predictions[3:9] = float("nan")
    return batches


def test_a_right_metric_passes_every_clause() -> None:
    assert check_metric(CountingMetric, judged()).untried == ()


@pytest.mark.parametrize(("broken", "clause"), METRICS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_metric_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_metric(broken, judged())
    assert (caught.value.role, caught.value.clause) == ("Metric", clause), str(caught.value)


# -------------------------------------------------------------------------------------------------------- resumable


class Counter:
    """The smallest right resumable part: a running sum."""

    def __init__(self, step: int = 3) -> None:
        self.step, self.sums, self.trail = step, torch.zeros(2), []

    def advance(self, number):
        self.sums = self.sums + self.step * number
        self.trail.append(number)
        return self.sums.clone()

    def state(self):
        return {"step": self.step, "sums": self.sums.clone(), "trail": list(self.trail)}

    def restore(self, state):
        if state["step"] != self.step:
            raise ConfigError("step", got=str(state["step"]), expected=str(self.step))
        self.sums, self.trail = state["sums"].clone(), list(state["trail"])


class TupleInState(Counter):
    def state(self):
        return {**super().state(), "trail": tuple(self.trail)}


class StateAsks(Counter):
    def state(self):
        self.asked = getattr(self, "asked", 0) + 1
        return {**super().state(), "asked": self.asked}


class StateSharesItsList(Counter):
    def state(self):
        return {**super().state(), "trail": self.trail}


class RestoreDropsTheTrail(Counter):
    def restore(self, state):
        super().restore({**state, "trail": []})


class StateHidesSomething(Counter):
    def advance(self, number):
        self.hidden = getattr(self, "hidden", 0) + 1
        return super().advance(number) + self.hidden


class RestoreKeepsTheList(Counter):
    def restore(self, state):
        super().restore(state)
        self.trail = state["trail"]


class RestoreTakesAnything(Counter):
    def restore(self, state):
        super().restore({**state, "step": self.step})


class RestoreChangesFirst(Counter):
    def restore(self, state):
        self.trail = list(state["trail"])
        super().restore(state)


RESUMABLE = [
    (TupleInState, 1), (StateAsks, 2), (StateSharesItsList, 3), (RestoreDropsTheTrail, 4), (StateHidesSomething, 5),
    (RestoreKeepsTheList, 6), (RestoreTakesAnything, 7), (RestoreChangesFirst, 7),
]  # fmt: skip


def test_a_right_resumable_part_passes_every_clause() -> None:
    verdict = check_resumable(Counter, lambda part, step: part.advance(step), others=[lambda: Counter(4)])
    assert verdict.untried == ()


@pytest.mark.parametrize(("broken", "clause"), RESUMABLE, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_resumable_part_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_resumable(broken, lambda part, step: part.advance(step), others=[lambda: Counter(4)])
    assert (caught.value.role, caught.value.clause) == ("Resumable", clause), str(caught.value)


# --------------------------------------------------------------------------------------------------------- cadences


class DueIsANumber(EveryExamples):
    def due(self, batch):
        return int(super().due(batch))


class DueByChance(EveryExamples):
    def due(self, batch):
        return bool(torch.rand(()) < 0.5)


class DueForgets(EveryExamples):
    def restore(self, state):
        self.learned = 0


CADENCES = [(DueIsANumber, 1), (DueByChance, 2), (DueForgets, 3)]


@pytest.mark.parametrize("make", [lambda: EveryExamples(100), lambda: EveryEventTime(1_000_000), Never])
def test_a_right_cadence_passes(make) -> None:
    assert set(check_cadence(make, BATCHES).untried) <= {3}


@pytest.mark.parametrize(("broken", "clause"), CADENCES, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_cadence_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_cadence(lambda: broken(100), BATCHES * 5)
    assert (caught.value.role, caught.value.clause) == ("Cadence", clause), str(caught.value)


@pytest.mark.parametrize(("role", "broken"), [("Metric", METRICS), ("Resumable", RESUMABLE), ("Cadence", CADENCES)])
def test_every_clause_has_a_part_that_breaks_it(role, broken) -> None:
    assert {clause for _, clause in broken} == set(clauses(role))
