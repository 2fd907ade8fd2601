"""A table's columns as the blocks of a table file, and back: what the reference table needs to be saved and loaded.

A block holds the ids of one stripe, 1/256 of all ids by the top byte of their hash (`csrc/snapshot/block.h`).
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray, mix64
from headrace.store.parts import TableParts, from_state, slot_count, to_state
from headrace.store.precision import Precision, decode, encode
from headrace.types import State

STRIPES = 256
Answer: TypeAlias = tuple[int, int]
"""How a native call went: code and detail (csrc/table/status.h)."""

_ROWS = ("ids", "times", "marks", "frequencies", "rows", "slots")
_PENDING = ("pending_ids", "pending_counts", "pending_times")
_REMOVED = ("removed_ids", "removed_marks")


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The fields of `Layout` in csrc/snapshot/file_format.h, in their order."""

    row_bytes: int
    slots: int
    has_times: bool
    has_marks: bool
    has_frequencies: bool
    incremental: bool
    whole_pending: bool
    shard: int
    shards: int
    since: int
    parent: int


@dataclass(frozen=True, slots=True)
class FileNumbers:
    """The numbers of a table that belong to no stripe, in the order of the native module."""

    mark: int
    floor: int
    admitted: int
    filtered: int
    evicted: int
    newest: int
    halvings: int


def stripe_of(ids: IdArray) -> IdArray:
    """Return the stripe (N,) of each id."""
    return (mix64(ids.view(np.uint64)) >> np.uint64(56)).astype(np.int64)


def columns_of(table: CheckedTable, since: int | None) -> TableParts:
    """Return a copy of all that a table holds; with `since`, only the rows and removals with a later mark.

    Raises:
        StaleError: If removals up to a later mark than `since` are forgotten.
    """
    parts = from_state(table.config, table.serving, table.state())
    if since is None:
        return parts
    if since < parts.floor:
        raise table._arguments.stale(since, parts.floor, parts.mark)
    rows, removals = parts.marks > since, parts.removed_marks > since
    kept = {name: getattr(parts, name)[rows] for name in _ROWS}
    kept |= {name: getattr(parts, name)[removals] for name in _REMOVED}
    return replace(parts, **kept)


def write_columns(
    module: ModuleType, place: Path, header: bytes, layout: FileLayout, columns: TableParts, precision: Precision
) -> tuple[Answer, int, int, int, int]:
    """Write columns as a table file; return (code, detail), bytes, digest, mark and rows."""
    writer = module.TableFileWriter()
    answer = writer.open(str(place), header, astuple(layout))
    if answer[0] != 0:
        return answer, 0, 0, 0, 0
    sketches = columns.sketch.reshape(STRIPES, -1)
    groups = [_grouped(columns, names) for names in (_ROWS, _PENDING, _REMOVED)]
    nothing = np.zeros((0, layout.row_bytes), np.uint8)
    for stripe in range(STRIPES):
        ids, times, marks, frequencies, rows, slots = (group[stripe] for group in groups[0])
        encoded = encode(rows, precision) if len(rows) else nothing
        answer = writer.add(
            stripe, ids, times if layout.has_times else _empty(np.int64),
            marks if layout.has_marks else _empty(np.int64),
            frequencies if layout.has_frequencies else _empty(np.uint8), encoded, slots,
            *(group[stripe] for group in groups[1]), *(group[stripe] for group in groups[2]), _empty(np.int64),
            np.ascontiguousarray(sketches[stripe]),
        )  # fmt: skip
        if answer[0] != 0:
            return answer, 0, 0, 0, 0
    numbers = FileNumbers(*(getattr(columns, name) for name in FileNumbers.__dataclass_fields__))
    answer, size, digest = writer.finish(astuple(numbers))
    return answer, size, digest, columns.mark, len(columns.ids)


def _empty(dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.zeros(0, dtype)


def _grouped(columns: TableParts, names: tuple[str, ...]) -> list[list[npt.NDArray[Any]]]:
    """Return each column as its 256 stripes, ids ascending in each."""
    stripes = stripe_of(getattr(columns, names[0]))
    order = np.argsort(stripes, kind="stable")
    cuts = np.searchsorted(stripes[order], np.arange(1, STRIPES))
    return [[np.ascontiguousarray(part) for part in np.split(getattr(columns, name)[order], cuts)] for name in names]


def restored_state(
    table: CheckedTable, blocks: list[tuple[Any, ...]], numbers: FileNumbers, precision: Precision
) -> State:
    """Return the state that the blocks of a full file stand for."""
    config = table.config
    names = (*_ROWS, *_PENDING, *_REMOVED)
    joined: dict[str, Any] = {
        name: np.concatenate([block[1 + place] for block in blocks]) for place, name in enumerate(names)
    }
    encoded = joined["rows"]
    joined["rows"] = decode(encoded, precision, config.dim) if len(encoded) else np.zeros((0, config.dim), np.float32)
    joined["slots"] = joined["slots"].reshape(len(encoded), slot_count(config, table.serving))
    for group in (_ROWS, _PENDING, _REMOVED):
        order = np.argsort(joined[group[0]])
        joined |= {name: np.ascontiguousarray(joined[name][order]) for name in group}
    joined["sketch"] = np.concatenate([block[-1] for block in blocks])
    parts = TableParts(**joined, **asdict(numbers))
    return to_state(config, table.serving, parts)
