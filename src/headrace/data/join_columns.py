"""Which columns the pending impressions of a join have, in which order, and of which type."""

from __future__ import annotations

import pyarrow as pa

from headrace.errors import JoinError

OUTPUT_COLUMNS = ("kind", "label", "example_id", "sample_rate", "action_time")
"""Columns that the join itself writes; dropped from impressions that bring them."""


class Columns:
    """The union of all columns seen so far, in the order of first sight; a column keeps its type for ever.

    An impression without one of them has nulls there. A column that came as null only takes its type later.
    """

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {"key": pa.string(), "event_time": pa.int64(), "item": pa.string()}
        self.schema = pa.schema(list(self.types.items()))

    def checked(self, batch: pa.RecordBatch) -> dict[str, pa.DataType]:
        """Return the columns of an impression batch that are new, without admitting them.

        Raises:
            JoinError: If a known column has another type here.
        """
        new: dict[str, pa.DataType] = {}
        for field in batch.schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            known = self.types.get(field.name)
            if field.name in OUTPUT_COLUMNS or kind == known or (pa.types.is_null(kind) and known is not None):
                continue
            if known is not None and not pa.types.is_null(known):
                raise JoinError(
                    f"Impressions, column '{field.name}'", got=str(kind), expected=f"{known}, as in earlier entries",
                    do="Write one type per column; cast it before the events are appended.",
                )  # fmt: skip
            new[field.name] = kind
        return new

    def admit(self, new: dict[str, pa.DataType]) -> None:
        """Take new columns into the union."""
        if new:
            self.types.update(new)
            self.schema = pa.schema(list(self.types.items()))

    @staticmethod
    def of(schema: pa.Schema) -> Columns:
        """Return a union that was saved as its schema."""
        columns = Columns()
        columns.types, columns.schema = {field.name: field.type for field in schema}, schema
        return columns

    def conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch with exactly the columns of the union, in its order; absent ones are null."""
        if batch.schema.equals(self.schema):
            return batch
        arrays = []
        for name, kind in self.types.items():
            index = batch.schema.get_field_index(name)
            if index < 0:
                arrays.append(pa.nulls(batch.num_rows, kind))
            else:
                column = batch.column(index)
                arrays.append(column if column.type == kind else column.cast(kind))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
