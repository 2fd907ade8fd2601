"""Forms in which a Fisher matrix is held, and solved as ``(F + damping I) step = gradient``.

Whole, in its leading directions, in Kronecker factors by layer, or as a diagonal. A form keeps nothing itself: what it
holds lies in the slots of the optimiser, as plain tensors by parameter, and so in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import NumericError

Slots = MutableMapping[Tensor, dict[str, Tensor]]
"""What is held for each parameter."""

FISHER = "fisher."
"""Before the name of every slot of a form."""

_ROUNDING = 1e-6
"""Part of the largest eigenvalue below which float32 finds only noise, which would not be orthogonal."""


@dataclass(frozen=True, slots=True, eq=False)
class Covered:
    """The parameters that a Fisher matrix is of, in order; `layers` has the weights of linear layers, with biases."""

    parameters: tuple[Tensor, ...]
    layers: Mapping[Tensor, Tensor | None] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Entries of each parameter."""
        return [parameter.numel() for parameter in self.parameters]

    @property
    def single(self) -> list[Tensor]:
        """Parameters outside the layers."""
        inside = {*self.layers, *(bias for bias in self.layers.values() if bias is not None)}
        return [parameter for parameter in self.parameters if parameter not in inside]


@dataclass(frozen=True, slots=True, eq=False)
class LayerScores:
    """Scores of a linear layer as factors: its inputs, with a one where it has a bias, and the gradients at its output.

    Shapes: inputs (R, T, I), gradients (R, T, O), with T places in an example that share the weights.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    gradients: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Scores of a batch; the Fisher matrix is the sum of their squares over `examples`.

    Shapes: rest, by parameter, (R, numel).
    """

    examples: int
    layers: Sequence[LayerScores] = ()
    rest: Mapping[Tensor, Tensor] = field(default_factory=dict)

    def scores(self, covered: Covered) -> Tensor:
        """Return rows S (R, P) such that the Fisher matrix is ``S^T S``. Every layer may stand in `layers` once.

        Parameters that the outputs did not depend on this time have scores of zero.
        """
        parts = dict(self.rest)
        for layer in self.layers:
            outer = torch.einsum("rto,rti->roi", layer.gradients, layer.inputs)
            width = layer.weight.shape[1]
            parts[layer.weight] = outer[:, :, :width].flatten(1)
            if layer.bias is not None:
                parts[layer.bias] = outer[:, :, width]
        many, some = next((len(rows), rows) for rows in parts.values())
        rows = [parts.get(own, some.new_zeros(many, own.numel())) for own in covered.parameters]
        return torch.cat(rows, dim=1) / math.sqrt(self.examples)


class Form(Protocol):
    """A way to hold a Fisher matrix and to solve with it."""

    by_layer: ClassVar[bool]
    """Whether it takes linear layers as factors even where their rows are not examples."""
    grows: ClassVar[bool]
    """Whether later observations may cover parameters that earlier ones did not."""

    def update(self, slots: Slots, seen: Observation, covered: Covered, part: float) -> None:
        """Move what is held towards an observation: ``(1 - part) F + part F_seen``."""
        ...

    def solve(self, slots: Slots, gradients: Sequence[Tensor], covered: Covered) -> list[Tensor]:
        """Return ``(F + damping I)^{-1} gradient``, in the shapes of the gradients."""
        ...


