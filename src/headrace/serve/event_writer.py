"""Makes impressions and actions durable, many requests to one commit."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.features import example_ids
from headrace.data.log import EmbeddedLog
from headrace.errors import CapacityError, HeadraceError, StoreError
from headrace.serve.requests import ROW_KINDS
from headrace.types import Events

_log = logging.getLogger(__name__)
GROUP_ROWS = 16_384
TAIL_ROWS = 200_000
"""How much of the log is looked through at a start."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the rows of one request, now that they are durable."""

    accepted: int
    duplicates: int = 0


@dataclass(slots=True)
class _Job:
    events: Events
    future: Future[Written] = field(default_factory=Future)


class EventWriter:
    """The only writer of a server's event log: a thread that commits what has gathered while it committed before.

    Rows get their `accepted_time` here, so that it never goes back along the log. Actions are taken once per (key,
    item, kind): a repeated one is counted as a duplicate, and answered only when the first one is durable. The newest
    `remember` actions are known again after a restart, as far as the end of the log has them. What is forgotten here
    is still taken once by the joiner.

    Args:
        log: The event log.
        topic: The topic of impressions and actions.
        item: The column that names the candidate.
        window_s: How long to wait for more requests when several came at a time; a lone one never waits.
        max_waiting: Requests that may wait; further ones are refused.
        remember: Actions to recognise.

    Attributes:
        screen: Returns the rows that may be logged, of those that come; None: all of them.
    """

    def __init__(
        self, log: EmbeddedLog, topic: str, *, item: str = "item", window_s: float = 0.001, max_waiting: int = 1024,
        remember: int = 200_000,
    ) -> None:  # fmt: skip
        self.log, self.topic, self.item, self.window_s, self.remember = log, topic, item, window_s, remember
        self._jobs: queue.Queue[_Job | None] = queue.Queue(max_waiting)
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._gate, self._closed = threading.Lock(), False
        self.commits = self.rows = 0
        self.last_accepted = 0
        self.screen: Callable[[Events], Events] | None = None

    def start(self, visit: Callable[[Events], None] | None = None) -> None:
        """Remember the newest actions of the log, show its newest entries to `visit`, and begin to take rows."""
        for events in self._tail():
            self._remember(_names(events, self.item))
            if visit is not None:
                visit(events)
        self._thread = threading.Thread(target=self._run, name="event-writer", daemon=True)
        self._thread.start()

    def _tail(self) -> Iterator[Events]:
        """Yield the newest entries of the topic, oldest first."""
        info = self.log.topic(self.topic)
        start = self.log.locate(self.topic, max(info.first_row, info.next_row - TAIL_ROWS))
        while entries := self.log.read(self.topic, start):
            yield from (entry.events for entry in entries)
            start = entries[-1].offset + 1

    @property
    def waiting(self) -> int:
        """Requests that wait for their commit."""
        return self._jobs.qsize()

    def submit(self, events: Events) -> Future[Written]:
        """Take rows; the future is done when they are durable, or has the error.

        Raises:
            CapacityError: If too many requests wait already.
            StoreError: If the writer is closed.
        """
        job = _Job(events if self.screen is None else self.screen(events))
        job.future.set_running_or_notify_cancel()  # a client that goes away does not take its rows back
        with self._gate:  # nothing may be put behind the end marker
            if self._closed or self._thread is None:
                raise StoreError("Event log", got="rows after the end", expected="a running server")
            try:
                self._jobs.put_nowait(job)
            except queue.Full as error:
                raise CapacityError("Event log", got=f"{self._jobs.qsize()} requests that wait for the disk",
                                    expected="fewer", do="Try again in a second.") from error  # fmt: skip
        return job.future

    def close(self) -> None:
        """Commit all that was taken, then end."""
        with self._gate:
            if self._closed or self._thread is None:
                self._closed = True
                return
            self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        several = False
        while (job := self._jobs.get()) is not None:
            group, ended = self._gather(job, several)
            several = len(group) > 1
            try:
                self._commit(group)
            except HeadraceError as error:
                self._fail(group, error)
            except Exception as error:  # noqa: BLE001  the thread must outlive whatever one group brought
                _log.exception("could not write events")
                self._fail(group, StoreError("Event log", got=f"{type(error).__name__}: {error}"))
            if ended:
                return

    def _gather(self, first: _Job, several: bool) -> tuple[list[_Job], bool]:
        """Return the jobs of one commit, and whether the end marker was met."""
        group, rows = [first], len(first.events)
        deadline = time.monotonic() + (self.window_s if several else 0.0)
        while rows < GROUP_ROWS:
            left = deadline - time.monotonic()
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return group, True
            group.append(job)
            rows += len(job.events)
        return group, False

    def _commit(self, group: list[_Job]) -> None:
        self.last_accepted = max(time.time_ns() // 1000, self.last_accepted)
        fresh: OrderedDict[int, None] = OrderedDict()
        kept = [self._without_known(job, fresh) for job in group]
        parts = [events for events in kept if len(events)]
        if parts:
            with self.log.transaction() as write:
                for events in _coalesced(parts):
                    write.append(self.topic, self._stamped(events))
            self.commits += 1
            self.rows += sum(len(events) for events in parts)
        self._remember(np.fromiter(fresh, dtype=np.int64, count=len(fresh)))
        for job, events in zip(group, kept, strict=True):
            job.future.set_result(Written(len(events), len(job.events) - len(events)))

    def _without_known(self, job: _Job, fresh: OrderedDict[int, None]) -> Events:
        """Return the rows without actions that are in the log, or earlier in this group."""
        kinds = job.events.column("kind")
        if not _is_action(kinds).any():
            return job.events
        keep = np.ones(len(job.events), dtype=np.bool_)
        for row, (name, action) in enumerate(zip(_pairs(job.events, self.item), _is_action(kinds), strict=True)):
            if not action:
                continue
            keep[row] = name not in self._seen and name not in fresh
            fresh[name] = None
        return job.events if keep.all() else job.events.take(np.flatnonzero(keep))

    def _remember(self, names: npt.NDArray[np.int64]) -> None:
        for name in names.tolist():
            self._seen[name] = None
            self._seen.move_to_end(name)
        while len(self._seen) > self.remember:
            self._seen.popitem(last=False)

    def _stamped(self, events: Events) -> Events:
        times = pa.array(np.full(len(events), self.last_accepted, np.int64), pa.int64())
        return events.with_columns({"accepted_time": times})

    @staticmethod
    def _fail(group: list[_Job], error: Exception) -> None:
        for job in group:
            if not job.future.done():
                job.future.set_exception(error)


def _is_action(kinds: pa.Array) -> npt.NDArray[np.bool_]:
    others = pc.invert(pc.is_in(kinds, value_set=pa.array(ROW_KINDS, pa.string())))
    return np.asarray(others.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _pairs(events: Events, item: str) -> list[int]:
    """Return one number per row for (key, item, kind)."""
    items = events.column(item) if item in events.names else pa.nulls(len(events), pa.string())
    what = pc.binary_join_element_wise(
        items.cast(pa.string()), events.column("kind"), "\x1f", null_handling="replace", null_replacement=""
    )
    return [int(name) for name in example_ids(events.column("key"), what)]


def _names(events: Events, item: str) -> npt.NDArray[np.int64]:
    actions = np.flatnonzero(_is_action(events.column("kind")))
    return np.array(_pairs(events.take(actions), item) if len(actions) else [], dtype=np.int64)


def _coalesced(parts: list[Events]) -> list[Events]:
    """Put neighbours with equal columns into one entry; the order of rows stays."""
    runs: list[list[Events]] = []
    for events in parts:
        if runs and runs[-1][0].batch.schema.equals(events.batch.schema):
            runs[-1].append(events)
        else:
            runs.append([events])
    return [Events.concat(run) for run in runs]
