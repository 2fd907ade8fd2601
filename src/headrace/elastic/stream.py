"""Learning a topic while it grows: rows of a log by their numbers, and how they get into the work queue.

headrace run headrace.elastic.stream:examples recipe=my.recipes:shop log=runs/shop/examples.db --cluster local
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from headrace.config import require
from headrace.data import EmbeddedLog, Schema, collate
from headrace.errors import ConfigError
from headrace.objectives import LogLoss
from headrace.online.config import OnlineConfig
from headrace.online.recipe import build, find_recipe
from headrace.ranking.config import DenseOptimizer, FitConfig
from headrace.ranking.examples import ExampleSet, InMemory, Splits
from headrace.runtime.controller import Controller
from headrace.runtime.work_queue import ShardQueue
from headrace.types import Batch, Events

EXAMPLES = "examples"
NOTE_S = 0.5
"""Between two notes of how far the workers are behind."""


@dataclass(frozen=True)
class StreamExamples:
    """Labelled rows of one partition of a topic, which grows while it is learned; an `ExampleSet`.

    Attributes:
        log: File of the log; every process that reads rows opens it.
        topic: Which topic.
        schema: What its rows are read as.
        first: Row of the topic that is number 0 here; what lies before it is kept for judging.
        partition: Which partition of it.
    """

    grows: ClassVar[bool] = True
    log: Path
    topic: str
    schema: Schema
    first: int = 0
    partition: int = 0

    @cached_property
    def _open(self) -> EmbeddedLog:
        return EmbeddedLog(self.log)

    def __len__(self) -> int:
        """Return how many rows are there now."""
        return max(self._open.rows(self.topic, partition=self.partition) - self.first, 0)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._open.is_closed(self.topic, partition=self.partition)

    def batches(self, rows: int, order: int | None = None) -> Iterator[Batch]:
        """Yield what is there now, in batches of `rows`; the iterator can `seek` a row."""
        require(order is None, "order", got=order, expected="None: a stream is read as it comes",
                do="The work queue shuffles inside its shards.")  # fmt: skip
        return StreamBatches(self, rows)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows `start .. stop`.

        Raises:
            StaleError: If they were trimmed from the log.
            SchemaError: If they are no examples, such as rows of a user who was erased.
        """
        wanted, first = stop - start, start + self.first
        offset = self._open.locate(self.topic, first, partition=self.partition)
        parts = list[Events]()
        while sum(len(part) for part in parts) < wanted:
            entries = self._open.read(self.topic, offset, partition=self.partition)
            for entry in entries:
                if entry.rows:
                    parts.append(entry.stamped().slice(max(first - entry.first_row, 0)))
            offset = entries[-1].offset + 1
        return collate(Events.concat(parts).slice(0, wanted), self.schema)


