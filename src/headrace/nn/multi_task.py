"""Models of several labels over the same embeddings: what they share, and what each label has for itself.

Every model returns logits (B, T), one column per label: column 0 is the main label's, then the extra labels' in the
order of the schema. `headrace.objectives.MultiTask` learns them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.fields import FlatInputs
from headrace.nn.grouped import side_by_side
from headrace.nn.layers import MLP, InputLayout, generator, hidden_layers
from headrace.nn.tasks import GatedTasks, LayeredTasks, Tasks
from headrace.types import Batch


class SharedBottom(nn.Module):
    """One network that all labels share, and on top of it a tower per label.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; all D columns are inputs.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        hidden: Widths of the shared layers, each rectified.
        tasks: Labels and towers.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.

    Shapes:
        Batch of B -> logits (B, T).

    Raises:
        ConfigError: If there is no input or no shared layer.

    Source:
        Caruana 1997, "Multitask Learning".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64,), *,
        tasks: Tasks | None = None, dropout: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        tasks, draw = tasks or Tasks(), generator(seed)
        self.embed, self.features = embed, tuple(features)
        self.inputs = FlatInputs(embed, features, dense_dim)
        self.bottom = _expert(self.inputs.width, hidden, draw, dropout)
        self.towers = tasks.build(hidden[-1], draw, dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T)."""
        shared_BH = self.bottom(self.inputs(self.embed, batch))
        return torch.cat([tower(shared_BH) for tower in self.towers], dim=1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        return self.inputs.axes("bottom.0.weight")


class MMoE(nn.Module):
    """Multi-gate mixture of experts: every label weighs the outputs of all experts, for every example anew.

    `logit_t = tower_t(sum_e softmax(gate_t(x))_e expert_e(x))`. Labels that have little in common learn to use
    different experts, where a shared bottom would have to serve both.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; all D columns are inputs.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        hidden: Widths of every expert's layers, each rectified.
        tasks: Labels, towers, number of experts, and gates.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.

    Shapes:
        Batch of B -> logits (B, T).

    Cost: the experts' layers for every example, as many times as there are experts.

    Raises:
        ConfigError: If there is no input or an expert has no layer.

    Source:
        Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64,), *,
        tasks: GatedTasks | None = None, dropout: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        tasks, draw = tasks or GatedTasks(), generator(seed)
        self.embed, self.features = embed, tuple(features)
        self.inputs = FlatInputs(embed, features, dense_dim)
        flat = LayeredTasks(
            priors=tasks.priors, towers=tasks.towers, experts=tasks.experts, gates=tasks.gates, own=0, levels=1
        )
        self.mixture = _Level(self.inputs.width, hidden, flat, draw, dropout=dropout, last=True)
        self.towers = tasks.build(hidden[-1], draw, dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T)."""
        inputs_BI = self.inputs(self.embed, batch)
        mixed = self.mixture([inputs_BI] * (len(self.towers) + 1))
        return torch.cat([tower(mix) for tower, mix in zip(self.towers, mixed, strict=True)], dim=1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        return self.inputs.axes(*(f"mixture.{name}" for name in self.mixture.readers()))


class PLE(nn.Module):
    """Progressive layered extraction: levels of experts, some shared and some a label's own.

    In every level a label's gate weighs its own experts and the shared ones, and a further gate over all experts
    makes what the shared experts of the next level read. The last level has no such gate: nobody reads it.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; all D columns are inputs.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        hidden: Widths of every expert's layers in every level, each rectified.
        tasks: Labels, towers, experts, gates and levels.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.

    Shapes:
        Batch of B -> logits (B, T).

    Raises:
        ConfigError: If there is no input or an expert has no layer.

    Source:
        Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
        Personalized Recommendations".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64,), *,
        tasks: LayeredTasks | None = None, dropout: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        tasks, draw = tasks or LayeredTasks(), generator(seed)
        self.embed, self.features = embed, tuple(features)
        self.inputs = FlatInputs(embed, features, dense_dim)
        levels = []
        for level in range(tasks.levels):
            width, last = hidden[-1] if level else self.inputs.width, level == tasks.levels - 1
            levels.append(_Level(width, hidden, tasks, draw, dropout=dropout, last=last))
        self.levels = nn.ModuleList(levels)
        self.towers = tasks.build(hidden[-1], draw, dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T)."""
        inputs_BI = self.inputs(self.embed, batch)
        mixed = [inputs_BI] * (len(self.towers) + 1)
        for level in self.levels:
            mixed = level(mixed)
        return torch.cat([tower(mix) for tower, mix in zip(self.towers, mixed, strict=True)], dim=1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        first = self.levels[0]
        assert isinstance(first, _Level)
        return self.inputs.axes(*(f"levels.0.{name}" for name in first.readers()))


class _Level(nn.Module):
    """One level of experts and gates; inputs and outputs are one tensor per label and, last, the shared one."""

    def __init__(
        self, width: int, hidden: Sequence[int], tasks: LayeredTasks, draw: torch.Generator, *, dropout: float,
        last: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shared = nn.ModuleList(_expert(width, hidden, draw, dropout) for _ in range(tasks.experts))
        self.own = nn.ModuleList(
            nn.ModuleList(_expert(width, hidden, draw, dropout) for _ in range(tasks.own)) for _ in tasks.priors
        )
        gates = [MLP(width, tasks.gates, tasks.own + tasks.experts, draw, dropout=dropout) for _ in tasks.priors]
        if not last:
            weighed = tasks.experts + (tasks.own * tasks.count if tasks.shared_gate == "all" else 0)
            gates.append(MLP(width, tasks.gates, weighed, draw, dropout=dropout))
        self.gates, self.shared_gate = nn.ModuleList(gates), tasks.shared_gate

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        shared = side_by_side(self.shared, inputs[-1])
        own = [side_by_side(cast(nn.ModuleList, experts), x) for experts, x in zip(self.own, inputs[:-1], strict=True)]
        seen = [[*outputs, *shared] for outputs in own]
        seen.append([*itertools.chain.from_iterable(own), *shared] if self.shared_gate == "all" else shared)
        mixed = []
        for gate, x, experts in zip(self.gates, inputs, seen, strict=False):  # the last level has a gate less
            weights_BE = torch.softmax(gate(x), dim=1)
            mixed.append((weights_BE.unsqueeze(2) * torch.stack(experts, dim=1)).sum(1))
        return mixed

    def readers(self) -> list[str]:
        """Names of the weights that read the inputs."""
        names = [f"shared.{place}.0.weight" for place in range(len(self.shared))]
        for task, own in enumerate(self.own):
            names += [f"own.{task}.{place}.0.weight" for place in range(len(cast(nn.ModuleList, own)))]
        return names + [f"gates.{place}.layers.0.weight" for place in range(len(self.gates))]


def _expert(width: int, hidden: Sequence[int], draw: torch.Generator, dropout: float) -> nn.Sequential:
    """Return hidden layers, at least one."""
    require(len(hidden) >= 1, "hidden", got=tuple(hidden), expected="at least one width")
    return hidden_layers(width, hidden, draw, dropout=dropout)
