"""A process whose cold rows lie in a file is killed: nothing of the file stays, and its last table file is whole."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from headrace.store import Disk, NativeTable, Storage, TableConfig, load_table, memory_for, open_table
from headrace.store.table import load_native

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

ROWS = 8000
CHILD = """
import sys, torch
from headrace.store import Disk, Storage, TableConfig, memory_for, open_table, save_table
folder, rows = sys.argv[1], int(sys.argv[2])
plain = TableConfig(name="t", dim=8)
disk = Disk(folder=folder, memory_bytes=memory_for(plain, rows, 0.0))
table = open_table(TableConfig(name="t", dim=8, storage=Storage(disk=disk)))
ids = torch.arange(rows)
for step in range(1, 10_000):
    table.assign(ids, torch.full((rows, 8), float(step)))
    save_table(table, folder + "/table")
    print(table.tier().cold_rows, flush=True)
"""


def test_a_killed_process_leaves_no_cold_rows_and_a_whole_table_file(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(ROWS)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    cold = [int(child.stdout.readline()) for _ in range(3)]
    time.sleep(0.01)
    child.kill()
    child.wait(30)
    child.stdout.close()
    assert min(cold) > ROWS // 2
    assert all("table" in path.name for path in tmp_path.iterdir())  # it, and perhaps its half-written next
    plain = TableConfig(name="t", dim=8)
    disk = Disk(folder=str(tmp_path), memory_bytes=memory_for(plain, ROWS, 0.0))
    for config in (plain, TableConfig(name="t", dim=8, storage=Storage(disk=disk))):
        table = open_table(config)
        assert isinstance(table, NativeTable)
        load_table(table, tmp_path / "table")
        rows = table.lookup(torch.arange(ROWS))
        assert bool((rows == rows[0, 0]).all())  # all of one moment
        assert float(rows[0, 0]) >= 3.0
