"""Columns about users or items that lie in a file of their own, put beside the rows that name them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.layout import Derive


class SideColumns:
    """Adds the columns of a table to rows by a key; rows whose key is not there get nulls.

    Args:
        key: Column of the rows.
        table: First column: the keys, as text, each once; the others are added.
    """

    def __init__(self, key: str, table: pa.Table) -> None:
        self._key, self._table = key, table.combine_chunks()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows with the columns added."""
        keys = self._table.column(0).combine_chunks()
        place = pc.index_in(batch[self._key].cast(pa.string()), value_set=keys)
        for name in self._table.column_names[1:]:
            batch = batch.append_column(name, self._table[name].combine_chunks().take(place))
        return batch


class InTurn:
    """Several derivations, one after another.

    Args:
        steps: What to do; each keeps every row.
    """

    def __init__(self, steps: Sequence[Derive]) -> None:
        self._steps = tuple(steps)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows after all steps."""
        for step in self._steps:
            batch = step(batch)
        return batch
