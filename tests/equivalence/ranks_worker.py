"""One rank of tests/equivalence/test_ranks.py: learns its part of every batch and writes what all ranks learned.

python ranks_worker.py RANK SIZE MEETING_FILE OUTPUT_FOLDER CASE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from made_batches import ROWS, batches
from torch import nn
from torch.optim import Adam

from headrace.data import IdFeature, Schema, SequenceFeature
from headrace.errors import HeadraceError
from headrace.learn import LearnerConfig, RankLearner, gathered
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.optim import CowClip, RowL2
from headrace.store import Adam as RowAdam
from headrace.store import AdmitCount, EmbeddingCollection, FeatureLookup, Ranks, ShardedTable, TableConfig, open_table
from headrace.types import Batch, Version

CASES = ("sum", "mean", "bfloat16", "poisoned")


def part(batch: Batch, ranks: Ranks) -> Batch:
    """Return this rank's examples: unequal parts, in order."""
    cuts = [0, *(ROWS * (place + 1) // ranks.size - (place + 1 < ranks.size) for place in range(ranks.size))]
    cuts[-1] = ROWS
    return batch.slice(cuts[ranks.rank], cuts[ranks.rank + 1])


class Normed(nn.Module):
    """DeepFM with running statistics beside it, which ranks have to share."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.inner = DeepFM(embed, ("user", "item", "seen"), 2, (8,), seed=1)
        self.register_buffer("level", torch.zeros(1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B,)."""
        if self.training:
            self.level = self.level + 1.0
        logits: torch.Tensor = self.inner(batch)
        return logits


def learner(ranks: Ranks | None, case: str) -> RankLearner:
    """Return a learner over two tables, whole or spread over ranks."""
    transforms = (RowL2(weight=1e-3), CowClip(ratio=0.5, lower_bound=1e-3))
    tables = {
        "user": TableConfig(name="user", dim=4, rule=RowAdam(lr=0.05), ttl_s=4.0, seed=2, transforms=transforms),
        "item": TableConfig(name="item", dim=4, rule=RowAdam(lr=0.05), admission=AdmitCount(2), seed=3),
    }
    opened = {name: open_table(config) for name, config in tables.items()}
    if ranks is not None:
        opened = {name: ShardedTable(table, ranks) for name, table in opened.items()}
    lookups = [FeatureLookup(feature="user", table="user"), FeatureLookup(feature="item", table="item"),
               FeatureLookup(feature="seen", table="item", pooling="mean")]  # fmt: skip
    collection = EmbeddingCollection(opened, lookups)
    model = Normed(collection)
    features = (IdFeature("user", 4), IdFeature("item", 4), SequenceFeature("seen", 4, table="item"))
    config = LearnerConfig(row_gradients="mean" if case == "mean" else "sum", schema=Schema(features=features))
    return RankLearner(model, collection, Adam(model.parameters(), lr=0.01), LogLoss(), config)


def run(ranks: Ranks | None, case: str) -> dict[str, np.ndarray]:
    """Learn and return losses, dense tensors and rows; an empty mapping on ranks other than the first."""
    learns, losses = learner(ranks, case), []
    for place, batch in enumerate(batches()):
        own = batch if ranks is None else part(batch, ranks)
        if case == "poisoned" and place == 3 and (ranks is None or ranks.rank == ranks.size - 1):
            own.dense[-1, 0] = float("inf")
        try:
            losses.append(float(learns.learn(own).total))
        except HeadraceError as error:
            losses.append(-float(type(error).__name__ == "NonFiniteLoss"))
        if place == 2:
            first = learns.changes(Version(-1))
            first = first if ranks is None else gathered(first, ranks)
    second = learns.changes(Version(0, -1))
    second = second if ranks is None else gathered(second, ranks)
    found = {"losses": np.array(losses)}
    if first is None or second is None:
        return {}
    for name, change in (("first", first), ("second", second)):
        found |= {f"{name}/dense/{key}": value.numpy() for key, value in change.dense.items()}
        for table, rows in change.tables.items():
            found |= {f"{name}/{table}/ids": rows.ids.numpy(), f"{name}/{table}/rows": rows.rows.numpy(),
                      f"{name}/{table}/removed": rows.removed.numpy()}  # fmt: skip
        found |= {f"{name}/notes/{key}": np.sort(value.numpy()) for key, value in change.notes.items()}
    return found


def main() -> None:
    """Run one rank."""
    rank, size, meeting, folder, cases = sys.argv[1:]
    torch.set_num_threads(1)
    joined = Ranks.join(f"file://{meeting}", rank=int(rank), size=int(size), timeout_s=60.0)
    sent = {}
    for case in cases.split(","):
        ranks = Ranks(wire="bfloat16" if case == "bfloat16" else "float32")
        found = run(ranks, case)
        sent[case] = ranks.traffic.bytes
        if found:
            np.savez(Path(folder, f"{case}-{size}.npz"), **found)
    Path(folder, f"sent-{size}-{rank}.json").write_text(json.dumps(sent), encoding="utf-8")
    joined.leave()


if __name__ == "__main__":
    main()
