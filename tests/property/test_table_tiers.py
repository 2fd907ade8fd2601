"""A table whose cold rows lie in a file is, in every bit that can be read, the table that holds all in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.errors import HeadraceError
from headrace.store import (
    LRU,
    SGD,
    Adagrad,
    Adam,
    AdmitAll,
    AdmitCount,
    AdmitProbability,
    AdmitSketch,
    Disk,
    EmbeddingCollection,
    FeatureLookup,
    NativeTable,
    Storage,
    TableConfig,
    begin_save,
    load_table,
)
from headrace.store.table import load_native
from headrace.types import Batch, Jagged

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

DISK = Disk(folder=tempfile.gettempdir(), memory_bytes=10**8)
RULES = [SGD(lr=0.3), Adagrad(), Adam(correction="table")]
ADMISSIONS = [AdmitAll(), AdmitAll(), AdmitCount(2), AdmitProbability(0.4), AdmitSketch(2, cells_per_bucket=4)]
STORAGES = [
    Storage(), Storage(event_times=False, history=False), Storage(history=False), Storage(precision="bfloat16"),
    Storage(max_bytes=10**7), Storage(max_bytes=10**7, when_full=LRU(), precision="float16"),
]  # fmt: skip
IDS = st.one_of(st.integers(0, 9), st.integers(-60, 60), st.integers(-(2**63), 2**63 - 1))
UNIQUE = st.lists(IDS, max_size=30, unique=True)
LOOKUPS = [FeatureLookup(feature="a", table="t"), FeatureLookup(feature="b", table="t", pooling="mean")]


def ids_of(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def same(one: Any, other: Any) -> bool:
    """Equal in every bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return bool(one == other)


def jagged(values: list[list[int]]) -> Jagged:
    lengths = torch.tensor([0, *(len(value) for value in values)])
    return Jagged(ids_of([item for value in values for item in value]), lengths.cumsum(0))


