"""Headrace's memory, growth and snapshots: one table in a process of its own, asked like a contender.

    python -m table_contenders.ours_storage FOLDER OPTIONS

FOLDER is where snapshots go: on the disk that is measured beside them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from headrace.store import open_table, save_table
from headrace.store.checked import CheckedTable
from table_contenders.ours import FILL, NOW, config
from table_contenders.protocol import Answer, answer_pipe
from table_contenders.workload import scrambled

SAMPLES = 32
"""Sizes within one doubling at which memory is read."""
DISK_BLOCK = 8 << 20

Result = TypeVar("Result")


def ids_of(start: int, stop: int) -> Tensor:
    """Return arbitrary int64, the same for the same numbers."""
    return torch.from_numpy(scrambled(np.arange(start, stop), 0))


def insert(table: CheckedTable, start: int, stop: int) -> None:
    """Give rows to the ids of these numbers."""
    for at in range(start, stop, FILL):
        end = min(at + FILL, stop)
        rows = torch.full((end - at, table.config.dim), 0.01)
        table.assign(ids_of(at, end), rows, torch.full((end - at,), NOW))


def learn(table: CheckedTable, ids: Tensor) -> None:
    """Update rows, inserting those that are absent."""
    grads = torch.full((len(ids), table.config.dim), 0.01)
    table.update(ids, grads, torch.ones(len(ids), dtype=torch.int64), torch.full((len(ids),), NOW))


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def overhead(rows: int, dim: int, storage: str) -> Answer:
    """Return bytes beyond rows and slots per id, the mean over sizes from `rows` to twice as many.

    `bytes_per_id` is from the table's own count, `resident_per_id` from the process's memory, as a check.
    """
    before = resident_bytes()
    made = config("memory", dim, rows, {"storage": storage})
    table = open_table(made)
    payload = 4 * (dim + made.rule.slot_count(dim))
    counted, resident, size = [], [], 0
    for number in range(SAMPLES + 1):
        target = rows + rows * number // SAMPLES
        insert(table, size, target)
        size = target
        if len(table) != size:
            raise RuntimeError(f"{len(table)} rows where {size} were assigned")
        counted.append(table.stats().bytes / size - payload)
        resident.append((resident_bytes() - before) / size - payload)
    return {"bytes_per_id": float(np.mean(counted)), "resident_per_id": float(np.mean(resident))}


def growth(rows: int, batch: int, dim: int, storage: str) -> Answer:
    """Return the seconds of every insert of `batch` ids that are new, from `rows` rows to twice as many."""
    table = open_table(config("growth", dim, rows, {"storage": storage}))
    insert(table, 0, rows)
    batches = [ids_of(at, at + batch) for at in range(rows, 2 * rows, batch)]
    learn(table, ids_of(0, batch))
    seconds = []
    for ids in batches:
        before = time.perf_counter()
        learn(table, ids)
        seconds.append(time.perf_counter() - before)
    return {"seconds": seconds}


class Snapshots:
    """A table whose snapshots are timed beside plain writes of as many bytes."""

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        self._folder, self._rows, self._round = folder, rows, 0
        self._block = np.random.default_rng(1).bytes(DISK_BLOCK)
        self._table = open_table(config("snapshot", dim, rows, {"storage": "default"}))
        insert(self._table, 0, rows)

    def measure(self, share: float) -> Answer:
        """Time a full snapshot, the disk, and an incremental snapshot after `share` of the rows was touched."""
        path = self._folder / "table"
        full_s, full = _timed(lambda: save_table(self._table, path))
        path.unlink()
        disk_s, _ = _timed(lambda: _write(path, full.bytes, self._block))
        path.unlink()
        random = np.random.default_rng(self._round)
        self._round += 1
        touched = random.choice(self._rows, max(1, int(self._rows * share)), replace=False)
        learn(self._table, torch.from_numpy(scrambled(touched, 0)))
        change_s, change = _timed(lambda: save_table(self._table, path, since=full))
        path.unlink()
        return {"full_s": full_s, "full_bytes": full.bytes, "disk_s": disk_s, "change_s": change_s,
                "change_bytes": change.bytes}  # fmt: skip


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    before = time.perf_counter()
    result = work()
    return time.perf_counter() - before, result


def _write(path: Path, size: int, block: bytes) -> None:
    """Write so many bytes one behind another and wait until they are on the disk."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, len(block)):
            file.write(block[: min(len(block), size - start)])
        os.fsync(file.fileno())


def main() -> None:
    """Answer until the input ends."""
    answers, folder = answer_pipe(), Path(sys.argv[1])
    torch.set_num_threads(json.loads(sys.argv[2])["threads"])
    answers({})
    snapshots: Snapshots | None = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "overhead":
            answers(overhead(**request))
        elif do == "growth":
            answers(growth(**request))
        elif do == "open":
            snapshots = Snapshots(folder, **request)
            answers({})
        elif do == "snapshot" and snapshots is not None:
            answers(snapshots.measure(**request))
        else:
            raise ValueError(f"unknown request '{do}'")


if __name__ == "__main__":
    main()
