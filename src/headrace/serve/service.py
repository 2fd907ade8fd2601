"""The rank service without a web framework: answers, logs, follows, and tells how it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import known_name
from headrace.data.log import EmbeddedLog
from headrace.publish.replica import ChangeSource
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.follow import Follower
from headrace.serve.freshness import DelaySummary
from headrace.serve.metrics import Reading, ServeMetrics
from headrace.serve.predictor import RankPredictor
from headrace.serve.pressure import Pressure
from headrace.serve.questions import Asking, QuestionDesk
from headrace.serve.readiness import Readiness
from headrace.serve.requests import RankRequest, RequestReader
from headrace.serve.settings import ServeConfig
from headrace.types import Events


@dataclass(frozen=True, slots=True)
class Ranking:
    """An answer: predictions row by row, and what has to be waited for before it may be given."""

    predictions: Events
    durable: Future[Written] | None = None


class RankService:
    """A predictor, an event log and a follower of the change log as one thing.

    Args:
        predictor: Who scores.
        log: The event log.
        config: Settings.
        changes: Where new versions come from; None when somebody else applies them.
        sign_of_life: Returns the age in seconds of the learner's last sign of life, or None if it never gave one;
            without it, the age of the newest version stands for it.
        asking: Examples to ask people about; None: nobody is asked.
    """

    def __init__(
        self, predictor: RankPredictor, log: EmbeddedLog, config: ServeConfig, *, changes: ChangeSource | None = None,
        sign_of_life: Callable[[], float | None] | None = None, asking: Asking | None = None,
    ) -> None:  # fmt: skip
        self.predictor, self.log, self.config = predictor, log, config
        self.reader = RequestReader(predictor.request_schema, config)
        if config.position is not None:
            known_name("position", config.position, self.reader.columns.names)
        self.writer = EventWriter(
            log, config.topic, item=predictor.schema.item, window_s=config.commit_window_s,
            max_waiting=config.max_waiting, remember=config.remember_actions,
        )  # fmt: skip
        self.desk: QuestionDesk | None = None
        if asking is not None:
            self.desk = QuestionDesk(predictor, self.writer, asking.pool, config=asking.config,
                                     positive=predictor.schema.label.positive[0])  # fmt: skip
        self.follower = Follower(predictor.replica, changes, poll_s=config.poll_s) if changes is not None else None
        self.metrics = ServeMetrics(self._gauges, self._delays)
        self._sign_of_life = sign_of_life
        self.pressure = Pressure(log.path.parent, min_free_bytes=config.min_free_bytes,
                                 max_backlog_rows=config.max_backlog_rows)  # fmt: skip
        self.readiness = Readiness(predictor, self.reader.columns, config.warm_rows)

    def start(self) -> None:
        """Apply the versions that there are and begin to take requests."""
        if self.desk is not None:
            self.desk.recover(self.log, self.config.topic)
        self.writer.start(self.reader.columns.adopt)
        if self.desk is not None:
            self.reader.columns.pin(self.desk.pool.first())
        if self.follower is not None:
            self.follower.start()
        self.readiness.start()

    def close(self) -> None:
        """Make durable what was taken, then end."""
        self.readiness.close()
        if self.follower is not None:
            self.follower.stop()
        self.writer.close()

    def rank(self, request: RankRequest) -> Ranking:
        """Score rows with one version and hand them to the log.

        Raises:
            SchemaError: If the rows do not fit the schema; nothing is logged.
            VersionError: If there is no version yet.
            CapacityError: If rows are to be logged, and the disk or the learner is too far behind.
        """
        wanted = self.config.log_impressions if request.log_impressions is None else request.log_impressions
        if wanted:
            self.pressure.check()
        predictions = self.predictor.predict(request.events)
        self.metrics.rows.inc(len(predictions))
        if not wanted:
            return Ranking(predictions)
        names = [name for name in ("score", "version", "score_logged") if name in predictions.names]
        rows = request.events.with_columns({name: predictions.column(name) for name in names})
        rows = self._with_position(rows)
        self.reader.columns.pin(rows)
        return Ranking(predictions, self.writer.submit(rows))

    def feedback(self, actions: Events) -> Future[Written]:
        """Hand actions to the log; the future is done when they are durable.

        Raises:
            SchemaError: If their item has another type than the log has.
            CapacityError: If the disk or the learner is too far behind.
        """
        self.pressure.check()
        self.reader.columns.pin(actions)
        return self.writer.submit(actions)

    def health(self) -> dict[str, object]:
        """Return how the service is, as plain values."""
        version = self.predictor.version.number
        answer: dict[str, object] = {
            "status": "ok" if version >= 0 else "waiting for the first version", "version": version,
            "waiting_commits": self.writer.waiting, "learner": self._learner(),
        }  # fmt: skip
        if self.desk is not None:
            answer["questions"] = self.desk.status()
        if self.follower is not None:
            answer |= {"published": self.follower.published, "lag_versions": self.follower.lag}
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

    def _with_position(self, rows: Events) -> Events:
        """Fill in the place at which the answer puts a row, where the request does not say where it was shown."""
        column = self.config.position
        if column is None:
            return rows
        places = pa.array(places_of(rows) + 1)
        if list(self.reader.columns.choices(column)) == [pa.string()]:
            places = places.cast(pa.string())
        filled = self.reader.columns.cast(column, places)
        if column in rows.names and (own := rows.column(column)).null_count < len(rows):
            filled = pc.coalesce(own, filled.cast(own.type))
        return rows.with_columns({column: filled})

    def _delays(self) -> dict[str, DelaySummary]:
        if self.follower is None:
            return {}
        return {"headrace_freshness_seconds": self.follower.positives.summary(),
                "headrace_negative_delay_seconds": self.follower.negatives.summary()}  # fmt: skip

    def _gauges(self) -> Iterable[Reading]:
        yield "headrace_version", "The version that answers.", [({}, float(self.predictor.version.number))]
        if self.follower is not None:
            yield "headrace_version_lag", "Published versions not served yet.", [({}, float(self.follower.lag))]
        yield "headrace_waiting_commits", "Requests that wait for the disk.", [({}, float(self.writer.waiting))]
        if self.pressure.free_bytes is not None:
            yield "headrace_free_bytes", "Room on the event log's disk.", [({}, float(self.pressure.free_bytes))]
        if self.pressure.backlog_rows is not None:
            yield "headrace_backlog_rows", "Logged rows that wait to be joined.", [
                ({}, float(self.pressure.backlog_rows))]  # fmt: skip
        yield "headrace_commits", "Commits of the event log.", [({}, float(self.writer.commits))]
        if self.desk is not None:
            counts = self.desk.status()
            states = [({"state": name}, float(str(counts[name]))) for name in ("open", "answered", "skipped")]
            yield "headrace_questions", "Examples that people were asked about.", states
        yield "headrace_logged_rows", "Rows written to the event log.", [({}, float(self.writer.rows))]
        tables = self.predictor.replica.tables
        stats = {name: table.stats() for name, table in tables.items() if hasattr(table, "stats")}
        yield "headrace_table_rows", "Rows of a table.", [({"table": n}, float(s.rows)) for n, s in stats.items()]
        yield "headrace_table_bytes", "Memory of a table.", [({"table": n}, float(s.bytes)) for n, s in stats.items()]


def places_of(rows: Events) -> npt.NDArray[np.int64]:
    """Return every row's place (0 = best) among the rows of its key, by falling score; ties keep their order."""
    keys = np.asarray(rows.column("key").dictionary_encode().indices.to_numpy(zero_copy_only=False))
    scores = np.asarray(rows.column("score").to_numpy(zero_copy_only=False))
    order = np.lexsort((-scores, keys))
    sizes = np.bincount(keys)
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def _plain(summary: DelaySummary) -> dict[str, object]:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {"p50_s": known(summary.p50_s), "p99_s": known(summary.p99_s), "count": summary.count}
