"""What is learned and not published yet: pieces that wait, durable beside the versions themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headrace.data.log import EmbeddedLog, Transaction
from headrace.publish.change import decode, encode, merge
from headrace.types import NO_VERSION, Change, RowChange, Version

ERASURE = "erasure"
"""Note of a change whose removed ids were erased for good: they pass every hold, and no rollback brings them back."""
COMPACT_PIECES = 32
COMPACT_BYTES = 1 << 20


class PendingChanges:
    """The changes that are not published, as pieces of a topic; how far it is valid is said by the `Standing`.

    Pieces are appended one by one and folded into one when they have doubled, so that what is kept stays within twice
    the rows that differ, and every row is written a few times at most.

    Args:
        log: The log of the versions.
        topic: The versions' topic; the pieces go to `<topic>-pending`.
    """

    def __init__(self, log: EmbeddedLog, topic: str) -> None:
        self.log, self.topic = log, f"{topic}-pending"
        self.pieces: list[Change] = []
        self._folded = self._appended = 0

    def load(self, start: int) -> None:
        """Read the pieces from an offset on."""
        self.pieces, self._folded, self._appended = [], 0, 0
        end, following = self.log.end(self.topic), start
        while following < end:
            for entry in self.log.read(self.topic, following):
                self.pieces.append(decode(entry.payload))
                self._appended += len(entry.payload)
                following = entry.offset + 1

    def append(self, write: Transaction, piece: Change) -> int:
        """Append a piece within a transaction and return its offset; `take` it once that is durable."""
        return write.append_bytes(self.topic, encode(piece))

    def replace(self, write: Transaction, pieces: Sequence[Change]) -> int:
        """Write pieces that stand for all that is pending; returns the offset of the first, or of the end."""
        offsets = [self.append(write, piece) for piece in pieces]
        return offsets[0] if offsets else self.log.end(self.topic)

    def taken(self, pieces: Sequence[Change]) -> None:
        """Say what is pending now, after the transaction that wrote it."""
        self._appended = sum(_bytes(piece) for piece in pieces)
        self._folded = _bytes(pieces[0]) if len(pieces) == 1 else 0
        self.pieces = list(pieces)

    def added(self, piece: Change) -> None:
        """Say that one piece more is pending, after the transaction that wrote it."""
        self.pieces.append(piece)
        self._appended += _bytes(piece)

    def trim(self, start: int) -> None:
        """Drop the pieces before an offset."""
        if self.log.topic(self.topic).first_offset < start:
            self.log.trim(self.topic, start)

    @property
    def due(self) -> bool:
        """Whether the pieces should be folded into one."""
        return len(self.pieces) >= COMPACT_PIECES and self._appended >= max(2 * self._folded, COMPACT_BYTES)

    @property
    def rows(self) -> int:
        """Rows put and removed in all pieces."""
        return sum(len(rows) for piece in self.pieces for rows in piece.tables.values())


def chained(pieces: Iterable[Change], after: int = 0) -> list[Change]:
    """Return the pieces numbered one after another, the first one following version `after`.

    A piece without a parent, which begins everything anew, says so by `full`.
    """
    numbered = []
    for number, piece in enumerate(pieces, after + 1):
        full = piece.full or piece.version.parent == NO_VERSION
        numbered.append(replace(piece, version=Version(number, number - 1), full=full))
    return numbered


def folded(pieces: Sequence[Change], version: Version) -> Change:
    """Return all pieces as one change of the given version; one piece alone keeps its content to the bit."""
    one = chained(pieces)[0] if len(pieces) == 1 else merge(chained(pieces))
    return replace(one, version=version)


def without_times(change: Change) -> Change:
    """Return the change without the notes that tell when its events were accepted: their delay was measured before."""
    return replace(change, notes={name: note for name, note in change.notes.items() if not name.endswith("_times")})


def without_rows(change: Change, erased: Mapping[str, Tensor]) -> Change:
    """Return the change without what it puts for erased ids (N,) of each table."""
    tables = dict(change.tables)
    for name in set(tables) & set(erased):
        rows = tables[name]
        kept = torch.isin(rows.ids, erased[name], invert=True)
        tables[name] = RowChange(rows.ids[kept], rows.rows[kept], rows.removed)
    return replace(change, tables=tables)


def _bytes(piece: Change) -> int:
    """Return about how many bytes the piece takes, without writing it."""
    tensors = [t for rows in piece.tables.values() for t in (rows.ids, rows.rows, rows.removed)]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*tensors, *piece.dense.values()])
