"""The publisher's part of an erasure, and the last one: rows leave the versions, files are rewritten, and searched."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.join_log import JoinProgress
from headrace.data.rewrite import erase_rows
from headrace.data.subjects import UserColumns
from headrace.errors import HeadraceError, VersionError
from headrace.online.config import OnlineConfig
from headrace.online.erase import JOINED, LEARNED, ORDERED, REMOVED, STEP_S, TOLD, erasable, ids_of, open_book
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED, RunFolder
from headrace.online.logs import open_log
from headrace.online.traces import Scan, find_all_traces
from headrace.online.trimming import needed_from
from headrace.publish import LogPublisher, Mirror
from headrace.publish.erasure import scrub_topic, scrub_versions, scrubbed
from headrace.publish.orders import Order, orders_topic
from headrace.publish.standing import read_standing
from headrace.publish.versions import VersionRecord, VersionRecords
from headrace.types import Change

_log = logging.getLogger(__name__)
ENDED_S = 1.0
AGAIN_S, LONGEST_S = 2.0, 3600.0
"""How long the eraser waits before it rewrites again what the scanner did not find clean: twice as long every time."""


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
        self.left_in: list[str] = []
        self._removed_in, self._next_ended = 0, 0.0
        self._again: dict[int, float] = {}
        self._tries: dict[int, int] = {}

    def step(self) -> bool:
        """Bring every erasure as far as it can come now; returns whether any came further.

        Raises:
            HeadraceError: The first thing that went wrong; other erasures went on.
        """
        if self.book is None or self.users is None:
            return False
        moved, ready, failed = False, dict[int, str](), list[HeadraceError]()
        for erasure in self.book.unfinished():
            try:
                came, all_done = self._advance(self.book, self.users, erasure)
            except HeadraceError as error:
                failed.append(error)
                continue
            moved |= came
            if all_done and erasure.name is not None:
                ready[erasure.number] = erasure.name
        moved |= self._finish(self.book, self.users, ready)
        if failed:
            raise failed[0]
        return moved

    def status(self) -> dict[str, object]:
        """Return how many erasures are under way, and how many of them take longer than was promised."""
        found = [] if self.book is None else self.book.unfinished()
        limit = time.time_ns() // 1000 - int(self.config.erase.within_s * 1e6)
        facts = {"unfinished": len(found), "overdue": sum(item.requested < limit for item in found)}
        return facts | ({"left_in": sorted(set(self.left_in))[:3]} if self.left_in else {})

    def _advance(self, book: ErasureBook, users: UserColumns, erasure: Erasure) -> tuple[bool, bool]:
        """Return whether an erasure came further, and whether all but the rewriting is done."""
        marks, number, name = dict(erasure.marks), erasure.number, erasure.name
        if name is None:
            return False, False
        before = len(marks)
        if ORDERED not in marks:
            since = self._order("erase", number, ids_of(users, [name]))
            self._mark(book, marks, number, ORDERED, since)
        if REMOVED not in marks and (record := self._record(f"erase-{number}", marks[ORDERED])) is not None:
            self._mark(book, marks, number, REMOVED, record.version)
        if JOINED not in marks and self._joiner_ended():
            self._mark(book, marks, number, JOINED, 0)
        if LEARNED in marks and TOLD not in marks:
            since = self._order("erased", number, ids_of(users, [name]), through=marks[LEARNED])
            self._mark(book, marks, number, TOLD, since)
        done = {REMOVED, JOINED, LEARNED, TOLD} <= set(marks) and self._passed(number, marks)
        if done:
            self._removed_in = max(self._removed_in, marks[REMOVED])
        return len(marks) > before, done

    @staticmethod
    def _mark(book: ErasureBook, marks: dict[str, int], number: int, part: str, value: int) -> None:
        book.mark(number, part, value)
        marks[part] = value

    def _order(self, kind: str, number: int, tables: dict[str, list[int]], through: int = -1) -> int:
        """Give an order, and return the place from which on its record will be found."""
        log = self.publisher.changes.log
        since = VersionRecords(log, CHANGES).end()
        # named by the erasure, so that the version can be found again; given twice by a crash, it does no harm
        order = Order(kind=kind, name=f"{kind}-{number}", tables=tables, through=through)
        log.append_bytes(orders_topic(CHANGES), order.to_bytes())
        return since

    def _record(self, name: str, since: int) -> VersionRecord | None:
        """Return what became of an order; None while it waits.

        Raises:
            VersionError: If it could not be carried out.
        """
        log = self.publisher.changes.log
        records = VersionRecords(log, CHANGES)
        record = records.of_order(name, since=max(since, log.topic(records.topic).first_offset))
        if record is not None and record.kind == "failed":
            raise VersionError(f"Order '{name}'", got=record.reason, expected="an erasure that the versions can take")
        return record

    def _joiner_ended(self) -> bool:
        """Return whether there is nothing more to be joined; its last state goes then, because nobody needs it."""
        if not self.folder.log(EXAMPLES).exists() or time.monotonic() < self._next_ended:
            return False  # of one process, the joiner is part of the checkpoint
        self._next_ended = time.monotonic() + ENDED_S
        with open_log(self.config, self.folder, EXAMPLES) as examples:
            if not JoinProgress.from_bytes(examples.state("joiner/progress")).ended:
                return False
            with examples.transaction() as write:
                write.drop_state("joiner/state")
        return True

    def _passed(self, number: int, marks: Mapping[str, int]) -> bool:
        """Return whether all staged changes that may hold the rows are behind the publisher."""
        if self._record(f"erased-{number}", marks[TOLD]) is None:
            return False
        return read_standing(self.publisher.changes.log).following > marks[LEARNED]

    def _finish(self, book: ErasureBook, users: UserColumns, ready: Mapping[int, str]) -> bool:
        """Rewrite for all erasures that are ready, scan, and finish those of which nothing is left."""
        now = time.monotonic()
        due = {number: name for number, name in ready.items() if now >= self._again.get(number, 0.0)}
        if not due:
            return False
        for number in due:
            tries = self._tries[number] = self._tries.get(number, 0) + 1
            self._again[number] = now + min(AGAIN_S * 2 ** min(tries - 1, 20), LONGEST_S)
        names = sorted(set(due.values()))
        if not self._rewrite(users, names, whole=max(self._tries[number] for number in due) > 1):
            return False
        scans, finished = self._look(users, names), 0
        self.left_in = []
        for number, name in due.items():
            left = [trace.path for trace in scans[name].traces] + scans[name].unreadable
            if left:
                self.left_in += left
                _log.warning("erasure %d: %d traces or unreadable files are left, the first one in %s; rewriting again",
                             number, len(left), left[0])  # fmt: skip
                continue
            book.finish(number)
            finished += 1
            _log.info("erasure %d is finished: %d files searched, no trace", number, scans[name].files)
        return finished > 0

    def _rewrite(self, users: UserColumns, names: Sequence[str], *, whole: bool) -> bool:
        """Take users out of everything durable; returns whether all of it could be done now."""
        ids = ids_of(users, names)
        clean = self._rewrite_logs(users, names, ids, whole=whole) if self.folder.log(EXAMPLES).exists() else True
        scrub_versions(self.publisher, ids, erased_in=self._removed_in)
        for mirror in self.mirrors:
            self._scrub_copy(mirror, ids)
        return clean & self.publisher.changes.log.purge(whole=whole)

    def _rewrite_logs(
        self, users: UserColumns, names: Sequence[str], ids: dict[str, list[int]], *, whole: bool
    ) -> bool:  # fmt: skip
        with open_log(self.config, self.folder, EXAMPLES) as examples:
            erase_rows(examples, EXAMPLES, users, names)
            clean = examples.purge(whole=whole)
        others = needed_from(self.folder, self.config.logs.forget_after_s)
        with open_log(self.config, self.folder, EVENTS) as events:
            # other readers may have to repeat what they did with the entries that they have not passed for good
            erase_rows(events, EVENTS, users, names, end=others)
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

    def _look(self, users: UserColumns, names: Sequence[str]) -> dict[str, Scan]:
        scans = find_all_traces(self.folder.root, names, users)
        # the book forgets names last; what a played log needs to go on belongs to whoever plays it
        own = (str(self.folder.erasures), str(self.folder.feed))
        for scan in scans.values():
            scan.traces = [trace for trace in scan.traces if not trace.path.startswith(own)]
        return scans


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
