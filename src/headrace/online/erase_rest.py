"""Erasing from a run that is at rest: what the processes would do, done here one after another."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.subjects import UserColumns
from headrace.errors import ConfigError
from headrace.online.changes import acknowledged_in
from headrace.online.config import OnlineConfig
from headrace.online.erase import JOINED, LEARNED, erase_checkpoint, open_book, user_columns
from headrace.online.eraser import Eraser
from headrace.online.layout import CHANGES, EXAMPLES, RunFolder
from headrace.online.logs import open_log
from headrace.online.roles import run_joiner, run_learner, run_publisher
from headrace.protocols import Joiner
from headrace.publish import LogPublisher, Sluice, publishing
from headrace.types import Batch, Events, State

ROUNDS = 4
"""Joiner, learner and publisher wait for each other at most so often."""


def finish_erasures(config: OnlineConfig, folder: RunFolder) -> list[Erasure]:
    """Bring all erasures of a run at rest to their end, and return those that are not finished then.

    Joiner, learner and publisher are run in this process, as far as the erasures need them; what they join, learn and
    publish on the way is what they would have anyway.

    Args:
        config: The run.
        folder: Its folder.

    Raises:
        ConfigError: If one of the run's processes is alive, or users of this run cannot be erased.
    """
    user_columns(config)
    for role in ("joiner", "learner", "publisher"):
        pid = folder.read_status(role).get("pid")
        if isinstance(pid, int) and pid != os.getpid() and not folder.read_status(role).get("final") and _alive(pid):
            raise ConfigError(f"Run folder {folder.root}", got=f"a {role} at work, process {pid}",
                              expected="a run at rest", do="Its processes erase by themselves; just wait.")  # fmt: skip
    if not folder.log(EXAMPLES).exists():
        with open_log(config, folder, CHANGES) as changes, publishing(changes) as alone:
            if not alone:
                raise ConfigError(f"Run folder {folder.root}", got="a run at work", expected="a run at rest",
                                  do="It erases when it ends; just wait.")  # fmt: skip
            publisher = LogPublisher(
                changes, folder.snapshots, snapshot_every=config.snapshot_every, keep=config.retention.snapshots,
                retention=config.retention, acknowledgements=acknowledged_in(config, folder),
            )  # fmt: skip
            erase_embedded(config, folder, Sluice(publisher))
        return open_book(folder).unfinished()
    book = open_book(folder)

    def without(part: str, after: str = "") -> Callable[[], bool]:
        """Return a function that tells whether nobody waits for a part."""
        return lambda: not [e for e in book.unfinished() if part not in e.marks and (not after or after in e.marks)]

    for _ in range(ROUNDS):
        if not book.unfinished():
            break
        run_joiner(config, folder, without(JOINED))
        run_publisher(config, folder, without(JOINED))  # of a stream that has ended, the publisher's part tells
        run_learner(config, folder, without(LEARNED, JOINED))
        run_publisher(config, folder, lambda: not book.unfinished())
    return book.unfinished()


def erase_embedded(config: OnlineConfig, folder: RunFolder, sluice: Sluice) -> int:
    """Erase from a run of one process, between two runs of its loop; returns how many users were.

    Nothing is done as long as the loop has to repeat something that it published: it erases when it has.

    Args:
        config: The run.
        folder: Its folder.
        sluice: Who publishes in this process.
    """
    if not folder.erasures.exists():
        return 0
    eraser, users = Eraser(config, folder, sluice.publisher), user_columns(config)
    book = open_book(folder)
    waiting = [item for item in book.unfinished() if LEARNED not in item.marks]
    names = [item.name for item in waiting if item.name is not None]
    eraser.step()
    sluice.obey()
    last = sluice.last().number
    if names and erase_checkpoint(folder, users, names, last) is not None:
        for item in waiting:
            book.mark(item.number, JOINED, 0)
            book.mark(item.number, LEARNED, last)
    while eraser.step():
        sluice.obey()
    return len(names)


def screened(joiner: Joiner, config: OnlineConfig, folder: RunFolder) -> Joiner:
    """Return a joiner that takes no rows of erased users, for a run of one process; itself where nobody ever was."""
    return Screened(joiner, open_book(folder), user_columns(config)) if folder.erasures.exists() else joiner


class Screened:
    """A joiner that rows of erased users do not reach, from whatever log they are played again.

    Args:
        inner: The joiner.
        book: Who is erased when this is made.
        users: The columns that name users.
    """

    def __init__(self, inner: Joiner, book: ErasureBook, users: UserColumns) -> None:
        self.inner, self.users, self._veil, self._blocked = inner, users, book.veil, book.blocked()

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        """Pass on what may be joined."""
        gone = self.users.named(requests.batch, self._blocked, self._veil)
        if gone.any():
            kept = np.flatnonzero(~gone)
            requests = requests.take(kept)
            predictions = None if predictions is None else predictions.take(kept)
        return self.inner.add(requests, predictions, answers)

    def flush(self) -> Batch | None:
        """Pass on."""
        return self.inner.flush()

    def state(self) -> State:
        """Return the inner state."""
        return self.inner.state()

    def restore(self, state: State) -> None:
        """Continue."""
        self.inner.restore(state)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
