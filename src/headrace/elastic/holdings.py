"""A holding: some virtual buckets of every table, as tables of the store; and tables cut and joined by bucket.

A server has one holding, and for a while one more for each move of buckets to it. All tables of a holding stand at the
same step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from headrace.elastic.buckets import Mask
from headrace.elastic.transactions import Part
from headrace.errors import ClusterError, StoreError
from headrace.runtime.frames import Array
from headrace.store import NativeTable, TableConfig, begin_save, bucket_of, load_table, open_table
from headrace.store.checked import CheckedTable
from headrace.store.parts import TableParts, from_state, to_state
from headrace.store.table_files import Saving
from headrace.types import RowChange

ROWS = ("ids", "rows", "slots", "times", "marks", "frequencies")
PENDING = ("pending_ids", "pending_counts", "pending_times")
REMOVED = ("removed_ids", "removed_marks")
COUNTED = ("admitted", "filtered", "evicted")
_BUCKETS = 4096


@dataclass(slots=True)
class Holding:
    """Some buckets of all tables.

    Attributes:
        mask: Which buckets.
        tables: By name.
        applied: The last step that its tables have taken.
        dirty: Whether the tables still hold rows of other buckets, which have moved away.

    Thread-safety: tables as `CheckedTable`; the rest is changed under the lock of its server.
    """

    mask: Mask
    tables: Mapping[str, CheckedTable]
    applied: int
    dirty: bool = False

    @staticmethod
    def fresh(mask: Mask, configs: Sequence[TableConfig], applied: int) -> Holding:
        """Return a holding of empty tables."""
        return Holding(mask, {config.name: open_table(config) for config in configs}, applied)

    def take(self, part: Part, sequence: int) -> int:
        """Let the tables take one step, of which all ids are of the holding; return rows evicted."""
        for name, step in part.steps.items():
            self.tables[name].update(*(torch.from_numpy(np.ascontiguousarray(array)) for array in step))
        evicted = sum(self.tables[name].evict(before) for name, before in part.evict.items())
        self.applied = sequence
        return evicted

    def own(self, change: RowChange) -> RowChange:
        """Return those of the rows and removals that are of the holding."""
        if not self.dirty:
            return change
        put, gone = (torch.from_numpy(self.mask[bucket_of(ids.numpy())]) for ids in (change.ids, change.removed))
        return RowChange(change.ids[put], change.rows[put], change.removed[gone])


def all_of(several: Sequence[RowChange], dim: int) -> RowChange:
    """Return the rows and removals of several holdings of a table with rows of so many numbers as one, by id."""
    if not several:
        none = torch.zeros(0, dtype=torch.int64)
        return RowChange(none, torch.zeros(0, dim), none)
    if len(several) == 1:
        return several[0]
    ids = torch.cat([one.ids for one in several])
    order = torch.argsort(ids)
    removed = torch.cat([one.removed for one in several]).sort().values
    return RowChange(ids[order], torch.cat([one.rows for one in several])[order], removed)


def part_of(parts: TableParts, mask: Mask, *, counted: bool = False) -> TableParts:
    """Return what is of the masked buckets: rows, slots, counts of waiting ids, history and sketch.

    Args:
        parts: Of a table.
        mask: Which buckets.
        counted: Whether the counts of ids admitted, filtered and evicted so far go along.
    """
    kept: dict[str, Any] = {}
    for names in (ROWS, PENDING, REMOVED):
        chosen = mask[bucket_of(getattr(parts, names[0]))]
        kept |= {name: getattr(parts, name)[chosen] for name in names}
    if len(parts.sketch):
        kept["sketch"] = np.where(mask[:, None], parts.sketch.reshape(_BUCKETS, -1), np.uint8(0)).reshape(-1)
    if not counted:
        kept |= dict.fromkeys(COUNTED, 0)
    return replace(parts, **kept)


def joined(several: Sequence[TableParts]) -> TableParts:
    """Return parts of disjoint buckets of one table as one.

    Raises:
        StoreError: If they have seen different numbers of updates.
    """
    first = several[0]
    if len({one.mark for one in several}) != 1:
        raise StoreError("Parts of a table", got=f"marks {[one.mark for one in several]}", expected="one and the same",
                         do="Join parts of one step.")  # fmt: skip
    whole: dict[str, Any] = {}
    for names in (ROWS, PENDING, REMOVED):
        order = np.argsort(np.concatenate([getattr(one, names[0]) for one in several]))
        whole |= {name: np.concatenate([getattr(one, name) for one in several])[order] for name in names}
    whole |= {name: sum(getattr(one, name) for one in several) for name in COUNTED}
    whole |= {name: max(getattr(one, name) for one in several) for name in ("floor", "halvings", "newest")}
    sketch = first.sketch
    for one in several[1:]:
        sketch = np.maximum(sketch, one.sketch)  # each is zero where another has its buckets
    floor = int(whole["floor"])
    known = whole["removed_marks"] > floor
    whole["removed_ids"], whole["removed_marks"] = whole["removed_ids"][known], whole["removed_marks"][known]
    return replace(first, **whole, sketch=sketch)


def table_from(config: TableConfig, parts: TableParts) -> CheckedTable:
    """Return a table that holds these parts."""
    table = open_table(config)
    table.restore(to_state(config, False, parts))
    return table


class Frozen:
    """All of a table as it is now, to be read while the table learns on.

    Args:
        table: The table; must not be written to while this is called.
        folder: For a file, which is gone afterwards.
    """

    def __init__(self, table: CheckedTable, folder: Path | None = None) -> None:
        self._table, self._parts = table, cast("TableParts | None", None)
        self._saving: Saving | None = None
        if isinstance(table, NativeTable):  # writes the file beside learning; a state would hold learning up
            self._folder = tempfile.TemporaryDirectory(prefix="move-", dir=folder)
            self._path = Path(self._folder.name) / "table"
            self._saving = begin_save(table, self._path)
        else:
            self._parts = from_state(table.config, False, table.state())

    def parts(self) -> TableParts:
        """Return the parts; waits for the disk."""
        if self._saving is not None:
            self._saving.wait()
            copy = open_table(self._table.config)
            load_table(copy, self._path)
            self._saving = None
            self._folder.cleanup()
            return from_state(copy.config, False, copy.state())
        assert self._parts is not None
        return self._parts


def chunks_of(parts: TableParts, limit: int) -> list[tuple[dict[str, int], dict[str, Array]]]:
    """Return parts as numbers and arrays for the wire, at most about so many bytes in each frame, in order."""
    numbers = {item.name: getattr(parts, item.name) for item in fields(parts) if item.name not in _ARRAYS}
    row_bytes = max(1, sum(getattr(parts, name).nbytes for name in ROWS) // max(1, len(parts.ids)))
    per = max(1, limit // row_bytes)
    found: list[tuple[dict[str, int], dict[str, Array]]] = []
    for begin in range(0, max(1, len(parts.ids)), per):
        found.append((numbers, {name: getattr(parts, name)[begin : begin + per] for name in ROWS}))
    found[0][1].update({name: getattr(parts, name) for name in (*PENDING, *REMOVED, "sketch")})
    return found


_ARRAYS = (*ROWS, *PENDING, *REMOVED, "sketch")


def parts_of_chunks(chunks: Sequence[tuple[Mapping[str, int], Mapping[str, Array]]]) -> TableParts:
    """Return the parts that `chunks_of` cut.

    Raises:
        ClusterError: If something is missing.
    """
    try:
        whole: dict[str, Any] = {name: np.concatenate([arrays[name] for _, arrays in chunks]) for name in ROWS}
        whole |= {name: chunks[0][1][name] for name in (*PENDING, *REMOVED, "sketch")}
        whole |= {name: int(value) for name, value in chunks[0][0].items()}
        return TableParts(**whole)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ClusterError("Moved table", got=str(error), expected="all of its arrays") from error
