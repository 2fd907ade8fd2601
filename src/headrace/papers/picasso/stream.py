"""R5 from a file on disk: reading ahead or not, a step in one piece or in micro-batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.data import ExampleFiles, IdFeature, Schema
from headrace.learn import Pipeline, PipelineConfig, RankLearner
from headrace.papers.picasso.recipe import Work
from headrace.types import Batch

GROUP_ROWS = 8192


def write(work: Work, path: Path) -> None:
    """Write a cell's batches as the rows of a Parquet file."""
    batches = work.content()
    columns = {name: pa.concat_arrays([pa.array(batch.ids[name].values.numpy()) for batch in batches])
               for name in work.names}  # fmt: skip
    labels = pa.concat_arrays([pa.array(batch.labels.numpy()) for batch in batches])
    pq.write_table(pa.table(columns | {"label": labels}), path, row_group_size=GROUP_ROWS)


@dataclass
class Streamed:
    """A learner that reads its batches itself, epoch after epoch.

    Attributes:
        learner: Who learns.
        batches: What comes next.
    """

    learner: RankLearner
    batches: Iterator[Batch]

    @staticmethod
    def over(work: Work, path: Path, stack: ExitStack, *, depth: int | None, micro_batches: int) -> Streamed:
        """Open the file for a learner; a depth of 0 reads each batch when it is needed, None chooses one."""
        schema = Schema(features=tuple(IdFeature(name, work.dim, accepts="integer") for name in work.names))
        learner = work.learner(micro_batches=micro_batches)
        read = ExampleFiles(path, schema).batches(work.batch_rows, order=work.seed, epochs=1_000_000)
        pipeline = Pipeline(PipelineConfig(depth=depth), learner.times)
        return Streamed(learner, stack.enter_context(pipeline.over(read)))

    def learn(self, steps: int) -> float:
        """Learn so many batches and return the seconds per step, reading included."""
        began = time.perf_counter()
        for batch in islice(self.batches, steps):
            self.learner.learn(batch)
        return (time.perf_counter() - began) / steps


def in_turns(arms: dict[str, Streamed], steps: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds per step of every arm and round, in turned order; the first steps are not timed."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm.learn(steps)
    for number in range(rounds):
        for name in arms if number % 2 == 0 else reversed(list(arms)):
            found[name].append(arms[name].learn(steps))
    return found


def reading_s(work: Work, path: Path, steps: int) -> float:
    """Return the seconds that the reader alone takes per batch."""
    schema = Schema(features=tuple(IdFeature(name, work.dim, accepts="integer") for name in work.names))
    read = ExampleFiles(path, schema).batches(work.batch_rows, order=work.seed, epochs=1_000_000)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in islice(read, steps):
            pass
        taken.append((time.perf_counter() - began) / steps)
    return statistics.median(taken)
