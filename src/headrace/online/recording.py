"""A recorded log, played as if it were happening: its impressions are requests, its clicks are feedback."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from headrace.errors import SourceEnded
from headrace.protocols import Source
from headrace.types import Events, Position


class Recording:
    """Source of a log's impressions and Feedback of its actions, in arrival order.

    The candidates of a recorded log were chosen by somebody else: predictions are scored, never acted upon. Rows
    come in the order of the inner source, which must be the order in which they arrived.

    Args:
        make: Opens the inner source (impressions and actions mixed).
        max_span_s: Longest event time of the rows of one read. A server logs the impressions of a chunk before the
            actions of the chunk; with chunks no longer than the join's lateness no action comes too late for that.
        repeat: Play the log again from the start when it ends, with later times and other request keys, for ever.
        span_us: Length of the log in event time; needed with `repeat`.
    """

    def __init__(
        self, make: Callable[[], Source], *, max_span_s: float = float("inf"), repeat: bool = False, span_us: int = 0
    ) -> None:
        self._max_span = max_span_s * 1e6
        self._make, self._source = make, make()
        self._repeat, self._span_us, self._round = repeat, span_us, 0
        self._actions: Events | None = None

    @property
    def inner(self) -> Source:
        """The source behind: impressions and actions mixed, in arrival order."""
        return self._source

    def read(self, limit: int) -> Events | None:
        """Return the impressions among the next `limit` rows (possibly none); keeps the actions for `collect`."""
        try:
            rows = self._short(limit)
        except SourceEnded:
            if not self._repeat:
                raise
            self._round += 1
            self._source = self._make()
            rows = self._short(limit)
        if rows is None:
            return None
        rows = self._shift(rows)
        impressions = rows.of_kind("impression")
        actions = rows.batch.filter(pa.compute.not_equal(rows.column("kind"), "impression"))
        self._actions = Events(actions) if actions.num_rows else None
        return impressions

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Return the actions that stood among the rows last read."""
        actions, self._actions = self._actions, None
        return actions

    def position(self) -> Position:
        """Return the inner position and the round."""
        return {**self._source.position(), "__round__": self._round}

    def seek(self, position: Position) -> None:
        """Resume; to be called between `collect` and the next `read`."""
        inner = dict(position)
        self._round = inner.pop("__round__", 0)
        self._source = self._make()
        self._source.seek(inner)
        self._actions = None

    def _short(self, limit: int) -> Events | None:
        """Read at most `limit` rows that span at most the allowed event time."""
        before = self._source.position()
        rows = self._source.read(limit)
        if rows is None or not len(rows):
            return rows
        within = int((np.maximum.accumulate(rows.times) - rows.times[0] <= self._max_span).sum())
        if within == len(rows):
            return rows
        self._source.seek(before)
        return self._source.read(within)

    def _shift(self, rows: Events) -> Events:
        if not self._round:
            return rows
        times = pa.array(rows.times + self._round * self._span_us, pa.int64())
        keys = pa.compute.binary_join_element_wise(rows.column("key"), str(self._round), "~")
        return rows.with_columns({"event_time": times, "key": keys})
