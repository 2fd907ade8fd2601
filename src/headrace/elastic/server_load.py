"""How busy a table server is, and with which buckets."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from headrace.store import BUCKETS, bucket_of
from headrace.store.hashing import IdArray

FIRST = 256
"""Look-ups of which every one is counted, after the buckets were asked for: who decides early needs them all."""
EVERY = 8
"""Of so many look-ups one is counted by bucket."""
_PACE = 0.05


class ServerLoad:
    """Counts look-ups, rows, seconds, and rows by bucket.

    Thread-safety: any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets = np.zeros(BUCKETS, np.int64)
        self._lookups = self._rows = 0
        self._first = FIRST
        self._seconds = self._recent = 0.0

    def count(self, ids: Iterable[IdArray], rows: int, seconds: float) -> None:
        """Take a look-up into account."""
        with self._lock:
            weight = 1 if self._first > 0 else EVERY if self._lookups % EVERY == 0 else 0
            self._first -= 1
            self._lookups += 1
            self._rows += rows
            self._seconds += seconds
            self._recent += (seconds - self._recent) * (_PACE if self._lookups > 1 else 1.0)
        if weight:
            found = sum((np.bincount(bucket_of(one), minlength=BUCKETS) for one in ids), np.zeros(BUCKETS, np.int64))
            with self._lock:
                self._buckets += found * weight

    def numbers(self) -> dict[str, Any]:
        """Return look-ups, rows, seconds, and the mean seconds of the last look-ups."""
        with self._lock:
            return {"lookups": self._lookups, "rows": self._rows, "busy_s": self._seconds, "request_s": self._recent}

    def buckets(self) -> IdArray:
        """Return about how many rows of each bucket (4096,) were looked up since the last time this was asked."""
        with self._lock:
            found, self._buckets, self._first = self._buckets, np.zeros(BUCKETS, np.int64), FIRST
        return found
