"""The pipeline of a fit: batches are read and decoded while others are learned, as far ahead as it takes.

The batches and their order are those without a pipeline, so the weights are the same to the bit: nothing that may be
chosen while it runs (how far ahead, how many decoding threads) can be seen in the result.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from headrace.config import require
from headrace.learn.learner import RankLearner
from headrace.learn.micro_batches import MicroBatches
from headrace.learn.read_ahead import ReadAhead, ReadStats
from headrace.learn.stages import StageTimes
from headrace.types import Batch

FIRST_DEPTH = 2
"""Batches that may wait at first, where nobody set a number."""
MOST_DEPTH = 512
TUNE_BATCHES = 16
"""Batches between two looks at the waiting."""
TOLERATED = 0.01
"""Share of the time that may be waited without a change."""
CHEAP = 0.05
"""Share of the time up to which reading is cheaper between the steps than on a thread, which takes turns with the
learner's Python and a core from its arithmetic."""
KEEPS_UP = 0.8
"""A reader that needs less than this share of a step for a batch keeps up on average: only its long ones hurt."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How far a fit reads ahead. No setting changes a result.

    Attributes:
        depth: Batches that may wait for the learner; 0: each is read when it is needed. None: chosen while it runs,
            from how long reading and learning take; batches that are quickly read are read between the steps then.
        max_bytes: Memory of the batches that wait; one more is in the making.
        workers: Threads that decode files at once, where the examples can be decoded so (`ExampleFiles`). None: as
            the examples say, and more where the learner would wait.

    Raises:
        ConfigError: If a value cannot work.
    """

    depth: int | None = None
    max_bytes: int = 256 << 20
    workers: int | None = None

    def __post_init__(self) -> None:
        require(self.depth is None or 0 <= self.depth <= MOST_DEPTH, "PipelineConfig.depth", got=self.depth,
                expected=f"0 to {MOST_DEPTH}, or None")  # fmt: skip
        require(self.max_bytes >= 1, "PipelineConfig.max_bytes", got=self.max_bytes, expected="a positive number")
        require(self.workers is None or self.workers >= 0, "PipelineConfig.workers", got=self.workers,
                expected="0 or more, or None")  # fmt: skip


