"""Field-aware factorization machine: a feature has another factor for every field that it meets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.fields import Fields, log_odds
from headrace.nn.layers import InputLayout, generator
from headrace.types import Batch


def ffm_width(fields: int, factor_dim: int) -> int:
    """Return the width of the table rows of an `FFM`: one weight, and one factor for each field.

    Args:
        fields: Number of fields: id features and dense columns.
        factor_dim: Width of one factor. Each has one other to meet, so that few columns do: 2 to 4.

    Example:
        >>> ffm_width(fields=3, factor_dim=2)
        7
    """
    return 1 + fields * factor_dim


class FFM(nn.Module):
    """Field-aware factorization machine: `bias + sum_i w_i + sum_{i<j} <v_{i,j}, v_{j,i}>` over all fields.

    `v_{i,j}` is what field i has for meeting field j. A row holds its weight, then its factors for field 0, field 1
    and so on: id features in their order, then dense columns. What it holds for its own field is not used; the place
    keeps all rows alike, so that a pair is found by transposing and nothing has to be gathered.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with D = `ffm_width(F, factor_dim)` for all features.
        features: Names of the id features.
        dense_dim: Number of dense columns; each is a field whose weight and factors are multiplied by its value.
        dim: D; None finds it out by embedding a batch of no examples.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B F² K) time and memory for factors of width K, where a factorization machine needs O(B F K).

    Raises:
        ConfigError: If there is no feature, or D is not one more than a multiple of F.

    Source:
        Juan et al. 2016, "Field-aware Factorization Machines for CTR Prediction". We add the bias and the
        first-order weights, which its formula leaves out.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, *, dim: int | None = None, seed: int = 0,
        prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fields = Fields(embed, features, dense_dim, draw=generator(seed), dim=dim, first_order=True)
        count, columns = self.fields.count, self.fields.factor_dim
        require(columns % count == 0, "FFM, dim", got=self.fields.dim,
                expected=f"1 + a multiple of the {count} fields, as {ffm_width(count, 1)} or {ffm_width(count, 2)}",
                do="Give the tables dim=ffm_width(fields, factor_dim).")  # fmt: skip
        self.bias = nn.Parameter(torch.tensor(log_odds(prior)))
        # Not a buffer: it says nothing that was learned, and is not to be published.
        self.register_buffer("_pairs", torch.ones(count, count).triu(1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        inputs, count = self.fields(batch), self.fields.count
        factors_BFFK = inputs.fields.unflatten(2, (count, -1))
        met_BFF = (factors_BFFK * factors_BFFK.transpose(1, 2)).sum(3)
        logits_B: Tensor = self.bias + inputs.first + (met_BFF * self.get_buffer("_pairs")).sum((1, 2))
        return logits_B

    def input_axes(self) -> dict[str, InputLayout]:
        """Return that rows belong to these features in this order, and cannot be moved; see `InputLayout`."""
        return {"fields.dense_factors": ()}
