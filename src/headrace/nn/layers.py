"""Layers that more than one model family uses, all initialised from a generator that the caller seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from headrace.config import known_name, require
from headrace.errors import ConfigError, DataError, nearest
from headrace.types import Batch, Jagged

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "relu": (nn.ReLU, math.sqrt(2.0)), "leaky_relu": (nn.LeakyReLU, math.sqrt(2.0)), "gelu": (nn.GELU, math.sqrt(2.0)),
    "silu": (nn.SiLU, math.sqrt(2.0)), "tanh": (nn.Tanh, 1.0), "sigmoid": (nn.Sigmoid, 1.0),
}  # fmt: skip
"""Activations of hidden layers by name, with the gain of the initial weights before them."""


@dataclass(frozen=True, slots=True)
class InputAxis:
    """One axis of a parameter that has a run of entries per embedded feature, in order, then one per dense column.

    A module whose parameters depend on the features says so in a method `input_axes() -> {parameter: InputAxis}`;
    learned weights can then be moved into a model with other features.

    Attributes:
        axis: Which axis of the parameter.
        per_feature: Entries per embedded feature; 0 when the parameter is about dense columns only.
        per_dense: Entries per dense column.
    """

    axis: int
    per_feature: int
    per_dense: int


InputLayout: TypeAlias = InputAxis | tuple[InputAxis, ...]
"""One such axis; several, for a weight over pairs of inputs; or none, for a parameter about the inputs of which nobody
can say which entry is about which: it is refused when features change."""


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own for initial weights: the global one is neither read nor moved."""
    return torch.Generator().manual_seed(seed)


def linear(inputs: int, outputs: int, draw: torch.Generator, *, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """Return a linear layer with uniform weights of variance `gain² / inputs` and zero bias.

    Gain `sqrt(2)` keeps the variance through a rectifier, 1 through a linear output.

    Example:
        >>> torch.equal(linear(3, 2, generator(7)).weight, linear(3, 2, generator(7)).weight)
        True
    """
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    bound = gain * math.sqrt(3.0 / max(inputs, 1))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=draw)
        if bias:
            layer.bias.zero_()
    return layer


@dataclass(frozen=True, slots=True)
class Hidden(Sequence[int]):
    """Hidden layers: their widths, and what comes between them. Goes wherever plain widths go.

    Attributes:
        widths: Widths of the layers.
        batch_norm: Normalise each layer's outputs over the batch, before the activation. See `BatchNorm`.
        activation: One of `ACTIVATIONS`.

    Raises:
        ConfigError: If the activation is not known.

    Example:
        >>> list(Hidden((400, 400), batch_norm=True))
        [400, 400]
    """

    widths: tuple[int, ...]
    batch_norm: bool = False
    activation: str = "relu"

    def __post_init__(self) -> None:
        known_name("activation", self.activation, list(ACTIVATIONS))

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[int, ...]: ...

    def __getitem__(self, place: int | slice) -> int | tuple[int, ...]:
        return self.widths[place]

    def __len__(self) -> int:
        return len(self.widths)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that also takes a single example, and any number of leading axes.

    In training, values are normalised by mean and variance of the batch, and running ones follow with a momentum of
    0.1; in evaluation the running ones serve. They are buffers, so they are published and saved with the weights. One
    example alone has no variance: it is normalised by the running ones, also in training, and does not move them.

    Shapes:
        (..., width) -> (..., width)

    Source:
        Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
        Covariate Shift".
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the normalised values."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) > 1 or not self.training:
            return super().forward(rows).reshape(inputs.shape)
        return batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def hidden_layers(inputs: int, hidden: Sequence[int], draw: torch.Generator, *, dropout: float = 0.0) -> nn.Sequential:
    """Return hidden layers without an output layer: linear, batch normalisation (if on), activation, dropout (if any).

    Args:
        inputs: Width of the input.
        hidden: Widths, or `Hidden` with widths, batch normalisation and activation.
        draw: Where initial weights are drawn from.
        dropout: Share of every layer that is dropped in training.

    Raises:
        ConfigError: If a width is not positive or the dropout is not in [0, 1).
    """
    chosen = hidden if isinstance(hidden, Hidden) else Hidden(tuple(hidden))
    widths = [inputs, *chosen.widths]
    require(all(width >= 1 for width in widths), "MLP widths", got=widths, expected="positive integers")
    require(0.0 <= dropout < 1.0, "dropout", got=dropout, expected="a share in [0, 1)")
    activation, gain = ACTIVATIONS[chosen.activation]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers.append(linear(before, after, draw, gain=gain))
        layers += [BatchNorm(after)] if chosen.batch_norm else []
        layers.append(activation())
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


