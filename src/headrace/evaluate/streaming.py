"""Metrics of a stream: bounded memory, mergeable, resumable."""

from __future__ import annotations

import math

import numpy as np
import torch

from headrace.config import require
from headrace.errors import ConfigError
from headrace.evaluate.metrics import Floats, area, auc, columns, entropy_ratio, losses
from headrace.evaluate.order import Integers
from headrace.types import State, StateValue

LOGIT_LIMIT = 15.0
EXACT_ROWS = 16_384
BINS = 16_384
CALIBRATION_BINS = 20


class StreamingAUC:
    """The AUC of a stream of probabilities.

    Exact, ties included, up to `exact_rows` rows; beyond that rows are counted in bins of equal width in logit space
    (between -15 and 15), and rows of one bin count as ties. With 16,384 bins (0.0018 wide in the logit) the error is
    below 1e-4 for any model whose scores are spread over more than a few bins.

    Args:
        exact_rows: Rows kept as they are.
        bins: Number of bins; two counters each.

    Cost: O(rows) per update, O(bins) or one sort for the value.
    """

    def __init__(self, *, exact_rows: int = EXACT_ROWS, bins: int = BINS) -> None:
        require(exact_rows >= 0, "exact_rows", got=exact_rows, expected="a number of rows, or 0")
        require(bins >= 2, "bins", got=bins, expected="at least 2")
        self.exact_rows, self.bins = exact_rows, bins
        self._kept: list[Floats] = []  # (3, n): label, probability, weight
        self._rows = 0
        self._counts: Floats | None = None  # (2, bins): weight of negatives, of positives

    @property
    def exact(self) -> bool:
        """Whether all rows are still kept as they are."""
        return self._counts is None

    def update(self, labels: Floats, probabilities: Floats, weights: Floats) -> None:
        """Count rows that `metrics.columns` has checked."""
        self._kept.append(np.stack([labels, probabilities, weights]))
        self._rows += len(labels)
        if self._counts is not None or self._rows > self.exact_rows:
            self._fold()

    def merge(self, other: StreamingAUC) -> None:
        """Count everything that another one of the same bins has counted."""
        if other.bins != self.bins:
            raise ConfigError("StreamingAUC, bins", got=other.bins, expected=f"{self.bins}, to merge")
        self._kept += other._kept
        self._rows += other._rows
        if other._counts is not None or self._counts is not None or self._rows > self.exact_rows:
            self._fold()
        if other._counts is not None:
            assert self._counts is not None
            self._counts += other._counts

    def value(self) -> float:
        """Return the AUC; NaN without both classes."""
        if self._counts is not None:
            return area(self._counts[1], self._counts[0])
        label, probability, weight = self._all()
        return auc(label, probability, weight)

    def rows(self) -> Floats | None:
        """Return labels, probabilities and weights, (3, n), while all are kept; else None."""
        return self._all() if self._counts is None else None

    def _all(self) -> Floats:
        if len(self._kept) != 1:
            self._kept = [np.concatenate(self._kept, axis=1) if self._kept else np.zeros((3, 0))]
        return self._kept[0]

    def _fold(self) -> None:
        label, probability, weight = self._all()
        if self._counts is None:
            self._counts = np.zeros((2, self.bins))
        which = logit_bins(probability, self.bins)
        self._counts[0] += np.bincount(which, weight * (1 - label), minlength=self.bins)
        self._counts[1] += np.bincount(which, weight * label, minlength=self.bins)
        self._kept = []

    def state(self) -> State:
        """Return the counters and the rows still kept."""
        counts = None if self._counts is None else torch.from_numpy(self._counts.copy())
        return {"bins": self.bins, "exact_rows": self.exact_rows, "rows": self._rows, "counts": counts,
                "kept": torch.from_numpy(self._all().copy())}  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue; ConfigError if the state has other bins."""
        found, own = (state["bins"], state["exact_rows"]), (self.bins, self.exact_rows)
        if found != own:
            raise ConfigError("StreamingAUC state, bins and exact_rows", got=str(found), expected=str(own))
        counts, kept = state["counts"], state["kept"]
        assert isinstance(kept, torch.Tensor)
        self._counts = counts.numpy().copy() if isinstance(counts, torch.Tensor) else None
        self._kept, self._rows = [kept.numpy().copy()], int(state["rows"])  # type: ignore[arg-type]


def logit_bins(probabilities: Floats, bins: int) -> Integers:
    """Return the bin of each probability, of equal width in the logit between -15 and 15, (N,)."""
    with np.errstate(divide="ignore"):
        logit = np.clip(np.log(probabilities) - np.log1p(-probabilities), -LOGIT_LIMIT, LOGIT_LIMIT)
    which: Integers = np.minimum(((logit + LOGIT_LIMIT) * (bins / (2 * LOGIT_LIMIT))).astype(np.int64), bins - 1)
    return which


class Tally:
    """AUC, log-loss, normalised entropy and calibration of a stream, with weights, in bounded memory.

    Args:
        exact_rows: Up to how many rows the AUC is exact.
    """

    _SUMS = ("weight", "positive_weight", "predicted", "loss")

    def __init__(self, *, exact_rows: int = EXACT_ROWS) -> None:
        self.auc = StreamingAUC(exact_rows=exact_rows)
        self.rows = 0
        self.positives = 0
        self._sums: Floats = np.zeros(len(self._SUMS))
        self._gaps: Floats = np.zeros(CALIBRATION_BINS)

    def update(self, labels: Floats, probabilities: Floats, weights: Floats | None = None) -> None:
        """Count rows.

        Raises:
            DataError: If a label is not 0 or 1, or a probability not in [0, 1].
        """
        label, probability, weight = columns(labels, probabilities, weights, unit=True)
        if not len(label):
            return
        self.auc.update(label, probability, weight)
        self.rows += len(label)
        self.positives += int(label.sum())
        loss = float(np.sum(weight * losses(label, probability)))
        self._sums += [weight.sum(), np.sum(weight * label), np.sum(weight * probability), loss]
        which = np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        self._gaps += np.bincount(which, weight * (probability - label), minlength=CALIBRATION_BINS)

    def merge(self, other: Tally) -> None:
        """Count everything that another one has counted."""
        self.auc.merge(other.auc)
        self.rows += other.rows
        self.positives += other.positives
        self._sums += other._sums
        self._gaps += other._gaps

    def numbers(self) -> dict[str, float]:
        """Return auc, ne, log_loss, calibration and ece; NaN where they do not exist."""
        weight, positive, predicted, loss = self._sums.tolist()
        mean_loss = loss / weight if weight else math.nan
        return {
            "auc": self.auc.value(), "ne": entropy_ratio(mean_loss, positive / weight) if weight else math.nan,
            "log_loss": mean_loss, "calibration": predicted / positive if positive else math.nan,
            "ece": float(np.abs(self._gaps).sum()) / weight if weight else math.nan,
        }  # fmt: skip

    def state(self) -> State:
        """Return all counters."""
        return {"auc": self.auc.state(), "rows": self.rows, "positives": self.positives,
                "sums": torch.from_numpy(self._sums.copy()), "gaps": torch.from_numpy(self._gaps.copy())}  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue."""
        self.auc.restore(_part(state["auc"]))
        self.rows, self.positives = int(state["rows"]), int(state["positives"])  # type: ignore[arg-type]
        sums, gaps = state["sums"], state["gaps"]
        assert isinstance(sums, torch.Tensor)
        assert isinstance(gaps, torch.Tensor)
        self._sums, self._gaps = sums.numpy().copy(), gaps.numpy().copy()


def _part(value: StateValue) -> State:
    assert isinstance(value, dict)
    return value
