"""Examples come by one after another; a rule says whether to ask, and the learner learns what was answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.evaluate import auc
from headrace.feedback import Always, CommitteeMargin, OwnMargin, PeerMargin, QueryRule, choose
from headrace.learn import CommitteeConfig
from headrace.papers.active_multitask.deals import Split
from headrace.papers.active_multitask.recipe import PlainTasks

OWN = CommitteeConfig(method="independent")
PEER = CommitteeConfig(method="peer", share=False)
PUBLISHED = CommitteeConfig(self_trust=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way of asking and learning.

    Attributes:
        rule: When to ask.
        learner: How to learn.
        data: The tasks as they are, all of them as one, or dealt out anew among the examples.
        pool: Sees all examples at once and asks about the one with the smallest margin; else they come by once.
        sharp: The margin at which every second example is asked is one over the number of tasks.
    """

    rule: QueryRule
    learner: CommitteeConfig
    data: str = "tasks"
    pool: bool = False
    sharp: bool = False

    def split(self, split: Split, seed: int) -> Split:
        """Return the examples as this arm gets them."""
        if self.data == "permuted":
            return split.permuted(seed)
        return split.pooled() if self.data == "pooled" else split


ARMS: Mapping[str, Arm] = {
    "random": Arm(rule=Always(), learner=OWN),
    "uncertainty": Arm(rule=OwnMargin(), learner=OWN, pool=True),
    "independent": Arm(rule=OwnMargin(), learner=OWN),
    "PEER": Arm(rule=PeerMargin(), learner=PEER),
    "PEER+share": Arm(rule=PeerMargin(), learner=replace(PEER, share=True)),
    "committee": Arm(rule=CommitteeMargin(), learner=PUBLISHED),
    "committee, no sharing": Arm(rule=CommitteeMargin(), learner=replace(PUBLISHED, share=False)),
    "committee, permuted tasks": Arm(rule=CommitteeMargin(), learner=PUBLISHED, data="permuted"),
    "committee, ties by rounding": Arm(rule=CommitteeMargin(), learner=replace(PUBLISHED, tie=0.0)),
    "committee, own first": Arm(rule=CommitteeMargin(), learner=CommitteeConfig()),
    "one task for all": Arm(rule=OwnMargin(), learner=OWN, data="pooled"),
    "one task for all, 1/K": Arm(rule=OwnMargin(), learner=OWN, data="pooled", sharp=True),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """How good a model was after so many questions."""

    questions: int
    accuracy: float
    balanced: float
    auc: float


@dataclass(slots=True)
class Asked:
    """What one arm did on one deal: judged when each budget was used up (or at the end), and at the end."""

    at: dict[int, Judged] = field(default_factory=dict)
    end: Judged | None = None
    seconds: float = 0.0


def ask(arm: Arm, split: Split, budgets: Sequence[int], seed: int) -> Asked:
    """Let one arm go through a deal once; every budget is a place on the same way."""
    if arm.sharp:
        arm = replace(arm, rule=OwnMargin(softness=1.0 / split.tasks))
    split, found, started = arm.split(split, seed), Asked(), time.monotonic()
    model, draw = PlainTasks(split.tasks, split.train.dim, arm.learner), np.random.default_rng(seed)
    questions, judging = 0, 0.0
    for _ in _pool(arm, model, split, draw) if arm.pool else _stream(arm, model, split, draw):
        questions += 1
        if questions in budgets:
            before = time.monotonic()
            found.at[questions] = judged(model, split, questions)
            judging += time.monotonic() - before
    found.seconds = time.monotonic() - started - judging
    found.end = judged(model, split, questions)
    for budget in budgets:
        found.at.setdefault(budget, found.end)
    return found


def _stream(arm: Arm, model: PlainTasks, split: Split, draw: np.random.Generator) -> Iterator[int]:
    """Go by every example once; yield after each question that was answered and learned."""
    examples = split.train
    for row in draw.permutation(len(examples)).tolist():
        scores = model.scores(examples, row)
        opinion = arm.rule(scores[None], examples.owners[row : row + 1], model.trust)
        luck = draw.random()
        if luck < opinion.chance[0]:
            model.learn(examples, row, int(examples.labels[row]))
            yield row
        elif luck < opinion.chance[0] + opinion.peers[0]:
            model.learn(examples, row, 1 if opinion.peer_vote[0] > 0 else -1, asked=False)


def _pool(arm: Arm, model: PlainTasks, split: Split, draw: np.random.Generator) -> Iterator[int]:
    """Ask about the example with the smallest margin, again and again; yield after each. For tasks on their own."""
    examples, left = split.train, np.ones(len(split.train), dtype=np.bool_)
    own = np.zeros(len(examples))
    while left.any():
        places = np.flatnonzero(left)
        opinion = arm.rule(own[places, None], 0 * places, np.ones((1, 1)))
        row = int(places[choose(opinion.chance, 1, draw, "top")[0]])
        left[row] = False
        if model.learn(examples, row, int(examples.labels[row])):
            own = examples.own_scores(model.weights)
        yield row


def judged(model: PlainTasks, split: Split, questions: int) -> Judged:
    """Judge the model on the test examples."""
    votes, truth = model.votes(split.test), split.test.labels > 0
    right = (votes > 0) == truth
    balanced = 0.5 * (float(right[truth].mean()) + float(right[~truth].mean()))
    return Judged(questions, float(right.mean()), balanced, auc(truth.astype(np.float64), votes))
