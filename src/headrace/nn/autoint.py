"""AutoInt: fields attend to one another, and what they gather decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.config import require
from headrace.nn.fields import Fields, start_at
from headrace.nn.layers import MLP, InputAxis, generator, linear
from headrace.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldAttention:
    """The attention layers of AutoInt.

    Attributes:
        layers: Number of layers, one over the other.
        heads: Heads of each layer; a divisor of `width`.
        width: Width of a field behind each layer, all heads together.
        scaled: Divide attention scores by the root of a head's width, as transformers do. The paper does not.

    Raises:
        ConfigError: If a number is not positive, or heads do not divide the width.
    """

    layers: int = 3
    heads: int = 2
    width: int = 32
    scaled: bool = False

    def __post_init__(self) -> None:
        require(self.layers >= 1, "AutoInt, layers", got=self.layers, expected="at least 1")
        require(self.heads >= 1 and self.width >= 1 and self.width % self.heads == 0, "AutoInt, heads", got=self.heads,
                expected=f"a divisor of the width {self.width}")  # fmt: skip


class FieldAttentionLayer(nn.Module):
    """Every field gathers from all fields by multi-head attention: `relu(attention(x) + W x)`.

    Args:
        inputs: Width of the fields.
        settings: Heads, width, scaling.
        draw: Where initial weights are drawn from.
        dropout: Share of attention weights dropped in training.

    Shapes:
        (B, F, inputs) -> (B, F, width). One weight (4 width, inputs): queries, keys, values, residual.

    Cost:
        O(B F inputs width + B F² width) time; shares (B, heads, F, F) are built.
    """

    def __init__(self, inputs: int, settings: FieldAttention, draw: torch.Generator, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = settings.heads, dropout
        self.scale = (settings.width / settings.heads) ** -0.5 if settings.scaled else 1.0
        self.project = linear(inputs, 4 * settings.width, draw, bias=False)

    def forward(self, fields_BFI: Tensor) -> Tensor:
        """Return what the fields gathered."""
        *parts, residual_BFW = self.project(fields_BFI).chunk(4, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        # Written out: with tens of fields it takes half the time of the fused attention on CPUs.
        shares_BHFF = (query @ key.transpose(2, 3) * self.scale).softmax(3)
        gathered_BHFW = functional.dropout(shares_BHFF, self.dropout, self.training) @ value
        outputs_BFW: Tensor = (gathered_BHFW.transpose(1, 2).flatten(2) + residual_BFW).relu()
        return outputs_BFW


class AutoInt(nn.Module):
    """AutoInt: attention layers over the fields, and one linear output; with a deep part beside it, AutoInt+.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D for all features; all D columns are the factor.
        features: Names of the id features.
        dense_dim: Number of dense columns: fields of the attention, plain inputs of the deep part.
        hidden: Widths of the deep part (AutoInt+); empty makes AutoInt. `Hidden` adds batch normalisation.
        attention: Layers, heads, width.
        dropout: Share of attention weights, and of each hidden layer, dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B F² width) per layer.

    Raises:
        ConfigError: If there is no feature, or widths differ.

    Source:
        Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks". The
        residual is always projected, as in the paper; its heads lie side by side in one width.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (), *,
        attention: FieldAttention | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen, draw = attention or FieldAttention(), generator(seed)
        self.fields = Fields(embed, features, dense_dim, draw=draw)
        require(0.0 <= dropout < 1.0, "dropout", got=dropout, expected="a share in [0, 1)")
        widths = [self.fields.factor_dim, *[chosen.width] * (chosen.layers - 1)]
        self.attention = nn.Sequential(*(FieldAttentionLayer(width, chosen, draw, dropout=dropout) for width in widths))
        self.output = linear(self.fields.count * chosen.width, 1, draw)
        self.deep = MLP(self.fields.flat_dim, hidden, 1, draw, dropout=dropout) if hidden else None
        self._width = chosen.width
        start_at(self.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        inputs = self.fields(batch)
        logits_B: Tensor = self.output(self.attention(inputs.fields).flatten(1)).squeeze(1)
        if self.deep is not None:
            logits_B = logits_B + self.deep(inputs.flat).squeeze(1)
        return logits_B

    def input_axes(self) -> dict[str, InputAxis]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        own = {"output.weight": InputAxis(axis=1, per_feature=self._width, per_dense=self._width)}
        return own if self.deep is None else {**own, "deep.layers.0.weight": self.fields.flat_axis()}
