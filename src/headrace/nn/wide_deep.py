"""Wide & Deep: a linear model and a deep network, learned together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from headrace.nn.fields import Fields, start_at
from headrace.nn.layers import MLP, InputAxis, generator
from headrace.types import Batch


class WideDeep(nn.Module):
    """Wide & Deep: the first-order terms of all features and dense columns, plus an MLP over embeddings and columns.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D >= 2: column 0 is the wide weight, the others go deep.
        features: Names of the id features, in the order of the deep network's input. Crossed features for the wide
            part are features of the data; here every feature is in both parts.
        dense_dim: Number of dense columns.
        hidden: Widths of the deep network; `Hidden` adds batch normalisation.
        dim: D; None finds it out by embedding a batch of no examples.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost: as the MLP's, over N (D - 1) + C inputs.

    Raises:
        ConfigError: If there is no feature, or widths differ or are below 2.

    Source:
        Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        dim: int | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        draw = generator(seed)
        self.fields = Fields(embed, features, dense_dim, draw=draw, dim=dim, first_order=True, dense_fields=False)
        self.deep = MLP(self.fields.flat_dim, hidden, 1, draw, dropout=dropout)
        start_at(self.deep.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        inputs = self.fields(batch)
        logits_B: Tensor = inputs.first + self.deep(inputs.flat).squeeze(1)
        return logits_B

    def input_axes(self) -> dict[str, InputAxis]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        return {"deep.layers.0.weight": self.fields.flat_axis()}
