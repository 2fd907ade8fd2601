"""Memory of a table whose ids come and go: it stays where the first fill left it, and shrinks when the table does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.store.table import load_native

pytestmark = [
    pytest.mark.skipif(load_native() is None, reason="the native module is not built"),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"),
]

# Ids are mixed numbers, so that no two runs of them lie together; one step is one second of event time.
WALK = """
import ctypes, json, os, sys
import numpy as np, torch
from headrace.store import AdmitCount, Expiry, NativeTable, Storage, TableConfig
from headrace.store.hashing import mix64

torch.set_num_threads(1)
wanted = json.loads(sys.argv[1])
rows, step, dim = wanted["rows"], wanted["rows"] // 40, 16
ttl = 40.0 if wanted["expiry"] else None
admission = {"admission": AdmitCount(2)} if wanted["count"] else {}
storage = Storage(max_bytes=wanted["max_bytes"])
table = NativeTable(TableConfig(name="t", dim=dim, ttl_s=ttl, storage=storage, **admission))
expiry = Expiry({"t": table})
grads = torch.ones(step, dim)
ones = torch.full((step,), 2)
seldom = torch.ones(step, dtype=torch.int64)
times = torch.zeros(step, dtype=torch.int64)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def ids_from(first):
    numbers = np.arange(first, first + step, dtype=np.uint64)
    return torch.from_numpy(mix64(numbers).view(np.int64))

def second(number):
    times.fill_(number * 1_000_000)
    table.update(ids_from(number * step), grads, ones, times)
    if wanted["count"]:
        table.update(ids_from(2**62 + number * step), grads, seldom, times)
    expiry.advance(number * 1_000_000)
    table.forget(table.mark())

before, sizes, bytes_, held = resident(), [], [], []
for number in range(40 * (wanted["times"] + 1)):
    second(number)
    if number >= 44:  # the first rows have expired
        sizes.append(resident() - before)
        bytes_.append(table.stats().bytes)
        held.append(table.stats().rows)
full = resident() - before
ids = table.rows().ids
table.remove(ids[len(ids) // 10 :])
del ids
table.forget(table.mark())
for number in range(40 * (wanted["times"] + 1), 40 * (wanted["times"] + 1) + 3):
    times.fill_(number * 1_000_000)
    table.update(ids_from(2**61)[:1], grads[:1], ones[:1], times[:1])
ctypes.CDLL(None).malloc_trim(0) if hasattr(ctypes.CDLL(None), "malloc_trim") else None
print(json.dumps({"sizes": sizes, "bytes": bytes_, "rows": held, "full": full, "after": resident() - before,
                  "left": table.stats().rows, "left_bytes": table.stats().bytes}))
"""


def walk(rows: int, times: int, max_bytes: int | None = None, expiry: bool = True, count: bool = False) -> Any:
    """Bring `times` times as many new ids as the table holds, in a process of its own; return what it measured."""
    wanted = {"rows": rows, "times": times, "max_bytes": max_bytes, "expiry": expiry, "count": count}
    answer = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps(wanted)], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def check(found: Any, rows: int) -> None:
    """Assert that memory stayed within 5 % of where the first fill left it, and was given back afterwards."""
    first = found["sizes"][0]
    assert min(found["rows"]) > rows * 0.6
    assert max(found["sizes"]) <= first * 1.05, (first, max(found["sizes"]))
    assert max(found["bytes"]) <= found["bytes"][0] * 1.05
    assert max(found["sizes"]) <= max(found["bytes"]) * 1.1 + (4 << 20)  # what it says of itself is what it takes
    assert found["left"] <= max(found["rows"]) // 10 + 2
    assert found["left_bytes"] < found["bytes"][-1] * 0.35, (found["left_bytes"], found["bytes"][-1])
    assert found["after"] < found["full"] * 0.5, (found["after"], found["full"])


def test_ten_times_the_rows_in_new_ids_take_no_more_memory_where_rows_expire() -> None:
    check(walk(200_000, 10), 200_000)


def test_the_same_where_ids_wait_for_admission() -> None:
    check(walk(100_000, 10, count=True), 100_000)


def test_the_same_in_a_table_that_is_always_full() -> None:
    budget = 20_000_000
    found = walk(100_000, 10, max_bytes=budget, expiry=False)
    check(found, 75_000)
    assert max(found["bytes"]) <= budget
    assert max(found["sizes"]) <= budget * 1.05 + (4 << 20)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("max_bytes", [None, 400_000_000])
def test_two_million_rows_and_twenty_million_ids_take_no_more_memory(max_bytes: int | None) -> None:
    check(walk(2_000_000, 10, max_bytes=max_bytes, count=max_bytes is None), 1_500_000)
