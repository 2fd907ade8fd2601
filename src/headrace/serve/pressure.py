"""Back-pressure: rows are refused, with a time to come again, before the disk is full or the learner too far behind."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from headrace.errors import CapacityError

LOOK_S = 0.25


class Pressure:
    """Whether more rows may be taken.

    What is refused was not taken, and says so; what was taken is durable. So nothing is lost whatever falls behind.

    Args:
        folder: Where the event log lies.
        min_free_bytes: Room that is left on its disk for those who empty the log.
        max_backlog_rows: Rows of the event log that may wait to be joined; None: any number, as the disk has room.
        now: A clock in seconds that never goes back.

    Attributes:
        backlog: Returns how many rows wait to be joined, or None if that is not known.
        free_bytes, backlog_rows: What was seen last.
        retry_s: When to come again after a refusal.

    Thread-safety: may be used from several threads.
    """

    def __init__(
        self, folder: Path, *, min_free_bytes: int, max_backlog_rows: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.folder, self.min_free_bytes, self.max_backlog_rows = folder, min_free_bytes, max_backlog_rows
        self.backlog: Callable[[], int | None] | None = None
        self._now = now
        self._looked = -math.inf
        self._error: CapacityError | None = None
        self.free_bytes: int | None = None
        self.backlog_rows: int | None = None
        self.retry_s = 1.0

    def check(self) -> None:
        """Return if rows may be taken.

        Raises:
            CapacityError: If the disk or the learner is too far behind; `retry_s` says when to come again.
        """
        now = self._now()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._error, self.retry_s = self._look()
        if self._error is not None:
            raise _behind(self._error.got, self._error.expected)

    def _look(self) -> tuple[CapacityError | None, float]:
        try:
            self.free_bytes = shutil.disk_usage(self.folder).free
        except OSError:
            self.free_bytes = None  # the log itself will say what is wrong with its folder
        if self.free_bytes is not None and self.free_bytes < self.min_free_bytes:
            return _behind(
                f"{self.free_bytes >> 20} MiB of free disk", f"at least {self.min_free_bytes >> 20} MiB"
            ), 30.0
        if self.backlog is not None:
            self.backlog_rows = self.backlog()
        if self.max_backlog_rows is not None and (self.backlog_rows or 0) > self.max_backlog_rows:
            got = f"{self.backlog_rows} rows that nobody has learned from yet"
            return _behind(got, f"at most {self.max_backlog_rows}"), 5.0
        return None, 1.0


def _behind(got: str, expected: str) -> CapacityError:
    return CapacityError("Event log", got=got, expected=expected, do="Nothing of this request was taken. Try again.")
