"""Durable lines for every action of an administrator: one before it is done, one when it is known how it ended.

A line is a JSON object, and says the hash of the line before: nothing can be taken out or changed without a trace.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import CorruptSnapshot, StoreError

FILE = "audit.jsonl"
START = "0" * 64
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Action:
    """An action that is under way.

    Attributes:
        number: What its two lines have in common.
        who: The token's name, or `command line`.
        what: What is done, as `DELETE /v1/users/{id}`; never what a user may be known by.
    """

    number: str
    who: str
    what: str


class AuditLog:
    """Lines of a file, each synced to the disk before the call returns.

    Several processes may write to one file. A line that a crash cut short is left as it is; the next one begins on a
    line of its own.

    Args:
        path: The file; made with its folder when something is written.

    Thread-safety: may be used from several threads and processes.

    Example:
        >>> import tempfile
        >>> audit = AuditLog(Path(tempfile.mkdtemp()) / "audit.jsonl")
        >>> action = audit.begin("ops", "POST /v1/versions/rollback", {"to": 12})
        >>> audit.end(action, "200")
        >>> [line["state"] for line in audit.lines()]
        ['begun', '200']
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()

    def begin(self, who: str, what: str, details: Mapping[str, object] | None = None) -> Action:
        """Write that an action is about to be done.

        Raises:
            StoreError: If that cannot be made durable; then the action must not be done.
        """
        action = Action(uuid.uuid4().hex, who, what)
        self._write(action, "begun", details or {})
        return action

    def end(self, action: Action, state: str, details: Mapping[str, object] | None = None) -> None:
        """Write how an action ended.

        Raises:
            StoreError: If that cannot be made durable.
        """
        self._write(action, state, details or {})

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines, oldest first; what a crash cut short is left out."""
        for line, content in self._parsed():
            if content is not None and line:
                yield content

    def check(self) -> int:
        """Return how many lines there are, if each says the hash of the one before.

        Raises:
            CorruptSnapshot: If a line was changed or taken out.
        """
        before, count = START, 0
        for number, (line, content) in enumerate(self._parsed(), start=1):
            if content is not None:
                if content.get("after") != before:
                    raise CorruptSnapshot(f"Audit file {self.path}, line {number}", got="another line before it than "
                                          "it was written after", expected="every line as it was written")  # fmt: skip
                count += 1
            before = hashlib.sha256(line).hexdigest()
        return count

    def _parsed(self) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        for line in content.split(b"\n")[:-1]:
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            yield line, found if isinstance(found, dict) else None

    def _write(self, action: Action, state: str, details: Mapping[str, object]) -> None:
        try:
            with self._lock:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0) as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    before, torn = _last(file.fileno())
                    content = {"time": time.time(), "action": action.number, "who": action.who, "what": action.what,
                               "state": state, "details": dict(details), "after": before}  # fmt: skip
                    line = json.dumps(content, default=str).encode() + b"\n"
                    os.write(file.fileno(), b"\n" + line if torn else line)
                    os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"Audit file {self.path}", got=str(error), expected="a file that can be written",
                             do="Nothing was done. Make room, or give the server the right to write there.",
                             ) from error  # fmt: skip


def _last(file: int) -> tuple[str, bool]:
    """Return the hash of the last line, and whether it was cut short."""
    size = os.fstat(file).st_size
    if not size:
        return START, False
    held, tail = min(_TAIL_BYTES, size), b""
    while True:
        tail = os.pread(file, held, size - held)
        body = tail[:-1] if tail.endswith(b"\n") else tail
        if b"\n" in body or held == size:
            break
        held = min(held * 2, size)
    torn = not tail.endswith(b"\n")
    return hashlib.sha256(body.rpartition(b"\n")[2]).hexdigest(), torn
