"""A labelling loop in one process: people are asked over HTTP, a committee of tasks learns, and asks better.

Server, event log, joiner, learner, publisher and replica are the parts that any online model has; what is new is the
pool of examples, and the learner.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from headrace.config import require
from headrace.data import (
    Collator,
    DenseFeature,
    EmbeddedLog,
    EventJoin,
    EventJoiner,
    JoinConfig,
    Label,
    LogSource,
    MultiIdFeature,
    Scenario,
    Schema,
    TextFeature,
)
from headrace.errors import SchemaError, nearest
from headrace.learn import CommitteeConfig, CommitteeLearner, LearnerConfig, ManifestCheckpoint
from headrace.loop import EveryExamples, Loop, run
from headrace.nn import LinearTasks
from headrace.online.layout import CHANGES, EVENTS, RunFolder
from headrace.publish import ChangeReader, LogPublisher, Replica, Sluice, publishing
from headrace.serve import Asking, QuestionConfig, QuestionPool, RankPredictor, ServeConfig, create_app, run_server
from headrace.store import SGD, EmbeddingCollection, FeatureLookup, TableConfig, Zeros, open_table
from headrace.types import Events

_log = logging.getLogger(__name__)
MOST_TASKS = 512
"""Every word has one weight per task; with more tasks than this, rows get too wide."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabellingConfig:
    """A labelling loop.

    Attributes:
        pool: The examples to ask about, one row each.
        schema: What the model reads of them; `labelling_schema` makes one.
        questions: How they are chosen, and the budget.
        committee: How tasks learn from each other.
        publish_every: Answers between two versions of the model that chooses.
        checkpoint_every: Versions between two checkpoints.
        shown: Columns that people see; empty: all.
    """

    pool: pa.Table
    schema: Schema
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    committee: CommitteeConfig = field(default_factory=CommitteeConfig)
    publish_every: int = 1
    checkpoint_every: int = 20
    shown: tuple[str, ...] = ()

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return 1 if self.schema.scenario is None else len(self.schema.scenario.values)


def labelling_schema(
    table: pa.Table, *, task: str | None = None, words: Sequence[str] = (), numbers: Sequence[str] = (),
    answers: tuple[str, str] = ("yes", "no"),
) -> Schema:  # fmt: skip
    """Return the schema of a pool: words of text (or lists of ids) are counted, numbers standardised over the pool.

    Args:
        table: The pool; its column `item` names an example.
        task: Column that says which task it belongs to; None: one task.
        words: Columns of text, or of lists of ids.
        numbers: Columns of numbers.
        answers: The two answers, the positive one first.

    Raises:
        SchemaError: If there is no such column, or it is of another kind.
        ConfigError: If there is nothing to learn from, or there are more than 512 tasks.
    """
    for name in ("item", *words, *numbers, *([] if task is None else [task])):
        if name not in table.column_names:
            raise SchemaError(
                f"Pool, column '{name}'", got="no such column", expected=nearest(name, table.column_names)
            )
    require(bool(words or numbers), "Pool, features", got="none", expected="columns of words or of numbers")
    values: tuple[str, ...] = ()
    if task is not None:
        found = sorted(str(value) for value in pc.unique(table[task]).to_pylist() if value is not None)
        values = tuple(found)
        require(1 <= len(values) <= MOST_TASKS, f"Pool, column '{task}'", got=f"{len(values)} tasks",
                expected=f"1 to {MOST_TASKS}")  # fmt: skip
    dim = max(len(values), 1)
    lists = [name for name in words if pa.types.is_list(table.schema.field(name).type)]
    embedded = [MultiIdFeature(name, dim, pooling="sum") if name in lists else
                TextFeature(name, dim, pooling="sum", max_tokens=512) for name in words]  # fmt: skip
    scenario = None if task is None else Scenario(column=task, values=values)
    return Schema(features=(*embedded, *(_standard(table, name) for name in numbers)), scenario=scenario,
                  label=Label(positive=(answers[0],)))  # fmt: skip


def _standard(table: pa.Table, name: str) -> DenseFeature:
    kind = table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise SchemaError(f"Pool, column '{name}'", got=str(kind), expected="numbers", do="Give text as words.")
    values = pc.drop_null(table[name]).to_numpy().astype(np.float64)
    spread = float(values.std()) if len(values) else 0.0
    return DenseFeature(name, transform="standard", mean=float(values.mean()) if len(values) else 0.0,
                        std=spread if spread > 0 else 1.0)  # fmt: skip


