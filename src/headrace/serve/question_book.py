"""What was asked and answered: the state of a desk, read back from the event log after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.errors import DataError
from headrace.serve.event_writer import Written
from headrace.serve.question_pool import QuestionPool
from headrace.types import Events

Rows: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
QUESTION, ANSWERED = "question", "impression"
SKIP = "skip"
"""The answer of somebody who cannot say; the example is not asked about again."""
FREE, OPEN, CLOSED, SKIPPED = range(4)


@dataclass(frozen=True, slots=True)
class Question:
    """One question: the example `row` of the pool, and the prediction that it was asked with."""

    key: str
    row: int
    score: float
    version: int
    chance: float
    asked_at: int
    annotator: str


class QuestionBook:
    """Which examples are free, open, answered or skipped, and which answers are on their way to the disk.

    Args:
        pool: The examples.

    Thread-safety: none; the desk holds a lock.
    """

    def __init__(self, pool: QuestionPool) -> None:
        self.pool = pool
        self.open: dict[str, Question] = {}
        self.coming: dict[str, Future[Written]] = {}
        self._known: dict[str, int] = {}  # every question's key -> its row
        self._fate = np.full(len(pool), FREE, dtype=np.int8)

    def replay(self, events: Events) -> None:
        """Take notice of logged rows: questions, answers and skips of examples that are in the pool."""
        if self.pool.item not in events.names:
            return
        names = [name for name in ("key", "kind", self.pool.item) if name in events.names]
        rows = zip(*(events.column(name).to_pylist() for name in names), strict=True)
        for place, (key, kind, item) in enumerate(rows):
            row = self.pool.place_of(item)
            if row is None:
                continue
            if kind == QUESTION:
                told = {
                    name: events.column(name)[place].as_py() for name in ("score", "version", "chance", "annotator")
                }
                self.open_all([Question(key, row, asked_at=int(events.times[place]), **told)])
            elif kind == SKIP and key in self._known:
                self.close(key, skipped=True)
            elif kind == ANSWERED and "answer" in events.names and events.column("answer")[place].is_valid:
                self._known.setdefault(key, row)
                self.close(key, skipped=False)

    def open_all(self, asked: Sequence[Question]) -> None:
        """Hand out questions."""
        for one in asked:
            self.open[one.key], self._known[one.key], self._fate[one.row] = one, one.row, OPEN

    def forget(self, asked: Sequence[Question]) -> None:
        """Take back questions that never became durable."""
        for one in asked:
            self.open.pop(one.key, None)
            self._known.pop(one.key, None)
            self._fate[one.row] = FREE

    def take_back(self, before: int) -> None:
        """Free the examples of questions that were asked before a time (µs) and not answered since.

        Their answers are still taken, as long as nobody else's was.
        """
        for one in self.open.values():
            if one.asked_at < before and one.key not in self.coming and self._fate[one.row] == OPEN:
                self._fate[one.row] = FREE

    def fresh(self, keys: Sequence[str]) -> list[str]:
        """Return the keys whose answer is news, each once.

        Raises:
            DataError: If a key is of no question.
        """
        found: dict[str, None] = {}
        rows: set[int] = {self._known[key] for key in self.coming}
        for key in keys:
            row = self._known.get(key)
            if row is None:
                raise DataError("Answer, key", got=repr(key[:100]), expected="the key of a question",
                                do="Answer what GET /v1/questions returned.")  # fmt: skip
            if key in self.open and self._fate[row] < CLOSED and row not in rows:
                found[key] = None
                rows.add(row)
        return list(found)

    def close(self, key: str, *, skipped: bool) -> None:
        """Take notice that a question's answer is durable."""
        self.open.pop(key, None)
        row = self._known[key]
        self._fate[row] = SKIPPED if skipped else CLOSED

    def free(self) -> Mask:
        """Return which examples may be asked about, (N,)."""
        return np.asarray(self._fate == FREE)

    def asked(self) -> Rows:
        """Return how many questions of each task were asked and not taken back, (K,)."""
        return np.bincount(self.pool.owners[self._fate != FREE], minlength=len(self.pool.tasks)).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Return how many examples are open, answered and skipped."""
        return {name: int((self._fate == fate).sum())
                for name, fate in (("open", OPEN), ("answered", CLOSED), ("skipped", SKIPPED))}  # fmt: skip

    def question_rows(self, asked: Sequence[Question]) -> Events:
        """Return rows of kind `question` for the log; no joiner makes an example of them."""
        return Events.from_columns({
            "key": [one.key for one in asked], "kind": [QUESTION] * len(asked),
            "event_time": [one.asked_at for one in asked],
            self.pool.item: [self.pool.name_of(one.row) for one in asked],
            "score": pa.array([one.score for one in asked], pa.float32()),
            "version": pa.array([one.version for one in asked], pa.int64()),
            "chance": pa.array([one.chance for one in asked], pa.float32()),
            "annotator": pa.array([one.annotator for one in asked], pa.string()),
        })  # fmt: skip
