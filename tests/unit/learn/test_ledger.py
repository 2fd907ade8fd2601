"""The ledger: how often each example was learned, as an ordinary table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from headrace.errors import NonFiniteLoss
from headrace.learn import LEDGER, RankLearner, ledger_config, open_ledger, times_learned
from headrace.testing import Toy, ToyConfig
from headrace.types import Version

LearnerMaker = Callable[..., RankLearner]
TOY = Toy(ToyConfig(users=16, items=16))


def counts(learner: RankLearner, first: int, rows: int) -> list[int]:
    assert learner.ledger is not None
    return times_learned(learner.ledger, torch.arange(first, first + rows)).tolist()


def test_each_learned_example_counts_once_and_others_not(make_learner: LearnerMaker) -> None:
    learner = make_learner(audit=True)
    for batch in TOY.batches(8, 3):
        learner.learn(batch)
    assert counts(learner, 0, 30) == [1] * 24 + [0] * 6


def test_an_example_that_is_learned_again_shows(make_learner: LearnerMaker) -> None:
    learner = make_learner(audit=True)
    learner.learn(TOY.batch(0, 8))
    learner.learn(TOY.batch(6, 4))
    assert counts(learner, 0, 12) == [1] * 6 + [2] * 2 + [1] * 2 + [0] * 2


def test_an_example_that_stands_twice_in_a_batch_shows(make_learner: LearnerMaker) -> None:
    learner, batch = make_learner(audit=True), TOY.batch(0, 4)
    learner.learn(replace(batch, example_ids=torch.tensor([5, 5, -7, 2**62])))
    assert learner.ledger is not None
    assert times_learned(learner.ledger, torch.tensor([5, -7, 2**62, 0])).tolist() == [2, 1, 1, 0]


def test_a_refused_batch_does_not_count(make_learner: LearnerMaker) -> None:
    learner, batch = make_learner(audit=True), TOY.batch(0, 4)
    with pytest.raises(NonFiniteLoss):
        learner.learn(replace(batch, weights=batch.weights * float("nan")))
    assert counts(learner, 0, 4) == [0] * 4


def test_the_ledger_is_part_of_the_state(make_learner: LearnerMaker) -> None:
    first, second = make_learner(audit=True), make_learner(audit=True)
    first.learn(TOY.batch(0, 8))
    second.restore(first.state())
    second.learn(TOY.batch(8, 8))
    assert counts(second, 0, 20) == [1] * 16 + [0] * 4


def test_a_replica_of_the_ledger_counts_too(make_learner: LearnerMaker) -> None:
    learner, replica = make_learner(audit=True), open_ledger(serving=True)
    for number in range(-1, 3):
        rows = learner.changes(Version(number, number - 1)).tables[LEDGER]
        replica.assign(rows.ids, rows.rows)  # type: ignore[attr-defined]
        learner.learn(TOY.batch(8 * (number + 1), 8))
    assert times_learned(replica, torch.arange(30)).tolist() == [1] * 24 + [0] * 6  # the last batch is not published


def test_without_audit_there_is_no_ledger(make_learner: LearnerMaker) -> None:
    learner = make_learner()
    assert learner.ledger is None
    assert LEDGER not in learner.changes(Version(-1)).tables


def test_the_ledger_never_expires() -> None:
    assert ledger_config().ttl_s is None
