"""Compares arms that answered in the same hours: weighted by the logged shares, clustered by what was assigned.

A row counts with 1 / share, the logged probability that its unit got the arm. So shares may change while the experiment
runs, and what is compared are the arms and not the hours in which each had more traffic. Errors are those of units
(users, or requests where these were assigned one by one), because all rows of one unit depend on each other.

Source:
    Kohavi, Tang and Xu, Trustworthy Online Controlled Experiments (2020), chapters 3, 18 and 21: units, the delta
    method for ratios, sample-ratio mismatch. Johari, Koomen, Pekelis and Walsh, Always Valid Inference (2022), and
    Robbins, Statistical Methods Related to the Law of the Iterated Logarithm (1970), for the interval under the mixture
    of normal effects; here on the information of the clustered estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from headrace.config import known_name, require
from headrace.errors import DataError
from headrace.evaluate.arms import CLICK_RATE, PER_REQUEST, ArmComparison, ArmDifference, ArmReading, ArmSummary
from headrace.evaluate.influence import Clusters
from headrace.evaluate.intervals import Interval, interval
from headrace.evaluate.order import Floats, Integers
from headrace.evaluate.significance import normal_probability

MAIN = "main"
POWER = 0.8


class Exposures(NamedTuple):
    """What arms did, one row per request (or per any part of one).

    Attributes:
        names: The arms.
        arms: Which of them answered, (R,).
        units: What was assigned to the arm, as integers, (R,).
        shares: Logged probability that the unit got this arm then, (R,), above 0.
        rows: Impressions, (R,).
        actions: Kind to impressions with such an action, (R,).
        times: When, for the order of first exposures, (R,).
        unit: What units are: `key`, or the column that holds them.
        notes: What was left out when they were read.
    """

    names: tuple[str, ...]
    arms: Integers
    units: Integers
    shares: Floats
    rows: Floats
    actions: Mapping[str, Floats]
    times: Integers
    unit: str = "key"
    notes: tuple[str, ...] = ()


def compare_arms(exposures: Exposures, reading: ArmReading | None = None) -> ArmComparison:
    """Return every arm's rates, their differences from the control, and whether anything may be concluded.

    Raises:
        DataError: If there is nothing to compare, or a share is none.
        ConfigError: If the control or the metric is not there.

    Cost: O(R log R).

    Example:
        >>> draw = np.random.default_rng(0)
        >>> arms = draw.integers(0, 2, 8000)
        >>> clicks = (draw.random(8000) < 0.10 + 0.05 * arms).astype(float)
        >>> found = compare_arms(Exposures(("main", "new"), arms, np.arange(8000), np.full(8000, 0.5), np.ones(8000),
        ...                                {"click": clicks}, np.arange(8000)))
        >>> found.verdict("new")[:42]
        'new is above main in click/rate: +0.03400 '
    """
    reading = reading or ArmReading()
    _check(exposures)
    read = _Read(exposures, reading)
    control = _control(exposures, reading)
    metric = reading.metric or f"{next(iter(exposures.actions))}/{CLICK_RATE}"
    known_name("metric", metric, list(read.metrics))
    order = [control, *(name for name in exposures.names if name != control)]
    comparisons = max(len(order) - 1, 1)
    differences = tuple(
        read.difference(name, control, each, comparisons) for name in order[1:] for each in read.metrics
    )  # fmt: skip
    arms = tuple(read.summary(name) for name in order)
    ratio_p = read.ratio_p()
    return ArmComparison(
        control=control, metric=metric, unit=exposures.unit, arms=arms, differences=differences, ratio_p=ratio_p,
        reasons=tuple(_reasons(arms, metric, ratio_p, reading)), reading=reading,
        notes=(*exposures.notes, *read.notes(comparisons)),
    )  # fmt: skip


def always_valid(found: Interval, expected: float, confidence: float = 0.95) -> Interval:
    """Return a difference with an interval that holds at all times at once, however often somebody looks.

    Args:
        found: The difference with its standard error.
        expected: Size of the differences that one expects, in the unit of the difference; tightest there.
        confidence: That the true difference never leaves the interval.

    Example:
        >>> found = always_valid(Interval(0.02, 0.0, 0.0, 0.005), 0.02)
        >>> round(found.low, 4), round(found.high, 4)
        (0.0047, 0.0353)
    """
    require(expected > 0, "expected", got=expected, expected="a positive difference")
    value, _, _, error = found
    if not error > 0:
        return Interval(value, math.nan, math.nan, error)
    seen = (expected / error) ** 2  # information, in units of what is expected
    reach = error * math.sqrt((1 + 1 / seen) * (math.log1p(seen) - 2 * math.log(1 - confidence)))
    return Interval(value, value - reach, value + reach, error)


class _Read:
    """Exposures by arm and metric, with units as clusters."""

    def __init__(self, exposures: Exposures, reading: ArmReading) -> None:
        self.seen, self.reading = exposures, reading
        found, codes = np.unique(exposures.units, return_inverse=True)
        self.clusters = Clusters(codes.astype(np.int64), len(found))
        self.weight: Floats = 1 / exposures.shares
        self.metrics: dict[str, tuple[Floats, Floats]] = {}
        for kind, counts in exposures.actions.items():
            self.metrics[f"{kind}/{CLICK_RATE}"] = counts, exposures.rows
            self.metrics[f"{kind}/{PER_REQUEST}"] = (counts > 0).astype(np.float64), np.ones(len(counts))

    def chosen(self, name: str) -> Floats:
        """Return 1.0 for the rows of an arm, (R,)."""
        found: Floats = (self.seen.arms == self.seen.names.index(name)).astype(np.float64)
        return found

    def rate(self, name: str, metric: str, *, weighted: bool = True) -> tuple[float, Floats]:
        """Return an arm's rate and the influence of every row on it, (R,)."""
        top, bottom = self.metrics[metric]
        weight = self.chosen(name) * (self.weight if weighted else 1.0)
        total = float(np.sum(weight * bottom))
        if not total:
            return math.nan, np.full(len(weight), np.nan)
        value = float(np.sum(weight * top)) / total
        return value, weight * (top - value * bottom) / total

    def summary(self, name: str) -> ArmSummary:
        """Return one arm."""
        chosen = self.chosen(name) > 0
        units = np.unique(self.seen.units[chosen])
        figures = {metric: self._bounded(name, metric, len(units)) for metric in self.metrics}
        positive = {
            kind: len(np.unique(self.seen.units[chosen & (counts > 0)])) for kind, counts in self.seen.actions.items()
        }
        return ArmSummary(
            name=name, share=float(self.seen.shares[chosen].mean()) if chosen.any() else math.nan, units=len(units),
            requests=int(chosen.sum()), rows=int(self.seen.rows[chosen].sum()), figures=figures,
            counted={metric: self.rate(name, metric, weighted=False)[0] for metric in self.metrics},
            positive_units=positive,
        )  # fmt: skip

    def _bounded(self, name: str, metric: str, units: int) -> Interval:
        """Return a rate with an interval that stays between 0 and 1, also where nothing or everything was acted on."""
        value, rows = self.rate(name, metric)
        confidence, error = self.reading.confidence, self.clusters.error(rows)
        if math.isnan(value) or units < 2:
            return Interval(value, math.nan, math.nan, math.nan)
        if value in (0.0, 1.0):  # at most so many units can be otherwise
            reach = -math.expm1(math.log((1 - confidence) / 2) / units)
            return Interval(value, 1 - reach if value else 0.0, 1.0 if value else reach, error)
        width = interval(0.0, error / (value * (1 - value)), confidence, self.clusters.freedom).high
        odds = math.log(value / (1 - value))
        return Interval(value, _logistic(odds - width), _logistic(odds + width), error)

    def difference(self, name: str, control: str, metric: str, comparisons: int) -> ArmDifference:
        """Return an arm minus the control."""
        confidence = 1 - (1 - self.reading.confidence) / comparisons
        (value, rows), (base, base_rows) = self.rate(name, metric), self.rate(control, metric)
        error = self.clusters.error(rows - base_rows)
        plain = interval(value - base, error, confidence, self.clusters.freedom)
        always = lift = Interval(value - base, math.nan, math.nan, error)
        if base > 0:
            always = always_valid(plain, self.reading.expected_effect * base, confidence)
        if base > 0 and value > 0:
            around = interval(math.log(value / base), self.clusters.error(rows / value - base_rows / base), confidence,
                              self.clusters.freedom)  # fmt: skip
            lift = Interval(math.expm1(around.value), math.expm1(around.low), math.expm1(around.high), around.error)
        else:
            lift = Interval(math.nan, math.nan, math.nan, math.nan)
        normal = NormalDist()
        reach = normal.inv_cdf(0.5 + confidence / 2) + normal.inv_cdf(POWER)
        return ArmDifference(arm=name, metric=metric, plain=plain, always=always, lift=lift, detectable=reach * error)

    def ratio_p(self) -> float:
        """Return how likely the split of units is, from the first time that each was seen.

        The sum of 1 / share over the units of an arm is the number of all units, on average: for every arm, also if
        shares changed, and also if another arm left nothing in the log.
        """
        order = np.lexsort((self.seen.times, self.seen.units))
        units = self.seen.units[order]
        first = order[np.concatenate([[True], units[1:] != units[:-1]])]
        share, arms, total = self.seen.shares[first], self.seen.arms[first], len(first)
        chances = []
        for arm in range(len(self.seen.names)):
            mine = share[arms == arm]
            spread = float(np.sum((1 - mine) / mine**2))
            gap = float(np.sum(1 / mine)) - total
            if spread > 0:
                chances.append(normal_probability(gap / math.sqrt(spread)))
            elif abs(gap) > total * 1e-6:
                return 0.0  # it had all units by its share, and not by the log
        tests = max(len(chances) - 1, 1)  # with two arms both say the same
        return min(1.0, tests * min(chances)) if chances else math.nan

    def notes(self, comparisons: int) -> list[str]:
        """Return what has to be said about the numbers."""
        out = []
        if comparisons > 1:
            out.append(f"intervals are of {comparisons} comparisons together (Bonferroni)")
        if len(self.metrics) > 1:
            out.append("one metric decides; of many others one differs by chance")
        changed = [name for name in self.seen.names if _changes(self.seen.shares[self.chosen(name) > 0])]
        if changed:
            out.append(
                f"shares changed while it ran ({', '.join(changed)}): read the weighted rates, not the counted ones"
            )
        pairs = len(np.unique(np.stack([self.seen.units, self.seen.arms]), axis=1).T)
        both = pairs - self.clusters.distinct
        if both:
            out.append(f"{both:,} of {self.clusters.distinct:,} units were moved to another arm on the way, and may "
                       "carry over what they learned to expect")  # fmt: skip
        return out


