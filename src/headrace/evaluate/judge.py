"""One model judged, and two compared: every metric with its interval, by group and by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from headrace.config import known_name, require
from headrace.evaluate.bootstrap import poisson_weights
from headrace.evaluate.claims import coverage
from headrace.evaluate.influence import (
    ROWS,
    Clusters,
    Influence,
    calibration_bins,
    calibration_error_influence,
    of_groups,
)
from headrace.evaluate.intervals import Interval, clusters_of, interval
from headrace.evaluate.metrics import Floats, columns
from headrace.evaluate.order import areas, encode, ties
from headrace.evaluate.ranking import RANKING, GroupValues, values_of_lists
from headrace.evaluate.significance import normal_probability, sign_flip
from headrace.evaluate.verdict import Comparison, Difference, Evaluation, Slice

Method: TypeAlias = Literal["analytic", "bootstrap", "permutation"]
UNIT = ("auc", "average_precision", "gauc", "ece", "ece_mass", *RANKING)
"""Metrics between 0 and 1; their intervals end there."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How to judge.

    Attributes:
        k: Places of a list that count in ranking metrics.
        bins: Bins of the expected calibration errors.
        confidence: Of every interval.
        method: `analytic`: standard errors from influences, and normal or Student's intervals. `bootstrap`: whole
            groups (or rows) drawn anew by Poisson counts. `permutation` (to compare): p-values by swapping A and B
            within groups (or rows); intervals as in `analytic`.
        draws: Bootstrap or permutation draws.
        seed: Of the draws.
        max_slices: Values shown of each slice column, the most frequent; the rest are taken together.

    Raises:
        ConfigError: If a value cannot work.
    """

    k: int = 10
    bins: int = 20
    confidence: float = 0.95
    method: Method = "analytic"
    draws: int = 1000
    seed: int = 0
    max_slices: int = 50

    def __post_init__(self) -> None:
        for name in ("k", "bins", "max_slices"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(0 < self.confidence < 1, "confidence", got=self.confidence, expected="a share between 0 and 1")
        require(self.draws >= 20, "draws", got=self.draws, expected="at least 20")
        known_name("method", self.method, ["analytic", "bootstrap", "permutation"])


def evaluate(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None, weights: ArrayLike | None = None,
    slices: Mapping[str, ArrayLike | pa.Array] | None = None, *, how: Judging | None = None,
) -> Evaluation:  # fmt: skip
    """Return every metric of a model's predictions with its interval.

    Args:
        labels: 0 or 1, (N,).
        probabilities: Predictions, (N,); float32 as models give them is fastest.
        groups: User or request of each row: adds GAUC and ranking metrics, and intervals then hold although rows of
            one group depend on each other.
        weights: Row weights, (N,), for example 1 / sample rate.
        slices: Name to a category of each row: the main numbers are given for each category.
        how: Confidence, k, bins, method.

    Cost: a few sorts; 10 million rows take about half a minute on one core with groups.

    Raises:
        DataError: If a row is no label, probability or weight, or has no group.

    Example:
        >>> found = evaluate([0, 1, 0, 1, 0, 1], [0.1, 0.7, 0.3, 0.4, 0.5, 0.9])
        >>> round(found.figures["auc"].value, 3), round(found.figures["calibration"].value, 3)
        (0.889, 0.967)
    """
    how = how or Judging()
    rows = _Rows(labels, probabilities, groups, weights, how)
    figures = {name: rows.figure(name, rows.influence(name)) for name in ROWS}
    figures |= rows.calibration_errors()
    notes = [] if groups is None else rows.group_notes()
    figures |= {name: rows.group_figure(name, values) for name, values in rows.grouped.items()}
    if how.method == "bootstrap":
        figures |= rows.bootstrap(figures)
    clusters = None if groups is None else rows.clusters.distinct
    return Evaluation(
        figures=figures, rows=len(rows.label), positives=int(rows.label.sum()), groups=clusters,
        slices={name: rows.slices(name, values) for name, values in (slices or {}).items()},
        confidence=how.confidence, notes=tuple(notes),
    )  # fmt: skip


def compare(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, groups: ArrayLike | None = None,
    weights: ArrayLike | None = None, *, how: Judging | None = None,
) -> Comparison:  # fmt: skip
    """Return A - B of every metric on the same rows, with paired intervals and p-values.

    Args:
        labels: 0 or 1, (N,).
        first: Predictions of A, (N,).
        second: Predictions of B, (N,).
        groups: User or request of each row, as in `evaluate`: with them differences are clustered too.
        weights: Row weights, (N,).
        how: Confidence, k, bins, method.

    Raises:
        DataError: If a row is no label, probability or weight, or has no group.

    Example:
        >>> found = compare([0, 1, 0, 1, 0, 1], [0.1, 0.7, 0.3, 0.4, 0.5, 0.9], [0.2, 0.7, 0.3, 0.4, 0.6, 0.8])
        >>> round(found.figures["auc"].value, 3), found.verdict("auc")
        (0.0, 'no difference seen')
    """
    how = how or Judging()
    one, two = (_Rows(labels, each, groups, weights, how) for each in (first, second))
    figures = {}
    for name in ROWS:
        left, right = one.influence(name), two.influence(name)
        figures[name] = _difference(left, right, one.clusters.sums(left.rows - right.rows), one.clusters, how)
    for name, values in one.grouped.items():
        left, right = (of_groups(each.values, each.masses) for each in (values, two.grouped[name]))
        lists = Clusters(values.groups, len(values.values))
        figures[name] = _difference(left, right, left.rows - right.rows, lists, how)
    if how.method == "bootstrap":
        _paired_bootstrap(one, two, figures)
    return Comparison(figures=figures, rows=len(one.label), groups=None if groups is None else one.clusters.distinct,
                      confidence=how.confidence, method=how.method)  # fmt: skip


def _difference(left: Influence, right: Influence, sums_C: Floats, clusters: Clusters, how: Judging) -> Difference:
    value, error = left.value - right.value, float(np.sqrt(np.sum(sums_C**2)))
    around = interval(value, error, how.confidence, clusters.freedom)
    if math.isnan(error):
        p = math.nan
    elif how.method == "permutation":
        p = sign_flip(sums_C + value / len(sums_C), draws=how.draws, seed=how.seed)
    elif error == 0:
        p = 1.0 if value == 0 else 0.0
    else:
        z, freedom = value / error, clusters.freedom
        p = normal_probability(z) if freedom is None else 1 - coverage(abs(z), freedom)
    return Difference(left.value, right.value, value, around.low, around.high, error, p)


def _paired_bootstrap(one: _Rows, two: _Rows, figures: dict[str, Difference]) -> None:
    for name, draws in one.draws(list(figures), two).items():
        old, draws = figures[name], draws[np.isfinite(draws)]
        if len(draws) < 20:
            continue
        low, high = np.quantile(draws, [0.5 - one.how.confidence / 2, 0.5 + one.how.confidence / 2])
        beyond = min((draws <= 0).sum(), (draws >= 0).sum())
        p = min(1.0, 2 * (float(beyond) + 1) / (len(draws) + 1))
        figures[name] = Difference(old.first, old.second, old.value, float(low), float(high), float(draws.std()), p)


class _Rows:
    """Checked rows of one model."""

    def __init__(
        self, labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None, weights: ArrayLike | None, how: Judging
    ) -> None:
        self.how = how
        self.label, self.score, self.weight = columns(labels, scores, weights, unit=True, single=True)
        require(len(self.label) > 0, "Rows to judge", got=0, expected="at least one")
        self.weighted = weights is not None
        self.probability: Floats = self.score.astype(np.float64, copy=False)
        self.clusters = clusters_of(groups, len(self.label))
        self.grouped = {} if groups is None else self._grouped()

    def influence(self, name: str) -> Influence:
        """Return a metric of rows with its influences."""
        ranked = name in ("auc", "average_precision")
        return ROWS[name](self.label, self.score if ranked else self.probability, self.weight)

    def figure(self, name: str, found: Influence) -> Interval:
        """Return a metric with its interval."""
        return bounded(name, interval(found.value, self.clusters.error(found.rows), self.how.confidence,
                                       self.clusters.freedom))  # fmt: skip

    def group_figure(self, name: str, values: GroupValues) -> Interval:
        """Return a mean over groups with its interval."""
        found, count = of_groups(values.values, values.masses), len(values.values)
        freedom = Clusters(values.groups, count).freedom
        return bounded(name, interval(found.value, float(np.sqrt(np.sum(found.rows**2))) if count > 1 else math.nan,
                                       self.how.confidence, freedom))  # fmt: skip

    def calibration_errors(self) -> dict[str, Interval]:
        """Return both calibration errors; their intervals reach down by the bias that chance may have added."""
        out = {}
        for name, equal_mass in (("ece", False), ("ece_mass", True)):
            which = calibration_bins(self.probability, self.how.bins, equal_mass=equal_mass)
            found = calibration_error_influence(self.label, self.probability, self.weight, which, self.how.bins,
                                                self.clusters)  # fmt: skip
            value, low, high, error = self.figure(name, found.influence)
            out[name] = Interval(value, max(0.0, low - found.bias), high, error)
        return out

    def _grouped(self) -> dict[str, GroupValues]:
        codes, weight = self.clusters.codes, self.weight if self.weighted else None
        assert codes is not None
        blocks = ties(self.label, self.score, weight, codes)
        value, mass = areas(blocks)
        usable = ~np.isnan(value)
        out = {"gauc": GroupValues(value[usable], mass[usable], blocks.groups[usable], int((~usable).sum()))}
        masses = None
        if self.weighted:
            counts = np.maximum(np.bincount(codes, minlength=self.clusters.distinct), 1)
            masses = np.bincount(codes, self.weight, minlength=self.clusters.distinct) / counts
        lists = values_of_lists(ties(self.label, -self.score, None, codes), RANKING, self.how.k, masses)
        return out | {f"{name}@{self.how.k}": values for name, values in lists.items()}

    def group_notes(self) -> list[str]:
        """Return what was left out."""
        one_class, no_positive = self.grouped["gauc"].without, self.grouped[f"ndcg@{self.how.k}"].without
        return [
            f"GAUC: {one_class:,} of {self.clusters.distinct:,} groups have one class only and are left out",
            f"ranking: {no_positive:,} of {self.clusters.distinct:,} groups have no positive and are left out",
        ]

    def slices(self, column: str, values: ArrayLike | pa.Array) -> tuple[Slice, ...]:
        """Return the main numbers of each category of a column, the most frequent first."""
        found = encode(values, len(self.label), what=f"slice '{column}'", names=True)
        assert found.names is not None
        counts = np.bincount(found.codes, minlength=found.distinct)
        ranked = np.argsort(-counts, kind="stable")
        place = np.empty(found.distinct, np.int64)
        place[ranked] = np.minimum(np.arange(found.distinct), self.how.max_slices)
        names = ["(none)" if found.names[code] is None else str(found.names[code])
                 for code in ranked[: self.how.max_slices]]  # fmt: skip
        if found.distinct > self.how.max_slices:
            names.append(f"(other {found.distinct - self.how.max_slices:,})")
        order = np.argsort(place[found.codes], kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(place[found.codes], minlength=len(names)))[:-1])
        return tuple(self._slice(name, rows) for name, rows in zip(names, parts, strict=True))

    def _slice(self, name: str, rows: np.ndarray) -> Slice:
        part = object.__new__(_Rows)
        part.how, part.weighted, part.grouped = self.how, self.weighted, {}
        part.label, part.score, part.weight = self.label[rows], self.score[rows], self.weight[rows]
        part.probability = self.probability[rows]
        part.clusters = Clusters.rows(len(rows))
        if self.clusters.codes is not None:
            part.clusters = clusters_of(self.clusters.codes[rows], len(rows))
        total = float(part.weight.sum())
        return Slice(
            name=name, rows=len(rows), mean_label=float(np.sum(part.weight * part.label)) / total,
            mean_prediction=float(np.sum(part.weight * part.probability)) / total,
            **{each: part.figure(each, part.influence(each)) for each in ("auc", "ne", "calibration")},
        )  # fmt: skip

    def bootstrap(self, figures: Mapping[str, Interval]) -> dict[str, Interval]:
        """Return percentile intervals of all but the calibration errors, whose bias a bootstrap would double."""
        out = {}
        names = [name for name in figures if not name.startswith("ece")]
        for name, draws in self.draws(names, None).items():
            kept = draws[np.isfinite(draws)]
            if len(kept) >= 20:
                low, high = np.quantile(kept, [0.5 - self.how.confidence / 2, 0.5 + self.how.confidence / 2])
                out[name] = Interval(figures[name].value, float(low), float(high), float(kept.std()))
        return out

    def draws(self, names: Sequence[str], other: _Rows | None) -> dict[str, Floats]:
        """Return each metric (or its difference from the other model's) in every bootstrap draw."""
        codes = self.clusters.codes
        keys = np.arange(self.clusters.distinct if codes is not None else len(self.label), dtype=np.uint64)
        out = {name: np.full(self.how.draws, np.nan) for name in names}
        for draw in range(self.how.draws):
            times_C = poisson_weights(keys, 1, seed=self.how.seed + draw)[0]
            times_N = times_C if codes is None else times_C[codes]
            kept = np.flatnonzero(times_N)
            for name in names:
                mine = self._drawn(name, kept, times_N, times_C)
                out[name][draw] = mine if other is None else mine - other._drawn(name, kept, times_N, times_C)
        return out

    def _drawn(self, name: str, kept: np.ndarray, times_N: np.ndarray, times_C: np.ndarray) -> float:
        if name in self.grouped:
            values = self.grouped[name]
            mass = values.masses * times_C[values.groups]
            return float(np.sum(mass * values.values) / mass.sum()) if mass.any() else math.nan
        score = self.score if name in ("auc", "average_precision") else self.probability
        return ROWS[name](self.label[kept], score[kept], self.weight[kept] * times_N[kept]).value


def bounded(name: str, found: Interval) -> Interval:
    """Return the interval cut to where the metric can be."""
    if name.partition("@")[0] not in UNIT or math.isnan(found.error):
        return found
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0), found.error)
