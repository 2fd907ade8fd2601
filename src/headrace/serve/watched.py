"""What every service tells about itself: health, and gauges for Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from headrace.serve.arms import Arms
from headrace.serve.event_writer import EventWriter
from headrace.serve.follow import Follower
from headrace.serve.freshness import DelaySummary
from headrace.serve.metrics import Reading, ServeMetrics
from headrace.serve.pressure import Pressure
from headrace.serve.readiness import Answering, Readiness
from headrace.serve.settings import ServeConfig


class Watched:
    """A predictor, a writer of events and a follower of versions, as people and machines watch them.

    What is built on it has also `metrics`, `arms` and `readiness`.

    Args:
        predictor: Who answers.
        writer: Writes the event log.
        config: Settings.
        pressure: Whether more rows may be taken.
        follower: Follows the versions; None when somebody else applies them.
        sign_of_life: Returns the age in seconds of the learner's last sign of life, or None if it never gave one;
            without it, the age of the newest version stands for it.
    """

    arms: Arms
    metrics: ServeMetrics
    readiness: Readiness

    def __init__(
        self, predictor: Answering, writer: EventWriter, config: ServeConfig, pressure: Pressure,
        follower: Follower | None, sign_of_life: Callable[[], float | None] | None,
    ) -> None:  # fmt: skip
        self.answering, self.writer, self.config, self.pressure = predictor, writer, config, pressure
        self.follower, self._sign_of_life = follower, sign_of_life

    def health(self) -> dict[str, object]:
        """Return how the service is, as plain values."""
        version = self.answering.version.number
        answer: dict[str, object] = {
            "status": "ok" if version >= 0 else "waiting for the first version", "version": version,
            "waiting_commits": self.writer.waiting, "learner": self._learner(),
        }  # fmt: skip
        if self.follower is not None:
            answer |= self.follower.health()
            if self.follower.error:
                answer |= {"status": "serving an old version", "error": self.follower.error}
            answer["freshness"] = {"positives": _plain(self.follower.positives.summary()),
                                   "negatives": _plain(self.follower.negatives.summary())}  # fmt: skip
        return answer

    def _learner(self) -> dict[str, object]:
        age: float | None = None
        if self._sign_of_life is not None:
            age = self._sign_of_life()
        elif self.follower is not None:
            published = self.follower.source.published_at()
            age = max(time.time() - published / 1e6, 0.0) if published else None
        return {"alive": None if age is None else age <= self.config.learner_timeout_s, "last_sign_s": age}

    def _delays(self) -> dict[str, DelaySummary]:
        if self.follower is None:
            return {}
        return {"headrace_freshness_seconds": self.follower.positives.summary(),
                "headrace_negative_delay_seconds": self.follower.negatives.summary()}  # fmt: skip

    def _gauges(self) -> Iterable[Reading]:
        yield "headrace_version", "The version that answers.", [({}, float(self.answering.version.number))]
        if self.follower is not None:
            yield from self.follower.gauges()
        yield "headrace_waiting_commits", "Requests that wait for the disk.", [({}, float(self.writer.waiting))]
        if self.pressure.free_bytes is not None:
            yield "headrace_free_bytes", "Room on the event log's disk.", [({}, float(self.pressure.free_bytes))]
        if self.pressure.backlog_rows is not None:
            yield "headrace_backlog_rows", "Logged rows that wait to be joined.", [
                ({}, float(self.pressure.backlog_rows))]  # fmt: skip
        yield "headrace_commits", "Commits of the event log.", [({}, float(self.writer.commits))]
        yield "headrace_logged_rows", "Rows written to the event log.", [({}, float(self.writer.rows))]


def _plain(summary: DelaySummary) -> dict[str, object]:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {"p50_s": known(summary.p50_s), "p99_s": known(summary.p99_s), "count": summary.count}
