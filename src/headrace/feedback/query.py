"""Whom and what to ask: rules that say how much an answer about an example is worth, and choosing under a budget.

A rule reads what all tasks (committee members) think of an example and how much the example's own task trusts each. It
gives the chance of asking and the vote; nothing here learns. A single task, or a single model, is the case K = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from headrace.config import known_name, require
from headrace.feedback.randomness import Floats, Ints

Way: TypeAlias = Literal["draw", "top"]


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """What a rule thinks of N examples.

    Attributes:
        vote: The score whose sign would be predicted without asking, (N,).
        chance: Probability that a person is asked, (N,).
        peers: Probability that the other tasks' answer is taken instead of a person's, (N,); 0 but for `PeerMargin`.
        peer_vote: The score whose sign is that answer, (N,).
    """

    vote: Floats
    chance: Floats
    peers: Floats
    peer_vote: Floats


class QueryRule(Protocol):
    """A rule of when to ask; a frozen dataclass."""

    def __call__(self, scores: Floats, tasks: Ints, affinity: Floats) -> Opinion:
        """Return the opinion on N examples.

        Shapes: scores (N, K), what each of K tasks thinks; tasks (N,), whose example it is; affinity (K, K).
        """
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """Asks with the same chance whatever the models think: random questions, the baseline of every rule.

    Attributes:
        rate: The chance.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        require(0.0 < self.rate <= 1.0, "Always, rate", got=self.rate, expected="more than 0, at most 1")

    def __call__(self, scores: Floats, tasks: Ints, affinity: Floats) -> Opinion:
        """Return the opinion; the vote is the task's own score."""
        own = _own(scores, tasks)
        return _plain(own, np.full(len(own), self.rate))


@dataclass(frozen=True, slots=True)
class OwnMargin:
    """Asks the more likely the smaller the task's own margin is: b / (b + |own score|). Tasks hear nothing of others.

    Attributes:
        softness: b, the margin at which every second example is asked.

    Source:
        Cesa-Bianchi, Gentile and Zaniboni 2006, "Worst-Case Analysis of Selective Sampling for Linear Classification".

    Example:
        >>> opinion = OwnMargin()(np.array([[0.0], [3.0]]), np.array([0, 0]), np.ones((1, 1)))
        >>> opinion.chance.tolist()
        [1.0, 0.25]
    """

    softness: float = 1.0

    def __post_init__(self) -> None:
        _positive("OwnMargin, softness", self.softness)

    def __call__(self, scores: Floats, tasks: Ints, affinity: Floats) -> Opinion:
        """Return the opinion."""
        own = _own(scores, tasks)
        return _plain(own, chance_of(own, self.softness))


@dataclass(frozen=True, slots=True)
class CommitteeMargin:
    """Asks the more likely the smaller the margin of the task's committee is: all scores, weighed by its trust.

    With one task it equals `OwnMargin` to the bit.

    Attributes:
        softness: b, the margin at which every second example is asked.

    Source:
        arXiv 2103.13420, as its authors' public code has it.
    """

    softness: float = 1.0

    def __post_init__(self) -> None:
        _positive("CommitteeMargin, softness", self.softness)

    def __call__(self, scores: Floats, tasks: Ints, affinity: Floats) -> Opinion:
        """Return the opinion."""
        votes = (affinity[tasks] * scores).sum(axis=1)
        return _plain(votes, chance_of(votes, self.softness))


@dataclass(frozen=True, slots=True)
class PeerMargin:
    """Two stages: a task that is unsure hears its peers, and a person is asked only if they are unsure too.

    Where the peers are sure, the task learns from their answer as if a person had given it (`Opinion.peers`).

    Attributes:
        softness: b of the task's own margin.
        peer_softness: b of the peers' margin.

    Source:
        Murugesan and Carbonell 2017, "Active Learning from Peers" (PEER).
    """

    softness: float = 1.0
    peer_softness: float = 5.0

    def __post_init__(self) -> None:
        _positive("PeerMargin, softness", self.softness)
        _positive("PeerMargin, peer_softness", self.peer_softness)

    def __call__(self, scores: Floats, tasks: Ints, affinity: Floats) -> Opinion:
        """Return the opinion; the vote is the task's own score."""
        own, rows = _own(scores, tasks), np.arange(len(tasks))
        trust = affinity[tasks].copy()
        trust[rows, tasks] = 0.0
        votes = (trust * scores).sum(axis=1)
        unsure, ask = chance_of(own, self.softness), chance_of(votes, self.peer_softness)
        return Opinion(own, unsure * ask, unsure * (1.0 - ask), votes)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryBudget:
    """How many questions may be asked.

    Attributes:
        questions: Of all tasks together; None: no limit.
        per_task: Of each task; None: no limit.

    Example:
        >>> QueryBudget(questions=10, per_task=4).open(np.array([4, 1])).tolist()
        [False, True]
    """

    questions: int | None = None
    per_task: int | None = None

    def __post_init__(self) -> None:
        for name in ("questions", "per_task"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"QueryBudget, {name}", got=value, expected="0 or more, or None")

    def left(self, asked: Ints) -> int | None:
        """Return how many more questions may be asked in all, after `asked` (K,) per task; None: no limit."""
        return None if self.questions is None else max(self.questions - int(asked.sum()), 0)

    def open(self, asked: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return whether a task may be asked one more question, (K,), after `asked` (K,) per task."""
        full = self.left(asked) == 0
        return np.full(len(asked), not full) & (asked < np.inf if self.per_task is None else asked < self.per_task)


def chance_of(margin: Floats, softness: float) -> Floats:
    """Return softness / (softness + |margin|), the chance of asking."""
    return np.asarray(softness / (softness + np.abs(margin)))


def choose(chances: Floats, count: int, draw: np.random.Generator, way: Way = "draw") -> Ints:
    """Return at most `count` places of a pool to ask about, most urgent or first drawn first.

    Args:
        chances: Chance of asking about each, (N,).
        count: How many are wanted.
        draw: Random numbers.
        way: "top": those with the highest chances, equal ones in random order. "draw": in random order each is taken
            with its chance, as if the pool came by as a stream; fewer than `count` if chance refuses the rest.

    Example:
        >>> choose(np.array([0.1, 1.0, 0.5]), 2, np.random.default_rng(0), "top").tolist()
        [1, 2]
    """
    known_name("way", way, ["draw", "top"])
    order = draw.permutation(len(chances))
    if way == "top":
        return order[np.argsort(-chances[order], kind="stable")][:count].astype(np.int64)
    return order[draw.random(len(chances)) < chances[order]][:count].astype(np.int64)


def _own(scores: Floats, tasks: Ints) -> Floats:
    return np.asarray(scores[np.arange(len(tasks)), tasks])


def _plain(votes: Floats, chances: Floats) -> Opinion:
    nothing = np.zeros(len(votes))
    return Opinion(votes, chances, nothing, nothing)


def _positive(what: str, value: float) -> None:
    require(0.0 < value < float("inf"), what, got=value, expected="a positive number")
