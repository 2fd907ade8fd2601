"""Every clause of the contract of `Joiner` catches a joiner that breaks it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.errors import ConfigError
from headrace.testing import ContractViolation, ListJoiner, Toy, ToyConfig, check_joiner, clauses
from headrace.types import Events


def chunks() -> list[tuple[Events, Events | None, Events | None]]:
    """Four requests of three items; the first item of every request but the last is clicked, one call later."""
    made, clicks = [], None
    for number in range(4):
        rows = Events.from_columns({
            "key": [f"r{number}"] * 3, "kind": ["impression"] * 3, "event_time": [number * 10] * 3,
            "item": ["a", "b", "c"],
        })  # fmt: skip
        scores = np.array([0.1, 0.2, 0.3], dtype=np.float32) + np.float32(number)
        predictions = rows.with_columns({"score": pa.array(scores), "version": pa.array([number] * 3)})
        made.append((rows, predictions, clicks))
        clicks = Events.from_columns(
            {"key": [f"r{number}"], "kind": ["click"], "event_time": [number * 10 + 5], "item": ["a"]}
        )
    return made


EXPECTED = {number: float(number % 3 == 0 and number < 9) for number in range(12)}


def shuffled() -> list[tuple[Events, Events | None, Events | None]]:
    rows = chunks()
    clicks = Events.concat([one[2] for one in reversed(rows) if one[2]])
    nothing = (rows[0][0].slice(0, 0), rows[0][1].slice(0, 0))
    return [*((one[0], one[1], None) for one in rows), (*nothing, clicks)]


class OtherSettings(ListJoiner):
    window = 9

    def state(self):
        return {**super().state(), "window": self.window}


class Right(ListJoiner):
    window = 5

    def state(self):
        return {**super().state(), "window": self.window}

    def restore(self, state):
        if state["window"] != self.window:
            raise ConfigError("window", got=str(state["window"]), expected=str(self.window))
        super().restore(state)


class EmptyBatches(Right):
    def add(self, requests, predictions, answers):
        super().add(requests, predictions, answers)
        return Toy(ToyConfig()).batch(0, 0)


class ReturnsLists(Right):
    def flush(self):
        batch = super().flush()
        return None if batch is None else [batch]


class EmitsTwice(Right):
    def add(self, requests, predictions, answers):
        super().add(requests, predictions, answers)
        batch = super().flush()
        self._flushed = 0
        return batch


class EmitsByChance(Right):
    numbers = itertools.count()

    def flush(self):
        batch = super().flush()
        return None if batch is None else replace(batch, weights=batch.weights * next(self.numbers))


class RepeatsAreFresh(Right):
    def add(self, requests, predictions, answers):
        keys = pa.array([f"{key}/{len(self._rows)}" for key in requests.column("key").to_pylist()])
        return super().add(requests.with_columns({"key": keys}), predictions, answers)


class FlushesForEver(Right):
    def flush(self):
        start = self._flushed
        batch = super().flush()
        self._flushed = start
        return batch


class ForgetsAnswers(Right):
    def restore(self, state):
        super().restore({**state, "positive": []})


class LosesPredictions(Right):
    def add(self, requests, predictions, answers):
        return super().add(requests, None, answers)


class MixesVersions(Right):
    def flush(self):
        batch = super().flush()
        return None if batch is None else replace(batch, versions=batch.versions.roll(1))


class EverythingIsPositive(Right):
    def flush(self):
        batch = super().flush()
        return None if batch is None else replace(batch, labels=torch.ones(len(batch)))


class NeedsAnswersInTime(Right):
    """An answer counts only if it comes one call after its request."""

    def add(self, requests, predictions, answers):
        fresh, self._last = getattr(self, "_last", set()), set(requests.column("key").to_pylist())
        if answers is not None:
            keys = answers.column("key").to_pylist()
            keep = [row for row, key in enumerate(keys) if key in fresh or key in self._seen]
            answers = answers.take(np.array(keep, dtype=np.int64))
            self._seen |= set(answers.column("key").to_pylist())
        return super().add(requests, predictions, answers)

    def __init__(self):
        super().__init__()
        self._seen = set()

    def state(self):
        return {**super().state(), "last": sorted(getattr(self, "_last", set()))}

    def restore(self, state):
        super().restore(state)
        self._last = set(state["last"])


class RestoresAnything(Right):
    def restore(self, state):
        super().restore({**state, "window": self.window})


class StateOfSets(Right):
    def state(self):
        return {**super().state(), "positive": set(self._positive)}


class LiveState(Right):
    def __init__(self):
        super().__init__()
        self.log = []

    def add(self, requests, predictions, answers):
        self.log.append(len(requests))
        return super().add(requests, predictions, answers)

    def state(self):
        return {**super().state(), "log": self.log}

    def restore(self, state):
        super().restore(state)
        self.log = list(state["log"])


JOINERS = [
    (EmptyBatches, 1), (ReturnsLists, 1), (EmitsTwice, 2), (EmitsByChance, 3), (RepeatsAreFresh, 4),
    (FlushesForEver, 5), (ForgetsAnswers, 6), (LosesPredictions, 7), (MixesVersions, 7), (EverythingIsPositive, 8),
    (NeedsAnswersInTime, 9), (RestoresAnything, 10), (StateOfSets, 11), (LiveState, 11),
]  # fmt: skip


def test_a_right_joiner_passes_every_clause() -> None:
    verdict = check_joiner(Right, chunks(), expected=EXPECTED, shuffled=shuffled(), others=[OtherSettings])
    assert verdict.untried == ()
    assert check_joiner(Right, chunks()).untried == (8, 9, 10)


@pytest.mark.parametrize(("broken", "clause"), JOINERS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_joiner_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_joiner(broken, chunks(), expected=EXPECTED, shuffled=shuffled(), others=[OtherSettings])
    assert (caught.value.role, caught.value.clause) == ("Joiner", clause), str(caught.value)


def test_every_clause_has_a_joiner_that_breaks_it() -> None:
    assert {clause for _, clause in JOINERS} == set(clauses("Joiner"))
