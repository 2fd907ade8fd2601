"""Deep & Cross: layers that multiply all inputs by a learned view of themselves, beside or below a deep network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.config import known_name, require
from headrace.nn.fields import FlatInputs, start_at
from headrace.nn.layers import MLP, InputLayout, generator, hidden_layers, linear
from headrace.types import Batch

Structure = Literal["parallel", "stacked"]
"""Where the deep part of a `DCNv2` is: beside the cross layers, or on top of them."""


class CrossVector(nn.Module):
    """One cross layer of DCN: `x_0 (w . x_l) + b + x_l`.

    Shapes:
        x_0, x_l (B, I) -> (B, I).

    Cost: O(B I).
    """

    def __init__(self, inputs: int, draw: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear(inputs, 1, draw, bias=False).weight.detach().squeeze(0))
        self.bias = nn.Parameter(torch.zeros(inputs))

    def forward(self, first_BI: Tensor, last_BI: Tensor) -> Tensor:
        """Return the layer's output."""
        seen_B = last_BI @ self.weight
        return torch.addcmul(last_BI + self.bias, first_BI, seen_B.unsqueeze(1))


class CrossMatrix(nn.Module):
    """One cross layer of DCN-V2: `x_0 * (W x_l + b) + x_l`.

    Shapes:
        x_0, x_l (B, I) -> (B, I).

    Cost: O(B I²).
    """

    def __init__(self, inputs: int, draw: torch.Generator) -> None:
        super().__init__()
        self.linear = linear(inputs, inputs, draw)

    def forward(self, first_BI: Tensor, last_BI: Tensor) -> Tensor:
        """Return the layer's output."""
        return torch.addcmul(last_BI, first_BI, self.linear(last_BI))


