"""Two towers: users and items as vectors apart from each other, so that the nearest items can be looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.layers import MLP, embedded, empty_embeddings, generator
from headrace.nn.sequence import in_evaluation, only
from headrace.types import Batch

NORM_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class TowerInputs:
    """What one tower reads.

    Attributes:
        features: Names of features with one row per example; a history takes part with pooling `mean` or `sum`.
        dense: Numbers of dense columns.
    """

    features: tuple[str, ...]
    dense: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        names: object = self.features
        distinct = isinstance(names, tuple) and len(set(names)) == len(names) > 0
        require(distinct, "TowerInputs.features", got=names, expected="distinct names, at least one")


class Tower(nn.Module):
    """An MLP over embeddings and dense columns whose output has length 1.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; asked for widths only.
        reads: Features and dense columns.
        hidden: Widths of the hidden layers.
        width: Width K of the output.
        draw: Where initial weights are drawn from.

    Shapes:
        -> (B, K) with rows of length 1.
    """

    def __init__(
        self, embed: nn.Module, reads: TowerInputs, hidden: Sequence[int], width: int, draw: torch.Generator
    ) -> None:
        super().__init__()
        self.reads = reads
        inputs = sum(int(rows.shape[1]) for rows in empty_embeddings(embed, reads.features)) + len(reads.dense)
        self.layers = MLP(inputs, hidden, width, draw)

    def forward(self, rows: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the vectors of the examples' users or items."""
        inputs = embedded(rows, self.reads.features, len(batch))
        if self.reads.dense:
            inputs = [*inputs, batch.dense[:, list(self.reads.dense)]]
        return normalize(self.layers(torch.cat(inputs, dim=1)), dim=1, eps=NORM_EPSILON)


@dataclass(frozen=True, slots=True)
class Towers:
    """Both towers' outputs for a batch.

    Shapes:
        users (B, K), items (B, K), all of length 1; item_ids (B,) int64.
    """

    users: Tensor
    items: Tensor
    item_ids: Tensor


class TwoTower(nn.Module):
    """A user tower and an item tower: `<u, v> / temperature`, with both of length 1.

    Learned with `headrace.objectives.SampledSoftmax`, which tells an item from the others of a batch. Retrieval keeps
    the towers apart: `item` once for the whole catalogue, `user` for each request.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`.
        user: What the user tower reads.
        item: What the item tower reads; the first feature names the item, with one id per example.
        hidden: Widths of the hidden layers of both towers.
        width: Width K of both outputs.
        temperature: What inner products are divided by. They lie in [-1, 1]: small values let probabilities be far
            from equal.
        seed: Seed of the initial weights.
        frequencies: Log-chance of items to be in a batch, for the objective's correction; `StreamingFrequencies`
            learns it.

    Shapes:
        Batch of B -> logits (B,).

    Raises:
        ConfigError: If the temperature is not positive, or the towers share a feature.

    Source:
        Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations".
    """

    def __init__(
        self, embed: nn.Module, user: TowerInputs, item: TowerInputs, hidden: Sequence[int] = (64,), *,
        width: int = 32, temperature: float = 0.1, seed: int = 0, frequencies: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require(temperature > 0.0, "temperature", got=temperature, expected="a positive number")
        shared = sorted(set(user.features) & set(item.features))
        require(not shared, "TwoTower, features", got=f"{shared} in both towers", expected="towers that stand apart",
                do="Use two features of the same table if both need its rows.")  # fmt: skip
        self.embed, self.temperature, draw = embed, temperature, generator(seed)
        self.user_tower = Tower(embed, user, hidden, width, draw)
        self.item_tower = Tower(embed, item, hidden, width, draw)
        self.frequencies = frequencies

    @property
    def item_feature(self) -> str:
        """The feature that names the item."""
        return self.item_tower.reads.features[0]

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,) of the examples' own users and items."""
        seen = in_evaluation(batch, (*self.user_tower.reads.features, *self.item_tower.reads.features))
        rows = self.embed(seen)
        cosines_B: Tensor = (self.user_tower(rows, batch) * self.item_tower(rows, batch)).sum(1)
        return cosines_B / self.temperature

    def user(self, batch: Batch) -> Tensor:
        """Return the users' vectors (B, K); the batch need not have the item's features."""
        vectors: Tensor = self.user_tower(self.embed(only(batch, self.user_tower.reads.features)), batch)
        return vectors

    def item(self, batch: Batch) -> Tensor:
        """Return the items' vectors (B, K); the batch need not have the user's features."""
        vectors: Tensor = self.item_tower(self.embed(only(batch, self.item_tower.reads.features)), batch)
        return vectors

    def towers(self, batch: Batch) -> Towers:
        """Return both towers' vectors and the items' ids, from one lookup: what an objective learns from.

        Raises:
            DataError: If the examples have not exactly one item each.
        """
        item_ids = batch.ids[self.item_feature]
        if not torch.equal(item_ids.offsets, torch.arange(len(batch) + 1)):
            raise DataError(
                f"Feature '{self.item_feature}'", got=f"{len(item_ids.values)} ids in {len(batch)} examples",
                expected="exactly one id per example", do="Let the first feature of the item tower name the item.",
            )  # fmt: skip
        rows = self.embed(batch)
        return Towers(self.user_tower(rows, batch), self.item_tower(rows, batch), item_ids.values)
