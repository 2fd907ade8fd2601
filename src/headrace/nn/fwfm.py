"""FwFM: a factorization machine in which every pair of fields has a learned weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.nn.fields import Fields, start_at
from headrace.nn.layers import InputAxis, InputLayout, generator, linear
from headrace.types import Batch


class FwFM(nn.Module):
    """Field-weighted Factorization Machine.

    All pairs of fields interact as in a factorization machine, each pair with a weight of its own that starts at 1,
    and every field adds the inner product of its factor with one vector per field. It has about as many parameters as
    FM where FFM has one factor per pair.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D for all features.
        features: Names of the id features.
        dense_dim: Number of dense columns; each is a field.
        dim: D; None finds it out by embedding a batch of no examples.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B F² D) for the products of F fields.

    Raises:
        ConfigError: If there is no feature or widths differ.

    Source:
        Pan et al. 2018, "Field-weighted Factorization Machines for Click-Through Rate Prediction in Display
        Advertising", with the linear term that the paper calls FiLV.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, *, dim: int | None = None, seed: int = 0,
        prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        draw = generator(seed)
        self.fields = Fields(embed, features, dense_dim, draw=draw, dim=dim)
        self.left, self.right = torch.triu_indices(self.fields.count, self.fields.count, 1)
        self.pair_weights = nn.Parameter(torch.ones(len(self.left)))
        self.linear = linear(self.fields.count * self.fields.factor_dim, 1, draw)
        start_at(self.linear, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        fields_BFK = self.fields(batch).fields
        products_BFF = fields_BFK @ fields_BFK.transpose(1, 2)
        pairs_B = products_BFF[:, self.left, self.right] @ self.pair_weights
        linear_B1: Tensor = self.linear(fields_BFK.flatten(1))
        logits_B: Tensor = pairs_B + linear_B1.squeeze(1)
        return logits_B

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; pairs have no such layout. See `InputLayout`."""
        width = self.fields.factor_dim
        return {"pair_weights": (), "linear.weight": InputAxis(axis=1, per_feature=width, per_dense=width)}
