"""A bound on the norm of a step's whole gradient, as a hook on any optimiser."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import Optimizer

from headrace.config import require

SETTING = "max_norm"
"""Where the bound stands in the optimiser's groups: it is saved, and compared when a state is restored."""


def clip_norm(optimizer: Optimizer, max_norm: float) -> Optimizer:
    """Scale the gradients of all groups together before every step so that their norm is at most `max_norm`.

    Args:
        optimizer: Any optimiser; returned again.
        max_norm: The bound.

    Raises:
        ConfigError: If the bound is not positive, or the optimiser has one.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> sgd = clip_norm(torch.optim.SGD([weight], lr=1.0), 1.0)
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> sgd.step()
        >>> [round(value, 3) for value in weight.tolist()]
        [-0.6, -0.8]
    """
    require(0 < max_norm < math.inf, "max_norm", got=max_norm, expected="a positive number")
    require(SETTING not in optimizer.param_groups[0], "Optimiser", got="one with a bound", expected="one without")
    for group in optimizer.param_groups:
        group[SETTING] = float(max_norm)
    optimizer.register_step_pre_hook(_clip)
    return optimizer


def _clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, float(optimizer.param_groups[0][SETTING]))
