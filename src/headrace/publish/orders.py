"""Orders to the publisher: durable, carried out one after another, each exactly once, by whoever publishes.

An order is an entry of a topic beside the versions. Whoever gives one (the command line, the server's admin addresses)
may die afterwards; and so may the publisher: the order is marked as done in the transaction that does it.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headrace.config import known_name, require
from headrace.data.log import EmbeddedLog
from headrace.errors import CorruptSnapshot

KINDS = ("rollback", "hold", "release", "erase", "erased")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants of the publisher.

    Attributes:
        kind: `rollback`, `hold`, `release`, `erase` or `erased`.
        name: Unique; the version's record names it.
        to: Of a rollback: the version whose content comes back.
        unchecked: Of a release: what is pending goes out without being judged, this once.
        reason: For people; kept with the hold and in the record.
        tables: Of `erase`: table name to the ids to remove, now and from all that comes. Of `erased`: the same ids,
            which the learner has forgotten.
        through: Of `erased`: the learner's last change that may still put them; what it puts later is a new beginning.
    """

    kind: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    to: int = -1
    unchecked: bool = False
    reason: str = ""
    tables: Mapping[str, Sequence[int]] = field(default_factory=dict)
    through: int = -1

    def __post_init__(self) -> None:
        known_name("order", self.kind, KINDS)
        require(self.kind != "rollback" or self.to >= 0, "to", got=self.to, expected="the number of a version")
        require((self.kind in ("erase", "erased")) == bool(self.tables), "tables", got=sorted(self.tables),
                expected="ids by table, of an erasure alone")  # fmt: skip

    def to_bytes(self) -> bytes:
        """Return the order as JSON."""
        tables = {name: sorted({int(one) for one in ids}) for name, ids in self.tables.items()}
        values = {"kind": self.kind, "name": self.name, "to": self.to, "unchecked": self.unchecked,
                  "reason": self.reason, "tables": tables, "through": self.through}  # fmt: skip
        return json.dumps(values, sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Order:
        """Read what `to_bytes` wrote; CorruptSnapshot if it is something else."""
        try:
            return Order(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise CorruptSnapshot("An order", got=str(error), expected="what this release wrote") from error


def orders_topic(topic: str) -> str:
    """Return the topic of the orders of a versions' topic."""
    return f"{topic}-orders"


def place(
    log: EmbeddedLog, kind: str, *, topic: str = "changes", to: int = -1, unchecked: bool = False, reason: str = "",
    tables: Mapping[str, Sequence[int]] | None = None, through: int = -1,
) -> Order:  # fmt: skip
    """Give an order to whoever publishes into the log; returns it once it is durable.

    It is carried out by the publisher of the run, within milliseconds where one runs, else when one starts.

    Args:
        log: The log of the versions (`changes.db` of a run).
        kind: `rollback`, `hold`, `release`, `erase` or `erased`.
        topic: Topic of the versions.
        to: Of a rollback: the version whose content comes back.
        unchecked: Of a release: without being judged, this once.
        reason: For people.
        tables: Of an erasure: table name to ids.
        through: Of `erased`: see `Order`.

    Raises:
        ConfigError: If the order is none.
    """
    order = Order(kind=kind, to=to, unchecked=unchecked, reason=reason, tables=tables or {},
                  through=through)  # fmt: skip
    log.append_bytes(orders_topic(topic), order.to_bytes())
    return order


@contextmanager
def publishing(log: EmbeddedLog) -> Iterator[bool]:
    """Be the one process that publishes into a log, for the length of the block, if nobody else is.

    Yields whether that is so. The right ends with the process, however it dies.
    """
    path = lock_path(log.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def lock_path(log: Path) -> Path:
    """Return the file that is locked by the one who publishes into a log."""
    return log.with_suffix(".lock")
