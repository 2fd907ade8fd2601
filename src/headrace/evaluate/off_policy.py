"""What another policy would have earned on requests that were answered by the policy that wrote the log.

A policy draws an action (an item for a place) with known probabilities. The log has for every row what was drawn, with
which probability (the propensity), and what came of it (the reward). Another policy is judged by giving every row the
weight target probability / propensity. Nothing here trusts the logged propensities more than it has to: the weights
have to be 1 on average, and few rows must not carry the sum. Where that fails, `PolicyValue.reasons` says so, and
there is no verdict.

Source:
    Horvitz and Thompson (1952) for IPS; Swaminathan and Joachims, The Self-Normalized Estimator for Counterfactual
    Learning (2015); Dudík, Langford and Li, Doubly Robust Policy Evaluation and Learning (2011); Wang, Agarwal and
    Dudík, Optimal and Adaptive Off-policy Evaluation in Contextual Bandits (2017) for SWITCH; Li, Abbasi-Yadkori,
    Kveton, Muthukrishnan, Vinay and Wen, Offline Evaluation of Ranking Policies with Click Models (2018) for lists
    (one row per place; clicks on a place depend on the item there and on the place).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.bootstrap import poisson_weights
from headrace.evaluate.influence import FEW
from headrace.evaluate.intervals import Interval, clusters_of, interval
from headrace.evaluate.order import Floats
from headrace.evaluate.policy_value import OffPolicy, PolicyValue, Weights
from headrace.evaluate.significance import normal_probability

ALARM = 1e-3
"""A check that fails for a right log with a lower probability than this is an alarm."""
EXACT = 1e-9
DRAW_CELLS, MIN_DRAWS, MIN_TAIL = 1 << 22, 20, 5
DM_NOTE = "the reward model alone is only as good as the model: its interval holds the noise of requests, not its error"


def evaluate_policy(
    rewards: ArrayLike, propensities: ArrayLike, target: ArrayLike, *, predicted: ArrayLike | None = None,
    expected: ArrayLike | None = None, groups: ArrayLike | None = None, how: OffPolicy | None = None,
) -> PolicyValue:  # fmt: skip
    """Return what a policy would have earned per row, by every estimator that the columns allow.

    Args:
        rewards: What came of the logged actions, (N,).
        propensities: Probability with which each logged action was drawn, (N,), above 0.
        target: Probability with which the judged policy draws the logged action, (N,).
        predicted: A reward model's prediction for the logged action, (N,); with `expected` it gives DM and DR.
        expected: Its mean prediction under the judged policy, sum over actions of target × prediction, (N,). The
            model must not have seen the row's own reward (see `cross_fitted_rates`), or DR is biased towards it.
        groups: Request or user of each row: intervals then hold although rows of one group depend on each other.
        how: Settings.

    Raises:
        DataError: If columns do not fit together, or a probability is none.
        ConfigError: If `switch` is asked for without predictions.

    Cost: O(rows); a bootstrap draws × groups more.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> arm = draw.random(5000) < 0.2  # logged: arm 1 in one of five rows
        >>> found = evaluate_policy(draw.random(5000) < 0.1 + 0.1 * arm, np.where(arm, 0.2, 0.8), 1.0 * arm)
        >>> round(found["snips"].value, 2), found.verdict
        (0.2, 'better than what was logged')
    """
    how = how or OffPolicy()
    if (predicted is None) != (expected is None):
        raise DataError("predicted and expected", got="one of them", expected="both or none")
    model = None if predicted is None or expected is None else (predicted, expected)
    log = _Log(rewards, propensities, target, model, groups, how)
    drawn = log.draws() if how.interval == "bootstrap" else {}
    figures, gains = {}, {}
    for name, ratio in log.ratios.items():
        low, high = log.biases.get(name, (0.0, 0.0))
        found = log.interval(ratio, None, drawn.get(name))
        figures[name] = found._replace(low=found.low + low, high=found.high + high)
        if name != "logged":
            apart = drawn[name] - drawn["logged"] if drawn else None
            gain = log.interval(ratio, log.ratios["logged"], apart)
            gains[name] = gain._replace(low=gain.low + low, high=gain.high + high)
    weights = log.weights()
    notes = () if model is None else (DM_NOTE,)
    return PolicyValue(figures=figures, gains=gains, weights=weights, reasons=tuple(log.reasons(weights)), notes=notes,
                       confidence=how.confidence)  # fmt: skip


class _Ratio(NamedTuple):
    """An estimator as sum of tops over sum of bottoms, (N,) each."""

    top: Floats
    bottom: Floats

    @property
    def value(self) -> float:
        return float(self.top.sum() / self.bottom.sum()) if self.bottom.any() else math.nan

    @property
    def influence(self) -> Floats:
        total = float(self.bottom.sum())
        return (self.top - self.value * self.bottom) / total if total else np.full(len(self.top), np.nan)


class _Log:
    """Checked columns of one log, and every estimator of one policy on them."""

    def __init__(
        self, rewards: ArrayLike, propensities: ArrayLike, target: ArrayLike, model: tuple[ArrayLike, ArrayLike] | None,
        groups: ArrayLike | None, how: OffPolicy,
    ) -> None:  # fmt: skip
        low, high = how.reward_range
        self.how, self.reward = how, checked("rewards", rewards, None, low, high)
        self.rows = len(self.reward)
        require(self.rows > 0, "Rows to judge", got=0, expected="at least one")
        propensity = checked_propensities(propensities, self.rows)
        self.weight: Floats = checked("target", target, self.rows, 0.0, 1.0) / propensity
        self.model: tuple[Floats, Floats] | None = None
        if model is not None:
            predicted, expected = (
                checked(name, values, self.rows, -math.inf, math.inf)
                for name, values in zip(("predicted", "expected"), model, strict=True)
            )
            self.model = predicted, expected
        require(how.switch is None or model is not None, "switch", got=how.switch, expected="None without predictions",
                do="Give predicted and expected.")  # fmt: skip
        self.clusters = clusters_of(groups, self.rows)
        self.biases: dict[str, tuple[float, float]] = {}
        self.ratios = self._ratios()

    def _ratios(self) -> dict[str, _Ratio]:
        """Return every estimator, and fill in by how much clipping and switching may move theirs."""
        reward, w, one = self.reward, self.weight, np.ones(self.rows)
        found = {"logged": _Ratio(reward, one), "ips": _Ratio(w * reward, one), "snips": _Ratio(w * reward, w)}
        low, high = self.how.reward_range
        cut = None if self.how.clip is None else np.minimum(w, self.how.clip)
        if cut is not None:
            lost = self._lost(cut)
            found["clipped_ips"] = _Ratio(cut * reward, one)
            self.biases["clipped_ips"] = (low * lost, high * lost)
        if self.model is None:
            return found
        predicted, expected = self.model
        found |= {"dm": _Ratio(expected, one), "dr": _Ratio(expected + w * (reward - predicted), one)}
        kept: dict[str, Floats] = {} if cut is None else {"clipped_dr": cut}
        if self.how.switch is not None:
            kept["switch_dr"] = np.where(w <= self.how.switch, w, 0.0)
        for name, weight in kept.items():
            lost = self._lost(weight) * (high - low)
            found[name], self.biases[name] = _Ratio(expected + weight * (reward - predicted), one), (-lost, lost)
        return found

    def _lost(self, kept: Floats) -> float:
        """Return how much of the judged policy is at most missing in the weights that are left."""
        if np.array_equal(kept, self.weight):
            return 0.0
        found = self.interval(_Ratio(kept, np.ones(self.rows)))
        return float(np.clip(1 - found.low, 0.0, 1.0)) if math.isfinite(found.low) else 1.0

    def interval(self, ratio: _Ratio, minus: _Ratio | None = None, drawn: Floats | None = None) -> Interval:
        """Return an estimate, or the difference of two on the same rows, with its interval."""
        value = ratio.value - (0.0 if minus is None else minus.value)
        rows = ratio.influence - (0.0 if minus is None else minus.influence)
        kept = np.zeros(0) if drawn is None else drawn[np.isfinite(drawn)]
        if len(kept) < MIN_DRAWS:
            return _skewed(value, self.clusters.sums(rows), self.how.confidence, self.clusters.freedom)
        low, high = np.quantile(kept, [0.5 - self.how.confidence / 2, 0.5 + self.how.confidence / 2])
        return Interval(value, float(low), float(high), float(kept.std(ddof=1)))

    def draws(self) -> dict[str, Floats]:
        """Return each estimator in every bootstrap draw, (draws,); one draw counts alike for all of them."""
        count = self.clusters.distinct
        sums = {name: (self._sums(ratio.top), self._sums(ratio.bottom)) for name, ratio in self.ratios.items()}
        keys, step = np.arange(count, dtype=np.uint64), max(1, DRAW_CELLS // count)
        out = {name: np.empty(self.how.draws) for name in self.ratios}
        for start in range(0, self.how.draws, step):
            stop = min(start + step, self.how.draws)
            times = poisson_weights(keys, stop - start, seed=self.how.seed + start).astype(np.float64)
            for name, (top, bottom) in sums.items():
                with np.errstate(invalid="ignore", divide="ignore"):
                    out[name][start:stop] = (times @ top) / (times @ bottom)
        return out

    def _sums(self, values: Floats) -> Floats:
        codes = self.clusters.codes
        if codes is None:
            return values
        return np.bincount(codes, values, minlength=self.clusters.distinct).astype(np.float64, copy=False)

    def weights(self) -> Weights:
        """Return what the weights are like."""
        w, total = self.weight, float(self.weight.sum())
        mean = self.interval(_Ratio(w, np.ones(self.rows)))
        gap = abs(mean.value - 1)
        if gap < EXACT:
            p = 1.0
        elif math.isnan(mean.error):
            p = math.nan
        else:
            p = normal_probability(gap / mean.error) if mean.error else 0.0
        return Weights(
            rows=self.rows, groups=self.clusters.distinct, effective_rows=effective(w),
            effective_rewards=effective(w * self.reward), largest=float(w.max()),
            largest_share=float(self._sums(w).max() / total) if total else math.nan, mean=mean, mean_p=p,
            tail=tail_index(w),
        )  # fmt: skip

    def reasons(self, found: Weights) -> list[str]:
        """Return why there can be no verdict."""
        how, out = self.how, []
        if not found.mean_p >= ALARM:
            out.append(
                f"the mean weight is {found.mean.value:.3f} instead of 1 (p = {found.mean_p:.1g}): the propensities "
                "are wrong, or the judged policy does what the logging policy never did"
            )
        if not found.effective_rows >= how.min_effective_rows:
            out.append(f"{found.effective_rows:.0f} effective rows, {how.min_effective_rows:.0f} needed")
        rewarded = 0.0 if math.isnan(found.effective_rewards) else found.effective_rewards
        if not rewarded >= how.min_effective_rewards:
            out.append(f"{rewarded:.1f} effective rows with a reward, {how.min_effective_rewards:.0f} needed")
        if found.tail > how.max_tail:
            out.append(
                f"the tail index of the weights is {found.tail:.2f}, above {how.max_tail:g}: weights larger than any "
                "seen here would carry much of the truth"
            )
        if found.groups > 1 / how.max_share and found.largest_share > how.max_share:
            out.append(f"one group has {found.largest_share:.0%} of all weight, at most {how.max_share:.0%} wanted")
        return out


def _skewed(value: float, sums_C: Floats, confidence: float, freedom: int | None) -> Interval:
    """Return an interval for a sum that few large parts may carry.

    The fewer parts carry the variance, the less it is known: Student's degrees of freedom are 2 (sum d²)² / sum d⁴. And
    the end to which the parts are skewed is moved out, as the estimate is too low more often than too high if they are
    skewed upwards; the other end stays. Where all parts are alike this is the normal interval.

    Source:
        Satterthwaite (1946) for the degrees of freedom; Johnson, Modified t Tests and Confidence Intervals for
        Asymmetrical Populations (1978) for the skew.
    """
    square = float(np.sum(sums_C**2))
    error = math.sqrt(square)
    if not error > 0:
        return Interval(value, value, value, error) if error == 0 else Interval(value, math.nan, math.nan, error)
    known = max(int(2 * square**2 / float(np.sum(sums_C**4))), 1)
    known = known if freedom is None else min(known, freedom)
    low, high = interval(0.0, 1.0, confidence, known if known <= FEW else None)[1:3]
    normal = NormalDist().inv_cdf(0.5 + confidence / 2)
    lean = float(np.sum(sums_C**3)) / error**3 * (2 * normal**2 + 1) / 6
    return Interval(value, value + error * (low + min(lean, 0.0)), value + error * (high + max(lean, 0.0)), error)


def tail_index(weights: Floats) -> float:
    """Return the shape k of a generalised Pareto distribution fitted to the largest weights.

    Moments above 1 / k do not exist: with k > 0.5 the variance is infinite as far as these rows can tell, and with
    k > 0.7 no number of rows that one can log makes estimates dependable. -inf where the largest weights are equal; NaN
    with fewer than 25 weights.

    Source:
        Zhang and Stephens (2009) for the fit; Vehtari, Simpson, Gelman, Yao and Gabry, Pareto Smoothed Importance
        Sampling (2024) for the diagnosis and the small-sample prior.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> round(tail_index(1 + draw.pareto(5.0, 20_000)), 1), round(tail_index(1 + draw.pareto(1.0, 20_000)), 1)
        (0.2, 1.0)
    """
    ordered = np.sort(weights[weights > 0])
    count = int(min(0.2 * len(ordered), 3 * math.sqrt(len(ordered))))
    if count < MIN_TAIL:
        return math.nan
    tail = ordered[-count:] - ordered[-count - 1]
    tail = tail[tail > 1e-12 * ordered[-1]]
    if len(tail) < MIN_TAIL:
        return -math.inf
    points = 30 + int(math.sqrt(len(tail)))
    places = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    slopes = places / (3 * tail[int(len(tail) / 4 + 0.5) - 1]) + 1 / tail[-1]
    shapes = np.log1p(-slopes[:, None] * tail).mean(axis=1)
    likelihoods = len(tail) * (np.log(-slopes / shapes) - shapes - 1)
    chances = np.exp(likelihoods - likelihoods.max())
    slope = float(np.sum(slopes * chances) / chances.sum())
    shape = float(np.log1p(-slope * tail).mean())
    return (len(tail) * shape + 5.0) / (len(tail) + 10)


def checked(name: str, values: ArrayLike, rows: int | None, low: float, high: float) -> Floats:
    """Return a column as float64, (N,).

    Raises:
        DataError: If it has another length, or a value outside the range.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or (rows is not None and len(data) != rows):
        raise DataError(name, got=f"shape {data.shape}", expected="(N,)" if rows is None else f"({rows},), as rewards")
    wrong = ~np.isfinite(data) | (data < low) | (data > high)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{name}, row {row}", got=data[row], expected=f"a number from {low:g} to {high:g}")
    return data


def checked_propensities(values: ArrayLike, rows: int | None) -> Floats:
    """Return propensities as float64, (N,); DataError unless all are above 0 and at most 1."""
    data = checked("propensities", values, rows, 0.0, 1.0)
    if (data == 0).any():
        raise DataError("propensities", got=0, expected="above 0: what was drawn can be drawn",
                        do="Log the probability of what was shown, not of something else.")  # fmt: skip
    return data


def effective(weights: Floats) -> float:
    """Return (sum w)² / sum w²: how many rows of equal weight say as much; NaN without any weight.

    Example:
        >>> effective(np.array([1.0, 1.0, 0.0])), effective(np.array([9.0, 0.1, 0.1])) < 1.1
        (2.0, True)
    """
    square = float(np.sum(weights**2))
    return float(np.sum(weights)) ** 2 / square if square else math.nan