class StreamBatches(Iterator[Batch]):
    """Batches of what a stream had when they were asked for."""

    def __init__(self, examples: StreamExamples, rows: int) -> None:
        self._examples, self._rows, self._row, self._stop = examples, rows, 0, len(examples)

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a row."""
        self._row = int(position["row"])

    def __next__(self) -> Batch:
        if self._row >= self._stop:
            raise StopIteration
        stop = min(self._row + self._rows, self._stop)
        batch = self._examples.read(self._row, stop)
        self._row = stop
        return batch


class Inflow:
    """Fills the work queue: with all rows of a split that stays as it is, with those of a stream as they come.

    Rows of a stream wait until there are as many as a step takes, or `linger_s` has passed.

    Args:
        queue: To be filled.
        source: Name of the split there.
        examples: The split.
        step_rows: Rows of a step.
        linger_s: How long fewer rows than that wait for more.
    """

    def __init__(
        self, queue: ShardQueue, source: str, examples: ExampleSet, step_rows: int, linger_s: float = 1.0
    ) -> None:
        self._queue, self._source, self._examples = queue, source, examples
        self._step_rows, self._linger_s = step_rows, linger_s
        self._stream = examples if isinstance(examples, StreamExamples) else None
        self._given, self._since, self._noted = 0, time.monotonic(), 0.0
        if self._stream is None:
            queue.add(source, len(examples))
        else:
            self.look(time.monotonic())

    def rows(self, epochs: int) -> int | None:
        """Return the rows of the whole job; None for a stream."""
        return None if self._stream is not None else len(self._examples) * epochs

    def look(self, now: float, controller: Controller | None = None) -> None:
        """Take in what has come; tell the controller how many rows wait, twice a second."""
        if self._stream is None:
            return
        ended = self._stream.ended  # asked first, so that no row before the end is missed
        self._take(len(self._stream), ended, now)
        if controller is not None and now - self._noted >= NOTE_S:
            self._noted = now
            controller.record_lag(self.lag or 0, now)

    @property
    def lag(self) -> int | None:
        """Rows of a stream that have come and were not learned yet; None for a split that stays as it is."""
        if self._stream is None:
            return None
        counts = self._queue.counts()
        return len(self._stream) - counts.pending - counts.done - counts.quarantined - counts.dropped

    def _take(self, there: int, ended: bool, now: float) -> None:
        if there == self._given:
            self._since = now
        whole = there - (there - self._given) % self._step_rows
        stop = there if ended or now - self._since > self._linger_s else whole
        if stop > self._given:
            self._given, self._since = stop, now
        # said again and again, because a queue that went back to a checkpoint has forgotten it
        self._queue.extend(self._source, self._given)
        if ended:
            self._queue.close(self._source)


@dataclass(frozen=True, kw_only=True)
class StreamSplits:
    """Reads a log: its first rows judge, all others are learned.

    Attributes:
        log: File of the log.
        topic: Which topic.
        schema: What its rows are read as.
        held_rows: Rows at the beginning that validate and test, half each.
    """

    log: Path
    topic: str
    schema: Schema
    held_rows: int

    def __call__(self) -> Splits:
        """Return the three splits.

        Raises:
            ConfigError: If the log has fewer rows than judge.
        """
        judging = StreamExamples(self.log, self.topic, self.schema)
        require(len(judging) >= self.held_rows, f"Topic '{self.topic}' of {self.log}", got=f"{len(judging)} rows",
                expected=f"the {self.held_rows} that judge", do="Wait for them, or set held_rows.")  # fmt: skip
        half = self.held_rows // 2
        valid, test = judging.read(0, half), judging.read(half, self.held_rows)
        train = StreamExamples(self.log, self.topic, self.schema, self.held_rows)
        return Splits(train, InMemory(valid), InMemory(test))


def examples(*, recipe: str, log: Path, topic: str = EXAMPLES, held_rows: int = 2000, seed: int = 0) -> FitConfig:
    """Return the ranker of an online recipe, learned from the examples of a run by several workers.

    Args:
        recipe: Of the run, with the settings that it has by default.
        log: Its `examples.db`, or another log that its joiner writes.
        topic: The topic of examples in there.
        held_rows: Its first rows validate and test the result, half each, and are not learned.
        seed: Of weights and order.
    """
    online = build(find_recipe(recipe), [])
    if not isinstance(online, OnlineConfig):
        raise ConfigError("recipe", got=f"one of {type(online).__name__}", expected="a recipe of an OnlineConfig")
    require(held_rows >= 2, "held_rows", got=held_rows, expected="at least 2")
    objective = online.objective or LogLoss(negative_rate=online.join.negative_rate, correction=online.correction)
    return FitConfig(
        name=f"{online.name}-stream", schema=online.schema, model=online.model, tables=online.tables,
        data=StreamSplits(log=log, topic=topic, schema=online.schema, held_rows=held_rows),
        table_overrides=online.table_overrides, dense=DenseOptimizer(lr=online.dense_lr), batch_rows=online.batch_rows,
        epochs=1, row_gradients="sum", objective=objective, seed=seed, data_files=(), notes=online.notes,
    )  # fmt: skip
