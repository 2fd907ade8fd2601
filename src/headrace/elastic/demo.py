"""What `headrace demo --cluster` learns: a click log, or invented clicks, with a worker that is slow for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.data import IdFeature, Schema
from headrace.data.datasets import trivago
from headrace.nn import DeepFM
from headrace.online.config import TableSettings
from headrace.ranking.config import DenseOptimizer, FitConfig
from headrace.ranking.examples import InMemory, Splits, cut
from headrace.ranking.network import Network
from headrace.runtime.simulate_patterns import Pattern, Slow
from headrace.store import Adam
from headrace.types import Events

TASTES = 4
SLOW_WORKER, SLOW_TIMES = 1, 4.0
ROW_S = 4e-4
"""Seconds of sleep for a row, which stand for a larger model: so that four workers are worth having on two cores."""


@dataclass(frozen=True, kw_only=True)
class InventedClicks:
    """Users who click what suits their taste; every row is a function of the seed.

    Attributes:
        schema: Of the examples: `user` and `item`.
        rows: How many are invented; a tenth each validates and tests.
        users, items: How many there are.
        seed: Of all of it.
    """

    schema: Schema
    rows: int
    users: int = 400
    items: int = 100
    seed: int = 0

    def __call__(self) -> Splits:
        """Return the three splits."""
        draw = np.random.default_rng(self.seed)
        tastes, kinds = draw.normal(size=(self.users, TASTES)), draw.normal(size=(self.items, TASTES))
        users, items = draw.integers(self.users, size=self.rows), draw.integers(self.items, size=self.rows)
        logits = 1.5 * np.einsum("nk,nk->n", tastes[users], kinds[items]) - 1.0
        labels = draw.random(self.rows) < 1.0 / (1.0 + np.exp(-logits))
        numbers = np.arange(self.rows)
        events = Events.from_columns({
            "key": pa.array(numbers).cast(pa.string()), "kind": pa.repeat(pa.scalar("example"), self.rows),
            "event_time": 1_700_000_000_000_000 + 1000 * numbers, "user": users, "item": items,
            "label": labels.astype(np.float32), "example_id": numbers,
        })  # fmt: skip
        parts = cut(events, 0.1, 0.1, seed=self.seed)
        train, valid, test = (InMemory.from_events(part, self.schema) for part in parts)
        return Splits(train, valid, test)


def clicks(
    *, rows: int = 60_000, dim: int = 8, batch_rows: int = 256, epochs: int = 1, lr: float = 0.03, seed: int = 0
) -> FitConfig:
    """Return a ranker of invented clicks."""
    schema = Schema(features=(IdFeature("user", dim), IdFeature("item", dim)))
    return FitConfig(
        name="invented-clicks", data=InventedClicks(schema=schema, rows=rows, seed=seed), schema=schema,
        model=Network(family=DeepFM, hidden=(32,)), tables=TableSettings(rule=Adam(lr=lr)),
        dense=DenseOptimizer(lr=1e-3), batch_rows=batch_rows, epochs=epochs, seed=seed,
    )  # fmt: skip


def choose(data: str) -> tuple[str, tuple[str, ...], str]:
    """Return (recipe, settings, a sentence that says why): hotels shown and clicked if their log is there."""
    found = trivago.find() if data in ("auto", "trivago") else None
    if found is not None or data == "trivago":
        settings = ("batch_rows=512", "lr=0.002", "epochs=1", "rows=100000")
        return (
            "headrace.ranking.recipes:trivago",
            settings,
            f"Learning from the trivago click log ({found or 'missing'}).",
        )
    return "headrace.elastic.demo:clicks", (), "Learning from invented clicks, not from a real log."


def slow_for_a_while(row_s: float = ROW_S) -> Pattern:
    """Return what makes one worker slower through the middle of the run, so that there is something to decide."""
    slow = Slow(index=SLOW_WORKER, factor=SLOW_TIMES, start=0.25, stop=0.65)
    return Pattern(name="demo", worker_row_s=row_s, slow=(slow,))
