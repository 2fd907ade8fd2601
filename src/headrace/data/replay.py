"""A file's rows as events, and what is done about rows that cannot be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.data.formats import Piece, pieces
from headrace.data.layout import Flaw, Layout, event_times, key_flaws, to_events
from headrace.errors import DataError, SchemaError
from headrace.types import Events

logger = logging.getLogger(__name__)

KEPT_BAD_ROWS = 20
"""How many skipped rows are kept to be shown; all are counted."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was skipped: where it stands, what is there, what should be."""

    place: str
    got: str
    expected: str


@dataclass(slots=True)
class BadRows:
    """What is done about malformed rows, and which there were.

    Attributes:
        action: `raise` at the first; `skip` and count them; `ignore` them (another pass reports them).
        count: Rows left out.
        first: The first of them.
        expectations: What was expected of them, with counts.
    """

    action: Literal["raise", "skip", "ignore"] = "raise"
    count: int = 0
    first: list[BadRow] = field(default_factory=list)
    expectations: Counter[str] = field(default_factory=Counter)

    def report(self, flaws: list[Flaw], piece: Piece, path: Path) -> None:
        """Take notice of flaws of a piece.

        Raises:
            DataError: With file, line, got and expected, when the action is `raise`.
        """
        one_per_row: dict[int, Flaw] = {}
        for flaw in sorted(flaws, key=lambda flaw: flaw.row):
            one_per_row.setdefault(flaw.row, flaw)
        for flaw in one_per_row.values() if self.action != "ignore" else ():
            place = f"{path.name}, {piece.place(flaw.row)}"
            if self.action == "raise":
                raise DataError(f"File {path}, {piece.place(flaw.row)}", got=flaw.got, expected=flaw.expected,
                                do="Correct the row, or set on_bad_row='skip' to leave such rows out.")  # fmt: skip
            if not self.count:
                logger.warning("%s: got %s, expected %s; such rows are skipped", place, flaw.got, flaw.expected)
            self.count += 1
            self.expectations[flaw.expected] += 1
            if len(self.first) < KEPT_BAD_ROWS:
                self.first.append(BadRow(place, flaw.got, flaw.expected))


@dataclass(frozen=True, slots=True)
class EventPiece:
    """Events of consecutive rows of a file.

    Shapes: events N rows; rows (N,) their numbers within the file; `stop` is the row after the last, good or bad.
    """

    events: Events
    rows: npt.NDArray[np.int64]
    stop: int
    file: str


def event_pieces(path: Path, layout: Layout, bad: BadRows, start: int = 0) -> Iterator[EventPiece]:
    """Yield the events of a file from row `start` on, in the order of the file.

    Raises:
        DataError: See `pieces` and `BadRows.report`.
        SchemaError: If a column that the layout names is missing.
    """
    for piece in pieces(path, layout, start):
        bad.report(piece.flaws, piece, path)
        if not len(piece.rows):
            continue
        batch = _derived(piece, layout, path)
        times, flaws = event_times(batch, layout, piece.rows)
        flaws = [*flaws, *key_flaws(batch, layout)]
        rows = piece.rows
        if flaws:
            bad.report([Flaw(int(rows[flaw.row]), flaw.got, flaw.expected) for flaw in flaws], piece, path)
            kept = np.setdiff1d(np.arange(len(rows)), [flaw.row for flaw in flaws])
            batch, times, rows = batch.take(pa.array(kept)), times.take(pa.array(kept)), rows[kept]
        if len(rows):
            yield EventPiece(to_events(batch, times, layout, path.name, rows), rows, piece.stop, path.name)


def _derived(piece: Piece, layout: Layout, path: Path) -> pa.RecordBatch:
    if layout.derive is None:
        return piece.batch
    batch = layout.derive(piece.batch)
    if batch.num_rows != piece.batch.num_rows:
        raise SchemaError(f"{path.name}, derive", got=f"{batch.num_rows} rows",
                          expected=f"the {piece.batch.num_rows} rows that it was given")  # fmt: skip
    return batch
