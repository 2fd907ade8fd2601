"""Reading ahead: a thread makes the next items while the caller works on the last one; same items, same order.

What waits is bounded in number and in bytes. An error of the reader arrives in the place of the item that it could not
make. Nothing is lost when the process dies, because nothing that waits counts as read (`position`).
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar, cast

from torch import Tensor

from headrace.config import require
from headrace.learn.stages import StageTimes
from headrace.types import Batch, Position

Item = TypeVar("Item")


class Resumed(Protocol):
    """An iterator that knows where it stands."""

    def position(self) -> Position:
        """Return where it stands."""
        ...

    def seek(self, position: Position) -> None:
        """Go there."""
        ...


def batch_bytes(batch: Batch) -> int:
    """Return how much memory the tensors of a batch take."""
    own = [batch.dense, batch.labels, batch.weights, batch.event_times, batch.accepted_times, batch.example_ids,
           batch.predictions, batch.versions, batch.sample_rates, *batch.extra.values()]  # fmt: skip
    lists = [part for jagged in batch.ids.values() for part in (jagged.values, jagged.offsets)]
    return sum(_bytes(tensor) for tensor in (*own, *lists))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@dataclass(slots=True)
class _Made(Generic[Item]):
    """An item, or the end (None), or an error in its place; and where the reader stood behind it."""

    item: Item | None
    error: BaseException | None
    size: int
    position: Position | None


@dataclass(slots=True)
class ReadStats:
    """What reading ahead has seen.

    Attributes:
        items: Items that were made.
        read_s: Seconds spent on making them.
        longest_s: Seconds of the one that took longest.
        waited_s: Seconds that the caller waited.
        starved: How often it had to wait.
        most_bytes: Most bytes that waited at once.
    """

    items: int = 0
    read_s: float = 0.0
    longest_s: float = 0.0
    waited_s: float = 0.0
    starved: int = 0
    most_bytes: int = 0


@dataclass(slots=True)
class _Shared(Generic[Item]):
    """What reader and caller share; the reader holds nothing else, so that a forgotten caller can be collected."""

    depth: int
    max_bytes: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    ready: deque[_Made[Item]] = field(default_factory=deque)
    bytes: int = 0
    stopped: bool = False
    stats: ReadStats = field(default_factory=ReadStats)

    def room(self) -> bool:
        """Return whether another item may be made; one may always wait, however large."""
        return not self.ready or (len(self.ready) < self.depth and self.bytes < self.max_bytes)


class ReadAhead(Generic[Item]):
    """An iterator over another one's items, which a thread makes ahead of time.

    Use it as a context, or call `close`: the thread then ends. It ends by itself after the last item, after an error,
    and when nobody holds the iterator any more.

    Args:
        items: Where they come from; used by the thread alone until `close` or `rest` has returned. If they have
            `interrupt()`, `close` calls it from outside to end a `next` that waits.
        depth: Items that may wait; may be changed at any time.
        max_bytes: Bytes that may wait, counted by `size`; another item is made as long as fewer do.
        size: Bytes of an item; None: items are batches (`batch_bytes`).
        times: Where waiting (stage `wait`) and reading (beside) are counted.
        made: Called by the thread with every item, before it waits: to fetch ahead what will be needed for it.

    Raises:
        ConfigError: If a bound is not positive.

    Example:
        >>> with ReadAhead(iter([1, 2, 3]), depth=2, size=lambda number: 8) as ahead:
        ...     list(ahead)
        [1, 2, 3]
    """

    def __init__(
        self, items: Iterator[Item], *, depth: int = 4, max_bytes: int = 256 << 20,
        size: Callable[[Item], int] | None = None, times: StageTimes | None = None,
        made: Callable[[Item], None] | None = None,
    ) -> None:  # fmt: skip
        require(depth >= 1, "ReadAhead, depth", got=depth, expected="a positive integer")
        require(max_bytes >= 1, "ReadAhead, max_bytes", got=max_bytes, expected="a positive number of bytes")
        self._items, self._times = items, times or StageTimes()
        self._size, self._made = size or cast("Callable[[Item], int]", batch_bytes), made
        self._shared: _Shared[Item] = _Shared(depth, max_bytes)
        self._position = _where(items)
        self._failed: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._ended = False
        self._begin()

    def _begin(self) -> None:
        shared = self._shared
        work = (self._items, shared, self._size, self._times, self._made)
        self._thread = threading.Thread(target=_read, args=work, name="headrace-read", daemon=True)
        self._finalizer = weakref.finalize(self, _stop, shared, getattr(self._items, "interrupt", None))
        self._thread.start()

    @property
    def depth(self) -> int:
        """Items that may wait."""
        return self._shared.depth

    @depth.setter
    def depth(self, depth: int) -> None:
        with self._shared.changed:
            self._shared.depth = depth
            self._shared.changed.notify_all()

    @property
    def stats(self) -> ReadStats:
        """What was read so far, and how long it took."""
        return self._shared.stats

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next item; an error of the reader is raised in its place, and again when asked again."""
        if self._failed is not None:
            raise self._failed
        if self._ended:
            raise StopIteration
        made = self._take()
        if made.position is not None:
            self._position = made.position
        if made.error is not None:
            self._failed = made.error
            raise made.error
        if made.item is None:
            self._ended = True
            raise StopIteration
        return made.item

    def _take(self) -> _Made[Item]:
        shared = self._shared
        with self._times.stage("wait"), shared.changed:
            if not shared.ready:
                began = time.perf_counter()
                shared.stats.starved += 1
                while not shared.ready:
                    shared.changed.wait()
                shared.stats.waited_s += time.perf_counter() - began
            made = shared.ready.popleft()
            shared.bytes -= made.size
            shared.changed.notify_all()
        return made

    def ready(self, timeout_s: float) -> bool:
        """Wait at most so long; return whether `next` would answer at once, with an item, an error or the end."""
        if self._failed is not None or self._ended:
            return True
        with self._times.stage("wait"), self._shared.changed:
            return self._shared.changed.wait_for(lambda: bool(self._shared.ready), timeout_s)

    def position(self) -> Position:
        """Return where the last item that was handed out ends; what waits does not count."""
        require(self._position is not None, "ReadAhead", got="items without a position", expected="resumable items")
        return dict(cast(Position, self._position))

    def seek(self, position: Position) -> None:
        """Drop what waits and read on from a position."""
        self.close()
        cast(Resumed, self._items).seek(position)
        self._shared = _Shared(self._shared.depth, self._shared.max_bytes, stats=self._shared.stats)
        self._position, self._failed, self._ended = dict(position), None, False
        self._begin()

    def close(self) -> None:
        """End the thread and drop what waits; returns when the thread has ended."""
        self._finalizer()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread, self._ended = None, True
        self._shared.ready.clear()

    def rest(self) -> Iterator[Item]:
        """End the thread and give what it has made; whoever goes on then asks the items themselves.

        Raises:
            Exception: The reader's error, in the place of the item that it could not make.
        """
        with self._shared.changed:
            self._shared.stopped = True
            self._shared.changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        while self._shared.ready and not self._ended:
            with contextlib.suppress(StopIteration):
                yield next(self)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stop(shared: _Shared[Item], interrupt: Callable[[], None] | None) -> None:
    """Ask the reader to end, also out of a read that waits."""
    if interrupt is not None:
        interrupt()
    with shared.changed:
        shared.stopped = True
        shared.changed.notify_all()


def _where(items: object) -> Position | None:
    return dict(items.position()) if hasattr(items, "position") else None


def _read(
    items: Iterator[Item], shared: _Shared[Item], size: Callable[[Item], int], times: StageTimes,
    seen: Callable[[Item], None] | None,
) -> None:  # fmt: skip
    """Make items until the end, an error, or until asked to stop; runs in the thread."""
    while True:
        with shared.changed:
            while not shared.stopped and not shared.room():
                shared.changed.wait()
            if shared.stopped:
                return
        began = time.perf_counter()
        try:
            item = next(items, None)
            if seen is not None and item is not None:
                seen(item)
            made = _Made(item, None, 0 if item is None else size(item), _where(items))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller's thread, whatever it is
            made = _Made(None, error, 0, None)
        took = time.perf_counter() - began
        times.add_beside("read", took)
        with shared.changed:
            shared.ready.append(made)
            shared.bytes += made.size
            stats = shared.stats
            stats.read_s, stats.longest_s = stats.read_s + took, max(stats.longest_s, took)
            stats.most_bytes = max(stats.most_bytes, shared.bytes)
            stats.items += made.item is not None
            shared.changed.notify_all()
        if made.item is None:
            return
