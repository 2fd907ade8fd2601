"""DLRM: inner products of all pairs of embeddings and of what an MLP makes of the dense columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.nn.fields import check_inputs, check_some_features, common_width, dense_columns, stacked, start_at
from headrace.nn.layers import MLP, InputAxis, InputLayout, generator
from headrace.types import Batch


class DLRM(nn.Module):
    """Deep Learning Recommendation Model.

    A bottom MLP turns the dense columns into one more vector of the embeddings' width. A top MLP reads the inner
    products of all pairs of vectors, and the dense vector. Without dense columns there is no bottom MLP.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D for all features.
        features: Names of the id features.
        dense_dim: Number of dense columns.
        hidden: Widths of the top MLP's hidden layers.
        bottom: Widths of the bottom MLP's hidden layers; its output is rectified and of width D.
        dropout: Share of each hidden layer of both MLPs dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B F² D) for the products of F vectors.

    Raises:
        ConfigError: If there is no feature, only one vector (nothing to pair), or widths differ.

    Source:
        Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        bottom: Sequence[int] = (64,), dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        check_inputs(features, dense_dim)
        check_some_features(features)
        self.embed, self.features, self.dense_dim = embed, tuple(features), dense_dim
        self.dim, draw = common_width(embed, self.features), generator(seed)
        self.bottom = MLP(dense_dim, bottom, self.dim, draw, dropout=dropout) if dense_dim else None
        vectors = len(self.features) + int(dense_dim > 0)
        self.top = MLP(vectors * (vectors - 1) // 2 + (self.dim if dense_dim else 0), hidden, 1, draw, dropout=dropout)
        start_at(self.top.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        vectors_BVD = stacked(self.embed(batch), self.features, self.dim, len(batch))
        dense_BC = dense_columns(batch, self.dense_dim)
        if self.bottom is None:
            logits_B1: Tensor = self.top(upper_products(vectors_BVD))
            return logits_B1.squeeze(1)
        dense_BD = torch.relu(self.bottom(dense_BC))
        products = upper_products(torch.cat([vectors_BVD, dense_BD.unsqueeze(1)], dim=1))
        logits_B1 = self.top(torch.cat([products, dense_BD], dim=1))
        return logits_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; pairs have no such layout. See `InputLayout`."""
        pairs: dict[str, InputLayout] = {"top.layers.0.weight": ()}
        if self.bottom is None:
            return pairs
        return {**pairs, "bottom.layers.0.weight": InputAxis(axis=1, per_feature=0, per_dense=1)}


def upper_products(vectors_BVD: Tensor) -> Tensor:
    """Return the inner products of all pairs i < j, in the order (0, 1), (0, 2), ..., (1, 2), ...

    Shapes:
        (B, V, D) -> (B, V (V - 1) / 2)

    Example:
        >>> upper_products(torch.tensor([[[1.0], [2.0], [3.0]]]))
        tensor([[2., 3., 6.]])
    """
    count = vectors_BVD.shape[1]
    first, second = torch.triu_indices(count, count, offset=1, device=vectors_BVD.device)
    return (vectors_BVD @ vectors_BVD.transpose(1, 2))[:, first, second]
