"""Headrace: `RankLearner` over native tables, read from Parquet on disk, shuffled, epoch after epoch.

Options: `depth` (batches read ahead; 0: each is read when it is needed; none given: chosen while it runs), `micro`
(micro-batches of a step), `reader` (nothing is learned, batches are read). Every id has a row before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.data.example_files import ExampleFiles
from headrace.learn import LearnerConfig, Pipeline, PipelineConfig, RankLearner
from headrace.objectives import LogLoss
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, NativeTable, TableConfig, Uniform, open_table
from headrace.types import Batch
from pipeline_contenders.networks import network, schema, weights
from pipeline_contenders.protocol import serve, timed
from pipeline_contenders.work import EPS, PARQUET, Case

FILL = 65_536
"""Rows assigned in one call."""
EPOCHS = 1_000_000
"""More than any run lasts."""


class Ours:
    """The learner and its batches."""

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        told = schema(case)
        rule, init = Adagrad(lr=case.lr, eps=EPS), Uniform(0.01)
        tables = {name: open_table(TableConfig(name=name, dim=dim, rule=rule, init=init))
                  for name, dim in told.tables.items()}  # fmt: skip
        for name, table in tables.items():
            fill(table, case.sizes[name])
        embed = EmbeddingCollection(tables, [FeatureLookup(feature=one.name, table=one.table, pooling=one.pooling)
                                             for one in told.id_features])  # fmt: skip
        model = network(case, embed)
        optimizer = torch.optim.Adagrad(model.parameters(), lr=case.lr, eps=EPS)
        self.weights = weights(model)
        settings = LearnerConfig(freshness=False, row_gradients="mean", micro_batches=options.get("micro", 1))
        self._learner = RankLearner(model, embed, optimizer, LogLoss(), settings)
        self._open = ExitStack()
        pipeline = Pipeline(PipelineConfig(depth=options.get("depth")), self._learner.times)
        self._batches = self._open.enter_context(pipeline.over(reader(case, folder)))

    def train(self, steps: int) -> float:
        """Make steps."""
        return timed(lambda: self._learner.learn(next(self._batches)), steps)

    def close(self) -> None:
        """Stop reading ahead."""
        self._open.close()


class Reader:
    """The reader alone: what it takes to have batches, when nothing is learned."""

    weights = 0

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        self._batches = reader(case, folder)

    def train(self, steps: int) -> float:
        """Read batches."""
        return timed(lambda: next(self._batches), steps)


def reader(case: Case, folder: Path) -> Iterator[Batch]:
    """Return an iterator over whole batches, shuffled, epoch after epoch."""
    return ExampleFiles(folder / PARQUET, schema(case)).batches(case.batch, order=1, epochs=EPOCHS)


def open_one(case: Case, folder: Path, options: Mapping[str, Any]) -> Ours | Reader:
    """Return the learner, or, as the options ask, the reader alone."""
    return Reader(case, folder, options) if options.get("reader") else Ours(case, folder, options)


def fill(table: Any, rows: int) -> None:
    """Give the ids 1..rows a row, as peers have one for every id from the start."""
    assert isinstance(table, NativeTable)
    pattern = np.random.default_rng(0).uniform(-0.01, 0.01, (FILL, table.config.dim)).astype(np.float32)
    for start in range(1, rows + 1, FILL):
        count = min(FILL, rows + 1 - start)
        times = torch.zeros(count, dtype=torch.int64)
        table.assign(torch.arange(start, start + count), torch.from_numpy(pattern[:count]), times)


if __name__ == "__main__":
    serve(open_one)
