"""A learner of linear tasks that share: perceptrons over the same features that teach, and vote for, each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from headrace.config import known_name, require
from headrace.errors import DataError
from headrace.feedback.randomness import Floats
from headrace.learn.learner import RankLearner
from headrace.learn.learner_config import LearnerConfig
from headrace.learn.learner_state import LearnedTable
from headrace.nn import LinearTasks
from headrace.store import SGD, EmbeddingCollection, Zeros
from headrace.types import Batch, Change, Loss, State, Version

Method = Literal["committee", "peer", "independent"]
METHODS: tuple[Method, ...] = ("committee", "peer", "independent")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitteeConfig:
    """How tasks learn from an answer.

    Attributes:
        method: `committee`: the committee's mistakes are learned from, and the trust of a task shifts to those members
            that were right. `peer`: the task's own mistakes are, and trust in its peers shifts then (PEER).
            `independent`: own mistakes only, no trust.
        share: Give the answer also to every task that is trusted at least as much as the task itself, and was wrong.
        penalty: How fast the trust of a committee shifts (C).
        self_trust: How much more a task trusts itself than each other at first. 1, as published: all tasks then stay
            alike for ever, and the committee is one task for all. With more, a task shares with another only once
            that one has answered its questions as well as it does itself.
        tie: Trust that is smaller by less than this part counts as equal when answers are shared. 0, as in the
            authors' code: where tasks are alike, rounding decides then who shares, and machines differ.

    Raises:
        ConfigError: If a value cannot work.
    """

    method: Method = "committee"
    share: bool = True
    penalty: float = math.log(30.0)
    self_trust: float = 2.0
    tie: float = 1e-5

    def __post_init__(self) -> None:
        known_name("method", self.method, list(METHODS))
        require(self.penalty >= 0, "penalty", got=self.penalty, expected="0 or more")
        require(0 < self.self_trust < math.inf, "self_trust", got=self.self_trust, expected="a positive number")
        require(0 <= self.tie < 1, "tie", got=self.tie, expected="a part, at least 0 and below 1")

    @property
    def voting(self) -> Literal["committee", "own"]:
        """Who decides in a model that learns this way."""
        return "committee" if self.method == "committee" else "own"


def first_affinity(tasks: int, config: CommitteeConfig) -> Floats:
    """Return the trust of every task in every other before anything is learned, (K, K).

    Example:
        >>> first_affinity(3, CommitteeConfig(method="peer"))[0].tolist()
        [0.5, 0.5, 0.5]
        >>> first_affinity(3, CommitteeConfig(self_trust=4.0))[0].tolist()
        [2.0, 0.5, 0.5]
    """
    if config.method == "peer":
        return np.full((tasks, tasks), 1.0 / max(tasks - 1, 1))
    trust = np.ones((tasks, tasks)) + (config.self_trust - 1.0) * np.eye(tasks)
    return np.asarray(trust * tasks / (config.self_trust + tasks - 1))


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What an answer changes: weights of task m move by `moves[m]` times the example; the trust of its task is `trust`.

    Shapes: moves (K,) of -1, 0 and 1; trust (K,).
    """

    moves: Floats
    trust: Floats


def lesson(scores: Floats, trust: Floats, task: int, label: int, config: CommitteeConfig, asked: bool = True) -> Lesson:
    """Return what is learned from one answer.

    Args:
        scores: What every task thought of the example, (K,).
        trust: The task's row of the affinity, (K,).
        task: Whose example it is.
        label: The answer, 1 or -1.
        config: How tasks learn.
        asked: Whether a person gave it. An answer that peers gave moves the task alone, and no trust.

    Example:
        >>> right_and_wrong = np.array([-1.0, 2.0])
        >>> lesson(right_and_wrong, np.ones(2), 0, 1, CommitteeConfig()).trust.round(3).tolist()
        [0.065, 1.935]
    """
    moves = np.zeros(len(scores))
    if not asked:
        moves[task] = label
        return Lesson(moves, trust)
    committee = config.method == "committee"
    vote = float((trust * scores).sum()) if committee else float(scores[task])
    wrong = (1 if vote > 0 else -1) != label
    moves[task] = label if wrong else 0.0
    if committee:
        trust = _committee_trust(scores, trust, label, config.penalty)
    elif config.method == "peer" and wrong:
        trust = _peer_trust(scores, trust, task, label)
    if config.share and config.method != "independent":
        others = (trust >= trust[task] * (1.0 - config.tie)) & (np.where(scores > 0, 1, -1) != label)
        others[task] = False
        moves[others] = label
    return Lesson(moves, trust)


