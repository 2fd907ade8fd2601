"""Tables over several processes: one model, learned together.

    python examples/several_ranks.py                              # one process
    torchrun --nproc-per-node 2 examples/several_ranks.py         # two, each with half of every table

Every rank reads its own half of each batch. Rows travel to where they are needed and gradients back to where rows live;
dense weights are the same everywhere. What is learned is the same, up to the rounding of sums.
"""

from __future__ import annotations

import os
import sys

import torch

from headrace.data import IdFeature, Schema
from headrace.learn import LearnerConfig, RankLearner, gathered
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, Ranks, ShardedTable, TableConfig, open_table
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Version

ROWS = 256


def main() -> None:
    """Learn, and let rank 0 say what all have learned."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    ranks = Ranks.join() if "WORLD_SIZE" in os.environ else Ranks.alone()
    schema = Schema(features=(IdFeature("user", 8), IdFeature("item", 8)))
    tables = {
        name: ShardedTable(open_table(TableConfig(name=name, dim=dim, rule=Adagrad(lr=0.1))), ranks)
        for name, dim in schema.tables.items()
    }
    embed = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    model = DeepFM(embed, schema.id_names, 0, (16,), seed=1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    learner = RankLearner(model, embed, adam, LogLoss(), LearnerConfig(schema=schema))

    each = ROWS // ranks.size
    losses = []
    for batch in Toy(ToyConfig(users=512, items=64)).batches(ROWS, steps):
        mine = batch.slice(ranks.rank * each, (ranks.rank + 1) * each)
        losses.append(float(learner.learn(mine).total))  # the loss of all ranks together

    change = gathered(learner.changes(Version(-1)), ranks)
    if change is not None:
        rows = {name: len(put.ids) for name, put in change.tables.items()}
        print(f"{ranks.size} rank(s): loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last; rows {rows}")
        if ranks.size > 1:
            print(f"rank 0 keeps {len(tables['user'].rows().ids)} users and sent {ranks.traffic.bytes / 1e6:.1f} MB")
    ranks.leave()


if __name__ == "__main__":
    main()
