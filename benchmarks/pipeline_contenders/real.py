"""Small real data sets as cases: prepared once, every column a category, for all contenders alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ctr_contenders.prepared import folder_of

from headrace.errors import DataError
from headrace.ranking.history_recipes import ratings
from pipeline_contenders.cases import SMALL
from pipeline_contenders.work import LABEL, LENGTH, PAST, Case, Columns, put

HISTORY = "movielens"
"""The set with a history, which DIN reads; the other networks read the others."""
LONGEST = 20


def fits(model: str, name: str) -> bool:
    """Return whether a network reads a data set."""
    return (name == HISTORY) == (model == "DIN")


def write(name: str, model: str, rows: int, folder: Path) -> Case:
    """Write the training rows of a data set, whole batches of them, and return the case.

    Raises:
        DataError: If its file is not there.
    """
    columns = _history(rows) if name == HISTORY else _flat(name, rows)
    batch = int(SMALL["batch"])  # type: ignore[call-overload]
    whole = len(columns[LABEL]) // batch * batch
    if not whole:
        raise DataError(f"Data set {name}", got=f"{len(columns[LABEL])} rows", expected=f"at least {batch}")
    columns = {key: column[:whole] for key, column in columns.items()}
    sizes = {key: int(column.max()) for key, column in columns.items() if key not in (LABEL, PAST, LENGTH)}
    target = {"target": "item", "longest": LONGEST} if name == HISTORY else {}
    if target:
        sizes["item"] = max(sizes["item"], int(columns[PAST].max()))
    case = Case(model=model, sizes=sizes, rows=whole, **target, **SMALL)  # type: ignore[arg-type]
    put(folder, case, columns)
    return case


def _flat(name: str, rows: int) -> Columns:
    with np.load(folder_of(name, rows) / "train.npz") as content:
        columns: Columns = {key: content[key] for key in content.files}
    return {key: column if key == LABEL else column + 1 for key, column in columns.items()}


def _history(rows: int) -> Columns:
    data, _ = ratings("100k", length=LONGEST, pooling="none")
    table = data.table("train").slice(0, rows)
    past = table["history"].combine_chunks()
    offsets = past.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(offsets)
    padded = np.zeros((len(table), LONGEST), np.int64)
    padded[np.arange(LONGEST) < lengths[:, None]] = past.flatten().to_numpy() + 1
    columns: Columns = {key: table[key].to_numpy() + 1 for key in ("user_id", "item")}
    return columns | {PAST: padded, LENGTH: lengths, LABEL: table[LABEL].to_numpy().astype(np.float32)}
