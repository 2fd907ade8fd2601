"""Self-attention over padded histories, and the transformer block around it in its two orders."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from headrace.config import known_name, require
from headrace.nn.layers import linear

Order = Literal["pre", "post"]
"""Where a block normalises: before each of its two parts, on the branch (`pre`), or after adding them up (`post`)."""


class SelfAttention(nn.Module):
    """Scaled dot-product attention of every position over those that it may see, in several heads.

    A position always sees itself, so that even padding attends to something and nothing is ever divided by zero.

    Args:
        width: Width of inputs and outputs; a multiple of `heads`.
        heads: Number of heads.
        draw: Where initial weights are drawn from.
        dropout: Share of attention weights dropped in training.

    Shapes:
        (B, T, width), mask (B, T) bool -> (B, T, width)

    Cost:
        O(B T² width).

    Raises:
        ConfigError: If `width` is no multiple of `heads`.
    """

    def __init__(self, width: int, heads: int, draw: torch.Generator, *, dropout: float = 0.0) -> None:
        super().__init__()
        require(heads >= 1 and width % heads == 0, "heads", got=heads, expected=f"a divisor of the width {width}")
        require(0.0 <= dropout < 1.0, "dropout", got=dropout, expected="a share in [0, 1)")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (linear(width, width, draw) for _ in range(4))

    def forward(self, inputs_BTD: Tensor, mask_BT: Tensor, *, causal: bool = False) -> Tensor:
        """Return what every position gathers; with `causal` from itself and earlier positions only."""
        positions = inputs_BTD.shape[1]
        itself = torch.eye(positions, dtype=torch.bool, device=mask_BT.device)
        seen = mask_BT[:, None, None, :] | itself
        if causal:
            seen = seen & torch.ones_like(itself).tril()
        query, key, value = (self._split(part(inputs_BTD)) for part in (self.query, self.key, self.value))
        dropped = self.dropout if self.training else 0.0
        gathered = scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropped)
        outputs: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return outputs

    def _split(self, values_BTD: Tensor) -> Tensor:
        batch_rows, positions, width = values_BTD.shape
        return values_BTD.view(batch_rows, positions, self.heads, width // self.heads).transpose(1, 2)


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer of two, each with a residual connection and a normalisation.

    `post` is the original transformer: `s = LN(x + A(x)); y = LN(s + F(s))`; `pre` normalises the branches:
    `s = x + A(LN(x)); y = s + F(LN(s))`.

    Args:
        width: Width of inputs and outputs.
        heads: Heads of the attention.
        draw: Where initial weights are drawn from.
        order: `pre` or `post`.
        activation: Between the two feed-forward layers.
        dropout: Share dropped in training, of attention weights and of both branches.
        epsilon: Added to variances by the normalisations.

    Shapes:
        (B, T, width), mask (B, T) bool -> (B, T, width)

    Source:
        Vaswani et al. 2017, "Attention Is All You Need".
    """

    def __init__(
        self, width: int, heads: int, draw: torch.Generator, *, order: Order, activation: nn.Module,
        dropout: float = 0.0, epsilon: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        known_name("order", order, ["pre", "post"])
        self.order = order
        self.attention = SelfAttention(width, heads, draw, dropout=dropout)
        self.forward_layers = nn.Sequential(
            linear(width, width, draw, gain=math.sqrt(2.0)), activation, nn.Dropout(dropout), linear(width, width, draw)
        )
        self.attention_norm, self.forward_norm = nn.LayerNorm(width, eps=epsilon), nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs_BTD: Tensor, mask_BT: Tensor, *, causal: bool = False) -> Tensor:
        """Return the block's outputs; what stands at padding means nothing."""
        outputs: Tensor
        if self.order == "post":
            gathered = self.attention(inputs_BTD, mask_BT, causal=causal)
            middle = self.attention_norm(inputs_BTD + self.dropout(gathered))
            outputs = self.forward_norm(middle + self.dropout(self.forward_layers(middle)))
        else:
            gathered = self.attention(self.attention_norm(inputs_BTD), mask_BT, causal=causal)
            middle = inputs_BTD + self.dropout(gathered)
            outputs = middle + self.dropout(self.forward_layers(self.forward_norm(middle)))
        return outputs