@dataclass(frozen=True, kw_only=True)
class Identity:
    """No Fisher matrix: the plain gradient."""

    by_layer: ClassVar[bool] = False
    grows: ClassVar[bool] = True

    def update(self, slots: Slots, seen: Observation, covered: Covered, part: float) -> None:
        """Hold nothing."""

    def solve(self, slots: Slots, gradients: Sequence[Tensor], covered: Covered) -> list[Tensor]:
        """Return the gradients."""
        return list(gradients)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The whole matrix, for small models.

    Attributes:
        damping: Added to its diagonal; 0 needs a matrix of full rank.
        most: Parameters at most.

    Cost: P^2 numbers held; with R scores P^2 R multiplications per observation, P^3 / 3 per step.
    """

    by_layer: ClassVar[bool] = False
    grows: ClassVar[bool] = False

    damping: float = 0.1
    most: int = 4096

    def __post_init__(self) -> None:
        require(self.damping >= 0, "Exact.damping", got=self.damping, expected="a number of at least 0")
        require(self.most >= 1, "Exact.most", got=self.most, expected="at least 1")

    def update(self, slots: Slots, seen: Observation, covered: Covered, part: float) -> None:
        """Average the matrices."""
        require(sum(covered.sizes) <= self.most, "Exact", got=f"{sum(covered.sizes):,} parameters",
                expected=f"at most {self.most:,}", do="Use LowRank or Kfac.")  # fmt: skip
        scores = seen.scores(covered)
        matrix = part * (scores.T @ scores)
        if part < 1:
            matrix += (1 - part) * _whole(slots, covered)
        for parameter, rows in zip(covered.parameters, torch.split(matrix, covered.sizes), strict=True):
            slots[parameter][FISHER + "matrix"] = rows.clone()

    def solve(self, slots: Slots, gradients: Sequence[Tensor], covered: Covered) -> list[Tensor]:
        """Solve by Cholesky's factors in float64.

        Raises:
            NumericError: If the damped matrix is singular.
        """
        matrix = _whole(slots, covered).to(torch.float64)
        matrix.diagonal().add_(self.damping)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed):
            raise NumericError("Exact, Fisher matrix", got="a singular matrix", expected="full rank", do="Add damping.")
        flat = _flat(gradients)
        return _shaped(torch.cholesky_solve(flat.to(torch.float64)[:, None], factor)[:, 0].to(flat.dtype), gradients)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The leading directions of the matrix, solved by Woodbury's identity; the rest counts as damping alone.

    Attributes:
        rank: Directions at most. With as many as there are parameters nothing is left out.
        damping: Added to every eigenvalue.

    Cost: rank P numbers held; with R scores (rank + R)^2 P multiplications and an eigendecomposition of rank + R per
    observation, 3 rank P per step.
    """

    by_layer: ClassVar[bool] = False
    grows: ClassVar[bool] = True

    rank: int = 200
    damping: float = 0.1

    def __post_init__(self) -> None:
        require(self.rank >= 1, "LowRank.rank", got=self.rank, expected="at least 1")
        require(self.damping > 0, "LowRank.damping", got=self.damping, expected="a positive number")

    def update(self, slots: Slots, seen: Observation, covered: Covered, part: float) -> None:
        """Stack the old directions and the new scores, and keep the leading directions of both."""
        new = math.sqrt(part) * seen.scores(covered)
        stacked, products = new, new @ new.T
        if part < 1:
            old = math.sqrt(1 - part) * self._held(slots, covered)
            across, own = old @ new.T, torch.diag(old.square().sum(1))  # the old directions are orthogonal
            stacked = torch.cat([old, new])
            products = torch.cat([torch.cat([own, across], 1), torch.cat([across.T, products], 1)])
        values, vectors = _eigen(products)
        kept = min(self.rank, max(1, int((values > values[-1] * _ROUNDING).sum())))
        directions = vectors[:, len(values) - kept :].T @ stacked
        for parameter, columns in zip(covered.parameters, torch.split(directions, covered.sizes, 1), strict=True):
            slots[parameter][FISHER + "matrix"] = columns.clone()

    def solve(self, slots: Slots, gradients: Sequence[Tensor], covered: Covered) -> list[Tensor]:
        """Return ``(g - V^T diag(1 / (v + damping)) V g) / damping`` for orthogonal rows V of squared lengths v."""
        directions, flat = self._held(slots, covered), _flat(gradients)
        along = (directions @ flat) / (directions.square().sum(1) + self.damping)
        return _shaped((flat - directions.T @ along) / self.damping, gradients)

    def _held(self, slots: Slots, covered: Covered) -> Tensor:
        """Return what is held as rows (rank, P); zero for parameters that come in new."""
        held = [slots[parameter].get(FISHER + "matrix") for parameter in covered.parameters]
        some = next(rows for rows in held if rows is not None)
        return torch.cat([some.new_zeros(len(some), own.numel()) if rows is None else rows
                          for own, rows in zip(covered.parameters, held, strict=True)], dim=1)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Diagonal:
    """The variances of the scores and nothing else: what is left of the method without any coupling.

    Attributes:
        damping: Added to every variance.
    """

    by_layer: ClassVar[bool] = False
    grows: ClassVar[bool] = True

    damping: float = 0.1

    def __post_init__(self) -> None:
        require(self.damping > 0, "Diagonal.damping", got=self.damping, expected="a positive number")

    def update(self, slots: Slots, seen: Observation, covered: Covered, part: float) -> None:
        """Average the squared scores."""
        squares = seen.scores(covered).square().sum(0)
        for parameter, found in zip(covered.parameters, torch.split(squares, covered.sizes), strict=True):
            _average(slots[parameter], "variance", found.clone(), part)

    def solve(self, slots: Slots, gradients: Sequence[Tensor], covered: Covered) -> list[Tensor]:
        """Divide by variance plus damping."""
        return [gradient / (slots[parameter][FISHER + "variance"].reshape(gradient.shape) + self.damping)
                for parameter, gradient in zip(covered.parameters, gradients, strict=True)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kfac:
    """A block per linear layer, the Kronecker product of the second moments of inputs and of output gradients.

    Everything else is diagonal. Layers are not coupled with each other; the authors' code couples neighbours.

    Attributes:
        damping: Added to every eigenvalue of the product, not to those of the factors.
        refresh: Observations between two eigendecompositions.

    Cost: (I + 1)^2 + O^2 numbers per layer, twice; per observation their second moments, per refresh two
    eigendecompositions, per step two multiplications on each side of the gradient.

    Source:
        Martens and Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", section
        3; where weights are shared by T places, the form that takes places for rows of their own.
    """

    by_layer: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    damping: float = 0.1
    refresh: int = 20

    def __post_init__(self) -> None:
        require(self.damping > 0, "Kfac.damping", got=self.damping, expected="a positive number")
        require(self.refresh >= 1, "Kfac.refresh", got=self.refresh, expected="at least 1")

    def update(self, slots: Slots, seen: Observation, covered: Covered, part: float) -> None:
        """Average the factors, and now and then take them apart."""
        for weight in covered.layers:
            calls = [layer for layer in seen.layers if layer.weight is weight]
            if not calls:
                continue
            inputs = torch.cat([call.inputs.flatten(0, 1) for call in calls])
            gradients = torch.cat([call.gradients.flatten(0, 1) for call in calls])
            own = slots[weight]
            _average(own, "inputs", inputs.T @ inputs / len(inputs), part)
            _average(own, "outputs", gradients.T @ gradients / seen.examples, part)
            age = own.get(FISHER + "age", torch.tensor(0))
            if int(age) % self.refresh == 0:
                for side in ("inputs", "outputs"):
                    values, vectors = _eigen(own[FISHER + side])
                    own[FISHER + side + "_values"], own[FISHER + side + "_vectors"] = values, vectors
            own[FISHER + "age"] = age + 1
        for parameter in covered.single:
            if parameter not in seen.rest:
                continue
            _average(slots[parameter], "variance", seen.rest[parameter].square().sum(0) / seen.examples, part)

    def solve(self, slots: Slots, gradients: Sequence[Tensor], covered: Covered) -> list[Tensor]:
        """Solve each block in its own eigenvectors."""
        given = dict(zip(covered.parameters, gradients, strict=True))
        solved: dict[Tensor, Tensor] = {}
        for weight, bias in covered.layers.items():
            own = {name: slots[weight][FISHER + name] for name in
                   ("inputs_values", "inputs_vectors", "outputs_values", "outputs_vectors")}  # fmt: skip
            both = given[weight] if bias is None else torch.cat([given[weight], given[bias][:, None]], dim=1)
            turned = own["outputs_vectors"].T @ both @ own["inputs_vectors"]
            turned = turned / (torch.outer(own["outputs_values"], own["inputs_values"]) + self.damping)
            both = own["outputs_vectors"] @ turned @ own["inputs_vectors"].T
            solved[weight] = both[:, : weight.shape[1]]
            if bias is not None:
                solved[bias] = both[:, -1]
        for parameter in covered.single:
            variance = slots[parameter][FISHER + "variance"].reshape(parameter.shape)
            solved[parameter] = given[parameter] / (variance + self.damping)
        return [solved[parameter] for parameter in covered.parameters]


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, none below zero, and eigenvectors, taken apart in float64.

    In float32 LAPACK gives NaN now and then where many eigenvalues are zero, as with inputs that never change.
    """
    values, vectors = torch.linalg.eigh(matrix.to(torch.float64))
    return values.clamp(min=0).to(matrix.dtype), vectors.to(matrix.dtype)


def _average(own: dict[str, Tensor], name: str, found: Tensor, part: float) -> None:
    before = own.get(FISHER + name)
    own[FISHER + name] = found if before is None or part >= 1 else (1 - part) * before + part * found


def _whole(slots: Slots, covered: Covered) -> Tensor:
    return torch.cat([slots[parameter][FISHER + "matrix"] for parameter in covered.parameters])


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _shaped(flat: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    return [part.reshape(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
