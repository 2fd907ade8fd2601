"""Generation: a batch of prompts is continued token by token, and what was drawn is kept with its log-probability.

Rows that have ended leave the batch at once. The random numbers of a row are made from its own seed and the place of
the token, so a row's completion does not depend on what else is asked with it, as far as rounding goes: matrix products
of another shape may round differently, which shows in the last digits of log-probabilities, and in a token only where
a draw falls right between two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import NumericError
from headrace.nn.causal_settings import Decoder
from headrace.nn.token_layout import taken
from headrace.types import Jagged

DRAW_BITS = 23
"""Bits of a random number: float32 holds it exactly, and it times any sum stays below the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """How to generate.

    Attributes:
        max_tokens: Longest completion.
        temperature: What logits are divided by; 0: the most likely token.
        top_k: Draw among so many of the likeliest tokens; 0: among all.
        top_p: Draw among the likeliest tokens that have this probability together; 1: among all.
        ends: Tokens that end a completion; the token itself is its last one.

    Raises:
        ConfigError: If a value cannot work.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, "max_tokens", got=self.max_tokens, expected="1 or more")
        require(0 <= self.temperature < math.inf, "temperature", got=self.temperature, expected="0 or more")
        require(self.top_k >= 0, "top_k", got=self.top_k, expected="0 or more")
        require(0 < self.top_p <= 1, "top_p", got=self.top_p, expected="a share in (0, 1]")
        ignored = self.temperature == 0 and (self.top_k > 0 or self.top_p < 1)
        require(not ignored, "temperature", got="0 with top_k or top_p", expected="one or the other",
                do="At temperature 0 the likeliest token is taken, so neither would do anything.")  # fmt: skip

    @property
    def unchanged(self) -> bool:
        """Whether tokens are drawn from the model's own distribution, so that log-probabilities are its own."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1


@dataclass(frozen=True, slots=True)
class Completions:
    """What was generated for B prompts.

    Attributes:
        tokens: The completions, the tokens that ended them included.
        log_probs: Log-probability of every token under the distribution that it was drawn from, temperature and
            filters included; at temperature 0 under the model's own. (L,) float32.
        ended: Whether a completion ended by itself; else it was cut at `max_tokens`. (B,) bool.
    """

    tokens: Jagged
    log_probs: Tensor
    ended: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Tensor) -> Completions:
        """Return completions in another order, or some of them."""
        tokens, places = taken(self.tokens, rows)
        return Completions(tokens, self.log_probs[places], self.ended[rows])

    @staticmethod
    def concat(parts: Sequence[Completions]) -> Completions:
        """Return several one behind another."""
        lengths = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.tokens.offsets.diff() for part in parts)])
        tokens = Jagged(torch.cat([torch.zeros(0, dtype=torch.int64), *(part.tokens.values for part in parts)]),
                        lengths.cumsum(0))  # fmt: skip
        return Completions(tokens, torch.cat([torch.zeros(0), *(part.log_probs for part in parts)]),
                           torch.cat([torch.zeros(0, dtype=torch.bool), *(part.ended for part in parts)]))  # fmt: skip


@torch.no_grad()
def generate(decoder: Decoder, prompts: Jagged, config: GenerateConfig, seeds: Sequence[int]) -> Completions:
    """Continue prompts until each has ended or has `max_tokens` new tokens.

    Args:
        decoder: The model's weights; see `CausalModel.decoder`.
        prompts: B prompts, none of them empty.
        config: How to generate.
        seeds: One whole number per prompt.

    Raises:
        DataError: If a prompt is empty, or too long for the model together with what is to come.
        NumericError: If the model's logits are not finite.

    Cost:
        One pass over the prompts, and one step per token for the rows that have not ended.

    Example:
        >>> from headrace.nn import CausalSettings, CausalTransformer
        >>> model = CausalTransformer(CausalSettings(vocabulary=9, width=8, layers=1, heads=1))
        >>> two = Jagged(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))
        >>> made = generate(model.decoder(), two, GenerateConfig(max_tokens=4), seeds=[0, 1])
        >>> made.tokens.offsets.tolist(), made.log_probs.shape
        ([0, 4, 8], torch.Size([8]))
    """
    rows = len(prompts)
    require(len(seeds) == rows, "seeds", got=len(seeds), expected=f"{rows}, one per prompt")
    if rows == 0:
        return Completions.concat([])
    draws_TA = uniforms(seeds, config.max_tokens).T.contiguous()
    alive_A, ends = torch.arange(rows), torch.tensor(config.ends, dtype=torch.int64)
    ended_B = torch.zeros(rows, dtype=torch.bool)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    going = decoder.begin(prompts, config.max_tokens - 1)
    for place in range(config.max_tokens):
        drawn_A, found_A = draw(going.logits, draws_TA[place], config)
        steps.append((alive_A, drawn_A, found_A))
        last = place + 1 == config.max_tokens
        if len(ends):
            stays = (~torch.isin(drawn_A, ends)).tolist()
            if not all(stays):
                ended_B[[row for row, stay in zip(alive_A.tolist(), stays, strict=True) if not stay]] = True
                held = closed_up(stays)
                if not held or last:
                    break
                going.keep(held)
                alive_A, drawn_A, draws_TA = alive_A[held], drawn_A[held], draws_TA[:, held]
        if not last:
            going.step(drawn_A)
    return _completions(steps, ended_B)


