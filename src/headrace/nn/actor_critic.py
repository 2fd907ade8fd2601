"""Models that score: a reward model, and a policy with the critic that judges where it stands."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.causal_settings import CausalModel, Decoder
from headrace.nn.layers import generator
from headrace.types import Jagged


class ScoreModel(nn.Module):
    """A language model that says one number after every token: a reward model, or a critic.

    A reward's level means nothing (only differences are learned), so it can be set: `score = (raw - centre) / scale`.
    `settle` chooses both from samples; they are part of the weights, and are published with them.

    Args:
        trunk: The language model; its output layer is not used.
        zero: Start with scores of zero, as a critic should; else the head starts normal with deviation
            `1 / sqrt(width + 1)`.
        seed: Seed of the head's initial weights.

    Shapes:
        B sequences of L tokens in all -> scores (L,).
    """

    def __init__(self, trunk: CausalModel, *, zero: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.trunk = cast(nn.Module, trunk)
        with torch.no_grad():
            probe = Jagged(torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1]))
            width = int(trunk.states(probe).shape[1])
        self.head = nn.Linear(width, 1)
        with torch.no_grad():
            self.head.bias.zero_()
            self.head.weight.normal_(0.0, 1.0 / math.sqrt(width + 1), generator=generator(seed))
            if zero:
                self.head.weight.zero_()
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def scores(self, tokens: Jagged) -> Tensor:
        """Return the score after each token, (L,)."""
        raw_L = self.head(cast(CausalModel, self.trunk).states(tokens)).squeeze(-1)
        return (raw_L - self.get_buffer("centre")) / self.get_buffer("scale")  # type: ignore[no-any-return]

    def last_scores(self, tokens: Jagged) -> Tensor:
        """Return the score of each whole sequence, after its last token, (B,)."""
        return self.scores(tokens)[tokens.offsets[1:] - 1]

    def forward(self, tokens: Jagged) -> Tensor:
        """Return the score of each whole sequence, (B,)."""
        return self.last_scores(tokens)

    @torch.no_grad()
    def settle(self, samples: Jagged) -> None:
        """Choose level and scale so that the scores of these sequences have mean 0 and deviation 1.

        Args:
            samples: Prompts with completions of the policy that training starts from; at least two.

        Raises:
            ConfigError: If there are fewer than two, or their scores are all alike.
        """
        self.get_buffer("centre").zero_()
        self.get_buffer("scale").fill_(1.0)
        scores_B = self.last_scores(samples).double()
        spread = float(scores_B.std()) if len(scores_B) > 1 else 0.0
        got = f"{len(scores_B)} scores of spread {spread}"
        expected = "at least two different scores"
        require(math.isfinite(spread) and spread > 0, "settle, samples", got=got, expected=expected)
        self.get_buffer("centre").fill_(float(scores_B.mean()))
        self.get_buffer("scale").fill_(spread)


class ActorCritic(nn.Module):
    """A policy, and a critic that foretells the return from every place of a completion.

    Args:
        policy: The language model that writes.
        critic: A model of its own (often begun from a reward model's weights); None: a head on the policy's own
            states, which costs next to nothing and shares what both learn.

    Shapes:
        states (L, D) and values (L,), one per token; the value after a token judges what is still to come.
    """

    def __init__(self, policy: CausalModel, critic: ScoreModel | None = None) -> None:
        super().__init__()
        self.policy = cast(nn.Module, policy)
        self.vocabulary, self.max_length = policy.vocabulary, policy.max_length
        self.critic, self.value = critic, cast("nn.Linear | None", None)
        if critic is None:
            with torch.no_grad():
                width = int(policy.states(Jagged(torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1]))).shape[1])
            self.value = nn.Linear(width, 1)
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    def states(self, tokens: Jagged) -> Tensor:
        """Return the policy's state after each token, (L, D)."""
        return cast(CausalModel, self.policy).states(tokens)

    def states_and_values(self, tokens: Jagged) -> tuple[Tensor, Tensor]:
        """Return the policy's states (L, D) and the critic's values (L,), with one pass where they share a trunk."""
        states_LD = self.states(tokens)
        if self.critic is not None:
            return states_LD, self.critic.scores(tokens)
        assert self.value is not None
        return states_LD, self.value(states_LD).squeeze(-1)

    def logits(self, states: Tensor) -> Tensor:
        """Return what the policy writes after each state, (..., V)."""
        return cast(CausalModel, self.policy).logits(states)

    def decoder(self) -> Decoder:
        """Return the policy's present weights for generation."""
        return cast(CausalModel, self.policy).decoder()
