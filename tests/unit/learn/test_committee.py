from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, DataError, HeadraceError
from headrace.learn import CommitteeConfig, CommitteeLearner, LearnerConfig, first_affinity, lesson
from headrace.nn import LinearTasks
from headrace.publish import Replica
from headrace.store import SGD, Adagrad, EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig, Zeros
from headrace.testing import Toy, ToyConfig
from headrace.types import Batch, Version

NAMES = ("user", "item")
TOY = Toy(ToyConfig(seed=1, users=16, items=16, signs=2))


def batch(rows: int = 60, tasks: int = 3, first: int = 0) -> Batch:
    draw = np.random.default_rng(first)
    dense = torch.from_numpy(draw.normal(size=(rows, 2))).float()
    owners = torch.from_numpy(draw.integers(tasks, size=rows))
    return replace(TOY.batch(first, rows), dense=dense, extra={"scenario": owners})


def opened(tasks: int, config: CommitteeConfig, serving: bool = False, **table: object):
    made = {"dim": tasks, "init": Zeros(), "rule": SGD(lr=1.0)} | table
    tables = {name: ReferenceTable(TableConfig(name=name, **made), serving=serving) for name in NAMES}
    embed = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in NAMES])
    return LinearTasks(embed, NAMES, 2, tasks=tasks, voting=config.voting), embed


def learner(config: CommitteeConfig, tasks: int = 3, **table: object) -> CommitteeLearner:
    return CommitteeLearner(*opened(tasks, config, **table), config, LearnerConfig(seed=3))


def vectors(given: Batch) -> np.ndarray:
    """Examples as the method's own description has them: counts, numbers, one; unit length."""
    rows = np.zeros((len(given), 16 + 16 + 3))
    for place in range(len(given)):
        rows[place, int(given.ids["user"].values[place])] = 1.0
        rows[place, 16 + int(given.ids["item"].values[place])] = 1.0
    rows[:, 32:34], rows[:, 34] = given.dense.numpy(), 1.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


METHODS = [CommitteeConfig(self_trust=1.0), CommitteeConfig(), CommitteeConfig(share=False),
           CommitteeConfig(method="peer"), CommitteeConfig(method="independent")]  # fmt: skip


def test_one_task_alone_learns_the_same_in_every_way() -> None:
    given, states = batch(25, tasks=1), []
    for config in METHODS:
        made = learner(config, tasks=1)
        made.learn(given)
        states.append((made.scores(given).tolist(), made.affinity.tolist()))
    assert all(state == states[0] for state in states)
    assert states[0][1] == [[1.0]]


@pytest.mark.parametrize("config", METHODS, ids=lambda config: f"{config.method}-{config.share}-{config.self_trust}")
def test_tables_and_tensors_learn_what_plain_vectors_do(config) -> None:
    given, made = batch(), learner(config)
    inputs, weights = vectors(given), np.zeros((3, 35))
    trust = first_affinity(3, config)
    for place, example in enumerate(inputs):
        task, label = int(given.extra["scenario"][place]), 1 if given.labels[place] > 0 else -1
        learned = lesson(weights @ example, trust[task], task, label, config)
        weights += learned.moves[:, None] * example
        trust[task] = learned.trust
    loss = made.learn(given)
    assert np.abs(made.scores(given) - inputs @ weights.T).max() < 1e-4
    assert np.abs(made.affinity - trust).max() < 1e-4
    assert 0 < loss.parts["mistakes"] < 1
    assert loss.logits is not None
    assert len(loss.logits) == 60


def test_how_answers_are_cut_into_batches_changes_nothing() -> None:
    whole, pieces, given = learner(CommitteeConfig()), learner(CommitteeConfig()), batch()
    whole.learn(given)
    for piece in given.split(7):
        pieces.learn(piece)
    assert whole.changes(Version(-1)).checksum() != ""
    assert whole.scores(given).tolist() == pieces.scores(given).tolist()
    assert whole.affinity.tolist() == pieces.affinity.tolist()


