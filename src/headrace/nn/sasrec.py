"""SASRec: the next item from a causal transformer over the items before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.layers import embedded, generator
from headrace.nn.sequence import History, Padded, check_pairs, history, in_evaluation, only, pair_widths
from headrace.nn.sequence_attention import TransformerBlock
from headrace.types import Batch

NORM_EPSILON = 1e-8
POSITION_SPREAD = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SASRecSettings:
    """Sizes of SASRec.

    Attributes:
        blocks: Transformer blocks, one over the other.
        heads: Heads of their attention; a divisor of the width of the items' embedding.
        max_length: Longest history.
        dropout: Share dropped in training: of inputs, attention weights and outputs of the blocks' parts.
    """

    blocks: int = 2
    heads: int = 1
    max_length: int = 50
    dropout: float = 0.2

    def __post_init__(self) -> None:
        require(self.blocks >= 1, "blocks", got=self.blocks, expected="1 or more")
        require(self.max_length >= 1, "max_length", got=self.max_length, expected="1 or more")


@dataclass(frozen=True, slots=True)
class Transitions:
    """What a model over histories has to foretell: at N places in a batch, the item that comes next.

    Shapes:
        states (N, D), what the model knows before the item; items (N, D) and ids (N,) the item that came; examples
        (N,) int64, the example it is from; candidates (C, D) and candidate_ids (C,), items to tell it from.
    """

    states: Tensor
    items: Tensor
    ids: Tensor
    examples: Tensor
    candidates: Tensor
    candidate_ids: Tensor


class SASRec(nn.Module):
    """Self-Attentive Sequential Recommendation: `<state after the history, embedding of the target>`.

    The state after an entry depends on that entry and earlier ones only, and on their places counted from the oldest:
    it is the same whether the history goes on or ends there. So every entry of a history is one more case to learn
    from (`transitions`; `headrace.objectives.NextItem` is the loss), and `user` is what retrieval keeps.

    Args:
        embed: Maps a batch to the target (B, D), and the history (pooling `none`) to (L, D), from the same table.
        features: Names of all features; only history and target are read.
        dense_dim: Number of dense columns; none is read.
        pairs: The one history feature -> the target feature.
        settings: Sizes.
        seed: Seed of the initial weights.

    Shapes:
        Batch of B -> logits (B,); 0 for an example without history.

    Cost:
        O(B T² D) for a longest history of T.

    Raises:
        ConfigError: If there is not exactly one pair of features of one width.

    Source:
        Kang and McAuley 2018, "Self-Attentive Sequential Recommendation". Normalisation stands before each part, as in
        the paper. We differ in positions, which count from the oldest entry and not from the end of a window of fixed
        length.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int = 0, *, pairs: Mapping[str, str],
        settings: SASRecSettings | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_pairs(features, pairs)
        require(len(pairs) == 1, "pairs", got=dict(pairs), expected="one history and one target")
        require(dense_dim >= 0, "dense_dim", got=dense_dim, expected="a number of columns, 0 or more")
        ((self.past, self.target),) = pairs.items()
        (self.width,) = pair_widths(embed, pairs)
        self.embed, self.settings, draw = embed, settings or SASRecSettings(), generator(seed)
        self.positions = nn.Parameter(
            torch.empty(self.settings.max_length, self.width).normal_(0.0, POSITION_SPREAD, generator=draw)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(self.width, self.settings.heads, draw, order="pre", activation=nn.ReLU(),
                             dropout=self.settings.dropout, epsilon=NORM_EPSILON)
            for _ in range(self.settings.blocks)
        )  # fmt: skip
        self.last_norm = nn.LayerNorm(self.width, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(self.settings.dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        rows = self.embed(in_evaluation(batch, (self.past, self.target)))
        (target_BD,) = embedded(rows, (self.target,), len(batch))
        return (self._last(self._states(rows, batch)) * target_BD).sum(1)

    def user(self, batch: Batch) -> Tensor:
        """Return the state after each whole history, (B, D); zeros without one. Its products with items are scores.

        The batch need not have the target.
        """
        return self._last(self._states(self.embed(only(batch, (self.past,))), batch))

    def item(self, batch: Batch) -> Tensor:
        """Return the targets' vectors (B, D); the batch need not have the history."""
        return embedded(self.embed(only(batch, (self.target,))), (self.target,), len(batch))[0]

    def transitions(self, batch: Batch, candidates: str) -> tuple[Tensor, Transitions]:
        """Return logits (B,), and all places where an item followed: within histories, and targets of positives.

        Args:
            batch: Examples; where the label is not above 0 the target is no item that followed.
            candidates: Feature (pooling `none`, same table) that holds items to tell the next one from.
        """
        rows = self.embed(batch)
        past, others = history(rows, batch, self.past), history(rows, batch, candidates)
        (target_BD,) = embedded(rows, (self.target,), len(batch))
        states = self._states(rows, batch)
        last_BD = self._last(states)
        follows_BT, chosen_B = states.mask[:, 1:], (batch.labels > 0) & (states.lengths > 0)
        later_L = _not_first(past)
        found = Transitions(
            states=torch.cat([states.rows[:, :-1][follows_BT], last_BD[chosen_B]]),
            items=torch.cat([past.rows[later_L], target_BD[chosen_B]]),
            ids=torch.cat([past.ids[later_L], self._target_ids(batch)[chosen_B]]),
            examples=torch.cat([past.examples()[later_L], torch.nonzero(chosen_B).squeeze(1)]),
            candidates=others.rows, candidate_ids=others.ids,
        )  # fmt: skip
        return (last_BD * target_BD).sum(1), found

    def _target_ids(self, batch: Batch) -> Tensor:
        target = batch.ids[self.target]
        if not torch.equal(target.offsets, torch.arange(len(batch) + 1)):
            raise DataError(f"Feature '{self.target}'", got=f"{len(target.values)} ids in {len(batch)} examples",
                            expected="exactly one id per example", do="The target is one item.")  # fmt: skip
        return target.values

    def _states(self, rows: Mapping[str, Tensor], batch: Batch) -> Padded:
        """Return the state after each entry, (B, T, D)."""
        past = history(rows, batch, self.past).padded()
        steps = past.mask.shape[1]
        if steps > self.settings.max_length:
            raise DataError(f"Feature '{self.past}'", got=f"a history of {steps} entries",
                            expected=f"at most {self.settings.max_length}, the model's max_length",
                            do="Give the sequence feature the same max_length.")  # fmt: skip
        states: Tensor = self.dropout(past.rows * self.width**0.5 + self.positions[:steps])
        for block in self.blocks:
            states = block(states, past.mask, causal=True)
        return Padded(self.last_norm(states), past.mask)

    @staticmethod
    def _last(states: Padded) -> Tensor:
        """Return the newest state of each example, zeros where there is none."""
        newest_B = (states.lengths - 1).clamp(min=0)
        last_BD = states.rows[torch.arange(len(newest_B), device=newest_B.device), newest_B]
        return last_BD.masked_fill((states.lengths == 0).unsqueeze(1), 0.0)


def _not_first(past: History) -> Tensor:
    """Return which entries have one before them, (L,) bool."""
    first = past.offsets[:-1][past.offsets[:-1] < past.offsets[1:]]
    later_L = torch.ones(len(past.ids), dtype=torch.bool, device=past.ids.device)
    later_L[first] = False
    return later_L
