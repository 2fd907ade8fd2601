"""Clips coarser than a row, for the ablation: all rows of a table share one norm. Written in Python, so slow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headrace.config import require


@dataclass(frozen=True, kw_only=True)
class TableNormClip:
    """Scales all gradients of a table's update so that their common norm is at most `max_norm`.

    With one table for all features this is clipping by the global norm (of the embeddings); with a table for each
    feature it is clipping by field.

    Attributes:
        max_norm: The largest Euclidean norm of all summed gradients of one update.
    """

    max_norm: float

    def __post_init__(self) -> None:
        require(self.max_norm > 0, "TableNormClip.max_norm", got=self.max_norm, expected="a positive number")

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return gradients (N, D), all scaled by one factor."""
        norm = float(grads.double().norm())
        return grads * (self.max_norm / norm) if norm > self.max_norm else grads
