"""Prepared rows to batches at the speed of memory: whole columns are shuffled, batches are views of them.

Nothing is done per row: ids of one-valued columns share one array of offsets, and a batch is cut out of a window of
rows without copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from headrace.data.prepare_columns import Categories, History, Number
from headrace.data.prepare_statistics import PreparedStatistics
from headrace.data.windows import SHUFFLE_ROWS, Ids, WindowedBatches
from headrace.errors import DataError
from headrace.types import NO_VERSION, Batch, Jagged


@dataclass(slots=True)
class Window:
    """Rows of some row groups in memory, in the order in which they are given out.

    Shapes: W rows; `single` name -> (W,) ids; `lists` name -> (values, offsets (W+1,)); `dense` (W, K); `labels` name
    -> (W,); `numbers` (W,) row numbers within the part; `times` (W,) µs.
    """

    numbers: Tensor
    single: dict[str, Tensor]
    lists: dict[str, Jagged]
    dense: Tensor
    labels: dict[str, Tensor]
    times: Tensor

    def __len__(self) -> int:
        return int(self.numbers.shape[0])

    def slice(self, start: int, stop: int) -> Window:
        """Return rows start..stop; nothing but the offsets of lists is copied."""
        return Window(
            self.numbers[start:stop], {name: ids[start:stop] for name, ids in self.single.items()},
            {name: ids.slice(start, stop) for name, ids in self.lists.items()}, self.dense[start:stop],
            {name: label[start:stop] for name, label in self.labels.items()}, self.times[start:stop],
        )  # fmt: skip

    def before(self, second: Window) -> Window:
        """Return the rows of this one, then those of another."""
        return Window(
            torch.cat([self.numbers, second.numbers]),
            {name: torch.cat([ids, second.single[name]]) for name, ids in self.single.items()},
            {name: _behind(ids, second.lists[name]) for name, ids in self.lists.items()},
            torch.cat([self.dense, second.dense]),
            {name: torch.cat([label, second.labels[name]]) for name, label in self.labels.items()},
            torch.cat([self.times, second.times]),
        )  # fmt: skip


class PreparedBatches(WindowedBatches[Window]):
    """An iterator over the batches of one part, epoch after epoch; resumable to the row.

    With a seed, row groups come in an order drawn from seed and epoch, and rows are shuffled within a window of
    consecutive groups: the same rows in the same order on every run, whatever was read before.

    Args:
        path: Parquet file of the part.
        statistics: What its rows were prepared with.
        batch_rows: Examples per batch; the last one of an epoch may have fewer.
        seed: Of the shuffling; None: rows as they stand.
        epochs: How often all rows are given.
        shuffle_rows: Least number of rows among which is shuffled, memory for about three times as many.

    Raises:
        ConfigError: If a setting cannot work.
        DataError: If the file is not whole.
    """

    def __init__(
        self, path: Path, statistics: PreparedStatistics, batch_rows: int, *, seed: int | None = None, epochs: int = 1,
        shuffle_rows: int = SHUFFLE_ROWS,
    ) -> None:  # fmt: skip
        self._path, self._preparation = Path(path), statistics.preparation
        try:
            meta = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"File {path}", got=str(error), expected="a whole Parquet file",
                            do="Prepare the data again.") from error  # fmt: skip
        sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        super().__init__(sizes, batch_rows, seed=seed, epochs=epochs, shuffle_rows=shuffle_rows)
        self._arange = torch.arange(batch_rows + 1)

    def _windows_from(self, epoch: int, first: int, windows: Sequence[Sequence[int]]) -> Iterator[Window]:
        for number, groups in enumerate(windows[first:], first):
            yield self._window(epoch, number, groups)

    def _window(self, epoch: int, number: int, groups: Sequence[int]) -> Window:
        table = pq.ParquetFile(self._path).read_row_groups(list(groups), use_threads=False)
        numbers = np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in groups])
        order = self.order(epoch, number, len(numbers))
        if order is not None:
            numbers = numbers[order]
        single, lists, dense = {}, {}, []
        for column in self._preparation.columns:
            array = table[column.name].combine_chunks()
            if isinstance(column, (Categories, History)):
                lists[column.name] = _jagged(array, order)
            elif isinstance(column, Number):
                dense.append(_taken(array, order, np.float32))
                if column.indicator:
                    dense.append(_taken(table[f"{column.name}_missing"].combine_chunks(), order, np.float32))
            else:
                single[column.name] = torch.from_numpy(_taken(array, order, np.int64))
        labels = {name: torch.from_numpy(_taken(table[name].combine_chunks(), order, np.float32))
                  for name in (self._preparation.label, *self._preparation.extra_labels)}  # fmt: skip
        stacked = np.stack(dense, axis=1) if dense else np.zeros((len(numbers), 0), dtype=np.float32)
        times: npt.NDArray[np.generic] = np.zeros(len(numbers), dtype=np.int64)
        if "event_time" in table.column_names:
            times = _taken(table["event_time"].combine_chunks(), order, np.int64)
        return Window(torch.from_numpy(numbers), single, lists, torch.from_numpy(stacked), labels,
                      torch.from_numpy(times))  # fmt: skip

    def _batch(self, window: Window) -> Batch:
        rows = len(window)
        offsets = self._arange[: rows + 1]
        ids = {}
        for column in self._preparation.columns:
            if column.name in window.single:
                ids[column.name] = Jagged(window.single[column.name], offsets)
            elif column.name in window.lists:
                ids[column.name] = window.lists[column.name]
        ones = torch.ones(rows)
        main, *others = self._preparation.label, *self._preparation.extra_labels
        return Batch(
            ids=ids, dense=window.dense, labels=window.labels[main], weights=ones, event_times=window.times,
            accepted_times=torch.zeros(rows, dtype=torch.int64), example_ids=window.numbers,
            predictions=torch.full((rows,), float("nan")),
            versions=torch.full((rows,), NO_VERSION, dtype=torch.int64), sample_rates=ones,
            extra={f"label/{name}": window.labels[name] for name in others},
        )  # fmt: skip


def _taken(array: pa.Array, order: Ids | None, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    """Return a column in the given order, as an array of its own; a null of a float column is NaN."""
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    return values.astype(dtype) if order is None else values[order].astype(dtype, copy=False)


def _jagged(array: pa.Array, order: Ids | None) -> Jagged:
    if order is not None:
        array = array.take(pa.array(order))
    offsets = np.asarray(array.offsets.to_numpy(zero_copy_only=False), dtype=np.int64)
    values = np.asarray(array.flatten().to_numpy(zero_copy_only=False)).astype(np.int64)
    return Jagged(torch.from_numpy(values), torch.from_numpy(offsets - offsets[0]))


def _behind(first: Jagged, second: Jagged) -> Jagged:
    return Jagged(torch.cat([first.values, second.values]),
                  torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]]))  # fmt: skip
