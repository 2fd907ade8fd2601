"""Language modelling: the next token of texts, of conversations, of completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from headrace.errors import DataError
from headrace.objectives.tokens import (
    COMPLETION,
    PROMPT,
    TAUGHT,
    TOKENS,
    LanguageModel,
    feature,
    joined,
    token_log_probs,
)
from headrace.types import Batch, Jagged, Loss


@dataclass(frozen=True, slots=True)
class NextToken:
    """Mean negative log-probability of the tokens to be learned, each given those before it in its own row.

    Rows are packed: however long they are, they lie one behind another and no row sees another one. A row is a text
    (feature `tokens`), a conversation (`tokens`, and `taught` with 1 for the tokens to learn), or a completion
    (`completions` on; features `prompt` and `completion`, of which the latter is learned).

    The total is the sum over tokens, each with the weight of its row, divided by the number of tokens to learn. So long
    rows count more than short ones, as text does.

    Attributes:
        completions: Whether rows are prompts with completions.

    Shapes:
        The model gives states (L, D) of all tokens; logits are made where something is to be learned, and nowhere else.
    """

    completions: bool = False

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch; `perplexity` is among its parts.

        Raises:
            DataError: If there is no token to learn, a weight is negative, or a feature is missing.
        """
        language = cast(LanguageModel, model)
        if bool((batch.weights < 0).any()):
            raise DataError("Batch, weights", got=float(batch.weights.min()), expected="0 or more")
        tokens, before_N, owners_N = self._to_learn(batch)
        if not len(before_N):
            raise DataError("Batch", got="no token to learn", expected="at least one",
                            do="Leave out rows of one token and conversations without an answer.")  # fmt: skip
        found_N = token_log_probs(language, language.states(tokens)[before_N], tokens.values[before_N + 1])
        total = -(found_N * batch.weights[owners_N]).sum() / len(found_N)
        mean = -float(found_N.detach().double().mean())
        parts = {"next_token": float(total.detach()), "tokens": float(len(found_N))}
        return Loss(total, parts | {"perplexity": float(torch.tensor(mean).exp())})

    def _to_learn(self, batch: Batch) -> tuple[Jagged, Tensor, Tensor]:
        """Return whole rows, where the tokens before those to learn stand (N,), and their rows (N,)."""
        if self.completions:
            whole = joined(feature(batch, PROMPT), feature(batch, COMPLETION))
            return whole.tokens, whole.before, whole.owners
        tokens = feature(batch, TOKENS)
        lengths_B = tokens.offsets.diff()
        owners_L = torch.repeat_interleave(torch.arange(len(tokens), device=lengths_B.device), lengths_B)
        learned_L = torch.ones_like(tokens.values, dtype=torch.bool)
        if TAUGHT in batch.ids:
            taught = batch.ids[TAUGHT]
            if not torch.equal(taught.offsets, tokens.offsets):
                raise DataError(
                    f"Batch, feature '{TAUGHT}'", got="rows of other lengths", expected="those of the tokens"
                )
            learned_L = taught.values > 0
        learned_L = learned_L.clone()
        learned_L[tokens.offsets[:-1][lengths_B > 0]] = False  # nothing stands before a row's first token
        places_N = torch.nonzero(learned_L).squeeze(1)
        return tokens, places_N - 1, owners_L[places_N]
