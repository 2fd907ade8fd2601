"""What every data set gives: columns in order of time, labelled rows, and the log as it would have arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import DATA_VARIABLE, data_folder, require
from headrace.data.download import cache_folder
from headrace.data.files import find_file
from headrace.data.formats import pieces
from headrace.data.hashing import hash_strings, hash_text
from headrace.data.layout import Layout
from headrace.data.replay import BadRows
from headrace.data.source import TableSource
from headrace.data.text_blocks import blocks
from headrace.errors import DataError
from headrace.protocols import Source
from headrace.types import Events

Integers = npt.NDArray[np.int64]
MakeEvents = Callable[[pa.Table], Events]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLog:
    """A data set, ready to be played.

    Attributes:
        name: Name of the data set.
        variant: Which edition or layout of it.
        path: File that was read.
        table: Its compact columns, one row per impression in order of time, with the times in `time` (µs) and the
            outcome in `clicked`.
        events: Turns rows of the table into impressions (features, no label).
        delay: How long clicks take to arrive.
        notes: What a report must say about it.
    """

    name: str
    variant: str
    path: Path
    table: pa.Table
    events: MakeEvents
    delay: ClickDelay
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of impressions."""
        return int(self.table.num_rows)

    @property
    def span_us(self) -> int:
        """Length in event time, until the last action has arrived."""
        times = _integers(self.table["time"])
        if not len(times):
            return 0
        return int(max(times.max(), self._arrivals().max(initial=0)) - times.min()) + 1

    def impressions(self) -> Source:
        """Open a source of all impressions in event time."""
        return TableSource(self.table, self.events, name=self.name)

    def examples(self) -> Source:
        """Open a source of labelled rows (kind `example`) in event time, for learning without a joiner."""
        return TableSource(self.table, self._examples, name=self.name)

    def source(self) -> Source:
        """Open a source of impressions and clicks, each when it arrived: a click by its delay after its impression."""
        times, clicked = _integers(self.table["time"]), np.flatnonzero(_booleans(self.table["clicked"]))
        rows = np.concatenate([np.arange(self.rows), clicked])
        actions = np.arange(len(rows)) >= self.rows
        arrivals = np.concatenate([times, self._arrivals()])
        order = np.lexsort((rows, actions, arrivals))  # at the same time: impressions first, then by row
        entries = {"row": rows[order], "action": actions[order], "time": arrivals[order]}
        return TableSource(pa.table(entries), self._entries, name=self.name)

    def _arrivals(self) -> Integers:
        """Return when each click arrives, in the order of the clicked rows."""
        clicked = self.table.filter(self.table["clicked"])
        if not clicked.num_rows:
            return np.zeros(0, dtype=np.int64)
        return _integers(clicked["time"]) + self.delay.draw(self.events(clicked).column("key"))

    def _examples(self, part: pa.Table) -> Events:
        events = self.events(part)
        label = _one_chunk(part["clicked"]).cast(pa.float32())
        return events.with_columns({"kind": _repeated("example", len(events)), "label": label})

    def _entries(self, part: pa.Table) -> Events:
        """Make events of entries: of an action only key, item and time are known."""
        action = _one_chunk(part["action"])
        events = self.events(self.table.take(part["row"]))
        kinds = pc.if_else(action, "click", "impression")
        features = [name for name in events.names if name not in ("key", "kind", "event_time", "item")]
        columns = {name: pc.if_else(action, None, events.column(name)) for name in features}
        return events.with_columns({"kind": kinds, "event_time": _one_chunk(part["time"]), **columns})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickDelay:
    """How long after its impression a click arrives: log-normal seconds, a pure function of seed and request key.

    Logs that give one time for a list and its click hide the delay that a live system has to live with; this puts a
    plausible one back, the same on every replay.

    Attributes:
        median_s: Half of the clicks come sooner.
        sigma: Standard deviation of the delay's logarithm.
        longest_s: Longer ones are cut to this.
        seed: Another seed, other delays.

    Example:
        >>> first, again = ClickDelay(median_s=60.0).draw(pa.array(["request-1", "request-1"]))
        >>> bool(first == again and 0 < first < 3_600_000_000)
        True
    """

    median_s: float = 60.0
    sigma: float = 1.0
    longest_s: float = 3600.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.median_s >= 0, "ClickDelay, median_s", got=self.median_s, expected="0 or more")
        require(self.sigma >= 0, "ClickDelay, sigma", got=self.sigma, expected="0 or more")
        require(
            self.longest_s >= self.median_s, "ClickDelay, longest_s", got=self.longest_s, expected="at least median_s"
        )

    def draw(self, keys: pa.Array) -> Integers:
        """Return the delays (N,) in µs of the clicks on requests with the given keys (N,)."""
        ids = hash_strings(keys).view(np.uint64) ^ np.uint64(hash_text(f"click delay {self.seed}") & (2**64 - 1))
        first, second = (_uniform(ids + np.uint64(salt)) for salt in (1, 2))
        normal = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)  # Box and Muller
        seconds = np.minimum(self.median_s * np.exp(self.sigma * normal), self.longest_s)
        return np.rint(seconds * 1e6).astype(np.int64)

    def told(self) -> str:
        """Return a sentence for reports."""
        return (f"click delays are drawn, not recorded: log-normal with median {self.median_s:g} s and sigma "
                f"{self.sigma:g}, at most {self.longest_s:g} s, seed {self.seed}")  # fmt: skip


