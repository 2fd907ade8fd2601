"""Dealing examples of many tasks: those to ask about, those to be judged by, and the controls made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.data.matlab import Sparse
from headrace.feedback.randomness import Floats, Ints

Answers = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples of unit length with a bias: row n has `values[starts[n]:starts[n+1]]` at `places[...]`.

    Shapes: owners (N,), the task of each; labels (N,) of 1 and -1; starts (N + 1,); places, values (L,); dim: features
    and the bias.
    """

    owners: Ints
    labels: Ints
    starts: Ints
    places: Ints
    values: Floats
    dim: int

    def __len__(self) -> int:
        return len(self.owners)

    def row(self, place: int) -> tuple[Ints, Floats]:
        """Return where one example is not zero, and its values there."""
        part = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.places[part], self.values[part]

    def own_scores(self, weights: Floats) -> Floats:
        """Return every example's score by its own task's weights: weights (dim, K) -> (N,)."""
        owners = np.repeat(self.owners, np.diff(self.starts))
        return np.add.reduceat(self.values * weights[self.places, owners], self.starts[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One deal of a data set: examples of all tasks to ask about, and those to be judged by, task by task."""

    train: Examples
    test: Examples
    tasks: int

    def pooled(self) -> Split:
        """Return the same examples as those of one single task."""
        train, test = (replace(part, owners=0 * part.owners) for part in (self.train, self.test))
        return Split(train, test, 1)

    def permuted(self, seed: int) -> Split:
        """Return the same examples with those to ask about dealt out anew among the tasks."""
        order = np.random.default_rng(2000 + seed).permutation(len(self.train))
        return replace(self, train=replace(self.train, owners=self.train.owners[order]))


def of_numbers(numbers: Floats) -> Sparse:
    """Return rows of numbers (N, D) as a matrix that keeps every cell."""
    rows, dim = numbers.shape
    return Sparse((rows, dim), np.arange(rows + 1) * dim, np.tile(np.arange(dim), rows), numbers.reshape(-1))


def deal(matrices: Sequence[Sparse], labels: Answers, train: int, seed: int) -> Split:
    """Take `train` examples of each task at random, one task after the other, and leave the rest for the test."""
    draw, parts = np.random.default_rng(1000 + seed), []
    orders = [draw.permutation(len(answers)) for answers in labels]
    for cut in (slice(train), slice(train, None)):
        taken = [order[cut] for order in orders]
        rows = [_unit(matrix, row) for matrix, order in zip(matrices, taken, strict=True) for row in order]
        said = np.concatenate([np.reshape(own, -1)[order] for own, order in zip(labels, taken, strict=True)])
        parts.append(Examples(
            np.repeat(np.arange(len(taken)), [len(order) for order in taken]), np.where(said > 0, 1, -1),
            np.concatenate([[0], np.cumsum([len(places) for places, _ in rows])]),
            np.concatenate([places for places, _ in rows]), np.concatenate([values for _, values in rows]),
            matrices[0].shape[1] + 1,
        ))  # fmt: skip
    return Split(parts[0], parts[1], len(orders))


def _unit(matrix: Sparse, row: int) -> tuple[Ints, Floats]:
    """Return one row with a bias of one at the end, scaled to unit length."""
    part = slice(int(matrix.starts[row]), int(matrix.starts[row + 1]))
    values = np.append(matrix.values[part].astype(np.float64), 1.0)
    return np.append(matrix.columns[part], matrix.shape[1]), values / np.linalg.norm(values)


Deal = Callable[[int], Split]
