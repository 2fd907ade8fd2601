"""The guard: a version is judged on the newest answers of users before it is served; a bad one waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from headrace.config import require
from headrace.errors import HeadraceError
from headrace.evaluate import auc, calibration_ratio
from headrace.evaluate.metrics import Floats
from headrace.objectives.sampling import correct_probability
from headrace.publish.pending import folded
from headrace.publish.replica import ChangeSource, Replica
from headrace.types import NO_VERSION, Batch, Change, Version


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a version must pass before it is served.

    Both versions, the served one and the candidate, score the same rows: the newest joined examples. The candidate
    has learned most of them, which favours it a little: the guard catches harm, it does not prove gain.

    Attributes:
        rows: How many of the newest examples are judged.
        min_rows: Fewer say nothing: the candidate passes with a note.
        min_positives: So many of each class are needed, too.
        calibration: Expected over observed positives has to lie between these two; None does not check it. A candidate
            outside passes if the served version is further off: refusing it would keep the worse one.
        auc_margin: By how much the AUC may be below the served version's; None does not check it.
    """

    rows: int = 2048
    min_rows: int = 256
    min_positives: int = 10
    calibration: tuple[float, float] | None = (0.5, 2.0)
    auc_margin: float | None = 0.02

    def __post_init__(self) -> None:
        for name in ("rows", "min_rows", "min_positives"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(self.min_rows <= self.rows, "min_rows", got=self.min_rows, expected=f"at most rows, {self.rows}")
        bounds = self.calibration
        require(bounds is None or 0 < bounds[0] < bounds[1], "calibration", got=bounds,
                expected="two positive numbers, the smaller one first")  # fmt: skip
        require(self.auc_margin is None or 0 <= self.auc_margin < 1, "auc_margin", got=self.auc_margin,
                expected="a number from 0 to 1")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: its name, the candidate's number, the served version's, and whether it held (None: unknown)."""

    name: str
    held: bool | None
    value: float | None = None
    served: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found: the candidate passes unless a check failed; what is unknown passes with a note."""

    checks: tuple[Check, ...] = ()
    rows: int = 0

    @property
    def passed(self) -> bool:
        """Whether the candidate may be served."""
        return all(check.held is not False for check in self.checks)

    def facts(self) -> dict[str, object]:
        """Return the verdict as plain values."""
        return {"passed": self.passed, "rows": self.rows, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        return describe(self.facts())


class Guard(Protocol):
    """Judges candidates for a publisher."""

    def judge(self, source: ChangeSource, pieces: Sequence[Change]) -> Verdict:
        """Judge the newest version of the source with the pending pieces applied to it."""
        ...

    def published(self, change: Change) -> None:
        """Take notice that the candidate judged last was published as this change."""

    def reset(self) -> None:
        """Forget what was applied: something else was published, or pending pieces were changed."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A model that follows versions to be judged; nobody is answered by it."""

    replica: Replica
    model: nn.Module
    negative_rate: float = 1.0

    def probabilities(self, batch: Batch) -> Floats:
        """Return the main label's probabilities (B,); NaN where the model's output is not finite, as in serving."""
        with self.replica.reading(), torch.no_grad():
            logits = self.model(batch).detach().cpu().double().reshape(len(batch), -1)[:, 0]
        logits = torch.where(torch.isfinite(logits), logits, math.nan)
        return np.asarray(correct_probability(torch.sigmoid(logits).numpy(), self.negative_rate), dtype=np.float64)


class ShadowGuard:
    """The guard with two shadow models: one holds the newest version, the other one the candidate.

    Each of them takes every change once, so a verdict costs the new rows and twice the scoring of the judged ones. A
    candidate that is refused stays in its model; the next one comes on top of it, as it does in the learner.

    Args:
        config: What is asked.
        make: Returns a shadow without a version, with the run's own model and tables.
        newest: Returns the newest joined examples as batches, oldest first, at most so many rows in all.

    Thread-safety: none; one publisher owns it.

    Cost: memory of two replicas.
    """

    def __init__(
        self, config: GuardConfig, make: Callable[[], Shadow], newest: Callable[[int], Sequence[Batch]]
    ) -> None:
        self.config, self._make, self._newest = config, make, newest
        self._served: Shadow | None = None
        self._candidate: Shadow | None = None
        self._base, self._last = NO_VERSION, cast("Change | None", None)  # the candidate is this version and pieces

    def judge(self, source: ChangeSource, pieces: Sequence[Change]) -> Verdict:
        """Judge the newest version of the source with the pending pieces applied to it.

        A candidate that cannot be applied at all (rows or dense tensors that do not fit the model) is refused.

        Cost: O(rows of the new piece), and two forward passes over the judged examples.
        """
        try:
            return self._judged(source, pieces)
        except HeadraceError as error:
            self.reset()
            return Verdict(checks=(Check(name="applies", held=False, note=str(error)),))

    def published(self, change: Change) -> None:
        """Let the served model follow; the candidate has all of it already."""
        if self._served is None or self._candidate is None or self._base != change.version.parent:
            self.reset()
            return
        self._served.replica.apply(change)
        self._base, self._last = change.version.number, None

    def reset(self) -> None:
        """Begin anew with the next judgement, from what is published then."""
        self._served = self._candidate = None
        self._base, self._last = NO_VERSION, None

    def _judged(self, source: ChangeSource, pieces: Sequence[Change]) -> Verdict:
        """Bring both models to where they have to be, and compare them."""
        last, before = source.last().number, pieces[-2] if len(pieces) > 1 else None
        served, candidate, fresh = self._served, self._candidate, pieces[-1]
        if served is not None and candidate is not None and self._base == last and self._last is fresh:
            return self._compared(served, candidate)  # asked again, maybe with more answers
        if served is None or candidate is None or self._base != last or self._last is not before:
            served = candidate = None
            self.reset()  # two new replicas need the memory of the old ones
            served, candidate = self._make(), self._make()
            served.replica.catch_up(source)
            candidate.replica.catch_up(source)
            fresh = folded(pieces, Version(last + 1, last))
        if bad := _not_finite(fresh):
            self.reset()  # nothing of it can be applied; a later piece may put other rows in their place
            return Verdict(checks=(Check(name="finite", held=False, note=bad),))
        held = candidate.replica.version.number
        candidate.replica.apply(folded([fresh], Version(held + 1, held)))
        self._served, self._candidate, self._base, self._last = served, candidate, last, pieces[-1]
        return self._compared(served, candidate)

    def _compared(self, served: Shadow, candidate: Shadow) -> Verdict:
        config = self.config
        finite = Check(name="finite", held=True)
        try:
            batches = [batch for batch in self._newest(config.rows) if len(batch)]
        except HeadraceError as error:
            return Verdict(checks=(finite, _unknown("answers", f"the newest examples cannot be read: {error}")))
        if not batches:
            return Verdict(checks=(finite, _unknown("answers", "no joined example yet")))
        labels = np.concatenate([batch.labels.numpy() for batch in batches]).astype(np.float64)
        if not np.isin(labels, (0.0, 1.0)).all():
            return Verdict(checks=(finite, _unknown("answers", "labels other than 0 and 1")), rows=len(labels))
        weights = 1.0 / np.concatenate([batch.sample_rates.numpy() for batch in batches]).astype(np.float64)
        ours = np.concatenate([candidate.probabilities(batch) for batch in batches])
        rows, positives = len(labels), int(labels.sum())
        if not np.isfinite(ours).all():
            note = f"{int((~np.isfinite(ours)).sum())} of {rows} scores are not finite"
            return Verdict(checks=(Check(name="finite", held=False, note=note),), rows=rows)
        if rows < config.min_rows or min(positives, rows - positives) < config.min_positives:
            note = f"{rows} examples, {positives} of them positive; {config.min_rows} and {config.min_positives} of "
            return Verdict(checks=(finite, _unknown("answers", note + "each class are needed")), rows=rows)
        theirs: Floats | None = None
        if served.replica.version.number >= 0:
            theirs = np.concatenate([served.probabilities(batch) for batch in batches])
            theirs = theirs if np.isfinite(theirs).all() else None
        checks = [finite, *self._calibration(labels, weights, ours, theirs), *self._auc(labels, weights, ours, theirs)]
        return Verdict(checks=tuple(checks), rows=rows)

    def _calibration(self, labels: Floats, weights: Floats, ours: Floats, theirs: Floats | None) -> list[Check]:
        if self.config.calibration is None:
            return []
        low, high = self.config.calibration
        value = calibration_ratio(labels, ours, weights)
        served = None if theirs is None else calibration_ratio(labels, theirs, weights)
        if low <= value <= high:
            return [Check(name="calibration", held=True, value=value, served=served)]
        if served is not None and _off(served) >= _off(value):
            note = f"outside {low:g} to {high:g}, and so is the served version, as far or further"
            return [Check(name="calibration", held=True, value=value, served=served, note=note)]
        note = f"not within {low:g} to {high:g}"
        return [Check(name="calibration", held=False, value=value, served=served, note=note)]

    def _auc(self, labels: Floats, weights: Floats, ours: Floats, theirs: Floats | None) -> list[Check]:
        margin = self.config.auc_margin
        if margin is None:
            return []
        value = auc(labels, ours, weights)
        if theirs is None:
            return [Check(name="auc", held=None, value=value, note="no served version to compare with")]
        served = auc(labels, theirs, weights)
        held = value >= served - margin
        note = "" if held else f"more than {margin:g} below the served version's"
        return [Check(name="auc", held=held, value=value, served=served, note=note)]


def describe(verdict: dict[str, object] | None) -> str:
    """Return a verdict's facts as one line for people; empty when nothing was judged.

    Example:
        >>> describe(Verdict(checks=(Check(name="auc", held=False, value=0.61, served=0.7, note="too low"),)).facts())
        'refused: auc 0.6100 (served 0.7000), too low'
        >>> describe(Verdict(checks=(Check(name="finite", held=True),)).facts())
        'passed'
    """
    if not verdict:
        return ""
    said = []
    checks = verdict["checks"]
    assert isinstance(checks, list)
    for check in checks:
        value = "" if check["value"] is None else f" {check['value']:.4f}"
        served = "" if check["served"] is None else f" (served {check['served']:.4f})"
        note = f", {check['note']}" if check["note"] else ""
        if (verdict["passed"] or check["held"] is False) and (value or note):
            said.append(f"{check['name']}{value}{served}{note}")
    return ("passed" if verdict["passed"] else "refused") + (": " + "; ".join(said) if said else "")


def _unknown(name: str, note: str) -> Check:
    return Check(name=name, held=None, note=note)


def _off(ratio: float) -> float:
    """Return how far a calibration ratio is from 1, alike in both directions."""
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def _not_finite(change: Change) -> str:
    """Return where a value is NaN or infinite, if one is."""
    for name, rows in change.tables.items():
        if not bool(torch.isfinite(rows.rows).all()):
            return f"rows of table '{name}'"
    for name, tensor in change.dense.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"dense tensor '{name}'"
    return ""
