"""The weights of a causal transformer laid out for generation, and sequences that are continued with them.

Training wants gradients and whole sequences, generation wants one token at a time as cheaply as can be. So the weights
are packed once per version: norms are folded into the layers behind them, the scale of the attention into the queries,
adapters into the weights they adapt. Keys and values of what was read stay in blocks of memory, aligned on the right,
so that the next token has the same place in every sequence; keys lie transposed, ready for their product with queries.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.causal_settings import CausalSettings
from headrace.nn.token_layout import Layout, check_tokens
from headrace.types import Jagged


@dataclass(frozen=True, slots=True)
class _Layer:
    """One block, weights as (inputs, outputs); the norm before each projection is in the projection already."""

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
        self.settings, self.turns = settings, torch.view_as_complex(rotation)
        self.epsilon = torch.full((1,), settings.epsilon)
        self.embedding = weights["embedding.weight"].clone()
        table = weights.get("output.weight", self.embedding)
        self.output = _turned(table * weights["last_norm.weight"])
        self.layers = [self._layer(weights, f"blocks.{place}.") for place in range(settings.layers)]

    def _layer(self, weights: Mapping[str, Tensor], block: str) -> _Layer:
        sizes, attention, units, norms = self.settings, f"{block}attention.", f"{block}units.", None
        scale = torch.ones(sum(sizes.parts), 1)
        scale[: sizes.parts[0]] = sizes.head_width**-0.5
        if sizes.normed_heads:  # the scale would be normed away again: it goes into the norm's own weight
            query = weights[f"{attention}query_norm.weight"] * sizes.head_width**-0.5
            key = weights[f"{attention}key_norm.weight"]
            norms, scale = (
                torch.cat((query.expand(sizes.heads, -1), key.expand(sizes.key_heads, -1))),
                scale.new_ones(1),
            )
        bias = weights.get(f"{attention}qkv.bias")
        return _Layer(
            qkv=_turned(weights[f"{attention}qkv.weight"] * weights[f"{block}attention_norm.weight"] * scale),
            qkv_bias=None if bias is None else bias * scale.flatten(), head_norms=norms,
            out=_turned(weights[f"{attention}out.weight"]),
            gate_up=_turned(weights[f"{units}gate_up.weight"] * weights[f"{block}units_norm.weight"]),
            down=_turned(weights[f"{units}down.weight"]),
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
        self._decoder, self._rows, self._place, self._end = decoder, len(lengths_B), longest, longest + room
        rows, keys, width = self._rows, sizes.key_heads, sizes.head_width
        empty = decoder.embedding.new_zeros
        self._keys = [empty(rows, keys, width, self._end) for _ in decoder.layers]
        self._values = [empty(rows, keys, self._end, width) for _ in decoder.layers]
        missing_B = longest - lengths_B
        self._missing_B = None if not bool(missing_B.any()) else missing_B
        self._look()
        self._hidden = None if self._missing_B is None else _hidden(missing_B, self._end, keys, decoder.embedding.dtype)
        self.logits = self._read(prompts)

    def _read(self, prompts: Jagged) -> Tensor:
        """Read the prompts, all their tokens in one go, and return what comes next (B, V)."""
        decoder, layout, sizes, longest = self._decoder, Layout(prompts), self._decoder.settings, self._place
        turn = decoder.turns[layout.positions].unsqueeze(1)
        heads, share = sizes.heads, sizes.heads // sizes.key_heads
        states = decoder.embedding[prompts.values]
        for layer, kept_keys, kept_values in zip(decoder.layers, self._keys, self._values, strict=True):
            beside = layout.beside(self._projected(layer, states, turn))
            cached = self._aligned(beside[:, :, heads:])
            kept_keys[..., :longest] = cached[:, :, : sizes.key_heads].permute(0, 2, 3, 1)
            kept_values[:, :, :longest] = cached[:, :, sizes.key_heads :].transpose(1, 2)
            queries, keys, values = torch.split(beside.transpose(1, 2), [heads, sizes.key_heads, sizes.key_heads], 1)
            if share > 1:
                keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
            found = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=1.0)
            states = self._finished(layer, states, layout.in_a_row(found.transpose(1, 2)).flatten(1))
        return self._output(states[prompts.offsets[1:] - 1])

    def _aligned(self, beside_BT: Tensor) -> Tensor:
        """Move prompts that begin at one place so that they end at one place; what stands before is hidden."""
        if self._missing_B is None:
            return beside_BT
        source_BT = (torch.arange(self._place) - self._missing_B.unsqueeze(1)).clamp(min=0)
        return beside_BT[torch.arange(self._rows).unsqueeze(1), source_BT]

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to every sequence and return the next logits (B, V).

        Raises:
            DataError: If there is no room left.
        """
        decoder, sizes, place, rows = self._decoder, self._decoder.settings, self._place, self._rows
        if place == self._end:
            raise DataError("Sequences", got="one more token", expected=f"{place} tokens in all", do="Make more room.")
        heads, keyed = sizes.heads, sizes.heads + sizes.key_heads
        shape = (rows * sizes.key_heads, heads // sizes.key_heads, sizes.head_width)
        turn = decoder.turns[place if self._missing_B is None else place - self._missing_B.unsqueeze(1)]
        hidden = None if self._hidden is None else self._hidden[: shape[0], :, : place + 1]
        states = decoder.embedding[tokens_B]
        for layer, seen, told in zip(decoder.layers, self._seen, self._told, strict=True):
            projected = self._projected(layer, states, turn)
            seen[:, :, place] = projected[:, heads:keyed].reshape(shape[0], -1)
            told[:, place] = projected[:, keyed:].reshape(shape[0], -1)
            scores = torch.bmm(projected[:, :heads].reshape(shape), seen[:, :, : place + 1])
            if hidden is not None:
                scores += hidden
            found = torch.bmm(torch.softmax(scores, -1), told[:, : place + 1])
            states = self._finished(layer, states, found.view(rows, -1))
        self._place = place + 1
        self.logits = self._output(states)
        return self.logits

    def keep(self, rows: list[int]) -> None:
        """Go on with these sequences only; row i is the former row `rows[i]`. Only rows that move are copied."""
        require(len(rows) <= self._rows, "keep, rows", got=len(rows), expected=f"{self._rows} or fewer")
        moved = [(to, source) for to, source in enumerate(rows) if to != source]
        if moved:
            to, source = (torch.tensor(places) for places in zip(*moved, strict=True))
            for keys, values in zip(self._keys, self._values, strict=True):
                keys[to], values[to] = keys[source], values[source]
        if self._missing_B is not None:
            self._missing_B = self._missing_B[rows]
            self._hidden = _hidden(self._missing_B, self._end, self._decoder.settings.key_heads, self.logits.dtype)
        self._rows, self.logits = len(rows), self.logits[rows]
        self._look()

    @torch.no_grad()
    def joined(self, other: PackedDecoding) -> PackedDecoding:
        """Return the sequences of both as one set, those of this one first; neither of the two may go on afterwards.

        Raises:
            ConfigError: If they are continued with other weights.

        Cost: copies the keys and values of all of them once.
        """
        require(self._decoder is other._decoder, "joined", got="sequences of other weights", expected="the same ones")
        parts, sizes = (self, other), self._decoder.settings
        # What nobody looks at any more, before the longest of them, is left out.
        lengths = [part._place - part._missing() for part in parts]
        longest = max(int(lengths_B.max()) for lengths_B in lengths)
        made = copy.copy(self)
        made._place, made._rows = longest, self._rows + other._rows
        made._end = longest + max(part._end - part._place for part in parts)
        shape, empty = (made._rows, sizes.key_heads), self._decoder.embedding.new_zeros
        made._keys = [empty(*shape, sizes.head_width, made._end) for _ in self._keys]
        made._values = [empty(*shape, made._end, sizes.head_width) for _ in self._values]
        first = 0
        for part in parts:
            rows, kept = slice(first, first + part._rows), min(part._place, longest)
            to, source = slice(longest - kept, longest), slice(part._place - kept, part._place)
            for block, old in zip(made._keys, part._keys, strict=True):
                block[rows, :, :, to] = old[: part._rows, :, :, source]
            for block, old in zip(made._values, part._values, strict=True):
                block[rows, :, to] = old[: part._rows, :, source]
            first += part._rows
        missing_B = longest - torch.cat(lengths)
        made._missing_B = missing_B if bool(missing_B.any()) else None
        made._hidden, made.logits = None, torch.cat([part.logits for part in parts])
        if made._missing_B is not None:
            made._hidden = _hidden(missing_B, made._end, sizes.key_heads, self.logits.dtype)
        made._look()
        return made

    def _missing(self) -> Tensor:
        return torch.zeros(self._rows, dtype=torch.int64) if self._missing_B is None else self._missing_B

    def _look(self) -> None:
        """Keep views of the keys (B * K, W, T) and values (B * K, T, W) of the rows that go on."""
        self._seen = [keys[: self._rows].flatten(0, 1) for keys in self._keys]
        self._told = [values[: self._rows].flatten(0, 1) for values in self._values]

    def _projected(self, layer: _Layer, states: Tensor, turn: Tensor) -> Tensor:
        """Return queries, keys and values as heads (N, H + 2K, W), queries and keys turned to their positions."""
        sizes = self._decoder.settings
        qkv = torch.mm(_normed(states, self._decoder.epsilon), layer.qkv)
        if layer.qkv_bias is not None:
            qkv += layer.qkv_bias
        heads = qkv.view(len(states), -1, sizes.head_width)
        both = heads[:, : sizes.heads + sizes.key_heads]
        if layer.head_norms is not None:
            both.copy_(_normed(both, self._decoder.epsilon).mul_(layer.head_norms))
        torch.view_as_complex(both.view(len(states), both.shape[1], -1, 2)).mul_(turn)
        return heads

    def _finished(self, layer: _Layer, states: Tensor, found: Tensor) -> Tensor:
        """Add what attention found, and the gated units, to the stream."""
        sizes = self._decoder.settings
        states = torch.addmm(states, found, layer.out)
        both = torch.mm(_normed(states, self._decoder.epsilon), layer.gate_up)
        return torch.addmm(states, silu(both[:, : sizes.hidden]).mul_(both[:, sizes.hidden :]), layer.down)

    def _output(self, states: Tensor) -> Tensor:
        return torch.mm(_normed(states, self._decoder.epsilon), self._decoder.output)


def _normed(values: Tensor, epsilon: Tensor) -> Tensor:
    """Divide by the root of the mean square over the last axis: half the calls of `rms_norm` on a CPU."""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values * torch.addcmul(epsilon, length, length, value=1.0 / values.shape[-1]).rsqrt_()


def _turned(weight: Tensor) -> Tensor:
    """Return a weight (outputs, inputs) as a matrix (inputs, outputs) of its own."""
    return weight.T.clone(memory_format=torch.contiguous_format)


def _hidden(missing_B: Tensor, places: int, heads: int, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores so that places before a prompt are not seen, (B * heads, 1, T)."""
    hidden_BT = (torch.arange(places) < missing_B.unsqueeze(1)).repeat_interleave(heads, 0)
    return torch.zeros(hidden_BT.shape, dtype=dtype).masked_fill_(hidden_BT, float("-inf")).unsqueeze(1)
