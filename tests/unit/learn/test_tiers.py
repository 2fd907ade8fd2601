from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.learn import RankLearner
from headrace.learn.tiers import hot_shares, tables_on_disk
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.store import Disk, EmbeddingCollection, FeatureLookup, Storage, TableConfig, TierStats, open_table
from headrace.store.table import load_native
from headrace.testing import Toy, ToyConfig

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")


def test_the_share_of_rows_in_memory_is_that_between_two_counts() -> None:
    first, then = TierStats(1, 1, 0, 0, 10, 10, 0), TierStats(1, 1, 0, 0, 40, 20, 0)
    assert hot_shares({"t": first}, {"t": then}) == {"hot/t": 0.75}
    assert hot_shares({"t": first}, {"t": first}) == {"hot/t": 1.0}
    assert hot_shares({"t": then}, {"t": first}) == {"hot/t": 1.0}  # restored in between: counts began anew


def test_a_learner_says_how_many_rows_were_in_memory(tmp_path: Path) -> None:
    batches = list(Toy(ToyConfig()).batches(64, 3))
    names = list(batches[0].ids)
    disk = Storage(disk=Disk(folder=str(tmp_path), memory_bytes=10**7))
    tables = {
        name: open_table(TableConfig(name=name, dim=4, storage=disk if name == names[0] else Storage()))
        for name in names
    }
    assert list(tables_on_disk(tables)) == names[:1]
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in names])
    model = DeepFM(collection, names, batches[0].dense.shape[1], hidden=(8,))
    learner = RankLearner(model, collection, torch.optim.SGD(model.parameters(), lr=0.1), LogLoss())
    parts = [name for name in learner.learn(batches[0]).parts if name.startswith("hot/")]
    assert parts == [f"hot/{names[0]}"]
    assert float(learner.learn(batches[0]).parts[parts[0]]) == 1.0
