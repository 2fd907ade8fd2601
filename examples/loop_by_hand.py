"""Every part of the loop, put together by hand: what `headrace.online` does for you.

Simulated users ask and click; a replica answers with the version that was published last; a joiner waits for clicks; a
metric judges; a learner learns; a publisher makes versions. Run it: `python examples/loop_by_hand.py [REQUESTS]`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from headrace import EveryExamples, Loop, Report, run
from headrace.data import Collator, EmbeddedLog, EventJoin, EventJoiner, IdFeature, JoinConfig, Schema
from headrace.evaluate import ProgressiveMetric
from headrace.feedback import World, WorldConfig
from headrace.learn import LearnerConfig, ManifestCheckpoint, RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.protocols import Table
from headrace.publish import LogPublisher, Replica
from headrace.serve import RankPredictor
from headrace.store import Adagrad, AdmitCount, EmbeddingCollection, FeatureLookup, TableConfig, open_table

SCHEMA = Schema(features=(IdFeature("user", 9), IdFeature("item", 9), IdFeature("scenario", 9)))
BATCH_ROWS = 128


def tables(*, serving: bool) -> dict[str, Table]:
    """Return one table per feature; ids get a row when they were seen twice."""
    return {
        name: open_table(
            TableConfig(name=name, dim=dim, rule=Adagrad(lr=0.05), admission=AdmitCount(2), ttl_s=7 * 86_400.0),
            serving=serving,
        )
        for name, dim in SCHEMA.tables.items()
    }


def network(parts: dict[str, Table]) -> tuple[DeepFM, EmbeddingCollection]:
    """Return DeepFM over the tables; the same seed gives learner and replica the same first weights."""
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in SCHEMA.id_features]
    collection = EmbeddingCollection(parts, lookups)
    return DeepFM(collection, SCHEMA.id_names, dense_dim=0, hidden=(16,), seed=0), collection


def main(requests: int, folder: Path) -> Report:
    """Run the loop to the end of the stream and report; run it again in the same folder and it resumes."""
    model, collection = network(tables(serving=False))
    learner = RankLearner(
        model, collection, torch.optim.Adam(model.parameters(), lr=1e-3), LogLoss(),
        LearnerConfig(schema=SCHEMA, row_gradients="sum"),
    )  # fmt: skip

    serving_tables = tables(serving=True)
    serving_model, _ = network(serving_tables)
    replica = Replica(serving_tables, serving_model)

    publisher = LogPublisher(EmbeddedLog(folder / "changes.db", durability="process"), snapshots=folder / "snapshots")
    replica.catch_up(publisher)

    world = World(WorldConfig(requests=requests))
    join = EventJoin(JoinConfig(window_s=3600, lateness_s=60))
    return run(
        Loop(
            source=world,
            feedback=world,
            predictor=RankPredictor(serving_model.eval(), replica, SCHEMA),
            joiner=EventJoiner(join, Collator(SCHEMA, BATCH_ROWS)),
            metric=ProgressiveMetric(window_s=3600),
            learner=learner,
            publisher=publisher,
            cadence=EveryExamples(2048),
            checkpoint=ManifestCheckpoint(folder / "checkpoint"),
            batch_rows=BATCH_ROWS,
        )
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000, Path(place))
    for name, figure in result.figures.items():
        print(f"{name:<24} {figure.value:>12.4f} {figure.unit}")