def _completions(steps: Sequence[tuple[Tensor, Tensor, Tensor]], ended_B: Tensor) -> Completions:
    """Put together what was drawn step by step: rows, tokens and log-probabilities of each step."""
    owners, tokens, log_probs = (torch.cat(parts) for parts in zip(*steps, strict=True))
    if not bool(torch.isfinite(log_probs).all()):
        raise NumericError("Generation", got="logits that are NaN or infinite", expected="finite ones",
                           do="Look at the version that answers, and at its learner.")  # fmt: skip
    order = torch.argsort(owners, stable=True)
    counts_B = torch.bincount(owners, minlength=len(ended_B))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts_B.cumsum(0)))
    return Completions(Jagged(tokens[order], offsets), log_probs[order].float(), ended_B)


def closed_up(stays: Sequence[bool]) -> list[int]:
    """Return the rows that stay, so that few of them move: the last ones take the places of those that leave.

    Example:
        >>> closed_up([True, False, True, True])
        [0, 3, 2]
    """
    count = sum(stays)
    late = (row for row in range(len(stays) - 1, count - 1, -1) if stays[row])
    return [row if stays[row] else next(late) for row in range(count)]


def draw(logits_BV: Tensor, draws_B: Tensor, config: GenerateConfig) -> tuple[Tensor, Tensor]:
    """Return the token that each random number in [0, 1) stands for, and its log-probability, both (B,).

    A token whose probability is 0, because a filter took it out, is never drawn.
    """
    log_probs_BV = distribution(logits_BV, config)
    if config.temperature == 0:
        picked_B = logits_BV.argmax(-1)
        return picked_B, log_probs_BV.gather(1, picked_B[:, None])[:, 0]
    sums_BV = log_probs_BV.exp().cumsum(-1)
    aims_B1 = draws_B[:, None] * sums_BV[:, -1:]
    picked_B1 = torch.searchsorted(sums_BV, aims_B1, right=True).clamp_(max=sums_BV.shape[1] - 1)
    return picked_B1[:, 0], log_probs_BV.gather(1, picked_B1)[:, 0]


def distribution(logits_BV: Tensor, config: GenerateConfig) -> Tensor:
    """Return the log-probabilities that tokens are drawn with, (B, V); at temperature 0 the model's own."""
    if config.temperature == 0 or config.unchanged:
        return torch.log_softmax(logits_BV, -1)
    return torch.log_softmax(_filtered(logits_BV / config.temperature, config), -1)


def _filtered(scores_BV: Tensor, config: GenerateConfig) -> Tensor:
    """Put the scores of tokens that may not be drawn to minus infinity."""
    if 0 < config.top_k < scores_BV.shape[1]:
        least_B1 = scores_BV.topk(config.top_k, -1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    if config.top_p < 1:
        ordered_BV, places_BV = scores_BV.sort(-1, descending=True)
        before_BV = torch.softmax(ordered_BV, -1).cumsum(-1).roll(1, -1)
        before_BV[:, 0] = -1.0  # the likeliest may be drawn, however small the share
        out_BV = torch.zeros_like(scores_BV, dtype=torch.bool).scatter(1, places_BV, before_BV >= config.top_p)
        scores_BV = scores_BV.masked_fill(out_BV, -torch.inf)
    return scores_BV


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """Return `count` numbers in [0, 1) for each seed, (B, count) float32; number t of a seed is always the same.

    Example:
        >>> torch.equal(uniforms([5, 6], 2)[1], uniforms([6], 9)[0, :2])
        True
    """
    own = _mixed(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64))
    with np.errstate(over="ignore"):
        mixed = _mixed(own[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return torch.from_numpy((mixed >> np.uint64(64 - DRAW_BITS)).astype(np.float32) * np.float32(2.0**-DRAW_BITS))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return whole numbers well mixed (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
