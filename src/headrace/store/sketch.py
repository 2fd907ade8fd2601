"""Count-min sketch: occurrences of any number of ids in fixed memory, never too low until it ages, at times too high.

The sketch is 4096 small ones, one for each virtual bucket of ids. A bucket's part is touched by the ids of that
bucket alone, so it moves with them when a table is split over other shards, and threads that own different buckets
may count at once. `csrc/table/sketch.h` is the same, byte for byte.

Layout, bucket after bucket::

    additions   uint32, little-endian: occurrences counted since the last halving, and half of those before it
    counters    depth rows of cells_per_bucket / depth bytes each, saturating at 255
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.store.hashing import GAMMA, IdArray, mix64

BUCKETS = 4096
"""Virtual buckets of ids, the units in which tables are split."""

SketchBytes = npt.NDArray[np.uint8]

_HEADER = 4
_LARGEST = 255


def bucket_of(ids: IdArray) -> IdArray:
    """Return the virtual bucket (N,) of each id: the upper 12 bits of its hash.

    Example:
        >>> bucket_of(np.array([0, 1], np.int64)).tolist()
        [0, 1385]
    """
    return np.asarray(mix64(ids.view(np.uint64)) >> np.uint64(52), dtype=np.int64)


def sketch_bytes(cells_per_bucket: int) -> int:
    """Return the bytes of a sketch."""
    return BUCKETS * (_HEADER + cells_per_bucket)


class Sketch:
    """The specification of the sketch: counts one id at a time.

    Conservative update: of an id's `depth` counters only those that would show too little rise, so an id's count is
    disturbed by others only where all of its counters are shared.

    Ageing: when a bucket has counted `age_after` occurrences, all its counters and that number are halved.

    Args:
        cells_per_bucket: Counters of a bucket, all rows together; a multiple of 4 and of `depth`.
        depth: Rows: counters that an id has.
        age_after: Occurrences after which a bucket ages.

    Cost:
        Here: about 20 µs an id. Native: one or two cache misses an id.
    """

    def __init__(self, cells_per_bucket: int, depth: int, age_after: int) -> None:
        self._cells, self._depth, self._age_after = cells_per_bucket, depth, age_after
        self._width = cells_per_bucket // depth
        self._steps = np.arange(1, depth + 1, dtype=np.uint64) * GAMMA
        self._starts = np.arange(depth, dtype=np.int64) * self._width + _HEADER
        self._data = np.zeros((BUCKETS, _HEADER + cells_per_bucket), np.uint8)

    def _places(self, ids: IdArray) -> IdArray:
        """Return where in its bucket the counters (N, depth) of each id stand."""
        words = mix64(mix64(ids.view(np.uint64))[:, None] + self._steps[None, :]) >> np.uint64(32)
        return ((words * np.uint64(self._width)) >> np.uint64(32)).astype(np.int64) + self._starts

    def estimates(self, ids: IdArray) -> IdArray:
        """Return what the sketch takes for the occurrences (N,) of ids (N,); 255 means 255 or more."""
        cells = self._data[bucket_of(ids)[:, None], self._places(ids)]
        return np.asarray(cells.min(axis=1), dtype=np.int64)

    def add(self, ids: IdArray, counts: IdArray) -> IdArray:
        """Count occurrences (N,) of ids (N,), in this order, and return the estimate (N,) of each after its own.

        The order matters only among ids of one bucket. An estimate is taken before the ageing that its own
        occurrences may bring about.
        """
        buckets, places = bucket_of(ids), self._places(ids)
        steps = np.minimum(counts, _LARGEST)
        answer = np.empty(len(ids), np.int64)
        for n in range(len(ids)):
            bucket = self._data[buckets[n]]
            cells = bucket[places[n]]
            estimate = min(int(cells.min()) + int(steps[n]), _LARGEST)
            bucket[places[n]] = np.maximum(cells, estimate)
            answer[n] = estimate
            self._count(bucket, int(steps[n]))
        return answer

    def _count(self, bucket: SketchBytes, occurrences: int) -> None:
        header = bucket[:_HEADER].view("<u4")
        header[0] += occurrences
        if header[0] >= self._age_after:
            bucket[_HEADER:] >>= 1
            header[0] >>= 1

    @property
    def nbytes(self) -> int:
        """Bytes of the sketch."""
        return self._data.nbytes

    def data(self) -> SketchBytes:
        """Return a copy of all of it (K,), bucket after bucket."""
        return self._data.reshape(-1).copy()

    def load(self, data: SketchBytes) -> None:
        """Become what `data` (K,) says.

        Raises:
            ValueError: If it is not as long as this sketch.
        """
        self._data = data.astype(np.uint8).reshape(self._data.shape)