class Tiers(RuleBasedStateMachine):
    """Two tables, one with room for few rows in memory; whatever is done to both must answer alike."""

    @initialize(
        rule_=st.sampled_from(RULES), admission=st.sampled_from(ADMISSIONS), storage=st.sampled_from(STORAGES),
        capacity=st.sampled_from([5, 30, 130]), hot=st.sampled_from([0, 1, 5, 40]), dim=st.integers(1, 4),
        expires=st.booleans(),
    )  # fmt: skip
    def start(
        self, rule_: Any, admission: Any, storage: Storage, capacity: int, hot: int, dim: int, expires: bool
    ) -> None:
        ttl_s = 20e-6 if expires and storage.event_times else None
        self.config = TableConfig(name="t", dim=dim, rule=rule_, admission=admission, storage=storage, ttl_s=ttl_s)
        self.capacity = None if storage.max_bytes is None else capacity
        self.hot, self.now, self.since = hot, 0, 0
        self.take(*self.opened())

    def opened(self) -> tuple[NativeTable, NativeTable]:
        """Return a fresh table without tiers and one with."""
        tiered = replace(self.config, storage=replace(self.config.storage, disk=DISK))
        plain = NativeTable(self.config, _capacity=self.capacity)
        return plain, NativeTable(tiered, _capacity=self.capacity, _hot_rows=self.hot)

    def take(self, plain: NativeTable, tiered: NativeTable) -> None:
        self.plain, self.tiered = plain, tiered
        self.collections = [EmbeddingCollection({"t": table}, LOOKUPS) for table in (plain, tiered)]

    def both(self, call: Callable[[NativeTable], Any]) -> None:
        """Call both and compare answers or errors."""
        answers: list[Any] = []
        for table in (self.plain, self.tiered):
            try:
                answers.append(call(table))
            except HeadraceError as error:
                answers.append((type(error), str(error)))
        assert same(answers[0], answers[1]), answers

    @rule(values=st.lists(st.tuples(UNIQUE, UNIQUE), min_size=1, max_size=6), twice=st.booleans())
    def learn(self, values: list[tuple[list[int], list[int]]], twice: bool) -> None:
        """Take steps through the packed pass; the second forward pass may be made before the first is applied."""
        self.now += 3
        size, nothing = len(values), torch.zeros(len(values))
        whole = torch.zeros(size, dtype=torch.int64)
        batch = Batch(
            ids={"a": jagged([a for a, _ in values]), "b": jagged([b for _, b in values])}, dense=nothing[:, None],
            labels=nothing, weights=nothing, event_times=whole + self.now, accepted_times=whole, example_ids=whole,
            predictions=nothing, versions=whole, sample_rates=nothing,
        )  # fmt: skip
        outputs = []
        for collection in self.collections:
            rows = [collection(batch) for _ in range(1 + twice)]
            sum((row["a"].sum() + (row["b"] * 0.5).sum() for row in rows), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
            collection.apply_gradients(batch)
            outputs.append({name: row.detach() for name, row in rows[0].items()})
        assert same(*outputs)

    @rule(start=st.integers(-60, 60), n=st.integers(0, 150), count=st.sampled_from([1, 2, 300]))
    def update(self, start: int, n: int, count: int) -> None:
        self.now += 1
        ids = torch.arange(start, start + n)
        grads = ((ids % 7 - 3) / 4).float()[:, None].expand(n, self.config.dim).contiguous()
        self.both(lambda table: table.update(ids, grads, torch.full_like(ids, count), torch.full_like(ids, self.now)))

    @rule(values=UNIQUE)
    def assign(self, values: list[int]) -> None:
        rows = torch.arange(len(values) * self.config.dim).float().reshape(-1, self.config.dim)
        self.both(lambda table: table.assign(ids_of(values), rows, torch.full((len(values),), self.now)))

    @rule(values=UNIQUE)
    def remove(self, values: list[int]) -> None:
        self.both(lambda table: table.remove(ids_of(values)))

    @rule(age=st.integers(0, 30))
    def evict(self, age: int) -> None:
        self.both(lambda table: table.evict(self.now - age))

    @rule(forget=st.booleans())
    def read(self, forget: bool) -> None:
        """Ask what is there and what changed, in every way."""
        ids = torch.arange(-70, 70)
        self.both(lambda table: {"rows": table.lookup(ids), "there": table.contains(ids)})
        self.both(lambda table: {"ids": table.rows().ids, "rows": table.rows().rows})
        self.both(lambda table: vars_of(table.changes(self.since)))
        if forget:
            self.since = self.plain.mark()
            self.both(lambda table: table.forget(self.since))

    @rule(values=st.lists(IDS, min_size=1, max_size=40, unique=True))
    def warm(self, values: list[int]) -> None:
        counts = torch.arange(1, len(values) + 1)
        assert self.plain.warm(ids_of(values), counts) == 0
        assert self.tiered.warm(ids_of(values), counts) <= self.hot

    @rule(crossed=st.booleans())
    def restore(self, crossed: bool) -> None:
        plain, tiered = self.opened()
        plain.restore((self.tiered if crossed else self.plain).state())
        tiered.restore((self.plain if crossed else self.tiered).state())
        self.take(plain, tiered)

    @rule(values=UNIQUE)
    def save(self, values: list[int]) -> None:
        """Write a file while the table is written to, and read it into tables of both kinds."""
        then = self.plain.state()
        with tempfile.TemporaryDirectory() as folder:
            saving = begin_save(self.tiered, Path(folder) / "table")
            self.both(lambda table: table.remove(ids_of(values)))
            self.update(-20, 60, 1)
            saving.wait()
            for table in self.opened():
                load_table(table, Path(folder) / "table")
                assert same(table.state(), then)

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "tiered"):
            return
        assert same(self.plain.state(), self.tiered.state())
        tier = self.tiered.tier()
        assert tier is not None
        assert tier.hot_rows <= self.hot
        assert tier.hot_rows + tier.cold_rows == len(self.plain)
        assert self.capacity is None or self.tiered.stats().bytes <= 10**7


def vars_of(change: Any) -> dict[str, torch.Tensor]:
    return {"ids": change.ids, "rows": change.rows, "removed": change.removed}


Tiers.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)  # fmt: skip
TestTiers = Tiers.TestCase
