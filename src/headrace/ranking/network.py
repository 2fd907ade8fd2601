"""From a family of `headrace.nn` to the builder of a network: which arguments it takes is read from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from headrace.config import require
from headrace.data import Schema
from headrace.errors import ConfigError, nearest
from headrace.online.config import ModelFamily


@dataclass(frozen=True, kw_only=True)
class Network:
    """Builds a model family over all features of a schema; a `ModelBuilder`.

    Attributes:
        family: A class whose first arguments are `(embed, features, dense_dim)`, as those of `headrace.nn` are.
        hidden: Widths of its deep part, or `Hidden` with normalisation and activation too; not given to families that
            have none.
        dropout: Share of hidden values dropped in training; not given to families without.
        prior: Rate of positives to start from; not given to families without.
        settings: Further arguments by name, checked against the family's own.

    Raises:
        ConfigError: If the family has no such setting (the nearest names are listed).

    Example:
        >>> from headrace.nn import DeepFM
        >>> Network(family=DeepFM, hidden=(32,)).takes("hidden")
        True
    """

    family: ModelFamily
    hidden: Sequence[int] = (64, 64)
    dropout: float = 0.0
    prior: float = 0.5
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(callable(self.family), "Network.family", got=self.family, expected="a class of headrace.nn")
        for name in self.settings:
            if not self.takes(name):
                raise ConfigError(f"Setting '{name}' of {self.name}", got="unknown",
                                  expected=nearest(name, list(inspect.signature(self.family).parameters)),
                                  do="See the family's docstring.")  # fmt: skip

    @property
    def name(self) -> str:
        """Name of the family."""
        return str(getattr(self.family, "__name__", self.family))

    def takes(self, name: str) -> bool:
        """Return whether the family has an argument of that name."""
        return name in inspect.signature(self.family).parameters

    def __call__(self, embed: nn.Module, schema: Schema, seed: int) -> nn.Module:
        """Return the network."""
        offered = {
            "hidden": self.hidden, "dropout": self.dropout, "prior": self.prior, "seed": seed,
            "dim": schema.id_features[0].dim if len(set(schema.tables.values())) == 1 else None,
        }  # fmt: skip
        arguments = {name: value for name, value in offered.items() if self.takes(name)} | dict(self.settings)
        return self.family(embed, schema.id_names, len(schema.dense_names), **arguments)
