from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.feedback import Always, CommitteeMargin, OwnMargin, PeerMargin, QueryBudget, choose

SCORES = np.random.default_rng(0).normal(size=(50, 1))
NOBODY_ELSE = np.zeros(50, dtype=np.int64)


def test_one_task_is_single_task_active_learning() -> None:
    own = OwnMargin()(SCORES, NOBODY_ELSE, np.ones((1, 1)))
    for rule in (CommitteeMargin(), PeerMargin()):
        other = rule(SCORES, NOBODY_ELSE, np.ones((1, 1)))
        assert other.vote.tolist() == own.vote.tolist()
        assert other.chance.tolist() == own.chance.tolist()
        assert not other.peers.any()


def test_a_committee_is_heard_as_far_as_it_is_trusted() -> None:
    scores, trust = np.array([[1.0, -4.0]]), np.array([[1.5, 0.5], [1.0, 1.0]])
    found = CommitteeMargin(softness=0.5)(scores, np.array([0]), trust)
    assert found.vote.tolist() == [-0.5]
    assert found.chance.tolist() == [0.5]


def test_peers_answer_where_they_are_sure() -> None:
    trust = np.array([[9.0, 1.0]] * 2)
    sure = PeerMargin(peer_softness=1e-9)(np.array([[0.0, 3.0]]), np.array([0]), trust)
    assert (sure.chance[0] < 1e-8, sure.peers[0] > 0.99, sure.peer_vote[0]) == (True, True, 3.0)
    unsure = PeerMargin()(np.array([[0.0, 0.0]]), np.array([0]), trust)
    assert (unsure.chance[0], unsure.peers[0]) == (1.0, 0.0)


def test_random_questions_do_not_look() -> None:
    assert set(Always(0.25)(SCORES, NOBODY_ELSE, np.ones((1, 1))).chance) == {0.25}


def test_the_surest_chances_come_first_and_draws_follow_their_chance() -> None:
    chances = np.array([0.1, 0.9, 0.5, 0.9])
    tops = {tuple(choose(chances, 3, np.random.default_rng(seed), "top").tolist()) for seed in range(20)}
    assert tops == {(1, 3, 2), (3, 1, 2)}  # equal ones in random order
    counts = np.zeros(4)
    for seed in range(2000):
        counts[choose(chances, 4, np.random.default_rng(seed))] += 1
    assert np.abs(counts / 2000 - chances).max() < 0.05
    assert len(choose(np.ones(9), 4, np.random.default_rng(0))) == 4


def test_budgets_end() -> None:
    budget = QueryBudget(questions=5, per_task=3)
    assert budget.open(np.array([3, 1])).tolist() == [False, True]
    assert budget.open(np.array([3, 2])).tolist() == [False, False]
    assert (budget.left(np.array([3, 1])), budget.left(np.array([9, 0]))) == (1, 0)
    assert QueryBudget().open(np.array([10**9])).tolist() == [True]
    assert QueryBudget().left(np.array([10**9])) is None


@pytest.mark.parametrize(
    "make",
    [lambda: OwnMargin(0.0), lambda: CommitteeMargin(-1.0), lambda: PeerMargin(1.0, float("inf")), lambda: Always(0.0),
     lambda: QueryBudget(questions=-1), lambda: choose(np.ones(2), 1, np.random.default_rng(0), "best")],
)  # fmt: skip
def test_what_cannot_work_is_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()
