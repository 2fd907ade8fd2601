"""The SQLite file below the embedded log: schema, connections, and errors in plain words."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from headrace.errors import ConfigError, CorruptSnapshot, StoreError

Durability: TypeAlias = Literal["power", "process"]
FORMAT = 1
PAGE_BYTES = 8192
WAL_LIMIT_BYTES = 64 << 20
SYNCHRONOUS = {"power": "FULL", "process": "NORMAL"}

SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL, first_row INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, next_row INTEGER NOT NULL, closed INTEGER NOT NULL,
    UNIQUE (name, partition));
CREATE TABLE IF NOT EXISTS entries (
    topic INTEGER NOT NULL, "offset" INTEGER NOT NULL, first_row INTEGER NOT NULL, rows INTEGER NOT NULL,
    accepted_time INTEGER NOT NULL, crc INTEGER NOT NULL, once TEXT, payload BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS entries_by_offset ON entries (topic, "offset");
CREATE INDEX IF NOT EXISTS entries_by_row ON entries (topic, first_row, "offset");
CREATE UNIQUE INDEX IF NOT EXISTS entries_once ON entries (topic, once) WHERE once IS NOT NULL;
CREATE TABLE IF NOT EXISTS consumers (
    consumer TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS states (
    name TEXT NOT NULL, part INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, part));
"""


class LogDatabase:
    """Two connections to one file, a writing and a reading one, each behind its own lock.

    Thread-safety: every method may be called from any thread. A process forked off opens its own connections.
    """

    def __init__(self, path: Path, durability: Durability, busy_timeout_s: float) -> None:
        if durability not in SYNCHRONOUS:
            raise ConfigError("durability", got=repr(durability), expected="'power' or 'process'")
        self.path, self._synchronous, self._timeout_s = path, SYNCHRONOUS[durability], busy_timeout_s
        self._abandoned: list[sqlite3.Connection] = []
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._write_lock, self._read_lock = threading.RLock(), threading.Lock()
        with translated(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._prepare(self._writer)
            self._reader = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
        connection.execute("PRAGMA secure_delete=ON")  # what is dropped is overwritten, so that erasing is erasing
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        mode = _write_ahead(connection, self._timeout_s)
        if mode != "wal":
            raise StoreError(
                f"Log {self.path}", got=f"journal mode '{mode}'", expected="'wal'",
                do="Put the log on a local disk; write-ahead logging does not work on network file systems.",
            )  # fmt: skip
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise StoreError(
                    f"Log {self.path}", got=f"format {found}", expected=f"format {FORMAT}",
                    do="Use the version of Headrace that wrote it.",
                )  # fmt: skip
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def _own(self) -> None:
        # A connection must not be used, nor closed, on the other side of a fork.
        if self._pid != os.getpid():
            self._abandoned += [self._writer, self._reader]
            self._open()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the one write transaction: committed at the end, rolled back whole on any exception."""
        self._own()
        with self._write_lock, translated(self.path):
            if self._writer.in_transaction:
                raise StoreError(
                    f"Log {self.path}", got="a transaction inside a transaction", expected="one at a time per thread",
                    do="Call the methods of the open transaction instead of those of the log.",
                )  # fmt: skip
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                _roll_back(self._writer)
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold a read transaction: everything read inside is of one moment, and writers are not held up."""
        self._own()
        with self._read_lock, translated(self.path):
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                _roll_back(self._reader)

    def reclaim(self) -> None:
        """Give the pages that a trim freed back to the file system."""
        self._own()
        with self._write_lock, translated(self.path):
            self._writer.executescript("PRAGMA incremental_vacuum")  # execute() would free one page only

    def purge(self, *, whole: bool = False) -> bool:
        """Put all of the write-ahead log into the file and empty it; with `whole` also write the file anew.

        Returns False if a reader of an earlier moment was in the way.
        """
        self._own()
        with self._write_lock, translated(self.path):
            if whole:
                self._writer.execute("VACUUM")
            self._writer.executescript("PRAGMA incremental_vacuum")
            busy, _, _ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def limit_pages(self, pages: int) -> None:
        """Cap the file at so many pages: appends beyond it fail as on a full disk (a quota, and for tests)."""
        self._own()
        with self._write_lock, translated(self.path):
            self._writer.execute(f"PRAGMA max_page_count={int(pages)}").fetchall()

    def pages_of(self, size: int) -> int:
        """Return how many whole pages fit into `size` bytes."""
        return max(int(size) // PAGE_BYTES, 1)

    def close(self) -> None:
        """Close both connections; the object cannot be used afterwards."""
        if self._pid == os.getpid():
            self._reader.close()
            self._writer.close()


def _write_ahead(connection: sqlite3.Connection, timeout_s: float) -> str:
    # SQLite does not wait for others while it switches the journal mode of a file that two processes create at once.
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the next step for the reader."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", None) or ""
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise CorruptSnapshot(
                f"Log {path}", got=str(error), expected="an SQLite database written by Headrace",
                do="Restore it from a copy; a log file and its -wal file must be copied together.",
            ) from error  # fmt: skip
        raise StoreError(f"Log {path}", got=str(error), do=_advice(code)) from error
    except OSError as error:
        raise StoreError(f"Log {path}", got=str(error), do="Check that the folder exists and is writable.") from error


def _advice(code: str) -> str:
    if code.startswith("SQLITE_FULL"):
        return "The disk (or the log's page limit) is full: nothing of this write was kept. Free space or trim a topic."
    if code.startswith("SQLITE_BUSY"):
        return "Another process held the log for too long. Look for one that is stuck inside a transaction."
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return "Check that the file and its folder exist and are writable."
    if code.startswith("SQLITE_IOERR"):
        return "The disk failed or is full: nothing of this write was kept."
    if code.startswith("SQLITE_TOOBIG"):
        return "One entry may hold at most 1 GB. Append smaller batches."
    return "Nothing of this write was kept."
