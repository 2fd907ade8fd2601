"""How a table keeps its rows: precision, what stands beside a row, and how much memory it may take.

A row in memory is its head (id 8 bytes, event time 8, mark 4, frequency 1, each only where it is kept) and its body:
the embedding in the table's precision, then the slots of the row rule in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, cast

from headrace.config import known_name, require
from headrace.store.precision import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
"""Precisions that rows can learn in."""

SERVING_PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Precisions that rows can be served in."""


@dataclass(frozen=True)
class LFU:
    """When full, the rows used least go first, with ageing; among equals the one untouched for longest.

    A row keeps one byte: its occurrences in updates, up to 255, halved for every row whenever rows are evicted for
    want of room. What was popular long ago is forgotten in a few rounds; what comes all the time stays.
    """


@dataclass(frozen=True)
class LRU:
    """When full, the rows untouched for longest in event time go first. Needs no memory beyond the event time."""


WhenFull: TypeAlias = LFU | LRU
"""The ways of choosing what goes when a table is full."""


MIN_MEMORY = 64 << 10
"""A table with a cold tier may take at least so many bytes of memory."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Rows that memory has no room for lie in a file: a table may be larger than memory.

    What is learned does not depend on it, only how fast. The file is the run's own: it has no name, is gone when the
    process ends, and no checkpoint needs it; snapshots hold all rows, wherever they lie.

    Attributes:
        folder: Folder on a fast local disk for the file; it must be there when the table is opened.
        memory_bytes: Bytes of memory that the table may take, everything counted but the copies of a snapshot that is
            being written: filters, a place in the map and a counter for every id (12 bytes), and as many rows as fit
            into the rest.

    Raises:
        ConfigError: If a value cannot work.
    """

    folder: str
    memory_bytes: int

    def __post_init__(self) -> None:
        folder, memory_bytes = cast(object, self.folder), cast(object, self.memory_bytes)
        require(isinstance(folder, str) and bool(folder), "Disk.folder", got=folder, expected="the path of a folder")
        whole = isinstance(memory_bytes, int) and not isinstance(memory_bytes, bool)
        require(whole and MIN_MEMORY <= self.memory_bytes < 2**62, "Disk.memory_bytes", got=self.memory_bytes,
                expected=f"a number of bytes, at least {MIN_MEMORY}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How rows are kept.

    Attributes:
        precision: What embeddings are kept in while they learn: float32, or bfloat16 or float16 with stochastic
            rounding. Slots are always float32, and so is everything that is read.
        serving_precision: The same for tables that only serve: float32, float16, or int8 with one scale per row.
        event_times: Whether each row keeps the event time of its last touch (8 bytes). Expiry and `max_bytes` need it.
        history: Whether the table can say what changed since a mark (4 bytes a row); without, `changes` gives all
            rows or nothing, as a table that only serves does.
        max_bytes: Bytes that the table never exceeds, everything counted; None: as many as it needs.
        when_full: What goes when `max_bytes` is reached, after the rows that have expired.
        disk: Where rows go that memory has no room for; None: all rows are in memory. `max_bytes` then bounds memory
            and file together.

    Raises:
        ConfigError: If a value cannot work.
    """

    precision: Precision = "float32"
    serving_precision: Precision = "float32"
    event_times: bool = True
    history: bool = True
    max_bytes: int | None = None
    when_full: WhenFull = field(default_factory=LFU)
    disk: Disk | None = None

    def __post_init__(self) -> None:
        known_name("Storage.precision", self.precision, PRECISIONS)
        known_name("Storage.serving_precision", self.serving_precision, SERVING_PRECISIONS)
        for name in ("event_times", "history"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"Storage.{name}", got=value, expected="True or False")
        whole = isinstance(self.max_bytes, int) and not isinstance(self.max_bytes, bool)
        require(self.max_bytes is None or (whole and 0 < self.max_bytes < 2**63), "Storage.max_bytes",
                got=self.max_bytes, expected="a positive number of bytes, or None")  # fmt: skip
        require(isinstance(self.when_full, (LFU, LRU)), "Storage.when_full", got=self.when_full, expected="LFU or LRU")
        require(self.disk is None or isinstance(self.disk, Disk), "Storage.disk", got=self.disk, expected="a Disk")
        require(self.max_bytes is None or self.event_times, "Storage.max_bytes", got="event_times=False",
                expected="event_times=True, because a full table drops its oldest rows",
                do="Keep event times, or leave max_bytes out.")  # fmt: skip

    def keeps_history(self, serving: bool) -> bool:
        """Return whether a table keeps marks and removals: never one that only serves."""
        return self.history and not serving

    def keeps_frequencies(self, serving: bool) -> bool:
        """Return whether a table keeps a frequency per row; one that only serves goes by event time."""
        return self.max_bytes is not None and isinstance(self.when_full, LFU) and not serving

    def row_precision(self, serving: bool) -> Precision:
        """Return what a table keeps its embeddings in."""
        return self.serving_precision if serving else self.precision
