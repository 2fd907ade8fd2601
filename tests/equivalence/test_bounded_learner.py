"""A learner whose tables have a budget, or keep no history, publishes what its replicas need all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.learn import RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.publish import LogPublisher, Replica
from headrace.store import LRU, EmbeddingCollection, FeatureLookup, Storage, TableConfig, bytes_for, open_table
from headrace.store.capacity import removal_limit
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Change, Version

NAMES = ("user", "item")
TOY = Toy(ToyConfig(users=1024, items=1024))


def parts(serving: bool, storage: Storage) -> tuple[dict[str, Any], DeepFM, EmbeddingCollection]:
    tables: dict[str, Any] = {
        name: open_table(TableConfig(name=name, dim=4, storage=storage), serving=serving) for name in NAMES
    }
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in NAMES])
    return tables, DeepFM(collection, NAMES, 0, (8,), seed=1), collection


def learner(storage: Storage) -> RankLearner:
    _, model, collection = parts(False, storage)
    return RankLearner(model, collection, torch.optim.Adam(model.parameters(), lr=1e-2), LogLoss())


def assert_same_rows(one: RankLearner, replica: Replica) -> None:
    ids = torch.arange(1024)
    for name in NAMES:
        assert torch.equal(one.tables[name].lookup(ids), replica.tables[name].lookup(ids)), name


def small(rows: int, **settings: Any) -> Storage:
    roomy = TableConfig(name="t", dim=4, storage=Storage(max_bytes=2**40, **settings))
    return Storage(max_bytes=bytes_for(roomy, rows), **settings)


def test_a_replica_follows_tables_that_are_always_full(tmp_path: Path) -> None:
    storage = small(400, when_full=LRU())
    one = learner(storage)
    publisher = LogPublisher(EmbeddedLog(tmp_path / "changes.db", durability="process"), tmp_path / "snapshots")
    tables, model, _ = parts(True, Storage())
    replica, full = Replica(tables, model), []
    for number, batch in enumerate(TOY.batches(24, 120)):
        one.learn(batch)
        change = one.changes(Version(number - 1))
        full.append(change.full)
        publisher.publish(change)
        replica.catch_up(publisher)
        assert_same_rows(one, replica)
    stats = one.tables["user"].stats()  # type: ignore[attr-defined]
    assert stats.evicted > 500
    assert stats.bytes <= stats.max_bytes
    assert full == [True] + [False] * 119


@pytest.mark.parametrize("storage", [small(400), Storage(history=False)], ids=["budget", "no history"])
def test_a_change_is_full_where_a_table_cannot_tell_what_went(storage: Storage) -> None:
    one = learner(storage)
    tables, model, _ = parts(True, Storage())
    replica, changes = Replica(tables, model), list[Change]()
    batches = list(TOY.batches(256, 24))
    for number in range(4):
        for batch in batches[number * 6 : number * 6 + 6]:
            one.learn(batch)
        changes.append(one.changes(Version(number - 1)))
        assert one.changes(Version(number - 1)).checksum() == changes[-1].checksum()
        replica.apply(changes[-1])
        assert_same_rows(one, replica)
    assert [change.full for change in changes] == [True] * 4
    removals = removal_limit(TableConfig(name="t", dim=4, storage=storage))
    assert removals is None or one.tables["user"].stats().evicted > 8 * removals  # type: ignore[attr-defined]
