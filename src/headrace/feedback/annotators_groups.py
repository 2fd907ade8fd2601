"""GroupAnno's answer model: a confusion is what all share, plus what groups add, plus what a person adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headrace.feedback.annotators_confusion import SHARED_LOG_ODDS, count, likelihood, pseudo_answers
from headrace.feedback.annotators_truth import log_softmax
from headrace.feedback.crowd import UNKNOWN, Answers, Attribute
from headrace.feedback.randomness import Floats, Ints

SHARED_SD = 10.0
NEWTON_STEPS = 2
NEVER = 1e12


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Annotators by combination of groups: those of one cell have the same group part.

    Shapes: design (C, M), a column for what all share and one per level; cells (R,) an index of `design`'s rows.
    """

    design: Floats
    cells: Ints
    starts: Mapping[str, int]

    @staticmethod
    def of(attributes: Mapping[str, Attribute], annotators: int) -> Cells:
        """Sort annotators into cells."""
        starts, width = {}, 1
        for name, attribute in attributes.items():
            starts[name], width = width, width + len(attribute.levels)
        codes = (
            np.stack([each.codes for each in attributes.values()], axis=1) if attributes else np.zeros((annotators, 1))
        )
        combinations, cells = np.unique(codes, axis=0, return_inverse=True)
        design = np.zeros((len(combinations), width))
        design[:, 0] = 1.0
        for place, start in enumerate(starts.values()):
            known = combinations[:, place] != UNKNOWN
            design[np.flatnonzero(known), start + combinations[known, place].astype(np.int64)] = 1.0
        return Cells(design, cells.reshape(-1).astype(np.int64), starts)

    def total(self, values: Floats) -> Floats:
        """Add up per cell. Shapes: (R, ...) to (C, ...)."""
        flat = values.reshape(len(values), -1)
        sums = [np.bincount(self.cells, weights=column, minlength=len(self.design)) for column in flat.T]
        return np.stack(sums, axis=1).astype(np.float64).reshape(-1, *values.shape[1:])


