"""The durable log of a work queue: records appended to one SQLite file, many of them in one transaction."""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from headrace.config import known_name
from headrace.errors import CorruptSnapshot, LeaseLost, StoreError

Durability: TypeAlias = Literal["power", "process"]
SYNCHRONOUS = {"power": "FULL", "process": "NORMAL"}
APPLICATION, FORMAT = 0x68725131, 1
REMEMBERED = 65_536
"""Records of steps that outlive a snapshot, so that a repeated commit gets its answer."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, step INTEGER, body TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS snapshot (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, body TEXT NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS owner (id INTEGER PRIMARY KEY, number INTEGER NOT NULL);
"""


class Replay(NamedTuple):
    """What a log holds: a snapshot (None: none yet), the records after it, and the remembered steps before it."""

    snapshot: dict[str, Any] | None
    records: list[tuple[int | None, str]]
    earlier_steps: list[tuple[int, str]]


class LedgerFile:
    """An append-only log with snapshots, owned by the process that opened it last.

    `append` queues a record, `flush` writes everything queued in one transaction: threads that flush at the same time
    share it. Opening the file takes it over: whoever opened it before is refused from then on (a head that was frozen
    and wakes up cannot write beside its successor).

    Args:
        path: The file; made with its folder if absent.
        durability: "power" syncs the disk at every flush; "process" survives the death of any process, and a power
            cut may take the newest records (never half of one).

    Thread-safety: every method may be called from any thread; the order of `append` is the caller's.

    Raises:
        StoreError: If the file cannot be used, or the disk is full; nothing of a failed flush is kept.
        CorruptSnapshot: If it is no log of a queue, or damaged.
    """

    def __init__(self, path: Path | str, durability: Durability = "power") -> None:
        known_name("durability", durability, list(SYNCHRONOUS))
        self.path = Path(path)
        self._writing, self._queued = threading.Lock(), deque[tuple[int, int | None, str, bool | None]]()
        self._flushed, self._broken = 0, False
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._connection.execute(f"PRAGMA synchronous={SYNCHRONOUS[durability]}")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._prepare()

    def _prepare(self) -> None:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            mine, version = run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0]
            tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables and (mine, version) != (APPLICATION, FORMAT):
                raise CorruptSnapshot(
                    f"File {self.path}", got=f"a database of kind {mine}, format {version}",
                    expected=f"the log of a work queue, format {FORMAT}",
                )  # fmt: skip
            for statement in SCHEMA.split(";"):
                run(statement)
            run(f"PRAGMA application_id={APPLICATION}")
            run(f"PRAGMA user_version={FORMAT}")
            run("INSERT INTO owner VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET number = number + 1")
            self._owner = run("SELECT number FROM owner").fetchone()[0]
            run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def replay(self) -> Replay:
        """Read everything; what was queued and not flushed is forgotten."""
        with self._writing, self._translated():
            self._queued.clear()
            run = self._connection.execute
            found = run("SELECT seq, body, crc FROM snapshot WHERE id = 1").fetchone()
            seq, snapshot = (0, None) if found is None else (found[0], json.loads(self._whole(found[1], found[2])))
            rows = run("SELECT seq, step, body, crc FROM log ORDER BY seq").fetchall()
            records, steps = list[tuple[int | None, str]](), list[tuple[int, str]]()
            for number, step, body, crc in rows:
                self._whole(body, crc)
                if number > seq:
                    records.append((step, body))
                elif step is not None:
                    steps.append((step, body))
            self._flushed, self._broken = max(seq, rows[-1][0] if rows else 0), False
        return Replay(snapshot, records, steps)

    @property
    def end(self) -> int:
        """The number of the newest durable record."""
        return self._flushed

    def append(self, seq: int, body: str, step: int | None = None) -> None:
        """Queue record number `seq`."""
        self._queued.append((seq, step, body, None))

    def append_snapshot(self, seq: int, body: str, *, forget: bool) -> None:
        """Queue a snapshot that stands for all records up to `seq`; `forget` drops the remembered steps as well."""
        self._queued.append((seq, None, body, forget))

    def flush(self, seq: int) -> None:
        """Make everything up to record `seq` durable; returns at once if another thread has done it.

        Raises:
            LeaseLost: If another process owns the log now.
            StoreError: If it could not be written; what was queued is forgotten.
        """
        if self._flushed >= seq:
            return
        with self._writing, self._translated():
            if self._broken:  # an earlier batch is missing: nothing may be written behind it
                raise OSError("an earlier write failed")
            batch = []
            while self._queued:
                batch.append(self._queued.popleft())
            if batch:
                self._broken = True
                self._write(batch)
                self._broken, self._flushed = False, batch[-1][0]

    def _write(self, batch: list[tuple[int, int | None, str, bool | None]]) -> None:
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            owner = run("SELECT number FROM owner").fetchone()[0]
            if owner != self._owner:
                raise LeaseLost(
                    f"Log {self.path}", got=f"owner number {self._owner}", expected=f"{owner}, the newest",
                    do="Another process has taken the queue over; this one must end.",
                )  # fmt: skip
            for seq, step, body, forget in batch:
                crc = zlib.crc32(body.encode())
                if forget is None:
                    run("INSERT INTO log VALUES (?, ?, ?, ?)", (seq, step, body, crc))
                else:
                    run("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?)", (seq, body, crc))
                    oldest = seq if forget else seq - REMEMBERED
                    run("DELETE FROM log WHERE seq <= ? AND (step IS NULL OR seq <= ?)", (seq, oldest))
            run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _whole(self, body: str, crc: int) -> str:
        if zlib.crc32(body.encode()) != crc:
            raise CorruptSnapshot(f"Log {self.path}", got="a wrong checksum", expected="an undamaged file")
        return body

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, (sqlite3.OperationalError, sqlite3.IntegrityError)
            )
            kind = CorruptSnapshot if damaged else StoreError
            raise kind(
                f"Log {self.path}", got=str(error), expected="a log that can be read and written",
                do="Look at the free space and the rights of its folder.",
            ) from error  # fmt: skip

    def close(self) -> None:
        """Close the file; what was queued and not flushed is lost."""
        with self._writing:
            self._connection.close()
