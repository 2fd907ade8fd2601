"""The guard of a run: shadow models made from its configuration, and the newest joined examples to judge them on."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import cast

from torch import Tensor

from headrace.data import EmbeddedLog, PreparedStatistics, Schema, collate
from headrace.data.subjects import without_erased
from headrace.errors import StaleError
from headrace.online.build import open_serving
from headrace.online.config import OnlineConfig
from headrace.online.layout import EXAMPLES, RunFolder
from headrace.online.logs import open_log
from headrace.protocols import Metric, Resumable
from headrace.publish import Shadow, ShadowGuard, publishing
from headrace.types import Batch, Events, Jagged, State

_log = logging.getLogger(__name__)
AGAIN_S = 0.1
KEPT, NESTED = "guard_batches", ("ids", "extra")


class NewestExamples:
    """The newest rows of a run's example log, read as they come.

    Args:
        log: The log of examples.
        schema: What to read from them.
        preparation: What rows are prepared with before; None: they come as the schema has them.
    """

    def __init__(self, log: EmbeddedLog, schema: Schema, preparation: PreparedStatistics | None = None) -> None:
        self.log, self.schema, self.preparation = log, schema, preparation
        self._parts: deque[Events] = deque()
        self._following: int | None = None
        self._batch: Batch | None = None

    def __call__(self, rows: int) -> Sequence[Batch]:
        """Return the newest examples as one batch of at most `rows`; nothing where there are none.

        Cost: O(rows) after new ones came; nothing to do otherwise.
        """
        if self._read(rows) or self._batch is None:
            newest = Events.concat(list(self._parts)) if self._parts else None
            if newest is None:
                return []
            newest = newest.slice(max(len(newest) - rows, 0))
            prepared = newest if self.preparation is None else self.preparation.transform(newest)
            self._batch = collate(prepared, self.schema)
        return [self._batch]

    def _read(self, rows: int) -> bool:
        """Take in what is new; returns whether there was anything."""
        info, some = self.log.topic(EXAMPLES), False
        if self._following is None or self._following < info.first_offset:
            first = max(info.next_row - rows, info.first_row)
            self._following = self.log.locate(EXAMPLES, first) if info.next_row else 0
            self._parts.clear()
        try:
            while entries := self.log.read(EXAMPLES, self._following):
                self._parts.extend(without_erased(entry.events) for entry in entries if entry.rows)
                self._following, some = entries[-1].offset + 1, True
        except StaleError:
            self._following = None  # trimmed while it was read; from the newest ones next time
        while self._parts and sum(map(len, self._parts)) - len(self._parts[0]) >= rows:
            self._parts.popleft()
        return some


class NewestBatches:
    """A metric that passes on to another one, and keeps the newest batches for a guard in the same process.

    Args:
        inner: Judges as before.
        rows: Examples kept.
    """

    def __init__(self, inner: Metric, rows: int) -> None:
        self.inner, self.rows = inner, rows
        self._kept: deque[Batch] = deque()

    def update(self, batch: Batch) -> None:
        """Judge the batch and keep it."""
        self.inner.update(batch)
        self._kept.append(batch)
        while sum(map(len, self._kept)) - len(self._kept[0]) >= self.rows:
            self._kept.popleft()

    def __call__(self, rows: int) -> Sequence[Batch]:
        """Return the newest batches, oldest first."""
        return list(self._kept)

    def compute(self) -> dict[str, float]:
        """Return the inner numbers."""
        return self.inner.compute()

    def state(self) -> State:
        """Return the inner state, and the batches kept: a restart must not make the guard blind."""
        inner = self.inner.state() if isinstance(self.inner, Resumable) else {}
        return {**inner, KEPT: [_written(batch) for batch in self._kept]}

    def restore(self, state: State) -> None:
        """Continue; a state that was written without a guard has no batches."""
        kept = state.get(KEPT, [])
        assert isinstance(kept, list)
        self._kept = deque(_read(cast(State, batch)) for batch in kept)
        if isinstance(self.inner, Resumable):
            self.inner.restore({name: value for name, value in state.items() if name != KEPT})


def _written(batch: Batch) -> State:
    columns: State = {item.name: getattr(batch, item.name) for item in fields(Batch) if item.name not in NESTED}
    ids: State = {name: [jagged.values, jagged.offsets] for name, jagged in batch.ids.items()}
    return {**columns, "ids": ids, "extra": dict(batch.extra)}


def _read(state: State) -> Batch:
    ids = cast("dict[str, list[Tensor]]", state["ids"])
    columns = {name: value for name, value in state.items() if name not in NESTED}
    extra = cast("dict[str, Tensor]", state["extra"])
    jagged = {name: Jagged(*parts) for name, parts in ids.items()}
    return Batch(ids=jagged, extra=extra, **columns)  # type: ignore[arg-type]


def examples_of(config: OnlineConfig, folder: RunFolder) -> Callable[[int], Sequence[Batch]]:
    """Return what reads the newest examples of a run whose joiner is a process of its own."""
    return NewestExamples(open_log(config, folder, EXAMPLES), config.schema, config.preparation)


def open_guard(config: OnlineConfig, newest: Callable[[int], Sequence[Batch]]) -> ShadowGuard | None:
    """Return the guard that the run asks for, or None.

    Args:
        config: The run.
        newest: Returns the newest joined examples, at most so many.
    """
    if config.guard is None:
        return None

    def make() -> Shadow:
        serving = open_serving(config)
        return Shadow(serving.replica, serving.predictor.model, serving.predictor.negative_rate)

    return ShadowGuard(config.guard, make, newest)


@contextmanager
def only_publisher(log: EmbeddedLog, stop: Callable[[], bool]) -> Iterator[bool]:
    """Wait until nobody else publishes into a log and be the one who does; yields False if `stop` came first."""
    told = False
    while True:
        with publishing(log) as alone:
            if alone or stop():
                yield alone
                return
        if not told:
            _log.warning("another process publishes into %s; waiting until it ends", log.path)
            told = True
        time.sleep(AGAIN_S)
