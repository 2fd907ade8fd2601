"""Row clips: bounds on the gradient of each row, before the row rule. `RowTransform`s with a native form.

The native table runs them inside its update; what is written here is the specification, in float32, one rounding per
written operation, so that both give equal bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from headrace.config import require

NativeForm: TypeAlias = tuple[int, tuple[float, ...]]
"""Kind and parameters of a clip, as csrc/rules/kernels.h lists them."""

_LANES = 8
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class RowNormClip:
    """Scales a row's gradient down to a norm of `max_norm` where it is longer.

    A gradient so large that its square is not finite becomes zero.

    Attributes:
        max_norm: The largest Euclidean norm of a row's summed gradient.
    """

    max_norm: float

    def __post_init__(self) -> None:
        require(2.0**-149 <= self.max_norm <= _LARGEST, "RowNormClip.max_norm", got=self.max_norm,
                expected="a positive number that float32 can hold")  # fmt: skip

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return 1, (self.max_norm,)

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return gradients (N, D) of norm `max_norm` at most."""
        return _bounded(grads, self._limits(rows))

    def over(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return (N,) bool: which rows' gradients are clipped."""
        return _norms(grads) > self._limits(rows)

    def _limits(self, rows: Tensor) -> Tensor:
        return torch.full((len(rows),), self.max_norm, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class CowClip:
    """Bounds a row's gradient by the norm of the row and its occurrences in the batch, for training at large batches.

    In the paper's order the bound is ``count * max(ratio*|w|, lower_bound)``, in the order of the authors' code
    ``ratio*count * max(|w|, ratio*sqrt(D)*lower_bound)``, where `lower_bound` is meant per coordinate. They differ by
    a factor of sqrt(D) in the lower bound at ratio 1; the published settings (1e-5 for Criteo, 1e-3 and 1e-4 for
    Avazu) belong to the code's.

    The bound is on the gradient of the *mean* loss over the batch. Where the loss is a sum, multiply `ratio` by the
    batch size, and `lower_bound` too; in the order of the code divide `lower_bound` by it, as `ratio` counts twice.
    `relative_to_batch` does that, and takes bounds that shrink with the batch as the gradients do.

    Attributes:
        ratio: Largest norm of the gradient of one occurrence, as a part of the row's norm.
        lower_bound: Keeps rows near zero able to learn.
        order: `paper` or `code`.
        skip: Leading coordinates that are neither measured nor scaled. The authors do not clip first-order weights;
            where they stand in column 0 of a row (`DeepFM` and its like), 1 leaves them alone.

    Source:
        Zheng et al. 2023, "CowClip: Reducing CTR Prediction Model Training Time from 12 Hours to 10 Minutes on 1 GPU",
        algorithm 1, and the authors' implementation.
    """

    ratio: float = 1.0
    lower_bound: float = 1e-5
    order: Literal["paper", "code"] = "paper"
    skip: int = 0

    def __post_init__(self) -> None:
        for name, value in (("ratio", self.ratio), ("lower_bound", self.lower_bound)):
            require(0.0 <= value <= _LARGEST, f"CowClip.{name}", got=value,
                    expected="a number of at least 0 that float32 can hold")  # fmt: skip
        require(self.order in ("paper", "code"), "CowClip.order", got=self.order, expected="'paper' or 'code'")
        require(type(self.skip) is int and 0 <= self.skip < 2**16, "CowClip.skip", got=self.skip,
                expected="a number of coordinates, 0 or more")  # fmt: skip

    def relative_to_batch(self, examples: int) -> CowClip:
        """Return the same clip with its bound divided by a number of examples: `ratio` and `lower_bound` per 1/B.

        The gradient of a mean loss falls as 1/B while the published bound does not, and hardly fires at large
        batches. Given relative to 1/B, it fires at every batch size alike.

        Example:
            >>> CowClip(ratio=64.0, lower_bound=0.5).relative_to_batch(128)
            CowClip(ratio=0.5, lower_bound=0.00390625, order='paper', skip=0)
        """
        require(examples >= 1, "CowClip.relative_to_batch, examples", got=examples, expected="at least 1")
        # In the order of the code the ratio counts twice, once of them for the lower bound.
        lower = self.lower_bound / examples if self.order == "paper" else self.lower_bound * examples
        return replace(self, ratio=self.ratio / examples, lower_bound=lower)

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return (2 if self.order == "paper" else 3), (self.ratio, self.lower_bound, float(self.skip))

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return gradients (N, D) within the bounds of their rows (N, D) and counts (N,)."""
        if self.skip >= grads.shape[1]:
            return grads
        clipped = _bounded(grads[:, self.skip :], self._limits(rows[:, self.skip :], counts))
        return torch.cat([grads[:, : self.skip], clipped], dim=1) if self.skip else clipped

    def over(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return (N,) bool: which rows' gradients are clipped."""
        if self.skip >= grads.shape[1]:
            return torch.zeros(len(grads), dtype=torch.bool)
        return _norms(grads[:, self.skip :]) > self._limits(rows[:, self.skip :], counts)

    def _limits(self, rows: Tensor, counts: Tensor) -> Tensor:
        ratio, lower = _scalar(self.ratio), _scalar(self.lower_bound)
        norms, times = _norms(rows), counts.to(torch.float32)
        if self.order == "paper":
            return times * _larger(ratio * norms, lower)
        bound = (ratio * _scalar(math.sqrt(rows.shape[1]))) * lower
        return (ratio * times) * _larger(norms, bound)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def _larger(values: Tensor, bound: Tensor) -> Tensor:
    """Return the larger of two; the bound where a value is no number."""
    return torch.where(values > bound, values, bound)


def _norms(values: Tensor) -> Tensor:
    """Return Euclidean norms (N,); sums over a row as in the store: eight running sums, folded in halves."""
    squares = values.to(torch.float32) * values.to(torch.float32)
    lanes = torch.zeros((len(values), _LANES), dtype=torch.float32)
    for at in range(0, squares.shape[1], _LANES):
        part = squares[:, at : at + _LANES]
        lanes[:, : part.shape[1]] += part
    for half in (4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half:]
    # The root of float32 is off by a bit at times; that of float64, rounded, never is.
    return lanes[:, 0].to(torch.float64).sqrt().to(torch.float32)


def _bounded(grads: Tensor, limits: Tensor) -> Tensor:
    norms = _norms(grads)
    scales = torch.where(norms > limits, limits / norms, _scalar(1.0))
    return grads * scales[:, None]