def _committee_trust(scores: Floats, trust: Floats, label: int, penalty: float) -> Floats:
    losses = np.clip(1.0 - label * scores, 0.0, 2.0)
    if losses.sum() > 0:
        losses = losses / losses.sum()
    weighed = trust * np.exp(-penalty * (losses - losses.min()))
    total = float(weighed.sum())
    return np.asarray(weighed * len(weighed) / total) if total > 0 else trust


def _peer_trust(scores: Floats, trust: Floats, task: int, label: int) -> Floats:
    """Shift trust among the peers; the trust in itself stays."""
    peers = np.arange(len(scores)) != task
    if not peers.any():
        return trust
    losses = np.maximum(0.0, 1.0 - label * scores[peers])
    weighed = trust[peers] * np.exp(-losses / (float(losses.sum()) or 1.0))
    shifted = trust.copy()
    shifted[peers] = weighed / weighed.sum()
    return shifted


@dataclass(frozen=True, slots=True)
class _Moves:
    """An objective whose gradient step at rate 1 is the lesson; its value is the hinge loss of the vote before it."""

    config: CommitteeConfig
    tasks: int

    def spec(self) -> Mapping[str, str]:
        return {"committee": json.dumps({"tasks": self.tasks, **asdict(self.config)}, sort_keys=True)}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        assert isinstance(model, LinearTasks)
        scores_BK, moves_BK = model.scores(batch), batch.extra["moves"]
        if not bool(moves_BK.any()):
            scores_BK = scores_BK.detach()  # nothing to learn: no row is touched, none is published
        lever = -(moves_BK * scores_BK).sum() + 0.0 * model.bias.sum()
        return Loss(batch.extra["hinge"].sum() + lever - lever.detach(), {}, batch.extra["votes"])


