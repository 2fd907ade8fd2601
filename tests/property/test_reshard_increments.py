"""A full file and its increments are the table at their end, whatever it did: both kinds, full tables included."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.store import Adagrad, AdmitCount, NativeTable, ReferenceTable, TableConfig
from headrace.store.admission import Admission, AdmitAll, AdmitSketch
from headrace.store.checked import CheckedTable
from headrace.store.storage import LFU, LRU, Storage
from headrace.store.table import load_native
from headrace.store.table_files import TableFile, load_table, save_table

pytestmark = pytest.mark.skipif(not hasattr(load_native(), "TableFileReader"), reason="native module not built")
KINDS = [
    ReferenceTable,
    pytest.param(
        NativeTable, marks=pytest.mark.skipif(not hasattr(NativeTable, "_begin_save"), reason="no native save yet")
    ),
]
ADMISSIONS: list[Admission] = [AdmitAll(), AdmitCount(3), AdmitSketch(3, cells_per_bucket=8)]
STORAGES = [Storage(), Storage(max_bytes=1 << 24, when_full=LFU()), Storage(max_bytes=1 << 24, when_full=LRU())]
CAPACITY = 24
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["update", "update", "update", "remove", "assign", "evict", "clear", "save", "save", "forget"]),
        st.integers(0, 2**32),
    ),
    min_size=2, max_size=30,
)  # fmt: skip


def act(table: CheckedTable, what: str, seed: int, now: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.unique(torch.randint(-25, 25, (9,), generator=generator))
    rows = torch.randn(len(ids), 2, generator=generator)
    if what == "update":
        table.update(ids, rows, torch.randint(1, 4, (len(ids),), generator=generator), torch.full_like(ids, now))
    elif what == "assign":
        table.assign(ids, rows, torch.full_like(ids, now))
    elif what == "remove":
        table.remove(ids)
    elif what == "evict":
        table.evict(now - 3)
    else:
        table.clear()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(admission=st.sampled_from(ADMISSIONS), storage=st.sampled_from(STORAGES), steps=STEPS)
def test_a_chain_is_the_table(
    kind: type[CheckedTable], admission: Admission, storage: Storage, steps: list[tuple[str, int]]
) -> None:
    config = TableConfig(name="t", dim=2, rule=Adagrad(), admission=admission, storage=storage)
    table, other = kind(config, _capacity=CAPACITY), kind(config, _capacity=CAPACITY)
    chain: list[TableFile] = []
    with tempfile.TemporaryDirectory() as name:
        for now, (what, seed) in enumerate([*steps, ("save", 0)]):
            if what == "save":
                chain.append(save_table(table, Path(name) / str(now), since=chain[-1] if chain else None))
            elif what == "forget":
                table.forget(chain[-1].mark if chain else 0)
            else:
                act(table, what, seed, now)
        load_table(other, [file.path for file in chain])
    expected, found = table.state(), other.state()
    for field, value in expected.items():
        same = torch.equal(value, found[field]) if isinstance(value, torch.Tensor) else value == found[field]
        assert same, (field, value, found[field])
