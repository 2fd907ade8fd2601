"""The main numbers of each category of a column, of a stream, in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import torch

from headrace.config import require
from headrace.errors import ConfigError
from headrace.evaluate.intervals import Interval, hanley_mcneil_interval, interval
from headrace.evaluate.metrics import Floats, entropy_ratio, losses
from headrace.evaluate.order import Encoded
from headrace.evaluate.streaming import Tally
from headrace.evaluate.verdict import Slice
from headrace.types import State, StateValue

OTHER = "(other)"
SLICE_ROWS = 1024
"""Rows up to which the AUC of a slice is exact."""


class Moments:
    """Sums and products of weight, label, prediction and loss: what errors of their ratios follow from.

    Rows count as independent.
    """

    def __init__(self) -> None:
        self._sums: Floats = np.zeros(4)
        self._products: Floats = np.zeros((4, 4))

    def update(self, labels: Floats, probabilities: Floats, weights: Floats) -> None:
        """Count checked rows."""
        parts = weights * np.stack([np.ones(len(labels)), labels, probabilities, losses(labels, probabilities)])
        self._sums += parts.sum(axis=1)
        self._products += parts @ parts.T

    def merge(self, other: Moments) -> None:
        """Count everything that another one has counted."""
        self._sums += other._sums
        self._products += other._products

    @property
    def means(self) -> tuple[float, float]:
        """Mean label and mean prediction."""
        weight, positive, predicted, _ = self._sums.tolist()
        return positive / weight, predicted / weight

    def calibration(self, confidence: float) -> Interval:
        """Return expected over observed positives with its interval."""
        _, positive, predicted, _ = self._sums.tolist()
        if not positive:
            return Interval(math.nan, math.nan, math.nan, math.nan)
        value = predicted / positive
        return self._of(value, np.array([0.0, -value, 1.0, 0.0]) / positive, confidence)

    def entropy(self, confidence: float) -> Interval:
        """Return the normalised entropy with its interval."""
        weight, positive, _, loss = self._sums.tolist()
        value = entropy_ratio(loss / weight, positive / weight)
        if math.isnan(value) or not value:
            return Interval(value, math.nan, math.nan, math.nan)
        rate, entropy = positive / weight, loss / weight / value
        slope = value * math.log((1 - rate) / rate)
        toward = np.array([-loss / weight + slope * rate, -slope, 0.0, 1.0]) / (weight * entropy)
        return self._of(value, toward, confidence)

    def _of(self, value: float, toward: Floats, confidence: float) -> Interval:
        return interval(value, math.sqrt(max(0.0, float(toward @ self._products @ toward))), confidence)

    def state(self) -> State:
        """Return all sums."""
        return {"sums": torch.from_numpy(self._sums.copy()), "products": torch.from_numpy(self._products.copy())}

    def restore(self, state: State) -> None:
        """Continue."""
        sums, products = state["sums"], state["products"]
        assert isinstance(sums, torch.Tensor)
        assert isinstance(products, torch.Tensor)
        self._sums, self._products = sums.numpy().copy(), products.numpy().copy()


class StreamingSlices:
    """Tallies of each category of one column; categories beyond the first `max_slices` are counted together.

    Args:
        max_slices: Categories counted apart, in the order in which they first came.
    """

    def __init__(self, *, max_slices: int = 50) -> None:
        require(max_slices >= 1, "max_slices", got=max_slices, expected="a positive number")
        self.max_slices = max_slices
        self._parts: dict[str, tuple[Tally, Moments]] = {}

    def update(self, labels: Floats, probabilities: Floats, weights: Floats, values: Encoded) -> None:
        """Count checked rows; `values` from `encode(..., names=True)`."""
        assert values.names is not None
        order = np.argsort(values.codes, kind="stable")
        edges = np.cumsum(np.bincount(values.codes, minlength=values.distinct))[:-1]
        for name, rows in zip(values.names, np.split(order, edges), strict=True):
            if len(rows):
                tally, moments = self._part("(none)" if name is None else str(name))
                tally.update(labels[rows], probabilities[rows], weights[rows])
                moments.update(labels[rows], probabilities[rows], weights[rows])

    def _part(self, name: str) -> tuple[Tally, Moments]:
        if name not in self._parts and len(self._parts) - (OTHER in self._parts) >= self.max_slices:
            name = OTHER
        return self._parts.setdefault(name, (Tally(exact_rows=SLICE_ROWS), Moments()))

    def merge(self, other: StreamingSlices) -> None:
        """Count everything that another one has counted."""
        for name, (tally, moments) in other._parts.items():
            mine = self._part(name)
            mine[0].merge(tally)
            mine[1].merge(moments)

    def result(self, confidence: float) -> tuple[Slice, ...]:
        """Return every category, the most frequent first."""
        out = []
        for name, (tally, moments) in sorted(self._parts.items(), key=lambda item: -item[1][0].rows):
            label, prediction = moments.means
            ranked = hanley_mcneil_interval(tally.auc.value(), tally.positives, tally.rows - tally.positives,
                                            confidence=confidence)  # fmt: skip
            out.append(Slice(
                name=name, rows=tally.rows, mean_label=label, mean_prediction=prediction, auc=ranked,
                ne=moments.entropy(confidence), calibration=moments.calibration(confidence),
            ))  # fmt: skip
        return tuple(out)

    def state(self) -> State:
        """Return all tallies."""
        parts: list[StateValue] = [{"name": name, "tally": tally.state(), "moments": moments.state()}
                                   for name, (tally, moments) in self._parts.items()]  # fmt: skip
        return {"max_slices": self.max_slices, "parts": parts}

    def restore(self, state: State) -> None:
        """Continue; ConfigError if the state has another number of slices."""
        if state["max_slices"] != self.max_slices:
            raise ConfigError("StreamingSlices state, max_slices", got=str(state["max_slices"]),
                              expected=str(self.max_slices))  # fmt: skip
        parts = state["parts"]
        assert isinstance(parts, list)
        self._parts = {}
        for part in parts:
            assert isinstance(part, dict)
            tally, moments = Tally(exact_rows=SLICE_ROWS), Moments()
            tally.restore(part["tally"])  # type: ignore[arg-type]
            moments.restore(part["moments"])  # type: ignore[arg-type]
            self._parts[str(part["name"])] = (tally, moments)
