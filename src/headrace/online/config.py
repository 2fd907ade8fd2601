"""What a recipe returns: one frozen configuration of a whole online ranker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from torch import nn

from headrace.config import require
from headrace.data import JoinConfig, PreparedStatistics, Schema
from headrace.data.subjects import ErasureConfig
from headrace.learn import PipelineConfig
from headrace.objectives import SamplingCorrection, Where
from headrace.online.trimming import LogRetention
from headrace.protocols import Feedback, Objective, RowTransform, Schedule, Source
from headrace.publish import GuardConfig, Retention
from headrace.serve.recommend_config import RecommendConfig
from headrace.store import Adagrad, AdmitAll, InitialRow, RowRule, Storage, Uniform
from headrace.store.admission import Admission
from headrace.types import Events


class Player(Source, Feedback, Protocol):
    """Requests and the answers to them: a recorded log, or a simulated world."""


class ModelBuilder(Protocol):
    """Builds the dense network over an embedding module; called once in the learner and once in every replica."""

    def __call__(self, embed: nn.Module, schema: Schema, seed: int) -> nn.Module:
        """Return a module whose forward maps a Batch to logits (B,)."""
        ...


ModelFamily: TypeAlias = Callable[..., nn.Module]
"""A class like those of `headrace.nn`: `family(embed, features, dense_dim, ...)`. The command line sets a recipe's
parameter of this type by name: `model=DCNv2`, or `model=package.module:Name` for one of your own."""


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How the tables of a ranker behave: the fields of `TableConfig` that are not a table's own.

    Attributes:
        rule: How a row learns.
        init: What a row starts from.
        admission: Which ids get a row.
        ttl_s: Seconds of event time after which an untouched row expires; None keeps rows for ever.
        transforms: Changes of row gradients before the rule.
        storage: How rows are kept, and how much memory they may take (per table).
        schedule: What the rule's learning rate is multiplied with in update 1, 2, ...; None: always 1.
    """

    rule: RowRule = field(default_factory=lambda: Adagrad(lr=0.05))
    init: InitialRow = field(default_factory=lambda: Uniform(0.01))
    admission: Admission = field(default_factory=AdmitAll)
    ttl_s: float | None = None
    transforms: tuple[RowTransform, ...] = ()
    storage: Storage = field(default_factory=Storage)
    schedule: Schedule | None = None


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """An online ranker from request to served version.

    Attributes:
        name: For people; shown in views and reports.
        schema: Features, label and item column.
        model: Builds the network.
        preparation: Statistics that raw rows are prepared with, in learning and in serving; the schema is then
            `preparation.schema(...)`. None: rows are read as they come.
        player: Opens the log or the world that plays requests and answers; None when real users do.
        span_s: Length of what the player plays, in event time; 0 when unknown.
        join: Attribution window, lateness, negative sampling.
        tables: Settings of every table; `table_overrides` replaces them for single tables.
        dense_lr: Learning rate of the dense part (Adam).
        batch_rows: Examples per learning step.
        pipeline: How far ahead the learner process reads and collates its log, in reads of four batches; versions are
            then written beside learning. A depth of 0 does one after the other. It changes no result.
        publish_every: Examples between two published versions.
        checkpoint_every: Published versions between two manifests of the learner.
        snapshot_every: Published versions between two full snapshots for replicas.
        guard: What a version has to pass before it is served; None lets every version out.
        retention: How much of the change log is kept for slow replicas, and how many snapshots.
        logs: How long events and examples are kept once they were read.
        erase: Which columns hold a user's id, and in which time an erased user is out of everything that is kept.
        correction: The one place where negative sampling is corrected for; idle while `join.negative_rate` is 1.
        objective: The loss, for several labels, late answers and the like; it corrects for sampling itself. None:
            `LogLoss`, with what `join` and `correction` say.
        metric_window_s: Width of the impression-time cohorts of progressive validation, in event time.
        prior: Click rate that the baselines believe in before they have learned anything.
        baselines: Learn logistic regression and position-only beside the model, on the same examples, for the report.
        position: Column of the place at which a candidate was shown; the server fills it in where a request lacks it.
        recommend: How the server finds, ranks and chooses items itself (`POST /v1/recommend`); None: it ranks what it
            is given.
        audit: Keep a ledger table that counts how often each example was learned.
        durability: What the logs survive: `power` loss (fsync at every commit) or the death of the `process`.
        data_files: Files the player reads; their SHA-256 goes into the run record.
        best_auc: For simulated worlds: the AUC of the true probabilities of examples, with their positions known, or
            (second argument True) at the reference position; what no model can beat but by luck.
        notes: Sentences for the report (which clicks are drawn, what is simulated, ...).
    """

    name: str
    schema: Schema
    model: ModelBuilder
    join: JoinConfig
    preparation: PreparedStatistics | None = None
    player: Callable[[], Player] | None = None
    span_s: float = 0.0
    tables: TableSettings = field(default_factory=TableSettings)
    table_overrides: dict[str, TableSettings] = field(default_factory=dict)
    dense_lr: float = 1e-3
    batch_rows: int = 256
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    publish_every: int = 1024
    checkpoint_every: int = 20
    snapshot_every: int = 50
    guard: GuardConfig | None = None
    retention: Retention = field(default_factory=Retention)
    logs: LogRetention = field(default_factory=LogRetention)
    erase: ErasureConfig = field(default_factory=ErasureConfig)
    correction: Where = "training"
    objective: Objective | None = None
    metric_window_s: float = 3600.0
    prior: float = 0.5
    baselines: bool = False
    position: str | None = None
    recommend: RecommendConfig | None = None
    audit: bool = False
    durability: Literal["power", "process"] = "process"
    seed: int = 0
    data_files: tuple[Path, ...] = ()
    best_auc: Callable[[Events, bool], float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_rows", "publish_every", "checkpoint_every", "snapshot_every"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(self.dense_lr > 0, "dense_lr", got=self.dense_lr, expected="a positive number")
        require(self.metric_window_s > 0, "metric_window_s", got=self.metric_window_s, expected="a positive number")
        SamplingCorrection(self.join.negative_rate, self.correction)

    @property
    def request_schema(self) -> Schema:
        """What raw rows and requests look like: the schema itself, unless rows are prepared."""
        return self.schema if self.preparation is None else self.preparation.request_schema()
