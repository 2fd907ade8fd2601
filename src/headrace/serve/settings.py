"""Settings of a rank server."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.config import require


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How a rank server takes requests, logs them and follows the published versions.

    Attributes:
        topic: Topic of the event log that takes impressions and actions; one topic, so that there is one order.
        log_impressions: Whether ranked rows are logged where the request does not say; a shadow reader says False.
        position: Column of the place at which a candidate was shown, 1 = first. Where a request lacks it, its rows
            are logged with the place that the answer gives them. None: nothing is filled in.
        max_body_bytes: Largest body that is read; longer ones get 413.
        max_rows: Most rows in one request.
        max_future_s: How far ahead of this machine's clock an event time may be. One event from the far future would
            move the joiner's watermark past everything that is still waiting. None: any time is taken.
        commit_window_s: How long the event writer waits for more requests to share a commit with, once it has seen
            several at a time; a lone request never waits.
        max_waiting: Requests that may wait for their commit; further ones get 503 until the disk has caught up.
        remember_actions: Newest actions by which a repeated one is recognised.
        poll_s: Pause between two looks at the change log.
        learner_timeout_s: The learner counts as alive if its newest version is not older than this.
        threads: Threads that score.
        max_in_flight: Requests that may be under way at a time; further ones get 503.
        max_held_bytes: Bytes of bodies that may be held at a time; further ones get 503.
        body_timeout_s: How long a body may take to come; slower ones get 408.
        min_free_bytes: Room that is left on the event log's disk; below it, rows that would be logged get 503.
        max_backlog_rows: Logged rows that may wait to be joined; beyond, rows that would be logged get 503. None: any
            number, as the disk has room.
        batch_window_ms: How long a worker process waits for more requests to score together, while they come several
            at a time; a lone request never waits, and what came during the last pass is scored together anyway.
        batch_rows: Candidates that a worker process scores in one pass; more go into the next one.
        warm_rows: Candidates of the made-up requests that a server answers before it is ready.

    Raises:
        ConfigError: If a value cannot work.
    """

    topic: str = "events"
    log_impressions: bool = True
    position: str | None = None
    max_body_bytes: int = 8 << 20
    max_rows: int = 20_000
    max_future_s: float | None = 3600.0
    commit_window_s: float = 0.001
    max_waiting: int = 1024
    remember_actions: int = 200_000
    poll_s: float = 0.005
    learner_timeout_s: float = 30.0
    threads: int = 2
    max_in_flight: int = 1024
    max_held_bytes: int = 256 << 20
    body_timeout_s: float = 30.0
    min_free_bytes: int = 64 << 20
    max_backlog_rows: int | None = None
    batch_window_ms: float = 0.0
    batch_rows: int = 1024
    warm_rows: tuple[int, ...] = (1, 100)

    def __post_init__(self) -> None:
        require(bool(self.topic), "topic", got=self.topic, expected="a name")
        for name in ("max_body_bytes", "max_rows", "max_waiting", "remember_actions", "threads", "max_in_flight",
                     "max_held_bytes"):  # fmt: skip
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        for name in ("poll_s", "learner_timeout_s", "body_timeout_s"):
            require(getattr(self, name) > 0, name, got=getattr(self, name), expected="a positive number of seconds")
        require(0 <= self.commit_window_s <= 1, "commit_window_s", got=self.commit_window_s, expected="from 0 to 1 s")
        require(self.max_future_s is None or self.max_future_s >= 0, "max_future_s", got=self.max_future_s,
                expected="seconds, or None")  # fmt: skip
        require(self.min_free_bytes >= 0, "min_free_bytes", got=self.min_free_bytes, expected="a number of bytes")
        require(self.max_backlog_rows is None or self.max_backlog_rows >= 1, "max_backlog_rows",
                got=self.max_backlog_rows, expected="a positive integer, or None")  # fmt: skip
        require(0 <= self.batch_window_ms <= 1000, "batch_window_ms", got=self.batch_window_ms,
                expected="from 0 to 1000 ms")  # fmt: skip
        require(self.batch_rows >= 1, "batch_rows", got=self.batch_rows, expected="a positive integer")
        require(all(rows >= 1 for rows in self.warm_rows), "warm_rows", got=self.warm_rows,
                expected="positive integers")  # fmt: skip
