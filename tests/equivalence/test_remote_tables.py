"""Tables at servers learn what tables at hand learn, to the bit, however many servers there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from made_batches import STEPS, batches
from torch.optim import Adam

from headrace.data import IdFeature, Schema, SequenceFeature
from headrace.elastic.buckets import BucketMap
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.elastic.remote_tables import RemoteTables
from headrace.elastic.table_server import TableServer
from headrace.elastic.table_wire import ServerClient, serve_tables
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.optim import CowClip, RowL2
from headrace.store import (
    FTRL,
    Adagrad,
    AdmitCount,
    AdmitSketch,
    EmbeddingCollection,
    FeatureLookup,
    TableConfig,
    open_table,
)
from headrace.store import Adam as RowAdam
from headrace.testing.equivalence import first_difference
from headrace.types import Version

SECRET = b"s" * 32
CONFIGS = (
    TableConfig(name="user", dim=4, rule=RowAdam(lr=0.05), ttl_s=4.0, seed=2,
                transforms=(RowL2(weight=1e-3), CowClip(ratio=0.5, lower_bound=1e-3))),
    TableConfig(name="item", dim=4, rule=Adagrad(lr=0.05), admission=AdmitCount(2), seed=3),
    TableConfig(name="place", dim=4, rule=FTRL(), admission=AdmitSketch(2, cells_per_bucket=8, depth=2), seed=4),
)  # fmt: skip


def learner(tables, case: str) -> RankLearner:
    features = ("user", "item", "place", "seen")
    lookups = [FeatureLookup(feature=name, table="item" if name == "seen" else name,
                             pooling="mean" if name == "seen" else "sum") for name in features]  # fmt: skip
    collection = EmbeddingCollection(tables, lookups)
    model = DeepFM(collection, features, 2, (8,), seed=1)
    schema = Schema(features=(*(IdFeature(name, 4) for name in features[:3]), SequenceFeature("seen", 4, table="item")))
    config = LearnerConfig(row_gradients="mean" if case == "mean" else "sum", schema=schema)
    return RankLearner(model, collection, Adam(model.parameters(), lr=0.01), LogLoss(), config)


def trajectory(one: RankLearner, between=lambda step: None) -> dict:
    found: dict = {"losses": []}
    for step, batch in enumerate(batches(place=True)):
        found["losses"].append(float(one.learn(batch).total))
        if step == 2:
            found["first"] = one.changes(Version(-1))
        between(step)
    return found | {"second": one.changes(Version(0, -1))}


@contextmanager
def in_process(count: int, folder=None) -> Iterator[tuple[RemoteTables, list[TableServer], Directory, BucketDirectory]]:
    buckets = BucketMap.even(range(count))
    servers = [TableServer(number, CONFIGS, buckets, folder=folder) for number in range(count)]
    record = BucketDirectory(buckets)
    for number in range(count):
        record.set_server(number, str(number))
    directory = Directory(record.fields, lambda address: servers[int(address)])
    remote = RemoteTables(CONFIGS, directory)
    try:
        yield remote, servers, directory, record
    finally:
        remote.close()


@pytest.fixture(scope="module")
def at_hand() -> dict[str, dict]:
    return {case: trajectory(learner({config.name: open_table(config) for config in CONFIGS}, case))
            for case in ("sum", "mean")}  # fmt: skip


@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("case", ["sum", "mean"])
def test_servers_learn_what_tables_at_hand_learn(at_hand, case, servers) -> None:
    with in_process(servers) as (remote, *_):
        found = trajectory(learner(remote.tables, case))
    assert first_difference(found, at_hand[case]) is None


def test_the_case_is_not_trivial(at_hand) -> None:
    found = at_hand["sum"]
    assert len(found["second"].tables["user"].removed) > 0  # something expired
    assert 0 < len(found["first"].tables["item"].ids) < 40  # something was not admitted
    assert float(found["second"].tables["user"].rows.abs().max()) > 0.02  # something was learned


def test_sockets_change_nothing(at_hand) -> None:
    buckets, record = BucketMap.even([0, 1]), BucketDirectory(BucketMap.even([0, 1]))
    wires = []
    for number in range(2):
        wire, server = serve_tables(number, CONFIGS, SECRET)
        server.copies.restore(buckets, 0, [])
        record.set_server(number, wire.address)
        wires.append(wire)
    directory = Directory(record.fields, lambda address: ServerClient(address, SECRET))
    remote = RemoteTables(CONFIGS, directory)
    found = trajectory(learner(remote.tables, "sum"))
    remote.close()
    directory.close()
    for wire in wires:
        wire.close()
    assert first_difference(found, at_hand["sum"]) is None


def test_buckets_that_move_while_learning_change_nothing(at_hand, tmp_path) -> None:
    with in_process(3, tmp_path) as (remote, servers, _, record):
        draw = np.random.default_rng(5)

        def between(step: int) -> None:
            source, target = draw.permutation(3)[:2]
            own = np.flatnonzero(record.map.mask(source))
            chosen = draw.choice(own, len(own) // 2, replace=False).tolist()
            record.moved(servers[source].departures.move(chosen, int(target), servers[target].arrivals))
            servers[3 - source - target].advance(record.map)
            if step % 2:
                servers[target].departures.tidy()

        found = trajectory(learner(remote.tables, "sum"), between)
        assert record.map.version == STEPS
        assert sum(server.stats()["buckets"] for server in servers) == 4096
    assert first_difference(found, at_hand["sum"]) is None