class Labelling:
    """One process that asks, learns, publishes and asks again; give it a folder and it resumes there.

    Args:
        config: The loop.
        folder: Where logs and checkpoints live.
    """

    def __init__(self, config: LabellingConfig, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        folder.root.mkdir(parents=True, exist_ok=True)
        self.events = EmbeddedLog(folder.log(EVENTS))
        self.publisher = Sluice(LogPublisher(EmbeddedLog(folder.log(CHANGES)), folder.snapshots))
        model, collection = self._model(serving=False)
        self.learner = CommitteeLearner(model, collection, config.committee, LearnerConfig(schema=config.schema))
        pool = QuestionPool(config.pool, config.schema, config.shown)
        served, tables = self._model(serving=True)
        self.predictor = RankPredictor(served, Replica(dict(tables.tables), served), config.schema)
        reader = ChangeReader(EmbeddedLog(folder.log(CHANGES)), folder.snapshots)
        settings = ServeConfig(topic=EVENTS, log_impressions=False)
        self.app = create_app(self.predictor, self.events, settings, changes=reader,
                              asking=Asking(pool, config.questions))  # fmt: skip
        self.failure: Exception | None = None

    def _model(self, *, serving: bool) -> tuple[LinearTasks, EmbeddingCollection]:
        schema, tasks = self.config.schema, self.config.tasks
        tables = {name: open_table(TableConfig(name=name, dim=tasks, init=Zeros(), rule=SGD(lr=1.0)), serving=serving)
                  for name in schema.tables}  # fmt: skip
        lookups = [FeatureLookup(feature=one.name, table=one.table, pooling="sum") for one in schema.id_features]
        collection = EmbeddingCollection(tables, lookups)
        model = LinearTasks(collection, schema.id_names, len(schema.dense_names), tasks=tasks,
                            voting=self.config.committee.voting)  # fmt: skip
        return model, collection

    def run(
        self, host: str = "127.0.0.1", port: int = 8080, *, on_ready: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:  # fmt: skip
        """Serve until SIGINT, SIGTERM or `stop`; what was answered by then is learned and saved.

        Raises:
            ConfigError: If the port is in use, or another process publishes into the folder.
            HeadraceError: If the learner failed; nothing that was answered is lost.
        """
        ended, stop = threading.Event(), stop or threading.Event()
        thread = threading.Thread(target=self._learn, args=(ended, stop), name="learner")
        with publishing(self.publisher.durable.log) as alone:
            require(alone, f"Run folder {self.folder.root}", got="another process that publishes there",
                    expected="one run at a time", do="Stop it, or give another folder.")  # fmt: skip
            thread.start()
            try:
                run_server(self.app, host, port, on_ready=on_ready, stop=stop)
            finally:
                ended.set()
                thread.join()
        if self.failure is not None:
            raise self.failure

    def _learn(self, ended: threading.Event, stop: threading.Event) -> None:
        """Learn the event log until the server has ended and nothing is left."""
        try:
            source = _Tail(self.events, EVENTS)
            # Rows of the desk stand in the log in order of time, so an answer can be taken as soon as it is there.
            join = EventJoin(JoinConfig(window_s=0.0, lateness_s=0.0, max_ahead_s=0.0,
                                        positive=self.config.schema.label.positive))  # fmt: skip
            torch.set_num_threads(1)
            run(Loop(
                source=source, joiner=EventJoiner(join, Collator(self.config.schema, 1)), learner=self.learner,
                publisher=self.publisher, cadence=EveryExamples(self.config.publish_every),
                checkpoint=ManifestCheckpoint(self.folder.checkpoint), checkpoint_every=self.config.checkpoint_every,
                batch_rows=self.config.publish_every, stop=lambda: ended.is_set() and source.idle,
            ))  # fmt: skip
        except Exception as error:  # noqa: BLE001  whoever runs the server has to hear of it
            _log.exception("the learner failed; the server ends")
            self.failure = error
            stop.set()


class _Tail(LogSource):
    """A source that knows whether there was anything to read the last time."""

    idle = False

    def read(self, limit: int) -> Events | None:
        events = super().read(limit)
        self.idle = events is None
        return events
