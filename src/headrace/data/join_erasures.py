"""Erasures in the joiner: markers in the stream of events say from which place on a user is unknown.

What a joiner does has to be a function of its events, or it could not be repeated after a crash. So an erasure is a row
of the event log like any other, of kind `erasure`; its key is the number under which the book of erasures has it. It
holds nothing of the user. From there on the joiner drops the user's pending impressions and takes none that come later,
by whatever way, until a row of kind `consent` with the same number.
"""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.log_entry import EntryLog
from headrace.data.subjects import Mask, UserColumns, without_rows
from headrace.types import Events

ERASURE, CONSENT = "erasure", "consent"
POLL_S = 0.2


class JoinErasures:
    """What a joiner knows about erasures.

    Args:
        book: The book of the run whose events are joined.
        users: The columns that name a user.
        part: Name under which this joiner marks in the book that it has passed an erasure.
    """

    def __init__(self, book: ErasureBook, users: UserColumns, *, part: str = "joiner") -> None:
        self.book, self.users, self.part = book, users, part
        self.active: set[int] = set()
        self._subjects: frozenset[bytes] = frozenset()
        self._generation, self._next_look = -1, 0.0

    def announce(self, events: EntryLog, topic: str) -> None:
        """Append markers for the erasures, and the consents, that have none yet; cheap when there is nothing to do.

        A crash in between appends a marker twice, which means the same as once.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + POLL_S
        generation = self.book.generation()
        if generation == self._generation or events.is_closed(topic):
            return
        for erasure in self.book.unfinished():
            self._append(events, topic, ERASURE, erasure)
        for erasure in self.book.lifted():
            self._append(events, topic, CONSENT, erasure)
        self._generation = generation

    def _append(self, events: EntryLog, topic: str, kind: str, erasure: Erasure) -> None:
        if kind not in erasure.marks:
            self.book.mark(erasure.number, kind, events.append(topic, marker(kind, erasure.number)))

    def take(self, rows: Events) -> tuple[Events, list[int]]:
        """Return the rows without markers, and the erasures that begin here.

        Rows of erased users become rows of kind `erased`. So it makes no difference to a joiner that reads them again
        whether the log was rewritten meanwhile.
        """
        kinds = rows.column("kind")
        marked = pc.is_in(kinds, value_set=pa.array([ERASURE, CONSENT]))
        begun: list[int] = []
        if pc.any(marked, min_count=0).as_py():
            keys = rows.column("key").filter(marked).to_pylist()
            for kind, key in zip(kinds.filter(marked).to_pylist(), keys, strict=True):
                begun += self._pass(kind, int(key))
            rows = Events(rows.batch.filter(pc.invert(marked)))
        gone = self.chosen(rows.batch)
        return (without_rows(rows, gone) if gone.any() else rows), begun

    def _pass(self, kind: str, number: int) -> list[int]:
        fresh = [number] if kind == ERASURE and number not in self.active else []
        (self.active.add if kind == ERASURE else self.active.discard)(number)
        self._subjects = self.book.subjects(self.active)
        return fresh

    def chosen(self, rows: pa.RecordBatch) -> Mask:
        """Return which rows (N,) name a user who is erased at this place of the stream."""
        return self.users.named(rows, self._subjects, self.book.veil)

    def passed(self, numbers: list[int], offset: int) -> None:
        """Mark in the book that what this joiner keeps holds nothing of these any more, up to an offset."""
        for number in numbers:
            self.book.mark(number, self.part, offset)

    def unmarked(self) -> list[int]:
        """Return the active erasures without a mark of this joiner: a crash came between its state and the mark."""
        found = [self.book.erasure(number) for number in sorted(self.active)]
        return [item.number for item in found if item is not None and self.part not in item.marks]

    def restore(self, active: list[int]) -> None:
        """Continue with the erasures that a state names."""
        self.active = set(active)
        self._subjects = self.book.subjects(self.active)


def marker(kind: str, number: int) -> Events:
    """Return the row that says that an erasure, or a consent, begins here.

    Its event time is 0, which moves no watermark.
    """
    return Events.from_columns({"key": [str(number)], "kind": [kind], "event_time": [0]})
