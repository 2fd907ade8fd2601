"""GDCN: cross layers with a gate that decides, entry by entry, how much of each order goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.fields import FlatInputs, start_at
from headrace.nn.layers import InputLayout, generator, hidden_layers, linear
from headrace.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedCross:
    """The cross part of GDCN.

    Attributes:
        layers: Number of cross layers; interactions go up to one order more.
        parallel: Cross part and hidden layers side by side, with one linear output over both; otherwise the hidden
            layers stand on the cross part.
    """

    layers: int = 3
    parallel: bool = False

    def __post_init__(self) -> None:
        require(self.layers >= 1, "layers", got=self.layers, expected="1 or more")


class GDCN(nn.Module):
    """Gated Deep and Cross Network, stacked or parallel.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; widths may differ.
        features: Names of the id features.
        dense_dim: Number of dense columns; plain numbers among the inputs.
        hidden: Widths of the deep part.
        cross: Number of cross layers, and how both parts are put together.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B I²) per cross layer, for I inputs.

    Raises:
        ConfigError: If there is nothing to read.

    Source:
        Wang et al. 2023, "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 64), *,
        cross: GatedCross | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen, draw = cross or GatedCross(), generator(seed)
        self.embed, self.features, self.parallel = embed, tuple(features), chosen.parallel
        self.inputs = FlatInputs(embed, features, dense_dim)
        width = self.inputs.width
        self.cross = nn.ModuleList(GatedCrossLayer(width, draw) for _ in range(chosen.layers))
        self.deep = hidden_layers(width, hidden, draw, dropout=dropout)
        last = hidden[-1] if hidden else width
        self.output = linear(width + last if chosen.parallel else last, 1, draw)
        start_at(self.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        flat_BI = self.inputs(self.embed, batch)
        crossed_BI = flat_BI
        for layer in self.cross:
            crossed_BI = layer(flat_BI, crossed_BI)
        deep = self.deep(flat_BI if self.parallel else crossed_BI)
        logits_B1: Tensor = self.output(torch.cat([crossed_BI, deep], dim=1) if self.parallel else deep)
        return logits_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs: none can be moved to others; see `InputLayout`."""
        return {"output.weight": ()}


class GatedCrossLayer(nn.Module):
    """`x0 * (W x + b) * sigmoid(G x) + x`.

    Shapes:
        x0 (B, I), x (B, I) -> (B, I)
    """

    def __init__(self, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.cross, self.gate = linear(width, width, draw), linear(width, width, draw, bias=False)

    def forward(self, first_BI: Tensor, inputs_BI: Tensor) -> Tensor:
        """Return the layer's outputs."""
        crossed: Tensor = first_BI * self.cross(inputs_BI) * torch.sigmoid(self.gate(inputs_BI)) + inputs_BI
        return crossed
