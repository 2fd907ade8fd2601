"""A file in Criteo's layout, as long as wanted: the real sample again and again, each time a little different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from headrace.data.datasets import criteo

BASE_ROWS = 80_000
CHANGED = 0.05
"""Share of the categories of a copy that are given new values: real logs go on to bring new ids."""


def write_rows(path: Path, rows: int, seed: int = 0) -> str:
    """Write `rows` comma-separated rows with a header, and return what they were made of."""
    base, origin = _base(seed)
    draw = np.random.default_rng(seed)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.write(",".join(criteo.COLUMNS).encode() + b"\n")
        left, copy = rows, 0
        while left > 0:
            part = (base if copy == 0 else _changed(base, copy, draw)).slice(0, left)
            pa_csv.write_csv(part, file, pa_csv.WriteOptions(include_header=False, quoting_style="none"))
            left, copy = left - part.num_rows, copy + 1
    temporary.replace(path)
    return origin


def _base(seed: int) -> tuple[pa.Table, str]:
    if criteo.find() is not None:
        batches = [batch.select(list(criteo.COLUMNS)) for batch in criteo.examples(rows=BASE_ROWS)]
        table = pa.Table.from_batches(batches).combine_chunks()
        kinds = pa.schema([(name, _kind(name)) for name in criteo.COLUMNS])
        return table.cast(kinds), f"{table.num_rows} real rows, repeated with {CHANGED:.0%} of the categories changed"
    draw = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {"label": pa.array(draw.integers(0, 2, BASE_ROWS))}
    for name in criteo.INTEGERS:
        columns[name] = pa.array(draw.lognormal(2, 2, BASE_ROWS).astype(np.int64), mask=draw.random(BASE_ROWS) < 0.2)
    for at, name in enumerate(criteo.CATEGORIES):
        ids = draw.zipf(1.1 + 0.05 * at, BASE_ROWS) % (10 << (at % 16))
        columns[name] = pa.array([f"{value:08x}" for value in ids], mask=draw.random(BASE_ROWS) < 0.05)
    return pa.table(columns), f"{BASE_ROWS} drawn rows, repeated (there is no Criteo file in the data folder)"


def _kind(name: str) -> pa.DataType:
    return pa.string() if name in criteo.CATEGORIES else pa.int64()


def _changed(base: pa.Table, copy: int, draw: np.random.Generator) -> pa.Table:
    """Return the rows in another order, with some categories that no copy before had."""
    table = base.take(pa.array(draw.permutation(base.num_rows)))
    for name in criteo.CATEGORIES:
        column = table[name].combine_chunks()
        other = pa.compute.binary_join_element_wise(column, f"{copy:x}", "")
        mixed = pa.compute.if_else(pa.array(draw.random(len(column)) < CHANGED), other, column)
        table = table.set_column(table.column_names.index(name), name, mixed)
    return table
