"""Criteo Kaggle display advertising: 13 numbers, 26 anonymous categories, clicked or not, in the order of the file.

The official `train.txt` (tab-separated, no header) and pieces of it with hashed categories and a header are read. Rows
carry no times: they are put as far apart as seven days over 45,840,617 rows make them.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import known_name
from headrace.data.datasets.recorded import (
    ClickDelay,
    RecordedLog,
    find_in,
    first_line,
    made_up_times,
    missing,
    numbers,
    read_table,
    request_events,
    text,
)
from headrace.data.examples import Examples
from headrace.data.features import DenseFeature, IdFeature, Schema
from headrace.data.layout import Layout
from headrace.data.prepare_columns import Category, Column, LogBins, Number, Preparation
from headrace.types import Events

NAMES = ("criteo/train.txt", "dac/train.txt", "criteo_train.txt", "dac_sample.txt", "criteo_kaggle_head80k_hashed.tsv",
         "criteo_kaggle_raw8k.tsv")  # fmt: skip
ADDRESS = "https://ailab.criteo.com/ressources/ (Kaggle Display Advertising Challenge Dataset, CC BY-NC-SA 4.0)"
INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
COLUMNS = ("label", *INTEGERS, *CATEGORIES)
STEP_US = 13_194
"""Seven days over 45,840,617 rows."""

ITEM = "ad"
"""Stands for the advertisement, which the data does not name; every row is a request of its own."""


def find() -> Path | None:
    """Return the log's file in the data folder or the cache, or None."""
    return find_in(NAMES)


def schema(dim: int = 9) -> Schema:
    """Return 26 categories as ids and 13 numbers as sign(x) ln(1 + |x|); a category that is empty has no id."""
    ids = (IdFeature(name, dim, accepts="string") for name in CATEGORIES)
    dense = (DenseFeature(name, transform="log1p") for name in INTEGERS)
    return Schema(features=(*ids, *dense))


def layout(path: Path) -> Layout:
    """Return how a file is read; with it `FileSource` replays one as labelled examples, without holding it."""
    names = () if "label" in first_line(path).split("\t") else COLUMNS
    types = {"label": "float32", **dict.fromkeys(INTEGERS, "float32")}
    return Layout(format="tsv", names=names, types=types, time=None, time_step_us=STEP_US, key=(), kind="example",
                  keep=("item", *COLUMNS), derive=_with_item)  # fmt: skip


def examples(path: Path | None = None, *, rows: int | None = None) -> Examples:
    """Return the labelled rows of a file, in its order (which is the order of time).

    Raises:
        DataError: If there is no file (with the names looked for and the official address).
    """
    found = path or find()
    if found is None:
        raise missing("Criteo", NAMES, ADDRESS)
    names = () if "label" in first_line(found).split("\t") else COLUMNS
    types = {"label": "float32", **dict.fromkeys(INTEGERS, "float32")}
    return Examples(name="criteo", paths=(found,), layout=Layout(format="tsv", names=names, types=types), rows=rows)


def preparation(*, min_count: int = 10, numbers: str = "log_bins") -> Preparation:
    """Return the field's standard preparation: 13 numbers, then 26 categories.

    Args:
        min_count: Rarer values share one id; Criteo_x4_001 takes 10, _002 takes 2, CowClip 1.
        numbers: `log_bins`: as categories (Criteo_x4). `log1p`: as dense numbers sign(x) ln(1 + |x|). `min_max`: as
            dense numbers, 0 for missing ones, put to 0..1 (CowClip).
    """
    made: dict[str, list[Column]] = {
        "log_bins": [LogBins(name, min_count=min_count) for name in INTEGERS],
        "log1p": [Number(name, log1p=True) for name in INTEGERS],
        "min_max": [Number(name, scale="min_max") for name in INTEGERS],
    }
    known_name("Criteo, numbers", numbers, list(made))
    return Preparation(columns=(*made[numbers], *(Category(name, min_count=min_count) for name in CATEGORIES)))


def load(
    path: Path | None = None, *, seed: int = 0, median_delay_s: float = 5.0, rows: int | None = None
) -> RecordedLog:
    """Read the log into memory; for the whole official file take `FileSource(path, layout(path))`.

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
        raise missing("Criteo", NAMES, ADDRESS)
    table = read_table(found, layout(found), encode=CATEGORIES, rows=rows)
    table = table.append_column("clicked", pc.equal(table["label"], 1.0)).select(["clicked", *INTEGERS, *CATEGORIES])
    table = made_up_times(table, STEP_US)
    delay = ClickDelay(median_s=median_delay_s, longest_s=12 * median_delay_s, seed=seed)
    notes = (
        f"{table.num_rows} advertisements shown, {pc.mean(table['clicked']).as_py():.2%} clicked",
        f"the rows have no times: they are put {STEP_US / 1000:g} ms apart in the order of the file", delay.told(),
        "what was shown was chosen by somebody else: candidates are scored, not chosen",
    )  # fmt: skip
    variant = found.name.split(".")[0]
    return RecordedLog(
        name="criteo", variant=variant, path=found, table=table, events=impressions, delay=delay, notes=notes
    )


def impressions(part: pa.Table) -> Events:
    """Return rows of a loaded table as impressions; the key is the number of the row."""
    features = {name: numbers(part[name], pa.float32()) for name in INTEGERS}
    features |= {name: text(part[name]) for name in CATEGORIES}
    times = numbers(part["time"], pa.int64())
    keys = pc.divide(times, STEP_US).cast(pa.string())
    return request_events(keys, times, pa.array([ITEM] * len(keys), pa.string()), features)


def _with_item(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("item", pa.array([ITEM] * batch.num_rows, pa.string()))