class MLP(nn.Module):
    """Fully connected layers and one linear output; rectified unless `Hidden` says otherwise.

    Args:
        inputs: Width of the input.
        hidden: Widths of the hidden layers; empty makes a linear layer. `Hidden` adds batch normalisation and other
            activations.
        outputs: Width of the output.
        draw: Where initial weights are drawn from.
        dropout: Share of every hidden layer that is dropped in training.

    Shapes:
        (..., inputs) -> (..., outputs)

    Cost:
        O(sum of products of neighbouring widths) per example.

    Raises:
        ConfigError: If a width is not positive or the dropout is not in [0, 1).
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, draw: torch.Generator, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        require(outputs >= 1, "MLP widths", got=outputs, expected="positive integers")
        layers = hidden_layers(inputs, hidden, draw, dropout=dropout)
        self.layers = nn.Sequential(*layers, linear(hidden[-1] if hidden else inputs, outputs, draw))

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = self.layers(inputs)
        return outputs


def pairwise_interactions(factors_BFK: Tensor) -> Tensor:
    """Return the second-order term of a factorization machine: sum of `<v_i, v_j>` over all pairs i < j.

    Shapes:
        (B, F, K) -> (B,)

    Cost:
        O(B F K) by `((sum v)² - sum v²) / 2`, where the double loop over pairs is O(B F² K).

    Source:
        Rendle 2010, "Factorization Machines", lemma 3.1.

    Example:
        >>> pairwise_interactions(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        tensor([11.])
    """
    return 0.5 * (factors_BFK.sum(1).square() - factors_BFK.square().sum(1)).sum(1)


def embedded(rows: Mapping[str, Tensor], features: Sequence[str], batch_rows: int) -> list[Tensor]:
    """Return the pooled embedding (B, D) of each feature, in the order of `features`.

    Raises:
        DataError: If the embedding module has no such feature, or its rows are not one per example (pooling `none`).
    """
    chosen = []
    for name in features:
        if name not in rows:
            raise DataError(f"Feature '{name}'", got="no embedding of that name", expected=nearest(name, rows),
                            do="Give the embedding module a lookup for it.")  # fmt: skip
        value = rows[name]
        if value.dim() != 2 or value.shape[0] != batch_rows:
            raise DataError(f"Feature '{name}'", got=f"an embedding of shape {tuple(value.shape)}",
                            expected=f"({batch_rows}, D), one row per example",
                            do="This model needs a pooled feature: use pooling 'sum' or 'mean'.")  # fmt: skip
        chosen.append(value)
    return chosen


def empty_embeddings(embed: nn.Module, features: Sequence[str]) -> list[Tensor]:
    """Return each feature's embedding of a batch of no examples, (0, D): a way to learn D without seeing a table.

    Raises:
        ConfigError: If the module does not embed a batch without examples into a mapping.
        DataError: If it has no such feature; names the nearest.
    """
    none, ids = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        ids=_NoIds(), dense=torch.zeros(0, 0), labels=none, weights=none, event_times=ids, accepted_times=ids,
        example_ids=ids, predictions=none, versions=ids, sample_rates=none,
    )  # fmt: skip
    with torch.no_grad():
        rows = embed(batch)
    if not isinstance(rows, Mapping):
        raise ConfigError("Embedding module", got=f"{type(embed).__name__}, which returns a {type(rows).__name__}",
                          expected="a module that maps a batch to {feature: (B, D)}")  # fmt: skip
    return embedded(rows, features, 0)


class _NoIds(Mapping[str, Jagged]):
    """Any feature one may ask for, without a single row."""

    def __getitem__(self, name: str) -> Jagged:
        return Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