class CrossMixture(nn.Module):
    """One cross layer of DCN-V2 by experts of low rank: `x_0 * (sum_e p_e U_e tanh(C_e tanh(V_e' x_l)) + b) + x_l`.

    Args:
        inputs: Width I.
        rank: Width R of the experts' inner layers.
        experts: Their number E.
        draw: Where initial weights are drawn from.

    Shapes:
        x_0, x_l (B, I), p (B, E) that add up to 1 -> (B, I). Parameters: down (E R, I) is V, inner (E, R, R) is C,
        up (I, E R) is U.

    Cost:
        O(B E R (I + R)): less than `CrossMatrix` where 2 E R < I. No expert's output (B, I) is ever built: the shares
        are multiplied in before U.
    """

    def __init__(self, inputs: int, rank: int, experts: int, draw: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(3.0 / rank)
        self.down = linear(inputs, experts * rank, draw, bias=False)
        self.inner = nn.Parameter(torch.empty(experts, rank, rank).uniform_(-bound, bound, generator=draw))
        self.up = nn.Linear(experts * rank, inputs, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.up.weight.uniform_(-bound, bound, generator=draw)  # one expert's fan-in: shares add up to 1
            self.up.bias.zero_()

    def forward(self, first_BI: Tensor, last_BI: Tensor, shares_BE: Tensor) -> Tensor:
        """Return the layer's output."""
        seen_BER = self.down(last_BI).tanh().unflatten(1, self.inner.shape[:2])
        seen_BER = torch.einsum("ber,eqr->beq", seen_BER, self.inner).tanh()
        return torch.addcmul(last_BI, first_BI, self.up((seen_BER * shares_BE.unsqueeze(2)).flatten(1)))


class DCN(nn.Module):
    """Deep & Cross Network: cross layers of one vector each, and a deep network, over the same inputs.

    `logit = w . x_L + deep(x_0)`; products of up to L + 1 inputs, at the price of a linear model.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; all D columns are inputs, and widths may differ.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        hidden: Widths of the deep part; `Hidden` adds batch normalisation; empty leaves it out.
        layers: Number of cross layers.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost: O(B I) per cross layer, for I inputs.

    Raises:
        ConfigError: If there is nothing to read, or no cross layer.

    Source:
        Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions".
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        layers: int = 3, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        require(layers >= 1, "DCN, layers", got=layers, expected="at least 1")
        self.embed, self.features, draw = embed, tuple(features), generator(seed)
        self.inputs = FlatInputs(embed, features, dense_dim)
        self.cross = nn.ModuleList(CrossVector(self.inputs.width, draw) for _ in range(layers))
        self.output = linear(self.inputs.width, 1, draw)
        self.deep = MLP(self.inputs.width, hidden, 1, draw, dropout=dropout) if hidden else None
        start_at(self.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        first_BI = last_BI = self.inputs(self.embed, batch)
        for layer in self.cross:
            last_BI = layer(first_BI, last_BI)
        logits_B1: Tensor = self.output(last_BI)
        if self.deep is not None:
            logits_B1 = logits_B1 + self.deep(first_BI)
        return logits_B1.squeeze(1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        deep = [] if self.deep is None else ["deep.layers.0.weight"]
        vectors = [f"cross.{place}.{name}" for place in range(len(self.cross)) for name in ("weight", "bias")]
        return {**self.inputs.axes("output.weight", *deep), **self.inputs.axes(*vectors, axes=(0,))}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossSettings:
    """What DCN-V2 has beside its deep part.

    Attributes:
        layers: Number of cross layers.
        structure: The deep part `parallel` to the cross layers, or `stacked` on top of them.
        rank: Rank of a mixture of experts in place of full matrices; None takes full matrices.
        experts: Number of experts, with `rank` only.

    Raises:
        ConfigError: If a number is not positive or the structure is not known.
    """

    layers: int = 3
    structure: Structure = "parallel"
    rank: int | None = None
    experts: int = 4

    def __post_init__(self) -> None:
        require(self.layers >= 1, "DCNv2, layers", got=self.layers, expected="at least 1")
        require(self.rank is None or self.rank >= 1, "DCNv2, rank", got=self.rank, expected="at least 1, or None")
        require(self.experts >= 1, "DCNv2, experts", got=self.experts, expected="at least 1")
        known_name("structure", self.structure, ["parallel", "stacked"])


class DCNv2(nn.Module):
    """DCN-V2: cross layers with a matrix, or with a mixture of matrices of low rank, and a deep network.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; all D columns are inputs, and widths may differ.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        hidden: Widths of the deep part; `Hidden` adds batch normalisation; empty leaves the cross layers alone.
        cross: Cross layers and where the deep part is.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost: O(B I²) per cross layer for I inputs; with a rank R, O(B E R (I + R)).

    Raises:
        ConfigError: If there is nothing to read.

    Source:
        Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
        Systems". The experts' gate is one for all layers, as in its formula.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        cross: CrossSettings | None = None, dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen, draw = cross or CrossSettings(), generator(seed)
        self.embed, self.features = embed, tuple(features)
        self.inputs = FlatInputs(embed, features, dense_dim)
        width, rank = self.inputs.width, chosen.rank
        layers: list[nn.Module] = [
            CrossMatrix(width, draw) if rank is None else CrossMixture(width, rank, chosen.experts, draw)
            for _ in range(chosen.layers)
        ]
        self.cross, self.stacked = nn.ModuleList(layers), chosen.structure == "stacked"
        self.gate = None if rank is None else linear(width, chosen.experts, draw, bias=False)
        self.deep = hidden_layers(width, hidden, draw, dropout=dropout) if hidden else None
        self.output = None if self.deep is not None and self.stacked else linear(width, 1, draw)
        self.deep_output = None if self.deep is None else linear(hidden[-1], 1, draw, bias=self.output is None)
        last = self.output or self.deep_output
        assert last is not None
        start_at(last, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        first_BI = self.inputs(self.embed, batch)
        crossed_BI = self._crossed(first_BI)
        parts = [] if self.output is None else [self.output(crossed_BI)]
        if self.deep is not None and self.deep_output is not None:
            parts.append(self.deep_output(self.deep(crossed_BI if self.stacked else first_BI)))
        logits_B1: Tensor = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return logits_B1.squeeze(1)

    def _crossed(self, first_BI: Tensor) -> Tensor:
        last_BI = first_BI
        for layer in self.cross:
            shares = () if self.gate is None else (self.gate(last_BI).softmax(1),)
            last_BI = layer(first_BI, last_BI, *shares)
        return last_BI

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        columns = [] if self.output is None else ["output.weight"]
        columns += [] if self.deep is None else ["deep.0.weight"]
        if self.gate is None:
            biases = [f"cross.{place}.linear.bias" for place in range(len(self.cross))]
            matrices = self.inputs.axes(*(name.replace("bias", "weight") for name in biases), axes=(0, 1))
            return {**self.inputs.axes(*columns), **self.inputs.axes(*biases, axes=(0,)), **matrices}
        columns += ["gate.weight", *(f"cross.{place}.down.weight" for place in range(len(self.cross)))]
        rows = [f"cross.{place}.up.{name}" for place in range(len(self.cross)) for name in ("weight", "bias")]
        return {**self.inputs.axes(*columns), **self.inputs.axes(*rows, axes=(0,))}
