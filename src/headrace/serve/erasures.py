"""Users who asked to be forgotten, as a server treats them: at once, and for as long as they do not come back.

An erased user is answered like one whom nobody knows: tables have no row of theirs. Nothing of them is logged, so
nothing is learned. That ends with their consent (`ErasureDesk.consent`); then they are a new user.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.subjects import UserColumns
from headrace.errors import HeadraceError
from headrace.publish.replica import Replica
from headrace.types import Events

_log = logging.getLogger(__name__)
POLL_S = 0.05
REMOVED = "removed"
"""Mark of an erasure that a version has carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of an erasure.

    Attributes:
        number: Its number.
        subject: Keyed hash of the user's id, in hex: what audit lines and support tickets may hold.
        state: `asked`; `removed`: a version without the user's rows is published; `finished`: nothing durable holds a
            trace any more; `lifted`: the user has come back by consent.
        requested, finished: Wall-clock µs; 0: not yet.
        due: Wall-clock µs by which it is finished, as the run promises.
        version: The version that removed the rows; -1 while there is none.
    """

    number: int
    subject: str
    state: str
    requested: int
    finished: int
    due: int
    version: int


class ErasureDesk:
    """Takes erasures and consents, screens what is logged, and removes rows from the replicas of this process at once.

    Several servers may share one run: what one is asked, all know within `POLL_S`, from the book of erasures.

    Args:
        books: The books of all runs whose models are served here; the first one numbers the answers.
        users: The columns that name users, and the tables with their rows.
        within_s: The time in which everything is rewritten, as it is told.

    Thread-safety: any number of threads.
    """

    def __init__(self, books: Sequence[ErasureBook], users: UserColumns, *, within_s: float) -> None:
        self.books, self.users, self.within_s = list(books), users, within_s
        self.replicas: list[Replica] = []
        self._callbacks: list[Callable[[list[int]], object]] = []
        self._blocked: list[frozenset[bytes]] = [frozenset() for _ in self.books]
        self._generations, self._requested = [-1 for _ in self.books], list[int]()
        self._forgotten: dict[tuple[int, int], Mapping[str, Tensor]] = {}  # what replicas keep out, by erasure
        self._looking, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def on_erase(self, forget: Callable[[list[int]], object]) -> None:
        """Have something else forget users as well; `forget` gets the ids under which tables hold them."""
        self._callbacks.append(forget)

    def start(self) -> None:
        """Take notice of what was asked, here or elsewhere, from now on."""
        self.look()
        self._thread = threading.Thread(target=self._run, name="erasures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def erase(self, name: str) -> Answer:
        """Ask for an erasure; when it returns, that is durable, and this process has forgotten the user.

        Raises:
            DataError: If the id is empty or overlong.
        """
        asked = [book.request(name) for book in self.books]
        self.look()
        return self._answer(asked[0])

    def consent(self, name: str) -> Answer | None:
        """Take a user as a new one from now on; None if they never were erased, or came back already.

        Raises:
            ConfigError: If the erasure is not finished yet.
        """
        lifted = [book.consent(name) for book in self.books]
        self.look()
        return None if lifted[0] is None else self._answer(lifted[0])

    def find(self, number: int) -> Answer | None:
        """Return what is known of an erasure."""
        found = self.books[0].erasure(number)
        return None if found is None else self._answer(found)

    def status(self) -> dict[str, int]:
        """Return how many erasures are under way, and how many take longer than was promised; of the first book."""
        now = time.time_ns() // 1000
        overdue = sum(requested + round(self.within_s * 1e6) < now for requested in self._requested)
        return {"unfinished": len(self._requested), "overdue": overdue}

    def subject(self, name: str) -> str:
        """Return the keyed hash of a user's id in hex."""
        return self.books[0].subject(name).hex()

    def is_erased(self, name: str) -> bool:
        """Return whether a user was erased and has not come back."""
        return any(book.subject(name) in blocked for book, blocked in zip(self.books, self._blocked, strict=True))

    def screen(self, rows: Events) -> Events:
        """Return the rows without those of erased users; what is left may be logged.

        Cost: nothing to speak of while nobody is erased; else one keyed hash per distinct user of the rows.
        """
        gone = np.zeros(len(rows), dtype=np.bool_)
        for book, blocked in zip(self.books, self._blocked, strict=True):
            if blocked:
                gone |= self.users.named(rows.batch, blocked, book.veil)
        return rows.take(np.flatnonzero(~gone)) if gone.any() else rows

    def look(self) -> None:
        """Take notice of what the books have new."""
        with self._looking:
            for place, book in enumerate(self.books):
                generation = book.generation()
                if generation == self._generations[place]:
                    continue
                self._blocked[place], unfinished = book.blocked(), book.unfinished()
                if place == 0:
                    self._requested = [erasure.requested for erasure in unfinished]
                for erasure in unfinished:
                    self._forget(place, erasure)
                self._remember(place, book)
                self._generations[place] = generation

    def _forget(self, place: int, erasure: Erasure) -> None:
        if erasure.name is None or (place, erasure.number) in self._forgotten:
            return
        ids = self.users.ids(erasure.name)
        rows = dict.fromkeys(self.users.tables, torch.tensor(ids, dtype=torch.int64))
        for replica in self.replicas:
            replica.forget(rows)
        for forget in self._callbacks:
            forget(ids)
        self._forgotten[place, erasure.number] = rows

    def _remember(self, place: int, book: ErasureBook) -> None:
        """Keep nothing out any more of erasures that are finished: no version that is kept has their rows."""
        for where in [key for key in self._forgotten if key[0] == place]:
            erasure = book.erasure(where[1])
            if erasure is None or erasure.finished:
                rows = self._forgotten.pop(where)
                for replica in self.replicas:
                    replica.remember(rows)

    def _answer(self, erasure: Erasure) -> Answer:
        state = "removed" if REMOVED in erasure.marks else "asked"
        state = "lifted" if erasure.consented else "finished" if erasure.finished else state
        return Answer(
            number=erasure.number, subject=erasure.subject.hex(), state=state, requested=erasure.requested,
            finished=erasure.finished, due=erasure.requested + round(self.within_s * 1e6),
            version=erasure.marks.get(REMOVED, -1),
        )  # fmt: skip

    def _run(self) -> None:
        error = ""
        while not self._stop.wait(POLL_S):
            try:
                self.look()
                error = ""
            except HeadraceError as failure:
                if str(failure) != error:
                    _log.error("the book of erasures cannot be read: %s", failure)
                error = str(failure)