def _uniform(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1) from scrambled integers (splitmix64)."""
    z = values * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def find_in(names: Sequence[str]) -> Path | None:
    """Return the first of the names that exists in the data folder or the cache, plain, `.gz` or `.zst`."""
    return find_file([data_folder(), cache_folder()], names)


def missing(name: str, names: Sequence[str], address: str) -> DataError:
    """Return the error that says which files of a data set are missing and where to get them."""
    return DataError(f"Data set {name}", got=f"none of {', '.join(names)} (nor .gz, .zst of them)",
                     expected=f"one of them in the folder that {DATA_VARIABLE} names ({data_folder() or 'not set'})",
                     do=f"Get it from {address}")  # fmt: skip


def read_table(path: Path, layout: Layout, *, encode: Sequence[str] = (), rows: int | None = None) -> pa.Table:
    """Read a file's typed columns.

    Args:
        path: The file.
        layout: Its format, names and types.
        encode: String columns to keep dictionary-encoded, which is compact where values repeat.
        rows: Only the first so many.

    Raises:
        DataError: For a malformed row, with file and line.
    """
    parts, wanted, bad = [], rows, BadRows()
    for piece in pieces(path, layout):
        bad.report(piece.flaws, piece, path)
        part = pa.Table.from_batches([piece.batch if wanted is None else piece.batch.slice(0, wanted)])
        for name in encode:
            if name in part.column_names:
                part = part.set_column(part.column_names.index(name), name, part[name].dictionary_encode())
        parts.append(part)
        if wanted is not None:
            wanted -= part.num_rows
            if wanted <= 0:
                break
    if not parts or not parts[0].column_names:
        raise DataError(f"File {path}", got="no rows", expected="a table with rows")
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def first_line(path: Path) -> str:
    """Return the first line of a text file, to tell whether it is a header; empty for an empty file."""
    first = next(blocks(path, quoted=False), None)
    return first.data.split(b"\n", 1)[0].decode(errors="replace").rstrip("\r") if first else ""


def made_up_times(table: pa.Table, step_us: int) -> pa.Table:
    """Return the table with a column `time` that grows by `step_us` from row to row, from 0."""
    return table.append_column("time", pa.array(np.arange(table.num_rows, dtype=np.int64) * step_us))


def earlier(owners: Integers) -> Integers:
    """Return how many earlier rows have the same owner: codes (N,) -> (N,)."""
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners)
    place = np.empty(len(owners), dtype=np.int64)
    place[order] = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def in_order(table: pa.Table) -> pa.Table:
    """Return the rows in order of `time`; rows of one time keep theirs, so that lists stay together."""
    times = table["time"].to_numpy()
    if not (times[1:] < times[:-1]).any():
        return table
    return table.take(pa.array(np.argsort(times, kind="stable")))


def codes(column: pa.ChunkedArray | pa.Array) -> Integers:
    """Return small integers that are equal where the values of a column are: (N,) int64."""
    column = _one_chunk(column) if isinstance(column, pa.ChunkedArray) else column
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def text(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of a table slice as plain strings."""
    whole = _one_chunk(column)
    return (whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole).cast(pa.string())


def numbers(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Return a column of a table slice as numbers."""
    return _one_chunk(column).cast(kind)


def request_events(keys: pa.Array, times: pa.Array, items: pa.Array, features: dict[str, pa.Array]) -> Events:
    """Return impressions."""
    kinds = _repeated("impression", len(keys))
    return Events.from_columns({"key": keys, "kind": kinds, "event_time": times, "item": items, **features})


def _repeated(value: str, count: int) -> pa.Array:
    return pa.array([value], pa.string()).take(pa.array(np.zeros(count, dtype=np.int64)))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _integers(column: pa.ChunkedArray) -> Integers:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _booleans(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.to_numpy(), dtype=np.bool_)
