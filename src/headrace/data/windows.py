"""Batches out of windows of rows: the walk that prepared parts and raw files share, shuffled on two levels, resumable.

A file is a row of groups. With a seed, groups come in an order drawn from seed and epoch, and rows are shuffled within
a window of consecutive groups: the same rows in the same order on every run, whatever was read before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import DataError
from headrace.types import Batch, Jagged, Position

Ids = npt.NDArray[np.int64]

SHUFFLE_ROWS = 1 << 18
"""Least number of rows among which is shuffled, unless somebody says otherwise."""


class RowWindow(Protocol):
    """Rows in memory, in the order in which they are given out."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def slice(self, start: int, stop: int) -> Self:
        """Return rows start..stop; columns are not copied."""
        ...

    def before(self, second: Self) -> Self:
        """Return the rows of this one, then those of another."""
        ...


Window = TypeVar("Window", bound=RowWindow)


class WindowedBatches(ABC, Generic[Window]):
    """An iterator over batches, epoch after epoch; resumable to the row. A subclass says what a window is.

    Args:
        sizes: Rows of every group.
        batch_rows: Examples per batch; the last one of an epoch may have fewer.
        seed: Of the shuffling; None: rows as they stand.
        epochs: How often all rows are given.
        shuffle_rows: Least number of rows among which is shuffled, memory for about three times as many.

    Raises:
        ConfigError: If a setting cannot work.
    """

    def __init__(
        self, sizes: Sequence[int], batch_rows: int, *, seed: int | None, epochs: int, shuffle_rows: int
    ) -> None:
        require(batch_rows >= 1, "batch_rows", got=batch_rows, expected="a positive integer")
        require(epochs >= 1, "epochs", got=epochs, expected="a positive integer")
        require(shuffle_rows >= 1, "shuffle_rows", got=shuffle_rows, expected="a positive integer")
        self.batch_rows, self.seed, self.epochs, self.shuffle_rows = batch_rows, seed, epochs, shuffle_rows
        self._sizes = list(sizes)
        self._starts = np.cumsum([0, *self._sizes])
        self._epoch, self._row = 0, 0
        self._walk: Iterator[Batch] | None = None

    @abstractmethod
    def _windows_from(self, epoch: int, first: int, windows: Sequence[Sequence[int]]) -> Iterator[Window]:
        """Yield the windows of an epoch from number `first` on, given the groups of all of them."""

    @abstractmethod
    def _batch(self, window: Window) -> Batch:
        """Return a window of a batch's rows as a batch."""

    def __len__(self) -> int:
        """Number of batches of all epochs."""
        return self.epochs * -(-self.rows // self.batch_rows)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Batch]:
        """Yield from where it stands to the end of the last epoch."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        while self._epoch < self.epochs:
            if self._walk is None:
                self._walk = self._batches(self._epoch, self._row)
            batch = next(self._walk, None)
            if batch is not None:
                self._row += len(batch)
                return batch
            self._epoch, self._row, self._walk = self._epoch + 1, 0, None
        raise StopIteration

    def position(self) -> Position:
        """Return the epoch and how many of its rows were given."""
        return {"epoch": self._epoch, "row": self._row}

    def seek(self, position: Position) -> None:
        """Go to a position; `{}` is the beginning. What comes next is what came next when it was taken.

        Raises:
            DataError: If there are not so many rows, or it does not stand between two batches.
        """
        epoch, row = position.get("epoch", 0), position.get("row", 0)
        good = 0 <= row <= self.rows and epoch >= 0 and (row % self.batch_rows == 0 or row == self.rows)
        if not good:
            raise DataError("Position", got=str(position), expected=f"a multiple of {self.batch_rows}, to {self.rows}",
                            do="It was taken of other data, or with another batch size.")  # fmt: skip
        self._epoch, self._row, self._walk = epoch, row, None

    def order(self, epoch: int, number: int, rows: int) -> Ids | None:
        """Return the order of the rows of a window; None: as they stand."""
        return None if self.seed is None else np.random.default_rng([self.seed, epoch, number]).permutation(rows)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield an epoch's batches from row `start` of its order on."""
        windows = self._groups(epoch)
        sizes = [sum(self._sizes[group] for group in groups) for groups in windows]
        passed = np.cumsum([0, *sizes])
        first = max(int(np.searchsorted(passed, start, side="right")) - 1, 0)  # what lies before is not read
        rest: Window | None = None
        skip = start - int(passed[first])
        for window in self._windows_from(epoch, first, windows):
            if skip:
                window, skip = window.slice(skip, len(window)), 0
            if rest is not None and len(rest):
                window = rest.before(window)
            whole = len(window) - len(window) % self.batch_rows
            for at in range(0, whole, self.batch_rows):
                yield self._batch(window.slice(at, at + self.batch_rows))
            rest = window.slice(whole, len(window))
        if rest is not None and len(rest):
            yield self._batch(rest)

    def _groups(self, epoch: int) -> list[list[int]]:
        """Return the groups of every window, in the order of an epoch."""
        order = np.arange(len(self._sizes))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self._sizes))
        windows: list[list[int]] = [[]]
        rows = 0
        for group in order.tolist():
            if rows >= self.shuffle_rows:
                windows.append([])
                rows = 0
            windows[-1].append(group)
            rows += self._sizes[group]
        return windows


