"""The book of erasures: who is to be forgotten, how far that has come, and who must not come back.

While an erasure is under way the book holds the user's name, because logs and states have to be searched for it. When
it is finished the name is overwritten, and what stays is a keyed hash: enough to recognise the user in rows that are
sent or replayed later, and useless to whoever has no key.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection

from headrace.data.log_database import LogDatabase
from headrace.data.subjects import Veil
from headrace.errors import ConfigError, DataError

KEY_BYTES = 32
MAX_NAME_BYTES = 1024
TABLES = """
CREATE TABLE IF NOT EXISTS erasures (
    number INTEGER PRIMARY KEY AUTOINCREMENT, subject BLOB NOT NULL, name TEXT, requested INTEGER NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0, consented INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS erasures_by_subject ON erasures (subject);
CREATE TABLE IF NOT EXISTS erasure_marks (
    number INTEGER NOT NULL, part TEXT NOT NULL, value INTEGER NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (number, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erasure_facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID
"""
_COLUMNS = "number, subject, name, requested, finished, consented"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure.

    Attributes:
        number: Its number, from 1 on.
        subject: Keyed hash of the user's name.
        name: The name while the erasure is under way; None once it is finished.
        requested, finished, consented: Wall-clock µs; 0: not yet.
        marks: How far it has come: part to a value of that part's own.
    """

    number: int
    subject: bytes
    name: str | None
    requested: int
    finished: int = 0
    consented: int = 0
    marks: Mapping[str, int] = field(default_factory=dict)


class ErasureBook:
    """Erasures in one SQLite file, with the key of its hashes in a file beside it that only its owner may read.

    Any number of processes may use it at once. What a method returned is durable, whatever the run's logs survive.

    Args:
        path: The file; made with its key if absent. The key is `<path without suffix>.key`.

    Raises:
        ConfigError: If the key is not the one that the book was begun with.

    Thread-safety: any thread.

    Example:
        >>> import tempfile
        >>> book = ErasureBook(Path(tempfile.mkdtemp()) / "erasures.db")
        >>> one = book.request("user-17")
        >>> book.request("user-17").number == one.number, [item.name for item in book.unfinished()]
        (True, ['user-17'])
        >>> book.finish(one.number)
        >>> book.unfinished(), book.blocked() == {book.subject("user-17")}
        ([], True)
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.veil = Veil(_key(self.path.with_suffix(".key")))
        self._database = LogDatabase(self.path, "power", 30.0)
        with self._database.writing() as connection:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO erasure_facts VALUES ('generation', 0)")
            connection.execute("INSERT OR IGNORE INTO erasure_facts VALUES ('check', ?)", (self.subject(""),))
            known = connection.execute("SELECT value FROM erasure_facts WHERE name = 'check'").fetchone()[0]
        if known != self.subject(""):
            raise ConfigError(f"Key {self.path.with_suffix('.key')}", got="another key", expected="this book's own",
                              do="Restore it from a copy: without it the erased users cannot be told.")  # fmt: skip

    def subject(self, name: str) -> bytes:
        """Return the keyed hash of a name."""
        return self.veil.hash(name)

    def request(self, name: str, *, again: bool = False) -> Erasure:
        """Ask for an erasure; one that is under way, or finished and not lifted by consent, is returned as it is.

        Args:
            name: The user's id.
            again: Begin a new one also where one is finished: after files were restored from a backup.

        Raises:
            DataError: If the name is empty or overlong.
        """
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise DataError("User id", got=f"{len(name.encode())} bytes", expected=f"1 to {MAX_NAME_BYTES}")
        with self._database.writing() as connection:
            found = self._newest(connection, name)
            if found is not None and not found.consented and not (again and found.finished):
                return found
            made = connection.execute(
                "INSERT INTO erasures (subject, name, requested) VALUES (?, ?, ?)", (self.subject(name), name, _now())
            )
            _touch(connection)
            return Erasure(int(made.lastrowid or 0), self.subject(name), name, _now())

    def consent(self, name: str) -> Erasure | None:
        """Take a user as a new one from now on; None if nothing stands in the way.

        Raises:
            ConfigError: If the user's erasure is not finished yet.
        """
        with self._database.writing() as connection:
            found = self._newest(connection, name)
            if found is None or found.consented:
                return None
            if not found.finished:
                raise ConfigError(f"Erasure {found.number}", got="an erasure under way", expected="a finished one",
                                  do="Ask again when it is finished.")  # fmt: skip
            lift = "UPDATE erasures SET consented = ? WHERE subject = ? AND consented = 0"
            connection.execute(lift, (_now(), found.subject))
            _touch(connection)
            return _erasure(connection, found.number)

    def find(self, name: str) -> Erasure | None:
        """Return a user's newest erasure, or None."""
        with self._database.reading() as connection:
            return self._newest(connection, name)

    def erasure(self, number: int) -> Erasure | None:
        """Return one erasure, or None."""
        with self._database.reading() as connection:
            return _erasure(connection, number)

    def unfinished(self) -> list[Erasure]:
        """Return the erasures under way, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT number FROM erasures WHERE finished = 0 ORDER BY number").fetchall()
            found = [_erasure(connection, number) for (number,) in rows]
        return [item for item in found if item is not None]

    def blocked(self) -> frozenset[bytes]:
        """Return the keyed hashes of all users who were erased and have not come back by consent."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT DISTINCT subject FROM erasures WHERE consented = 0").fetchall()
        return frozenset(bytes(subject) for (subject,) in rows)

    def lifted(self) -> list[Erasure]:
        """Return the erasures that were lifted by consent, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT number FROM erasures WHERE consented > 0 ORDER BY number").fetchall()
            found = [_erasure(connection, number) for (number,) in rows]
        return [item for item in found if item is not None]

    def subjects(self, numbers: Collection[int]) -> frozenset[bytes]:
        """Return the keyed hashes that belong to numbers of erasures."""
        with self._database.reading() as connection:
            found = [_erasure(connection, number) for number in numbers]
        return frozenset(item.subject for item in found if item is not None)

    def mark(self, number: int, part: str, value: int) -> None:
        """Record that a part of an erasure is done."""
        with self._database.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO erasure_marks VALUES (?, ?, ?, ?)", (number, part, value, _now())
            )
            _touch(connection)

    def finish(self, number: int) -> None:
        """Record that no trace is left, and overwrite the name."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE erasures SET finished = ?, name = NULL WHERE number = ? AND finished = 0", (_now(), number)
            )
            _touch(connection)
        self._database.purge()

    def generation(self) -> int:
        """Return a number that grows with every change of the book. Cost: one small query."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT value FROM erasure_facts WHERE name = 'generation'").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _newest(self, connection: Connection, name: str) -> Erasure | None:
        row = connection.execute(
            "SELECT number FROM erasures WHERE subject = ? ORDER BY number DESC LIMIT 1", (self.subject(name),)
        ).fetchone()
        return None if row is None else _erasure(connection, int(row[0]))


def _erasure(connection: Connection, number: int) -> Erasure | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM erasures WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    marks = connection.execute("SELECT part, value FROM erasure_marks WHERE number = ?", (number,)).fetchall()
    return Erasure(int(row[0]), bytes(row[1]), row[2], int(row[3]), int(row[4]), int(row[5]), dict(marks))


def _touch(connection: Connection) -> None:
    connection.execute("UPDATE erasure_facts SET value = value + 1 WHERE name = 'generation'")


def _now() -> int:
    return time.time_ns() // 1000


def _key(path: Path) -> bytes:
    """Return the key in a file; the first process that asks makes it."""
    while not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(handle, secrets.token_bytes(KEY_BYTES))
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(part, path)  # fails if another process was first: then its key counts
        except FileExistsError:
            pass
        finally:
            part.unlink()
        _sync(path.parent)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigError(f"Key {path}", got=f"{len(key)} bytes", expected=f"{KEY_BYTES}", do="Restore it from a copy.")
    return key


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
