"""What a ranking recipe returns: one frozen configuration of a ranker that is fitted offline and then served."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from headrace.config import known_name, require
from headrace.data import JoinConfig, PreparedStatistics, Schema
from headrace.learn import PipelineConfig
from headrace.objectives import LogLoss
from headrace.online.config import ModelBuilder, OnlineConfig, TableSettings
from headrace.protocols import Objective, Schedule
from headrace.ranking.examples import ReadSplits

OPTIMISERS = ("adam", "adamw", "adagrad", "sgd")


@dataclass(frozen=True, kw_only=True)
class DenseOptimizer:
    """How the dense part learns.

    Attributes:
        kind: `adam`, `adamw`, `adagrad` or `sgd`, as torch has them.
        lr: Learning rate.
        weight_decay: L2 in the gradient (λ w is added to it); for `adamw` apart from the gradient.
        eps: Keeps the division of the adaptive ones defined.
        schedule: What the rate is multiplied with in step 1, 2, ...; None: always 1.

    Raises:
        ConfigError: If a value cannot work.
    """

    kind: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    eps: float = 1e-8
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        known_name("DenseOptimizer.kind", self.kind, OPTIMISERS)
        require(self.lr > 0, "DenseOptimizer.lr", got=self.lr, expected="a positive number")
        require(self.weight_decay >= 0, "DenseOptimizer.weight_decay", got=self.weight_decay, expected="0 or more")
        require(self.eps > 0, "DenseOptimizer.eps", got=self.eps, expected="a positive number")

    def build(self, model: nn.Module) -> Optimizer:
        """Return the optimiser over a model's parameters."""
        parameters = list(model.parameters())
        if self.kind == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, weight_decay=self.weight_decay)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}[self.kind]
        built: Optimizer = kind(parameters, lr=self.lr, weight_decay=self.weight_decay, eps=self.eps)
        return built


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """A ranker from examples to a served version.

    Attributes:
        name: For people; shown in views and reports.
        data: Reads the three splits when the fit begins. A frozen dataclass with `__call__` says in the run record
            what it reads; a function only its name.
        schema: Features and label.
        model: Builds the network.
        tables: Settings of every table; `table_overrides` replaces them for single tables.
        dense: How the dense part learns.
        batch_rows: Examples per learning step.
        epochs: Times the training examples are read.
        patience: Validations in a row without a better AUC after which the fit ends; None: it never does early.
        evaluate_every: Steps between two validations inside an epoch; None: only at its end.
        row_gradients: What table rows learn from; see `LearnerConfig`. `mean` is what offline recipes and
            published hyper-parameters are made for.
        objective: The loss.
        pipeline: How far ahead of the learner examples are read; changes no result.
        micro_batches: Slices of a batch whose gradients are added; see `LearnerConfig`. None: as many as are fastest
            for the first batch, which the report says and the checkpoint keeps; another run may choose otherwise, and
            differ in the rounding of sums.
        preparation: Statistics that raw rows are prepared with when serving; the schema is then theirs. None: rows
            are read as they come.
        data_files: Files whose SHA-256 goes into the run record, beside those that the data name themselves.
        notes: Sentences for the report.

    Raises:
        ConfigError: If a value cannot work.
    """

    name: str
    data: ReadSplits
    schema: Schema
    model: ModelBuilder
    tables: TableSettings = field(default_factory=TableSettings)
    table_overrides: dict[str, TableSettings] = field(default_factory=dict)
    dense: DenseOptimizer = field(default_factory=DenseOptimizer)
    batch_rows: int = 1024
    epochs: int = 2
    patience: int | None = 2
    evaluate_every: int | None = None
    row_gradients: Literal["mean", "sum"] = "mean"
    objective: Objective = field(default_factory=LogLoss)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    micro_batches: int | None = 1
    preparation: PreparedStatistics | None = None
    seed: int = 0
    data_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.name), "FitConfig.name", got=self.name, expected="a name")
        for name in ("batch_rows", "epochs"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        for name in ("patience", "evaluate_every", "micro_batches"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, got=value, expected="a positive integer or None")
        known_name("row_gradients", self.row_gradients, ["mean", "sum"])

    def served(self) -> OnlineConfig:
        """Return the same ranker as the roles want it that serve, predict and evaluate."""
        return OnlineConfig(
            name=self.name, schema=self.schema, model=self.model, tables=self.tables,
            table_overrides=self.table_overrides, join=JoinConfig(window_s=3600.0, lateness_s=60.0),
            dense_lr=self.dense.lr, batch_rows=self.batch_rows, seed=self.seed, data_files=self.data_files,
            preparation=self.preparation, notes=self.notes,
        )  # fmt: skip


def as_online(config: OnlineConfig | FitConfig) -> OnlineConfig:
    """Return any recipe's configuration as the roles that serve want it."""
    return config.served() if isinstance(config, FitConfig) else config
