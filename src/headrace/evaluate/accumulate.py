"""Judging a stream: the same figures as `evaluate`, with intervals, in bounded memory; mergeable and resumable.

Sums are exact. Rank metrics are exact while rows are few and binned beyond (`StreamingAUC` says how finely). Metrics of
groups are exact while groups fit; beyond, a fixed share of the groups is kept, drawn by the group's name, the same in
every piece of the stream. Intervals come from a Poisson bootstrap of whole groups (or rows), whose draws follow from
the group's name too, so that pieces can be counted apart and merged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike

from headrace.config import require
from headrace.errors import ConfigError, DataError
from headrace.evaluate.bootstrap import group_keys, mixed, poisson_weights
from headrace.evaluate.grouped_stream import StreamingGroups
from headrace.evaluate.influence import of_groups
from headrace.evaluate.intervals import Interval, interval
from headrace.evaluate.judge import Judging, bounded
from headrace.evaluate.metrics import Floats, area, average_precision, columns, entropy_ratio, losses, precision_area
from headrace.evaluate.order import Integers, encode
from headrace.evaluate.slice_stream import StreamingSlices
from headrace.evaluate.streaming import Tally, logit_bins
from headrace.evaluate.verdict import Evaluation
from headrace.types import State, StateValue

DRAWS = 100
DRAW_BINS = 1024
"""Bins of the logit in each bootstrap draw; they give the AUC's spread, not its value."""
PIECE_ROWS = 8192
_SUMS = 4  # weight, weight of positives, predicted positives, loss


