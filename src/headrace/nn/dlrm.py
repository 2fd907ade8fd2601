"""DLRM: inner products of all pairs of embeddings and of what an MLP makes of the dense columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

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


class _PairProducts(torch.autograd.Function):
    """Products of all pairs, whose gradient is one product with a symmetric matrix: half of what autograd would do."""

    generate_vmap_rule = True

    @staticmethod
    def forward(vectors_BVD: Tensor, chosen_P: Tensor, places_VV: Tensor) -> Tensor:
        """Return the chosen entries of the matrix of products."""
        return torch.bmm(vectors_BVD, vectors_BVD.transpose(1, 2)).flatten(1).index_select(1, chosen_P)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep the vectors."""
        vectors_BVD, _, places_VV = inputs
        ctx.save_for_backward(vectors_BVD, places_VV)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Lay the gradient of pair (i, j) out at (i, j) and (j, i), and multiply by the vectors."""
        vectors_BVD, places_VV = ctx.saved_tensors
        padded = torch.nn.functional.pad(grads[0], (0, 1))  # one column of zeros, for the diagonal
        grads_BVV = padded.index_select(1, places_VV.flatten()).view(len(padded), *places_VV.shape)
        return torch.bmm(grads_BVV, vectors_BVD), None, None


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # kept tensors have to serve in training too
def _pairs(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places (P,) of pairs in a flattened matrix, and (V, V) the pair of each entry; P on the diagonal."""
    first, second = torch.triu_indices(count, count, offset=1, device=device)
    pairs = torch.arange(len(first), device=device)
    places_VV = torch.full((count, count), len(first), device=device)
    places_VV[first, second] = pairs
    places_VV[second, first] = pairs
    return first * count + second, places_VV


def upper_products(vectors_BVD: Tensor) -> Tensor:
    """Return the inner products of all pairs i < j, in the order (0, 1), (0, 2), ..., (1, 2), ...

    Shapes:
        (B, V, D) -> (B, V (V - 1) / 2)

    Cost:
        O(B V² D); a third of the time that indexing the matrix of products takes with its gradient.

    Example:
        >>> upper_products(torch.tensor([[[1.0], [2.0], [3.0]]]))
        tensor([[2., 3., 6.]])
    """
    chosen_P, places_VV = _pairs(vectors_BVD.shape[1], vectors_BVD.device)
    products: Tensor = _PairProducts.apply(vectors_BVD, chosen_P, places_VV)  # type: ignore[no-untyped-call]
    return products