class Pipeline:
    """Reads batches ahead of a learner, epoch after epoch, and keeps what it found best.

    Args:
        config: Bounds; None: the default ones.
        times: Where reading and waiting are counted: the learner's own.
        made: Called with every batch once it is read, by whoever reads: the reading thread, before the batch waits, or
            the learner's own between two steps; a collection's `fetch_ahead`.

    Example:
        >>> from headrace.testing.toy import Toy, ToyConfig
        >>> batches = list(Toy(ToyConfig()).batches(8, 3))
        >>> pipeline = Pipeline()
        >>> with pipeline.over(iter(batches)) as ahead:
        ...     [batch is other for batch, other in zip(ahead, batches, strict=True)]
        [True, True, True]
    """

    def __init__(
        self, config: PipelineConfig | None = None, times: StageTimes | None = None, *,
        made: Callable[[Batch], None] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.times, self._made = config or PipelineConfig(), times or StageTimes(), made
        own = self.config.depth
        self.depth = FIRST_DEPTH if own is None else own
        self.workers = self.config.workers
        self.between = own == 0
        self._stats, self._seconds = ReadStats(), 0.0
        self._cheap, self._between_s = 0.0, 0.0

    @contextmanager
    def over(self, batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
        """Give an iterator over the same batches; what waits in it is dropped at the end of the context."""
        if self.workers is not None and hasattr(batches, "workers"):
            batches.workers = self.workers
        reading = self._read(batches)
        try:
            yield reading
        finally:
            reading.close()

    def chosen(self) -> str:
        """Return a sentence: how far ahead, how many threads, and how much the learner waited all the same."""
        if self.between:
            share = "" if not self._between_s else f", {self._cheap / self._between_s:.1%} of the time"
            return f"each batch was read when it was needed (depth 0){share}"
        stats, items = self._stats, max(self._stats.items, 1)
        threads = "" if not self.workers else f", {self.workers} threads decoded"
        waited = stats.waited_s / self._seconds if self._seconds else 0.0
        step_ms = 1e3 * (self._seconds - stats.waited_s) / items
        return (f"up to {self.depth} batches were read ahead ({stats.most_bytes / 2**20:.1f} MiB at most){threads}: "
                f"reading took {1e3 * stats.read_s / items:.2f} ms a batch beside {step_ms:.2f} ms of learning, "
                f"the learner waited {waited:.1%} of the time")  # fmt: skip

    def _read(self, batches: Iterator[Batch]) -> Generator[Batch]:
        while not (yield from self._between(batches) if self.between else self._ahead(batches)):
            pass

    def _between(self, batches: Iterator[Batch]) -> Generator[Batch, None, bool]:
        """Read between the steps; returns whether that was the end, else reading has become too slow for it."""
        start, read_s = time.perf_counter(), 0.0
        for place in itertools.count(1):
            began = time.perf_counter()
            with self.times.stage("read"):
                batch = next(batches, None)
                if batch is not None and self._made is not None:
                    self._made(batch)
            read_s += time.perf_counter() - began
            if batch is None:
                break
            yield batch
            if place % TUNE_BATCHES == 0:
                seconds = time.perf_counter() - start
                self._cheap, self._between_s = self._cheap + read_s, self._between_s + seconds
                if self.config.depth is None and read_s > 2 * CHEAP * seconds:
                    self.between = False
                    return False
                start, read_s = time.perf_counter(), 0.0
        return True

    def _ahead(self, batches: Iterator[Batch]) -> Generator[Batch, None, bool]:
        """Read on a thread; returns whether that was the end, else reading is so quick that it needs none."""
        with ReadAhead(batches, depth=self.depth, max_bytes=self.config.max_bytes, times=self.times,
                       made=self._made) as ahead:  # fmt: skip
            began, look = time.perf_counter(), _Look.now(ahead.stats)
            try:
                for place, batch in enumerate(ahead, 1):
                    yield batch
                    if place % TUNE_BATCHES:
                        continue
                    since = look.until(ahead.stats)
                    if self._is_cheap(since, batches):
                        self.between = True
                        yield from ahead.rest()
                        return False
                    self._tune(since, ahead, batches)
                    look = _Look.now(ahead.stats)
            finally:
                self._seconds += time.perf_counter() - began
                self._sum(ahead.stats)
        return True

    def _is_cheap(self, since: _Look, batches: Iterator[Batch]) -> bool:
        waits = hasattr(batches, "interrupt")  # a stream: `next` may take for ever
        return self.config.depth is None and not waits and since.read_s < CHEAP * since.seconds

    def _tune(self, since: _Look, ahead: ReadAhead[Batch], batches: Iterator[Batch]) -> None:
        """Do what is missing, where nobody has set it."""
        wanted = missing(since.seconds, since.read_s, since.waited_s)
        if wanted == "depth" and self.config.depth is None:
            step_s = max(since.seconds - since.waited_s, 1e-9) / TUNE_BATCHES
            hidden = math.ceil(ahead.stats.longest_s / step_s) + 1  # so many steps take as long as the longest read
            ahead.depth = self.depth = min(max(2 * self.depth, hidden), MOST_DEPTH)
        elif wanted == "workers" and self.config.workers is None and hasattr(batches, "workers"):
            batches.workers = self.workers = min(batches.workers + 1, max(cores(), batches.workers))

    def _sum(self, stats: ReadStats) -> None:
        own = self._stats
        own.items, own.read_s, own.waited_s = (
            own.items + stats.items, own.read_s + stats.read_s, own.waited_s + stats.waited_s,
        )  # fmt: skip
        own.starved, own.most_bytes = own.starved + stats.starved, max(own.most_bytes, stats.most_bytes)


@dataclass(frozen=True, slots=True)
class _Look:
    """Readings at one time, or between two times."""

    seconds: float
    read_s: float
    waited_s: float

    @staticmethod
    def now(stats: ReadStats) -> _Look:
        return _Look(time.perf_counter(), stats.read_s, stats.waited_s)

    def until(self, stats: ReadStats) -> _Look:
        later = _Look.now(stats)
        return _Look(later.seconds - self.seconds, later.read_s - self.read_s, later.waited_s - self.waited_s)


def missing(seconds: float, read_s: float, waited_s: float) -> Literal["nothing", "depth", "workers"]:
    """Return what a learner that waits lacks.

    Args:
        seconds: Time that passed.
        read_s: Time spent on reading in it.
        waited_s: Time in it that the learner waited.

    Returns:
        `depth`, when reading keeps up on average and only single batches were late; `workers`, when all of them were.

    Example:
        >>> missing(10.0, 1.0, 0.01), missing(10.0, 1.0, 2.0), missing(10.0, 9.0, 2.0)
        ('nothing', 'depth', 'workers')
    """
    if waited_s <= TOLERATED * seconds:
        return "nothing"
    return "depth" if read_s < KEEPS_UP * (seconds - waited_s) else "workers"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class SliceTrial:
    """Seconds of a step's gradients with so many micro-batches, the shortest of some tries."""

    micro_batches: int
    seconds: float


def try_micro_batches(
    learner: RankLearner, batch: Batch, counts: Sequence[int] = (1, 2, 4, 8), *, tries: int = 3
) -> list[SliceTrial]:
    """Measure the gradients of a batch in slices, the fastest first; the learner is as before.

    Micro-batches change the rounding of sums, so their number is part of what a run is: choose it once, at the
    beginning, and keep it (`LearnerConfig.micro_batches`; a fit does so with `FitConfig.micro_batches=None`).

    Args:
        learner: Whose model, tables and loss.
        batch: As large as those to come.
        counts: Numbers of slices to try.
        tries: How often; the shortest counts.

    Raises:
        ConfigError: If the learner's loss or model cannot be cut into slices.
    """
    best = dict.fromkeys(counts, float("inf"))
    for _ in range(tries):
        for count in counts:
            with learner.untouched():
                began = time.perf_counter()
                MicroBatches(learner.model, learner.collection, learner.objective, count).backward(batch, 1.0)
                best[count] = min(best[count], time.perf_counter() - began)
    return sorted((SliceTrial(*item) for item in best.items()), key=lambda trial: trial.seconds)
