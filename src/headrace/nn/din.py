"""DIN: a history is summed with weights that depend on the target it is compared with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as product

from headrace.config import known_name, require
from headrace.nn.dice import Dice
from headrace.nn.fields import dense_columns, start_at
from headrace.nn.layers import MLP, InputAxis, InputLayout, embedded, empty_embeddings, generator, linear
from headrace.nn.sequence import (
    History,
    Padded,
    check_pairs,
    history,
    masked_softmax,
    pad,
    pair_widths,
    sum_rows,
    unpad,
)
from headrace.types import Batch

PRELU_SLOPE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DINSettings:
    """What DIN has beside its deep part.

    Attributes:
        attention: Hidden widths of the attention unit.
        activation: In the attention unit: `dice` or `prelu`.
        softmax: Let the weights of an example add up to 1. The paper does not, so that much similar history counts
            for more than little.
        dropout: Share of each hidden layer of the deep part dropped in training.
    """

    attention: tuple[int, ...] = (64,)
    activation: Literal["dice", "prelu"] = "dice"
    softmax: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        known_name("activation", self.activation, ["dice", "prelu"])


class AttentionUnit(nn.Module):
    """Weight of a history entry for a target: an MLP over both, their difference and their product.

    It runs on the entries that are there, not on padding, so `Dice` sees no zeros that nobody clicked.

    Args:
        width: Width D of entries and targets.
        settings: Widths, activation, softmax.
        draw: Where initial weights are drawn from.

    Shapes:
        entries of L rows, targets (B, D) -> the weighted sums (B, D), zeros where there is no entry.
    """

    def __init__(self, width: int, settings: DINSettings, draw: torch.Generator) -> None:
        super().__init__()
        widths = [4 * width, *settings.attention]
        require(all(size >= 1 for size in widths), "attention widths", got=widths, expected="positive integers")
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            bend = Dice(after) if settings.activation == "dice" else nn.PReLU(after, init=PRELU_SLOPE)
            layers += [linear(before, after, draw, gain=math.sqrt(2.0)), bend]
        self.layers = nn.Sequential(*layers, linear(widths[-1], 1, draw))
        self.softmax = settings.softmax

    def forward(self, past: History, targets_BD: Tensor) -> Tensor:
        """Return the weighted sum of every example's entries."""
        examples_L = past.examples()
        weights_L1 = self._first(targets_BD.index_select(0, examples_L), past.rows)
        for layer in itertools.islice(self.layers, 1, None):
            weights_L1 = layer(weights_L1)
        if self.softmax:
            laid = pad(weights_L1, past.offsets)
            weights_BT = masked_softmax(laid.rows.squeeze(2), laid.mask)
            weights_L1 = unpad(Padded(weights_BT.unsqueeze(2), laid.mask))
        return sum_rows(weights_L1 * past.rows, examples_L, len(targets_BD))

    def _first(self, targets_LD: Tensor, entries_LD: Tensor) -> Tensor:
        """Return the first layer's output for targets, entries, their differences and their products, side by side.

        The differences are never made: what they would be multiplied with is added to the weights of targets, and
        taken from those of entries. That leaves three quarters of the largest product of all. Where somebody hooks
        into the layer, it is called on all four instead.
        """
        first = self.layers[0]
        if type(first) is not nn.Linear or first._forward_hooks or first._forward_pre_hooks:
            both = [targets_LD, entries_LD, targets_LD - entries_LD, targets_LD * entries_LD]
            called: Tensor = first(torch.cat(both, dim=1))
            return called
        of_target, of_entry, of_difference, of_product = first.weight.chunk(4, dim=1)
        weight = torch.cat([of_target + of_difference, of_entry - of_difference, of_product], dim=1)
        inputs = torch.cat([targets_LD, entries_LD, targets_LD * entries_LD], dim=1)
        return product(inputs, weight, first.bias)


class DIN(nn.Module):
    """Deep Interest Network: attention of the target over the history, then an MLP over everything.

    The MLP reads, feature by feature, its embedding or the weighted sum of its history, and then the dense columns.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`, and histories (pooling `none`) to (L, D).
        features: Names of all features in the order of the deep part's input: histories and targets among them.
        dense_dim: Number of dense columns.
        hidden: Widths of the deep part.
        pairs: History feature -> the feature it is compared with, which shares its table.
        settings: Attention unit and dropout.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(L D H) for L history entries in the batch and attention width H; nothing is spent on padding.

    Raises:
        ConfigError: If a target is none of the features, or differs in width from its history.

    Source:
        Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction". We differ in the deep part, which
        is rectified, and in not having the paper's mini-batch aware regularisation: decay of rows is the tables' rule.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (200, 80), *,
        pairs: Mapping[str, str], settings: DINSettings | None = None, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        check_pairs(features, pairs)
        self.embed, self.features, self.dense_dim, self.pairs = embed, tuple(features), dense_dim, dict(pairs)
        chosen, draw = settings or DINSettings(), generator(seed)
        self.units = nn.ModuleList(AttentionUnit(width, chosen, draw) for width in pair_widths(embed, pairs))
        self.widths = [int(rows.shape[1]) for rows in empty_embeddings(embed, self.features)]
        self.deep = MLP(sum(self.widths) + dense_dim, hidden, 1, draw, dropout=chosen.dropout)
        start_at(self.deep.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        rows = dict(self.embed(batch))
        targets = dict(zip(self.pairs, embedded(rows, tuple(self.pairs.values()), len(batch)), strict=True))
        for unit, (past, target_BD) in zip(self.units, targets.items(), strict=True):
            rows[past] = unit(history(rows, batch, past), target_BD)
        fields = embedded(rows, self.features, len(batch))
        logits_B1: Tensor = self.deep(torch.cat([*fields, dense_columns(batch, self.dense_dim)], dim=1))
        return logits_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; where widths differ nothing can be moved."""
        if len(set(self.widths)) > 1:
            return {"deep.layers.0.weight": ()}
        return {"deep.layers.0.weight": InputAxis(axis=1, per_feature=self.widths[0], per_dense=1)}
