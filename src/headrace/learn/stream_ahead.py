"""The pipeline of a stream: the next rows are read and collated, and the last version is written, while one learns.

A loop's source and joiner are wrapped together, because rows are collated as soon as they are read. Positions and
states are those of what the loop has taken, never of what waits: a checkpoint is the one of a run without pipeline.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from headrace.config import require
from headrace.learn.read_ahead import ReadAhead, batch_bytes
from headrace.learn.stages import StageTimes
from headrace.protocols import Checkpoint, Joiner, Publisher, Source
from headrace.types import Batch, Change, Events, Position, State, Version

IDLE_S = 0.005
"""How long the reader sleeps when the source has nothing yet."""
PATIENCE_S = 0.05
"""How long the loop waits for rows before it hears that there are none yet."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows, the batch that they complete, and where source and joiner stand behind them."""

    requests: Events
    batch: Batch | None
    position: Position
    state: State


def _chunk_bytes(chunk: _Chunk) -> int:
    return int(chunk.requests.batch.nbytes) + (0 if chunk.batch is None else batch_bytes(chunk.batch))


class _Chunks:
    """Reads and joins, chunk by chunk; used by the reading thread."""

    def __init__(self, source: Source, joiner: Joiner, limit: int, made: Callable[[Batch], None] | None) -> None:
        self.source, self.joiner, self.limit, self._stopped = source, joiner, limit, threading.Event()
        self.interrupt, self._made = self._stopped.set, made

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Chunk:
        """Return the next chunk, waiting for it; StopIteration when asked to stop."""
        while not self._stopped.is_set():
            requests = self.source.read(self.limit)
            if requests is not None:
                batch = self.joiner.add(requests, None, None)
                if batch is not None and self._made is not None:
                    self._made(batch)
                return _Chunk(requests, batch, dict(self.source.position()), self.joiner.state())
            self._stopped.wait(IDLE_S)
        raise StopIteration


class StreamAhead:
    """Wraps a loop's source and joiner: give the loop `source` and `joiner` of this.

    Only for loops without feedback (`headrace.loop.fit`): where answers depend on predictions there is nothing to join
    ahead of them.

    Args:
        source: Where rows come from.
        joiner: What makes batches of them.
        depth: Reads that may wait for the learner.
        max_bytes: Memory of what waits.
        times: Where reading and waiting are counted.
        made: Called by the reading thread with every batch before it waits: a collection's `fetch_ahead`.
    """

    def __init__(
        self, source: Source, joiner: Joiner, *, depth: int = 4, max_bytes: int = 256 << 20,
        times: StageTimes | None = None, made: Callable[[Batch], None] | None = None,
    ) -> None:  # fmt: skip
        require(depth >= 1, "StreamAhead, depth", got=depth, expected="a positive integer")
        self._inner, self._depth, self._max_bytes = (source, joiner), depth, max_bytes
        self._times, self._made = times or StageTimes(), made
        self._position, self._state = dict(source.position()), joiner.state()
        self._ahead: ReadAhead[_Chunk] | None = None
        self._chunks: _Chunks | None = None
        self._taken: _Chunk | None = None
        self.source: Source = _AheadSource(self)
        self.joiner: Joiner = _AheadJoiner(self)

    def close(self) -> None:
        """End the reading thread; source and joiner then stand where the loop stands."""
        if self._ahead is None or self._chunks is None:
            return
        self._ahead.close()
        self._ahead = self._chunks = None
        source, joiner = self._inner
        source.seek(self._position)
        joiner.restore(self._state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, limit: int) -> Events | None:
        require(limit >= 1, "Source, limit", got=limit, expected="a positive number of rows")
        if self._chunks is None or self._chunks.limit != limit:
            self.close()
            self._chunks = _Chunks(*self._inner, limit, self._made)
            self._ahead = ReadAhead(self._chunks, depth=self._depth, max_bytes=self._max_bytes, size=_chunk_bytes,
                                    times=self._times)  # fmt: skip
        assert self._ahead is not None
        if not self._ahead.ready(PATIENCE_S):
            return None
        self._taken = next(self._ahead)
        self._position = self._taken.position
        return self._taken.requests

    def _add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        taken, self._taken = self._taken, None
        if taken is not None and taken.requests is requests and predictions is None and answers is None:
            self._state = taken.state
            return taken.batch
        self.close()
        batch = self._inner[1].add(requests, predictions, answers)
        self._state = self._inner[1].state()
        return batch

    def _flush(self) -> Batch | None:
        self.close()
        batch = self._inner[1].flush()
        self._state = self._inner[1].state()
        return batch

    def _seek(self, position: Position) -> None:
        self.close()
        self._inner[0].seek(position)
        self._position = dict(position)

    def _restore(self, state: State) -> None:
        self.close()
        self._inner[1].restore(state)
        self._state = self._inner[1].state()


