"""What the chaos tests learn: few users and items, and rows that nobody can learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from headrace.data import IdFeature, Schema
from headrace.nn import DeepFM
from headrace.ranking import FitConfig, InMemory, Network, Splits
from headrace.testing.toy import Toy, ToyConfig

SCHEMA = Schema(features=(IdFeature("user", 8), IdFeature("item", 8)))
ROWS = "elastic_recipe:planted"


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Examples with a planted answer; the labels of some are not a number."""

    rows: int
    poison: tuple[int, ...] = ()

    def __call__(self) -> Splits:
        toy = Toy(ToyConfig())
        train, held = (InMemory.from_events(toy.events(*part), SCHEMA) for part in ((0, self.rows), (self.rows, 256)))
        labels = train.batch.labels.clone()
        labels[list(self.poison)] = torch.nan
        return Splits(train=InMemory(replace(train.batch, labels=labels)), valid=held, test=held)


def planted(*, rows: int, poison: tuple[int, ...] = (), batch_rows: int = 64, epochs: int = 1) -> FitConfig:
    return FitConfig(
        name="planted", data=Planted(rows=rows, poison=tuple(poison)), schema=SCHEMA, epochs=epochs, patience=None,
        batch_rows=batch_rows, model=Network(family=DeepFM, hidden=(16,)), row_gradients="sum",
    )  # fmt: skip
