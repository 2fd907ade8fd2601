"""What field models read: one factor per field, a first-order term, and the same laid side by side.

A field is an id feature, with its pooled embedding, or a dense column, with its value times a learned factor. Families
with a first-order term read it from column 0 of a feature's rows, and the factor from the other columns, so that one
table serves both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import DataError
from headrace.nn.layers import InputAxis, InputLayout, embedded, empty_embeddings
from headrace.types import Batch

FACTOR_SPREAD = 0.01
"""Standard deviation of the initial factors of dense columns: small, so that training begins near the linear model."""


@dataclass(frozen=True, slots=True)
class FieldInputs:
    """A batch as a field model reads it.

    Attributes:
        first: First-order term (B,) of all features and dense columns; zeros in families without one.
        factors: Factors (B, N, K) of the id features.
        dense: Dense columns (B, C).
        fields: Factors (B, F, K) of all fields: id features first, then dense columns.
    """

    first: Tensor
    factors: Tensor
    dense: Tensor
    fields: Tensor

    @property
    def flat(self) -> Tensor:
        """Factors of the id features and plain dense values side by side, (B, N * K + C); computed when asked for."""
        flat_BI = self.factors.flatten(1)
        return torch.cat([flat_BI, self.dense], dim=1) if self.dense.shape[1] else flat_BI


class Fields(nn.Module):
    """Turns a batch into fields; holds `embed` and what is learned about dense columns.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D for all features.
        features: Names of the id features, at least one.
        dense_dim: Number of dense columns C.
        draw: Where initial weights are drawn from.
        dim: D; None finds it out by embedding a batch of no examples.
        first_order: Column 0 of the rows is the first-order weight, and factors are the other D - 1. Without it all
            D columns are the factor.
        dense_fields: Dense columns are fields, F = N + C. Without it F = N, and they are in `first` and `flat` only.

    Attributes:
        dim: D.
        factor_dim: Width K of factors: D - 1 or D.
        count: Number F of fields.
        flat_dim: Width of `FieldInputs.flat`.

    Shapes:
        Batch of B -> `FieldInputs`. Parameters: dense_weight (C,) at zero, with `first_order` only; dense_factors
        (C, K), small, with `dense_fields` only.

    Cost:
        One copy of the embeddings, O(B F D).

    Raises:
        ConfigError: If there is no feature, widths differ, or there is no column left for a factor.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, *, draw: torch.Generator,
        dim: int | None = None, first_order: bool = False, dense_fields: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        check_inputs(features, dense_dim)
        check_some_features(features)
        self.embed, self.features = embed, tuple(features)
        self.first_order, self.dense_fields = first_order, dense_fields and dense_dim > 0
        self.dim = common_width(embed, self.features) if dim is None else dim
        least, why = (2, "at least 2: one weight and one factor column") if first_order else (1, "at least 1")
        require(self.dim >= least, "dim", got=self.dim, expected=why)
        self.dense_dim, self.factor_dim = dense_dim, self.dim - int(first_order)
        self.count = len(self.features) + (dense_dim if dense_fields else 0)
        self.flat_dim = len(self.features) * self.factor_dim + dense_dim
        if first_order:
            self.dense_weight = nn.Parameter(torch.zeros(dense_dim))
        if dense_fields:
            self.dense_factors = nn.Parameter(
                torch.empty(dense_dim, self.factor_dim).normal_(0.0, FACTOR_SPREAD, generator=draw)
            )

    def forward(self, batch: Batch) -> FieldInputs:
        """Return the batch as fields.

        Raises:
            DataError: If a feature is missing, not pooled, or of another width, or the dense columns are others.
        """
        rows_BND = stacked(self.embed(batch), self.features, self.dim, len(batch))
        dense_BC = dense_columns(batch, self.dense_dim)
        first_B, factors_BNK = dense_BC.new_zeros(len(batch)), rows_BND
        if self.first_order:
            first_B, factors_BNK = rows_BND[:, :, 0].sum(1), rows_BND[:, :, 1:]
            if self.dense_dim:
                first_B = first_B + dense_BC @ self.dense_weight
        fields_BFK = factors_BNK
        if self.dense_fields:
            fields_BFK = torch.cat([factors_BNK, dense_BC.unsqueeze(2) * self.dense_factors], dim=1)
        return FieldInputs(first_B, factors_BNK, dense_BC, fields_BFK)

    def input_axes(self) -> dict[str, InputAxis]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        names = ["dense_weight"] if self.first_order else []
        names += ["dense_factors"] if hasattr(self, "dense_factors") else []
        return dict.fromkeys(names, InputAxis(axis=0, per_feature=0, per_dense=1))

    def flat_axis(self) -> InputAxis:
        """Return the layout of a weight (outputs, flat_dim) over `FieldInputs.flat`."""
        return InputAxis(axis=1, per_feature=self.factor_dim, per_dense=1)


