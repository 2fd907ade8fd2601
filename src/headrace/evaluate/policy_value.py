"""How a policy is to be judged off its log, and what such a judgement says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from headrace.config import known_name, require
from headrace.evaluate.claims import ClaimTable, render_tables
from headrace.evaluate.intervals import Interval

TITLES = {
    "logged": "as logged (on policy)", "ips": "IPS", "snips": "SNIPS (self-normalised)", "dm": "reward model alone",
    "dr": "DR (doubly robust)", "clipped_ips": "IPS, weights clipped", "clipped_dr": "DR, weights clipped",
    "switch_dr": "SWITCH-DR",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """How to judge a policy off its log.

    Attributes:
        clip: Weights are cut here for `clipped_ips` and `clipped_dr`; None leaves these out.
        switch: Rows whose weight is above this are answered by the reward model alone in `switch_dr`; None leaves it
            out. Needs predictions.
        interval: `normal`: from influences; wider where few rows carry the estimate, and longer on the side to which
            it is skewed. `bootstrap`: percentiles over groups drawn anew by Poisson counts.
        confidence: Of every interval.
        draws: Bootstrap draws.
        seed: Of the draws.
        reward_range: Least and largest reward there can be; bounds what clipping and switching may hide.
        min_effective_rows: With a smaller effective sample no verdict is given.
        min_effective_rewards: The same for rows with a reward, as their weights count them.
        max_share: Largest share of all weight that one row (or group) may have.
        max_tail: Largest tail index of the weights, see `tail_index`.

    Raises:
        ConfigError: If a value cannot work.
    """

    clip: float | None = None
    switch: float | None = None
    interval: Literal["normal", "bootstrap"] = "normal"
    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0
    reward_range: tuple[float, float] = (0.0, 1.0)
    min_effective_rows: float = 100.0
    min_effective_rewards: float = 10.0
    max_share: float = 0.05
    max_tail: float = 0.7

    def __post_init__(self) -> None:
        for name in ("clip", "switch"):
            value = getattr(self, name)
            require(value is None or value > 0, name, got=value, expected="a positive weight, or None")
        known_name("interval", self.interval, ["normal", "bootstrap"])
        require(0 < self.confidence < 1, "confidence", got=self.confidence, expected="a share between 0 and 1")
        require(self.draws >= 20, "draws", got=self.draws, expected="at least 20")
        low, high = self.reward_range
        require(low < high, "reward_range", got=self.reward_range, expected="(least, largest)")
        for name in ("min_effective_rows", "min_effective_rewards"):
            require(getattr(self, name) >= 0, name, got=getattr(self, name), expected="0 or more")
        require(self.max_tail > 0, "max_tail", got=self.max_tail, expected="a positive number")
        require(0 < self.max_share <= 1, "max_share", got=self.max_share, expected="a share, above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What the importance weights are like.

    Attributes:
        rows: Logged rows.
        groups: Groups that depend on nothing but themselves; equal to `rows` without groups.
        effective_rows: (sum w)² / sum w²: as many rows of equal weight would say as much.
        effective_rewards: The same of w × reward; NaN if there was no reward.
        largest: Largest weight.
        largest_share: Share of all weight that one group has at most.
        mean: Mean weight with its interval; the expectation is 1 if the propensities are right and the logging policy
            may do whatever the target may do.
        mean_p: Two-sided p of the mean being 1.
        tail: Tail index of the weights; the larger, the more depends on rows that were not seen.
    """

    rows: int
    groups: int
    effective_rows: float
    effective_rewards: float
    largest: float
    largest_share: float
    mean: Interval
    mean_p: float
    tail: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """A policy judged off the log of another one.

    Attributes:
        figures: Estimator to mean reward per row, interval (what clipping may hide included) and standard error.
        gains: Estimator to (estimate - logged mean), paired on the same rows.
        weights: What the weights are like.
        reasons: Why there can be no verdict; empty when there can.
        notes: What else has to be said.
        confidence: Of the intervals.
    """

    figures: dict[str, Interval]
    gains: dict[str, Interval]
    weights: Weights
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    confidence: float = 0.95

    def __getitem__(self, name: str) -> Interval:
        return self.figures[name]

    @property
    def estimator(self) -> str:
        """The estimator that the verdict reads: DR where there are predictions, else SNIPS."""
        return "dr" if "dr" in self.figures else "snips"

    @property
    def verdict(self) -> str:
        """`better than what was logged`, `worse ...`, `no difference seen`, or `cannot conclude: ...`."""
        if self.reasons:
            return "cannot conclude: " + "; ".join(self.reasons)
        gain = self.gains[self.estimator]
        if gain.low <= 0 <= gain.high:
            return "no difference seen"
        return "better than what was logged" if gain.low > 0 else "worse than what was logged"

    def table(self) -> str:
        """Return estimates, weights and the verdict as aligned text."""
        weights = self.weights
        cells = tuple(
            (TITLES.get(name, name), f"{found.value:.5f}", _range(found), _range(self.gains.get(name)))
            for name, found in self.figures.items()
        )  # fmt: skip
        head = f"{weights.rows:,} rows, {weights.groups:,} groups"
        columns = ("estimator", "mean reward", f"{self.confidence:.0%} interval", "minus logged")
        facts = (
            ("effective rows", f"{weights.effective_rows:,.0f}"),
            ("effective rows with a reward", f"{weights.effective_rewards:,.0f}"),
            ("mean weight (should be 1)", f"{weights.mean.value:.3f}, {_range(weights.mean, 3)}"),
            ("largest weight", f"{weights.largest:,.1f}"),
            ("tail index", f"{weights.tail:.2f}"),
            ("largest share of one group", f"{weights.largest_share:.2%}"),
        )
        tables = [ClaimTable(head, columns, cells), ClaimTable("weights", ("", ""), facts, self.notes)]
        shown: list[Mapping[str, object]] = [
            {"title": one.title, "columns": one.columns, "rows": one.rows, "notes": one.notes} for one in tables
        ]
        return f"{render_tables({'tables': shown})}\n\n{self.verdict}"

    def to_json(self) -> dict[str, object]:
        """Return plain values; what does not exist is None."""
        weights = {name: getattr(self.weights, name) for name in Weights.__slots__ if name != "mean"}
        return {
            "figures": {name: _plain(found) for name, found in self.figures.items()},
            "gains": {name: _plain(found) for name, found in self.gains.items()},
            "weights": {name: _finite(value) for name, value in weights.items()} | {"mean": _plain(self.weights.mean)},
            "estimator": self.estimator, "verdict": self.verdict, "reasons": list(self.reasons),
            "notes": list(self.notes), "confidence": self.confidence,
        }  # fmt: skip


def _range(found: Interval | None, digits: int = 5) -> str:
    if found is None or math.isnan(found.low):
        return "–"
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(found: Interval) -> dict[str, float | None]:
    return {name: _finite(getattr(found, name)) for name in Interval._fields}