class _AheadSource:
    """The source of a stream that is read ahead."""

    def __init__(self, stream: StreamAhead) -> None:
        self._stream = stream

    def read(self, limit: int) -> Events | None:
        """Return the next rows, None when there are none yet."""
        return self._stream._read(limit)

    def position(self) -> Position:
        """Return where the rows end that were returned last."""
        return dict(self._stream._position)

    def seek(self, position: Position) -> None:
        """Read on from a position."""
        self._stream._seek(position)


class _AheadJoiner:
    """The joiner of a stream that is read ahead."""

    def __init__(self, stream: StreamAhead) -> None:
        self._stream = stream

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        """Return the batch that was made of the rows already."""
        return self._stream._add(requests, predictions, answers)

    def flush(self) -> Batch | None:
        """Return what is still pending."""
        return self._stream._flush()

    def state(self) -> State:
        """Return the state behind the rows that were added."""
        return self._stream._state

    def restore(self, state: State) -> None:
        """Continue."""
        self._stream._restore(state)


class PublishBehind:
    """A `Publisher` whose versions are made durable by a thread while the learner goes on.

    `publish` returns before the change is durable; `last` waits until all are. So a learner may use it, if its
    checkpoints wait (`before`), and a loop that serves what it publishes may not. An error of a version arrives with
    the next call. What another process sees is as without it: versions in order, each once it is durable.

    Args:
        publisher: Who makes them durable; used by the thread alone.
        depth: Versions that may wait.
        times: Where the thread's time is counted (beside, stage `publish`).
    """

    def __init__(self, publisher: Publisher, *, depth: int = 1, times: StageTimes | None = None) -> None:
        require(depth >= 1, "PublishBehind, depth", got=depth, expected="a positive integer")
        self._publisher, self._depth, self._times = publisher, depth, times or StageTimes()
        self._waiting: deque[Change] = deque()
        self._busy, self._closed = False, False
        self._changed = threading.Condition()
        self._failed: BaseException | None = None
        self._newest = publisher.last().number
        self._thread: threading.Thread | None = None

    def publish(self, change: Change) -> Change:
        """Hand a change over; one that is not the next is published at once, to be recognised or refused.

        Raises:
            GapError: If its number is not the next one, or its content differs from what has its number.
        """
        if change.version.number != self._newest + 1 or change.version.parent != self._newest:
            self.wait()
            return self._publisher.publish(change)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._depth or self._failed is not None)
            self._raise()
            self._waiting.append(change)
            self._newest = change.version.number
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="headrace-publish", daemon=True)
            self._thread.start()
        return change

    def last(self) -> Version:
        """Return the last durable version, when all that were handed over are."""
        self.wait()
        return self._publisher.last()

    def wait(self) -> None:
        """Return when every version that was handed over is durable; raises what went wrong with one."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy) or self._failed is not None)
            self._raise()

    def before(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint that is only written when all versions before it are durable."""
        return _AfterVersions(self, checkpoint)

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # the error that ends the run is the one to be seen; what waits was never promised
            with self._changed:
                self._waiting.clear()
                self._failed = None
        self.close()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if not self._waiting or self._failed is not None:
                    return
                change, self._busy = self._waiting.popleft(), True
                self._changed.notify_all()
            began = time.perf_counter()
            try:
                self._publisher.publish(change)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever publishes next
                with self._changed:
                    self._failed, self._busy = error, False
                    self._changed.notify_all()
                return
            self._times.add_beside("publish", time.perf_counter() - began)
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class _AfterVersions:
    """A checkpoint that waits for versions."""

    def __init__(self, versions: PublishBehind, checkpoint: Checkpoint) -> None:
        self._versions, self._checkpoint = versions, checkpoint

    def save(self, state: State) -> None:
        """Wait for the versions, then make the state durable."""
        self._versions.wait()
        self._checkpoint.save(state)

    def load(self) -> State | None:
        """Return the newest whole state, or None."""
        return self._checkpoint.load()
