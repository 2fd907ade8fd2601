"""What a recipe means for the processes of an elastic run: its rows, its tables, its model over given tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import nn
from torch.optim import Optimizer

from headrace.elastic.config import ElasticConfig
from headrace.elastic.rows import RowReader
from headrace.learn import LearnerConfig, RankLearner
from headrace.learn.ledger import LEDGER, ledger_config
from headrace.learn.together import Together
from headrace.online.build import embedding, seeded_model, table_configs
from headrace.protocols import Table
from headrace.ranking.examples import Splits
from headrace.runtime.work_queue import QueueConfig
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig

SOURCE = "train"
FOR_EVER_S = 1e9


class Job:
    """What is learned in an elastic run.

    Args:
        config: The run.

    Attributes:
        fit: What the recipe makes, with what the run sets.
        tables: Of every table, the ledger of examples last (where the run counts them).
    """

    def __init__(self, config: ElasticConfig) -> None:
        self.config, self.fit = config, config.learned()
        self.served = self.fit.served()
        self.tables: list[TableConfig] = list(table_configs(self.served).values())
        if config.audit:
            self.tables.append(ledger_config())

    @cached_property
    def splits(self) -> Splits:
        """The examples."""
        return self.fit.data()

    @cached_property
    def reader(self) -> RowReader:
        """Reads training examples by their numbers."""
        return RowReader(self.splits.train, self.config.shard_rows)

    @property
    def lookups(self) -> tuple[FeatureLookup, ...]:
        """Which feature is looked up where."""
        return tuple(
            FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in self.fit.schema.id_features
        )

    def queue_config(self) -> QueueConfig:
        """Return how the training examples are cut into leases."""
        config, sync = self.config, self.config.mode == "sync"
        return QueueConfig(
            shard_rows=config.shard_rows, seed=self.fit.seed, epochs=self.fit.epochs, mode=config.delivery,
            shuffle=config.shuffle, split_rows=config.shard_rows if sync else None,
            lease_s=FOR_EVER_S if sync else max(10.0, 5 * config.silence_s), retry_s=0.0 if sync else 0.25,
        )  # fmt: skip

    def model(self, collection: EmbeddingCollection) -> nn.Module:
        """Return the model over tables, with its initial dense weights."""
        return seeded_model(self.served, collection)

    def dense_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimiser of the dense part."""
        return self.fit.dense.build(model)

    def learner(self, tables: Mapping[str, Table], together: Together | None = None) -> RankLearner:
        """Return a learner over tables that are given, in its initial state.

        Args:
            tables: By name; the ledger is left out.
            together: How the workers of a step add up.
        """
        fit = self.fit
        collection = embedding(fit.schema, {name: table for name, table in tables.items() if name != LEDGER})
        model = self.model(collection)
        settings = LearnerConfig(seed=fit.seed, row_gradients=fit.row_gradients, freshness=False, keep_versions=1,
                                 schema=fit.schema, dense_schedule=fit.dense.schedule)  # fmt: skip
        return RankLearner(model, collection, self.dense_optimizer(model), fit.objective, settings, together)
