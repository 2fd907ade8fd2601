"""BST: a transformer over a history and the target behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.config import known_name, require
from headrace.errors import DataError
from headrace.nn.fields import dense_columns, start_at
from headrace.nn.layers import MLP, InputLayout, embedded, empty_embeddings, generator
from headrace.nn.sequence import Padded, check_pairs, history, pair_widths
from headrace.nn.sequence_attention import TransformerBlock
from headrace.types import Batch

POSITION_SPREAD = 0.01
"""Standard deviation of initial position vectors: small, so that training begins without an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BSTSettings:
    """What BST has beside its deep part.

    Attributes:
        blocks: Transformer blocks, one over the other.
        heads: Heads of their attention; a divisor of twice the width of the history's embedding.
        max_length: Longest history; there is one position vector for each distance from the target.
        pooling: What of the block's outputs goes on: the `mean` over history and target, or the `target`'s own.
        dropout: Share dropped in training, in the blocks and in each hidden layer of the deep part.
    """

    blocks: int = 1
    heads: int = 2
    max_length: int = 50
    pooling: Literal["mean", "target"] = "mean"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.blocks >= 1, "blocks", got=self.blocks, expected="1 or more")
        require(self.max_length >= 1, "max_length", got=self.max_length, expected="1 or more")
        known_name("pooling", self.pooling, ["mean", "target"])


class BST(nn.Module):
    """Behavior Sequence Transformer: every entry and the target attend to one another, then an MLP over everything.

    Entries and target carry a learned vector of their distance from the target, so that newer and older differ.
    The MLP reads the embeddings of the features that are no history, the dense columns, and what the blocks made of
    each history, of twice its width (entry and position).

    Args:
        embed: Maps a batch to `{feature: (B, D)}`, and histories (pooling `none`) to (L, D).
        features: Names of all features: histories and targets among them.
        dense_dim: Number of dense columns.
        hidden: Widths of the deep part.
        pairs: History feature -> the feature it is compared with, which shares its table.
        settings: Blocks, heads, longest history, pooling, dropout.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B T² D) for a longest history of T.

    Raises:
        ConfigError: If a history or target is none of the features, or a pair differs in width.

    Source:
        Chen et al. 2019, "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba". We differ in the
        position, which is a rank where the paper has a time difference, and in pooling, where the paper joins the
        outputs of all positions of a fixed length; both as FuxiCTR does.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (256, 64), *,
        pairs: Mapping[str, str], settings: BSTSettings | None = None, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        check_pairs(features, pairs)
        self.embed, self.features, self.dense_dim, self.pairs = embed, tuple(features), dense_dim, dict(pairs)
        self.settings = chosen = settings or BSTSettings()
        draw, widths = generator(seed), pair_widths(embed, pairs)
        self.encoders = nn.ModuleList(HistoryEncoder(width, chosen, draw) for width in widths)
        self.single = tuple(name for name in self.features if name not in self.pairs)
        inputs = sum(rows.shape[1] for rows in empty_embeddings(embed, self.single)) + 2 * sum(widths) + dense_dim
        self.deep = MLP(inputs, hidden, 1, draw, dropout=chosen.dropout)
        start_at(self.deep.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,).

        Raises:
            DataError: If a history is longer than `max_length`.
        """
        rows = self.embed(batch)
        inputs = embedded(rows, self.single, len(batch))
        for encoder, (name, target) in zip(self.encoders, self.pairs.items(), strict=True):
            past = history(rows, batch, name).padded()
            if past.mask.shape[1] > self.settings.max_length:
                raise DataError(f"Feature '{name}'", got=f"a history of {past.mask.shape[1]} entries",
                                expected=f"at most {self.settings.max_length}, the model's max_length",
                                do="Give the sequence feature the same max_length.")  # fmt: skip
            inputs.append(encoder(past, rows[target]))
        logits_B1: Tensor = self.deep(torch.cat([*inputs, dense_columns(batch, self.dense_dim)], dim=1))
        return logits_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs: none can be moved to others; see `InputLayout`."""
        return {"deep.layers.0.weight": ()}


class HistoryEncoder(nn.Module):
    """Transformer blocks over the target and its history, and their pooled output.

    Args:
        width: Width D of entries and target.
        settings: As of the model.
        draw: Where initial weights are drawn from.

    Shapes:
        history (B, T, D), target (B, D) -> (B, 2 D); position vectors (max_length + 1, D), by distance from the target.
    """

    def __init__(self, width: int, settings: BSTSettings, draw: torch.Generator) -> None:
        super().__init__()
        self.pooling = settings.pooling
        self.positions = nn.Parameter(
            torch.empty(settings.max_length + 1, width).normal_(0.0, POSITION_SPREAD, generator=draw)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(2 * width, settings.heads, draw, order="post", activation=nn.LeakyReLU(),
                             dropout=settings.dropout)
            for _ in range(settings.blocks)
        )  # fmt: skip

    def forward(self, past: Padded, target_BD: Tensor) -> Tensor:
        """Return what the blocks made of the history and the target."""
        steps = torch.arange(past.mask.shape[1], device=past.mask.device)
        away_BT = (past.lengths.unsqueeze(1) - steps).clamp(min=0)
        # The target stands first, at distance 0, so that padding is at the end for every example.
        entries = torch.cat([target_BD.unsqueeze(1), past.rows], dim=1)
        away = torch.cat([away_BT.new_zeros(len(target_BD), 1), away_BT], dim=1)
        mask = torch.cat([past.mask.new_ones(len(target_BD), 1), past.mask], dim=1)
        outputs = torch.cat([entries, self.positions[away]], dim=2)
        for block in self.blocks:
            outputs = block(outputs, mask)
        if self.pooling == "target":
            return outputs[:, 0]
        weights = mask / mask.sum(1, keepdim=True)
        # Padding is put to 0 before it is weighed: a product with 0 would pass its gradient on.
        return (outputs.masked_fill(~mask.unsqueeze(2), 0.0) * weights.unsqueeze(2)).sum(1)