class FlatInputs:
    """Lays all pooled embeddings of a batch and its dense columns side by side: for models that know no fields.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; asked for widths only.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        dim: D; None finds out every feature's width, which may differ, by embedding a batch of no examples.

    Attributes:
        width: Width of the inputs.

    Raises:
        ConfigError: If there is nothing to read.
    """

    def __init__(self, embed: nn.Module, features: Sequence[str], dense_dim: int, dim: int | None = None) -> None:
        check_inputs(features, dense_dim)
        self.features, self.dense_dim = tuple(features), dense_dim
        if dim is None and self.features:
            self.widths = [int(rows.shape[-1]) for rows in empty_embeddings(embed, self.features)]
        else:
            self.widths = [dim or 0] * len(self.features)
        self.width = sum(self.widths) + dense_dim
        require(self.width >= 1, "features", got=self.features, expected="at least one feature or dense column")

    def __call__(self, embed: nn.Module, batch: Batch) -> Tensor:
        """Return the inputs (B, width).

        Raises:
            DataError: If a feature or the dense columns have another width than the model was built for.
        """
        rows = embedded(embed(batch), self.features, len(batch)) if self.features else []
        for name, row, width in zip(self.features, rows, self.widths, strict=True):
            if row.shape[1] != width:
                raise _other_width(name, row, width)
        return torch.cat([*rows, dense_columns(batch, self.dense_dim)], dim=1)

    def axes(self, *parameters: str, axes: tuple[int, ...] = (1,)) -> dict[str, InputLayout]:
        """Return the layout of parameters over these inputs; no axis where features differ in width."""
        width = self.widths[0] if self.widths else 0
        told = tuple(InputAxis(axis=axis, per_feature=width, per_dense=1) for axis in axes)
        layout = () if len(set(self.widths)) > 1 else told[0] if len(told) == 1 else told
        return dict.fromkeys(parameters, layout)


def stacked(rows: Mapping[str, Tensor], features: Sequence[str], dim: int, batch_rows: int) -> Tensor:
    """Return the embeddings of the features as one tensor (B, N, D).

    Raises:
        DataError: If a feature is missing, not pooled, or of another width than `dim`.
    """
    side_by_side = getattr(rows, "joint", None)  # an embedding that has them so already
    joint = side_by_side(features) if callable(side_by_side) else None
    if isinstance(joint, Tensor) and joint.shape == (batch_rows, len(features), dim):
        return joint
    found = embedded(rows, features, batch_rows)
    if any(row.shape[1] != dim for row in found):
        name, row = next(pair for pair in zip(features, found, strict=True) if pair[1].shape[1] != dim)
        raise _other_width(name, row, dim)
    return torch.stack(found, dim=1)


def dense_columns(batch: Batch, columns: int) -> Tensor:
    """Return the dense columns (B, columns).

    Raises:
        DataError: If the batch has another number of them.
    """
    if batch.dense.shape[1] != columns:
        raise DataError("Batch.dense", got=f"{batch.dense.shape[1]} columns", expected=f"{columns}",
                        do="The model was built for another schema.")  # fmt: skip
    return batch.dense


def check_inputs(features: Sequence[str], dense_dim: int) -> None:
    """Refuse features that repeat, or are one text instead of several, and a negative number of dense columns."""
    require(not isinstance(features, str) and len(set(features)) == len(features), "features", got=features,
            expected="distinct names")  # fmt: skip
    require(dense_dim >= 0, "dense_dim", got=dense_dim, expected="a number of columns, 0 or more")


def check_some_features(features: Sequence[str]) -> None:
    """Refuse a field model without id features."""
    require(len(features) > 0, "features", got=tuple(features), expected="at least one id feature",
            do="For dense columns alone use LogisticRegression or an MLP.")  # fmt: skip


def common_width(embed: nn.Module, features: Sequence[str]) -> int:
    """Return the one width of all features, found out by embedding a batch of no examples.

    Raises:
        ConfigError: If widths differ.
    """
    widths = {name: int(rows.shape[-1]) for name, rows in zip(features, empty_embeddings(embed, features), strict=True)}
    require(len(set(widths.values())) == 1, "dim", got=widths, expected="one width for all features",
            do="Fields meet factor by factor: give the features' tables the same dim.")  # fmt: skip
    return next(iter(widths.values()))


def log_odds(prior: float) -> float:
    """Return the logit of a rate of positives.

    Raises:
        ConfigError: If it is no rate between 0 and 1.
    """
    require(0.0 < prior < 1.0, "prior", got=prior, expected="a rate between 0 and 1")
    return math.log(prior / (1.0 - prior))


def start_at(output: nn.Linear, prior: float) -> None:
    """Set the bias of an output layer so that a model begins with this rate of positives."""
    with torch.no_grad():
        output.bias.fill_(log_odds(prior))


def _other_width(name: str, row: Tensor, width: int) -> DataError:
    return DataError(f"Feature '{name}'", got=f"an embedding of width {row.shape[1]}",
                     expected=f"{width}, as the model was built for")  # fmt: skip
