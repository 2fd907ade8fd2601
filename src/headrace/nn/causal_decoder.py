"""The weights of a causal transformer laid out for generation, and sequences that are continued with them.

Training wants gradients and whole sequences, generation wants one token at a time as cheaply as can be. So the weights
are packed once per version: norms are folded into the layers behind them and adapters into the weights they adapt.
Keys and values of what was read stay in one block of memory, aligned on the right, so that the next token has the same
place in every sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.causal_settings import CausalSettings
from headrace.nn.token_layout import Layout, check_tokens
from headrace.types import Jagged


@dataclass(frozen=True, slots=True)
class _Layer:
    """One block: the norm before each projection is in the projection's weights already."""

    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor


class PackedDecoder:
    """The weights of a `CausalTransformer` at one moment; implements `Decoder`.

    Args:
        settings: Sizes.
        rotation: See `headrace.nn.token_layout.turns`.
        weights: The model's weights by name, adapters merged into them; they are copied.

    Thread-safety: any number of threads may begin and continue sequences.
    """

    @torch.no_grad()
    def __init__(self, settings: CausalSettings, rotation: Tensor, weights: Mapping[str, Tensor]) -> None:
        self.settings, self.rotation = settings, rotation
        self.embedding = weights["embedding.weight"].clone()
        table = weights.get("output.weight", self.embedding)
        self.output = table * weights["last_norm.weight"]
        self.layers = [self._layer(weights, f"blocks.{place}.") for place in range(settings.layers)]

    def _layer(self, weights: Mapping[str, Tensor], block: str) -> _Layer:
        attention, units, norms = f"{block}attention.", f"{block}units.", None
        if self.settings.normed_heads:
            norms = torch.cat([
                weights[f"{attention}query_norm.weight"].expand(self.settings.heads, -1),
                weights[f"{attention}key_norm.weight"].expand(self.settings.key_heads, -1),
            ])  # fmt: skip
        bias = weights.get(f"{attention}qkv.bias")
        return _Layer(
            qkv=weights[f"{attention}qkv.weight"] * weights[f"{block}attention_norm.weight"],
            qkv_bias=None if bias is None else bias.clone(), head_norms=norms,
            out=weights[f"{attention}out.weight"].clone(),
            gate_up=weights[f"{units}gate_up.weight"] * weights[f"{block}units_norm.weight"],
            down=weights[f"{units}down.weight"].clone(),
        )  # fmt: skip

    def begin(self, prompts: Jagged, room: int) -> PackedDecoding:
        """Read prompts, none of them empty, and make room for `room` more tokens each.

        Raises:
            DataError: If a prompt is empty, or there is no room for it and what follows.
        """
        return PackedDecoding(self, prompts, room)


