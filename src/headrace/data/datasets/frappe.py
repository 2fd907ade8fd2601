"""Frappe: which app somebody used, when and where; two drawn negatives for every use.

Two forms are read: CSV with a header `label,user,item,daytime,...` (Frappe_x1 of BARS), and libFM text with the ten
fields in the same order and labels -1 and 1 (as the NFM and AFN papers use it). There are no times, so it is no event
log.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.datasets.recorded import find_in, missing
from headrace.data.examples import Examples
from headrace.data.files import format_of
from headrace.data.layout import Layout
from headrace.data.prepare_columns import Category, Preparation
from headrace.errors import DataError

NAMES = ("Frappe_x1/train.csv", "frappe/train.csv", "frappe.csv", "frappe/frappe.train.libfm", "frappe.train.libfm")
ADDRESS = "https://huggingface.co/datasets/reczoo/Frappe_x1 (https://www.baltrunas.info/context-aware, research use)"
FIELDS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


def find() -> Path | None:
    """Return the file in the data folder or the cache, or None."""
    return find_in(NAMES)


def examples(path: Path | None = None, *, rows: int | None = None) -> Examples:
    """Return the labelled rows of a file in either form.

    Raises:
        DataError: If there is no file (with the names looked for and the address).
    """
    found = path or find()
    if found is None:
        raise missing("Frappe", NAMES, ADDRESS)
    if format_of(found) == "libfm":
        layout = Layout(format="libfm", derive=fields_of)
    else:
        layout = Layout(format="csv", types={"label": "float32"})
    return Examples(name="frappe", paths=(found,), layout=layout, rows=rows)


def preparation(*, min_count: int = 1) -> Preparation:
    """Return the ten fields as categories."""
    return Preparation(columns=tuple(Category(name, min_count=min_count) for name in FIELDS))


def fields_of(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return libFM rows of ten ids as ten columns, and their labels as 0 and 1.

    Raises:
        DataError: If a row has another number of ids.
    """
    lengths = np.asarray(pc.list_value_length(batch["ids"]).to_numpy(zero_copy_only=False))
    if (lengths != len(FIELDS)).any():
        row = int(np.flatnonzero(lengths != len(FIELDS))[0])
        raise DataError(f"Frappe, row {row} of a piece", got=f"{lengths[row]} ids", expected=f"{len(FIELDS)} ids",
                        do=f"Get it from {ADDRESS}")  # fmt: skip
    ids = np.asarray(batch["ids"].flatten().to_numpy()).reshape(-1, len(FIELDS))
    label = pc.greater(batch["label"], 0).cast(pa.float32())
    columns = [label, *(pa.array(np.ascontiguousarray(ids[:, at])) for at in range(len(FIELDS)))]
    return pa.RecordBatch.from_arrays(columns, names=["label", *FIELDS])
