"""Low-rank adapters: a small part is learned, what it is added to stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from headrace.config import require
from headrace.errors import ConfigError
from headrace.nn.layers import generator

ADAPTED = ("qkv", "out", "gate_up", "down", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of the linear layers that are adapted unless others are named: all of a block, in our models and in others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRASettings:
    """How a model is adapted.

    Attributes:
        rank: Rank of what is added to a weight.
        alpha: It is scaled by `alpha / rank`.
        layers: Names of the linear layers to adapt (last part of the name of the module).

    Raises:
        ConfigError: If a value cannot work.
    """

    rank: int = 8
    alpha: float = 16.0
    layers: tuple[str, ...] = ADAPTED

    def __post_init__(self) -> None:
        require(self.rank >= 1, "LoRASettings.rank", got=self.rank, expected="1 or more")
        require(0 < self.alpha < math.inf, "LoRASettings.alpha", got=self.alpha, expected="a positive number")
        require(bool(self.layers), "LoRASettings.layers", got=self.layers, expected="at least one name")

    @property
    def scale(self) -> float:
        """Factor on what is added."""
        return self.alpha / self.rank


class LowRank(nn.Module):
    """A linear layer whose weight stays, plus `scale up(down(x))`, which is learned.

    A layer that makes several things at once (queries, keys, values) has a pair of its own for each, so that it is
    adapted as separate layers would be.

    Args:
        layer: The layer; its parameters get no gradient any more.
        parts: Output widths of the things that it makes; one number for an ordinary layer.
        settings: Rank and scale.
        draw: Draws the initial `down`; `up` starts at zero, so nothing is changed at first.

    Shapes:
        down (P, R, D) and up, one (W_p, R) for each part.
    """

    def __init__(self, layer: nn.Linear, parts: tuple[int, ...], settings: LoRASettings, draw: torch.Generator) -> None:
        super().__init__()
        self.layer, self.parts, self.scale = layer.requires_grad_(False), parts, settings.scale
        bound = 1.0 / math.sqrt(layer.in_features)
        down = torch.empty(len(parts), settings.rank, layer.in_features).uniform_(-bound, bound, generator=draw)
        self.down = nn.Parameter(down.to(layer.weight.device))
        self.up = nn.ParameterList(nn.Parameter(layer.weight.new_zeros(width, settings.rank)) for width in parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., W)."""
        low = torch.unflatten(linear(inputs, self.down.flatten(0, 1)), -1, (len(self.parts), -1))
        added = [linear(low[..., place, :], up) for place, up in enumerate(self.up)]
        return self.layer(inputs) + self.scale * (added[0] if len(added) == 1 else torch.cat(added, -1))  # type: ignore[no-any-return]

    def merged(self) -> Tensor:
        """Return the weight with what was learned added to it, (W, D)."""
        added = [up @ down for up, down in zip(self.up, self.down, strict=True)]
        return self.layer.weight + self.scale * torch.cat(added)


def with_lora(model: nn.Module, settings: LoRASettings | None = None, seed: int = 0) -> nn.Module:
    """Adapt a model in place and return it: all its parameters stay, adapters are learned beside them.

    Args:
        model: A language model, ours or one of `transformers`.
        settings: What to adapt, and how.
        seed: Seed of the adapters' initial weights.

    Raises:
        ConfigError: If no layer has one of the names, or the model is adapted already.

    Source:
        Hu et al. 2021, "LoRA".
    """
    settings, draw = settings or LoRASettings(), generator(seed)
    if any(True for _ in adapters(model)):
        raise ConfigError("with_lora", got="a model with adapters", expected="one without", do="Merge them first.")
    model.requires_grad_(False)
    found = [
        (name, layer) for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in settings.layers
    ]  # fmt: skip
    require(bool(found), "LoRASettings.layers", got=settings.layers, expected="names of linear layers of the model")
    for name, layer in found:
        holder = model.get_submodule(name.rpartition(".")[0])
        last = name.rpartition(".")[2]
        setattr(holder, last, LowRank(layer, _parts(holder, last, layer), settings, draw))
    return model


def _parts(holder: nn.Module, name: str, layer: nn.Linear) -> tuple[int, ...]:
    """Return the widths of what a fused layer makes; the holder knows them."""
    fused: dict[str, tuple[int, ...]] = getattr(holder, "fused", {})
    return fused.get(name, (layer.out_features,))


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Yield the adapted layers of a model with their names."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, LowRank))


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights by the names that they have without adapters, these merged into them; detached, not copied."""
    weights = {name: value.detach() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, adapter in adapters(model):
        weights = {key: value for key, value in weights.items() if not key.startswith(f"{name}.")}
        weights[f"{name}.weight"] = adapter.merged()
        if adapter.layer.bias is not None:
            weights[f"{name}.bias"] = adapter.layer.bias.detach()
    return weights


def merge_lora(model: nn.Module) -> nn.Module:
    """Add what the adapters learned to the weights, take the adapters away, and return the model."""
    for name, adapter in list(adapters(model)):
        with torch.no_grad():
            adapter.layer.weight.copy_(adapter.merged())
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], adapter.layer)
    return model.requires_grad_(True)