class PackedDecoding:
    """Sequences that are being continued; implements `Decoding`.

    Args:
        decoder: The weights.
        prompts: What to continue.
        room: Tokens that each can be continued with.

    Cost: memory for keys and values of the longest prompt and `room`, times the number of sequences.

    Thread-safety: none; one thread continues one set of sequences.
    """

    @torch.no_grad()
    def __init__(self, decoder: PackedDecoder, prompts: Jagged, room: int) -> None:
        sizes = decoder.settings
        check_tokens(prompts, sizes.vocabulary, sizes.max_length)
        lengths_B = prompts.offsets.diff()
        longest = int(lengths_B.max()) if len(lengths_B) else 0
        require(room >= 0, "room", got=room, expected="0 or more")
        if len(lengths_B) and int(lengths_B.min()) == 0:
            raise DataError(f"Prompt {int(lengths_B.argmin())}", got="no tokens", expected="at least one",
                            do="Begin every prompt with a token that means the beginning.")  # fmt: skip
        if longest + room > sizes.max_length:
            raise DataError("Prompts", got=f"{longest} tokens and {room} to come",
                            expected=f"{sizes.max_length} in all",
                            do="Cut the prompt, or ask for fewer tokens.")  # fmt: skip
        self._decoder, self._rows, self._place = decoder, len(lengths_B), longest
        shape = (self._rows, 2 * sizes.key_heads, longest + room, sizes.head_width)
        dtype = decoder.embedding.dtype
        self._cache = [torch.zeros(shape, dtype=dtype) for _ in decoder.layers]
        self._lengths_B = lengths_B.clone()
        self._hidden = (
            None if bool((lengths_B == longest).all()) else _hidden(longest - lengths_B, longest + room, dtype)
        )
        self.logits = self._read(prompts)

    def _read(self, prompts: Jagged) -> Tensor:
        """Read the prompts, all their tokens in one go, and return what comes next (B, V)."""
        decoder, layout, sizes = self._decoder, Layout(prompts), self._decoder.settings
        turn = torch.view_as_complex(decoder.rotation[layout.positions]).unsqueeze(1)
        heads, longest = sizes.heads, self._place
        # In the cache every prompt ends at the same place; side by side they begin at the same place.
        shift_B1 = (longest - self._lengths_B).unsqueeze(1)
        source = (torch.arange(longest) - shift_B1).clamp(min=0)
        states = decoder.embedding[prompts.values]
        for layer, cache in zip(decoder.layers, self._cache, strict=True):
            qkv = self._projected(layer, states, turn)
            beside = layout.beside(qkv)
            if self._hidden is None:
                cache[:, :, :longest] = beside[:, :, heads:].transpose(1, 2)
            else:
                rows = torch.arange(self._rows).unsqueeze(1)
                cache[:, :, :longest] = beside[:, :, heads:][rows, source].transpose(1, 2)
            queries, keys, values = torch.split(beside.transpose(1, 2), [heads, sizes.key_heads, sizes.key_heads], 1)
            if heads != sizes.key_heads:
                share = heads // sizes.key_heads
                keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
            found = scaled_dot_product_attention(queries, keys, values, is_causal=True)
            states = self._finished(layer, states, layout.in_a_row(found.transpose(1, 2)).flatten(1))
        return self._output(states[prompts.offsets[1:] - 1])

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to every sequence and return the next logits (B, V).

        Raises:
            DataError: If there is no room left.
        """
        decoder, sizes, place = self._decoder, self._decoder.settings, self._place
        if place == self._cache[0].shape[2]:
            raise DataError("Sequences", got="one more token", expected=f"{place} tokens in all", do="Make more room.")
        rows, keys, share = self._rows, sizes.key_heads, sizes.heads // sizes.key_heads
        turn = torch.view_as_complex(decoder.rotation[self._lengths_B]).unsqueeze(1)
        hidden = None if self._hidden is None else self._hidden[:rows, :, :, : place + 1]
        states = decoder.embedding[tokens_B]
        for layer, whole in zip(decoder.layers, self._cache, strict=True):
            qkv = self._projected(layer, states, turn)
            cache = whole[:rows, :, : place + 1]
            cache[:, :, place] = qkv[:, sizes.heads :]
            queries = torch.unflatten(qkv[:, : sizes.heads], 1, (keys, share))
            found = scaled_dot_product_attention(queries, cache[:, :keys], cache[:, keys:], attn_mask=hidden)
            states = self._finished(layer, states, found.flatten(1))
        self._place, self._lengths_B = place + 1, self._lengths_B + 1
        self.logits = self._output(states)
        return self.logits

    def keep(self, rows: list[int]) -> None:
        """Go on with these sequences only; row i is the former row `rows[i]`. Only rows that move are copied."""
        require(len(rows) <= self._rows, "keep, rows", got=len(rows), expected=f"{self._rows} or fewer")
        moved = [(to, source) for to, source in enumerate(rows) if to != source]
        if moved:
            to, source = (torch.tensor(places) for places in zip(*moved, strict=True))
            for cache in self._cache:
                cache[to, :, : self._place] = cache[source, :, : self._place]
        if self._hidden is not None:
            self._hidden = self._hidden[rows]
        self._lengths_B, self._rows, self.logits = self._lengths_B[rows], len(rows), self.logits[rows]

    def _projected(self, layer: _Layer, states: Tensor, turn: Tensor) -> Tensor:
        """Return queries, keys and values as heads (N, H + 2K, W), queries and keys turned to their positions."""
        sizes = self._decoder.settings
        qkv = linear(rms_norm(states, (sizes.width,), None, sizes.epsilon), layer.qkv, layer.qkv_bias)
        heads = qkv.view(len(states), -1, sizes.head_width)
        both = heads[:, : sizes.heads + sizes.key_heads]
        if layer.head_norms is not None:
            both.copy_(rms_norm(both, (sizes.head_width,), None, sizes.epsilon).mul_(layer.head_norms))
        torch.view_as_complex(torch.unflatten(both, -1, (-1, 2))).mul_(turn)
        return heads

    def _finished(self, layer: _Layer, states: Tensor, found: Tensor) -> Tensor:
        """Add what attention found, and the gated units, to the stream."""
        sizes = self._decoder.settings
        states = torch.addmm(states, found, layer.out.T)
        both = linear(rms_norm(states, (sizes.width,), None, sizes.epsilon), layer.gate_up)
        gates, ups = both[:, : sizes.hidden], both[:, sizes.hidden :]
        return torch.addmm(states, torch.nn.functional.silu(gates).mul_(ups), layer.down.T)

    def _output(self, states: Tensor) -> Tensor:
        sizes = self._decoder.settings
        return linear(rms_norm(states, (sizes.width,), None, sizes.epsilon), self._decoder.output)


def _hidden(missing_B: Tensor, places: int, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention scores so that places before a prompt are not seen, (B, 1, 1, T)."""
    hidden_BT = torch.arange(places) < missing_B.unsqueeze(1)
    return torch.zeros(hidden_BT.shape, dtype=dtype).masked_fill_(hidden_BT, float("-inf"))[:, None, None]