@dataclass(frozen=True, slots=True)
class BatchWindow:
    """A window whose rows are collated already: one large batch.

    Features with one id in every row share one tensor of offsets, so that a slice of them costs nothing.

    Shapes: batch W rows; ends (W+1,), 0 to W; `single` names of the features with one id in every row.
    """

    batch: Batch
    ends: Tensor
    single: frozenset[str]

    @staticmethod
    def of(parts: Sequence[Batch], order: Ids | None = None) -> BatchWindow:
        """Return the rows of some batches, one behind the other, or in the given order of them all."""
        rows = sum(len(part) for part in parts)
        looked: dict[int, bool] = {}
        single = frozenset(name for name in parts[0].ids if all(_one_each(part, name, looked) for part in parts))
        ends = torch.arange(rows + 1)
        columns = {
            item.name: _column([getattr(part, item.name) for part in parts], order)
            for item in fields(Batch) if item.name not in ("ids", "extra")
        }  # fmt: skip
        extra = {name: _column([part.extra[name] for part in parts], order) for name in parts[0].extra}
        ids = {}
        for name in parts[0].ids:
            jagged = [part.ids[name] for part in parts]
            if name in single:
                ids[name] = Jagged(_column([one.values for one in jagged], order), ends)
            else:
                ids[name] = _lists(jagged, order)
        return BatchWindow(Batch(ids=ids, extra=extra, **columns), ends, single)

    def __len__(self) -> int:
        return len(self.batch)

    def slice(self, start: int, stop: int) -> BatchWindow:
        """Return rows start..stop; nothing but the offsets of lists is copied."""
        cut, ends, batch = slice(start, stop), self.ends[: stop - start + 1], self.batch
        ids = {
            name: Jagged(jagged.values[cut], ends) if name in self.single else jagged.slice(start, stop)
            for name, jagged in batch.ids.items()
        }
        columns = {
            item.name: getattr(batch, item.name)[cut]
            for item in fields(Batch) if item.name not in ("ids", "extra")
        }  # fmt: skip
        extra = {name: column[cut] for name, column in batch.extra.items()}
        return BatchWindow(Batch(ids=ids, extra=extra, **columns), ends, self.single)

    def before(self, second: BatchWindow) -> BatchWindow:
        """Return the rows of this one, then those of another."""
        return BatchWindow.of([self.batch, second.batch])


def _one_each(part: Batch, name: str, looked: dict[int, bool]) -> bool:
    """Return whether a feature has exactly one id in every row; offsets that features share are looked at once."""
    jagged = part.ids[name]
    if len(jagged.values) != len(part):
        return False
    key = id(jagged.offsets)
    if key not in looked:
        looked[key] = bool((np.diff(jagged.offsets.numpy()) == 1).all())
    return looked[key]


def _column(parts: Sequence[Tensor], order: Ids | None) -> Tensor:
    """Return columns one behind the other, then in the given order; by one thread, beside one that learns."""
    whole = parts[0].numpy() if len(parts) == 1 else np.concatenate([part.numpy() for part in parts])
    return torch.from_numpy(whole if order is None else np.take(whole, order, axis=0))


def _lists(parts: Sequence[Jagged], order: Ids | None) -> Jagged:
    lengths = np.concatenate([np.diff(part.offsets.numpy()) for part in parts])
    values = np.concatenate([part.values.numpy() for part in parts])
    if order is not None:
        starts, lengths = (np.cumsum(lengths) - lengths)[order], lengths[order]
        before = np.cumsum(lengths) - lengths
        values = values[np.repeat(starts - before, lengths) + np.arange(len(values))]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return Jagged(torch.from_numpy(values), torch.from_numpy(offsets))