class CommitteeLearner:
    """Learns `LinearTasks` answer by answer; implements the roles `Learner` and `Resumable`.

    Every answer is one step: the tasks that were wrong and are concerned (see `CommitteeConfig`) take a perceptron
    step, and the trust of the answer's task shifts. How answers are cut into batches changes nothing. An example's
    weight scales its perceptron steps; `Batch.extra["asked"]`, where present, is 0 for answers that peers gave.

    State, changes and marks are those of `RankLearner`; the affinity travels with the dense tensors.

    Args:
        model: The tasks.
        collection: The tables behind it: rows as wide as there are tasks, `Zeros()` at first, rule `SGD(lr=1.0)`.
        config: How tasks learn.
        learner: Settings that all learners have; `row_gradients` is set here.

    Raises:
        ConfigError: If the tables are others, or the model votes in another way than the method learns.

    Source:
        arXiv 2103.13420 (committees), as its authors' public code has it; Murugesan and Carbonell 2017 (PEER).

    Cost: a step of `RankLearner` per answer, a few milliseconds: made for answers of people.

    Thread-safety: none; one thread learns, publishes and saves.
    """

    def __init__(
        self, model: LinearTasks, collection: EmbeddingCollection, config: CommitteeConfig | None = None,
        learner: LearnerConfig | None = None,
    ) -> None:  # fmt: skip
        self.config = config or CommitteeConfig()
        require(model.voting == self.config.voting, "LinearTasks, voting", got=model.voting,
                expected=f"{self.config.voting!r}, as the method '{self.config.method}' learns")  # fmt: skip
        for name, table in collection.tables.items():
            made: LearnedTable = table  # type: ignore[assignment]
            fits = made.config.rule == SGD(lr=1.0) and isinstance(made.config.init, Zeros)
            require(fits and made.config.dim == model.tasks, f"Table '{name}'", got=made.config.spec(),
                    expected=f"rows of {model.tasks} zeros, rule SGD(lr=1.0)")  # fmt: skip
        model.affinity.copy_(torch.from_numpy(first_affinity(model.tasks, self.config)))
        self.model, self.collection = model, collection
        dense = torch.optim.SGD(list(model.parameters()), lr=1.0)
        settings = replace(learner or LearnerConfig(), row_gradients="mean")
        self._steps = RankLearner(model, collection, dense, _Moves(self.config, model.tasks), settings)

    @property
    def examples(self) -> int:
        """Answers learned so far."""
        return self._steps.examples

    @property
    def affinity(self) -> Floats:
        """How much every task (row) trusts every other, (K, K)."""
        return np.asarray(self.model.affinity.double().numpy())

    def scores(self, batch: Batch) -> Floats:
        """Return what every task thinks of every example, (B, K)."""
        with torch.no_grad():
            return np.asarray(self.model.scores(batch).double().numpy())

    def learn(self, batch: Batch) -> Loss:
        """Learn one batch, answer by answer.

        Returns:
            The mean hinge loss of the votes before each step, with the share of mistakes in its parts, and the votes.

        Raises:
            DataError: If the batch is empty, a label is neither 0 nor 1, a weight is negative or a value not finite;
                nothing was changed.
            StoreError: If a table could not take its update; the answers before are learned.
        """
        _check(batch, self.model.tasks)
        votes, hinges, wrong = [], [], 0
        for piece in batch.split(1):
            vote, hinge, mistake = self._step(piece)
            votes.append(vote)
            hinges.append(hinge)
            wrong += mistake
        total = torch.tensor(float(np.mean(hinges)))
        return Loss(total, {"hinge": float(total), "mistakes": wrong / len(batch)}, torch.tensor(votes))

    def _step(self, piece: Batch) -> tuple[float, float, bool]:
        """Learn one answer; return vote, hinge loss and whether the vote was wrong."""
        scores, task = self.scores(piece)[0], int(self.model.tasks_of(piece)[0])
        trust, label = self.affinity[task], 1 if float(piece.labels[0]) > 0 else -1
        vote = float((trust * scores).sum() if self.config.method == "committee" else scores[task])
        asked = bool(piece.extra["asked"][0] > 0) if "asked" in piece.extra else True
        learned = lesson(scores, trust, task, label, self.config, asked)
        hinge = max(0.0, 1.0 - label * vote)
        extra: dict[str, Tensor] = {
            "moves": torch.from_numpy(learned.moves).float().unsqueeze(0) * piece.weights.unsqueeze(1),
            "hinge": torch.tensor([hinge]), "votes": torch.tensor([vote]),
        }  # fmt: skip
        self._steps.learn(replace(piece, extra={**piece.extra, **extra}))
        with torch.no_grad():
            self.model.affinity[task] = torch.from_numpy(learned.trust)
        return vote, hinge, label * vote <= 0

    def changes(self, since: Version) -> Change:
        """Return what was learned after version `since`; see `RankLearner.changes`."""
        return self._steps.changes(since)

    def state(self) -> State:
        """Return all that is needed to continue exactly."""
        return self._steps.state()

    def restore(self, state: State) -> None:
        """Continue from what `state` returned.

        Raises:
            RowRuleMismatch: If it is the state of other tasks, another method or another schema; nothing was changed.
            CorruptSnapshot: If it is not the state of a learner; nothing was changed.
        """
        self._steps.restore(state)


def _check(batch: Batch, tasks: int) -> None:
    """Refuse a batch with anything that cannot be learned from, before any of it is."""
    if not len(batch):
        raise DataError("Learner, batch", got="no examples", expected="at least one", do="Skip empty batches.")
    owners = batch.extra.get("scenario")
    for name, wrong_B, expected in (
        ("label", ~((batch.labels == 0) | (batch.labels == 1)), "0 or 1"),
        ("weight", ~((batch.weights >= 0) & (batch.weights < math.inf)), "a finite number, 0 or more"),
        ("dense columns", ~torch.isfinite(batch.dense).all(dim=1), "finite numbers"),
        ("task", (owners < 0) | (owners >= tasks) if owners is not None else torch.zeros(0), f"0 to {tasks - 1}"),
    ):
        if bool(wrong_B.any()):
            row = int(torch.nonzero(wrong_B)[0])
            raise DataError(f"Batch row {row} (example {int(batch.example_ids[row])}), {name}",
                            got="another value", expected=expected, do="Nothing was learned.")  # fmt: skip
