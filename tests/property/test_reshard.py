"""N -> M -> N shards gives the files one began with; and shards hold together what one table would."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.store import Adagrad, AdmitCount, ReferenceTable, TableConfig
from headrace.store.admission import Admission, AdmitAll, AdmitSketch
from headrace.store.shards import owns, reshard
from headrace.store.storage import Storage
from headrace.store.table import load_native
from headrace.store.table_files import TableFile, load_table, save_table

pytestmark = pytest.mark.skipif(not hasattr(load_native(), "TableFileReader"), reason="native module not built")
ADMISSIONS: list[Admission] = [AdmitAll(), AdmitCount(3), AdmitSketch(3, cells_per_bucket=8)]
SHARDS = st.integers(1, 7)
STEPS = st.lists(
    st.tuples(st.sampled_from(["update", "update", "update", "remove", "assign", "evict"]), st.integers(0, 2**32)),
    max_size=8,
)  # fmt: skip


def config_of(admission: Admission) -> TableConfig:
    return TableConfig(name="t", dim=2, rule=Adagrad(), admission=admission, storage=Storage(max_bytes=1 << 24))


def act(table: ReferenceTable, what: str, seed: int, now: int, shard: int, shards: int) -> None:
    """Do with the shard's ids what is done with the ids of a whole table."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.unique(torch.randint(-40, 40, (30,), generator=generator))
    rows = torch.randn(len(ids), 2, generator=generator)
    counts = torch.randint(1, 4, (len(ids),), generator=generator)
    mine = torch.from_numpy(owns(ids.numpy(), shard, shards))
    ids, rows, counts = ids[mine], rows[mine], counts[mine]
    times = torch.full_like(ids, now)
    if what == "update":
        table.update(ids, rows, counts, times)
    elif what == "assign":
        table.assign(ids, rows, times)
    elif what == "remove":
        table.remove(ids[ids % 3 == 0])
    else:
        table.evict(now - 2)


def grown(folder: Path, admission: Admission, steps: list[tuple[str, int]], shards: int) -> list[Path]:
    """Return the files of a table in so many shards: each sees every step, with its own ids."""
    paths = []
    for shard in range(shards):
        table = ReferenceTable(config_of(admission))
        for now, (what, seed) in enumerate(steps):
            act(table, what, seed, now, shard, shards)
        paths.append(folder / f"grown{shards}.{shard}")
        save_table(table, paths[-1], shard=(shard, shards))
    return paths


def moved(folder: Path, name: str, sources: list[Path], shards: int) -> list[Path]:
    files = reshard(sources, [folder / f"{name}.{shard}" for shard in range(shards)])
    assert [file.shard for file in files] == [(shard, shards) for shard in range(shards)]
    return [file.path for file in files]


def union(admission: Admission, paths: list[Path]) -> dict[str, object]:
    """Return what the shards hold together, by id."""
    found: dict[str, object] = {"sketch": np.zeros(0, np.uint8), "admitted": 0, "filtered": 0, "evicted": 0}
    for path in paths:
        table = ReferenceTable(config_of(admission))
        load_table(table, path)
        state = table.state()
        for group, others in {
            "ids": ("rows", "slots", "times", "frequencies"),
            "pending_ids": ("pending_counts", "pending_times"),
        }.items():
            for place, one in enumerate(state[group].tolist()):
                assert (group, one) not in found
                found[group, one] = [state[name][place].tolist() for name in others]
        for name in ("admitted", "filtered", "evicted"):
            found[name] += state[name]
        sketch = state["sketch"].numpy()
        found["sketch"] = sketch if not len(found["sketch"]) else found["sketch"] + sketch
    found["sketch"] = found["sketch"].tobytes()
    return found


def contents(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(admission=st.sampled_from(ADMISSIONS), steps=STEPS, n=SHARDS, m=SHARDS)
def test_there_and_back_is_the_same(admission: Admission, steps: list[tuple[str, int]], n: int, m: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grown_in_n = grown(folder, admission, steps, n)
        first = moved(folder, "first", grown_in_n, n)
        away = moved(folder, "away", first, m)
        back = moved(folder, "back", away, n)
        assert contents(first) == contents(back)
        expected = union(admission, grown_in_n)
        for paths in (first, away, back):
            assert union(admission, paths) == expected


@settings(max_examples=10, deadline=None, derandomize=True)
@given(admission=st.sampled_from(ADMISSIONS), steps=STEPS, n=SHARDS, m=SHARDS)
def test_shards_hold_what_one_table_holds(admission: Admission, steps: list[tuple[str, int]], n: int, m: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, parts = grown(folder, admission, steps, 1), grown(folder, admission, steps, n)
        assert contents(moved(folder, "one", whole, m)) == contents(moved(folder, "other", parts, m))


def test_increments_move_as_the_table_they_make(tmp_path: Path) -> None:
    table = ReferenceTable(config_of(AdmitCount(3)))
    chain: list[TableFile] = []
    for now in range(4):
        act(table, "update", now, now, 0, 1)
        act(table, "remove", now, now, 0, 1)
        chain.append(save_table(table, tmp_path / f"step{now}", since=chain[-1] if chain else None))
    full = save_table(table, tmp_path / "full")
    reshard([[file.path for file in chain]], [tmp_path / "a0", tmp_path / "a1"])
    reshard([full.path], [tmp_path / "b0", tmp_path / "b1"])
    assert contents([tmp_path / "a0", tmp_path / "a1"]) == contents([tmp_path / "b0", tmp_path / "b1"])
