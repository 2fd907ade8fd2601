"""What our elastic runs learn: two ids, 32 numbers each, and over them the network that the peer trains (and an FM)."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.data import IdFeature, Schema
from headrace.nn import DeepFM
from headrace.ranking import DenseOptimizer, FitConfig, InMemory, Network, Splits
from headrace.testing.toy import Toy, ToyConfig

SCHEMA = Schema(features=(IdFeature("user", 32), IdFeature("item", 32)))


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Reads examples with a planted answer.

    Attributes:
        rows: Training examples.
        ids: Users, and items.
    """

    rows: int
    ids: int = 256

    def __call__(self) -> Splits:
        """Return the examples."""
        toy = Toy(ToyConfig(users=self.ids, items=self.ids))
        made = [InMemory.from_events(toy.events(*part), SCHEMA) for part in ((0, self.rows), (self.rows, 64))]
        return Splits(train=made[0], valid=made[1], test=made[1])


def stream(*, rows: int = 8192, epochs: int = 10_000, width: int = 64) -> FitConfig:
    """Return a ranker that learns until it is stopped."""
    return FitConfig(
        name="recovery", data=Planted(rows=rows), schema=SCHEMA, epochs=epochs, batch_rows=256, patience=None,
        model=Network(family=DeepFM, hidden=(width, width)), dense=DenseOptimizer(kind="sgd", lr=0.01),
    )  # fmt: skip
