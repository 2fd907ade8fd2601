"""Erasing a user from a run, end to end; each process does its part, and each part may be cut short at any instant.

    asked (erasures.db) ─► removed: a version, at once, past every hold
                        ─► joined:  the joiner passed the marker, and its kept state holds nothing more
                        ─► learned: the learner's checkpoints hold nothing more, nor do the examples it has not read
                        ─► told:    the publisher knows up to which staged change it has to cut the rows out
                        ─► rewritten: logs, staged changes, versions, snapshots and copies are put again without them
                        ─► finished: the scanner found nothing; the name is overwritten, its keyed hash stays

Every part is done again after a crash until it is marked in the book, and doing it twice is the same as once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch

from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.join_erasures import JoinErasures
from headrace.data.join_log import JoinProgress
from headrace.data.rewrite import erase_rows
from headrace.data.subjects import UserColumns
from headrace.errors import ConfigError, HeadraceError, VersionError
from headrace.learn import ManifestCheckpoint
from headrace.learn.erasure import erased_state
from headrace.online.config import OnlineConfig
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED, RunFolder
from headrace.online.logs import open_log
from headrace.online.traces import Scan, find_traces
from headrace.online.trimming import needed_from
from headrace.publish import LogPublisher, Mirror
from headrace.publish.change_log import ChangeLog
from headrace.publish.erasure import scrub_topic, scrub_versions, scrubbed
from headrace.publish.orders import Order, orders_topic
from headrace.publish.standing import read_standing
from headrace.publish.versions import VersionRecord, VersionRecords
from headrace.types import Change

_log = logging.getLogger(__name__)
ORDERED, REMOVED, JOINED, LEARNED, TOLD = "ordered", "removed", "joiner", "learner", "told"
STEP_S = 0.25
AGAIN_S, LONGEST_S = 2.0, 3600.0
"""How long the eraser waits before it rewrites again what the scanner did not find clean: twice as long every time."""


def open_book(folder: RunFolder) -> ErasureBook:
    """Open a run's book of erasures; made if absent."""
    return ErasureBook(folder.erasures)


def user_columns(config: OnlineConfig) -> UserColumns:
    """Return the columns that name a user, and their tables.

    Raises:
        ConfigError: If users of this run cannot be erased, and why.
    """
    return UserColumns.of(config.request_schema if config.preparation else config.schema, config.erase.columns)


def erasable(config: OnlineConfig) -> UserColumns | None:
    """Return the user columns, or None where there are none and nobody asked for any."""
    try:
        return user_columns(config)
    except ConfigError:
        if config.erase.columns:
            raise
        return None


def ids_of(users: UserColumns, names: Sequence[str]) -> dict[str, list[int]]:
    """Return table name to the ids of users."""
    ids = sorted({one for name in names for one in users.ids(name)})
    return dict.fromkeys(users.tables, ids)


def joiner_erasures(config: OnlineConfig, folder: RunFolder) -> JoinErasures | None:
    """Return the joiner's part; None where no user can be erased."""
    users = erasable(config)
    return None if users is None else JoinErasures(open_book(folder), users, part=JOINED)


class LearnerErasures:
    """The learner's part: it is stopped between two reads, its checkpoint edited, and started again.

    That may only be done where the learner need not repeat anything it has staged: what it repeats must be equal to the
    bit, and without a user it would not be. So it first comes to where the staged log stands.

    Args:
        config: The run.
        folder: Its folder.
    """

    def __init__(self, config: OnlineConfig, folder: RunFolder) -> None:
        self.config, self.folder, self.users = config, folder, erasable(config)
        self.book = None if self.users is None else open_book(folder)
        self._staged = ChangeLog(open_log(config, folder, STAGED), STAGED)
        self._generation, self._waiting = -1, False
        self._not_before = self._next_look = 0.0

    def wanted(self, version: int) -> bool:
        """Return whether the learner, which holds `version`, should stop now; cheap."""
        now = time.monotonic()
        if self.book is None or now < max(self._next_look, self._not_before):
            return False
        self._next_look = now + STEP_S
        generation = self.book.generation()
        if generation != self._generation:
            self._generation, self._waiting = generation, bool(self._open())
        return self._waiting and version >= self._staged.last().number

    def _open(self) -> list[Erasure]:
        assert self.book is not None
        return [item for item in self.book.unfinished() if JOINED in item.marks and LEARNED not in item.marks]

    def settle(self) -> int:
        """Erase, at rest, whoever waits for it; returns how many users were."""
        waiting = [] if self.book is None else self._open()
        if not waiting or self.book is None or self.users is None:
            return 0
        names, last = [item.name for item in waiting if item.name is not None], self._staged.last().number
        row = erase_checkpoint(self.folder, self.users, names, last)
        if row is None:
            return 0
        with open_log(self.config, self.folder, EXAMPLES) as examples:
            start = max(examples.locate(EXAMPLES, row), examples.topic(EXAMPLES).first_offset)
            erase_rows(examples, EXAMPLES, self.users, names, start=start)
        for item in waiting:
            self.book.mark(item.number, LEARNED, last)
        self._not_before = time.monotonic() + self.config.erase.pause_s
        _log.info("erased %d users from the learner", len(waiting))
        return len(waiting)


