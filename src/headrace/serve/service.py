"""The rank service without a web framework: answers, logs, follows, and tells how it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import known_name
from headrace.data.log import EmbeddedLog
from headrace.publish.acknowledgements import Acknowledger
from headrace.publish.replica import ChangeSource
from headrace.serve.arms import ARM, ARM_PROPENSITY, Arm, Arms, Experiment, check_min_version
from headrace.serve.erasures import ErasureDesk
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.experiment import MAIN
from headrace.serve.follow import Follower
from headrace.serve.metrics import Reading, ServeMetrics
from headrace.serve.predictor import RankPredictor
from headrace.serve.pressure import Pressure
from headrace.serve.questions import Asking, QuestionDesk
from headrace.serve.readiness import Readiness
from headrace.serve.recommend import Recommender
from headrace.serve.requests import RankRequest, RequestReader
from headrace.serve.settings import ServeConfig
from headrace.serve.watched import Watched
from headrace.types import Events

LOGGED = ("score", "version", "score_logged", ARM, ARM_PROPENSITY)
"""What impressions are logged with, of what was answered."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """An answer: predictions row by row, and what has to be waited for before it may be given."""

    predictions: Events
    durable: Future[Written] | None = None


class RankService(Watched):
    """A predictor, an event log and a follower of the change log as one thing.

    Args:
        predictor: Who scores.
        log: The event log.
        config: Settings.
        changes: Where new versions come from; None when somebody else applies them.
        sign_of_life: Returns the age in seconds of the learner's last sign of life, or None if it never gave one;
            without it, the age of the newest version stands for it.
        asking: Examples to ask people about; None: nobody is asked.
        acknowledger: Tells the publisher which version is served here; None: nobody is told.
        experiment: Further arms that answer a share of the requests; None: `predictor` answers all.
    """

    def __init__(
        self, predictor: RankPredictor, log: EmbeddedLog, config: ServeConfig, *, changes: ChangeSource | None = None,
        sign_of_life: Callable[[], float | None] | None = None, asking: Asking | None = None,
        acknowledger: Acknowledger | None = None, experiment: Experiment | None = None,
    ) -> None:  # fmt: skip
        self.predictor, self.log = predictor, log
        self.reader = RequestReader(predictor.request_schema, config)
        if config.position is not None:
            known_name("position", config.position, self.reader.columns.names)
        writer = EventWriter(
            log, config.topic, item=predictor.schema.item, window_s=config.commit_window_s,
            max_waiting=config.max_waiting, remember=config.remember_actions,
        )  # fmt: skip
        pressure = Pressure(log.path.parent, min_free_bytes=config.min_free_bytes,
                            max_backlog_rows=config.max_backlog_rows)  # fmt: skip
        follower: Follower | None = None
        if changes is not None:
            follower = Follower(predictor.replica, changes, poll_s=config.poll_s, acknowledger=acknowledger)
        super().__init__(predictor, writer, config, pressure, follower, sign_of_life)
        self.desk: QuestionDesk | None = None
        self.recommender: Recommender | None = None
        self.erasures: ErasureDesk | None = None
        if asking is not None:
            self.desk = QuestionDesk(predictor, self.writer, asking.pool, config=asking.config,
                                     positive=predictor.schema.label.positive[0])  # fmt: skip
        self.arms = Arms(Arm(MAIN, predictor, self.follower), experiment, columns=self.reader.columns,
                         poll_s=config.poll_s)  # fmt: skip
        self.metrics = ServeMetrics(self._gauges, self._delays)
        self.readiness = Readiness(predictor, self.reader.columns, config.warm_rows)

    def forget_with(self, desk: ErasureDesk) -> None:
        """Have a desk screen what is logged, and replicas and memories here forget with it; before `start`."""
        self.erasures, self.writer.screen = desk, desk.screen
        desk.replicas = [arm.predictor.replica for arm in self.arms.arms]
        if self.recommender is not None:
            memory = self.recommender.memory

            def forget(ids: list[int]) -> None:
                memory.follow()  # what was logged before and not read yet must not come after
                for one in ids:
                    memory.forget(one)

            desk.on_erase(forget)

    def start(self) -> None:
        """Apply the versions that there are and begin to take requests."""
        if self.erasures is not None:
            self.erasures.start()
        if self.desk is not None:
            self.desk.recover(self.log, self.config.topic)
        self.writer.start(self.reader.columns.adopt)
        if self.desk is not None:
            self.reader.columns.pin(self.desk.pool.first())
        if self.follower is not None:
            self.follower.start()
        self.arms.start()
        if self.recommender is not None:
            self.recommender.start()
        self.readiness.start()

    def close(self) -> None:
        """Make durable what was taken, then end."""
        self.readiness.close()
        if self.erasures is not None:
            self.erasures.close()
        if self.recommender is not None:
            self.recommender.close()
        if self.follower is not None:
            self.follower.stop()
        self.arms.close()
        self.writer.close()

    def rank(self, request: RankRequest) -> Ranking:
        """Score rows with one version and hand them to the log.

        Raises:
            SchemaError: If the rows do not fit the schema; nothing is logged.
            VersionError: If there is no version yet.
            Refusal: 409 if the version that answers is older than the one asked for; nothing is logged.
            CapacityError: If rows are to be logged, and the disk or the learner is too far behind.
        """
        wanted = self.config.log_impressions if request.log_impressions is None else request.log_impressions
        if wanted:
            self.pressure.check()
        predictions = self.arms.predict(request.events)
        _check_version(predictions, request.min_version)
        self.metrics.rows.inc(len(predictions))
        self.arms.count(predictions)
        if not wanted:
            return Ranking(predictions)
        names = [name for name in LOGGED if name in predictions.names]
        rows = request.events.with_columns({name: predictions.column(name) for name in names})
        return Ranking(predictions, self._submitted(rows))

    def record(self, rows: Events) -> Future[Written]:
        """Hand impressions to the log that another process has scored, with the columns that `rank` logs.

        Raises:
            SchemaError: If a column has another type than the log has.
            CapacityError: If the disk or the learner is too far behind.
        """
        self.pressure.check()
        return self._submitted(rows)

    def _submitted(self, rows: Events) -> Future[Written]:
        rows = self._with_position(rows)
        self.reader.columns.pin(rows)
        return self.writer.submit(rows)

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
        answer = super().health()
        if self.desk is not None:
            answer["questions"] = self.desk.status()
        if self.recommender is not None:
            answer["recommend"] = self.recommender.status()
        if self.erasures is not None:
            answer["erasures"] = self.erasures.status()
        return answer

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

    def _gauges(self) -> Iterable[Reading]:
        yield from super()._gauges()
        yield from self.arms.gauges()
        if self.recommender is not None:
            yield from self.recommender.gauges()
        if self.desk is not None:
            counts = self.desk.status()
            states = [({"state": name}, float(str(counts[name]))) for name in ("open", "answered", "skipped")]
            yield "headrace_questions", "Examples that people were asked about.", states
        if self.erasures is not None:
            states = [({"state": name}, float(count)) for name, count in self.erasures.status().items()]
            yield "headrace_erasures", "Erasures of users under way, and those that are overdue.", states
        tables = self.predictor.replica.tables
        stats = {name: table.stats() for name, table in tables.items() if hasattr(table, "stats")}
        yield "headrace_table_rows", "Rows of a table.", [({"table": n}, float(s.rows)) for n, s in stats.items()]
        yield "headrace_table_bytes", "Memory of a table.", [({"table": n}, float(s.bytes)) for n, s in stats.items()]


def _check_version(predictions: Events, wanted: int | None) -> None:
    if wanted is None or not len(predictions):
        return
    versions = np.asarray(predictions.column("version").to_numpy(zero_copy_only=False))
    oldest = int(np.argmin(versions))
    check_min_version(int(versions[oldest]), wanted, predictions.column(ARM)[oldest].as_py())


def places_of(rows: Events) -> npt.NDArray[np.int64]:
    """Return every row's place (0 = best) among the rows of its key, by falling score; ties keep their order."""
    keys = np.asarray(rows.column("key").dictionary_encode().indices.to_numpy(zero_copy_only=False))
    scores = np.asarray(rows.column("score").to_numpy(zero_copy_only=False))
    order = np.lexsort((-scores, keys))
    sizes = np.bincount(keys)
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places
