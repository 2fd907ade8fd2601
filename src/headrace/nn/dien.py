"""DIEN: interests that a recurrent network extracts from a history, and their evolution towards the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.fields import dense_columns, start_at
from headrace.nn.layers import MLP, InputAxis, InputLayout, embedded, empty_embeddings, generator, linear
from headrace.nn.sequence import (
    History,
    Padded,
    check_pairs,
    history,
    in_evaluation,
    masked_softmax,
    pad,
    pair_widths,
)
from headrace.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class DIENSettings:
    """What DIEN has beside its deep part.

    Attributes:
        auxiliary: Hidden widths of the network that tells the next entry of a history from another one.
        negatives: History feature -> feature that holds as many ids of things that were not chosen, entry by entry.
            A history that is not named here takes entries of other examples of the batch.
        dropout: Share of each hidden layer of the deep part dropped in training.
    """

    auxiliary: tuple[int, ...] = (100, 50)
    negatives: Mapping[str, str] = field(default_factory=dict)
    dropout: float = 0.0


class DIEN(nn.Module):
    """Deep Interest Evolution Network: GRU, attention of the target, GRU whose update gate the attention scales.

    `forward` gives logits. `forward_with_auxiliary` gives the loss of the next-click prediction too, which teaches the
    first GRU at every step of every history; an objective adds it (`headrace.objectives.WithAuxiliary`).

    Args:
        embed: Maps a batch to `{feature: (B, D)}`, and histories (pooling `none`) to (L, D).
        features: Names of all features in the order of the deep part's input: histories and targets among them.
        dense_dim: Number of dense columns.
        hidden: Widths of the deep part.
        pairs: History feature -> the feature it is compared with, which shares its table.
        settings: Auxiliary network, negatives, dropout.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B T D²) for a longest history of T; T steps, one after the other, each for the whole batch.

    Raises:
        ConfigError: If a history or target is none of the features, or a pair differs in width.

    Source:
        Zhou et al. 2019, "Deep Interest Evolution Network for Click-Through Rate Prediction". As in the paper, the
        attention is `softmax(h_t W e)`. We differ in the next-click prediction, which is an MLP over both vectors, as
        in its authors' code, where the paper has their inner product.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (200, 80), *,
        pairs: Mapping[str, str], settings: DIENSettings | None = None, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        check_pairs(features, pairs)
        self.embed, self.features, self.dense_dim, self.pairs = embed, tuple(features), dense_dim, dict(pairs)
        chosen, draw, widths = settings or DIENSettings(), generator(seed), pair_widths(embed, pairs)
        unknown = sorted(set(chosen.negatives) - set(pairs))
        require(not unknown, "negatives", got=unknown, expected=f"some of the histories {tuple(pairs)}")
        self.negatives = dict(chosen.negatives)
        self.interests = nn.ModuleList(InterestEvolution(width, draw) for width in widths)
        self.auxiliaries = nn.ModuleList(MLP(2 * width, chosen.auxiliary, 1, draw) for width in widths)
        self.widths = [int(rows.shape[1]) for rows in empty_embeddings(embed, self.features)]
        self.deep = MLP(sum(self.widths) + dense_dim, hidden, 1, draw, dropout=chosen.dropout)
        start_at(self.deep.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        return self._logits(batch, self.embed(in_evaluation(batch, self.features)))[0]

    def forward_with_auxiliary(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (B,) and the mean log-loss of telling each history's next entries from others.

        The loss is a mean over all steps of all histories in the batch, entries and their negatives counting alike;
        zero where no history has two entries.

        Raises:
            DataError: If given negatives are not as many as the entries of their history.
        """
        rows = self.embed(batch)
        logits_B, states = self._logits(batch, rows)
        losses, counts = [logits_B.new_zeros(1)], 0
        for name, auxiliary in zip(self.pairs, self.auxiliaries, strict=True):
            past = history(rows, batch, name)
            others_LD, valid_L = self._others(rows, batch, name, past)
            pairs_ND, labels_N = _transitions(past, states[name], others_LD, valid_L)
            logits_N = auxiliary(pairs_ND).squeeze(1)
            losses.append(binary_cross_entropy_with_logits(logits_N, labels_N, reduction="none"))
            counts += len(labels_N)
        return logits_B, torch.cat(losses).sum() / max(counts, 1)

    def _logits(self, batch: Batch, rows: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Padded]]:
        """Return logits and, for each history, the states of its first GRU."""
        states: dict[str, Padded] = {}
        found = dict(rows)
        targets = embedded(rows, tuple(self.pairs.values()), len(batch))
        for part, name, target_BD in zip(self.interests, self.pairs, targets, strict=True):
            found[name], states[name] = part(history(rows, batch, name).padded(), target_BD)
        fields = embedded(found, self.features, len(batch))
        logits_B1: Tensor = self.deep(torch.cat([*fields, dense_columns(batch, self.dense_dim)], dim=1))
        return logits_B1.squeeze(1), states

    def _others(self, rows: Mapping[str, Tensor], batch: Batch, name: str, past: History) -> tuple[Tensor, Tensor]:
        """Return something that was not chosen for each entry of a history, and where that can be believed."""
        if name in self.negatives:
            given = history(rows, batch, self.negatives[name])
            if not torch.equal(given.offsets, past.offsets):
                raise DataError(f"Feature '{self.negatives[name]}'", got="other numbers of ids than its history",
                                expected=f"one id for each of '{name}'")  # fmt: skip
            return given.rows, given.ids != past.ids
        return other_examples(past)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; where widths differ nothing can be moved."""
        if len(set(self.widths)) > 1:
            return {"deep.layers.0.weight": ()}
        return {"deep.layers.0.weight": InputAxis(axis=1, per_feature=self.widths[0], per_dense=1)}


class InterestEvolution(nn.Module):
    """Both recurrent layers over one history: states of interest, and the last state of their evolution.

    Args:
        width: Width D of entries, states and target.
        draw: Where initial weights are drawn from.

    Shapes:
        history (B, T, D), target (B, D) -> last state (B, D), zeros without history; and the states (B, T, D).
    """

    def __init__(self, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.extraction, self.evolution = GRU(width, width, draw), AUGRU(width, width, draw)
        self.bilinear = nn.Parameter(torch.eye(width))

    def forward(self, past: Padded, target_BD: Tensor) -> tuple[Tensor, Padded]:
        """Return the final interest and the states of the extraction."""
        states = Padded(self.extraction(past.rows), past.mask)
        scores_BT = (states.rows @ self.bilinear @ target_BD.unsqueeze(2)).squeeze(2)
        # At padding the weight is 0, which keeps the state as it is.
        return self.evolution(states.rows, masked_softmax(scores_BT, past.mask)), states


class GRU(nn.Module):
    """Gated recurrent units over padded sequences, with initial weights from the caller's generator.

    What stands at padding is no state of anything; states before it do not depend on it.

    Shapes:
        (B, T, inputs) -> (B, T, width)
    """

    def __init__(self, inputs: int, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.cell = nn.GRU(inputs, width, batch_first=True, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.cell.parameters():
                parameter.uniform_(-1.0 / math.sqrt(width), 1.0 / math.sqrt(width), generator=draw)

    def forward(self, inputs_BTI: Tensor) -> Tensor:
        """Return the state after every step."""
        if not len(inputs_BTI):  # the fused kernel refuses a batch of nothing
            return inputs_BTI.new_zeros(*inputs_BTI.shape[:2], self.cell.hidden_size)
        states: Tensor = self.cell(inputs_BTI)[0]
        return states


class AUGRU(nn.Module):
    """GRU whose update gate is multiplied by an attention weight: a step of weight 0 leaves the state alone.

    `u = a_t sigmoid(.)`, `r = sigmoid(.)`, `n = tanh(W_n x + b + r (U_n h + c))`, `h = (1 - u) h + u n`.

    Shapes:
        inputs (B, T, inputs), weights (B, T) -> last state (B, width)
    """

    def __init__(self, inputs: int, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.from_input, self.from_state = linear(inputs, 3 * width, draw), linear(width, 3 * width, draw)

    def forward(self, inputs_BTI: Tensor, weights_BT: Tensor) -> Tensor:
        """Return the state after the last step."""
        gates_BTG = self.from_input(inputs_BTI)
        state_BW = inputs_BTI.new_zeros(len(inputs_BTI), self.width)
        for step in range(inputs_BTI.shape[1]):
            update, reset, fresh = gates_BTG[:, step].chunk(3, dim=1)
            past_update, past_reset, past_fresh = self.from_state(state_BW).chunk(3, dim=1)
            moved_BW = torch.tanh(fresh + torch.sigmoid(reset + past_reset) * past_fresh)
            gate_BW = torch.sigmoid(update + past_update) * weights_BT[:, step, None]
            state_BW = state_BW + gate_BW * (moved_BW - state_BW)
        return state_BW


def other_examples(past: History) -> tuple[Tensor, Tensor]:
    """Return an entry of another example for each entry, and where it is indeed another example's and another id.

    Entries are taken from the longest history further on, so popular things are negatives as often as positives, and
    a history never meets itself in a batch of two times the longest or more.

    Shapes:
        -> rows (L, D), valid (L,) bool
    """
    if not len(past.rows):
        return past.rows, torch.zeros(0, dtype=torch.bool)
    shift = int((past.offsets[1:] - past.offsets[:-1]).max())
    examples = past.examples()
    valid = (examples.roll(-shift) != examples) & (past.ids.roll(-shift) != past.ids)
    return past.rows.roll(-shift, 0), valid


def _transitions(past: History, states: Padded, others_LD: Tensor, valid_L: Tensor) -> tuple[Tensor, Tensor]:
    """Return (state, next entry) with label 1, then (state, other entry) with label 0, (N, 2D) and (N,)."""
    entries, valid = pad(past.rows, past.offsets), pad(valid_L.unsqueeze(1), past.offsets).rows.squeeze(2)
    follows_BT = entries.mask[:, 1:]
    before_ND = states.rows[:, :-1][follows_BT]
    others_BTD = pad(others_LD, past.offsets).rows[:, 1:]
    usable_BT = follows_BT & valid[:, 1:]
    chosen = torch.cat([before_ND, entries.rows[:, 1:][follows_BT]], dim=1)
    refused = torch.cat([states.rows[:, :-1][usable_BT], others_BTD[usable_BT]], dim=1)
    labels_N = torch.cat([chosen.new_ones(len(chosen)), refused.new_zeros(len(refused))])
    return torch.cat([chosen, refused]), labels_N
