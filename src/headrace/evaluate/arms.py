"""What a comparison of arms says: rates with intervals, differences, and whether anything may be concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.config import require
from headrace.evaluate.claims import ClaimTable, render_tables
from headrace.evaluate.intervals import Interval

CLICK_RATE, PER_REQUEST = "rate", "per request"


@dataclass(frozen=True, kw_only=True)
class ArmReading:
    """How an experiment is read. Everything here is to be settled before the numbers are seen.

    Attributes:
        control: The arm that others are compared with; "" takes `main`, or the first by name.
        metric: The one metric that decides, `<kind>/rate` (per impression) or `<kind>/per request`; "" takes the rate
            of the first kind.
        confidence: Of intervals, shared between the comparisons with the control (Bonferroni).
        expected_effect: Relative difference for which the always-valid interval is tightest. It stays valid for any
            other; take the smallest difference that would matter.
        one_look: Whether this is the only time that anybody looks, at an end that was settled before. Then the plain
            interval decides, which is narrower. Looked at repeatedly it finds differences that are none.
        min_units: Units (users or requests) that each arm needs before anything is concluded.
        min_positives: Units with at least one action that each arm needs.
        ratio_alarm: Probability below which the numbers of units do not fit the shares.

    Raises:
        ConfigError: If a value cannot work.
    """

    control: str = ""
    metric: str = ""
    confidence: float = 0.95
    expected_effect: float = 0.05
    one_look: bool = False
    min_units: int = 100
    min_positives: int = 20
    ratio_alarm: float = 5e-4

    def __post_init__(self) -> None:
        require(0 < self.confidence < 1, "confidence", got=self.confidence, expected="a share between 0 and 1")
        require(self.expected_effect > 0, "expected_effect", got=self.expected_effect, expected="a positive share")
        for name in ("min_units", "min_positives"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(0 < self.ratio_alarm < 1, "ratio_alarm", got=self.ratio_alarm, expected="a probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm.

    Attributes:
        name: Of the arm.
        share: Mean logged share of traffic, over its requests.
        units: Users or requests that it answered, first exposures and later ones.
        requests: Requests answered.
        rows: Impressions.
        figures: Metric to its value, every row weighted by 1 / share, with interval.
        counted: Metric to its value as counted, without weights.
        positive_units: Kind to units with at least one such action.
    """

    name: str
    share: float
    units: int
    requests: int
    rows: int
    figures: dict[str, Interval]
    counted: dict[str, float]
    positive_units: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmDifference:
    """One arm minus the control, in one metric.

    Attributes:
        arm: The arm.
        metric: The metric.
        plain: Difference with the interval of one look at a settled end.
        always: Difference with an interval that may be looked at as often as one likes.
        lift: Relative difference with the interval of one look; NaN where a rate is 0.
        detectable: Difference that one look at this much data finds in 80 % of cases.
    """

    arm: str
    metric: str
    plain: Interval
    always: Interval
    lift: Interval
    detectable: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmComparison:
    """An experiment, read.

    Attributes:
        control: The arm that others are compared with.
        metric: The metric that decides.
        unit: What was assigned to arms: `key` (requests) or a column such as `user`.
        arms: All arms, the control first.
        differences: Every other arm and metric.
        ratio_p: Probability that the units are split at least as unevenly by chance, given the logged shares.
        reasons: Why nothing can be concluded; empty when something can.
        reading: How it was read.
        notes: What else has to be said.
    """

    control: str
    metric: str
    unit: str
    arms: tuple[ArmSummary, ...]
    differences: tuple[ArmDifference, ...]
    ratio_p: float
    reasons: tuple[str, ...]
    reading: ArmReading
    notes: tuple[str, ...] = field(default=())

    def arm(self, name: str) -> ArmSummary:
        """Return one arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    def difference(self, arm: str, metric: str = "") -> ArmDifference:
        """Return the difference of one arm from the control, in the deciding metric unless told otherwise."""
        wanted = metric or self.metric
        return next(one for one in self.differences if (one.arm, one.metric) == (arm, wanted))

    def verdict(self, arm: str) -> str:
        """Return what may be said about an arm, as one sentence."""
        if self.reasons:
            return "cannot conclude: " + "; ".join(self.reasons)
        found = self.difference(arm)
        decides = found.plain if self.reading.one_look else found.always
        around = f"{decides.low:+.5f} to {decides.high:+.5f}"
        if math.isnan(decides.low) or decides.low <= 0 <= decides.high:
            return f"no difference seen in {self.metric}: {arm} - {self.control} lies within {around}"
        word = "above" if decides.low > 0 else "below"
        return f"{arm} is {word} {self.control} in {self.metric}: {decides.value:+.5f} ({around})"

    def table(self) -> str:
        """Return arms, differences and verdicts as aligned text."""
        percent = f"{self.reading.confidence:.0%}"
        shown: list[ClaimTable] = [_arms_table(self, percent), _differences_table(self, percent)]
        tables: list[Mapping[str, object]] = [
            {"title": one.title, "columns": one.columns, "rows": one.rows, "notes": one.notes} for one in shown
        ]
        verdicts = [self.verdict(arm.name) for arm in self.arms if arm.name != self.control]
        return "\n\n".join([render_tables({"tables": tables}), *dict.fromkeys(verdicts)])

    def to_json(self) -> dict[str, object]:
        """Return plain values; what does not exist is None."""
        arms = [
            {name: getattr(arm, name) for name in ("name", "share", "units", "requests", "rows", "positive_units")}
            | {"figures": {name: _plain(found) for name, found in arm.figures.items()},
               "counted": {name: _finite(value) for name, value in arm.counted.items()}}
            for arm in self.arms
        ]  # fmt: skip
        differences = [
            {"arm": one.arm, "metric": one.metric, "detectable": _finite(one.detectable)}
            | {name: _plain(getattr(one, name)) for name in ("plain", "always", "lift")}
            for one in self.differences
        ]
        return {
            "control": self.control, "metric": self.metric, "unit": self.unit, "arms": arms,
            "differences": differences, "ratio_p": _finite(self.ratio_p), "reasons": list(self.reasons),
            "verdicts": {arm.name: self.verdict(arm.name) for arm in self.arms if arm.name != self.control},
            "confidence": self.reading.confidence, "one_look": self.reading.one_look, "notes": list(self.notes),
        }  # fmt: skip


def _arms_table(found: ArmComparison, percent: str) -> ClaimTable:
    cells = tuple(
        (arm.name, f"{arm.share:.4f}", f"{arm.units:,}", f"{arm.requests:,}", f"{arm.rows:,}", metric,
         f"{value.value:.5f}", _range(value), f"{arm.counted[metric]:.5f}")
        for arm in found.arms for metric, value in arm.figures.items()
    )  # fmt: skip
    columns = ("arm", "share", f"units ({found.unit})", "requests", "impressions", "metric", "weighted",
               f"{percent} interval", "as counted")  # fmt: skip
    ratio = "–" if math.isnan(found.ratio_p) else f"{found.ratio_p:.3g}"
    note = f"sample ratio: p = {ratio} that units are split like this if the logged shares are right"
    return ClaimTable("arms", columns, cells, (note,))


def _differences_table(found: ArmComparison, percent: str) -> ClaimTable:
    cells = tuple(
        (one.arm, one.metric + (" (decides)" if one.metric == found.metric else ""), f"{one.plain.value:+.5f}",
         _range(one.always, "+.5f"), _range(one.plain, "+.5f"), _range(one.lift, "+.1%"), f"{one.detectable:.5f}")
        for one in found.differences
    )  # fmt: skip
    columns = ("arm", "metric", "difference", f"{percent} always valid", f"{percent} one look", "lift, one look",
               "detectable")  # fmt: skip
    return ClaimTable(f"minus {found.control}", columns, cells, found.notes)


def _range(found: Interval, form: str = ".5f") -> str:
    return "–" if math.isnan(found.low) else f"{found.low:{form}} to {found.high:{form}}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(found: Interval) -> dict[str, float | None]:
    return {name: _finite(getattr(found, name)) for name in Interval._fields}
