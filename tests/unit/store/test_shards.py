from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, CorruptSnapshot, RowRuleMismatch, StoreError
from headrace.store import ReferenceTable, TableConfig
from headrace.store.shards import BUCKETS, bucket_of, owns, reshard, shard_of
from headrace.store.storage import Storage
from headrace.store.table import load_native
from headrace.store.table_files import TableFile, inspect_table_file, load_table, save_table

needs_native = pytest.mark.skipif(not hasattr(load_native(), "TableFileReader"), reason="native module not built")
IDS = np.random.default_rng(0).integers(-(2**63), 2**63, 20_000)


def test_every_id_has_one_shard() -> None:
    for shards in (1, 2, 3, 7, 256, 4095, 4096):
        shard = shard_of(IDS, shards)
        assert shard.min() >= 0
        assert shard.max() < shards
        assert shard.tolist() == (bucket_of(IDS) * shards // BUCKETS).tolist()
        assert sum(owns(IDS, one, shards).sum() for one in range(min(shards, 7))) == (shard < 7).sum()
    assert np.bincount(shard_of(IDS, 4)).min() > 4700


@pytest.mark.parametrize("shards", [0, -1, 4097])
def test_there_are_at_least_one_and_at_most_4096_shards(shards: int) -> None:
    with pytest.raises(ConfigError, match="an integer from 1 to 4096"):
        shard_of(IDS, shards)


def saved(folder: Path, shards: int, name: str = "t", **more: object) -> list[Path]:
    paths = []
    for shard in range(shards):
        table = ReferenceTable(TableConfig(name=name, dim=2, **more))  # type: ignore[arg-type]
        ids = torch.arange(300)
        ids = ids[torch.from_numpy(owns(ids.numpy(), shard, shards))]
        table.update(ids, torch.ones(len(ids), 2), torch.ones_like(ids), ids)
        for _ in range(shard):
            table.remove(ids[:1])
        paths.append(folder / f"{name}{shards}.{shard}")
        save_table(table, paths[-1], shard=(shard, shards))
    return paths


@needs_native
def test_targets_tell_what_they_are(tmp_path: Path) -> None:
    sources = saved(tmp_path, 3)
    targets = [tmp_path / "a", tmp_path / "b"]
    files = reshard(sources, targets)
    assert files == [inspect_table_file(path) for path in targets]
    assert [file.shard for file in files] == [(0, 2), (1, 2)]
    assert {file.mark for file in files} == {3}  # of the shard that went furthest
    assert sum(file.rows for file in files) == 298
    assert reshard([str(path) for path in sources], [tmp_path / "c", tmp_path / "d"])[0].digest == files[0].digest


@needs_native
def test_a_shard_goes_on_from_its_file(tmp_path: Path) -> None:
    files = reshard(saved(tmp_path, 2), [tmp_path / "whole"])
    table, other = ReferenceTable(TableConfig(name="t", dim=2)), ReferenceTable(TableConfig(name="t", dim=2))
    assert load_table(table, files[0].path) == files[0]
    assert len(table.changes(table.mark()).ids) == 0
    table.update(torch.tensor([5]), torch.ones(1, 2), torch.tensor([1]), torch.tensor([9]))
    step = save_table(table, tmp_path / "step", since=files[0])
    load_table(other, [files[0].path, step.path])
    assert torch.equal(table.rows().rows, other.rows().rows)


@needs_native
def test_lacking_and_doubled_shards_are_named(tmp_path: Path) -> None:
    three, target = saved(tmp_path, 3), [tmp_path / "target"]
    with pytest.raises(StoreError, match=r"bucket 1366 of 4096: got no file, expected one file"):
        reshard([three[0], three[2]], target)
    with pytest.raises(StoreError, match=r"bucket 0 .*t3\.0 \(shard 0 of 3\) and .*t3\.0 \(shard 0 of 3\)"):
        reshard([*three, three[0]], target)
    with pytest.raises(StoreError, match="bucket 0 of 4096: got no file"):
        reshard([], target)
    assert not target[0].exists()


@needs_native
def test_sources_must_be_of_one_table(tmp_path: Path) -> None:
    mine, strange = saved(tmp_path, 2), saved(tmp_path, 2, name="other")
    with pytest.raises(RowRuleMismatch, match='name: got "other", expected "t"'):
        reshard([mine[0], strange[1]], [tmp_path / "target"])
    folder = tmp_path / "half"
    folder.mkdir()
    half = saved(folder, 2, storage=Storage(precision="float16"))
    with pytest.raises(RowRuleMismatch, match="precision: got float16, expected float32"):
        reshard([mine[0], half[1]], [tmp_path / "target"])


@needs_native
def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    mine = saved(tmp_path, 2)
    folder = tmp_path / "bare"
    folder.mkdir()
    bare = saved(folder, 2, storage=Storage(history=False))
    with pytest.raises(StoreError, match=r"bare.t2\.1: got rows, or an increment, that do not fit"):
        reshard([mine[0], bare[1]], [tmp_path / "target"])
    with pytest.raises(StoreError, match="do not fit"):
        reshard([[mine[0], mine[0]], mine[1]], [tmp_path / "target"])


@needs_native
def test_damage_leaves_earlier_targets(tmp_path: Path) -> None:
    sources, targets = saved(tmp_path, 2), [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    files: list[TableFile] = reshard(sources, targets)
    good = sources[1].read_bytes()
    sources[1].write_bytes(good[:-200] + bytes([good[-200] ^ 1]) + good[-199:])
    with pytest.raises(CorruptSnapshot, match=r"t2\.1: got damage at byte"):
        reshard(sources, targets)
    assert [inspect_table_file(path) for path in targets] == files
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "t2.0", "t2.1"]


@needs_native
def test_targets_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    sources = saved(tmp_path, 2)
    with pytest.raises(StoreError, match=r"none.b: got No such file"):
        reshard(sources, [tmp_path / "a", tmp_path / "none" / "b"])
    with pytest.raises(ConfigError, match="a path twice"):
        reshard(sources, [tmp_path / "a", tmp_path / "a"])
    with pytest.raises(ConfigError, match="1 to 4096 files"):
        reshard(sources, [])
    assert sorted(os.listdir(tmp_path)) == ["t2.0", "t2.1"]