def _check(exposures: Exposures) -> None:
    count = len(exposures.arms)
    if not count:
        raise DataError("Experiment", got="no impressions of any arm", expected="some",
                        do="Wait until a window has closed, or look at another folder.")  # fmt: skip
    if not exposures.actions:
        raise DataError("Experiment", got="no kind of action", expected="at least one")
    shares = exposures.shares
    wrong = ~np.isfinite(shares) | (shares <= 0) | (shares > 1 + 1e-6)
    if wrong.any():
        raise DataError("Experiment, share", got=shares[wrong][0], expected="above 0, at most 1",
                        do="Rows without a logged share cannot be compared.")  # fmt: skip


def _control(exposures: Exposures, reading: ArmReading) -> str:
    name = reading.control or (MAIN if MAIN in exposures.names else min(exposures.names))
    known_name("control", name, list(exposures.names))
    return name


def _reasons(arms: tuple[ArmSummary, ...], metric: str, ratio_p: float, reading: ArmReading) -> list[str]:
    """Return why nothing can be concluded."""
    out = []
    if len(arms) < 2:
        out.append(f"there is one arm, {arms[0].name}")
    if ratio_p < reading.ratio_alarm:
        out.append(
            f"units are not split as the shares say (p = {ratio_p:.1g}): one arm loses requests, or who is logged "
            "depends on the arm; find out why before anything is read"
        )
    kind = metric.rpartition("/")[0]
    for arm in arms:
        if arm.units < reading.min_units:
            out.append(f"{arm.name} has {arm.units:,} units, {reading.min_units:,} needed")
        elif arm.positive_units[kind] < reading.min_positives:
            out.append(
                f"{arm.name} has {arm.positive_units[kind]:,} units with {kind}, {reading.min_positives:,} needed"
            )
    return out


def _changes(shares: Floats) -> bool:
    return len(shares) > 0 and float(shares.max() - shares.min()) > 1e-5


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
