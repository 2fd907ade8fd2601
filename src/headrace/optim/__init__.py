"""Optimisation of tables beside the row rules: clips of row gradients and schedules of the learning rate."""

from headrace.optim.row_clip import CowClip, RowNormClip
from headrace.optim.schedule import Chain, Constant, Cosine, InverseSqrt, Linear, Product, Stairs, Warmup

__all__ = [
    "Chain",
    "Constant",
    "Cosine",
    "CowClip",
    "InverseSqrt",
    "Linear",
    "Product",
    "RowNormClip",
    "Stairs",
    "Warmup",
]
