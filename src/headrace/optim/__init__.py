"""Optimisation of tables beside the row rules: clips, L2, schedules, and rates for other batch sizes."""

from headrace.optim.row_clip import CowClip, RowNormClip
from headrace.optim.row_decay import RowL2
from headrace.optim.scaling import RULES, Rates, scale
from headrace.optim.schedule import Chain, Constant, Cosine, InverseSqrt, Linear, Product, Stairs, Warmup

__all__ = [
    "RULES",
    "Chain",
    "Constant",
    "Cosine",
    "CowClip",
    "InverseSqrt",
    "Linear",
    "Product",
    "Rates",
    "RowL2",
    "RowNormClip",
    "Stairs",
    "Warmup",
    "scale",
]
