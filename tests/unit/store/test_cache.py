"""Tables larger than memory: settings, refusals, numbers, and the promise that only speed depends on them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headrace.errors import CapacityError, ConfigError, StoreError
from headrace.store import (
    AdmitCount,
    AdmitSketch,
    Disk,
    EmbeddingCollection,
    FeatureLookup,
    NativeTable,
    ReferenceTable,
    Storage,
    TableConfig,
    TierStats,
    begin_save,
    load_table,
    memory_for,
    open_table,
)
from headrace.store.table import load_native
from headrace.types import Batch, Jagged

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

ROWS = 6000
PLAIN = TableConfig(name="t", dim=8)


def tiered(folder: Path, memory_bytes: int | None = None, config: TableConfig = PLAIN) -> NativeTable:
    """A table with room for a sixth of its rows in memory, or so: a small one has spare room beside its map."""
    disk = Disk(folder=str(folder), memory_bytes=memory_bytes or memory_for(config, ROWS, 0.0))
    table = open_table(replace(config, storage=replace(config.storage, disk=disk)))
    assert isinstance(table, NativeTable)
    return table


def learn(table: NativeTable, ids: torch.Tensor, time: int = 0) -> None:
    grads = ((ids % 7 - 3).float() / 8)[:, None].expand(-1, table.config.dim).contiguous()
    table.update(ids, grads, torch.ones_like(ids), torch.full_like(ids, time))


def tier_of(table: NativeTable) -> TierStats:
    tier = table.tier()
    assert tier is not None
    return tier


@pytest.mark.parametrize(
    "settings",
    [{"folder": ""}, {"folder": None}, {"memory_bytes": 1000}, {"memory_bytes": 1e9}, {"memory_bytes": True},
     {"memory_bytes": 2**62}],
    ids=str,
)  # fmt: skip
def test_a_disk_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"Disk\."):
        Disk(**{"folder": "/tmp", "memory_bytes": 10**8, **settings})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Storage\.disk"):
        Storage(disk="/tmp")  # type: ignore[arg-type]


def test_memory_that_filters_alone_take_is_refused() -> None:
    disk = Storage(disk=Disk(folder="/tmp", memory_bytes=10**6))
    with pytest.raises(ConfigError, match=r"Disk\.memory_bytes of table 't'"):
        TableConfig(name="t", dim=2, storage=disk, admission=AdmitSketch(2))


def test_a_folder_is_looked_for_when_the_table_is_opened(tmp_path: Path) -> None:
    config = replace(PLAIN, storage=Storage(disk=Disk(folder=str(tmp_path / "none"), memory_bytes=10**8)))
    with pytest.raises(ConfigError, match=r"Disk\.folder of table 't'"):
        open_table(config)
    assert len(ReferenceTable(config)) == 0  # the specification holds all rows in memory and needs no folder


def test_a_rule_without_native_form_is_refused(tmp_path: Path) -> None:
    class OwnInit:
        def __call__(self, key: int, ids: object, dim: int) -> object:
            raise NotImplementedError

    disk = Storage(disk=Disk(folder=str(tmp_path), memory_bytes=10**8))
    with pytest.raises(ConfigError, match=r"Storage\.disk of table 't'"):
        open_table(TableConfig(name="t", dim=2, init=OwnInit(), storage=disk))


def test_a_small_table_never_touches_the_disk(tmp_path: Path) -> None:
    table = tiered(tmp_path, 10**7)
    learn(table, torch.arange(ROWS))
    tier = tier_of(table)
    assert (tier.hot_rows, tier.cold_rows, tier.disk_bytes) == (ROWS, 0, 0)
    assert (tier.hits, tier.misses, tier.hit_rate) == (0, 0, 1.0)
    learn(table, torch.arange(100))
    assert tier_of(table).hits == 100
    assert open_table(PLAIN).stats().tier is None


def test_memory_stays_within_its_budget_and_rows_are_the_same(tmp_path: Path) -> None:
    table, plain = tiered(tmp_path), open_table(PLAIN)
    assert isinstance(plain, NativeTable)
    budget = table.config.storage.disk.memory_bytes  # type: ignore[union-attr]
    draw = torch.Generator().manual_seed(3)
    for step in range(30):
        ids = torch.unique((torch.rand(1500, generator=draw) ** 3 * ROWS).long())
        for one in (table, plain):
            learn(one, ids, step)
        assert tier_of(table).memory_bytes <= budget
    stats, tier = table.stats(), tier_of(table)
    assert stats.tier == tier
    assert stats.bytes >= tier.memory_bytes + tier.cold_rows * (64 + 20)
    assert tier.hot_rows + tier.cold_rows == len(plain)
    assert tier.cold_rows > 2 * tier.hot_rows > 300
    assert 0.2 < tier.hit_rate < 1.0
    assert tier.promoted > 0
    assert not os.listdir(tmp_path)  # the file has no name: nothing is left behind, whatever happens
    for name, value in plain.state().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, table.state()[name]), name  # type: ignore[arg-type]


def test_what_is_learned_most_is_in_memory(tmp_path: Path) -> None:
    table = tiered(tmp_path)
    learn(table, torch.arange(ROWS))
    often = torch.arange(5000, 5200)
    for step in range(30):
        learn(table, often)
        learn(table, torch.arange(step * 150, step * 150 + 150))
    before = tier_of(table)
    learn(table, often)
    assert tier_of(table).hits - before.hits >= 190


def test_counts_warm_a_restored_table(tmp_path: Path) -> None:
    source, table = open_table(PLAIN), tiered(tmp_path)
    assert isinstance(source, NativeTable)
    learn(source, torch.arange(ROWS))
    table.restore(source.state())
    often = torch.arange(4000, 4200)
    mark, moved = table.mark(), table.warm(torch.cat([often, torch.tensor([-5])]), torch.full((201,), 9))
    assert 150 <= moved <= 200  # some were there already
    assert table.mark() == mark
    learn(table, often)
    assert tier_of(table).hits == 200
    with pytest.raises(StoreError, match="count"):
        table.warm(torch.tensor([1]), torch.tensor([0]))
    assert source.warm(often, torch.ones_like(often)) == 0


def test_a_budget_that_ids_alone_fill_refuses_the_step_and_says_so(tmp_path: Path) -> None:
    table, step = tiered(tmp_path, 100_000), 0
    with pytest.raises(CapacityError, match="Raise memory_bytes"):
        for step in range(200):
            learn(table, torch.arange(500 * step, 500 * (step + 1)))
    assert step > 3
    assert (table.mark(), len(table)) == (step, 500 * step)
    learn(table, torch.arange(500))


def test_a_collection_names_the_table_that_is_full(tmp_path: Path) -> None:
    full = tiered(tmp_path, 100_000, TableConfig(name="full", dim=8))
    collection = EmbeddingCollection({"full": full}, [FeatureLookup(feature="f", table="full")])
    with pytest.raises(CapacityError, match="Table 'full'"):
        for step in range(100):
            ids = torch.arange(500 * step, 500 * (step + 1))
            zeros, numbers = torch.zeros(500), torch.zeros(500, dtype=torch.int64)
            batch = Batch(
                ids={"f": Jagged(ids, torch.arange(501))}, dense=zeros[:, None], labels=zeros, weights=zeros,
                event_times=numbers, accepted_times=numbers, example_ids=numbers, predictions=zeros, versions=numbers,
                sample_rates=zeros,
            )  # fmt: skip
            collection.fetch_ahead(batch)
            collection(batch)["f"].sum().backward()
            collection.apply_gradients(batch)


def test_checkpoints_do_not_depend_on_tiers(tmp_path: Path) -> None:
    config = replace(PLAIN, admission=AdmitCount(2))
    budget = 500_000  # ids that wait for admission take memory too
    table, plain = tiered(tmp_path, budget, config), open_table(config)
    for ids in (torch.arange(ROWS), torch.arange(0, ROWS, 2)):
        learn(table, ids, 7)
    saving = begin_save(table, tmp_path / "table")
    learn(table, torch.arange(500), 9)  # it goes on meanwhile
    saving.wait()
    load_table(plain, tmp_path / "table")
    assert len(plain) == ROWS // 2
    again = tiered(tmp_path, 150_000, config)
    load_table(again, tmp_path / "table")
    ids = torch.arange(ROWS)
    assert torch.equal(plain.lookup(ids), again.lookup(ids))
    assert tier_of(again).cold_rows > 0


def test_expiry_gives_memory_back(tmp_path: Path) -> None:
    table = tiered(tmp_path)
    learn(table, torch.arange(ROWS), time=10)
    learn(table, torch.arange(200), time=20)
    assert table.evict(15) == ROWS - 200
    table.forget(table.mark())
    learn(table, torch.arange(200), time=21)
    assert (tier_of(table).cold_rows, len(table)) == (0, 200)


def test_a_table_that_serves_may_have_tiers(tmp_path: Path) -> None:
    disk = Storage(disk=Disk(folder=str(tmp_path), memory_bytes=memory_for(PLAIN, ROWS, 0.0)))
    table = open_table(replace(PLAIN, storage=disk), serving=True)
    assert isinstance(table, NativeTable)
    ids = torch.arange(ROWS)
    rows = torch.arange(ROWS * 8).float().reshape(ROWS, 8)
    table.assign(ids, rows)
    assert tier_of(table).cold_rows > 0
    assert torch.equal(table.lookup(ids), rows)
    table.release_pages()
    assert torch.equal(table.lookup(ids), rows)
