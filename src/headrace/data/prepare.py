"""Raw rows to prepared files: every row is parsed once, statistics are counted on training rows, ids follow from them.

Three steps, each done by any number of processes on pieces of the data: encode (parse; distinct values become codes),
count (training rows only), place (codes become ids). Between the steps the pieces lie as Arrow files in the folder that
is being made: about four bytes per value. Rows are never Python objects, and memory is bounded by the distinct values.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import TypeAlias

import pyarrow as pa

from headrace.config import require, tree
from headrace.data.examples import PIECE_BYTES, Examples, ReadyPiece, RowPiece
from headrace.data.prepare_columns import Preparation
from headrace.data.prepare_fit import Counts
from headrace.data.prepare_split import Split, part_names
from headrace.data.prepare_statistics import PreparedStatistics
from headrace.data.prepare_work import Placed, Plan, Workers, count_piece, count_rows, encode_piece, place_piece
from headrace.data.prepared_files import MANIFEST, STATISTICS, PreparedData, input_files, write_manifest
from headrace.data.prepared_writer import PartWriters
from headrace.data.statistics_file import save_statistics
from headrace.errors import ConfigError

Rows: TypeAlias = "Examples | pa.Table | Iterable[pa.RecordBatch]"
GROUP_ROWS = 65_536
"""Rows of a row group: what a shuffled reader reads at a time."""


def fit(
    rows: Rows, preparation: Preparation, *, processes: int = 1, piece_bytes: int = PIECE_BYTES
) -> PreparedStatistics:
    """Count all rows in one pass and return what they are to be prepared with.

    The result is the same for any number of processes and any size of the pieces.

    Args:
        rows: Files of examples, a table, or batches.
        preparation: What is to be made of which column.
        processes: How many parse and count; with several, a script needs `if __name__ == "__main__":`.
        piece_bytes: About how much text is parsed at a time.

    Raises:
        DataError: For malformed rows, or more distinct values than the preparation allows.

    Example:
        >>> from headrace.data.prepare_columns import Category
        >>> table = pa.table({"label": [1, 0, 1], "city": ["Ulm", "Ulm", "Bonn"]})
        >>> fit(table, Preparation(columns=(Category("city", min_count=2),))).known("city").texts.to_pylist()
        ['Ulm']
    """
    counts = Counts()
    with Workers(processes) as workers:
        for found in workers.in_order(partial(count_rows, preparation), _pieces(rows, piece_bytes)):
            counts.merge(found, preparation)
    return PreparedStatistics.from_counts(preparation, counts)


def prepare(
    rows: Rows, preparation: Preparation, folder: Path | str, *, split: Split | None = None, processes: int = 1,
    piece_bytes: int = PIECE_BYTES, group_rows: int = GROUP_ROWS,
) -> PreparedData:  # fmt: skip
    """Prepare rows into a folder of Parquet files, statistics and a manifest, ready to be trained from.

    Statistics are counted on the part `train` only. The folder appears whole or not at all. If it holds the same
    preparation of the same files already, nothing is done.

    Args:
        rows: Files of examples, a table, or batches.
        preparation: What is to be made of which column.
        folder: Where to; it must not exist, or hold the same.
        split: Which rows belong to which part; None: all to `train`.
        processes: How many work; with several, a script needs `if __name__ == "__main__":`.
        piece_bytes: About how much text is parsed at a time.
        group_rows: Rows of a row group of the files; the result does not depend on anything else.

    Raises:
        ConfigError: If the folder holds something else.
        DataError: For malformed rows, or more distinct values than the preparation allows.

    Cost: disk for about four bytes per value of all rows while it runs, once more for the result; memory for the
        distinct values and a few pieces.
    """
    folder = Path(folder)
    require(group_rows >= 1, "prepare, group_rows", got=group_rows, expected="a positive integer")
    wanted = _described(rows, preparation, split, group_rows)
    if folder.exists():
        return _same(folder, wanted)
    work = folder.with_name(f".{folder.name}.{os.getpid()}-{get_ident()}.part")
    shutil.rmtree(work, ignore_errors=True)
    (work / "pieces").mkdir(parents=True)
    try:
        plan = Plan(preparation, split, work / "pieces")
        with Workers(processes) as workers:
            placed = _encode(_pieces(rows, piece_bytes), plan, workers)
            statistics = _count(plan, placed, workers)
            save_statistics(statistics, work / STATISTICS)
            counts = _place(plan, placed, PartWriters(work, part_names(split), group_rows), workers)
        shutil.rmtree(work / "pieces")
        made = {**wanted, "rows": counts, "fingerprint": statistics.fingerprint()}
        write_manifest(work, made)
        _appear(work, folder, made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return PreparedData(folder)


def _appear(work: Path, folder: Path, made: dict[str, object]) -> None:
    """Rename the finished folder; another process may have made the same one meanwhile, which is as good."""
    try:
        os.replace(work, folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise
        _must_agree(folder, PreparedData(folder), json.loads(json.dumps(made)))


def _encode(found: Iterator[RowPiece], plan: Plan, workers: Workers) -> list[Placed]:
    pieces = list(workers.in_order(partial(encode_piece, plan), enumerate(found)))
    total = sum(piece.rows for piece in pieces)
    placed, first = [], 0
    for piece in pieces:
        placed.append(Placed(piece, first, total))
        first += piece.rows
    return placed


def _count(plan: Plan, placed: list[Placed], workers: Workers) -> PreparedStatistics:
    counts = Counts()
    for found in workers.in_order(partial(count_piece, plan), placed):
        counts.merge(found, plan.preparation)
    return PreparedStatistics.from_counts(plan.preparation, counts)


def _place(plan: Plan, placed: list[Placed], writers: PartWriters, workers: Workers) -> dict[str, int]:
    """Give ids, and write every part in row groups of the same size."""
    with writers:
        for written in workers.in_order(partial(place_piece, plan, writers.folder / STATISTICS), placed):
            for part, path in written:
                writers.take(part, path)
    return writers.rows


def _pieces(rows: Rows, piece_bytes: int) -> Iterator[RowPiece]:
    require(piece_bytes >= 1, "piece_bytes", got=piece_bytes, expected="a positive integer")
    if isinstance(rows, Examples):
        yield from rows.pieces(piece_bytes)
        return
    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    for batch in batches:
        if batch.num_rows:
            share = -(-batch.num_rows * piece_bytes // max(batch.nbytes, 1))
            yield from (ReadyPiece(batch.slice(at, share)) for at in range(0, batch.num_rows, share))


def _described(rows: Rows, preparation: Preparation, split: Split | None, group_rows: int) -> dict[str, object]:
    files = input_files(rows.paths) if isinstance(rows, Examples) else None
    layout = tree(rows.layout) if isinstance(rows, Examples) else None
    limit = rows.rows if isinstance(rows, Examples) else None
    described = {"files": files, "layout": layout, "limit": limit, "preparation": json.loads(preparation.to_json()),
                 "split": tree(split), "parts": part_names(split), "group_rows": group_rows}  # fmt: skip
    plain: dict[str, object] = json.loads(json.dumps(described))
    return plain


def _same(folder: Path, wanted: dict[str, object]) -> PreparedData:
    if not (folder / MANIFEST).is_file():
        raise ConfigError(f"Folder {folder}", got="a folder that was not made by `prepare`", expected="no folder yet",
                          do="Choose another folder.")  # fmt: skip
    data = PreparedData(folder)
    _must_agree(folder, data, wanted)
    if wanted["files"] is None:
        raise _other(folder, "rows that are not files, which cannot be compared")
    return data


def _must_agree(folder: Path, data: PreparedData, wanted: dict[str, object]) -> None:
    differs = sorted(name for name, value in wanted.items() if data.manifest.get(name) != value)
    if differs:
        raise _other(folder, ", ".join(differs))


def _other(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"Folder {folder}", got=f"prepared data; different: {what}", expected="the same, or no folder",
        do="Remove the folder, or choose another one.",
    )  # fmt: skip