def erase_checkpoint(folder: RunFolder, users: UserColumns, names: Sequence[str], last: int) -> int | None:
    """Take users out of a learner's checkpoints, all that are kept.

    Args:
        folder: The run's folder; no learner is at work there.
        users: The columns that name users, and their tables.
        names: The users.
        last: The newest change that the learner handed over.

    Returns:
        The number of the example that the learner reads next; None, and nothing is changed, if it has to repeat
        something that it handed over.
    """
    checkpoint = ManifestCheckpoint(folder.checkpoint)
    state = checkpoint.load()
    if state is None:
        return None if last >= 0 else 0
    progress, position = state["progress"], state["position"]
    assert isinstance(progress, dict)
    assert isinstance(position, dict)
    if int(progress["version"]) < last:  # type: ignore[arg-type]
        return None
    clean = erased_state(state, users, names)
    for _ in range(checkpoint.keep):  # so that no older one is kept either
        checkpoint.save(clean)
    return int(position.get(f"{EXAMPLES}/0", 0))  # type: ignore[arg-type]


class Eraser:
    """The publisher's part, and the last one: removes rows from the versions, rewrites, scans and finishes.

    Args:
        config: The run.
        folder: Its folder.
        publisher: Who publishes in this process.
        mirrors: Copies of the versions that this process keeps.
    """

    def __init__(
        self, config: OnlineConfig, folder: RunFolder, publisher: LogPublisher, mirrors: Sequence[Mirror] = ()
    ) -> None:
        self.config, self.folder, self.publisher, self.mirrors = config, folder, publisher, mirrors
        self.users = erasable(config)
        self.book = None if self.users is None else open_book(folder)
        self.scan: Scan | None = None
        self._again: dict[int, float] = {}
        self._tries: dict[int, int] = {}

    def step(self) -> bool:
        """Bring every erasure as far as it can come now; returns whether any came further."""
        if self.book is None or self.users is None:
            return False
        moved = False
        for erasure in self.book.unfinished():
            moved |= self._advance(self.book, self.users, erasure)
        return moved

    def status(self) -> dict[str, object]:
        """Return how many erasures are under way, and how many of them take longer than was promised."""
        found = [] if self.book is None else self.book.unfinished()
        limit = time.time_ns() // 1000 - int(self.config.erase.within_s * 1e6)
        facts = {"unfinished": len(found), "overdue": sum(item.requested < limit for item in found)}
        left = [] if self.scan is None else [*(trace.path for trace in self.scan.traces), *self.scan.unreadable]
        return facts | ({"left_in": sorted(set(left))[:3]} if left else {})

    def _advance(self, book: ErasureBook, users: UserColumns, erasure: Erasure) -> bool:
        marks, number, name = dict(erasure.marks), erasure.number, erasure.name
        if name is None:
            return False
        before = len(marks)
        if ORDERED not in marks:
            self._order("erase", number, ids_of(users, [name]))
            self._mark(marks, number, ORDERED, 1)
        if REMOVED not in marks and (record := self._record(f"erase-{number}")) is not None:
            self._mark(marks, number, REMOVED, record.version)
        if JOINED not in marks and self._joiner_ended():
            self._mark(marks, number, JOINED, 0)
        if LEARNED in marks and TOLD not in marks:
            self._order("erased", number, ids_of(users, [name]), through=marks[LEARNED])
            self._mark(marks, number, TOLD, marks[LEARNED])
        if {REMOVED, JOINED, LEARNED, TOLD} <= set(marks) and self._passed(number, marks[LEARNED]):
            return self._finish(book, users, number, name, marks) or len(marks) > before
        return len(marks) > before

    def _mark(self, marks: dict[str, int], number: int, part: str, value: int) -> None:
        assert self.book is not None
        self.book.mark(number, part, value)
        marks[part] = value

    def _order(self, kind: str, number: int, tables: dict[str, list[int]], through: int = -1) -> None:
        # named by the erasure, so that the version can be found again; given twice by a crash, it does no harm
        order = Order(kind=kind, name=f"{kind}-{number}", tables=tables, through=through)
        self.publisher.changes.log.append_bytes(orders_topic(CHANGES), order.to_bytes())

    def _record(self, name: str) -> VersionRecord | None:
        """Return what became of an order; None while it waits.

        Raises:
            VersionError: If it could not be carried out.
        """
        log = self.publisher.changes.log
        records = VersionRecords(log, CHANGES)
        record = records.of_order(name, since=log.topic(records.topic).first_offset)
        if record is not None and record.kind == "failed":
            raise VersionError(f"Order '{name}'", got=record.reason, expected="an erasure that the versions can take")
        return record

    def _joiner_ended(self) -> bool:
        """Return whether there is nothing more to be joined; its last state goes then, because nobody needs it."""
        if not self.folder.log(EXAMPLES).exists():
            return False  # one process: its joiner is part of its checkpoint
        with open_log(self.config, self.folder, EXAMPLES) as examples:
            if not JoinProgress.from_bytes(examples.state("joiner/progress")).ended:
                return False
            with examples.transaction() as write:
                write.drop_state("joiner/state")
        return True

    def _passed(self, number: int, through: int) -> bool:
        """Return whether all staged changes that may hold the rows are behind the publisher."""
        if self._record(f"erased-{number}") is None:
            return False
        return read_standing(self.publisher.changes.log).following > through

    def _finish(self, book: ErasureBook, users: UserColumns, number: int, name: str, marks: dict[str, int]) -> bool:
        if time.monotonic() < self._again.get(number, 0.0):
            return False
        tries = self._tries[number] = self._tries.get(number, 0) + 1
        self._again[number] = time.monotonic() + min(AGAIN_S * 2 ** min(tries - 1, 20), LONGEST_S)
        if not self._rewrite(users, name, max(marks[REMOVED], 0), whole=tries > 1):
            return False
        self.scan = self._look(users, name)
        left = [f"{trace.path}: {trace.where}" for trace in self.scan.traces] + self.scan.unreadable
        if left:
            _log.warning("erasure %d: %d traces or unreadable files are left, the first one in %s; rewriting again",
                         number, len(left), left[0])  # fmt: skip
            return False
        book.finish(number)
        _log.info("erasure %d is finished: %d files searched, no trace", number, self.scan.files)
        return True

    def _rewrite(self, users: UserColumns, name: str, removed_in: int, *, whole: bool) -> bool:
        """Take a user out of everything durable; returns whether all of it could be done now."""
        ids = ids_of(users, [name])
        clean = self._rewrite_logs(users, name, ids, whole=whole) if self.folder.log(EXAMPLES).exists() else True
        scrub_versions(self.publisher, ids, erased_in=removed_in)
        for mirror in self.mirrors:
            self._scrub_copy(mirror, ids)
        return clean & self.publisher.changes.log.purge(whole=whole)

    def _rewrite_logs(self, users: UserColumns, name: str, ids: dict[str, list[int]], *, whole: bool) -> bool:
        with open_log(self.config, self.folder, EXAMPLES) as examples:
            erase_rows(examples, EXAMPLES, users, [name])
            clean = examples.purge(whole=whole)
        others = needed_from(self.folder, self.config.logs.forget_after_s)
        with open_log(self.config, self.folder, EVENTS) as events:
            # other readers may have to repeat what they did with the entries that they have not passed for good
            erase_rows(events, EVENTS, users, [name], end=others)
            clean &= events.purge(whole=whole)
        with open_log(self.config, self.folder, STAGED) as staged:
            scrub_topic(staged, STAGED, ids)
            return clean & staged.purge(whole=whole)

    @staticmethod
    def _scrub_copy(mirror: Mirror, ids: dict[str, list[int]]) -> None:
        rewrite = getattr(mirror.target, "rewrite", None)
        if rewrite is None:  # a topic cannot be rewritten; its own retention drops old entries
            return

        def edit(change: Change) -> Change:
            cut = scrubbed(change, ids)
            return change if cut is None else cut

        with mirror.alone():
            mirror.step()
            rewrite(edit)

    def _look(self, users: UserColumns, name: str) -> Scan:
        scan = find_traces(self.folder.root, name, users)
        # the book forgets the name last; what a played log needs to go on belongs to whoever plays it
        own = (str(self.folder.erasures), str(self.folder.feed))
        scan.traces = [trace for trace in scan.traces if not trace.path.startswith(own)]
        return scan


class EraserThread:
    """Runs an `Eraser` beside a publisher; what goes wrong is logged and tried again.

    Args:
        eraser: The eraser.
    """

    def __init__(self, eraser: Eraser) -> None:
        self.eraser, self._stop = eraser, threading.Event()
        self._thread = threading.Thread(target=self._run, name="eraser", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self.eraser.book is not None:
            self._thread.start()

    def close(self) -> None:
        """End the thread, after the step that it is in."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def drain(self, obey: Callable[[], object]) -> None:
        """End the thread and do all that can still be done: for a stream that has ended.

        Args:
            obey: Carries out the orders that wait, between two steps.
        """
        self.close()
        obey()
        while self.eraser.step():
            obey()

    def _run(self) -> None:
        torch.set_num_threads(1)
        error = ""
        while not self._stop.wait(STEP_S):
            try:
                self.eraser.step()
                error = ""
            except (HeadraceError, OSError) as failure:
                if str(failure) != error:
                    _log.error("an erasure could not go on: %s", failure)
                error = str(failure)
