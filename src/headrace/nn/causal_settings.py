"""Sizes of a causal transformer, and what everybody else needs of a language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from headrace.config import require
from headrace.types import Jagged


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalSettings:
    """Sizes of a causal transformer.

    Attributes:
        vocabulary: Number of different tokens.
        width: Width of the residual stream.
        layers: Blocks, one over the other.
        heads: Heads of the attention.
        key_heads: Heads of keys and values, each shared by `heads / key_heads` heads; 0: as many as heads.
        head_width: Width of a head; 0: `width / heads`.
        hidden: Width of the gated units; 0: 8/3 of the width, rounded up to a multiple of 32.
        max_length: Longest sequence, prompt and completion together.
        rotary_period: Longest period of the rotary positions (`rope_theta`).
        epsilon: Added to the mean square in every norm.
        tied: Whether the output layer is the embedding.
        biased: Whether queries, keys and values have biases (Qwen2).
        normed_heads: Whether queries and keys are normed, head by head (Qwen3).

    Raises:
        ConfigError: If a value cannot work.

    Example:
        >>> CausalSettings(vocabulary=512, width=96, heads=3).hidden
        256
    """

    vocabulary: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    key_heads: int = 0
    head_width: int = 0
    hidden: int = 0
    max_length: int = 512
    rotary_period: float = 10_000.0
    epsilon: float = 1e-5
    tied: bool = True
    biased: bool = False
    normed_heads: bool = False

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "max_length"):
            require(getattr(self, name) >= 1, f"CausalSettings.{name}", got=getattr(self, name), expected="1 or more")
        for name in ("key_heads", "head_width", "hidden"):
            require(getattr(self, name) >= 0, f"CausalSettings.{name}", got=getattr(self, name), expected="0 or more")
        require(self.head_width > 0 or self.width % self.heads == 0, "CausalSettings.heads", got=self.heads,
                expected=f"a divisor of the width {self.width}, or a head_width")  # fmt: skip
        object.__setattr__(self, "key_heads", self.key_heads or self.heads)
        object.__setattr__(self, "head_width", self.head_width or self.width // self.heads)
        object.__setattr__(self, "hidden", self.hidden or -(-self.width * 8 // 3 // 32) * 32)
        require(self.heads % self.key_heads == 0, "CausalSettings.key_heads", got=self.key_heads,
                expected=f"a divisor of {self.heads} heads")  # fmt: skip
        require(self.head_width % 2 == 0, "CausalSettings.head_width", got=self.head_width, expected="an even number",
                do="Positions turn pairs of numbers.")  # fmt: skip
        for name in ("rotary_period", "epsilon"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"CausalSettings.{name}", got=value, expected="a positive number")

    @property
    def parts(self) -> tuple[int, int, int]:
        """Widths of queries, keys and values in one row of the fused projection."""
        return self.heads * self.head_width, self.key_heads * self.head_width, self.key_heads * self.head_width


@runtime_checkable
class Decoding(Protocol):
    """Sequences that are being continued, one token at a time."""

    logits: Tensor
    """What comes next in each sequence, (B, V)."""

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to every sequence and return the next logits (B, V)."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Go on with these sequences only; row i is the former row `rows[i]`."""
        ...


@runtime_checkable
class JoinableDecoding(Decoding, Protocol):
    """Sequences to which others can be added while they are continued."""

    def joined(self, other: Self) -> Self:
        """Return the sequences of both as one set, those of this one first; neither may go on afterwards."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """The weights of a model at one moment, laid out for continuing sequences."""

    def begin(self, prompts: Jagged, room: int) -> Decoding:
        """Read prompts, none of them empty, and make room for `room` more tokens each."""
        ...


@runtime_checkable
class CausalModel(Protocol):
    """What objectives, learners and predictors need of a language model, ours or one of `transformers`."""

    vocabulary: int
    max_length: int

    def states(self, tokens: Jagged) -> Tensor:
        """Return the state after each token, (L, D)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Return what comes after each state, (..., V)."""
        ...

    def decoder(self) -> Decoder:
        """Return the present weights for generation; later training does not change them."""
        ...
