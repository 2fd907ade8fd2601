"""FinalMLP: two streams of layers over inputs that are gated differently, and a bilinear fusion of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.fields import FlatInputs, start_at
from headrace.nn.layers import MLP, InputLayout, generator, hidden_layers, linear
from headrace.types import Batch

CONTEXT_SPREAD = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The two streams of FinalMLP.

    Attributes:
        second: Hidden widths of the second stream; None: those of the first.
        heads: Heads of the fusion; a divisor of the last width of both streams.
        gated: Gate the inputs of each stream; without it both read the same.
        gate: Hidden widths of the gates.
        contexts: For each stream, the features whose embeddings command its gate; none: a learned vector does, so that
            the gate is the same for all examples.
    """

    second: Sequence[int] | None = None
    heads: int = 1
    gated: bool = True
    gate: tuple[int, ...] = (64,)
    contexts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def __post_init__(self) -> None:
        require(len(self.contexts) == 2, "contexts", got=self.contexts, expected="features for each of two streams")


class FinalMLP(nn.Module):
    """Two MLPs, each over its own gated view of the inputs, joined by `w_x x + w_y y + sum over heads of x_h W_h y_h`.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; widths may differ.
        features: Names of the id features.
        dense_dim: Number of dense columns; plain numbers among the inputs.
        hidden: Widths of the first stream, at least one.
        streams: The second stream, the fusion and the gates.
        dropout: Share of each hidden layer of the streams dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(B (I H + H²)) for I inputs and streams of width H.

    Raises:
        ConfigError: If a stream has no layer, its last width is no multiple of `heads`, or a context is no feature.

    Source:
        Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction". We differ in the embeddings
        that command a gate: they are those of the model, where the authors' code has tables of their own for them.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 64), *,
        streams: Streams | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen, draw = streams or Streams(), generator(seed)
        second = hidden if chosen.second is None else chosen.second
        require(len(hidden) > 0 and len(second) > 0, "FinalMLP, hidden", got=[tuple(hidden), tuple(second)],
                expected="at least one layer in each stream")  # fmt: skip
        self.embed, self.features = embed, tuple(features)
        self.inputs = FlatInputs(embed, features, dense_dim)
        width = self.inputs.width
        self.gates = nn.ModuleList(
            Gate(self.inputs, context, chosen.gate, draw) for context in chosen.contexts if chosen.gated
        )
        self.first = hidden_layers(width, hidden, draw, dropout=dropout)
        self.second = hidden_layers(width, second, draw, dropout=dropout)
        self.fusion = Fusion(hidden[-1], second[-1], chosen.heads, draw)
        start_at(self.fusion.first, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        flat_BI = self.inputs(self.embed, batch)
        views = [gate(flat_BI) * flat_BI for gate in self.gates] or [flat_BI, flat_BI]
        logits_B: Tensor = self.fusion(self.first(views[0]), self.second(views[1]))
        return logits_B

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs: none can be moved to others; see `InputLayout`."""
        return {"first.0.weight": ()}


class Gate(nn.Module):
    """A factor in (0, 2) for every input: `2 sigmoid(MLP(context))`.

    Args:
        inputs: The model's inputs; read for sizes only.
        context: Features whose embeddings are the context; none: a learned vector is.
        hidden: Hidden widths.
        draw: Where initial weights are drawn from.

    Shapes:
        inputs (B, I) -> (B, I), or (1, I) without context.
    """

    def __init__(
        self, inputs: FlatInputs, context: Sequence[str], hidden: Sequence[int], draw: torch.Generator
    ) -> None:
        super().__init__()
        unknown = [name for name in context if name not in inputs.features]
        require(not unknown, "contexts", got=unknown, expected=f"some of the features {inputs.features}")
        places = [inputs.features.index(name) for name in context]
        self.columns = [
            column for place in places for column in range(sum(inputs.widths[:place]), sum(inputs.widths[: place + 1]))
        ]
        width = len(self.columns) or max(inputs.widths, default=1)
        if not self.columns:
            self.context = nn.Parameter(torch.empty(1, width).normal_(0.0, CONTEXT_SPREAD, generator=draw))
        self.layers = MLP(width, hidden, inputs.width, draw)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        """Return the factors."""
        context = inputs_BI[:, self.columns] if self.columns else self.context
        return 2.0 * torch.sigmoid(self.layers(context))


class Fusion(nn.Module):
    """`w_x x + w_y y + b + sum over heads of x_h W_h y_h`.

    Args:
        first: Width of x.
        second: Width of y.
        heads: Parts that both are cut into.
        draw: Where initial weights are drawn from.

    Shapes:
        x (B, first), y (B, second) -> (B,)

    Raises:
        ConfigError: If a width is no multiple of `heads`.
    """

    def __init__(self, first: int, second: int, heads: int, draw: torch.Generator) -> None:
        super().__init__()
        require(heads >= 1 and first % heads == 0 and second % heads == 0, "heads", got=heads,
                expected=f"a divisor of the last widths {first} and {second}")  # fmt: skip
        self.first, self.second = linear(first, 1, draw), linear(second, 1, draw, bias=False)
        bound = math.sqrt(3.0 * heads / (first * second))  # variance 1 / (number of products)
        self.bilinear = nn.Parameter(
            torch.empty(heads, first // heads, second // heads).uniform_(-bound, bound, generator=draw)
        )

    def forward(self, first_BX: Tensor, second_BY: Tensor) -> Tensor:
        """Return the sum."""
        heads, first, second = self.bilinear.shape
        parts = first_BX.view(-1, heads, first), second_BY.view(-1, heads, second)
        products_B = torch.einsum("bhx,hxy,bhy->b", parts[0], self.bilinear, parts[1])
        plain_B1: Tensor = self.first(first_BX) + self.second(second_BY)
        return plain_B1.squeeze(1) + products_B
