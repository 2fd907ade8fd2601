"""Headrace prepares a file, then reads it as batches: `python ours.py FILE FOLDER PROCESSES MIN_COUNT RESULT`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pyarrow as pa
import torch

from headrace.data import Examples, PreparedData, prepare
from headrace.data.datasets import criteo
from headrace.data.layout import Layout

BATCH_ROWS = 4096


def batches_s(data: PreparedData, seed: int | None) -> float:
    """Return the seconds that one pass over all batches takes."""
    start = time.perf_counter()
    rows = sum(len(batch) for batch in data.batches("train", BATCH_ROWS, seed=seed))
    assert rows == data.rows("train")
    return time.perf_counter() - start


def main() -> None:
    """Measure and write."""
    file, folder, processes, min_count, result = sys.argv[1:]
    pa.set_cpu_count(1)
    torch.set_num_threads(1)
    types = {"label": "float32", **dict.fromkeys(criteo.INTEGERS, "float32")}
    rows = Examples(name="criteo", paths=(Path(file),), layout=Layout(format="csv", types=types))
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    data = prepare(rows, criteo.preparation(min_count=int(min_count)), folder, processes=int(processes))
    seconds = time.perf_counter() - start
    sizes = {name: data.statistics.vocabulary_size(name) - 3 for name in criteo.CATEGORIES}
    measured = {"prepare_s": seconds, "rows": data.rows("train"), "values": sizes, "in_order_s": batches_s(data, None),
                "shuffled_s": batches_s(data, 0)}  # fmt: skip
    Path(result).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
