"""A causal transformer of the LLaMA family: root-mean-square norms, rotary positions, gated units, grouped heads.

Sequences come as one run of tokens with offsets (`Jagged`), and go through every linear layer without any padding; only
attention sees them side by side. So a batch of sequences of different lengths costs what its tokens cost, and a
sequence never sees another one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from headrace.nn.causal_decoder import PackedDecoder
from headrace.nn.causal_settings import CausalSettings, Decoder
from headrace.nn.layers import generator
from headrace.nn.lora import merged_weights
from headrace.nn.token_layout import Layout, check_tokens, turned, turns
from headrace.types import Jagged

SPREAD = 0.02
"""Standard deviation of initial weights."""


class Norm(nn.Module):
    """Divides by the root of the mean square, and scales.

    Args:
        width: Width of what is normed.
        epsilon: Added to the mean square.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape."""
        return rms_norm(values, self.weight.shape, self.weight, self.epsilon)


def _drawn(inputs: int, outputs: int, spread: float, draw: torch.Generator, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.normal_(0.0, spread, generator=draw)
        if bias:
            layer.bias.zero_()
    return layer


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped heads.

    Queries, keys and values come from one projection, in this order. The two numbers of a pair that a position turns
    lie side by side (in files of `transformers` they lie half a head apart; `headrace.nn.load_causal` moves them).

    Args:
        settings: Sizes.
        draw: Draws the initial weights.
    """

    def __init__(self, settings: CausalSettings, draw: torch.Generator) -> None:
        super().__init__()
        self.settings, self.fused = settings, {"qkv": settings.parts}
        self.qkv = _drawn(settings.width, sum(settings.parts), SPREAD, draw, bias=settings.biased)
        spread = SPREAD / math.sqrt(2.0 * settings.layers)
        self.out = _drawn(settings.heads * settings.head_width, settings.width, spread, draw)
        normed = (settings.head_width, settings.epsilon)
        self.query_norm = Norm(*normed) if settings.normed_heads else None
        self.key_norm = Norm(*normed) if settings.normed_heads else None

    def forward(self, states_LD: Tensor, layout: Layout, rotation_L: Tensor) -> Tensor:
        """Return what every token found in the tokens before it and in itself, (L, D)."""
        sizes = self.settings
        heads, keyed = sizes.heads, sizes.heads + sizes.key_heads
        projected_LHK = torch.unflatten(self.qkv(states_LD), -1, (-1, sizes.head_width))
        both, values = projected_LHK[:, :keyed], projected_LHK[:, keyed:]
        if self.query_norm is not None and self.key_norm is not None:
            both = torch.cat((self.query_norm(both[:, :heads]), self.key_norm(both[:, heads:])), 1)
        turned_BHT = layout.beside(turned(both, rotation_L)).transpose(1, 2)
        queries, keys = turned_BHT[:, :heads], turned_BHT[:, heads:]
        values = layout.beside(values).transpose(1, 2)
        if sizes.key_heads != sizes.heads:
            share = sizes.heads // sizes.key_heads
            keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
        found = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.out(layout.in_a_row(found.transpose(1, 2)).flatten(1))  # type: ignore[no-any-return]


class GatedUnits(nn.Module):
    """`down(silu(gate(x)) * up(x))`; gate and up come from one projection, in this order.

    Args:
        settings: Sizes.
        draw: Draws the initial weights.
    """

    def __init__(self, settings: CausalSettings, draw: torch.Generator) -> None:
        super().__init__()
        self.fused = {"gate_up": (settings.hidden, settings.hidden)}
        self.gate_up = _drawn(settings.width, 2 * settings.hidden, SPREAD, draw)
        self.down = _drawn(settings.hidden, settings.width, SPREAD / math.sqrt(2.0 * settings.layers), draw)

    def forward(self, states_LD: Tensor) -> Tensor:
        """Return (L, D)."""
        gates, ups = self.gate_up(states_LD).chunk(2, -1)
        return self.down(silu(gates) * ups)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and gated units, each behind a norm and added to the stream.

    Args:
        settings: Sizes.
        draw: Draws the initial weights.
    """

    def __init__(self, settings: CausalSettings, draw: torch.Generator) -> None:
        super().__init__()
        self.attention_norm = Norm(settings.width, settings.epsilon)
        self.attention = Attention(settings, draw)
        self.units_norm = Norm(settings.width, settings.epsilon)
        self.units = GatedUnits(settings, draw)

    def forward(self, states_LD: Tensor, layout: Layout, rotation_L: Tensor) -> Tensor:
        """Return the stream after the block, (L, D)."""
        states_LD = states_LD + self.attention(self.attention_norm(states_LD), layout, rotation_L)
        return states_LD + self.units(self.units_norm(states_LD))  # type: ignore[no-any-return]


class CausalTransformer(nn.Module):
    """A language model of the LLaMA family, trained from scratch or read from files (`headrace.nn.load_causal`).

    Args:
        settings: Sizes.
        seed: Seed of the initial weights.

    Shapes:
        B sequences of L tokens in all -> states (L, D), logits (L, V).

    Cost:
        12 D² multiplications per token and block, and 2 D V for logits; attention over the longest sequence T costs
        B T² D more.

    Source:
        Touvron et al. 2023, "LLaMA"; Ainslie et al. 2023, "GQA". Weights start normal with deviation 0.02, those that
        write to the stream smaller by the root of twice the number of blocks, as in GPT-2.

    Example:
        >>> model = CausalTransformer(CausalSettings(vocabulary=16, width=8, layers=1, heads=2))
        >>> two = Jagged(torch.tensor([3, 1, 4, 1, 5]), torch.tensor([0, 2, 5]))
        >>> model(two).shape
        torch.Size([5, 16])
    """

    def __init__(self, settings: CausalSettings, seed: int = 0) -> None:
        super().__init__()
        self.settings, draw = settings, generator(seed)
        self.vocabulary, self.max_length = settings.vocabulary, settings.max_length
        self.embedding = nn.Embedding(settings.vocabulary, settings.width, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.embedding.weight.normal_(0.0, SPREAD, generator=draw)
        self.blocks = nn.ModuleList(Block(settings, draw) for _ in range(settings.layers))
        self.last_norm = Norm(settings.width, settings.epsilon)
        self.output = None if settings.tied else _drawn(settings.width, settings.vocabulary, SPREAD, draw)
        self.register_buffer("rotation", turns(settings), persistent=False)

    def states(self, tokens: Jagged) -> Tensor:
        """Return the state after each token, (L, D), normed as the output layer takes it.

        Raises:
            DataError: If a sequence is longer than the model allows, or a token is not in the vocabulary.
        """
        check_tokens(tokens, self.vocabulary, self.max_length)
        layout = Layout(tokens)
        rotation_L = self.get_buffer("rotation")[layout.positions]
        states_LD = self.embedding(tokens.values)
        for block in self.blocks:
            states_LD = block(states_LD, layout, rotation_L)
        return self.last_norm(states_LD)  # type: ignore[no-any-return]

    def logits(self, states: Tensor) -> Tensor:
        """Return what comes after each state, (..., V)."""
        return linear(states, self.embedding.weight if self.output is None else self.output.weight)

    def forward(self, tokens: Jagged) -> Tensor:
        """Return what comes after each token, (L, V)."""
        return self.logits(self.states(tokens))

    def decoder(self) -> Decoder:
        """Return the present weights for generation; later training does not change them."""
        return PackedDecoder(self.settings, self.get_buffer("rotation"), merged_weights(self))
