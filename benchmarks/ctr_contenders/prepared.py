"""The data sets of the table, prepared once for both sides: every column a category, numbers in bins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctr_contenders.cell import LABEL, PARTS
from ctr_contenders.runs import BUILD
from headrace.data.datasets import criteo, movielens_tag, trivago
from headrace.data.examples import Examples
from headrace.data.prepare import prepare
from headrace.data.prepare_columns import Category, Preparation, QuantileBins
from headrace.data.prepare_split import OrderSplit, RandomSplit, Split
from headrace.errors import DataError

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
BINS = 32
MIN_COUNT = 2
SIZES = "sizes.json"

TRIVAGO = (
    *(Category(name, min_count=MIN_COUNT) for name in ("user_id", "item", "city", "platform", "device", "position",
                                                       "price_rank")),
    *(QuantileBins(name, bins=BINS) for name in ("price", "list_length", "price_share", "price_over_mean",
                                                 "shown_before", "clicked_before", "has_clicked", "price_step",
                                                 "price_distance")),
)  # fmt: skip
"""The columns of the log, with what its user saw and clicked before; numbers in bins."""


def source(name: str, rows: int | None) -> tuple[Examples | pa.Table, Preparation, Split]:
    """Return a data set, how it is prepared, and how it is split.

    Raises:
        DataError: If its file is not there.
    """
    if name == "criteo":
        return criteo.examples(rows=rows), criteo.preparation(min_count=MIN_COUNT), RandomSplit(SHARES)
    if name == "movielens_tag":
        return movielens_tag.examples(rows=rows), movielens_tag.preparation(), RandomSplit(SHARES)
    log = trivago.load(rows=rows)
    shown = log.examples().read(log.rows)
    assert shown is not None  # its loader has refused a log without rows
    return pa.Table.from_batches([shown.batch]), Preparation(columns=TRIVAGO), OrderSplit(SHARES)


def folder_of(name: str, rows: int | None) -> Path:
    """Return the folder with the prepared columns of a data set, made if it is not there.

    Raises:
        DataError: If the data set's file is not there.
    """
    target = BUILD / "ctr" / "data" / (name if rows is None else f"{name}-{rows}")
    if (target / SIZES).exists():
        return target
    content, plan, split = source(name, rows)
    data = prepare(content, plan, target / "prepared", split=split)
    if not all(data.rows(part) for part in PARTS):
        raise DataError(f"Data set {name}", got=f"{rows} rows", expected="rows in every part")
    sizes: dict[str, int] = {}
    for part in PARTS:
        columns = {key: column for key, column in data.arrays(part).items() if key == LABEL or column.dtype == np.int64}
        sizes = {key: max(sizes.get(key, 0), int(column.max()) + 1) for key, column in columns.items() if key != LABEL}
        np.savez(target / f"{part}.npz", **columns)  # type: ignore[arg-type]
    (target / SIZES).write_text(json.dumps(sizes), encoding="utf-8")
    return target
