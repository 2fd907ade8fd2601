"""What committees are tried on: planted tasks, spam of 15 mailboxes, 29 mine fields; and who learns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from headrace.data.datasets.recorded import find_in, missing
from headrace.data.matlab import read_matlab
from headrace.feedback.randomness import Floats
from headrace.learn import CommitteeConfig, CommitteeLearner, first_affinity, lesson
from headrace.nn import LinearTasks
from headrace.papers.active_multitask.deals import Examples, Split, deal, of_numbers
from headrace.store import EmbeddingCollection
from headrace.types import Batch

EMAILS, LANDMINE = "amtl_emails.mat", "amtl_landmine.mat"
ADDRESS = "github.com/JingxiXu/humble-peer-amtl (emails.mat, LandmineData.mat; name them as above)"
EMAILS_TRAIN, LANDMINE_TRAIN = 100, 160
"""Training examples per task, as in the authors' preprocessing."""
TEST = 200
"""Test examples per planted task."""


class PlainTasks:
    """The lessons of `CommitteeLearner` on plain vectors, for tens of thousands of steps; a test says that both agree.

    Args:
        tasks: Number of tasks.
        dim: Features and bias.
        config: How tasks learn.
    """

    def __init__(self, tasks: int, dim: int, config: CommitteeConfig) -> None:
        self.config, self.weights, self.trust = config, np.zeros((dim, tasks)), first_affinity(tasks, config)

    def scores(self, examples: Examples, row: int) -> Floats:
        """Return what every task thinks of one example, (K,)."""
        places, values = examples.row(row)
        return np.asarray(values @ self.weights[places])

    def learn(self, examples: Examples, row: int, label: int, *, asked: bool = True) -> bool:
        """Learn an answer; return whether any weight moved."""
        task, (places, values) = int(examples.owners[row]), examples.row(row)
        learned = lesson(self.scores(examples, row), self.trust[task], task, label, self.config, asked)
        self.trust[task] = learned.trust
        if learned.moves.any():
            self.weights[places] += values[:, None] * learned.moves
        return bool(learned.moves.any())

    def votes(self, examples: Examples) -> Floats:
        """Return the vote on every example, (N,)."""
        committee = self.config.voting == "committee"
        return examples.own_scores(self.weights @ self.trust.T if committee else self.weights)


def emails(seed: int) -> Split:
    """Deal the mails of 15 users: word counts, and whether a mail is spam.

    Raises:
        DataError: If the file is missing.
    """
    held = _held("spam of 15 mailboxes", EMAILS)
    return deal(held["X"], held["Y"], EMAILS_TRAIN, seed)


def landmine(seed: int) -> Split:
    """Deal the 29 mine fields: 9 numbers per spot, and whether there is a mine.

    Raises:
        DataError: If the file is missing.
    """
    held = _held("29 mine fields", LANDMINE)
    return deal([of_numbers(spots) for spots in held["feature"]], held["label"], LANDMINE_TRAIN, seed)


def _held(name: str, file: str) -> dict[str, Any]:
    found = find_in((file,))
    if found is None:
        raise missing(name, (file,), ADDRESS)
    return dict(read_matlab(found))


def planted(seed: int, *, opposed: bool = False, tasks: int = 6, dim: int = 16, train: int = 50) -> Split:
    """Deal tasks with truths that are much alike; with `opposed`, those of every second task point the other way."""
    draw = np.random.default_rng(seed)
    signs = np.where(np.arange(tasks) % 2, -1.0 if opposed else 1.0, 1.0)[:, None]
    truths = signs * draw.normal(size=dim) + 0.3 * draw.normal(size=(tasks, dim))
    inputs = draw.normal(size=(tasks, train + TEST, dim))
    labels = [rows @ truth > 0 for rows, truth in zip(inputs, truths, strict=True)]
    return deal([of_numbers(rows) for rows in inputs], labels, train, seed)


def agreement(split: Split, config: CommitteeConfig, answers: int) -> float:
    """Return how far the learner's scores of dense examples are from those of plain vectors after some answers."""
    plain = PlainTasks(split.tasks, split.train.dim, config)
    embed = EmbeddingCollection({}, [])
    model = LinearTasks(embed, (), split.train.dim - 1, tasks=split.tasks, voting=config.voting)
    learner, rows = CommitteeLearner(model, embed, config), np.random.default_rng(0).permutation(len(split.train))
    batch = _batch(split.train, rows[:answers])
    learner.learn(batch)
    for row in rows[:answers]:
        plain.learn(split.train, row, int(split.train.labels[row]))
    own = np.stack([plain.scores(split.train, row) for row in rows[:answers]])
    return float(np.abs(learner.scores(batch) - own).max())


def _batch(examples: Examples, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Batch:
    """Return dense examples as a batch; their length does not matter, as the learner scales them."""
    cells = np.stack([examples.row(int(row))[1] for row in rows])
    count = len(rows)
    return Batch(
        ids={}, dense=torch.from_numpy(cells[:, :-1] / cells[:, -1:]).float(),
        labels=torch.from_numpy(examples.labels[rows] > 0).float(), weights=torch.ones(count),
        event_times=torch.arange(count), accepted_times=torch.arange(count), example_ids=torch.arange(count),
        predictions=torch.ones(count), versions=torch.arange(count), sample_rates=torch.ones(count),
        extra={"scenario": torch.from_numpy(examples.owners[rows])},
    )  # fmt: skip
