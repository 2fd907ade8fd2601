"""A small run with a planted answer: to try an elastic run in seconds, and for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headrace.data import DenseFeature, IdFeature, Schema
from headrace.nn import DeepFM
from headrace.online.config import TableSettings
from headrace.ranking.config import DenseOptimizer, FitConfig
from headrace.ranking.examples import InMemory, Splits, taken
from headrace.ranking.network import Network
from headrace.store import Adam
from headrace.types import NO_VERSION, Batch, Jagged

IDS = 30


@dataclass(frozen=True, kw_only=True)
class PlantedClicks:
    """Clicks of users on items, more likely where their hidden tastes agree; a function of the seed.

    Attributes:
        rows: Examples, of which a tenth each validates and tests.
        seed: Everything random follows from it.
        bad: Numbers of training examples whose dense value is not finite.

    Example:
        >>> [len(part) for part in (PlantedClicks(rows=100)().train, PlantedClicks(rows=100)().test)]
        [80, 10]
    """

    rows: int
    seed: int = 0
    bad: Sequence[int] = ()

    def __call__(self) -> Splits:
        """Draw the examples."""
        draw = np.random.default_rng([self.seed, 7])
        tastes = draw.normal(size=(2, IDS, 3))
        users, items = draw.integers(0, IDS, (2, self.rows))
        logits = (tastes[0, users] * tastes[1, items]).sum(1)
        dense = draw.random((self.rows, 1), np.float32)
        dense[list(self.bad)] = np.inf
        ones, single = torch.ones(self.rows), torch.arange(self.rows + 1)
        whole = Batch(
            ids={"user": Jagged(torch.from_numpy(users), single), "item": Jagged(torch.from_numpy(items), single)},
            dense=torch.from_numpy(dense),
            labels=torch.from_numpy((draw.random(self.rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)),
            weights=ones, event_times=torch.arange(self.rows), accepted_times=torch.zeros(self.rows, dtype=torch.int64),
            example_ids=torch.arange(self.rows), predictions=ones * float("nan"),
            versions=torch.full((self.rows,), NO_VERSION), sample_rates=ones, extra={},
        )  # fmt: skip
        places = torch.arange(self.rows)
        cuts = (self.rows * 8 // 10, self.rows * 9 // 10)
        train, valid, test = (InMemory(taken(whole, part)) for part in torch.tensor_split(places, cuts))
        return Splits(train, valid, test)


def toy(
    *, rows: int = 4000, batch_rows: int = 64, epochs: int = 1, seed: int = 0, dim: int = 8, bad: Sequence[int] = ()
) -> FitConfig:
    """Return a ranker of planted clicks.

    Args:
        rows: Examples, of which a tenth each validates and tests.
        batch_rows: Rows of a step.
        epochs: Passes.
        seed: Of data, weights and order.
        dim: Width of a row.
        bad: Numbers of training examples that cannot be learned.
    """
    schema = Schema(features=(IdFeature("user", dim), IdFeature("item", dim), DenseFeature("level")))
    return FitConfig(
        name="toy", data=PlantedClicks(rows=rows, seed=seed, bad=bad), schema=schema,
        model=Network(family=DeepFM, hidden=(16,)), batch_rows=batch_rows, epochs=epochs, seed=seed,
        tables=TableSettings(rule=Adam(lr=0.05)), dense=DenseOptimizer(lr=0.01),
    )  # fmt: skip
