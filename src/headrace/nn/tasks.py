"""What models of several labels have in common: the settings of their towers, and learned weights of their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.config import known_name, require
from headrace.nn.fields import log_odds, start_at
from headrace.nn.layers import MLP
from headrace.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """How many labels there are, and the network that each has for itself.

    Attributes:
        priors: Rate of positives that each label starts from; as many as there are labels, the main one first.
        towers: Hidden widths of a label's own network, its tower (or `Hidden`); empty makes it a linear layer.

    Raises:
        ConfigError: If there is no label, or a prior is no rate.
    """

    priors: tuple[float, ...] = (0.5, 0.5)
    towers: Sequence[int] = (32,)

    def __post_init__(self) -> None:
        require(len(self.priors) >= 1, "Tasks.priors", got=self.priors, expected="one rate per label")
        for prior in self.priors:
            log_odds(prior)

    @property
    def count(self) -> int:
        """Number of labels."""
        return len(self.priors)

    def build(self, width: int, draw: torch.Generator, dropout: float) -> nn.ModuleList:
        """Return the labels' towers over inputs of that width."""
        towers = [MLP(width, self.towers, 1, draw, dropout=dropout) for _ in self.priors]
        for tower, prior in zip(towers, self.priors, strict=True):
            start_at(tower.output, prior)
        return nn.ModuleList(towers)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedTasks(Tasks):
    """Tasks that mix the outputs of several experts, each with a gate of its own.

    Attributes:
        experts: Number of experts that all labels share.
        gates: Hidden widths of the gates; empty makes them linear, as in the papers.
    """

    experts: int = 4
    gates: Sequence[int] = ()

    def __post_init__(self) -> None:
        Tasks.__post_init__(self)
        require(self.experts >= 1, "experts", got=self.experts, expected="a positive integer")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredTasks(GatedTasks):
    """Gated tasks in several levels, with experts that only one label sees.

    Attributes:
        own: Experts that each label has for itself, per level.
        levels: Levels of experts and gates.
        shared_gate: What makes the input of the next level's shared experts weighs the experts of `all`, as in the
            paper and DeepCTR-Torch, or the `shared` ones alone, as in FuxiCTR.
    """

    experts: int = 2
    own: int = 1
    levels: int = 2
    shared_gate: Literal["all", "shared"] = "all"

    def __post_init__(self) -> None:
        GatedTasks.__post_init__(self)
        require(self.own >= 0, "own", got=self.own, expected="0 or more")
        require(self.levels >= 1, "levels", got=self.levels, expected="a positive integer")
        known_name("shared_gate", self.shared_gate, ["all", "shared"])


class LearnedWeights(nn.Module):
    """A model of several labels, with a learned uncertainty per label that weighs the labels' losses.

    `MultiTask(..., weights="learned")` makes the loss `sum_t exp(-s_t) loss_t + s_t / 2` of the log-variances s that
    this module holds. They start at 0: every weight 1.

    Args:
        model: Maps a batch to logits (B, T).
        tasks: T.

    Shapes:
        As the model.

    Source:
        Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics".
    """

    def __init__(self, model: nn.Module, tasks: int) -> None:
        super().__init__()
        require(tasks >= 1, "LearnedWeights, tasks", got=tasks, expected="the number of labels")
        self.model = model
        self.log_variances = nn.Parameter(torch.zeros(tasks))

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's logits."""
        logits: Tensor = self.model(batch)
        return logits
