"""A copy of a run's folder, made while the run goes on, from which the run can be continued.

Every log is read from a state that it was in at one instant, and the instants are a few milliseconds apart, downstream
first: whoever reads a log is copied before the log. So the copy is a run whose processes all died then, and what they
had not yet handed on is done again, as after any other death.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.config import require
from headrace.data import EmbeddedLog
from headrace.data.join_log import retained_from
from headrace.errors import StoreError
from headrace.learn.checkpoint import CURRENT, MANIFEST
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED, RunFolder
from headrace.publish.change_log import ChangeLog
from headrace.publish.snapshots import Snapshots
from headrace.publish.standing import Standing, standing_name

LOGS = (CHANGES, STAGED, EXAMPLES, EVENTS)
"""Downstream first."""
LEFT_OUT = {"status", "acknowledgements", "spill", "checkpoint", "snapshots"}
"""Besides what is copied in a way of its own: what is made again, or says who is alive now."""
TRIES = 5


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy holds.

    Attributes:
        folder: Where it lies; a run folder like any other.
        version: The newest published version in it; -1: none.
        events: Rows of events that were ever logged.
        size_bytes: Bytes of all files.
        seconds: How long the copying took.
    """

    folder: Path
    version: int
    events: int
    size_bytes: int
    seconds: float


def back_up(run: RunFolder, target: Path) -> Backup:
    """Copy a run's folder while its processes go on; the copy is there whole, or not at all.

    To restore it, stop every process of the run, put the copy in the folder's place, and start them all again, servers
    as well: what they hold may be newer than what was restored.

    Args:
        run: The run.
        target: The copy; must not be there yet. On another disk, or it is no backup.

    Raises:
        ConfigError: If there is no run, or something is at `target` already.
        StoreError: If it cannot be written, or a file is damaged, or the run trims its logs faster than they are read.

    Cost: reads every file once. Logs grow meanwhile as they always do; nobody waits.
    """
    require(run.log(EVENTS).exists() or run.log(CHANGES).exists(), "Run folder", got=str(run.root), expected="a run")
    require(not target.exists(), "Backup", got=f"{target}, which exists", expected="a place where nothing is")
    started, unfinished = time.monotonic(), target.with_name(f".{target.name}.unfinished")
    try:
        for again in reversed(range(TRIES)):
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                _copy(run, RunFolder(unfinished))
                break
            except (
                FileNotFoundError,
                shutil.Error,
                _Moved,
            ) as error:  # something was trimmed or replaced while it was copied
                if not again:
                    raise StoreError(f"Backup of {run.root}", got=str(error), expected="a folder that holds still for "
                                     "as long as copying takes", do="Keep logs and snapshots longer.",
                                     ) from error  # fmt: skip
        _sync(unfinished)
        os.replace(unfinished, target)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"Backup {target}", got=str(error), expected="a folder that can be written") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    made = RunFolder(target)
    version, events = -1, 0
    with _opened(made, CHANGES) as changes, _opened(made, EVENTS) as log:
        version = ChangeLog(changes).last().number if changes is not None else -1
        events = log.rows(EVENTS) if log is not None else 0
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Backup(target, version, events, size, time.monotonic() - started)


class _Moved(Exception):
    """The copies do not fit together."""


def _copy(run: RunFolder, copy: RunFolder) -> None:
    copy.root.mkdir(mode=0o700, parents=True)
    if run.checkpoint.exists():  # before the staged log, which must have all that the learner will not repeat
        shutil.copytree(run.checkpoint, copy.checkpoint)
    pinned = []
    try:
        for name in LOGS:
            if run.log(name).exists():
                pinned.append((name, _pinned(run.log(name))))
        for name, connection in pinned:
            _copy_log(connection, copy.log(name))
    finally:
        for _, connection in pinned:
            connection.close()
    if run.snapshots.exists():
        shutil.copytree(run.snapshots, copy.snapshots, ignore=shutil.ignore_patterns("*.tmp*", ".*"))
    for path in sorted(run.root.iterdir()):  # erasures last of all: a copy must know of everybody whom the logs forgot
        name = path.name
        if path.is_dir() and name not in LEFT_OUT:
            shutil.copytree(path, copy.root / name)
        elif path.suffix == ".db" and path.stem not in LOGS:
            with closing(_pinned(path)) as connection:
                _copy_log(connection, copy.root / name)
        elif path.is_file() and not name.endswith((".db", ".db-wal", ".db-shm", ".lock", ".tmp")):
            shutil.copy2(path, copy.root / name)
    _check(copy)


def _pinned(path: Path) -> sqlite3.Connection:
    """Open a log and hold on to the state it is in now; readers hold nobody up."""
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 30000")
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def _copy_log(connection: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
        (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreError(f"Log {target.name}", got=found, expected="a whole file", do="Take an older copy.")
        copy.execute("PRAGMA journal_mode = WAL")


@contextmanager
def _opened(copy: RunFolder, name: str) -> Iterator[EmbeddedLog | None]:
    if not copy.log(name).exists():
        yield None
        return
    with EmbeddedLog(copy.log(name), durability="process") as log:
        yield log


def _check(copy: RunFolder) -> None:
    """Say so if one of the files needs what another one had dropped already, or did not have yet."""
    with (_opened(copy, CHANGES) as changes, _opened(copy, STAGED) as staged, _opened(copy, EXAMPLES) as examples,
          _opened(copy, EVENTS) as events):  # fmt: skip
        if changes is not None:
            _check_versions(ChangeLog(changes), Snapshots(copy.snapshots), staged)
        if examples is not None and events is not None and retained_from(examples) < events.topic(EVENTS).first_offset:
            raise _Moved("events that the joiner may read again were trimmed")
    current = copy.checkpoint / CURRENT
    if current.exists() and not (copy.checkpoint / current.read_text().strip() / MANIFEST).exists():
        raise _Moved("a checkpoint was made meanwhile")


def _check_versions(changes: ChangeLog, snapshots: Snapshots, staged: EmbeddedLog | None) -> None:
    last = changes.last().number
    for number in snapshots.numbers():
        if number > last:  # written after the log was read
            (snapshots.folder / f"{number:012d}.snapshot").unlink()
    if changes.first() > 0 and not any(number >= changes.first() - 1 for number in snapshots.numbers()):
        raise _Moved("the snapshot before the oldest change was replaced")
    raw = changes.log.state(standing_name(changes.topic))
    following = last + 1 if raw is None else Standing.from_bytes(raw).following
    if staged is not None and ChangeLog(staged, STAGED).first() > following:
        raise _Moved("staged changes were published and trimmed")


def _sync(folder: Path) -> None:
    """Make all of it durable before it gets its name."""
    for path in [folder, *folder.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
