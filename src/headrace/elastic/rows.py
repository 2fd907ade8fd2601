"""Rows of the training examples by their numbers: what a worker reads for its part of a step, ahead of time."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headrace.data.windows import BatchWindow
from headrace.elastic.sequence import Piece
from headrace.errors import DataError
from headrace.ranking.examples import ExampleSet, InMemory, taken
from headrace.runtime.work_queue import rows_of
from headrace.types import Batch

IN_MEMORY_ROWS = 1 << 21
"""Examples up to so many are read once and kept; of more, only the newest shards."""
SHARDS_KEPT = 8

Numbers = npt.NDArray[np.int64]


class RowReader:
    """Reads rows of a split by their numbers.

    Args:
        examples: The split.
        shard_rows: Rows that are read at once where not all are kept.

    Thread-safety: one thread reads.

    Example:
        >>> from headrace.testing.toy import Toy, ToyConfig
        >>> from headrace.data import IdFeature, Schema
        >>> schema = Schema(features=(IdFeature("user", 4),))
        >>> reader = RowReader(InMemory.from_events(Toy(ToyConfig()).events(0, 10), schema), 4)
        >>> len(reader.rows(np.array([3, 9, 0])))
        3
    """

    def __init__(self, examples: ExampleSet, shard_rows: int) -> None:
        self._examples, self._shard_rows = examples, shard_rows
        self._whole = examples.batch if isinstance(examples, InMemory) else None
        self._grows = bool(getattr(examples, "grows", False))
        self._at_once = not self._grows
        self._shards: OrderedDict[int, Batch] = OrderedDict()

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, pieces: Sequence[Piece]) -> Batch | None:
        """Return the rows of pieces, in their order; None for no piece."""
        parts = [self.rows(rows_of(piece.grant, piece.start, piece.stop)) for piece in pieces]
        return joined(parts) if parts else None

    def rows(self, numbers: Numbers) -> Batch:
        """Return rows (N,) in the given order.

        Raises:
            DataError: If they cannot be read.
        """
        if self._whole is None and self._at_once and len(self) <= IN_MEMORY_ROWS:
            try:
                self._whole = next(iter(self._examples.batches(len(self))))
            except DataError:  # some row of it cannot be read: it must not hide the others
                self._at_once = False
        if self._whole is not None:
            return taken(self._whole, torch.from_numpy(np.ascontiguousarray(numbers)))
        try:
            return self._from_shards(numbers)
        except DataError:
            return self._alone(numbers)

    def _from_shards(self, numbers: Numbers) -> Batch:
        """Return rows by way of the shards in which they stand."""
        shards = np.unique(numbers // self._shard_rows)
        read = [self._shard(int(shard)) for shard in shards]
        starts = np.cumsum([0, *(len(one) for one in read)])
        places = np.searchsorted(shards, numbers // self._shard_rows)
        within = starts[places] + numbers - shards[places] * self._shard_rows
        return taken(joined(read), torch.from_numpy(within))

    def _alone(self, numbers: Numbers) -> Batch:
        """Return rows by reading no others: one that cannot be read must not hide those beside it."""
        wanted = np.unique(numbers)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
        read = joined([self._run(int(run[0]), len(run)) for run in runs])
        return taken(read, torch.from_numpy(np.searchsorted(wanted, numbers)))

    def _run(self, first: int, rows: int) -> Batch:
        batches: Any = self._examples.batches(rows)
        batches.seek({"epoch": 0, "row": first})
        found: Batch = next(batches)
        return found

    def _shard(self, shard: int) -> Batch:
        found = self._shards.pop(shard, None)
        if found is None:
            found = self._run(shard * self._shard_rows, self._shard_rows)
        if self._grows and len(found) < self._shard_rows:
            return found  # the newest rows: the next look finds more of them
        self._shards[shard] = found
        while len(self._shards) > SHARDS_KEPT:
            self._shards.popitem(last=False)
        return found


def joined(parts: Sequence[Batch]) -> Batch:
    """Return batches one behind the other, as one."""
    return parts[0] if len(parts) == 1 else BatchWindow.of(parts).batch


class AheadReader:
    """Reads the parts of coming steps in a thread of its own, which begins with the first.

    Args:
        reader: Reads rows.

    Example:
        >>> from headrace.testing.toy import Toy, ToyConfig
        >>> from headrace.data import IdFeature, Schema
        >>> schema = Schema(features=(IdFeature("user", 4),))
        >>> ahead = AheadReader(RowReader(InMemory.from_events(Toy(ToyConfig()).events(0, 10), schema), 4))
        >>> ahead.want(1, ()); ahead.get(1) is None
        True
        >>> ahead.close()
    """

    def __init__(self, reader: RowReader) -> None:
        self.reader = reader
        self._asked: queue.SimpleQueue[tuple[int, Sequence[Piece]] | None] = queue.SimpleQueue()
        self._found: dict[int, tuple[Sequence[Piece], Batch | None | BaseException]] = {}
        self._wanted: dict[int, Sequence[Piece]] = {}
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="rows", daemon=True)

    def want(self, step: int, pieces: Sequence[Piece]) -> None:
        """Have the rows of a step read."""
        with self._turn:
            self._wanted[step] = pieces
        self._asked.put((step, pieces))
        if self._thread.ident is None:
            self._thread.start()

    def get(self, step: int) -> Batch | None:
        """Return the rows of a step that was wanted, once they are read.

        Raises:
            DataError: If they cannot be read.
        """
        with self._turn:
            pieces = self._wanted[step]
            while step not in self._found or self._found[step][0] is not pieces:
                self._turn.wait()
            found = self._found.pop(step)[1]
            self._wanted.pop(step)
        if isinstance(found, BaseException):
            raise found
        return found

    def clear(self) -> None:
        """Forget what was wanted."""
        with self._turn:
            self._wanted.clear()
            self._found.clear()

    def close(self) -> None:
        """End the thread."""
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            step, pieces = asked
            with self._turn:
                if self._wanted.get(step) is not pieces:
                    continue
            try:
                found: Batch | None | BaseException = self.reader.read(pieces)
            except Exception as error:  # noqa: BLE001 - it is raised where the rows are wanted
                found = error
            with self._turn:
                if self._wanted.get(step) is pieces:
                    self._found[step] = (pieces, found)
                    self._turn.notify_all()