class GroupConfusions:
    """Row k of annotator r's confusion is softmax(B[k] + sum over attributes of U[group of r, k] + V[r, k]).

    U and V are normal with mean 0. `group_sd` and `individual_sd` are the standard deviations of the log-odds between
    two answers that a group and a person add: the penalty is `|U|² / group_sd² + |V|² / individual_sd²`. There is no
    closed form, so an M-step takes Newton steps, with the persons' part eliminated exactly (Schur complement); this
    is the extended EM.

    Args:
        cells: The annotators by group.
        classes: K.
        group_sd: 3.16 by default: groups have many answers and hardly need a prior.
        individual_sd: How much persons of one group differ; 0: not at all, large: each stands alone.
        smoothing: Pseudo-answers per cell of each confusion, as in `FreeConfusions`.

    Cost: O(K (R K³ + C M² K² + (M K)³)) per step, with M levels in all.

    Source:
        GroupAnno (Liu et al. 2022), its structure; the paper's exact parameters are not known to us, so this is the
        log-linear form of it.
    """

    def __init__(self, cells: Cells, classes: int, *, group_sd: float, individual_sd: float, smoothing: float) -> None:
        people, width = len(cells.cells), cells.design.shape[1]
        self.cells, self.added = cells, pseudo_answers(classes, smoothing)
        self._precision = 2.0 / max(individual_sd**2, 2.0 / NEVER)
        self._ridge = np.full(width, 2.0 / group_sd**2)
        self._ridge[0] = 2.0 / SHARED_SD**2
        self._center = np.zeros((classes, width, classes))
        self._center[:, 0] = SHARED_LOG_ODDS * (np.eye(classes) - 1.0 / classes)
        self.shared: Floats = self._center.copy()
        self.persons: Floats = np.zeros((classes, people, classes))

    @property
    def confusions(self) -> Floats:
        """p(answer | class) of each annotator, (R, K, K)."""
        return np.asarray(np.exp(log_softmax(self.logits())).transpose(1, 0, 2))

    def logits(self) -> Floats:
        """Return B + U + V, (K, R, K)."""
        return np.asarray((self.cells.design @ self.shared)[:, self.cells.cells] + self.persons)

    def fit(self, answers: Answers, beliefs: Floats) -> None:
        """Take Newton steps on the counts under these beliefs."""
        self.fit_counts(count(answers, beliefs))

    def fit_counts(self, counts: Floats) -> None:
        """Take Newton steps, each shortened until it is a gain."""
        for place in range(counts.shape[1]):
            self._fit_row(place, counts[:, place] + self.added[place])

    def _fit_row(self, place: int, counts: Floats) -> None:
        value = self._value(counts, place, self.shared[place], self.persons[place])
        for _ in range(NEWTON_STEPS):
            shared_step, person_step = self._newton(counts, place)
            for _ in range(40):
                shared, persons = self.shared[place] + shared_step, self.persons[place] + person_step
                after = self._value(counts, place, shared, persons)
                if after >= value:
                    self.shared[place], self.persons[place] = shared, persons
                    break
                shared_step, person_step = shared_step / 2, person_step / 2
            else:
                return
            if after - value < 1e-11 * (1.0 + abs(value)):
                return
            value = after

    def _value(self, counts: Floats, place: int, shared: Floats, persons: Floats) -> float:
        logs = log_softmax((self.cells.design @ shared)[self.cells.cells] + persons)
        return float((counts * logs).sum()) - self._row_penalty(place, shared, persons)

    def _row_penalty(self, place: int, shared: Floats, persons: Floats) -> float:
        group = (self._ridge[:, None] * (shared - self._center[place]) ** 2).sum()
        return 0.5 * float(group + self._precision * (persons**2).sum())

    def _newton(self, counts: Floats, place: int) -> tuple[Floats, Floats]:
        design, cells = self.cells.design, self.cells.cells
        shared, persons = self.shared[place], self.persons[place]
        chances = np.exp(log_softmax((design @ shared)[cells] + persons))
        surprise = counts - counts.sum(axis=1, keepdims=True) * chances
        curve = curvature(counts.sum(axis=1), chances)
        gain, lowered = self._eliminated(curve)
        person_slope = surprise - self._precision * persons
        slope = self.cells.total(surprise - np.einsum("rab,rb->ra", gain, person_slope))
        system = self._system(lowered)
        right = design.T @ slope - self._ridge[:, None] * (shared - self._center[place])
        step: Floats = np.asarray(np.linalg.solve(system, right.reshape(-1)).reshape(right.shape), dtype=np.float64)
        moved = person_slope - np.einsum("rab,rb->ra", curve, (design @ step)[cells])
        within = curve + self._precision * np.eye(curve.shape[1])
        return step, np.asarray(np.linalg.solve(within, moved[..., None])[..., 0], dtype=np.float64)

    def _eliminated(self, curve: Floats) -> tuple[Floats, Floats]:
        """Return W A⁻¹ and W - W A⁻¹ W, where A is W plus the persons' precision. Shapes: all (R, K, K)."""
        within = curve + self._precision * np.eye(curve.shape[1])
        gain: Floats = np.asarray(np.linalg.solve(within, curve).transpose(0, 2, 1), dtype=np.float64)
        return gain, self._precision * gain

    def _system(self, lowered: Floats) -> Floats:
        """Return the Hessian of what is shared, persons eliminated, (M K, M K)."""
        design, width = self.cells.design, lowered.shape[1]
        per_cell = self.cells.total(lowered).reshape(len(design), -1)
        columns = design.shape[1]
        pairs = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
        blocks = (pairs.T @ per_cell).reshape(columns, columns, width, width).transpose(0, 2, 1, 3)
        system = blocks.reshape(columns * width, columns * width)
        system[np.diag_indices_from(system)] += np.repeat(self._ridge, width)
        return np.asarray(system)

    def log_likelihood(self, answers: Answers) -> Floats:
        """Return the log-likelihood of each item's answers, (I, K)."""
        return likelihood(answers, self.confusions)

    def penalty(self) -> float:
        """Return the priors' part and the pseudo-answers'."""
        rows = range(len(self.shared))
        total = sum(self._row_penalty(row, self.shared[row], self.persons[row]) for row in rows)
        if self.added.any():
            total -= float((self.added[:, None] * log_softmax(self.logits())).sum())
        return total

    def take_over(self, older: GroupConfusions) -> None:
        """Start from a model of fewer annotators and levels, which have the same places here."""
        self.shared[:, 0] = older.shared[:, 0]
        ends = [*sorted(older.cells.starts.values()), older.shared.shape[1]][1:]
        for (name, start), end in zip(older.cells.starts.items(), ends, strict=True):
            own = self.cells.starts[name]
            self.shared[:, own : own + end - start] = older.shared[:, start:end]
        self.persons[:, : older.persons.shape[1]] = older.persons

    def lowered(self, curve: Floats) -> Floats:
        """Return what information is left about a group when each person may differ. Shapes: (R, K, K) both."""
        return self._eliminated(curve)[1]

    def spread(self, place: int, curve: Floats) -> tuple[Floats, Floats, Floats]:
        """Return how uncertain the logits of row `place` are, from the curvature of the answers' log-likelihood.

        Shapes: curve (R, K, K), observed information per annotator; returns covariances of persons given what is
        shared (R, K, K), the matrix (R, K, K) that carries what is shared over, and the covariance (M K, M K) of that.
        """
        gain, lowered = self._eliminated(curve)
        within: Floats = np.asarray(np.linalg.inv(curve + self._precision * np.eye(curve.shape[1])), dtype=np.float64)
        shared: Floats = np.asarray(np.linalg.inv(self._system(lowered)), dtype=np.float64)
        return within, np.eye(curve.shape[1]) - gain.transpose(0, 2, 1), shared


def curvature(totals: Floats, chances: Floats) -> Floats:
    """Return the information about logits in `totals` multinomial answers. Shapes: (R,), (R, K) to (R, K, K)."""
    diagonal = chances[:, :, None] * np.eye(chances.shape[1])
    return np.asarray(totals[:, None, None] * (diagonal - chances[:, :, None] * chances[:, None, :]))
