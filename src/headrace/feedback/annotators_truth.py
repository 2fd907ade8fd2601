"""What is believed of an item before anybody answered: the balance of the classes, or a classifier on features."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from headrace.feedback.randomness import Floats

TINY = 1e-300
NEWTON_STEPS = 3
"""Per M-step; the next one goes on from there, so the fixed point is the same."""

INTERCEPT_RIDGE = 1e-3


class TruthModel(Protocol):
    """p(class | item) and how it is fitted to soft labels."""

    def fit(self, beliefs: Floats) -> None:
        """Raise the expected log-likelihood of soft labels (I, K), less the penalty."""
        ...

    def log_prior(self, items: int) -> Floats:
        """Return log p(class | item), (I, K) or something that broadcasts to it."""
        ...

    def penalty(self) -> float:
        """Return what is taken off the log-likelihood."""
        ...


class ClassBalance:
    """The same probabilities for every item: the share of each class, with `smoothing` items added to each.

    Args:
        classes: K.
        smoothing: Pseudo-items per class.
    """

    def __init__(self, classes: int, smoothing: float) -> None:
        self.smoothing = smoothing
        self.shares: Floats = np.full(classes, 1.0 / classes)

    def fit(self, beliefs: Floats) -> None:
        """Set the shares to their maximum."""
        total = beliefs.sum(axis=0) + self.smoothing
        self.shares = total / total.sum()

    def log_prior(self, items: int) -> Floats:
        """Return the logarithms of the shares, (I, K)."""
        return np.broadcast_to(np.log(np.maximum(self.shares, TINY)), (items, len(self.shares)))

    def penalty(self) -> float:
        """Return the pseudo-items' part."""
        return -self.smoothing * float(np.log(np.maximum(self.shares, TINY)).sum())


class UniformTruth:
    """No class is likelier than another; nothing is fitted."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def fit(self, beliefs: Floats) -> None:
        """Do nothing."""

    def log_prior(self, items: int) -> Floats:
        """Return -log K everywhere, (I, K)."""
        return np.full((items, self.classes), -np.log(self.classes))

    def penalty(self) -> float:
        """Return 0."""
        return 0.0


class Classifier:
    """Multinomial logistic regression on standardised features, fitted by damped Newton steps.

    Cost: O(I (D K)² + (D K)³) per step.

    Args:
        features: (I, D).
        classes: K.
        l2: Penalty `l2 / 2` times the squared weights.
    """

    def __init__(self, features: Floats, classes: int, l2: float) -> None:
        scale = features.std(axis=0)
        self._mean, self._scale = features.mean(axis=0), np.where(scale > 0, scale, 1.0)
        self._rows = self._design(features)
        self.weights: Floats = np.zeros((classes, self._rows.shape[1]))
        self._ridge = np.full(self._rows.shape[1], l2)
        self._ridge[-1] = INTERCEPT_RIDGE

    def _design(self, features: Floats) -> Floats:
        standard = (features - self._mean) / self._scale
        return np.concatenate([standard, np.ones((len(features), 1))], axis=1)

    def fit(self, beliefs: Floats) -> None:
        """Take a few Newton steps, each shortened until it is a gain."""
        classes, width = self.weights.shape
        value = self._value(self.weights, beliefs)
        for _ in range(NEWTON_STEPS):
            chances = np.exp(log_softmax(self._rows @ self.weights.T))
            slope = (beliefs - chances * beliefs.sum(axis=1, keepdims=True)).T @ self._rows - self._ridge * self.weights
            curve = np.empty((classes, width, classes, width))
            for first in range(classes):
                for second in range(first + 1):
                    weight = chances[:, first] * (float(first == second) - chances[:, second])
                    block = (self._rows * weight[:, None]).T @ self._rows
                    curve[first, :, second], curve[second, :, first] = block, block.T
            flat = curve.reshape(classes * width, classes * width)
            flat[np.diag_indices_from(flat)] += np.tile(self._ridge, classes)
            step = np.linalg.solve(flat, slope.reshape(-1)).reshape(classes, width)
            for _ in range(30):
                after = self._value(self.weights + step, beliefs)
                if after >= value:
                    self.weights = self.weights + step
                    break
                step = step / 2
            else:
                return
            if after - value < 1e-9 * (1.0 + abs(value)):
                return
            value = after

    def _value(self, weights: Floats, beliefs: Floats) -> float:
        fit = float((beliefs * log_softmax(self._rows @ weights.T)).sum())
        return fit - 0.5 * float((self._ridge * weights**2).sum())

    def log_prior(self, items: int) -> Floats:
        """Return log p(class | features), (I, K)."""
        assert items == len(self._rows)
        return log_softmax(self._rows @ self.weights.T)

    def take_over(self, older: Classifier) -> None:
        """Start from a classifier of the same columns over other items, whose scales may differ."""
        plain = older.weights[:, :-1] / older._scale
        self.weights[:, :-1] = plain * self._scale
        self.weights[:, -1] = older.weights[:, -1] + plain @ (self._mean - older._mean)

    def predict(self, features: Floats) -> Floats:
        """Return p(class | features) of any items, (N, K)."""
        return np.asarray(np.exp(log_softmax(self._design(features) @ self.weights.T)))

    def penalty(self) -> float:
        """Return the ridge."""
        return 0.5 * float((self._ridge * self.weights**2).sum())


def log_sum(values: Floats) -> Floats:
    """Return the logarithm of the sum of exponentials over the last axis, safe from overflow.

    Example:
        >>> round(float(log_sum(np.array([1000.0, 1000.0]))) - 1000, 4)
        0.6931
    """
    top = values.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(values - top).sum(axis=-1)) + top[..., 0])


def log_softmax(values: Floats) -> Floats:
    """Return values less their `log_sum`: logarithms of probabilities.

    Example:
        >>> np.exp(log_softmax(np.array([0.0, 0.0]))).tolist()
        [0.5, 0.5]
    """
    return np.asarray(values - log_sum(values)[..., None])
