"""Models of click-through rate over embedded ids and dense numbers.

Each takes `embed`, a module that maps a batch to `{feature: (B, D)}`. Column 0 of a feature's rows is its first-order
weight and the rest its factor, so that one table serves both terms, and one-dimensional tables make a linear model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.fields import (
    FACTOR_SPREAD,
    check_inputs,
    check_some_features,
    common_width,
    dense_columns,
    log_odds,
    stacked,
    start_at,
)
from headrace.nn.layers import MLP, InputAxis, embedded, generator, pairwise_interactions
from headrace.types import Batch


class LogisticRegression(nn.Module):
    """Logistic regression: a bias, one weight per id, one weight per dense column.

    Baselines are special cases: a single position feature is the position-only model, no feature and no dense column
    the base rate alone.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; only column 0 is read.
        features: Names of the features to add up.
        dense_dim: Number of dense columns.
        prior: Rate of positives to start from; sets the initial bias. Where positives are rare, a model that starts
            at 0.5 spends its first thousands of examples on nothing but the bias.

    Shapes:
        Batch of B -> logits (B,). Weights start at zero; the ids' own are the tables' business.

    Raises:
        ConfigError: If `dense_dim` is negative or features repeat.
    """

    def __init__(self, embed: nn.Module, features: Sequence[str], dense_dim: int, *, prior: float = 0.5) -> None:
        super().__init__()
        check_inputs(features, dense_dim)
        self.embed, self.features = embed, tuple(features)
        self.bias = nn.Parameter(torch.tensor(log_odds(prior)))
        self.dense_weight = nn.Parameter(torch.zeros(dense_dim))

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        rows = embedded(self.embed(batch), self.features, len(batch))
        logits_B = self.bias + dense_columns(batch, self.dense_weight.shape[0]) @ self.dense_weight
        for row_BD in rows:
            logits_B = logits_B + row_BD[:, 0]
        return logits_B

    def input_axes(self) -> dict[str, InputAxis]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        return {"dense_weight": InputAxis(axis=0, per_feature=0, per_dense=1)}


class DeepFM(nn.Module):
    """DeepFM: a factorization machine and a deep network over the same embeddings, added up.

    A dense column takes part like a one-valued field: its value times a learned weight, its value times a learned
    factor in the interactions, and its value as an input of the deep network.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D >= 2 for all features.
        features: Names of the id features, in the order of the deep network's input.
        dense_dim: Number of dense columns.
        hidden: Widths of the deep network; `Hidden` adds batch normalisation.
        dim: D; None finds it out by embedding a batch of no examples.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights; equal arguments give equal weights, whatever was drawn before.
        prior: Rate of positives to start from; sets the initial output bias.

    Shapes:
        Batch of B -> logits (B,).

    Raises:
        ConfigError: If there is no feature, widths differ or are below 2, or `dim` is not known.

    Source:
        Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction". We differ in
        the output bias of the deep network, which doubles as the model's, and in dense factors (the paper buckets or
        embeds numbers; its authors' code multiplies, as we do).
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        dim: int | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        check_inputs(features, dense_dim)
        check_some_features(features)
        self.embed, self.features = embed, tuple(features)
        self.dim = common_width(embed, self.features) if dim is None else dim
        require(self.dim >= 2, "DeepFM, dim", got=self.dim, expected="at least 2: one weight and one factor column")
        draw, factor_dim = generator(seed), self.dim - 1
        self.dense_weight = nn.Parameter(torch.zeros(dense_dim))
        self.dense_factors = nn.Parameter(
            torch.empty(dense_dim, factor_dim).normal_(0.0, FACTOR_SPREAD, generator=draw)
        )
        self.deep = MLP(len(self.features) * factor_dim + dense_dim, hidden, 1, draw, dropout=dropout)
        start_at(self.deep.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        rows_BFD = stacked(self.embed(batch), self.features, self.dim, len(batch))
        dense_BC = dense_columns(batch, self.dense_weight.shape[0])
        first_B = rows_BFD[:, :, 0].sum(1) + dense_BC @ self.dense_weight
        factors_BFK = rows_BFD[:, :, 1:]
        fields_BFK, flat_BI = factors_BFK, factors_BFK.flatten(1)
        if dense_BC.shape[1]:  # without dense columns there is nothing to lay beside them, and nothing is copied
            fields_BFK = torch.cat([factors_BFK, dense_BC.unsqueeze(2) * self.dense_factors], dim=1)
            flat_BI = torch.cat([flat_BI, dense_BC], dim=1)
        deep_B1: Tensor = self.deep(flat_BI)
        return first_B + pairwise_interactions(fields_BFK) + deep_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputAxis]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        return {
            "deep.layers.0.weight": InputAxis(axis=1, per_feature=self.dim - 1, per_dense=1),
            "dense_weight": InputAxis(axis=0, per_feature=0, per_dense=1),
            "dense_factors": InputAxis(axis=0, per_feature=0, per_dense=1),
        }
