"""From a configuration to the parts of the loop. No arithmetic here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from headrace.data import Schema, load_statistics, save_statistics
from headrace.data.prepare_statistics import check_preparation
from headrace.learn import LearnerConfig, RankLearner
from headrace.learn.ledger import LEDGER, open_ledger
from headrace.objectives import LogLoss
from headrace.online.config import OnlineConfig
from headrace.online.layout import RunFolder
from headrace.protocols import Table
from headrace.publish import Replica
from headrace.publish.replica import Mode
from headrace.serve import RankPredictor
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig, open_table


def table_configs(config: OnlineConfig) -> dict[str, TableConfig]:
    """Return what each table of the schema is made of, by name."""
    found = {}
    for name, dim in config.schema.tables.items():
        settings = config.table_overrides.get(name, config.tables)
        found[name] = TableConfig(
            name=name, dim=dim, rule=settings.rule, init=settings.init, seed=config.seed,
            admission=settings.admission, ttl_s=settings.ttl_s, transforms=settings.transforms,
            storage=settings.storage, schedule=settings.schedule,
        )  # fmt: skip
    return found


def open_tables(config: OnlineConfig, *, serving: bool = False) -> dict[str, Table]:
    """Open one empty table per table name of the schema."""
    return {name: open_table(table, serving=serving) for name, table in table_configs(config).items()}


def embedding(schema: Schema, tables: dict[str, Table]) -> EmbeddingCollection:
    """Return the embedding module that reads the schema's id features from the tables."""
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in schema.id_features]
    return EmbeddingCollection(tables, lookups)


def seeded_model(config: OnlineConfig, embed: nn.Module) -> nn.Module:
    """Build the network from the configuration's seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.model(embed, config.schema, config.seed)


def open_learner(config: OnlineConfig) -> RankLearner:
    """Return a learner in its initial state."""
    tables = open_tables(config)
    collection = embedding(config.schema, tables)
    model = seeded_model(config, collection)
    return RankLearner(
        model, collection, torch.optim.Adam(model.parameters(), lr=config.dense_lr),
        config.objective or LogLoss(negative_rate=config.join.negative_rate, correction=config.correction),
        LearnerConfig(audit=config.audit, schema=config.schema, seed=config.seed),
    )  # fmt: skip


def keep_preparation(config: OnlineConfig, folder: RunFolder) -> None:
    """Store the statistics that rows are prepared with beside the model, if there are any.

    Raises:
        ConfigError: If the run has been learning with others.
    """
    check_preparation(config.schema, config.preparation)
    if config.preparation is None:
        return
    if not folder.preparation.exists():
        save_statistics(config.preparation, folder.preparation)
    check_preparation(config.schema, load_statistics(folder.preparation))


def with_preparation(config: OnlineConfig, folder: RunFolder) -> OnlineConfig:
    """Return the configuration with the statistics that lie beside the model, where it names them but has none."""
    if config.preparation is not None or not config.schema.preparation:
        return config
    return replace(config, preparation=load_statistics(folder.preparation))


@dataclass(frozen=True, slots=True)
class Serving:
    """A replica and the predictor that reads it."""

    replica: Replica
    predictor: RankPredictor


def open_serving(config: OnlineConfig, *, mode: Mode = "consistent") -> Serving:
    """Return an empty replica and its predictor; it answers after the first version was applied.

    Args:
        config: The run.
        mode: Whether rows and dense tensors are held together; see `Replica`.
    """
    tables = open_tables(config, serving=True)
    collection = embedding(config.schema, tables)
    model = seeded_model(config, collection).eval()
    if config.audit:
        tables[LEDGER] = open_ledger(serving=True)
    replica = Replica(tables, model, mode=mode)
    rate = config.join.negative_rate if config.correction == "serving" else 1.0
    predictor = RankPredictor(model, replica, config.schema, negative_rate=rate, preparation=config.preparation)
    return Serving(replica, predictor)
