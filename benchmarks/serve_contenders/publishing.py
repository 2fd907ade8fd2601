"""The publisher of new versions while a server is measured: a process of its own, as in production.

    python -m serve_contenders.publishing FOLDER ROWS ROWS_OF_A_VERSION VERSIONS_PER_S

It says that it is ready, and publishes until its standard input ends.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from headrace.online import RunFolder, open_log
from headrace.online.layout import CHANGES
from headrace.publish import LogPublisher
from headrace.runtime import step_back
from headrace.types import Change, RowChange, Version
from serve_contenders import model
from serve_contenders.processes import BENCHMARKS, ServerFailed

NICENESS = 10
"""What `headrace run --role publisher` steps back by."""


@contextmanager
def publishing(folder: Path, rows: int, changed: int, per_s: float) -> Iterator[None]:
    """Publish versions of a run for the length of the block."""
    words = [sys.executable, "-m", "serve_contenders.publishing", str(folder), str(rows), str(changed), str(per_s)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *filter(None, sys.path)])}
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
                               env=variables)  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if not process.stdout.readline():  # it is ready
            raise ServerFailed("the publisher did not start")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise ServerFailed("the publisher did not end within 60 s") from error
        finally:
            process.stdout.close()


def _rows_change(places: np.ndarray, seed: int) -> RowChange:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(places), model.DIM, generator=draw) * 0.05
    return RowChange(torch.from_numpy(places.astype(np.int64)), rows, torch.zeros(0, dtype=torch.int64))


def main(folder: Path, rows: int, changed: int, per_s: float) -> None:
    """Publish until the input ends."""
    torch.set_num_threads(1)
    step_back(NICENESS)
    run = RunFolder(folder)
    publisher = LogPublisher(open_log(model.ranker(), run, CHANGES), run.snapshots, snapshot_every=1000)
    draw = np.random.default_rng(5)
    places = np.sort(np.stack([draw.choice(rows, size=max(changed // model.FEATURES, 1), replace=False)
                               for _ in range(16)]), axis=1)  # fmt: skip
    made = [_rows_change(some, number) for number, some in enumerate(places)]
    dense = model.dense()
    print("ready", flush=True)
    number, due = publisher.last().number + 1, time.monotonic()
    while not select.select([sys.stdin], [], [], max(due - time.monotonic(), 0))[0]:
        publisher.publish(Change(version=Version(number, number - 1), dense=dense,
                                 tables=dict.fromkeys(model.NAMES, made[number % len(made)])))  # fmt: skip
        number += 1
        due += 1.0 / per_s


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
