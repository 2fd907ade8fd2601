"""Optimisation beside the row rules: row clips, L2, schedules, rates for other batch sizes, natural gradients."""

from headrace.optim.fisher import Diagonal, Exact, Identity, Kfac, LowRank
from headrace.optim.natural_gradient import NaturalGradient, Observed
from headrace.optim.norm_clip import clip_norm
from headrace.optim.predictive import Bernoulli, Categorical, Draws, Gaussian, NormalPosterior, Poisson
from headrace.optim.row_clip import CowClip, RowNormClip
from headrace.optim.row_decay import RowL2
from headrace.optim.scaling import RULES, Rates, scale
from headrace.optim.schedule import Chain, Constant, Cosine, InverseSqrt, Linear, Product, Stairs, Warmup

__all__ = [
    "RULES",
    "Bernoulli",
    "Categorical",
    "Chain",
    "Constant",
    "Cosine",
    "CowClip",
    "Diagonal",
    "Draws",
    "Exact",
    "Gaussian",
    "Identity",
    "InverseSqrt",
    "Kfac",
    "Linear",
    "LowRank",
    "NaturalGradient",
    "NormalPosterior",
    "Observed",
    "Poisson",
    "Product",
    "Rates",
    "RowL2",
    "RowNormClip",
    "Stairs",
    "Warmup",
    "clip_norm",
    "scale",
]
