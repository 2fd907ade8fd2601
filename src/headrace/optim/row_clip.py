"""Row clips: bounds on the gradient of each row, before the row rule. `RowTransform`s with a native form.

The native table runs them inside its update; what is written here is the specification, in float32, one rounding per
written operation, so that both give equal bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
        return _bounded(grads, torch.full((len(grads),), self.max_norm, dtype=torch.float32))


@dataclass(frozen=True, kw_only=True)
class CowClip:
    """Bounds a row's gradient by the norm of the row and its occurrences in the batch, for training at large batches.

    In the paper's order the bound is ``count * max(ratio*|w|, lower_bound)``, in the order of the authors' code
    ``ratio*count * max(|w|, ratio*sqrt(D)*lower_bound)``, where `lower_bound` is meant per coordinate. They differ by
    a factor of sqrt(D) in the lower bound at ratio 1; the published settings (1e-5 for Criteo, 1e-3 and 1e-4 for
    Avazu) belong to the code's.

    The bound is on the gradient of the *mean* loss over the batch. Where the loss is a sum, multiply `ratio` by the
    batch size, and `lower_bound` too; in the order of the code divide `lower_bound` by it, as `ratio` counts twice.

    Attributes:
        ratio: Largest norm of the gradient of one occurrence, as a part of the row's norm.
        lower_bound: Keeps rows near zero able to learn.
        order: `paper` or `code`.

    Source:
        Zheng et al. 2023, "CowClip: Reducing CTR Prediction Model Training Time from 12 Hours to 10 Minutes on 1 GPU",
        algorithm 1, and the authors' implementation.
    """

    ratio: float = 1.0
    lower_bound: float = 1e-5
    order: Literal["paper", "code"] = "paper"

    def __post_init__(self) -> None:
        for name, value in (("ratio", self.ratio), ("lower_bound", self.lower_bound)):
            require(0.0 <= value <= _LARGEST, f"CowClip.{name}", got=value,
                    expected="a number of at least 0 that float32 can hold")  # fmt: skip
        require(self.order in ("paper", "code"), "CowClip.order", got=self.order, expected="'paper' or 'code'")

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return (2 if self.order == "paper" else 3), (self.ratio, self.lower_bound)

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return gradients (N, D) within the bounds of their rows (N, D) and counts (N,)."""
        ratio, lower = _scalar(self.ratio), _scalar(self.lower_bound)
        norms, times = _norms(rows), counts.to(torch.float32)
        if self.order == "paper":
            return _bounded(grads, times * torch.maximum(ratio * norms, lower))
        bound = (ratio * _scalar(math.sqrt(rows.shape[1]))) * lower
        return _bounded(grads, (ratio * times) * torch.maximum(norms, bound))


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


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
