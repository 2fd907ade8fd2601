"""Avazu click-through rate prediction: mobile advertisements, one row each, in order of the hour.

The official `train` file (CSV with a header) and pieces of it are read. Times are given to the hour; rows of an hour
are spread evenly over it in the order of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.datasets.recorded import (
    ClickDelay,
    RecordedLog,
    codes,
    earlier,
    find_in,
    in_order,
    missing,
    numbers,
    read_table,
    request_events,
    text,
)
from headrace.data.examples import Examples
from headrace.data.features import IdFeature, Schema
from headrace.data.layout import Layout
from headrace.data.prepare_columns import Category, Preparation
from headrace.errors import DataError
from headrace.types import Events

NAMES = ("avazu/train.csv", "avazu/train", "avazu_train.csv", "avazu-ctr-prediction/train", "avazu_sample9k.csv")
ADDRESS = "https://www.kaggle.com/c/avazu-ctr-prediction/data (competition rules apply)"
CATEGORIES = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id",
    "device_ip", "device_model", "device_type", "device_conn_type", *(f"C{number}" for number in range(15, 22)),
)  # fmt: skip
ITEM = "C14"
"""The finest of the anonymous columns about the advertisement; it stands for the item."""

CALENDAR = ("hour_of_day", "weekday", "is_weekend")
HOUR_US = 3_600_000_000


def find() -> Path | None:
    """Return the log's file in the data folder or the cache, or None."""
    return find_in(NAMES)


def schema(dim: int = 9) -> Schema:
    """Return every column as an id, the advertisement as the item, and the hour of the day."""
    names = ("item", *CATEGORIES, "hour_of_day")
    return Schema(features=tuple(IdFeature(name, dim, accepts="string") for name in names))


def layout() -> Layout:
    """Return how a file is read; with it `FileSource` replays one as labelled examples, without holding it."""
    return Layout(
        format="csv", types={"click": "float32"}, time="hour", time_unit="%y%m%d%H", key=("id",), kind="example",
        rename={"click": "label", ITEM: "item"}, keep=("click", ITEM, *CATEGORIES, "hour_of_day"), derive=_with_hour,
    )  # fmt: skip


def examples(path: Path | None = None, *, rows: int | None = None) -> Examples:
    """Return the labelled rows of a file in its order, with hour of the day, weekday (0 = Monday) and weekend.

    Raises:
        DataError: If there is no file (with the names looked for and the official address).
    """
    found = path or find()
    if found is None:
        raise missing("Avazu", NAMES, ADDRESS)
    layout = Layout(format="csv", types={"click": "float32"}, rename={"click": "label"}, derive=_with_calendar,
                    keep=("click", "hour", ITEM, *CATEGORIES, *CALENDAR))  # fmt: skip
    return Examples(name="avazu", paths=(found,), layout=layout, rows=rows)


def preparation(*, min_count: int = 2) -> Preparation:
    """Return the 24 fields of Avazu_x4 as categories: no row id, and the hour as three of them.

    Args:
        min_count: Rarer values share one id; Avazu_x4_001 takes 2, _002 takes 1.
    """
    names = (*CALENDAR, ITEM, *CATEGORIES)
    return Preparation(columns=tuple(Category(name, min_count=min_count) for name in names), item=ITEM)


def load(
    path: Path | None = None, *, seed: int = 0, median_delay_s: float = 5.0, rows: int | None = None
) -> RecordedLog:
    """Read the log into memory; for the whole official file take `FileSource(path, layout())`.

    Args:
        path: The file; None: as `find` finds it.
        seed: Of the click delays.
        median_delay_s: Half of the clicks arrive sooner; all within twelve times this.
        rows: Only the first so many rows of the file.

    Raises:
        DataError: If the file is missing (with the names looked for and the official address) or malformed.
    """
    found = path or find()
    if found is None:
        raise missing("Avazu", NAMES, ADDRESS)
    raw = read_table(found, layout(), encode=(ITEM, *CATEGORIES, "hour"), rows=rows)
    table = raw.rename_columns(["item" if name == ITEM else name for name in raw.column_names])
    table = table.append_column("clicked", pc.equal(table["click"], 1.0)).append_column(
        "time", _spread(raw["hour"], found)
    )
    table = in_order(table.select(["id", "item", *CATEGORIES, "hour", "clicked", "time"]))
    delay = ClickDelay(median_s=median_delay_s, longest_s=12 * median_delay_s, seed=seed)
    notes = (
        f"{table.num_rows} advertisements shown, {pc.mean(table['clicked']).as_py():.2%} clicked",
        "times are given to the hour: rows are spread evenly over theirs", delay.told(),
        "what was shown was chosen by somebody else: candidates are scored, not chosen",
    )  # fmt: skip
    variant = found.name.split(".")[0]
    return RecordedLog(
        name="avazu", variant=variant, path=found, table=table, events=impressions, delay=delay, notes=notes
    )


def impressions(part: pa.Table) -> Events:
    """Return rows of a loaded table as impressions; the key is the row's id."""
    features = {name: text(part[name]) for name in CATEGORIES}
    features["hour_of_day"] = pc.utf8_slice_codeunits(text(part["hour"]), 6, 8)
    return request_events(text(part["id"]), numbers(part["time"], pa.int64()), text(part["item"]), features)


def _with_hour(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("hour_of_day", pc.utf8_slice_codeunits(batch["hour"], 6, 8))


def _with_calendar(batch: pa.RecordBatch) -> pa.RecordBatch:
    encoded = batch["hour"].dictionary_encode()
    times = pc.strptime(encoded.dictionary, format="%y%m%d%H", unit="us", error_is_null=True)
    weekdays = pc.day_of_week(times)
    made = (pc.hour(times), weekdays, pc.if_else(pc.greater_equal(weekdays, 5), 1, 0))
    for name, values in zip(CALENDAR, made, strict=True):
        batch = batch.append_column(name, values.cast(pa.int64()).take(encoded.indices))
    return batch


def _spread(hours: pa.ChunkedArray, path: Path) -> pa.Array:
    """Return times (µs) that spread the rows of an hour evenly over it."""
    marks = codes(hours)
    known = pc.strptime(pc.unique(hours).cast(pa.string()), format="%y%m%d%H", unit="us", error_is_null=True)
    firsts = np.unique(marks, return_index=True)[1]
    starts = {int(marks[row]): known[at] for at, row in enumerate(np.sort(firsts))}
    for mark, start in starts.items():
        if not start.is_valid:
            row = int(np.flatnonzero(marks == mark)[0])
            raise DataError(f"File {path}, row {row}, column 'hour'", got=repr(hours[row].as_py()),
                            expected="an hour like 14102100", do=f"Get it from {ADDRESS}")  # fmt: skip
    begin = np.array([starts[mark].value for mark in range(len(starts))], dtype=np.int64)[marks]
    return pa.array(begin + earlier(marks) * HOUR_US // np.bincount(marks)[marks])
