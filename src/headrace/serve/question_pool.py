"""The examples that people may be asked about: a table, read by the schema, with what people are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.config import require
from headrace.data.features import Schema
from headrace.errors import SchemaError, nearest
from headrace.serve.columns import Columns
from headrace.types import Events

ALL = "all"
"""The only task of a schema without scenarios."""


class QuestionPool:
    """Examples by their place in a table, 0 to N - 1, each with a name and a task.

    The schema's `item` column names an example, its scenario (if it has one) says which task it belongs to, and its
    features are what a model reads. All other columns are for people.

    Args:
        table: One row per example.
        schema: What the model reads.
        shown: Columns that people see, in this order; empty: all that are no id lists.

    Raises:
        SchemaError: If a column is missing, a name is null or not unique, or a task is unknown.
        ConfigError: If there is no example.
    """

    def __init__(self, table: pa.Table, schema: Schema, shown: Sequence[str] = ()) -> None:
        require(table.num_rows > 0, "Pool", got="no rows", expected="examples to ask about")
        self.item, names = schema.item, table.column_names
        for name in (schema.item, *shown):
            if name not in names:
                raise SchemaError(f"Pool, column '{name}'", got="no such column", expected=nearest(name, names))
        self.columns = Columns(schema)
        self._table = table.combine_chunks()
        wanted = [name for name in self.columns.names if name in names]
        self._features = {name: self.columns.cast(name, _one(self._table, name)) for name in wanted}
        self._features[self.item] = self._features[self.item].cast(pa.string())
        every = np.arange(table.num_rows)
        schema.validate(self.requests(every, ["pool"] * len(every), 0), training=False)
        held = self._features[self.item].to_pylist()
        self._places = {name: place for place, name in enumerate(held)}
        if None in self._places or len(self._places) != len(held):
            raise SchemaError(f"Pool, column '{self.item}'", got="null, or a name that stands there twice",
                              expected="one name per example, each once")  # fmt: skip
        lists = {name for name in names if pa.types.is_list(table.schema.field(name).type)}
        self.shown = tuple(shown) or tuple(name for name in names if name not in lists)
        scenario = schema.scenario
        self.tasks = (ALL,) if scenario is None else scenario.values
        self.owners = np.zeros(len(held), dtype=np.int64)
        if scenario is not None:
            places = {name: place for place, name in enumerate(self.tasks)}
            default = places.get(scenario.default or "", 0)  # validated: who is unknown has a default
            own = self._features[scenario.column].to_pylist()
            self.owners = np.array([places.get(task, default) for task in own], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def place_of(self, item: str) -> int | None:
        """Return where the example of this name is, or None."""
        return self._places.get(item)

    def name_of(self, row: int) -> str:
        """Return an example's name."""
        return str(self._features[self.item][row].as_py())

    def task_of(self, row: int) -> str:
        """Return the task that an example belongs to."""
        return self.tasks[int(self.owners[row])]

    def told(self, row: int) -> dict[str, object]:
        """Return what people see of an example; what JSON has no word for comes as text."""
        cells = {name: self._table[name][row].as_py() for name in self.shown}
        plain = (str, int, float, bool, type(None))
        return {name: cell if isinstance(cell, plain) else str(cell) for name, cell in cells.items()}

    def first(self) -> Events:
        """Return the first example as an impression, to see its types."""
        return self.requests(np.arange(1), ["pool"], 0)

    def requests(self, rows: npt.NDArray[np.int64], keys: Sequence[str], event_time: int) -> Events:
        """Return impressions of examples, under the given keys."""
        taken = {name: column.take(pa.array(rows)) for name, column in self._features.items()}
        return Events.from_columns({
            "key": list(keys), "kind": ["impression"] * len(rows), "event_time": [event_time] * len(rows), **taken,
        })  # fmt: skip


def _one(table: pa.Table, name: str) -> pa.Array:
    chunks = table[name].chunks
    return chunks[0] if chunks else pa.array([], table.schema.field(name).type)
