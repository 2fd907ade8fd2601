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
import time
from collections.abc import Sequence

from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.join_erasures import JoinErasures
from headrace.data.rewrite import erase_rows
from headrace.data.subjects import USER_COLUMNS, UserColumns
from headrace.errors import ConfigError
from headrace.learn import ManifestCheckpoint
from headrace.learn.erasure import erased_state
from headrace.online.config import OnlineConfig
from headrace.online.layout import EXAMPLES, STAGED, RunFolder
from headrace.online.logs import open_log
from headrace.publish.change_log import ChangeLog

_log = logging.getLogger(__name__)
ORDERED, REMOVED, JOINED, LEARNED, TOLD = "ordered", "removed", "joiner", "learner", "told"
STEP_S = 0.25


def open_book(folder: RunFolder) -> ErasureBook:
    """Open a run's book of erasures; made if absent."""
    return ErasureBook(folder.erasures)


def user_columns(config: OnlineConfig) -> UserColumns:
    """Return the columns that name a user, and their tables.

    Raises:
        ConfigError: If users of this run cannot be erased, and why.
    """
    return UserColumns.of(config.schema, config.erase.columns)


def erasable(config: OnlineConfig) -> UserColumns | None:
    """Return the user columns, or None where there are none and nobody asked for any."""
    try:
        return user_columns(config)
    except ConfigError as error:
        if config.erase.columns:
            raise
        if set(USER_COLUMNS) & set(config.schema.columns):  # a recipe that nobody thought about, rather than no users
            _log.warning("users of run '%s' cannot be erased: %s", config.name, error)
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
