"""MaskNet: layers whose inputs are multiplied by masks that the embeddings themselves command."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from headrace.config import require
from headrace.nn.fields import Fields, start_at
from headrace.nn.layers import MLP, InputLayout, generator, linear
from headrace.types import Batch

NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """How MaskNet puts its blocks together.

    Attributes:
        parallel: Number of blocks side by side, all over the embeddings, with an MLP over their outputs; 0 puts the
            blocks one over the other, one for each hidden layer.
        width: Width of a parallel block's output.
        ratio: Width of a mask's hidden layer, relative to the mask.
    """

    parallel: int = 0
    width: int = 64
    ratio: float = 1.0

    def __post_init__(self) -> None:
        require(self.parallel >= 0, "parallel", got=self.parallel, expected="a number of blocks, or 0")
        require(self.width >= 1, "width", got=self.width, expected="1 or more")
        require(self.ratio > 0.0, "ratio", got=self.ratio, expected="a positive number")


class MaskNet(nn.Module):
    """MaskNet over fields, serial or parallel.

    Every block multiplies its input by a mask that an MLP makes of the embeddings; that product gives deep layers the
    interactions that sums of inputs alone lack. The first input is the embeddings, each field normalised for itself.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D for all features.
        features: Names of the id features.
        dense_dim: Number of dense columns; each is a field, its value times a learned factor.
        hidden: Widths of the serial blocks, or of the MLP over parallel blocks.
        masks: Serial or parallel, and the masks' own size.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B (F D)² ratio) per block.

    Raises:
        ConfigError: If there is no feature, widths differ, or serial blocks have no width.

    Source:
        Wang et al. 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided
        Mask".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 64), *,
        masks: Masks | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen, draw = masks or Masks(), generator(seed)
        self.fields = Fields(embed, features, dense_dim, draw=draw)
        count, dim = self.fields.count, self.fields.factor_dim
        self.norm_weight = nn.Parameter(torch.ones(count, dim))
        self.norm_bias = nn.Parameter(torch.zeros(count, dim))
        self.parallel, flat = chosen.parallel > 0, count * dim
        if self.parallel:
            widths = [(flat, chosen.width)] * chosen.parallel
            self.deep = MLP(chosen.parallel * chosen.width, hidden, 1, draw, dropout=dropout)
        else:
            require(len(hidden) > 0, "MaskNet, hidden", got=tuple(hidden), expected="at least one serial block")
            widths = list(zip([flat, *hidden[:-1]], hidden, strict=True))
            self.deep = MLP(hidden[-1], (), 1, draw)
        self.blocks = nn.ModuleList(
            MaskBlock(flat, inputs, outputs, draw, ratio=chosen.ratio, dropout=dropout) for inputs, outputs in widths
        )
        start_at(self.deep.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        fields_BFK = self.fields(batch).fields
        normed_BFK = layer_norm(fields_BFK, fields_BFK.shape[-1:], eps=NORM_EPSILON) * self.norm_weight + self.norm_bias
        guide_BI, inputs_BI = fields_BFK.flatten(1), normed_BFK.flatten(1)
        if self.parallel:
            outputs = torch.cat([block(guide_BI, inputs_BI) for block in self.blocks], dim=1)
        else:
            outputs = inputs_BI
            for block in self.blocks:
                outputs = block(guide_BI, outputs)
        logits_B1: Tensor = self.deep(outputs)
        return logits_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs: none can be moved to others; see `InputLayout`."""
        return {"norm_weight": ()}


class MaskBlock(nn.Module):
    """`relu(LN(W (mask(guide) * inputs)))`, where `mask` is an MLP of one hidden layer.

    Args:
        guide: Width of what the mask is made of.
        inputs: Width of the inputs, and of the mask.
        outputs: Width of the outputs.
        draw: Where initial weights are drawn from.
        ratio: Width of the mask's hidden layer, relative to `inputs`; at least 1 unit.
        dropout: Share of the outputs dropped in training.

    Shapes:
        guide (B, guide), inputs (B, inputs) -> (B, outputs)
    """

    def __init__(
        self, guide: int, inputs: int, outputs: int, draw: torch.Generator, *, ratio: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.mask = MLP(guide, (max(int(inputs * ratio), 1),), inputs, draw)
        self.layer = linear(inputs, outputs, draw, gain=math.sqrt(2.0), bias=False)
        self.norm = nn.LayerNorm(outputs, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, guide_BG: Tensor, inputs_BI: Tensor) -> Tensor:
        """Return the block's outputs."""
        outputs: Tensor = self.dropout(torch.relu(self.norm(self.layer(self.mask(guide_BG) * inputs_BI))))
        return outputs
