"""Buckets may move between servers at any moment of any step, in any order of events: one table knows no difference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.elastic.buckets import BucketMap
from headrace.elastic.holdings import joined, part_of
from headrace.elastic.table_server import TableServer
from headrace.elastic.transactions import Part, Transaction, summed
from headrace.errors import StaleError
from headrace.optim import RowL2
from headrace.store import Adagrad, Adam, AdmitCount, AdmitSketch, ReferenceTable, TableConfig, Uniform
from headrace.store.parts import from_state
from headrace.testing.equivalence import first_difference

SERVERS, IDS, WORKERS = 3, 24, 2
CONFIGS = (
    TableConfig(name="a", dim=2, rule=Adam(lr=0.1), transforms=(RowL2(weight=0.1, untouched="lazy"),), seed=1),
    TableConfig(name="b", dim=1, rule=Adagrad(lr=0.1), init=Uniform(0.1), seed=2,
                admission=AdmitSketch(2, cells_per_bucket=8, depth=2)),
    TableConfig(name="c", dim=1, rule=Adagrad(lr=0.1), admission=AdmitCount(2), seed=3),
)  # fmt: skip
COMPARED = ("ids", "rows", "slots", "times", "marks", "pending_ids", "pending_counts", "removed_ids", "sketch", "mark")
DIMS = {config.name: config.dim for config in CONFIGS}


@dataclass
class World:
    """Servers, one table of each kind, and what is under way."""

    servers: list[TableServer]
    tables: dict[str, ReferenceTable]
    told: list[list[Transaction]] = field(default_factory=list)
    at: list[int] = field(default_factory=lambda: [0] * SERVERS)
    attempts: int = 0

    @staticmethod
    def fresh() -> World:
        buckets = BucketMap.even(range(SERVERS))
        servers = [TableServer(number, CONFIGS, buckets) for number in range(SERVERS)]
        return World(servers, {config.name: ReferenceTable(config) for config in CONFIGS})

    def map(self) -> BucketMap:
        return max((server.map for server in self.servers), key=lambda one: one.version)

    def prepare(self, transaction: Transaction, part: Part, buckets: BucketMap, only: set[int]) -> bool:
        """Prepare at some servers by a map that may be old; return whether all of them took it."""
        self.attempts += 1
        shares, good = part.by_owner(buckets.owners, range(SERVERS)), True
        for number in sorted(only):
            try:
                self.servers[number].prepare(transaction, self.attempts, buckets.version, shares[number])
            except StaleError:
                good = False
        return good

    def step(self, draw, old: BucketMap) -> None:
        """Prepare a step by all workers, perhaps first by an old map, and decide it."""
        parts, names = [], []
        for worker in range(WORKERS):
            transaction, part = Transaction(f"w{worker}", 0, len(self.told) + 1), _part(draw)
            if draw.random() < 0.5:
                self.prepare(transaction, part, old, set(draw.permutation(SERVERS)[: draw.integers(1, 4)].tolist()))
            for server in self.servers:
                server.advance(self.map())
            if draw.random() < 0.3:
                self.move(draw)  # between an attempt and the next
            for server in self.servers:
                server.advance(self.map())
            assert self.prepare(transaction, part, self.map(), set(range(SERVERS)))
            parts.append(part)
            names.append(transaction)
        total = summed(parts, DIMS)
        for name, step in total.steps.items():
            self.tables[name].update(*(torch.from_numpy(array) for array in step))
        for name, before in total.evict.items():
            self.tables[name].evict(before)
        self.told.append(names)

    def tell(self, server: int) -> None:
        """Tell a server the next step that it has not heard of."""
        if self.at[server] < len(self.told):
            self.at[server] += 1
            self.servers[server].apply(self.at[server], self.told[self.at[server] - 1])

    def move(self, draw) -> None:
        source, target = draw.permutation(SERVERS)[:2].tolist()
        own = np.flatnonzero(self.map().mask(source))
        if not len(own):
            return
        for server in self.servers:
            server.advance(self.map())
        while any(one.applied != self.at[source] for one in self.servers[source].holdings):
            self.tell(source)  # it waits for that
        chosen = draw.choice(own, max(1, len(own) // int(draw.integers(1, 4))), replace=False).tolist()
        self.servers[source].departures.move(chosen, target, self.servers[target].arrivals)

    def state(self, name: str) -> dict[str, object]:
        """Return the state of a table over all servers, and check that every bucket is at one of them."""
        found, owned = [], np.zeros(4096, np.int64)
        for server in self.servers:
            for one in server.holdings:
                owned += one.mask
                parts = from_state(one.tables[name].config, False, one.tables[name].state())
                found.append(part_of(parts, one.mask, counted=True))
        assert (owned == 1).all()
        whole = joined(found)
        return {item: getattr(whole, item) for item in COMPARED}


def _part(draw) -> Part:
    steps = {}
    for name, dim in DIMS.items():
        if draw.random() < 0.8:
            ids = np.unique(draw.integers(0, IDS, draw.integers(0, 8)))
            shape = (len(ids), dim)
            steps[name] = (ids, draw.normal(size=shape).astype(np.float32), draw.integers(1, 3, len(ids)),
                           draw.integers(0, 100, len(ids)))  # fmt: skip
    return Part(steps, {"a": int(draw.integers(0, 40))} if draw.random() < 0.2 else {})


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), events=st.lists(st.sampled_from("sssmtttdd"), min_size=1, max_size=14))
def test_one_table_knows_no_difference(seed: int, events: list[str]) -> None:
    draw, world = np.random.default_rng(seed), World.fresh()
    old = world.map()
    for event in events:
        if event == "s":
            world.step(draw, old)
        elif event == "m":
            old = world.map()
            world.move(draw)
        elif event == "t":
            world.tell(int(draw.integers(SERVERS)))
        else:
            number = int(draw.integers(SERVERS))
            if all(one.applied == world.servers[number].applied for one in world.servers[number].holdings):
                world.servers[number].departures.tidy()
    for server in range(SERVERS):
        while world.at[server] < len(world.told):
            world.tell(server)
    for name, table in world.tables.items():
        parts = from_state(table.config, False, table.state())
        wanted = {item: getattr(parts, item) for item in world.state(name)}
        assert first_difference(world.state(name), wanted) is None
