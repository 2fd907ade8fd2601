"""Prompts and completions as whole sequences, and how likely a model thinks their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from headrace.errors import DataError, nearest
from headrace.types import Batch, Jagged

PROMPT, COMPLETION, CHOSEN, REJECTED, TOKENS, TAUGHT = "prompt", "completion", "chosen", "rejected", "tokens", "taught"
"""Features of a batch that hold tokens; see `headrace.objectives`."""


class LanguageModel(Protocol):
    """What these objectives need of a model; those of `headrace.nn` have it."""

    def states(self, tokens: Jagged) -> Tensor:
        """Return the state after each token, (L, D)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Return what comes after each state, (..., V)."""
        ...


@dataclass(frozen=True, slots=True)
class Joined:
    """Prompts with their completions behind them.

    Attributes:
        tokens: The whole sequences.
        places: Where every token of a completion stands in them, (N,) int64.
        owners: Which sequence it is of, (N,) int64.
        answers: The completions.
    """

    tokens: Jagged
    places: Tensor
    owners: Tensor
    answers: Jagged

    @property
    def before(self) -> Tensor:
        """Where the token before each completion token stands: its state foretells the token, (N,)."""
        return self.places - 1


def feature(batch: Batch, name: str) -> Jagged:
    """Return a feature of a batch.

    Raises:
        DataError: If there is none of that name.
    """
    if name not in batch.ids:
        raise DataError(f"Batch, feature '{name}'", got="no such feature", expected=nearest(name, batch.ids),
                        do="Make the batch with the joiner that is for this objective.")  # fmt: skip
    return batch.ids[name]


def joined(prompts: Jagged, answers: Jagged) -> Joined:
    """Put completions behind their prompts.

    Raises:
        DataError: If a prompt is empty: nothing would foretell the first token of its completion.

    Example:
        >>> whole = joined(Jagged(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3])),
        ...                Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 3])))
        >>> whole.tokens.values.tolist(), whole.places.tolist()
        ([1, 7, 8, 2, 3, 9], [1, 2, 5])
    """
    lengths_B, counts_B = prompts.offsets.diff(), answers.offsets.diff()
    if len(lengths_B) and int(lengths_B.min()) == 0:
        raise DataError(f"Prompt {int(lengths_B.argmin())}", got="no tokens", expected="at least one",
                        do="Begin every prompt with a token that means the beginning.")  # fmt: skip
    rows = torch.arange(len(lengths_B), device=lengths_B.device)
    owners_P, owners_N = torch.repeat_interleave(rows, lengths_B), torch.repeat_interleave(rows, counts_B)
    ahead_P = torch.arange(len(owners_P), device=rows.device) + answers.offsets[:-1][owners_P]
    places_N = torch.arange(len(owners_N), device=rows.device) + prompts.offsets[1:][owners_N]
    values = prompts.values.new_empty(len(owners_P) + len(owners_N))
    values[ahead_P], values[places_N] = prompts.values, answers.values
    return Joined(Jagged(values, prompts.offsets + answers.offsets), places_N, owners_N, answers)


def token_log_probs(model: LanguageModel, states_ND: Tensor, tokens_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each token after its state, (N,); differentiable.

    Cost: memory for N rows of the vocabulary.
    """
    logits_NV = model.logits(states_ND)
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    return -cross_entropy(logits_NV, tokens_N, reduction="none")


def completion_log_probs(model: LanguageModel, whole: Joined, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each token of the completions, (N,)."""
    return token_log_probs(model, model.states(whole.tokens)[whole.before], whole.answers.values, temperature)


def row_sums(values_N: Tensor, whole: Joined) -> Tensor:
    """Return the sums over each completion, (B,)."""
    return values_N.new_zeros(len(whole.answers)).index_add(0, whole.owners, values_N)


def beside(values_N: Tensor, answers: Jagged) -> Tensor:
    """Return numbers of each completion token as (B, T), zeros behind the end.

    Example:
        >>> beside(torch.tensor([1.0, 2.0, 3.0]), Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 3]))).tolist()
        [[1.0, 2.0], [3.0, 0.0]]
    """
    there_BT = there(answers)
    return values_N.new_zeros(there_BT.shape).masked_scatter(there_BT, values_N)


def there(answers: Jagged) -> Tensor:
    """Return where completions have tokens, (B, T) bool."""
    lengths_B = answers.offsets.diff()
    longest = int(lengths_B.max()) if len(lengths_B) else 0
    return torch.arange(longest, device=lengths_B.device) < lengths_B.unsqueeze(1)


def in_a_row(batch: Batch, name: str, answers: Jagged) -> Tensor:
    """Return an extra (B, T or more) of a batch as one number per completion token, (N,).

    Raises:
        DataError: If it is not there, or shorter than the longest completion.
    """
    there_BT = there(answers)
    values = batch.extra.get(name)
    if values is None or values.dim() != 2 or values.shape[0] != len(answers) or values.shape[1] < there_BT.shape[1]:
        got = "nothing" if values is None else f"shape {tuple(values.shape)}"
        raise DataError(f"Batch, extra '{name}'", got=got, expected=f"{tuple(there_BT.shape)} or wider, one number "
                        "per token of a completion")  # fmt: skip
    return values[:, : there_BT.shape[1]][there_BT]
