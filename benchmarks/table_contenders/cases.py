"""Who is measured on what: contenders, cases, and how much time each way of running the benchmark takes."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from table_contenders.process import BENCHMARKS, Process
from table_contenders.workload import Work

PEERS = BENCHMARKS.parent / "build" / "peers"
PEER_PYTHON = PEERS / "env" / "bin" / "python"
"""Interpreter of the environment that `scripts/peers.sh` makes; the product's own is never changed."""


@dataclass(frozen=True)
class Entry:
    """A contender and its options.

    Attributes:
        name: As it is printed.
        module: File in this folder.
        options: What it is told.
        needs: Package of the peers' environment that it runs in; empty: it runs in the product's.
        tolerance: By how much its rows may differ from the first contender's when both have learned the same.
    """

    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    tolerance: float = 1e-5

    def start(self, folder: Path, threads: int) -> Process:
        """Start the process and wait until it is filled."""
        python = str(PEER_PYTHON) if self.needs else sys.executable
        return Process(self.module, folder, python=python, threads=threads, **self.options)

    @property
    def there(self) -> bool:
        """Whether it can run here."""
        if self.module == "plain_array":
            return shutil.which(os.environ.get("CXX", "g++")) is not None
        return not self.needs or any(PEERS.glob(f"env/lib/python*/site-packages/{self.needs}"))


OURS = Entry("ours", "ours", {"storage": "plain"})
OURS_FULL = Entry("ours, full", "ours", {"storage": "full"})
BOUND = Entry("bound", "plain_array")
TORCH_TABLES = Entry("torch, 26 tables", "torch_embedding", {"layout": "tables", "rule": "adagrad"})
TORCH_ONE = Entry("torch, one table", "torch_embedding", {"layout": "one", "rule": "adagrad"})
FBGEMM_SUM = Entry("fbgemm, pooled", "fbgemm", {"rule": "adagrad", "pooling": "sum"}, "fbgemm_gpu")
FBGEMM_NONE = Entry("fbgemm, not pooled", "fbgemm", {"rule": "adagrad", "pooling": "none"}, "fbgemm_gpu")
COLLISIONS = Entry("torchrec mch + fbgemm", "torchrec_collisions", {"rule": "adagrad", "pooling": "sum"}, "torchrec")

TORCH, FBGEMM = (TORCH_TABLES, TORCH_ONE), (FBGEMM_SUM, FBGEMM_NONE)
"""Ways of writing a peer; the fastest one is the peer."""

OTHER_RULES = {
    "adam": (Entry("ours, adam", "ours", {"storage": "plain", "rule": "adam"}),
             Entry("torch, SparseAdam", "torch_embedding", {"layout": "one", "rule": "adam"}, tolerance=math.inf)),
    "rowwise_adagrad": (Entry("ours, row-wise", "ours", {"storage": "plain", "rule": "rowwise_adagrad"}),
                        Entry("fbgemm, row-wise", "fbgemm", {"rule": "rowwise_adagrad", "pooling": "sum"},
                              "fbgemm_gpu", tolerance=math.inf)),
}  # fmt: skip
"""Ours and the peer under another row rule, for information. The peers' bias correction and sums are not ours."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        main: The case that the goals are for.
        rounds: Rounds of the main case.
        steps: Steps per block, of each kind.
        left_out: Names of contenders that do not take part.
        together: Whether contenders stay resident beside each other (small tables) or one at a time.
        others: More cases by name, each for `other_rounds` rounds; without goals.
        overhead_rows: Rows at the start of the doubling.
        growth: Rows at the start of the doubling, and ids per insert.
        snapshot_rows: Rows of the table that is saved.
    """

    main: Work
    rounds: int
    steps: int
    together: bool = False
    left_out: tuple[str, ...] = ()
    others: Mapping[str, Work] = field(default_factory=dict)
    other_rounds: int = 3
    overhead_rows: int = 1_000_000
    growth: tuple[int, int] = (4_000_000, 1024)
    snapshot_rows: int = 5_000_000

    def there(self, *entries: Entry) -> list[Entry]:
        """Return who of them can run and takes part."""
        return [entry for entry in entries if entry.there and entry.name not in self.left_out]


def plan(size: str) -> Plan:
    """Return the plan `tiny` (for tests), `quick`, `standard` or `full`."""
    slow = (FBGEMM_NONE.name, COLLISIONS.name)
    if size == "tiny":
        return Plan(
            main=Work(rows=26_000, batch=256, batches=6), rounds=2, steps=3, together=True,
            left_out=(TORCH_TABLES.name, FBGEMM_SUM.name, *slow), overhead_rows=8_000, growth=(4_000, 64),
            snapshot_rows=8_000,
        )  # fmt: skip
    if size == "quick":
        return Plan(
            main=Work(rows=2_600_000, batches=16), rounds=6, steps=6, together=True, left_out=slow,
            growth=(500_000, 512), snapshot_rows=1_000_000,
        )  # fmt: skip
    others = dict(_others()) if size == "full" else {}
    return Plan(main=Work(rows=26_000_000), rounds=7, steps=40, others=others)


def _others() -> Iterator[tuple[str, Work]]:
    for rows in (1_000_000, 5_000_000, 26_000_000):
        for skew in (1.05, 1.1, 0.0):
            if (rows, skew) != (26_000_000, 1.1):
                yield f"{rows // 1_000_000} M rows, {f'Zipf {skew}' if skew else 'uniform'}", Work(rows=rows, skew=skew)
    for dim in (8, 32, 64):
        yield f"5 M rows, dim {dim}", Work(rows=5_000_000, dim=dim, batches=24)
    yield "5 M rows, batch 512", Work(rows=5_000_000, batch=512, batches=256)
    yield "5 M rows, batch 65536", Work(rows=5_000_000, batch=65_536, batches=8)