def test_equal_trust_keeps_all_tasks_equal_for_ever() -> None:
    given, made = batch(80), learner(CommitteeConfig(self_trust=1.0))
    made.learn(given)
    scores = made.scores(given)
    assert np.abs(scores - scores[:, :1]).max() == 0.0
    assert np.abs(made.affinity - 1.0).max() < 1e-6
    other = learner(CommitteeConfig(self_trust=1.0))
    dealt = torch.from_numpy(np.random.default_rng(0).permutation(80))
    other.learn(replace(given, extra={"scenario": given.extra["scenario"][dealt]}))
    assert other.scores(given).tolist() == scores.tolist()  # whose examples they are makes no difference
    own_first = learner(CommitteeConfig())
    own_first.learn(given)
    assert np.ptp(own_first.scores(given), axis=1).max() > 0.1


def test_trust_shifts_to_those_who_were_right() -> None:
    config = CommitteeConfig(penalty=math.log(30.0))
    learned = lesson(np.array([0.5, -0.5, 0.9]), np.ones(3), 0, 1, config)
    assert learned.trust[2] > learned.trust[0] > learned.trust[1]
    assert learned.trust.sum() == pytest.approx(3.0)
    assert learned.moves.tolist() == [0.0, 0.0, 0.0]  # the vote was right; who was wrong is not trusted
    shared = lesson(np.array([-0.5, -0.4, 0.1]), np.ones(3), 0, 1, config)
    assert shared.moves.tolist() == [1.0, 1.0, 0.0]
    assert lesson(np.array([-0.5, -0.4, 0.1]), np.ones(3), 0, 1, replace(config, share=False)).moves[1] == 0.0


def test_peers_answers_move_their_own_task_only() -> None:
    config = CommitteeConfig(method="peer")
    learned = lesson(np.array([2.0, -1.0]), np.array([1.0, 1.0]), 0, 1, config, asked=False)
    assert (learned.moves.tolist(), learned.trust.tolist()) == ([1.0, 0.0], [1.0, 1.0])
    made, given = learner(config), batch(1)
    made.learn(replace(given, extra={**given.extra, "asked": torch.zeros(1)}))
    assert made.affinity.tolist() == first_affinity(3, config).tolist()


def test_weights_scale_steps_and_none_is_no_step() -> None:
    given, made = batch(20), learner(CommitteeConfig())
    made.learn(replace(given, weights=torch.zeros(20)))
    assert not made.scores(given).any()
    assert made.examples == 20


def test_a_replica_votes_like_the_learner() -> None:
    config, given = CommitteeConfig(), batch()
    made, (served, embed) = learner(config), opened(3, CommitteeConfig(), serving=True)
    replica = Replica(dict(embed.tables), served)
    replica.apply(made.changes(Version(-1)))
    made.learn(given)
    replica.apply(made.changes(Version(0, -1)))
    with torch.no_grad():
        assert torch.equal(served(given), made.model(given))


def test_answers_without_a_mistake_publish_no_rows() -> None:
    made, given = learner(CommitteeConfig(method="independent")), batch(1)
    given = replace(given, labels=torch.zeros(1))  # nothing learned yet says no
    made.changes(Version(-1))
    made.learn(given)
    assert [len(rows) for rows in made.changes(Version(0, -1)).tables.values()] == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [{"labels": torch.tensor([0.5] * 4)}, {"weights": torch.tensor([-1.0] * 4)},
     {"dense": torch.full((4, 2), math.nan)}, {"extra": {"scenario": torch.tensor([0, 1, 2, 3])}}],
)  # fmt: skip
def test_bad_answers_are_refused_and_nothing_is_learned(wrong) -> None:
    made = learner(CommitteeConfig())
    with pytest.raises(DataError, match="Batch row"):
        made.learn(replace(batch(4), **wrong))
    assert made.examples == 0


def test_other_tables_and_votes_are_refused() -> None:
    for table in ({"rule": Adagrad()}, {"rule": SGD(lr=0.5)}, {"dim": 4}):
        with pytest.raises(ConfigError, match="Table"):
            learner(CommitteeConfig(), **table)
    with pytest.raises(ConfigError, match="voting"):
        CommitteeLearner(*opened(3, CommitteeConfig()), CommitteeConfig(method="peer"))


def test_the_state_of_another_method_is_refused() -> None:
    made = learner(CommitteeConfig())
    for other in (CommitteeConfig(share=False), CommitteeConfig(self_trust=3.0)):
        with pytest.raises(HeadraceError, match="committee"):
            made.restore(learner(other).state())
