"""Factorization machine: a linear model, and an inner product for every pair of fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.nn.fields import Fields, log_odds
from headrace.nn.layers import generator, pairwise_interactions
from headrace.types import Batch


class FM(nn.Module):
    """Factorization machine: `bias + sum_i w_i + sum_{i<j} <v_i, v_j>` over all fields.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D >= 2: column 0 is `w`, the others are `v`.
        features: Names of the id features.
        dense_dim: Number of dense columns; each is a field whose `w` and `v` are multiplied by its value.
        dim: D; None finds it out by embedding a batch of no examples.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B F D).

    Raises:
        ConfigError: If there is no feature, or widths differ or are below 2.

    Source:
        Rendle 2010, "Factorization Machines".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, *, dim: int | None = None, seed: int = 0,
        prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fields = Fields(embed, features, dense_dim, draw=generator(seed), dim=dim, first_order=True)
        self.bias = nn.Parameter(torch.tensor(log_odds(prior)))

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        inputs = self.fields(batch)
        logits_B: Tensor = self.bias + inputs.first + pairwise_interactions(inputs.fields)
        return logits_B
