"""How long it takes from an event's acceptance until a version that learned it is served."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
RECENT = 8192


@dataclass(frozen=True, slots=True)
class DelaySummary:
    """Delays in seconds: quantiles of the newest ones (NaN when there are none), count and buckets of all."""

    p50_s: float
    p99_s: float
    count: int
    sum_s: float
    buckets: tuple[int, ...]


class Delays:
    """Delays as they come: the newest `recent` for quantiles, all of them in the buckets of a histogram.

    Thread-safety: may be used from any thread. Cost: O(delays added); memory is fixed.
    """

    def __init__(self, recent: int = RECENT) -> None:
        self._ring = np.zeros(recent, dtype=np.float64)
        self._count, self._sum = 0, 0.0
        self._buckets = np.zeros(len(BUCKETS_S), dtype=np.int64)
        self._lock = threading.Lock()

    def add(self, delays_s: npt.NDArray[np.float64]) -> None:
        """Take delays (N,) in seconds into account."""
        if not len(delays_s):
            return
        with self._lock:
            newest = delays_s[-len(self._ring) :]
            skipped = len(delays_s) - len(newest)
            places = (self._count + skipped + np.arange(len(newest))) % len(self._ring)
            self._ring[places] = newest
            self._count += len(delays_s)
            self._sum += float(delays_s.sum())
            self._buckets += (delays_s[:, None] <= np.array(BUCKETS_S)).sum(axis=0)

    def summary(self) -> DelaySummary:
        """Return quantiles and counts."""
        with self._lock:
            known = self._ring[: min(self._count, len(self._ring))].copy()
            count, total, buckets = self._count, self._sum, tuple(int(n) for n in self._buckets)
        p50, p99 = np.quantile(known, [0.5, 0.99]) if len(known) else (float("nan"), float("nan"))
        return DelaySummary(float(p50), float(p99), count, total, buckets)
