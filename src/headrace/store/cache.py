"""The cold tier of a table (`Storage(disk=...)`): what it tells about itself, and how much memory it needs.

Rows that are learned often lie in memory, the others in a file; `csrc/cache/` keeps both and moves rows between them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from headrace.config import require
from headrace.store.capacity import Planned, content_bytes, head_bytes, map_bytes, row_bytes

_COUNTER = 1.07  # a byte for every row, wherever it lies
_SPARE = 1.04  # rows move in chunks of a thirty-second of what memory holds


@dataclass(frozen=True, slots=True)
class TierStats:
    """Numbers about the tiers of a table.

    Attributes:
        hot_rows: Rows in memory.
        cold_rows: Rows in the file.
        memory_bytes: Memory held by the table.
        disk_bytes: Length of the file.
        hits: Distinct ids that updates found in memory, ever since the table was opened or restored.
        misses: Those that they found in the file.
        promoted: Rows moved from the file into memory, each in exchange for another.
    """

    hot_rows: int
    cold_rows: int
    memory_bytes: int
    disk_bytes: int
    hits: int
    misses: int
    promoted: int

    @property
    def hit_rate(self) -> float:
        """The share of learned rows that were in memory; 1 before the first.

        Example:
            >>> TierStats(10, 30, 0, 0, hits=3, misses=1, promoted=0).hit_rate
            0.75
        """
        found = self.hits + self.misses
        return self.hits / found if found else 1.0


def memory_for(config: Planned, rows: int, share: float) -> int:
    """Return a `Disk.memory_bytes` with which a table of `rows` rows has about this share of them in memory.

    Example:
        >>> from headrace.store import TableConfig
        >>> config = TableConfig(name="user", dim=16)
        >>> [round(memory_for(config, 1_000_000, share) / 1e6) for share in (0.0, 0.1, 1.0)]
        [14, 29, 168]
    """
    hot = row_bytes(config) + head_bytes(config)
    filters = content_bytes(config, 0)
    return int(filters + map_bytes(rows) + rows * (_COUNTER + share * hot * _SPARE))


def require_memory(config: Planned) -> None:
    """Refuse a `Disk.memory_bytes` that what belongs to no row already takes."""
    disk = config.storage.disk
    if disk is None:
        return
    need = content_bytes(config, 0)
    require(disk.memory_bytes >= need, f"Disk.memory_bytes of table '{config.name}'", got=disk.memory_bytes,
            expected=f"at least {need}, what filters and maps take without any row",
            do="headrace.store.memory_for tells what a number of rows needs.")  # fmt: skip


def require_folder(config: Planned) -> None:
    """Refuse a folder that no file can be made in, when a table is opened."""
    disk = config.storage.disk
    if disk is None:
        return
    require(os.path.isdir(disk.folder) and os.access(disk.folder, os.W_OK | os.X_OK),
            f"Disk.folder of table '{config.name}'", got=disk.folder, expected="a folder that can be written to",
            do="Make it, on a local disk with room for the rows.")  # fmt: skip
    require(os.name == "posix", f"Storage.disk of table '{config.name}'", got=f"a system of kind {os.name}",
            expected="Linux or macOS", do="Leave the disk out.")  # fmt: skip


class TieredTable(Protocol):
    """A table that tells where its rows are."""

    def tier(self) -> TierStats | None:
        """Return numbers about its tiers; None where all rows are in memory by configuration."""
        ...