class StreamingEvaluation:
    """Everything `evaluate` says, of a stream.

    Args:
        grouped: Whether rows come with groups.
        slices: Names of the slice columns that rows come with.
        how: k, bins, confidence, seed, max_slices; its `method` and `draws` are not used here.
        draws: Bootstrap draws behind every interval.
        exact_rows: Rows up to which rank metrics are exact, and rows kept for metrics of groups.

    Cost: per row about 0.5 µs and per draw 2 ns; memory some 2 MB, and 13 bytes for each of `exact_rows` with groups.

    Example:
        >>> stream = StreamingEvaluation()
        >>> stream.update([0, 1, 0], [0.1, 0.7, 0.3])
        >>> stream.update([1, 0, 1], [0.4, 0.5, 0.9])
        >>> round(stream.result()["auc"].value, 3)
        0.889
    """

    def __init__(
        self, *, grouped: bool = False, slices: tuple[str, ...] = (), how: Judging | None = None, draws: int = DRAWS,
        exact_rows: int = 1_000_000,
    ) -> None:  # fmt: skip
        require(draws >= 20, "draws", got=draws, expected="at least 20")
        self.how, self.grouped, self.draws, self.exact_rows = how or Judging(), grouped, draws, exact_rows
        self.tally = Tally(exact_rows=min(exact_rows, 1 << 18))
        self.groups = StreamingGroups(k=self.how.k, max_rows=exact_rows) if grouped else None
        self.slices = {name: StreamingSlices(max_slices=self.how.max_slices) for name in slices}
        self._curve: Floats = np.zeros((3, self.tally.auc.bins))  # negatives, positives, predictions by score
        self._sums: Floats = np.zeros((draws, _SUMS + self.how.bins))  # and the gap of each bin
        self._counts: Floats = np.zeros((draws, 3, DRAW_BINS))  # coarser
        self._gaps: Floats = np.zeros(self.how.bins)

    def update(
        self, labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None,
        groups: ArrayLike | pa.Array | None = None, slices: Mapping[str, ArrayLike | pa.Array] | None = None,
    ) -> None:  # fmt: skip
        """Count rows.

        Raises:
            DataError: If a row is no label, probability or weight, or groups or slices are not those announced.
        """
        label, probability, weight = columns(labels, probabilities, weights, unit=True)
        if (groups is not None) != self.grouped or set(slices or {}) != set(self.slices):
            raise DataError("StreamingEvaluation", got=f"groups {groups is not None}, slices {sorted(slices or {})}",
                            expected=f"groups {self.grouped}, slices {sorted(self.slices)}")  # fmt: skip
        if not len(label):
            return
        coded = {name: encode(values, len(label), what=f"slice '{name}'", names=True)
                 for name, values in (slices or {}).items()}  # fmt: skip
        if groups is None:
            salt = np.uint64(self.how.seed << 1 | 1)
            keys = mixed(np.arange(self.tally.rows, self.tally.rows + len(label), dtype=np.uint64) ^ salt)
        else:
            keys = group_keys(groups, len(label))
        self.tally.update(label, probability, weight)
        for name, found in coded.items():
            self.slices[name].update(label, probability, weight, found)
        if self.groups is not None:
            self.groups.update(label, probability, weight, keys)
        for start in range(0, len(label), PIECE_ROWS):
            part = slice(start, start + PIECE_ROWS)
            self._draw(label[part], probability[part], weight[part], keys[part])

    def _draw(self, label: Floats, probability: Floats, weight: Floats, keys: np.ndarray) -> None:
        fine = logit_bins(probability, self._curve.shape[1])
        for place, mass in enumerate((weight * (1 - label), weight * label, weight * probability)):
            self._curve[place] += np.bincount(fine, mass, minlength=self._curve.shape[1])
        bins = np.minimum((probability * self.how.bins).astype(np.int64), self.how.bins - 1)
        gap = weight * (probability - label)
        self._gaps += np.bincount(bins, gap, minlength=self.how.bins)
        parts = np.zeros((len(label), _SUMS + self.how.bins))
        parts[:, 0], parts[:, 1], parts[:, 2] = weight, weight * label, weight * probability
        parts[:, 3] = weight * losses(label, probability)
        parts[np.arange(len(label)), _SUMS + bins] = gap
        times = poisson_weights(keys, self.draws, seed=self.how.seed).astype(np.float64)
        self._sums += times @ parts
        which: Integers = fine * DRAW_BINS // self._curve.shape[1]
        sides = which + DRAW_BINS * label.astype(np.int64)
        for place in range(self.draws):
            mass = times[place] * weight
            self._counts[place, :2] += np.bincount(sides, mass, minlength=2 * DRAW_BINS).reshape(2, DRAW_BINS)
            self._counts[place, 2] += np.bincount(which, mass * probability, minlength=DRAW_BINS)

    def merge(self, other: StreamingEvaluation) -> None:
        """Count everything that another one of the same settings has counted.

        Without groups the bootstrap tells rows by their place in their stream. Rows of two streams that share a place
        then share their draws, as two rows of a group do, which leaves the error of independent rows what it is.

        Raises:
            ConfigError: If the settings differ; nothing was changed.
        """
        if other._settings() != self._settings():
            raise ConfigError(
                "StreamingEvaluation to merge", got=str(other._settings()), expected=str(self._settings())
            )
        self.tally.merge(other.tally)
        if self.groups is not None and other.groups is not None:
            self.groups.merge(other.groups)
        for name, part in self.slices.items():
            part.merge(other.slices[name])
        for mine, theirs in zip(self._arrays(), other._arrays(), strict=True):
            mine += theirs

    def result(self) -> Evaluation:
        """Return the figures so far with their intervals."""
        require(self.tally.rows > 0, "Rows to judge", got=0, expected="at least one")
        numbers, drawn = self._values(), self._drawn()
        figures = {name: self._interval(name, value, drawn[name]) for name, value in numbers.items()}
        figures |= self._calibration_errors()
        notes = ["intervals: Poisson bootstrap of " + ("groups" if self.grouped else "rows")]
        if not self.tally.auc.exact:
            notes.append(f"AUC and average precision: rows counted in {self.tally.auc.bins:,} bins of the logit")
        if self.groups is not None:
            for name, values in self.groups.values().items():
                found = of_groups(values.values, values.masses)
                error = float(np.sqrt(np.sum(found.rows**2)))
                figures[name] = bounded(name, interval(found.value, error, self.how.confidence))
            notes += self.groups.notes()
        return Evaluation(
            figures=figures, rows=self.tally.rows, positives=self.tally.positives,
            groups=None if self.groups is None else self.groups.seen,
            slices={name: part.result(self.how.confidence) for name, part in self.slices.items()},
            confidence=self.how.confidence, notes=tuple(notes),
        )  # fmt: skip

    def _values(self) -> dict[str, float]:
        known = self.tally.numbers()
        kept = self.tally.auc.rows()
        precision = precision_area(self._curve[1], self._curve[0]) if kept is None else average_precision(*kept)
        return {"auc": known["auc"], "average_precision": precision, "log_loss": known["log_loss"], "ne": known["ne"],
                "rig": 1 - known["ne"], "calibration": known["calibration"]}  # fmt: skip

    def _drawn(self) -> dict[str, Floats]:
        weight, positive, predicted, loss = self._sums[:, :_SUMS].T
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, rate = loss / weight, positive / weight
            entropy = np.array([entropy_ratio(*pair) if pair[0] == pair[0] else math.nan
                                for pair in zip(mean.tolist(), rate.tolist(), strict=True)])  # fmt: skip
            calibration = np.where(positive > 0, predicted / positive, np.nan)
        halves = [(row[1], row[0]) for row in self._counts]
        return {
            "auc": np.array([area(*half) for half in halves]),
            "average_precision": np.array([precision_area(*half) for half in halves]), "log_loss": mean,
            "ne": entropy, "rig": 1 - entropy, "calibration": calibration,
        }  # fmt: skip

    def _interval(self, name: str, value: float, drawn: Floats) -> Interval:
        # a normal interval of the draws' spread: around the exact value, whatever the bins of the draws do to theirs
        kept = drawn[np.isfinite(drawn)]
        if len(kept) < 20:
            return Interval(value, math.nan, math.nan, math.nan)
        return bounded(name, interval(value, float(kept.std(ddof=1)), self.how.confidence))

    def _calibration_errors(self) -> dict[str, Interval]:
        total, mass = float(self._curve[:2].sum()), self._curve[0] + self._curve[1]
        by_mass = self._of_mass((self._curve[2] - self._curve[1])[None], mass)[0]
        full = self._sums[:, 0] > 0  # with few groups a draw may have none
        totals, counts = self._sums[full, :1], self._counts[full]
        drawn = self._of_mass(counts[:, 2] - counts[:, 1], mass.reshape(DRAW_BINS, -1).sum(axis=1))
        return {
            "ece": self._calibration_error(self._gaps / total, self._sums[full, _SUMS:] / totals),
            "ece_mass": self._calibration_error(by_mass / total, drawn / totals),
        }

    def _of_mass(self, gaps: Floats, mass: Floats) -> Floats:
        """Return gaps (R, score bins) added in bins of equal mass, (R, bins)."""
        middle = np.cumsum(mass) - 0.5 * mass
        starts = np.searchsorted(middle, np.arange(self.how.bins) * mass.sum() / self.how.bins)
        edges = np.concatenate([np.zeros((len(gaps), 1)), np.cumsum(gaps, axis=1)], axis=1)
        parts: Floats = np.diff(edges[:, [*starts, gaps.shape[1]]], axis=1)
        return parts

    def _calibration_error(self, gap: Floats, drawn: Floats) -> Interval:
        if len(drawn) < 20:
            return Interval(float(np.abs(gap).sum()), math.nan, math.nan, math.nan)
        error = float((drawn @ np.sign(gap)).std(ddof=1))
        bias = float(drawn.std(axis=0, ddof=1).sum()) * math.sqrt(2 / math.pi)
        around = bounded("ece", interval(float(np.abs(gap).sum()), error, self.how.confidence))
        return Interval(around.value, max(0.0, around.low - bias), around.high, error)

    def _arrays(self) -> tuple[Floats, ...]:
        return self._curve, self._sums, self._counts, self._gaps

    def _settings(self) -> State:
        return {
            "grouped": self.grouped, "draws": self.draws, "bins": self.how.bins, "k": self.how.k,
            "seed": self.how.seed, "exact_rows": self.exact_rows, "slices": ",".join(sorted(self.slices)),
        }  # fmt: skip

    def state(self) -> State:
        """Return everything counted."""
        return {
            "settings": self._settings(), "tally": self.tally.state(),
            "groups": None if self.groups is None else self.groups.state(),
            "slices": {name: part.state() for name, part in self.slices.items()},
            "arrays": [torch.from_numpy(part.copy()) for part in self._arrays()],
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly.

        Raises:
            ConfigError: If the state was written with other settings; nothing was changed.
        """
        if state["settings"] != self._settings():
            raise ConfigError("StreamingEvaluation state", got=str(state["settings"]), expected=str(self._settings()),
                              do="Restore with the settings it was written with.")  # fmt: skip
        self.tally.restore(_part(state["tally"]))
        if self.groups is not None:
            self.groups.restore(_part(state["groups"]))
        for name, part in _part(state["slices"]).items():
            self.slices[name].restore(_part(part))
        arrays = state["arrays"]
        assert isinstance(arrays, list)
        for mine, kept in zip(self._arrays(), arrays, strict=True):
            assert isinstance(kept, torch.Tensor)
            mine[...] = kept.numpy()


def _part(value: StateValue) -> State:
    assert isinstance(value, dict)
    return value
